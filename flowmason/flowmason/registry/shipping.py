"""A project's code as one archive, for workers on machines where the project does not lie.

It holds the modules that declare components, the project's modules that they import, and the files beside those: what
`load_component` reads. The archive is a zip of plain files; the same code gives the same bytes everywhere.
"""

from __future__ import annotations

import io
import os
import shutil
import stat
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from flowmason.errors import Code, StageError
from flowmason.ids import Digest
from flowmason.registry.finding import INCLUDE, component_files
from flowmason.registry.packages import safe_path
from flowmason.registry.places import home_dir
from flowmason.registry.sources import Sources

MOST_FILE_BYTES = 16 * 1024 * 1024
"""Larger files are left behind: data that a component reads, not code."""
_EPOCH = (1980, 1, 1, 0, 0, 0)


def archive_code(root: Path, include: Sequence[str] = INCLUDE, exclude: Sequence[str] = ()) -> bytes | None:
    """The archive of a project's own components; None where it has none. A file that cannot be read is left out."""
    names: set[str] = set()
    for file in component_files(root, include, exclude):
        try:
            names.update(Sources(root, file).contents)
        except OSError:
            continue
    if not names:
        return None
    for folder in {name.partition("/")[0] for name in names if "/" in name}:
        names.update(name for name in visible_files(root, folder) if safe_path(name))
    return zip_files({name: data for name in sorted(names) if (data := _content(root / name)) is not None})


def zip_files(contents: dict[str, bytes]) -> bytes:
    """A zip of these files by their paths in it, the same bytes everywhere."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in sorted(contents):
            entry = zipfile.ZipInfo(name, _EPOCH)
            entry.create_system = 3
            entry.external_attr = (stat.S_IFREG | 0o644) << 16
            # Stored, because zlib's output differs between its builds.
            archive.writestr(entry, contents[name], zipfile.ZIP_STORED)
    return buffer.getvalue()


def visible_files(root: Path, folder: str) -> Iterator[str]:
    """Every file below a folder of `root`, relative to `root`, but for names that start with a dot."""
    for at, folders, files in os.walk(root / folder):
        folders[:] = [name for name in folders if not name.startswith(".") and name != "__pycache__"]
        for name in files:
            if not name.startswith("."):
                yield (Path(at) / name).relative_to(root).as_posix()


def unpack_code(data: bytes, digest: Digest) -> Path:
    """The folder with the files of an archive, `<home>/cache/code/…`, whole and as they were packed.

    Where nothing can be written there it is a temporary folder. Raises `StageError` (`COMPONENT_MISSING`) for what
    is no archive.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            contents = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    except (zipfile.BadZipFile, OSError, EOFError, ValueError) as error:
        raise StageError(f"the code of the project cannot be unpacked: {error}", code=Code.COMPONENT_MISSING) from None
    contents = {name: content for name, content in contents.items() if safe_path(name)}
    base = home_dir() / "cache" / "code"
    folder = base / digest.removeprefix("sha256:")[:32]
    if _holds(folder, contents):
        return folder
    try:
        base.mkdir(parents=True, exist_ok=True)
        return _unpacked(contents, base, folder)
    except OSError:
        return _written(contents, Path(tempfile.mkdtemp(prefix="flowmason-code-")))


def _unpacked(contents: dict[str, bytes], base: Path, folder: Path) -> Path:
    fresh = _written(contents, Path(tempfile.mkdtemp(dir=base, prefix=".unpacking-")))
    fresh.chmod(0o755)
    for _ in range(3):
        try:
            fresh.rename(folder)
            return folder
        except OSError:
            # Another worker was quicker, or what lies there was tampered with.
            if _holds(folder, contents):
                shutil.rmtree(fresh, ignore_errors=True)
                return folder
            shutil.rmtree(folder, ignore_errors=True)
    return fresh


def _written(contents: dict[str, bytes], folder: Path) -> Path:
    for name, content in contents.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    return folder


def _holds(folder: Path, contents: dict[str, bytes]) -> bool:
    try:
        return all((folder / name).read_bytes() == content for name, content in contents.items())
    except OSError:
        return False


def _content(path: Path) -> bytes | None:
    try:
        return path.read_bytes() if path.is_file() and path.stat().st_size <= MOST_FILE_BYTES else None
    except OSError:
        return None
