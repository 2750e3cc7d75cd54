"""`.fmpkg`: a project's pipelines, components, prompts and configuration in one file that can be checked and installed.

It is a zip of plain files with two equal manifests, `manifest.json` and `flowmason-package.json`. The manifest holds
the sha256 of every file and the specs of all components, so that nothing has to be imported to read a package.
"""

from __future__ import annotations

import io
import lzma
import os
import shutil
import stat
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

import msgspec

from flowmason.component import ComponentSpec, component_digest, version_key
from flowmason.errors import Code, Fault, RefusedError, UsageError, did_you_mean
from flowmason.ids import Digest, sha256
from flowmason.project import MANIFEST, Project, PromptFolder, load_project
from flowmason.project.prompts import packed_prompts
from flowmason.prompt import Prompt
from flowmason.registry import PackageManifest, component_files, home_dir, project_components, read_manifest
from flowmason.registry.packages import MANIFESTS, PackedFile, decode_manifest, package_name_faults, safe_path
from flowmason.registry.places import write_whole
from flowmason.registry.shipping import visible_files, zip_files
from flowmason.registry.sources import Sources, files_digest

MOST_FILES = 10_000
MOST_FILE_BYTES = 16 * 1024 * 1024
MOST_BYTES = 256 * 1024 * 1024
FOLDERS = ("prompts", "config")
"""Taken along whole, but for names that start with a dot."""
_UNREADABLE = (
    zipfile.BadZipFile, zlib.error, lzma.LZMAError, OSError, EOFError, NotImplementedError, RuntimeError, ValueError
)  # fmt: skip


class Installed(msgspec.Struct, frozen=True):
    """A package that is unpacked in the home directory."""

    name: str
    version: str
    folder: Path
    manifest: PackageManifest | None
    """None where it cannot be read; `faults` says why."""
    faults: tuple[Fault, ...] = ()


def pack(project_root: Path, out: Path | None = None, *, version: str | None = None) -> Path:
    """Write the project's package and return its path: `out`, default `packages/<name>-<version>.fmpkg`.

    Where `out` is a folder, the file gets its usual name in it. The same project gives the same bytes everywhere.
    Raises `RefusedError` for a project that cannot be packed, with everything that is wrong.
    """
    project = load_project(project_root)
    version = version or project.version
    target = out or project.root / "packages"
    if out is None or target.is_dir():
        target = target / f"{project.name}-{version}.fmpkg"
    write_whole(target, pack_bytes(project, version=version))
    return target


def pack_bytes(project: Project, *, version: str | None = None, with_pipelines: bool = True) -> bytes:
    """The package of a project, in memory; with its pipelines, or without. Raises `RefusedError`."""
    version = version or project.version
    faults = [
        Fault(reason, pointer, file=str(project.root / MANIFEST))
        for pointer, reason in package_name_faults(project.name, version)
    ]
    files = project.pipeline_files() if with_pipelines else []
    main = project.main if with_pipelines else None
    contents = _collect(project, files, faults)
    own = project_components(project.root, include=project.components.include, exclude=project.components.exclude)
    faults += own.faults
    faults += PromptFolder(project.root).faults()
    specs = own.specs()
    pipelines = tuple(path.relative_to(project.root).as_posix() for path in files)
    if main is not None and main not in pipelines:
        near = did_you_mean(main, pipelines)
        reason = f"there is no pipeline {main!r}"
        faults.append(Fault(reason, "$.main", nearest=near, file=str(project.root / MANIFEST)))
    if faults:
        raise RefusedError(faults)
    digest = files_digest({name: sha256(data) for name, data in contents.items()})
    manifest = PackageManifest(
        name=project.name,
        version=version,
        description=project.description,
        author=project.author,
        license=project.license,
        repository=project.repository,
        entry=main,
        pipelines=pipelines,
        components=tuple(sorted({spec.target.partition(":")[0] for spec in specs})),
        specs=tuple(msgspec.structs.replace(s, digest=component_digest(s, digest)).manifest() for s in specs),
        files={
            name: PackedFile(sha256=sha256(data).removeprefix("sha256:"), size=len(data))
            for name, data in sorted(contents.items())
        },
        digest=digest,
        built_by="flowmason",
    )
    text = msgspec.json.format(msgspec.json.encode(manifest, order="deterministic"), indent=1)
    return zip_files({**dict.fromkeys(MANIFESTS, text), **contents})


def inspect(path: Path) -> PackageManifest:
    """Check a package file whole and return its manifest. Raises `RefusedError`."""
    return _read(path)[0]


def inspect_bytes(data: bytes, *, file: str, most_bytes: int = MOST_BYTES) -> PackageManifest:
    """`inspect` of a package in memory; `file` is how faults call it, `most_bytes` bounds what it unpacks to."""
    return _read(io.BytesIO(data), shown=file, most_bytes=most_bytes)[0]


def prompts_in(data: bytes, *, package: str) -> dict[str, Prompt]:
    """The prompts of a package in memory that was checked; `package` is how faults call it. Raises `RefusedError`."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        entries = [entry for entry in archive.infolist() if entry.filename.startswith("prompts/")]
        return packed_prompts([(entry.filename, _bounded(archive, entry)) for entry in entries], package=package)


def install(path: Path, home: Path | None = None, *, replace: bool = False) -> Installed:
    """Check a package and unpack it to `<home>/packages/<name>/<version>/`, whole or not at all.

    Installing the same content again does nothing. Raises `RefusedError`, and `UsageError` where another content is
    installed under that version and `replace` is False.
    """
    manifest, contents = _read(path)
    base = (home or home_dir()) / "packages"
    folder = base / manifest.name / manifest.version
    if folder.exists():
        if _intact(folder, manifest):
            return Installed(manifest.name, manifest.version, folder, manifest)
        if not replace:
            raise UsageError(
                f"{manifest.id} is already installed with another content",
                help="Install it with --force to replace it, or give the package a new version.",
            )
    base.mkdir(parents=True, exist_ok=True)
    unpacked = Path(tempfile.mkdtemp(dir=base, prefix=".installing-"))
    try:
        for name, data in contents.items():
            file = unpacked / name
            file.parent.mkdir(parents=True, exist_ok=True)
            with file.open("wb") as handle:
                handle.write(data)
                handle.flush()
                os.fsync(handle.fileno())
        unpacked.chmod(0o755)
        folder.parent.mkdir(parents=True, exist_ok=True)
        if folder.exists():
            _discard(folder, base)
        unpacked.rename(folder)
    except BaseException:
        shutil.rmtree(unpacked, ignore_errors=True)
        raise
    return Installed(manifest.name, manifest.version, folder, manifest)


def uninstall(name: str, home: Path | None = None) -> list[Installed]:
    """Remove a package (`name`: every version; `name@version`: that one) and say what was removed.

    Raises `UsageError` where there is none.
    """
    wanted, at, version = name.partition("@")
    everything = installed(home)
    found = [item for item in everything if item.name == wanted and (not at or item.version == version)]
    if not found:
        near = did_you_mean(wanted, [item.name for item in everything])
        hint = f"; did you mean {near!r}?" if near and near != wanted else ""
        raise UsageError(f"no package {name!r} is installed{hint}", code=Code.NOT_FOUND)
    base = (home or home_dir()) / "packages"
    for item in found:
        _discard(item.folder, base)
        if not any(item.folder.parent.iterdir()):
            item.folder.parent.rmdir()
    return found


def installed(home: Path | None = None) -> list[Installed]:
    """Every installed package, by name, the newest version first."""
    base = (home or home_dir()) / "packages"
    found = []
    for folder in base.glob("*/*/"):
        if folder.name.startswith(".") or folder.parent.name.startswith("."):
            continue
        try:
            manifest, faults = read_manifest(folder), ()
        except RefusedError as error:
            manifest, faults = None, error.faults  # type: ignore[assignment]
        except OSError as error:
            manifest, faults = None, (Fault(str(error), "$", file=str(folder)),)  # type: ignore[assignment]
        found.append(Installed(folder.parent.name, folder.name, folder, manifest, faults))
    found.sort(key=lambda item: version_key(item.version), reverse=True)
    return sorted(found, key=lambda item: item.name)


def _collect(project: Project, pipelines: Sequence[Path], faults: list[Fault]) -> dict[str, bytes]:
    """Every file of the package by its path in it."""
    names = {MANIFEST, *(path.relative_to(project.root).as_posix() for path in pipelines)}
    for file in component_files(project.root, project.components.include, project.components.exclude):
        names.update(Sources(project.root, file).contents)
    for folder in FOLDERS:
        names.update(visible_files(project.root, folder))
    names.update(path.name for pattern in ("README*", "LICENSE*") for path in project.root.glob(pattern))
    contents: dict[str, bytes] = {}
    for name in sorted(names):
        path = project.root / name
        if _has_link(project.root, name):
            faults.append(Fault("it is a link; a package holds plain files only", "$", file=name))
        elif not safe_path(name):
            faults.append(Fault("its name does not do on every system", "$", file=name))
        elif path.is_file():
            if path.stat().st_size > MOST_FILE_BYTES:
                faults.append(Fault(f"it is larger than {MOST_FILE_BYTES >> 20} MiB", "$", file=name))
            else:
                contents[name] = path.read_bytes()
    if len(contents) > MOST_FILES or sum(map(len, contents.values())) > MOST_BYTES:
        faults.append(
            Fault(f"the package is too large: {MOST_FILES} files or {MOST_BYTES >> 20} MiB are the most", "$")
        )
    return contents


def _has_link(root: Path, name: str) -> bool:
    path = root
    for part in name.split("/"):
        path = path / part
        if path.is_symlink():
            return True
    return False


def _read(
    path: Path | io.BytesIO, *, shown: str | None = None, most_bytes: int = MOST_BYTES
) -> tuple[PackageManifest, dict[str, bytes]]:
    """The manifest and all files of a package, everything checked."""
    shown = shown or str(path)
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            faults = [Fault(reason, "$", file=shown) for reason in _entry_faults(entries, most_bytes)]
            if faults:
                raise RefusedError(faults)
            contents = {entry.filename: _bounded(archive, entry) for entry in entries}
    except _UNREADABLE as error:
        raise RefusedError([Fault(f"not a package: {error}", "$", file=shown)]) from None
    missing = [name for name in MANIFESTS if name not in contents]
    if missing:
        raise RefusedError([Fault(f"not a package: it has no {name}", "$", file=shown) for name in missing])
    if contents[MANIFESTS[0]] != contents[MANIFESTS[1]]:
        raise RefusedError([Fault(f"{MANIFESTS[0]} and {MANIFESTS[1]} differ", "$", file=shown)])
    manifest = decode_manifest(contents[MANIFESTS[0]], file=shown)
    faults = [Fault(reason, "$.files", file=shown) for reason in _content_faults(manifest, contents)]
    for data in manifest.specs:
        try:
            spec = ComponentSpec.from_manifest(data, file=shown)
        except RefusedError as error:
            faults += error.faults
            continue
        if spec.digest != component_digest(spec, manifest.digest):
            faults.append(
                Fault(f"the digest of component {spec.name} does not fit its description", "$.specs", file=shown)
            )
        if spec.target.partition(":")[0] not in manifest.components:
            faults.append(Fault(f"component {spec.name} lies in no file of the package", "$.specs", file=shown))
    if faults:
        raise RefusedError(faults)
    return manifest, contents


def _entry_faults(entries: Sequence[zipfile.ZipInfo], most_bytes: int) -> Iterator[str]:
    if len(entries) > MOST_FILES + len(MANIFESTS):
        yield f"it has {len(entries)} files; {MOST_FILES} are the most"
        return
    if sum(entry.file_size for entry in entries) > most_bytes:
        yield f"unpacked it is larger than {most_bytes >> 20} MiB"
    seen: set[str] = set()
    folders = {str(parent).casefold() for entry in entries for parent in PurePosixPath(entry.filename).parents}
    for entry in entries:
        mode = entry.external_attr >> 16
        if not safe_path(entry.filename):
            yield f"the path {entry.filename!r} leaves the package"
        elif stat.S_IFMT(mode) not in (0, stat.S_IFREG):
            yield f"{entry.filename!r} is no plain file"
        elif entry.file_size > MOST_FILE_BYTES:
            yield f"{entry.filename!r} is larger than {MOST_FILE_BYTES >> 20} MiB"
        elif entry.filename.casefold() in seen or entry.filename.casefold() in folders:
            yield f"{entry.filename!r} is there twice"
        seen.add(entry.filename.casefold())


def _bounded(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
    with archive.open(entry) as file:
        data = file.read(MOST_FILE_BYTES + 1)
    if len(data) != entry.file_size:
        raise ValueError(f"{entry.filename!r} does not have the size that the archive says")
    return data


def _content_faults(manifest: PackageManifest, contents: dict[str, bytes]) -> Iterator[str]:
    for name, packed in manifest.files.items():
        if name not in contents:
            yield f"{name!r} is missing"
        elif len(contents[name]) != packed.size or sha256(contents[name]) != Digest(f"sha256:{packed.sha256}"):
            yield f"{name!r} is not what the manifest says"
    for name in contents:
        if name not in manifest.files and name not in MANIFESTS:
            yield f"{name!r} is not in the manifest"


def _intact(folder: Path, manifest: PackageManifest) -> bool:
    try:
        return read_manifest(folder) == manifest and not any(
            sha256((folder / name).read_bytes()) != f"sha256:{packed.sha256}" for name, packed in manifest.files.items()
        )
    except (RefusedError, OSError):
        return False


def _discard(folder: Path, base: Path) -> None:
    """Take a folder out of sight in one step, then delete it."""
    aside = Path(tempfile.mkdtemp(dir=base, prefix=".removing-"))
    folder.rename(aside / "old")
    shutil.rmtree(aside)
