"""`fm auth`: who one is in an org of a Studio, and its API keys."""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import quote

import typer

from flowmason.cli import console
from flowmason.cli.studio_org import Json, TargetOrg, client_of

app = typer.Typer(
    no_args_is_help=True, help="Who you are in a Studio: keys, sign-in, audit log.", rich_markup_mode=None
)
keys = typer.Typer(no_args_is_help=True, help="API keys.", rich_markup_mode=None)
app.add_typer(keys, name="api-key")

_Url = Annotated[str, typer.Option("--instance-url", "-u", metavar="URL", help="Where the Studio answers.")]
_Alias = Annotated[str, typer.Option("--alias", "-a", metavar="ALIAS", help="How you will name the org.")]
_KeyId = Annotated[str, typer.Argument(metavar="KEY_ID", help="`key_…`, as `fm auth api-key list` shows it.")]
_LOCAL = "http://127.0.0.1:8999"


@app.command()
def bootstrap(
    org_name: Annotated[str, typer.Option("--org-name", prompt="Name of the org", metavar="NAME")],
    email: Annotated[str, typer.Option("--email", prompt="Your e-mail address", metavar="ADDRESS")],
    name: Annotated[str, typer.Option("--name", prompt="Your name", metavar="NAME")],
    token: Annotated[
        str | None,
        typer.Option("--token", envvar="FLOWMASON_BOOTSTRAP_TOKEN", metavar="TOKEN", help="Else it is asked for."),
    ] = None,
    org_slug: Annotated[str | None, typer.Option("--org-slug", metavar="SLUG", help="Else made from the name.")] = None,
    password: Annotated[
        bool, typer.Option("--password", help="Ask for a password, too, so that you can sign in with it.")
    ] = False,
    instance_url: _Url = _LOCAL,
    alias: _Alias = "local",
    as_json: Json = False,
) -> None:
    """Make the first org of a Studio, with you as its owner, and sign in to it.

    `fm studio start` prints the token as long as there is no org. The API key is kept as `fm org login` keeps it.

    Examples:
      fm auth bootstrap --org-name Engines --email ada@example.org --name Ada
    """
    import getpass
    import re

    from flowmason.cli.orgs import keep
    from flowmason.errors import UsageError
    from flowmason.remote.client import StudioClient

    given = token or getpass.getpass("Bootstrap token: ")
    slug = org_slug or re.sub(r"[^a-z0-9]+", "-", org_name.lower()).strip("-")
    body: dict[str, Any] = {"token": given, "org_name": org_name, "org_slug": slug, "email": email, "name": name}
    if password:
        body["password"] = getpass.getpass("Password: ")
        if getpass.getpass("Once more: ") != body["password"]:
            raise UsageError("the two passwords differ")
    with StudioClient(instance_url) as client:
        made = client.request("POST", "/auth/bootstrap", body=body)
    try:
        kept = keep(alias, instance_url, made["api_key"], default=True)
    except Exception:
        # It is shown nowhere else: better on the screen than lost.
        console.say(f"the API key, which could not be kept: {made['api_key']}")
        raise
    if as_json:
        console.print_json({"org_id": made["org_id"], "user_id": made["user_id"], "alias": kept.alias})
    else:
        console.say(f"{org_name} is there, you are its owner; the key is in the {kept.kept_in} ({kept.alias})")


@app.command()
def login(
    email: Annotated[str, typer.Option("--email", prompt="E-mail address", metavar="ADDRESS")],
    org: Annotated[str | None, typer.Option("--org", metavar="SLUG", help="Else the one you joined first.")] = None,
    key_name: Annotated[str, typer.Option("--key-name", metavar="NAME", help="Of the key that is made.")] = "fm",
    days: Annotated[int, typer.Option("--days", min=1, max=3650, help="For how long the key counts.")] = 90,
    instance_url: _Url = _LOCAL,
    alias: _Alias = "local",
    default: Annotated[bool, typer.Option("--default", "-d", help="Mean this org where none is named.")] = False,
    as_json: Json = False,
) -> None:
    """Sign in with e-mail address and password; an API key is made for this machine and kept."""
    import getpass

    from flowmason.cli.orgs import keep
    from flowmason.remote.client import StudioClient

    body = {"email": email, "password": getpass.getpass("Password: "), **({"org": org} if org else {})}
    with StudioClient(instance_url) as client:
        pair = client.request("POST", "/auth/login", body=body)
    with StudioClient(instance_url, pair["access_token"]) as client:
        made = client.request("POST", "/auth/api-keys", body={"name": key_name, "expires_in_days": days})
        client.request("POST", "/auth/logout")
    kept = keep(alias, instance_url, made["api_key"], default=default)
    if as_json:
        console.print_json({"alias": kept.alias, "org_id": kept.org_id, "key_id": made["key_id"]})
    else:
        console.say(f"signed in to {kept.name} as {kept.user} ({kept.alias}); the key counts for {days} days")


@app.command()
def whoami(target_org: TargetOrg = None, as_json: Json = False) -> None:
    """Who you are in an org, and what you may there."""
    with client_of(target_org) as client:
        me = client.get("/auth/whoami")
    if as_json:
        console.print_json(me)
        return
    print(f"{me['email']}  {me['role']} of {me['org_name']} ({me['org_slug']})")
    print(f"may: {', '.join(me['permissions'])}")
    if me["expires_at"]:
        print(f"until {me['expires_at']}")


@app.command("audit-log")
def audit_log(
    limit: Annotated[int, typer.Option("--limit", "-l", min=1, max=1000)] = 20,
    action: Annotated[str | None, typer.Option("--action", "-a", metavar="ACTION", help="Only this one.")] = None,
    verify: Annotated[bool, typer.Option("--verify", help="Check that no entry was changed or taken out.")] = False,
    target_org: TargetOrg = None,
    as_json: Json = False,
) -> None:
    """What was done in the org, the newest first, starts of runs among it.

    Entries with a number are links of a chain; with --verify it is computed anew (exit code 1 where it is broken). A
    start of a run stands in the run's own journal and has none.
    """
    with client_of(target_org) as client:
        if verify:
            verdict = client.get("/auth/audit-log/verify")
        else:
            page = client.get("/auth/audit-log", limit=limit, action=action)
    if verify:
        if as_json:
            console.print_json(verdict)
        elif verdict["whole"]:
            console.say(f"whole: {verdict['entries']} entries, the last one {verdict['head_hash']}")
        else:
            console.say(f"broken at entry {verdict['broken_at']}: {verdict['reason']}")
        raise typer.Exit(console.OK if verdict["whole"] else console.FAILED)
    if as_json:
        console.print_json(page)
        return
    from flowmason.cli.tables import print_table

    rows = [
        [str(each["number"] or ""), each["at"], each["actor"], each["action"], each["resource_id"]]
        for each in page["items"]
    ]
    print_table(("NO", "AT", "BY", "ACTION", "WHAT"), rows)


@keys.command("create")
def create(
    name: Annotated[str, typer.Argument(metavar="NAME")],
    scope: Annotated[
        list[str] | None,
        typer.Option("--scope", "-s", metavar="SCOPE", help="full, read, execute, deploy. Repeatable."),
    ] = None,
    days: Annotated[int | None, typer.Option("--days", min=1, max=3650, help="Else it does not end.")] = None,
    target_org: TargetOrg = None,
    as_json: Json = False,
) -> None:
    """Make an API key. It is printed once, on stdout, and can never be seen again."""
    body = {"name": name, "scopes": scope or ["full"], "expires_in_days": days}
    with client_of(target_org) as client:
        made = client.request("POST", "/auth/api-keys", body=body)
    if as_json:
        console.print_json(made)
    else:
        console.say(f"{made['key_id']} ({', '.join(made['scopes'])})")
        print(made["api_key"])


@keys.command("list")
def list_(target_org: TargetOrg = None, as_json: Json = False) -> None:
    """List API keys: your own, and those of others if you manage keys."""
    with client_of(target_org) as client:
        found = list(client.pages("/auth/api-keys", limit=1000))
    if as_json:
        console.print_json({"items": found, "next_cursor": None})
        return
    from flowmason.cli.tables import print_table

    rows = [
        [
            each["key_id"],
            each["name"],
            each["prefix"] + "…",
            ",".join(each["scopes"]),
            each["last_used_at"] or "never",
            _state(each),
        ]
        for each in found
    ]
    print_table(("KEY", "NAME", "", "SCOPES", "LAST USED", ""), rows)


@keys.command()
def rotate(
    key_id: _KeyId,
    overlap: Annotated[
        float, typer.Option("--overlap", metavar="HOURS", min=0, max=168, help="The old one counts so much longer.")
    ] = 0,
    target_org: TargetOrg = None,
    as_json: Json = False,
) -> None:
    """Exchange one of your keys for a new one like it, which is printed once."""
    with client_of(target_org) as client:
        made = client.request(
            "POST", f"/auth/api-keys/{quote(key_id, safe='')}/rotate", body={"overlap_hours": overlap}
        )
    if as_json:
        console.print_json(made)
    else:
        console.say(f"{made['key_id']} in place of {key_id}")
        print(made["api_key"])


@keys.command()
def revoke(
    key_id: _KeyId,
    reason: Annotated[str, typer.Option("--reason", "-r", metavar="TEXT")] = "",
    force: Annotated[bool, typer.Option("--force", "-f", help="Do not ask.")] = False,
    target_org: TargetOrg = None,
    as_json: Json = False,
) -> None:
    """End an API key, within two seconds everywhere."""
    if not force and not as_json:
        typer.confirm(f"End {key_id}?", abort=True, err=True)
    with client_of(target_org) as client:
        client.request("DELETE", f"/auth/api-keys/{quote(key_id, safe='')}", query={"reason": reason})
    if as_json:
        console.print_json({"revoked": key_id})
    else:
        console.say(f"{key_id} counts no more")


def _state(key: dict[str, Any]) -> str:
    if key["revoked_at"]:
        return f"revoked {key['revoke_reason'] or ''}".rstrip()
    return f"until {key['expires_at']}" if key["expires_at"] else ""
