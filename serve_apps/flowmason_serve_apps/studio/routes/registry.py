"""Components that pipelines may name, and the packages that an org uploads. Nothing of a package is imported here."""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, File, Query, UploadFile

from flowmason.assembly.outcome import moment
from flowmason.component import ComponentSpec
from flowmason.errors import Code, UsageError
from flowmason.ids import Digest
from flowmason.registry import Registry
from flowmason.studio import packages
from flowmason.studio.identity.callers import Caller
from flowmason.studio.packages import UploadedPackage
from flowmason_serve_apps.studio.models import registry as models
from flowmason_serve_apps.studio.noting import noted
from flowmason_serve_apps.studio.routes.parts import (
    Cursor,
    Given,
    Limit,
    RegistryReader,
    RegistryWriter,
    cursor_of,
    edge_of,
    faults_out,
)
from flowmason_serve_apps.studio.services import Services

router = APIRouter(prefix="/registry", tags=["registry"])
Text = Annotated[str | None, Query(max_length=100)]
_SHORT = tuple(models.ComponentSummary.model_fields)


@router.get("/components", operation_id="registry_components")
def components(
    services: Given,
    caller: RegistryReader,
    kind: Text = None,
    category: Text = None,
    limit: Limit = 100,
    cursor: Cursor = None,
) -> models.ComponentPage:
    """The newest version of every component, by name."""
    after = edge_of(cursor, str) or ""
    registry = _registry(services, caller)
    found = [
        spec
        for spec in (registry[name] for name in registry if name > after)
        if kind in (None, spec.kind) and category in (None, spec.category)
    ]
    return models.ComponentPage(
        items=[models.ComponentSummary(**_short(spec)) for spec in found[:limit]],
        next_cursor=cursor_of(found[limit - 1].name) if len(found) > limit else None,
    )


@router.get("/components/{name}", operation_id="registry_component")
def component(services: Given, caller: RegistryReader, name: str) -> models.ComponentDetail:
    """A component: `name` (the newest) or `name@version`."""
    registry = _registry(services, caller)
    spec = _required(registry, name)
    return models.ComponentDetail(
        **_short(spec),
        author=spec.author,
        tags=list(spec.tags),
        ai_config=spec.ai_config,
        timeout_ms=spec.timeout_ms,
        max_retries=spec.retry.max_retries,
        supports_streaming=spec.supports_streaming,
        secrets=list(spec.secrets),
        models=list(spec.models),
        hosts=list(spec.hosts),
        digest=spec.digest,
        versions=[each.version for each in registry.versions(spec.name)],
    )


@router.delete("/components/{name}", status_code=204, operation_id="registry_component_delete")
def delete_component(services: Given, caller: RegistryWriter, name: str) -> None:
    """Delete the uploaded package of a component, if the component is all that it holds."""
    spec = _required(_registry(services, caller), name)
    with services.store.scope(caller.org_id) as scope:
        mine = {package.id: package for package in packages.list_packages(scope)}
        package = mine.get(spec.package or "")
        if package is None:
            raise UsageError(f"component {spec.name!r} belongs to the server, not to the org", code=Code.CONFLICT)
        if len(package.components) > 1:
            raise UsageError(
                f"package {package.id} holds {', '.join(package.components)}; delete the package", code=Code.CONFLICT
            )
        packages.remove_package(scope, package.name, package.version)
        noted(services, scope, caller, "package.delete", f"{package.name}@{package.version}")


@router.post("/deploy", status_code=201, operation_id="registry_deploy")
def deploy(
    services: Given, caller: RegistryWriter, file: Annotated[UploadFile, File(description="A `.fmpkg`.")]
) -> models.PackageOut:
    """Upload a package. It is checked whole; its components can be named by the org's pipelines from now on."""
    most = services.settings.max_body_bytes
    data = file.file.read(most + 1)
    if len(data) > most:
        raise UsageError(f"a package may have {most >> 20} MiB", code=Code.INVALID_INPUT)
    manifest = packages.check_package(data)
    with services.store.scope(caller.org_id) as scope:
        added = packages.add_package(scope, manifest, data, by=caller.actor, now=services.now())
        noted(services, scope, caller, "package.deploy", f"{added.name}@{added.version}", digest=added.digest)
    # A run finds it there; one that needs it later puts it there again.
    services.values.put(caller.org_id, Digest(added.digest), data)
    return _package(added)


@router.get("/packages", operation_id="registry_packages")
def listed(services: Given, caller: RegistryReader, limit: Limit = 100, cursor: Cursor = None) -> models.PackagePage:
    """The packages that the org uploaded."""
    start = edge_of(cursor, int) or 0
    with services.store.scope(caller.org_id, writing=False) as scope:
        found = packages.list_packages(scope)
    part = found[max(0, start) :][:limit]
    end = max(0, start) + len(part)
    return models.PackagePage(
        items=[_package(each) for each in part], next_cursor=cursor_of(end) if end < len(found) else None
    )


@router.delete("/packages/{name}/{version}", status_code=204, operation_id="registry_package_delete")
def delete_package(services: Given, caller: RegistryWriter, name: str, version: str) -> None:
    """Delete a package; runs that still need it will fail."""
    with services.store.scope(caller.org_id) as scope:
        packages.remove_package(scope, name, version)
        noted(services, scope, caller, "package.delete", f"{name}@{version}")


@router.post("/refresh", operation_id="registry_refresh")
def refresh(services: Given, caller: RegistryWriter) -> models.Refreshed:
    """Read again which components are installed on the server this reaches."""
    faults = services.catalogue.refresh()
    return models.Refreshed(components=len(_registry(services, caller)), faults=faults_out(faults))


@router.get("/stats", operation_id="registry_stats")
def stats(services: Given, caller: RegistryReader) -> models.RegistryStats:
    """How many components there are."""
    registry = _registry(services, caller)
    newest = [registry[name] for name in registry]
    with services.store.scope(caller.org_id, writing=False) as scope:
        uploaded = len(packages.list_packages(scope))
    return models.RegistryStats(
        components=len(newest),
        packages=uploaded,
        by_kind=dict(sorted(Counter(spec.kind for spec in newest).items())),
        by_category=dict(sorted(Counter(spec.category for spec in newest).items())),
    )


def _registry(services: Services, caller: Caller) -> Registry:
    with services.store.scope(caller.org_id, writing=False) as scope:
        return services.catalogue.of(scope).registry


def _required(registry: Registry, name: str) -> ComponentSpec:
    try:
        return registry.require(name)
    except UsageError as error:
        raise UsageError(error.failure.message, code=Code.NOT_FOUND) from None


def _short(spec: ComponentSpec) -> dict[str, Any]:
    return {name: getattr(spec, name) for name in _SHORT}


def _package(package: UploadedPackage) -> models.PackageOut:
    fields = msgspec.structs.asdict(package)
    return models.PackageOut(
        **{
            **fields,
            "id": fields.pop("package_id"),
            "components": list(package.components),
            "uploaded_at": moment(package.uploaded_at),
        }
    )
