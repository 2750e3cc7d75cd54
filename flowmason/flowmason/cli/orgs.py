"""`fm org`: the orgs of Studios that this user has signed in to."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flowmason.cli import console
from flowmason.cli.studio_org import Json

if TYPE_CHECKING:
    from flowmason.remote.orgs import Org

app = typer.Typer(no_args_is_help=True, help="Sign in to orgs of Studios, and list them.", rich_markup_mode=None)

_Alias = Annotated[str | None, typer.Argument(metavar="[ALIAS]", help="Default: the default org.")]


@app.command()
def login(
    alias: Annotated[str, typer.Option("--alias", "-a", metavar="ALIAS", help="How you will name the org.")],
    instance_url: Annotated[
        str, typer.Option("--instance-url", "-u", metavar="URL", help="Where the Studio answers.")
    ] = "http://127.0.0.1:8999",
    api_key: Annotated[
        str | None,
        typer.Option(
            "--api-key", "-k", envvar="FLOWMASON_API_KEY", metavar="KEY", help="Else it is asked for, unseen."
        ),
    ] = None,
    default: Annotated[bool, typer.Option("--default", "-d", help="Mean this org where none is named.")] = False,
    as_json: Json = False,
) -> None:
    """Sign in to an org with an API key, which the Studio is asked about before it is kept.

    The key goes into the system's keyring; where there is none, into a file that only you can read.

    Examples:
      fm org login -a local
      fm org login -a production -u https://studio.example.org --default
    """
    import getpass

    key = api_key or getpass.getpass("API key: ")
    kept = keep(alias, instance_url, key, default=default)
    if as_json:
        console.print_json(_shown(kept))
    else:
        console.say(f"signed in to {kept.name} as {kept.user} ({kept.alias}, key in the {kept.kept_in})")


@app.command()
def logout(
    alias: _Alias = None,
    every: Annotated[bool, typer.Option("--all", help="Forget all orgs.")] = False,
    as_json: Json = False,
) -> None:
    """Forget an org and its key here. The key itself still counts: `fm auth api-key revoke` ends it."""
    from flowmason.remote.orgs import ENVIRONMENT, OrgBook

    book = OrgBook(os.environ)
    named = [org.alias for org in book.all() if org.alias != ENVIRONMENT] if every else [book.get(alias).alias]
    for each in named:
        book.remove(each)
    if as_json:
        console.print_json({"removed": named})
    else:
        console.say(f"forgotten: {', '.join(named) or 'nothing'}")


@app.command("list")
def list_(as_json: Json = False) -> None:
    """List the orgs that are known here."""
    from flowmason.cli.tables import print_table
    from flowmason.remote.orgs import OrgBook

    book = OrgBook(os.environ)
    orgs, meant = book.all(), book.default()
    if as_json:
        items = [{**_shown(org), "default": org.alias == meant} for org in orgs]
        console.print_json({"items": items, "next_cursor": None})
        return
    rows = [["*" if org.alias == meant else "", org.alias, org.name, org.user, org.url] for org in orgs]
    print_table(("", "ALIAS", "ORG", "USER", "URL"), rows)
    if not rows:
        console.say("no orgs; `fm org login` signs in to one")


@app.command()
def default(alias: Annotated[str, typer.Argument(metavar="ALIAS")], as_json: Json = False) -> None:
    """Mean this org where none is named."""
    from flowmason.remote.orgs import OrgBook

    org = OrgBook(os.environ).make_default(alias)
    if as_json:
        console.print_json(_shown(org))
    else:
        console.say(f"{org.alias} is the default now")


@app.command()
def display(alias: _Alias = None, as_json: Json = False) -> None:
    """Show one org: where it is, and who you are there."""
    from flowmason.remote.orgs import OrgBook

    org = OrgBook(os.environ).get(alias)
    if as_json:
        console.print_json(_shown(org))
        return
    from flowmason.cli.tables import print_table

    print_table((), [[f"{name}:", str(value)] for name, value in _shown(org).items()])


def keep(alias: str, url: str, key: str, *, default: bool = False) -> Org:
    """Ask a Studio whose key it is, and keep org and key. Raises what the Studio refuses it with."""
    from flowmason.remote.client import StudioClient
    from flowmason.remote.orgs import Org, OrgBook

    with StudioClient(url, key) as client:
        me = client.get("/auth/whoami")
        org = Org(alias=alias, url=client.url, org_id=me["org_id"], name=me["org_name"], user=me["email"])
    return OrgBook(os.environ).add(org, key, default=default)


def _shown(org: Org) -> dict[str, Any]:
    import msgspec

    return msgspec.structs.asdict(org)
