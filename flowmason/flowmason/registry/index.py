"""`Registry`: the components that are there, by name and version."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from flowmason.component import ComponentSpec, snake, version_key
from flowmason.errors import Code, Fault, UsageError, did_you_mean


class Registry(Mapping[str, ComponentSpec]):
    """Component specs by name. `registry["http-request"]` is the newest `http_request`, `registry["x@1.2.0"]` that one.

    Iteration gives each name once.
    """

    def __init__(self, specs: Iterable[ComponentSpec] = (), faults: Iterable[Fault] = ()) -> None:
        """`faults` tell what was found but could not be read. Of two specs with one id, the first is kept."""
        self.faults = tuple(faults)
        self._versions: dict[str, dict[str, ComponentSpec]] = {}
        for spec in specs:
            self._versions.setdefault(spec.name, {}).setdefault(spec.version, spec)
        self._newest = {
            name: max(versions.values(), key=lambda spec: version_key(spec.version))
            for name, versions in self._versions.items()
        }

    def __getitem__(self, key: str) -> ComponentSpec:
        name, at, version = key.partition("@")
        name = snake(name)
        return self._versions[name][version] if at else self._newest[name]

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._newest))

    def __len__(self) -> int:
        return len(self._newest)

    def versions(self, name: str) -> tuple[ComponentSpec, ...]:
        """Every version of one component, the newest first; empty for an unknown name."""
        found = self._versions.get(snake(name), {}).values()
        return tuple(sorted(found, key=lambda spec: version_key(spec.version), reverse=True))

    def specs(self) -> tuple[ComponentSpec, ...]:
        """Every component in every version, by name, the newest first."""
        return tuple(spec for name in self for spec in self.versions(name))

    def nearest(self, name: str) -> str | None:
        """The known name closest to `name`."""
        return did_you_mean(name.partition("@")[0], list(self))

    def require(self, key: str) -> ComponentSpec:
        """Like `registry[key]`, but raises `UsageError` (`COMPONENT_MISSING`) with the nearest name."""
        found = self.get(key)
        if found is not None:
            return found
        name = key.partition("@")[0]
        others = self.versions(name)
        if others:
            hint = "there is " + ", ".join(spec.version for spec in others)
        else:
            nearest = self.nearest(name)
            hint = f"did you mean {nearest!r}?" if nearest else "`fm list components` shows those there are"
        broken = f" ({len(self.faults)} component files could not be read)" if self.faults else ""
        raise UsageError(f"there is no component {key!r}{broken}; {hint}", code=Code.COMPONENT_MISSING)
