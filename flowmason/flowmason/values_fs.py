"""Values as files: in a local folder, or on anything that fsspec reaches (`s3://…`, `memory://`).

Keys are `<org>/<aa>/<bb>/<hex>`, two levels so that no folder grows too large. A file is written whole
or not at all; what is read for the first time is held against its digest, so that a damaged file is a
missing value and never a wrong one.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import re
import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from flowmason.errors import Code, FlowMasonError, Retry, UsageError
from flowmason.ids import Digest, OrgId, sha256
from flowmason.places import org_name, state_dir
from flowmason.policy import LARGE
from flowmason.values import ValueStore
from flowmason.values_cache import Cache, Pages

CACHE_BYTES = 64 * 1024 * 1024
"""How much of what it wrote and read a process keeps, over all stores. Large values are kept by who decodes them."""
PAGES_BYTES = 64 * 1024 * 1024
"""How much of the large values that it wrote last a process leaves in the system's page cache."""
REWRITE_AFTER_S = 3600.0
"""A remote value that was put longer ago is written again: object stores cannot touch."""
_PIECE = 1024 * 1024
_STALE_S = 24 * 3600.0
_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")
_TRY_AGAIN = (errno.EAGAIN, errno.EINTR, errno.EBUSY, errno.ETIMEDOUT, errno.ESTALE)


def default_values_url(project_root: Path | None, environ: Mapping[str, str]) -> str:
    """`FLOWMASON_VALUES_URL`, else `values/` in the project's `.flowmason`, else in the home folder.

    Raises `UsageError` where they would lie in a folder that dies with a Ray job.
    """
    return environ.get("FLOWMASON_VALUES_URL") or str(state_dir(project_root, environ).absolute() / "values")


def open_values(url: str) -> ValueStore:
    """The store at a path, a `file://` URL or any URL of fsspec. Touches nothing yet.

    Raises `UsageError` for a URL of a kind that fsspec does not know or whose package is missing.
    """
    scheme, separator, _ = url.partition("://")
    if not separator:
        return FolderValues(Path(url).expanduser().absolute())
    if scheme in ("file", "local"):
        parts = urlsplit(url)
        return FolderValues(Path(unquote(parts.netloc + parts.path)).absolute())
    return RemoteValues(url)


_cache = Cache(CACHE_BYTES)
_pages = Pages(PAGES_BYTES)


class FolderValues:
    """Values in a local folder (or one that all nodes mount)."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.location = str(root)

    def __reduce__(self) -> tuple[Callable[[Path], FolderValues], tuple[Path]]:
        return FolderValues, (self.root,)

    def put(self, org_id: OrgId, digest: Digest, data: bytes) -> None:
        path = self._path(org_id, digest)
        try:
            if not _touch(path, len(data)):
                _write_whole(path, data)
        except OSError as error:
            raise _storage(f"value {digest} cannot be stored under {self.root}", error) from error
        _cache.put(str(path), bytes(data))

    def put_file(self, org_id: OrgId, digest: Digest, file: Path) -> None:
        path = self._path(org_id, digest)
        try:
            if not _touch(path, file.stat().st_size):
                with file.open("rb") as source, _new_file(path) as handle:
                    while piece := source.read(_PIECE):
                        _write(handle, piece)
        except OSError as error:
            raise _storage(f"value {digest} cannot be stored under {self.root}", error) from error

    def get(self, org_id: OrgId, digest: Digest) -> bytes:
        path = self._path(org_id, digest)
        data = _cache.get(str(path))
        if data is None:
            try:
                data = _bytes_of(path)
            except FileNotFoundError:
                raise _missing(digest, str(self.root), "it is not there") from None
            except OSError as error:
                raise _storage(f"value {digest} cannot be read from {self.root}", error) from error
            if sha256(data) != digest:
                # Out of the way, so that the next `put` writes it anew.
                with contextlib.suppress(OSError):
                    path.rename(path.with_name(f".{path.name}.damaged"))
                raise _missing(digest, str(path), f"its {len(data)} bytes there are damaged")
            _cache.put(str(path), data)
        return data

    def has(self, org_id: OrgId, digest: Digest) -> bool:
        return self._path(org_id, digest).is_file()

    def touch(self, org_id: OrgId, digest: Digest) -> bool:
        path = self._path(org_id, digest)
        try:
            os.utime(path)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise _storage(f"value {digest} cannot be marked under {self.root}", error) from error
        return True

    def delete(self, org_id: OrgId, digest: Digest, untouched_s: float = 0.0) -> bool:
        path = self._path(org_id, digest)
        aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.gone")
        try:
            if untouched_s and time.time() - path.stat().st_mtime < untouched_s:
                return False
            # Aside first: a `put` at the same moment either touches the file before, and it is seen
            # below, or finds nothing and writes it anew.
            path.rename(aside)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise _storage(f"value {digest} cannot be removed from {self.root}", error) from error
        _cache.drop(str(path))
        if untouched_s and time.time() - aside.stat().st_mtime < untouched_s:
            aside.rename(path)
            return False
        aside.unlink()
        return True

    async def untouched(self, org_id: OrgId, seconds: float) -> AsyncIterator[tuple[Digest, int]]:
        """See the port. Files that a killed writer left behind are removed on the way, after a day."""
        before = time.time() - seconds
        for folder in await asyncio.to_thread(lambda: sorted(self._org(org_id).glob("??/??"))):
            for digest, size in await asyncio.to_thread(_old_files, folder, before):
                yield digest, size

    def _org(self, org_id: OrgId) -> Path:
        return self.root / org_name(org_id)

    def _path(self, org_id: OrgId, digest: Digest) -> Path:
        name = _hex(digest)
        return self._org(org_id) / name[:2] / name[2:4] / name


class RemoteValues:
    """Values behind a URL of fsspec. Every file is written by one call, which object stores do whole."""

    def __init__(self, url: str) -> None:
        self.url = self.location = url
        try:
            import fsspec

            self._fs, root = fsspec.core.url_to_fs(url)
        except (ValueError, ImportError) as error:
            raise UsageError(
                f"values cannot lie at {url}: {error}",
                help="Use a folder, or a URL that fsspec knows, as s3://bucket/path.",
            ) from error
        self._root = str(root).rstrip("/")

    def __reduce__(self) -> tuple[Callable[[str], RemoteValues], tuple[str]]:
        return RemoteValues, (self.url,)

    def put(self, org_id: OrgId, digest: Digest, data: bytes) -> None:
        path = self._path(org_id, digest)
        try:
            found = self._info(path)
            fresh = found is not None and found.get("size") == len(data) and self._age(path) < REWRITE_AFTER_S
            if not fresh:
                self._fs.makedirs(path.rpartition("/")[0], exist_ok=True)
                self._fs.pipe_file(path, bytes(data))
        except Exception as error:
            raise _storage(f"value {digest} cannot be stored at {self.url}", error) from error
        _cache.put(self._key(path), bytes(data))

    def put_file(self, org_id: OrgId, digest: Digest, file: Path) -> None:
        path = self._path(org_id, digest)
        try:
            self._fs.makedirs(path.rpartition("/")[0], exist_ok=True)
            self._fs.put_file(str(file), path)
        except Exception as error:
            raise _storage(f"value {digest} cannot be stored at {self.url}", error) from error

    def get(self, org_id: OrgId, digest: Digest) -> bytes:
        path = self._path(org_id, digest)
        data = _cache.get(self._key(path))
        if data is None:
            try:
                data = bytes(self._fs.cat_file(path))
            except FileNotFoundError:
                raise _missing(digest, self.url, "it is not there") from None
            except Exception as error:
                raise _storage(f"value {digest} cannot be read from {self.url}", error) from error
            if sha256(data) != digest:
                # Out of the way, so that the next `put` writes it anew.
                with contextlib.suppress(Exception):
                    self._fs.rm_file(path)
                raise _missing(digest, self.url, f"its {len(data)} bytes there are damaged")
            _cache.put(self._key(path), data)
        return data

    def has(self, org_id: OrgId, digest: Digest) -> bool:
        path = self._path(org_id, digest)
        try:
            return self._info(path) is not None
        except Exception as error:
            raise _storage(f"value {digest} cannot be looked up at {self.url}", error) from error

    def touch(self, org_id: OrgId, digest: Digest) -> bool:
        path = self._path(org_id, digest)
        try:
            if self._info(path) is None:
                return False
            if self._age(path) >= REWRITE_AFTER_S:  # an object has no date but that of its writing
                self._fs.pipe_file(path, bytes(self._fs.cat_file(path)))
        except FileNotFoundError:
            return False
        except Exception as error:
            raise _storage(f"value {digest} cannot be marked at {self.url}", error) from error
        return True

    def delete(self, org_id: OrgId, digest: Digest, untouched_s: float = 0.0) -> bool:
        path = self._path(org_id, digest)
        try:
            if self._info(path) is None or (untouched_s and self._age(path) < untouched_s):
                return False
            self._fs.rm_file(path)
        except FileNotFoundError:
            return False
        except Exception as error:
            raise _storage(f"value {digest} cannot be removed from {self.url}", error) from error
        _cache.drop(self._key(path))
        return True

    async def untouched(self, org_id: OrgId, seconds: float) -> AsyncIterator[tuple[Digest, int]]:
        """See the port."""
        for digest, size in await asyncio.to_thread(self._old, org_id, seconds):
            yield digest, size

    def _old(self, org_id: OrgId, seconds: float) -> list[tuple[Digest, int]]:
        try:
            files: dict[str, dict[str, Any]] = self._fs.find(f"{self._root}/{org_name(org_id)}", detail=True)
            return [
                (Digest(f"sha256:{name}"), int(found.get("size") or 0))
                for path, found in sorted(files.items())
                if _DIGEST.fullmatch(f"sha256:{(name := path.rpartition('/')[2])}") and self._age(path) >= seconds
            ]
        except FileNotFoundError:
            return []
        except Exception as error:
            raise _storage(f"the values at {self.url} cannot be listed", error) from error

    def _age(self, path: str) -> float:
        return time.time() - float(self._fs.modified(path).timestamp())

    def _info(self, path: str) -> dict[str, Any] | None:
        # A listing that fsspec remembers would hide what other processes do.
        self._fs.invalidate_cache()
        try:
            found: dict[str, Any] = self._fs.info(path)
            return found
        except FileNotFoundError:
            return None

    def _key(self, path: str) -> str:
        return f"{self.url}\n{path}"

    def _path(self, org_id: OrgId, digest: Digest) -> str:
        name = _hex(digest)
        return f"{self._root}/{org_name(org_id)}/{name[:2]}/{name[2:4]}/{name}"


def _hex(digest: str) -> str:
    match = _DIGEST.fullmatch(digest)
    if match is None:
        raise FlowMasonError(f"{digest!r} is not the digest of a value", code=Code.VALUE_MISSING)
    return match[1]


def _bytes_of(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        # A sweep that had looked before somebody put it again holds it aside for a moment, and puts it back.
        for aside in path.parent.glob(f".{path.name}.*.gone"):
            with contextlib.suppress(FileNotFoundError):
                return aside.read_bytes()
        return path.read_bytes()


def _touch(path: Path, size: int) -> bool:
    """Mark an existing file as put now. False where there is none, or one of another size."""
    try:
        if path.stat().st_size != size:
            return False
        os.utime(path)
    except FileNotFoundError:
        return False
    return True


@contextlib.contextmanager
def _new_file(path: Path) -> Iterator[int]:
    """The descriptor of a file that takes its name once all is written and synced."""
    if not path.parent.is_dir():
        # Values are for their owner; whoever shares a folder of values makes it, with the mode that it is to have.
        path.parents[3].mkdir(parents=True, exist_ok=True, mode=0o700)
        path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        try:
            yield handle
            os.fsync(handle)
        finally:
            os.close(handle)
        temporary.rename(path)
        _sync_folder(path.parent)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def _write_whole(path: Path, data: bytes) -> None:
    with _new_file(path) as handle:
        _write(handle, data)
    if len(data) >= LARGE:
        _pages.wrote(path, len(data))


def _write(handle: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(handle, rest) :]


def _sync_folder(folder: Path) -> None:
    """Make the new name survive a power cut as well as the content does."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _old_files(folder: Path, before: float) -> list[tuple[Digest, int]]:
    found = []
    with contextlib.suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):
                status = entry.stat()
                if entry.name.startswith("."):
                    if status.st_mtime < time.time() - _STALE_S:
                        Path(entry.path).unlink()
                elif status.st_mtime <= before and _DIGEST.fullmatch(f"sha256:{entry.name}"):
                    found.append((Digest(f"sha256:{entry.name}"), status.st_size))
    return found


def _missing(digest: Digest, place: str, why: str) -> FlowMasonError:
    return FlowMasonError(
        f"value {digest} cannot be had from {place}: {why}",
        code=Code.VALUE_MISSING,
        help="Check that FLOWMASON_VALUES_URL is the same on every node and that nobody removed files there.",
    )


def _storage(what: str, error: Exception) -> FlowMasonError:
    number = getattr(error, "errno", None)
    if number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return FlowMasonError(f"{what}: no room ({error})", code=Code.STORAGE, help="Make room and resume the run.")
    remote = number is None or number in _TRY_AGAIN
    return FlowMasonError(f"{what}: {error}", code=Code.STORAGE, retry=Retry.NOW if remote else Retry.NEVER)
