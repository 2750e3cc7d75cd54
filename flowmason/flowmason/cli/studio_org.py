"""What commands against an org of a Studio share: which org is meant, and a client for it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from flowmason.remote.client import StudioClient
    from flowmason.remote.orgs import Org

TargetOrg = Annotated[
    str | None, typer.Option("--target-org", "-t", metavar="ALIAS", help="The org; else the default one.")
]
Studio = Annotated[
    bool, typer.Option("--studio", help="In an org of a Studio (the default one, or -t), not on this machine.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]


def opened(alias: str | None) -> tuple[Org, StudioClient]:
    """The org that an alias means (None: the default one), and a client that calls as its user.

    Raises `UsageError` where no such org is known here.
    """
    from flowmason.remote.client import StudioClient
    from flowmason.remote.orgs import OrgBook

    book = OrgBook(os.environ)
    org = book.get(alias)
    return org, StudioClient(org.url, book.key(org))


def client_of(alias: str | None) -> StudioClient:
    """A client of an org."""
    return opened(alias)[1]
