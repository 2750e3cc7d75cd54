"""Packages (`.fmpkg`) that an org uploads: checked whole, kept with their manifests; nothing in them is imported."""

from __future__ import annotations

import secrets

import msgspec
from sqlalchemy.exc import IntegrityError

from flowmason.component import version_key
from flowmason.errors import Code, Fault, RefusedError, UsageError, did_you_mean
from flowmason.ids import Digest, sha256
from flowmason.package import inspect_bytes, prompts_in
from flowmason.plan import Plan
from flowmason.registry import PackageManifest, packed_specs
from flowmason.registry.packages import decode_manifest
from flowmason.studio import schema
from flowmason.studio.components import built_in_names
from flowmason.studio.scope import Scope
from flowmason.values import ValueStore

_table = schema.packages
_COLUMNS = tuple(column for column in _table.c if column.name != "data")
MOST_UNPACKED = 64 * 1024 * 1024
"""Bytes of all files of a package together."""


class UploadedPackage(msgspec.Struct, frozen=True):
    """A package of an org."""

    package_id: str
    name: str
    version: str
    description: str
    digest: str
    """Of the file as it was uploaded."""
    size: int
    """Bytes of the file."""
    components: tuple[str, ...]
    """Names of the components in it."""
    uploaded_by: str
    uploaded_at: int

    @property
    def id(self) -> str:
        """`name@version`, as Plans name it."""
        return f"{self.name}@{self.version}"


def check_package(data: bytes, *, file: str = "package.fmpkg") -> PackageManifest:
    """The manifest of a package that may be uploaded. Raises `RefusedError` with everything that is wrong."""
    manifest = inspect_bytes(data, file=file, most_bytes=MOST_UNPACKED)
    taken = built_in_names()
    faults = [
        Fault(f"the name {spec.name!r} belongs to a built-in component; choose another", "$.specs", file=file)
        for spec in packed_specs(manifest, file=file)
        if spec.name in taken
    ]
    if faults:
        raise RefusedError(faults)
    prompts_in(data, package=file)
    return manifest


def add_package(scope: Scope, manifest: PackageManifest, data: bytes, *, by: str, now: int) -> UploadedPackage:
    """Keep a package that was checked. The same file again is answered with what is there.

    Raises `UsageError` (`CONFLICT`) where the org has another content under that name and version.
    """
    digest = sha256(data)
    row = {
        "package_id": f"pkg_{secrets.token_hex(12)}",
        "name": manifest.name,
        "version": manifest.version,
        "digest": str(digest),
        "manifest": msgspec.json.encode(manifest, order="deterministic").decode(),
        "size": len(data),
        "uploaded_by": by,
        "uploaded_at": now,
    }
    there = scope.one(_table, _table.c.name == manifest.name, _table.c.version == manifest.version)
    if there is None:
        try:
            scope.add(_table, **row, data=data)
        except IntegrityError:
            raise _taken(manifest.id) from None
        return _uploaded(row)
    if there["digest"] != digest:
        raise _taken(manifest.id)
    return _uploaded(there)


def list_packages(scope: Scope) -> list[UploadedPackage]:
    """The org's packages, by name, the newest version first."""
    found = [_uploaded(row) for row in scope.find(_table, columns=_COLUMNS)]
    found.sort(key=lambda package: version_key(package.version), reverse=True)
    return sorted(found, key=lambda package: package.name)


def remove_package(scope: Scope, name: str, version: str) -> None:
    """Delete a package; runs that still need it will fail. Raises `UsageError` (`NOT_FOUND`)."""
    if not scope.remove(_table, _table.c.name == name, _table.c.version == version):
        known = [package.id for package in list_packages(scope)]
        near = did_you_mean(f"{name}@{version}", known)
        hint = f"; did you mean {near!r}?" if near else ""
        raise UsageError(f"there is no package {name}@{version}{hint}", code=Code.NOT_FOUND)


def package_bytes(scope: Scope, package: str) -> bytes:
    """The file of a package, given as `name@version`. Raises `UsageError` (`NOT_FOUND`)."""
    name, _, version = package.rpartition("@")
    found = scope.find(_table, _table.c.name == name, _table.c.version == version, columns=(_table.c.data,))
    if not found:
        raise UsageError(f"there is no package {package!r}", code=Code.NOT_FOUND)
    return bytes(found[0]["data"])


def store_archives(scope: Scope, values: ValueStore, plan: Plan | None = None) -> None:
    """Put the files of the org's packages (or those that a Plan needs and are missing) where workers find them.

    What is there already counts as touched: a sweep leaves it.
    """
    wanted: set[str] | None = None
    if plan is not None:
        refs = [ref for each in (plan, *plan.plans.values()) for ref in each.components.values()]
        wanted = {ref.archive for ref in refs if ref.archive is not None}
        wanted = {digest for digest in wanted if not values.touch(scope.org_id, Digest(digest))}
        if not wanted:
            return
    conditions = [] if wanted is None else [_table.c.digest.in_(wanted)]
    for row in scope.find(_table, *conditions, columns=(_table.c.package_id,)):
        found = scope.one(_table, _table.c.package_id == row["package_id"])
        if found is not None:
            values.put(scope.org_id, Digest(found["digest"]), bytes(found["data"]))


def _taken(name: str) -> UsageError:
    return UsageError(
        f"there is a package {name} with another content",
        code=Code.CONFLICT,
        help="Give it a new version, or delete the one that is there.",
    )


def _uploaded(row: object) -> UploadedPackage:
    fields = dict(row)  # type: ignore[call-overload]
    manifest = decode_manifest(fields["manifest"].encode(), file="manifest.json")
    names = tuple(sorted({str(spec.get("name")) for spec in manifest.specs}))
    return UploadedPackage(
        package_id=fields["package_id"],
        name=fields["name"],
        version=fields["version"],
        description=manifest.description,
        digest=fields["digest"],
        size=fields["size"],
        components=names,
        uploaded_by=fields["uploaded_by"],
        uploaded_at=fields["uploaded_at"],
    )
