"""`fm secrets`: what an org of a Studio keeps secret. Values go in, and never come out."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated
from urllib.parse import quote

import typer

from flowmason.cli import console
from flowmason.cli.studio_org import Json, TargetOrg, client_of

app = typer.Typer(no_args_is_help=True, help="Set, list and remove the secrets of an org.", rich_markup_mode=None)

_Name = Annotated[str, typer.Argument(metavar="NAME", help="Letters, digits, '_', '-' and '.'; case does not matter.")]
_MOST = 64 * 1024


@app.command("set")
def set_(
    name: _Name,
    from_file: Annotated[
        Path | None, typer.Option("--from-file", metavar="FILE", help="Take the value from a file, as it is.")
    ] = None,
    target_org: TargetOrg = None,
    as_json: Json = False,
) -> None:
    """Set a secret, or give it a new value.

    The value is asked for, or read from stdin (without the newline at its end). It is never an argument: those are
    seen by everybody on the machine, and kept in the history of the shell.

    Examples:
      fm secrets set api_key
      pass show api_key | fm secrets set api_key -t production
    """
    value = _value(name, from_file)
    with client_of(target_org) as client:
        done = client.request("PUT", f"/secrets/{quote(name, safe='')}", body={"value": value})
    if as_json:
        console.print_json(done)
    else:
        console.say(f"{done['name']} is set (version {done['version']})")


@app.command("list")
def list_(target_org: TargetOrg = None, as_json: Json = False) -> None:
    """List the names of the org's secrets, who set them and when."""
    with client_of(target_org) as client:
        found = list(client.pages("/secrets", limit=1000))
    if as_json:
        console.print_json({"items": found, "next_cursor": None})
        return
    from flowmason.cli.tables import print_table

    table = [[each["name"], str(each["version"]), each["set_at"], each["set_by"]] for each in found]
    print_table(("NAME", "VERSION", "SET", "BY"), table)
    if not table:
        console.say("no secrets")


@app.command()
def rm(name: _Name, target_org: TargetOrg = None, as_json: Json = False) -> None:
    """Remove a secret with all its versions."""
    with client_of(target_org) as client:
        client.request("DELETE", f"/secrets/{quote(name, safe='')}")
    if as_json:
        console.print_json({"removed": name})
    else:
        console.say(f"{name} is removed")


@app.command()
def rotate(target_org: TargetOrg = None, as_json: Json = False) -> None:
    """Bring the org's secrets under the server's current master key, and delete their older versions."""
    with client_of(target_org) as client:
        done = client.request("POST", "/secrets/rotate-keys")
    if as_json:
        console.print_json(done)
    else:
        console.say(f"{done['rewrapped']} brought under the current master key, {done['dropped']} old versions deleted")


def _value(name: str, file: Path | None) -> str:
    from flowmason.errors import UsageError

    if file is None and sys.stdin.isatty():
        import getpass

        return getpass.getpass(f"{name}: ")
    try:
        # One byte more than may be, so that what is too long is refused and not cut.
        if file is not None:
            with file.open("rb") as stream:
                data = stream.read(_MOST + 1)
        else:
            data = sys.stdin.buffer.read(_MOST + 3)
            data = data.removesuffix(b"\n").removesuffix(b"\r")
    except OSError as error:
        raise UsageError(f"cannot read {file}: {error.strerror or error}") from None
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise UsageError(f"the value of {name} is no text in UTF-8", help="Encode it, for example in base64.") from None
