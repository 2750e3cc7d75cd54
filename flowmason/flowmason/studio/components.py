"""Which components an org's pipelines may name: built-ins, packages installed on the server, and the org's own.

Nothing here imports a component: specs are JSON in manifests.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import msgspec

from flowmason.component import ComponentSpec
from flowmason.errors import Fault, RefusedError
from flowmason.ids import Digest
from flowmason.package import prompts_in
from flowmason.prompt import Prompt
from flowmason.registry import Registry, find_components, packages_dir
from flowmason.registry.finding import BUILT_IN, module_manifest
from flowmason.registry.packages import decode_manifest, packed_specs
from flowmason.studio import schema
from flowmason.studio.scope import Scope

_LOOK_S = 2.0
"""So often the folder of installed packages is looked at."""
_KEPT = 256


class Components(msgspec.Struct, frozen=True):
    """The components of one org at one moment."""

    registry: Registry
    digest: Digest
    """Over every spec and prompt: the same ones give the same digest."""
    prompts: Mapping[str, Prompt] = {}
    """The prompts in the org's packages; of two with one name that of the package uploaded last."""


class Catalogue:
    """Finds the components of orgs and remembers them. One per process; thread-safe."""

    def __init__(self, packages: Path | None = None, monotonic: Callable[[], float] = time.monotonic) -> None:
        """`packages`: where the server's packages are installed, default `~/.flowmason/packages`."""
        self._packages = packages
        self._clock = monotonic
        self._lock = threading.Lock()
        self._server: tuple[tuple[str, ...], Registry] | None = None
        self._looked = 0.0
        self._known: OrderedDict[tuple[str, ...], Components] = OrderedDict()

    def of(self, scope: Scope) -> Components:
        """The components that pipelines of the scope's org may name."""
        table = schema.packages
        rows = scope.find(table, columns=(table.c.package_id, table.c.digest), order_by=(table.c.uploaded_at.desc(),))
        server, stamp = self.server()
        key = (*stamp, *(f"{row['package_id']}:{row['digest']}" for row in rows))
        with self._lock:
            found = self._known.get(key)
            if found is not None:
                self._known.move_to_end(key)
                return found
        own: list[ComponentSpec] = []
        columns = (table.c.manifest, table.c.digest)
        for row in scope.find(table, columns=columns, order_by=(table.c.uploaded_at.desc(),)):
            packed = packed_specs(decode_manifest(row["manifest"].encode(), file="manifest.json"))
            own += [msgspec.structs.replace(spec, archive=Digest(row["digest"])) for spec in packed]
        prompts: dict[str, Prompt] = {}
        faults = list(server.faults)
        for row in scope.find(table, columns=columns, order_by=(table.c.uploaded_at.desc(),)):
            if any(name.startswith("prompts/") for name in _files(row["manifest"])):
                try:
                    prompts = {**_prompts(scope, Digest(row["digest"])), **prompts}
                except RefusedError as error:  # of a package that was uploaded before prompts were read
                    faults += error.faults
        found = _components([*own, *server.specs()], faults, prompts)
        with self._lock:
            self._known[key] = found
            while len(self._known) > _KEPT:
                self._known.popitem(last=False)
        return found

    def server(self) -> tuple[Registry, tuple[str, ...]]:
        """The components of every org, and a stamp that changes with them."""
        with self._lock:
            now = self._clock()
            if self._server is not None and now - self._looked < _LOOK_S:
                return self._server[1], self._server[0]
            folder = self._packages or packages_dir()
            stamp = _stamp(folder)
            if self._server is None or self._server[0] != stamp:
                self._server = (stamp, find_components(packages_dirs=[folder]))
            self._looked = now
            return self._server[1], stamp

    def refresh(self) -> tuple[Fault, ...]:
        """Read the server's components again now; returns what could not be read."""
        with self._lock:
            self._server, self._looked = None, 0.0
            self._known.clear()
        return self.server()[0].faults


def built_in_names() -> frozenset[str]:
    """Names that no package may use."""
    return frozenset(spec.name for spec in module_manifest(BUILT_IN.partition(":")[0]) or ())


def _files(manifest: str) -> Iterable[str]:
    return decode_manifest(manifest.encode(), file="manifest.json").files


def _prompts(scope: Scope, digest: Digest) -> dict[str, Prompt]:
    table = schema.packages
    columns = (table.c.data, table.c.name, table.c.version)
    rows = scope.find(table, table.c.digest == digest, columns=columns)
    return prompts_in(bytes(rows[0]["data"]), package=f"{rows[0]['name']}@{rows[0]['version']}") if rows else {}


def _components(specs: Sequence[ComponentSpec], faults: Sequence[Fault], prompts: Mapping[str, Prompt]) -> Components:
    registry = Registry(specs, faults)
    lines = sorted(f"{spec.id}\0{spec.digest}\0{spec.package}\n" for spec in registry.specs())
    lines += [f"{prompt.id}\n" for _, prompt in sorted(prompts.items())]
    return Components(registry, Digest("sha256:" + hashlib.sha256("".join(lines).encode()).hexdigest()), prompts)


def _stamp(folder: Path) -> tuple[str, ...]:
    """What changes when a package is installed or removed: its folders and when they were made."""
    found = []
    for version in sorted(folder.glob("*/*/")):
        if not any(part.startswith(".") for part in version.relative_to(folder).parts):
            found.append(f"{version.parent.name}@{version.name}:{version.stat().st_mtime_ns}")
    return tuple(found)
