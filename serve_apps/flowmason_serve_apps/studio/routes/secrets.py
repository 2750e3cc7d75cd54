"""An org's secrets: set, named, removed. Their values come in here, and never go out."""

from __future__ import annotations

from typing import Annotated

import msgspec
from fastapi import APIRouter, Path

from flowmason.assembly.outcome import moment
from flowmason.studio import secrets
from flowmason.studio.secrets import SecretInfo
from flowmason_serve_apps.studio.models import secrets as models
from flowmason_serve_apps.studio.routes.parts import (
    Cursor,
    Given,
    Limit,
    SecretsReader,
    SecretsWriter,
    cursor_of,
    edge_of,
)

router = APIRouter(prefix="/secrets", tags=["secrets"])
Name = Annotated[str, Path(min_length=1, max_length=100)]


@router.get("", operation_id="secrets_list")
def listed(services: Given, caller: SecretsReader, limit: Limit = 100, cursor: Cursor = None) -> models.SecretPage:
    """The names of the org's secrets, with their versions and who set them when."""
    after = edge_of(cursor, str) or ""
    with services.store.scope(caller.org_id, writing=False) as scope:
        found = [each for each in secrets.listed(scope) if each.name > after]
    return models.SecretPage(
        items=[_out(each) for each in found[:limit]],
        next_cursor=cursor_of(found[limit - 1].name) if len(found) > limit else None,
    )


@router.put("/{name}", operation_id="secrets_set")
def put(services: Given, caller: SecretsWriter, name: Name, body: models.SecretValue) -> models.SecretOut:
    """Set a secret: a new version, which calls of components that declare the name get from now on."""
    value = body.value.get_secret_value()
    with services.store.scope(caller.org_id) as scope:
        return _out(secrets.put(scope, services.sealer, caller, name, value, services.now()))


@router.delete("/{name}", status_code=204, operation_id="secrets_delete")
def delete(services: Given, caller: SecretsWriter, name: Name) -> None:
    """Delete a secret with all its versions."""
    with services.store.scope(caller.org_id) as scope:
        secrets.remove(scope, caller, name, services.now())


@router.post("/rotate-keys", operation_id="secrets_rotate_keys")
def rotate_keys(services: Given, caller: SecretsWriter) -> models.RotatedOut:
    """Bring the org's secrets under the server's current master key, and delete versions that nothing uses."""
    done = secrets.rotate(services.store, services.sealer, caller, services.now())
    return models.RotatedOut(**msgspec.structs.asdict(done))


def _out(info: SecretInfo) -> models.SecretOut:
    return models.SecretOut(**{**msgspec.structs.asdict(info), "set_at": moment(info.set_at)})
