"""Files that become part of inputs: kept with the values of the org, named by their digest."""

from __future__ import annotations

import asyncio
import hashlib
import re
import tempfile
from pathlib import Path

from fastapi import APIRouter, Request, Response
from starlette.requests import ClientDisconnect

from flowmason.errors import Code, UsageError
from flowmason.ids import Digest, OrgId
from flowmason_serve_apps.studio import problems
from flowmason_serve_apps.studio.models import blobs as models
from flowmason_serve_apps.studio.routes.parts import Given, RunStarter
from flowmason_serve_apps.studio.services import Services

router = APIRouter(tags=["runs"])
OCTETS = "application/octet-stream"
MOST_UPLOADS = 8
"""Files of one org that one process takes in at once: each may fill its part of the disk first."""
AGAIN_MS = 5_000
BODY_S = 900.0
"""For how long a client may be about its file; the door's bound is for bodies that are read whole."""
_TYPE = re.compile(r"[\w.+-]{1,60}/[\w.+-]{1,60}", re.ASCII)
_BODY = {"required": True, "content": {OCTETS: {"schema": {"type": "string", "format": "binary"}}}}


@router.post(
    "/blobs",
    status_code=201,
    operation_id="blobs_create",
    response_model=models.BlobOut,
    openapi_extra={"requestBody": _BODY},
)
async def create(services: Given, caller: RunStarter, request: Request) -> models.BlobOut | Response:
    """Upload a file for the input of a run: the body is its bytes, `Content-Type` its media type.

    The answer is what stands for it in an input. A file that no run names within a day is removed.
    """
    media = request.headers.get("content-type", OCTETS).partition(";")[0].strip().lower()
    if not _TYPE.fullmatch(media):
        raise UsageError(f"Content-Type {media[:100]!r} is no media type", code=Code.USAGE)
    most = services.settings.max_blob_bytes
    length = request.headers.get("content-length", "0")
    if not length.isdecimal() or int(length) > most:
        return _too_large(request, most)
    org = caller.org_id
    if services.uploads[org] >= MOST_UPLOADS:
        raise UsageError(
            f"{MOST_UPLOADS} files of this org are being uploaded already",
            code=Code.RATE_LIMITED,
            retry_after_ms=AGAIN_MS,
        )
    services.uploads[org] += 1
    try:
        return await _taken(services, org, request, media, most)
    finally:
        services.uploads[org] -= 1
        if not services.uploads[org]:
            del services.uploads[org]


async def _taken(
    services: Services, org_id: OrgId, request: Request, media: str, most: int
) -> models.BlobOut | Response:
    digest, size = hashlib.sha256(), 0
    with tempfile.NamedTemporaryFile(prefix="fm-blob-") as file:

        def take(piece: bytes) -> None:
            digest.update(piece)
            file.write(piece)

        try:
            async with asyncio.timeout(BODY_S):
                async for piece in request.stream():
                    size += len(piece)
                    if size > most:
                        return _too_large(request, most)
                    await asyncio.to_thread(take, piece)
        except TimeoutError:
            detail = f"the body did not come within {BODY_S:g} s"
            return problems.problem(408, detail, code="REQUEST_TIMEOUT", instance=request.url.path)
        except ClientDisconnect:
            raise UsageError("the body broke off") from None
        name = Digest(f"sha256:{digest.hexdigest()}")

        def put() -> None:
            file.flush()
            services.values.put_file(org_id, name, Path(file.name))

        await asyncio.to_thread(put)
    return models.BlobOut.model_validate({"$blob": name, "type": media, "size": size})


def _too_large(request: Request, most: int) -> Response:
    return problems.problem(413, f"a blob may have {most} bytes", code="TOO_LARGE", instance=request.url.path)
