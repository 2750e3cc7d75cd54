"""API keys: made, listed, rotated, revoked."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Path, Query, Response

from flowmason.assembly.outcome import moment
from flowmason.studio.identity import api_keys
from flowmason.studio.identity.api_keys import ApiKey
from flowmason_serve_apps.studio.models import auth as models
from flowmason_serve_apps.studio.routes.parts import Cursor, Given, KeyReader, KeyWriter, Limit, cursor_of, edge_of

router = APIRouter(prefix="/auth/api-keys", tags=["auth"])
KeyId = Annotated[str, Path(max_length=100)]
_DAY_MS = 24 * 3600 * 1000
_TIMES = ("created_at", "expires_at", "last_used_at", "revoked_at")


@router.get("", operation_id="api_keys_list")
def listed(services: Given, caller: KeyReader, limit: Limit = 100, cursor: Cursor = None) -> models.KeyPage:
    """One's own keys; those of others too for who manages keys."""
    with services.store.scope(caller.org_id, writing=False) as scope:
        found = api_keys.listed(scope, caller, limit=limit + 1, after=edge_of(cursor, str))
    return models.KeyPage(
        items=[models.KeyOut(**_fields(each)) for each in found[:limit]],
        next_cursor=cursor_of(found[limit - 1].key_id) if len(found) > limit else None,
    )


@router.post("", status_code=201, operation_id="api_keys_create")
def make(services: Given, caller: KeyWriter, body: models.NewKey, response: Response) -> models.NewKeyOut:
    """A new key of one's own: at most what one may oneself."""
    response.headers["Cache-Control"] = "no-store"
    now = services.now()
    ends = None if body.expires_in_days is None else now + body.expires_in_days * _DAY_MS
    made, key = api_keys.make(
        services.store, caller, body.name, now, scopes=tuple(body.scopes), role=body.role, expires_at=ends
    )
    return models.NewKeyOut(**_fields(made), api_key=key)


@router.post("/{key_id}/rotate", status_code=201, operation_id="api_keys_rotate")
def rotate(
    services: Given, caller: KeyWriter, key_id: KeyId, response: Response, body: models.Rotation | None = None
) -> models.NewKeyOut:
    """A new key like one of one's own, which ends, at once or after an overlap."""
    response.headers["Cache-Control"] = "no-store"
    overlap = round((body.overlap_hours if body else 0) * 3_600_000)
    made, key = api_keys.rotate(services.store, caller, key_id, services.now(), overlap_ms=overlap)
    services.authenticator.forget()
    return models.NewKeyOut(**_fields(made), api_key=key)


@router.delete("/{key_id}", status_code=204, operation_id="api_keys_revoke")
def revoke(
    services: Given, caller: KeyWriter, key_id: KeyId, reason: Annotated[str, Query(max_length=500)] = ""
) -> None:
    """End a key: within two seconds nobody believes it any more."""
    api_keys.revoke(services.store, caller, key_id, reason, services.now())
    services.authenticator.forget()


def _fields(key: ApiKey) -> dict[str, Any]:
    values = msgspec.structs.asdict(key)
    return {**values, **{name: moment(values[name] or 0) for name in _TIMES}}
