"""What a stage's templates can see, loaded only when they look."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from flowmason import control, value
from flowmason.errors import Failure
from flowmason.expressions import ABSENT
from flowmason.ids import StageId
from flowmason.region.data import Data
from flowmason.value import Value


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


class Roots(Mapping[str, Any]):
    """`input`, `upstream`, `context`, `env`, `error` and the loop variables of one stage."""

    __slots__ = ("_known", "_makers")

    def __init__(self, known: dict[str, Any], makers: dict[str, Callable[[], Any]]) -> None:
        self._known = known
        self._makers = makers

    def __getitem__(self, key: str) -> Any:
        try:
            return self._known[key]
        except KeyError:
            made = self._known[key] = self._makers[key]()
            return made

    def bind(self, name: str, item: Any) -> None:
        """Make `name` known."""
        self._known[name] = item

    def __iter__(self) -> Iterator[str]:
        return iter({**self._makers, **self._known})

    def __len__(self) -> int:
        return len({**self._makers, **self._known})


def local_makers(
    data: Data, locals_: Mapping[str, tuple[Value, int]], lists: dict[int, list[Any]]
) -> dict[str, Callable[[], Any]]:
    """Makers of the loop variables. `lists` caches decoded item lists by identity of their value."""

    def make(source: Value, position: int) -> Any:
        if position < 0:
            return data.load(source)
        items = lists.get(id(source))
        if items is None:
            items = lists[id(source)] = data.load(source)
        return fresh(items[position])

    return {name: partial(make, source, position) for name, (source, position) in locals_.items()}


def fresh(item: Any) -> Any:
    """A copy of plain data that may be changed; what cannot be changed is returned as it is."""
    return value.decode(value.encode(item)) if isinstance(item, dict | list) else item


def error_root(failure: Failure | None) -> Any:
    """`error` in a catch or finally; null where nothing failed."""
    return None if failure is None else control.error_view(failure)
