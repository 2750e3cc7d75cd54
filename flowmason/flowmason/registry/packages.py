"""The manifest of a `.fmpkg` and the folder it is unpacked to, as far as finding components needs them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec

from flowmason.component import ComponentSpec
from flowmason.errors import Code, Fault, FlowMasonError, RefusedError
from flowmason.ids import Digest, sha256
from flowmason.registry.sources import files_digest

MANIFESTS = ("manifest.json", "flowmason-package.json")
"""Both names hold the same content: older tools look for one or the other."""
FORMAT = 1

_NAME = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,98}[a-z0-9])?\Z")
_VERSION = re.compile(r"[0-9][0-9A-Za-z.+-]{0,63}\Z")


class PackedFile(msgspec.Struct, frozen=True):
    """One file in a package."""

    sha256: str
    """Hex."""
    size: int
    """Bytes."""


class PackageManifest(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """What a package says of itself."""

    format: int = FORMAT
    name: str
    version: str
    description: str = ""
    author: str = ""
    license: str = ""
    repository: str = ""
    entry: str | None = None
    """The pipeline that runs when none is named."""
    pipelines: tuple[str, ...] = ()
    """Paths in the package."""
    components: tuple[str, ...] = ()
    """Paths of the files that declare components."""
    specs: tuple[dict[str, Any], ...] = ()
    """One `ComponentSpec.manifest()` per component."""
    files: dict[str, PackedFile] = {}
    """Every file but the manifests."""
    digest: str
    """Over `files`."""
    built_by: str = ""

    @property
    def id(self) -> str:
        """`name@version`."""
        return f"{self.name}@{self.version}"


def decode_manifest(data: bytes, *, file: str) -> PackageManifest:
    """Read a manifest and check its names, paths and digest. Raises `RefusedError`."""
    try:
        raw = msgspec.json.decode(data)
        if isinstance(raw, dict) and isinstance(raw.get("format"), int) and raw["format"] > FORMAT:
            raise RefusedError(
                [Fault(f"the package has format {raw['format']}; this FlowMason reads {FORMAT}", "$.format", file=file)]
            )
        manifest = msgspec.convert(raw, PackageManifest)
    except msgspec.DecodeError as error:
        raise RefusedError([Fault(f"not a package manifest: {error}", "$", file=file)]) from None
    faults = [Fault(reason, pointer, file=file) for pointer, reason in _faults(manifest)]
    if faults:
        raise RefusedError(faults)
    return manifest


def read_manifest(folder: Path) -> PackageManifest:
    """The manifest of an unpacked package. Raises `RefusedError`, `OSError`."""
    path = folder / MANIFESTS[1]
    return decode_manifest(path.read_bytes(), file=str(path))


def packed_specs(manifest: PackageManifest, *, file: str | None = None) -> list[ComponentSpec]:
    """The specs in a manifest, each with its package and digest set."""
    return [
        msgspec.structs.replace(ComponentSpec.from_manifest(data, file=file), package=manifest.id)
        for data in manifest.specs
    ]


def verify_files(folder: Path, manifest: PackageManifest) -> None:
    """Raises `FlowMasonError` (`COMPONENT_CHANGED`) unless every file is what the manifest says."""
    for name, packed in manifest.files.items():
        try:
            intact = sha256((folder / name).read_bytes()) == f"sha256:{packed.sha256}"
        except OSError:
            intact = False
        if not intact:
            raise FlowMasonError(
                f"{folder / name} is not the file that was packed into {manifest.id}",
                code=Code.COMPONENT_CHANGED,
                help="Install the package again.",
            )


def safe_path(name: str) -> bool:
    """Whether a path in a package stays inside it on every system."""
    if not name or len(name) > 240 or "\\" in name or ":" in name or name.startswith("/"):
        return False
    parts = name.split("/")
    return all(part not in ("", ".", "..") and part.isprintable() and part == part.strip(" ") for part in parts)


def package_name_faults(name: str, version: str) -> list[tuple[str, str]]:
    """What is wrong with a package's name and version: they become folder names."""
    faults = []
    if not _NAME.match(name) or ".." in name:
        faults.append(("$.name", f"the name {name!r} must be lower-case letters, digits, '-', '_' and '.'"))
    if not _VERSION.match(version) or ".." in version:
        faults.append(("$.version", f"the version {version!r} is not of the form 1.2.3"))
    return faults


def _faults(manifest: PackageManifest) -> list[tuple[str, str]]:
    faults = package_name_faults(manifest.name, manifest.version)
    faults += [("$.files", f"the path {name!r} leaves the package") for name in manifest.files if not safe_path(name)]
    faults += [
        (f"$.{key}", f"{name!r} is not among the files")
        for key, names in (("pipelines", manifest.pipelines), ("components", manifest.components))
        for name in names
        if name not in manifest.files
    ]
    expected = files_digest({name: Digest(f"sha256:{packed.sha256}") for name, packed in manifest.files.items()})
    if manifest.digest != expected:
        faults.append(("$.digest", "the digest does not fit the list of files"))
    return faults
