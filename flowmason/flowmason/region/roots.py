"""What a stage's templates can see, loaded only when they look."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from flowmason import control, value
from flowmason.errors import Failure
from flowmason.expressions import ABSENT
from flowmason.ids import StageId
from flowmason.region.data import Data
from flowmason.value import Value

if TYPE_CHECKING:
    from flowmason.region.context import StageContext
    from flowmason.region.run import RegionRun
    from flowmason.state import StageState


class Upstream(dict[str, Any]):
    """Outputs by stage id, read on first use; `ABSENT` for a stage that was skipped or did not run."""

    def __init__(self, data: Data, look_up: Callable[[StageId], Value | None]) -> None:
        super().__init__()
        self._data = data
        self._look_up = look_up

    def __missing__(self, key: str) -> Any:
        found = self._look_up(StageId(key))
        loaded = ABSENT if found is None else self._data.load(found)
        self[key] = loaded
        return loaded

    def get(self, key: str, default: Any = None) -> Any:
        return self[key]


class Roots(dict[str, Any]):
    """`input`, `upstream`, `context`, `env`, `error` and the loop variables of one stage, made when they are read."""

    __slots__ = ("_context", "_run", "_stage")

    def __init__(self, run: RegionRun, stage: StageState, upstream: Upstream, context: StageContext) -> None:
        super().__init__(upstream=upstream)
        self._run = run
        self._stage = stage
        self._context = context

    def __missing__(self, key: str) -> Any:
        maker = _MAKERS.get(key)
        made = self[key] = maker(self) if maker is not None else self._local(key)
        return made

    def _local(self, name: str) -> Any:
        run = self._run
        source, position = run.locals_of(self._stage)[name]
        return run.data.load(source) if position < 0 else fresh(run.items_of(source)[position])

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys((*super().__iter__(), *_MAKERS, *self._run.locals_of(self._stage))))

    def __contains__(self, key: object) -> bool:
        return super().__contains__(key) or key in _MAKERS or key in self._run.locals_of(self._stage)


_MAKERS: dict[str, Callable[[Roots], Any]] = {
    "input": lambda roots: roots._run.input_of(roots._stage),
    "context": lambda roots: roots._context.as_root(),
    "env": lambda roots: roots._context.environment,
    "error": lambda roots: error_root(roots._run.error_of(roots._stage)),
}


def fresh(item: Any) -> Any:
    """A copy of plain data that may be changed; what cannot be changed is returned as it is."""
    return value.decode(value.encode(item)) if isinstance(item, dict | list) else item


def error_root(failure: Failure | None) -> Any:
    """`error` in a catch or finally; null where nothing failed."""
    return None if failure is None else control.error_view(failure)
