"""`load_component`: the class behind a spec, in a worker."""

from __future__ import annotations

import importlib
import operator
import threading
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, cast

import msgspec

from flowmason.component import ComponentSpec, component_digest, is_component, spec_of
from flowmason.errors import Code, FlowMasonError, InvalidOutputError, StageError, did_you_mean
from flowmason.registry.finding import module_manifest, with_module_digest
from flowmason.registry.importing import import_sources
from flowmason.registry.packages import (
    PackageManifest,
    package_name_faults,
    packed_specs,
    read_manifest,
    safe_path,
    verify_files,
)
from flowmason.registry.places import packages_dir as default_packages_dir
from flowmason.registry.sources import Sources

_SCALARS = frozenset({str, int, float, bool, bytes, type(None)})


class ComponentLike(Protocol):
    """What a spec and a Plan's reference to a component have in common."""

    @property
    def name(self) -> str: ...
    @property
    def version(self) -> str: ...
    @property
    def target(self) -> str: ...
    @property
    def package(self) -> str | None: ...
    @property
    def digest(self) -> str: ...


class Loaded:
    """A component that can be run in this process."""

    def __init__(self, spec: ComponentSpec, cls: type[Any]) -> None:
        self.spec = spec
        self.cls = cls
        self._input = cls.Input
        self._output = cls.Output
        self._validate: Callable[[Any], Any] = cls.Input.model_validate
        # Imported here, not on every call: whoever loads a component has pydantic already.
        from pydantic import ValidationError
        from pydantic_core import PydanticSerializationError

        self._plain_fields = _plain_fields(cls.Output)
        self._invalid = ValidationError
        self._unwritable = (PydanticSerializationError, TypeError, ValueError, RecursionError)

    def make(self) -> Any:
        """A fresh instance, for one attempt."""
        return self.cls()

    def validate(self, data: Mapping[str, Any]) -> Any:
        """`data` as an instance of the component's Input. Raises `StageError` (`INVALID_INPUT`) naming every fault."""
        try:
            return self._validate(data)
        except self._invalid as error:
            faults = _faults(error, list(self._input.model_fields))
            raise StageError(
                f"the input of {self.spec.name} is wrong: " + "; ".join(fault["text"] for fault in faults),
                code=Code.INVALID_INPUT,
                details={"errors": [{k: v for k, v in fault.items() if k != "text"} for fault in faults]},
            ) from None

    def dump(self, result: Any) -> Any:
        """What `execute` returned as plain data: an Output, or a dictionary that makes one.

        Dates, enums, decimals and the like become text or numbers as in JSON; bytes stay bytes. Raises
        `InvalidOutputError`.
        """
        if not isinstance(result, self._output):
            if not isinstance(result, Mapping):
                raise InvalidOutputError(
                    f"{self.spec.name} returned {type(result).__name__}, not its Output",
                    help="Return Output(…) from execute.",
                )
            try:
                result = self._output.model_validate(dict(result))
            except self._invalid as error:
                faults = _faults(error, list(self._output.model_fields))
                raise InvalidOutputError(
                    f"the output of {self.spec.name} is wrong: " + "; ".join(fault["text"] for fault in faults),
                    details={"errors": [{k: v for k, v in fault.items() if k != "text"} for fault in faults]},
                ) from None
        if self._plain_fields is not None and type(result) is self._output:
            held = result.__dict__
            if all(type(held.get(name)) is kind for name, kind in self._plain_fields):
                return {name: held[name] for name, _ in self._plain_fields}
        try:
            plain: dict[str, Any] = result.model_dump(by_alias=True, warnings="error")
            if all(type(item) in _SCALARS for item in plain.values()):
                return plain
            return msgspec.to_builtins(plain, builtin_types=(bytes,), str_keys=True, enc_hook=_plain)
        except self._unwritable as error:
            raise InvalidOutputError(f"the output of {self.spec.name} cannot be written as data: {error}") from None


def _plain_fields(model: type[Any]) -> tuple[tuple[str, type], ...] | None:
    """Fields and their types where what they hold is what `model_dump` gives; None where it may differ."""
    from pydantic import BaseModel

    adorned = model.__pydantic_decorators__
    if model.model_dump is not BaseModel.model_dump or model.model_config.get("extra") == "allow":
        return None
    if adorned.computed_fields or adorned.field_serializers or adorned.model_serializers:
        return None
    found: list[tuple[str, type]] = []
    for name, field in model.model_fields.items():
        special = field.metadata or field.serialization_alias or field.exclude or getattr(field, "exclude_if", None)
        if special or field.annotation not in (str, int, float, bool):
            return None
        found.append((name, field.annotation))
    return tuple(found)


_loaded: dict[tuple[str, str, str], Loaded] = {}
_verified: dict[str, PackageManifest] = {}
_lock = threading.RLock()


def load_component(ref: ComponentLike, *, project_root: Path | None = None, packages_dir: Path | None = None) -> Loaded:
    """Import the component of a spec (or of a Plan's reference) in this process, once per digest.

    A target `path.py:attribute` is looked for in the unpacked package if `ref.package` names one (below
    `packages_dir`, default `~/.flowmason/packages`), else below `project_root`. Raises `StageError`:
    `COMPONENT_CHANGED` where the code there is not the code that `ref.digest` was made from, `COMPONENT_MISSING`
    where it is not there or cannot be imported.
    """
    base = str((packages_dir or default_packages_dir()) if ref.package else project_root or "")
    key = (base, ref.target, ref.digest)
    found = _loaded.get(key)
    if found is not None and ref.digest:
        return found
    with _lock:
        loaded = _load(ref, project_root, packages_dir or default_packages_dir())
        if ref.digest and loaded.spec.digest != ref.digest:
            raise StageError(
                f"component {ref.name}@{ref.version} is not the one that the run was compiled with",
                code=Code.COMPONENT_CHANGED,
                details={"expected": ref.digest, "found": loaded.spec.digest},
                help="Run again, or resume with --accept-changes.",
            )
        _loaded[key] = loaded
        return loaded


def _load(ref: ComponentLike, project_root: Path | None, packages_dir: Path) -> Loaded:
    place, _, attribute = ref.target.partition(":")
    try:
        if ref.package is not None:
            return _from_package(ref, ref.package, packages_dir)
        if place.endswith(".py"):
            if project_root is None:
                raise _missing(ref, "it belongs to a project, and none was given")
            if not safe_path(place):
                raise _missing(ref, "its file lies outside the project")
            sources = Sources(project_root.resolve(), place)
            cls = _class(import_sources(sources), attribute, ref)
            spec = msgspec.structs.replace(spec_of(cls), target=ref.target)
            return Loaded(msgspec.structs.replace(spec, digest=component_digest(spec, sources.digest)), cls)
        cls = _class(importlib.import_module(place), attribute, ref)
        return Loaded(with_module_digest(_shipped_spec(ref.target) or spec_of(cls)), cls)
    except OSError as error:
        raise _missing(ref, str(error)) from None
    except FlowMasonError as error:
        if isinstance(error, StageError):
            raise
        raise StageError(str(error), code=error.failure.code, help=error.failure.help) from None
    except Exception as error:  # whatever importing a user's module raises
        reason = f"importing {place} raised {type(error).__name__}: {error}"
        missing = _missing(ref, reason)
        missing.failure = msgspec.structs.replace(missing.failure, trace=traceback.format_exc()[-4000:])
        raise missing from error


def _from_package(ref: ComponentLike, package: str, packages_dir: Path) -> Loaded:
    place, _, attribute = ref.target.partition(":")
    name, _, version = package.rpartition("@")
    if package_name_faults(name, version):
        raise _missing(ref, f"{package!r} is not the name of a package")
    root = (packages_dir / name / version).resolve()
    manifest = _manifest(root)
    declared = {spec.target: spec for spec in packed_specs(manifest)}.get(ref.target)
    if declared is None or place not in manifest.files:
        raise _missing(ref, f"{package} has no {ref.target}")
    sources = Sources(root, place)
    strange = [path for path in sources.contents if path not in manifest.files]
    if strange:
        raise StageError(
            f"{root / strange[0]} was not packed into {package}",
            code=Code.COMPONENT_CHANGED,
            help="Install the package again.",
        )
    return Loaded(declared, _class(import_sources(sources), attribute, ref))


def _manifest(root: Path) -> PackageManifest:
    """The manifest of an unpacked package whose files were checked against it, once per process and content."""
    manifest = read_manifest(root)
    known = _verified.get(str(root))
    if known is None or known.digest != manifest.digest:
        verify_files(root, manifest)
        _verified[str(root)] = manifest
    return manifest


def _class(module: Any, attribute: str, ref: ComponentLike) -> type[Any]:
    try:
        cls = operator.attrgetter(attribute)(module)
    except AttributeError:
        hint = did_you_mean(attribute, [name for name, value in vars(module).items() if is_component(value)])
        raise _missing(ref, f"no {attribute!r} there" + (f" (did you mean {hint!r}?)" if hint else "")) from None
    if not is_component(cls):
        raise _missing(ref, f"{attribute!r} is not a component")
    return cast("type[Any]", cls)


def _shipped_spec(target: str) -> ComponentSpec | None:
    """The spec in the manifest of the innermost package that ships one for `target`."""
    parts = target.partition(":")[0].split(".")
    for count in range(len(parts), 0, -1):
        for spec in module_manifest(".".join(parts[:count])) or ():
            if spec.target == target:
                return spec
    return None


def _missing(ref: ComponentLike, reason: str) -> StageError:
    return StageError(
        f"component {ref.name}@{ref.version} ({ref.target}) cannot be loaded: {reason}", code=Code.COMPONENT_MISSING
    )


def _faults(error: Any, known: list[str]) -> list[dict[str, str]]:
    """A pydantic error as data, without the values: they may be secret."""
    faults = []
    for item in error.errors(include_input=False, include_url=False, include_context=False):
        path = ".".join(str(part) for part in item["loc"])
        message = item["msg"]
        if item["type"] == "extra_forbidden":
            message = "unknown field"
            hint = did_you_mean(str(item["loc"][-1]), known) if len(item["loc"]) == 1 else None
            if hint:
                message += f" (did you mean {hint!r}?)"
        faults.append({"path": path, "message": message, "type": item["type"], "text": f"{path}: {message}"})
    return faults


def _plain(value: Any) -> Any:
    """What msgspec does not know by itself: pydantic models that hid in a field of type Any, paths, URLs."""
    dump = getattr(value, "model_dump", None)
    if dump is not None:
        return dump()
    if type(value).__module__.partition(".")[0] in ("pydantic", "pydantic_core", "pathlib"):
        return str(value)
    raise TypeError(f"{type(value).__name__} is not data")
