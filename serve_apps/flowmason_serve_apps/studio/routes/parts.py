"""What several routes need: cursors, ETags, documents as bodies."""

from __future__ import annotations

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Annotated, Any

import msgspec
from fastapi import Depends, Header, Query, Request
from fastapi.responses import Response

from flowmason.document.reading import Format
from flowmason.errors import Code, Fault, UsageError
from flowmason.studio.identity.callers import Caller
from flowmason.studio.identity.permissions import Permission
from flowmason_serve_apps.studio.guard.callers import allow
from flowmason_serve_apps.studio.models.common import FaultOut
from flowmason_serve_apps.studio.services import Services, services_of


async def _services(request: Request) -> Services:
    # A plain function would be called in a thread: some tenths of a millisecond of every request.
    return services_of(request)


Given = Annotated[Services, Depends(_services)]
Limit = Annotated[int, Query(ge=1, le=1000, description="Items in one answer.")]
Cursor = Annotated[str | None, Query(max_length=1000, description="`next_cursor` of the part before.")]
Key = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=200,
        description="The same request with a key that was used before starts nothing: it gets the earlier run. A key"
        " that was used for another request is refused (409).",
    ),
]
_ETAG = re.compile(r'(?:W/)?"(\d{1,18})"\Z')
_YAML = ("application/yaml", "application/x-yaml", "text/yaml")


def _needs(permission: Permission) -> Any:
    return Depends(allow(permission))


PipelineReader = Annotated[Caller, _needs(Permission.PIPELINES_READ)]
PipelineWriter = Annotated[Caller, _needs(Permission.PIPELINES_WRITE)]
Publisher = Annotated[Caller, _needs(Permission.PIPELINES_PUBLISH)]
RunReader = Annotated[Caller, _needs(Permission.RUNS_READ)]
RunStarter = Annotated[Caller, _needs(Permission.RUNS_START)]
RunController = Annotated[Caller, _needs(Permission.RUNS_CONTROL)]
Debugger = Annotated[Caller, _needs(Permission.DEBUG_CONTROL)]
RunDeleter = Annotated[Caller, _needs(Permission.RUNS_DELETE)]
RegistryReader = Annotated[Caller, _needs(Permission.REGISTRY_READ)]
RegistryWriter = Annotated[Caller, _needs(Permission.REGISTRY_WRITE)]
StatsReader = Annotated[Caller, _needs(Permission.STATS_READ)]
SecretsReader = Annotated[Caller, _needs(Permission.SECRETS_READ)]
SecretsWriter = Annotated[Caller, _needs(Permission.SECRETS_WRITE)]
Themselves = Annotated[Caller, _needs(Permission.SELF)]
OrgReader = Annotated[Caller, _needs(Permission.ORG_READ)]
OrgMaker = Annotated[Caller, _needs(Permission.ORG_CREATE)]
MemberReader = Annotated[Caller, _needs(Permission.MEMBERS_READ)]
MemberWriter = Annotated[Caller, _needs(Permission.MEMBERS_WRITE)]
KeyReader = Annotated[Caller, _needs(Permission.KEYS_READ)]
KeyWriter = Annotated[Caller, _needs(Permission.KEYS_WRITE)]
AuditReader = Annotated[Caller, _needs(Permission.AUDIT_READ)]
OrgWriter = Annotated[Caller, _needs(Permission.ORG_WRITE)]


async def revision_given(
    if_match: Annotated[
        str | None,
        Header(alias="If-Match", max_length=100, description="The ETag of what the write is based on."),
    ] = None,
) -> int:
    """The revision that a writer builds on. Raises `UsageError`: 428 without one, 412's kin for what is no ETag."""
    if if_match is None:
        raise UsageError(
            "a write to a pipeline needs If-Match, so that nobody's work is lost",
            code=Code.PRECONDITION_REQUIRED,
            help="Read the pipeline and send its ETag.",
        )
    found = _ETAG.match(if_match.strip())
    if found is None:
        raise UsageError(f"If-Match {if_match!r} is no ETag of a pipeline", help='It looks like "7".')
    return int(found[1])


Revision = Annotated[int, Depends(revision_given)]


def etag(revision: int) -> str:
    """The ETag of a revision."""
    return f'"{revision}"'


def cursor_of(edge: Any) -> str:
    """Where a list goes on, as an opaque text."""
    return urlsafe_b64encode(msgspec.json.encode(edge)).decode()


def edge_of(cursor: str | None, kind: Any) -> Any:
    """What `cursor_of` wrote; None without a cursor. Raises `UsageError`."""
    if cursor is None:
        return None
    try:
        edge = msgspec.json.decode(urlsafe_b64decode(cursor.encode()), type=kind)
        if not _storable(msgspec.to_builtins(edge)):
            raise ValueError
        return edge
    except (ValueError, msgspec.MsgspecError):
        raise UsageError(f"{cursor[:80]!r} is not a cursor that this list gave") from None


def _storable(edge: Any) -> bool:
    """Whether a database can be asked for it: whoever writes a cursor may write anything into it."""
    if isinstance(edge, str):
        return "\0" not in edge
    if isinstance(edge, int):
        return 0 <= edge < 2**63
    return all(map(_storable, edge)) if isinstance(edge, list | tuple) else edge is None


class RawDocument(msgspec.Struct, frozen=True):
    """A document as it was sent."""

    data: bytes
    format: Format


async def document_sent(request: Request) -> RawDocument:
    """The body as a document in JSON or YAML. Raises `UsageError` for any other media type."""
    media = request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    if media == "application/json":
        return RawDocument(await request.body(), "json")
    if media in _YAML:
        return RawDocument(await request.body(), "yaml")
    raise UsageError(
        f"a pipeline is sent as application/json or application/yaml, not as {media!r}",
        code=Code.UNSUPPORTED_MEDIA_TYPE,
    )


Sent = Annotated[RawDocument, Depends(document_sent)]
DOCUMENT = {
    "requestBody": {
        "required": True,
        "content": {
            media: {
                "schema": {
                    "type": "object",
                    "title": "PipelineDocument",
                    "description": "A pipeline file; its JSON Schema is pipeline.schema.json.",
                }
            }
            for media in ("application/json", "application/yaml")
        },
    }
}
"""OpenAPI of a body that is a pipeline file."""


def faults_out(faults: tuple[Fault, ...]) -> list[FaultOut]:
    """Faults as answers hold them."""
    return [FaultOut(**msgspec.structs.asdict(fault)) for fault in faults]


def json_response(data: bytes, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """An answer that is encoded already."""
    return Response(data, status, headers, "application/json")
