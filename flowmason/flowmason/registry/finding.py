"""`find_components`: built-ins, other distributions' entry points, a project's own files, installed packages.

Nothing of a user's is imported here: specs come from manifests, or from a child process that imports.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from flowmason.component import ComponentSpec, component_digest, version_key
from flowmason.errors import Fault, RefusedError
from flowmason.ids import sha256
from flowmason.registry.asking import SECONDS, SpecCache, ask
from flowmason.registry.index import Registry
from flowmason.registry.packages import packed_specs, read_manifest
from flowmason.registry.places import home_dir
from flowmason.registry.sources import Sources

GROUP = "flowmason.components"
BUILT_IN = "flowmason.lab:COMPONENTS"
MANIFEST = "manifest.json"
"""Beside a package's `__init__.py`: the specs of its components, so that nobody has to import it."""
INCLUDE = ("components/**/*.py",)


def find_components(
    project_root: Path | None = None,
    *,
    include: Sequence[str] = INCLUDE,
    exclude: Sequence[str] = (),
    packages_dirs: Sequence[Path] = (),
    timeout_s: float = SECONDS,
    use_cache: bool = True,
) -> Registry:
    """Every component that a pipeline of this project may name.

    A project's own component hides an installed one of the same name and version; built-in names are taken. What
    cannot be read becomes one of `Registry.faults`, the rest is still there.
    """
    faults: list[Fault] = []
    built_in = _module_components([BUILT_IN], use_cache, timeout_s, faults)
    own: list[ComponentSpec] = []
    if project_root is not None:
        own = _project_components(project_root.resolve(), include, exclude, use_cache, timeout_s, faults)
    packed = _packed_components(packages_dirs, faults)
    foreign = _module_components(_entry_points(), use_cache, timeout_s, faults)
    taken = {spec.name for spec in built_in}
    layers = [_unique(layer, taken, faults) for layer in (own, packed, foreign)]
    return Registry([*built_in, *(spec for layer in layers for spec in layer)], faults)


def project_components(
    root: Path,
    *,
    include: Sequence[str] = INCLUDE,
    exclude: Sequence[str] = (),
    timeout_s: float = SECONDS,
    use_cache: bool = True,
) -> Registry:
    """A project's own components alone."""
    faults: list[Fault] = []
    taken = {spec.name for spec in module_manifest(BUILT_IN.partition(":")[0]) or ()}
    own = _project_components(root.resolve(), include, exclude, use_cache, timeout_s, faults)
    return Registry(_unique(own, taken, faults), faults)


def _unique(specs: Iterable[ComponentSpec], taken: set[str], faults: list[Fault]) -> list[ComponentSpec]:
    """Refuse built-in names, and one id declared twice in the same layer."""
    kept: dict[str, ComponentSpec] = {}
    for spec in specs:
        where = spec.package or spec.target.partition(":")[0]
        if spec.name in taken:
            faults.append(
                Fault(f"the name {spec.name!r} belongs to a built-in component; choose another", "$", file=where)
            )
        elif spec.id in kept:
            first = kept[spec.id]
            faults.append(
                Fault(
                    f"{spec.id} is already declared by {first.package or first.target.partition(':')[0]}",
                    "$",
                    file=where,
                )
            )
        else:
            kept[spec.id] = spec
    return list(kept.values())


def component_files(root: Path, include: Sequence[str] = INCLUDE, exclude: Sequence[str] = ()) -> list[str]:
    """The Python files that `include` names and `exclude` does not, relative to `root`, sorted."""
    left_out = {path for pattern in exclude for path in root.glob(pattern)}
    found = set()
    for pattern in include:
        for path in root.glob(pattern):
            inside = path.relative_to(root)
            hidden = any(part.startswith(".") or part == "__pycache__" for part in inside.parts)
            if path.suffix == ".py" and path.is_file() and path not in left_out and not hidden:
                found.add(inside.as_posix())
    return sorted(found)


def _project_components(
    root: Path, include: Sequence[str], exclude: Sequence[str], use_cache: bool, timeout_s: float, faults: list[Fault]
) -> list[ComponentSpec]:
    cache = SpecCache(root / ".flowmason" / "cache" / "specs" if use_cache else None)
    files = component_files(root, include, exclude)
    digests: dict[str, dict[str, str]] = {}
    known: dict[str, list[ComponentSpec]] = {}
    for file in files:
        try:
            sources = Sources(root, file)
        except OSError as error:
            faults.append(Fault(f"it cannot be read: {error}", "$", file=file))
            continue
        digests[file] = {path: sha256(data) for path, data in sources.contents.items()}
        remembered = cache.get(file, digests[file])
        if remembered is not None:
            known[file] = _specs(remembered, file, faults)
    unknown = [file for file in digests if file not in known]
    for file, answer in ask(root, files=unknown, timeout_s=timeout_s).items():
        if answer.fault is not None:
            faults.append(answer.fault)
            continue
        known[file] = _specs(answer.specs, file, faults)
        cache.put(file, digests[file], answer.specs)
    if unknown:
        cache.keep_only(files)
    return [spec for file in files for spec in known.get(file, [])]


def _specs(data: Iterable[object], file: str, faults: list[Fault]) -> list[ComponentSpec]:
    specs = []
    for item in data:
        try:
            specs.append(ComponentSpec.from_manifest(item, file=file))
        except RefusedError as error:
            faults += error.faults
    return specs


def _packed_components(folders: Sequence[Path], faults: list[Fault]) -> list[ComponentSpec]:
    """Specs of installed packages. Of several versions of a package, the newest names its components first."""
    specs: dict[tuple[str, str], ComponentSpec] = {}
    for folder in folders:
        for name in sorted(folder.glob("*/")):
            versions = [path for path in name.glob("*/") if not path.name.startswith(".")]
            for version in sorted(versions, key=lambda path: version_key(path.name), reverse=True):
                try:
                    for spec in packed_specs(read_manifest(version), file=str(version)):
                        specs.setdefault((name.name, spec.id), spec)
                except RefusedError as error:
                    faults += error.faults
                except OSError as error:
                    faults.append(Fault(f"not an installed package: {error}", "$", file=str(version)))
    return list(specs.values())


def _entry_points() -> list[str]:
    from importlib.metadata import entry_points

    values = {point.value for point in entry_points(group=GROUP)}
    return sorted(values - {BUILT_IN})


def _module_components(
    values: Sequence[str], use_cache: bool, timeout_s: float, faults: list[Fault]
) -> list[ComponentSpec]:
    """Specs of components in installed modules, from the manifest beside them or from a child that imports."""
    specs: dict[str, list[ComponentSpec]] = {}
    cache = SpecCache(home_dir() / "cache" / "specs" if use_cache else None)
    unknown = []
    for value in values:
        declared = module_manifest(value.partition(":")[0])
        if declared is not None:
            specs[value] = declared
            continue
        remembered = cache.get(value, _file_digests(cache.known_files(value)))
        if remembered:
            specs[value] = _specs(remembered, value, faults)
        else:
            unknown.append(value)
    for value, answer in ask(None, modules=unknown, timeout_s=timeout_s).items():
        if answer.fault is not None:
            faults.append(answer.fault)
            continue
        specs[value] = _specs(answer.specs, value, faults)
        files = {str(path) for spec in specs[value] if (path := module_file(spec.target)) is not None}
        cache.put(value, _file_digests(sorted(files)), answer.specs)
    return [with_module_digest(spec) for value in values for spec in specs.get(value, [])]


def _file_digests(paths: Iterable[str]) -> dict[str, str]:
    digests = {}
    for path in paths:
        try:
            digests[path] = str(sha256(Path(path).read_bytes()))
        except OSError:
            digests[path] = ""
    return digests


def module_file(target: str) -> Path | None:
    """The file of an installed module (`package.module:attribute`), found without importing it."""
    module = target.partition(":")[0]
    top, _, rest = module.partition(".")
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return None
    if spec is None or spec.origin is None:
        return None
    if not rest:
        return Path(spec.origin)
    stem = Path(spec.origin).parent.joinpath(*rest.split("."))
    for candidate in (stem.with_name(stem.name + ".py"), stem / "__init__.py"):
        if candidate.is_file():
            return candidate
    return None


def module_manifest(module: str) -> list[ComponentSpec] | None:
    """The specs that a package ships beside the module's `__init__.py`, without digests; None: it ships none."""
    file = module_file(module)
    if file is None or file.name != "__init__.py":
        return None
    path = file.parent / MANIFEST
    if not path.is_file():
        return None
    try:
        data = json.loads(path.read_bytes())
    except ValueError as error:
        raise RefusedError([Fault(f"not a manifest of components: {error}", "$", file=str(path))]) from None
    if not isinstance(data, dict) or "components" not in data:
        return None
    return [ComponentSpec.from_manifest(item, file=str(path)) for item in data["components"]]


def with_module_digest(spec: ComponentSpec) -> ComponentSpec:
    """The spec of a component in an installed module, its digest made from the module's file."""
    file = module_file(spec.target)
    source = file.read_bytes() if file is not None else b""
    return msgspec.structs.replace(spec, digest=component_digest(spec, source))
