"""What one evaluation may cost, the meter that counts it, and how an evaluation fails inside.

Inside the package an evaluation fails with `Fail`, which is cheap to raise and to catch (`default()`
does so on every missing key); `evaluate` turns it into an `ExpressionError` at the door.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Mapping
from itertools import islice
from typing import Any, Final, Never

import msgspec

from flowmason.errors import ExpressionError, did_you_mean

MAX_DEPTH = 64
"""Deepest nesting of one expression, and of the configuration value around it."""
MAX_SOURCE = 20_000
"""Most characters of one expression."""


class Absent:
    """The type of `ABSENT`, the value of a stage that did not run."""

    _only: Absent | None = None

    def __new__(cls) -> Absent:
        if cls._only is None:
            cls._only = super().__new__(cls)
        return cls._only

    def __repr__(self) -> str:
        return "ABSENT"

    def __bool__(self) -> bool:
        return False

    def __reduce__(self) -> str:
        return "ABSENT"


ABSENT: Final = Absent()


class Budget(msgspec.Struct, frozen=True):
    """The most that one evaluation of one template may use; more is an `ExpressionError`."""

    steps: int = 100_000
    """Operations. What walks data costs more: about one step for 4 to 16 elements or 64 characters."""
    depth: int = MAX_DEPTH
    """Nesting of an expression, and of a value written as JSON."""
    string: int = 1_000_000
    """Characters of a string that is made (one that is only passed on may be longer)."""
    items: int = 1_000_000
    """Elements of a list that is made."""
    integer_bits: int = 4096


DEFAULT_BUDGET = Budget()


class Fail(Exception):
    """An evaluation failed. `place` grows on the way out: the keys of the template it happened under."""

    def __init__(self, reason: str, help: str | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.help = help
        self.place: list[str | int] = []

    def describe(self) -> tuple[str, dict[str, Any]]:
        """The sentence for a person, and details."""
        return self.reason, {}

    def error(self) -> ExpressionError:
        """The public form."""
        sentence, details = self.describe()
        if self.place:
            details["place"] = self.place
            sentence = f"{format_place(self.place)}: {sentence}"
        return ExpressionError(sentence, help=self.help, details=details or None)


class Missing(Fail):
    """A key, a position or a root is not there. `default()` takes it; its sentence is made only if nobody does."""

    def __init__(self, key: object, container: object, owner: Callable[[], str]) -> None:
        super().__init__("missing")
        self._key = key
        self._container = container
        self._owner = owner

    def describe(self) -> tuple[str, dict[str, Any]]:
        owner, key, container = self._owner(), self._key, self._container
        details: dict[str, Any] = {"path": owner, "key": key}
        self.help = "Where it may be missing, write default(…, fallback)."
        if container is None:
            what = f"field {shorten(key)}" if isinstance(key, str) else f"element {key}"
            return f"{owner} is null: null has no {what}", details
        if isinstance(container, Mapping):
            if not owner:
                return f"{key} has no value here", {"path": key}
            names = [name for name in islice(container, 1000) if isinstance(name, str)]
            near = nearest(key, names) if isinstance(key, str) else None
            if near is not None:
                details["nearest"] = near
            if isinstance(key, str) and "-" in key and key.split("-")[0] in container:
                self.help = "A hyphen without spaces belongs to the name; to subtract put spaces around it."
            hint = f" (did you mean {near!r}?)" if near is not None else ""
            return f"{owner} has no field {shorten(key)}{hint}", details
        return f"{owner} has {len(container)} elements, none at {key}", details  # type: ignore[arg-type]


class Meter:
    """Counts what one evaluation uses. Checks come before the work they are about."""

    __slots__ = ("depth", "integer_bits", "items", "left", "string")

    def __init__(self, budget: Budget) -> None:
        self.left = budget.steps
        self.depth = budget.depth
        self.string = budget.string
        self.items = budget.items
        self.integer_bits = budget.integer_bits

    def charge(self, steps: int) -> None:
        """Use up `steps`."""
        self.left -= steps
        if self.left < 0:
            self._over("takes too many steps")

    def check_string(self, length: int) -> None:
        """Before a string of `length` characters is made."""
        if length > self.string:
            self._over(f"would make a string of {length} characters, {self.string} are allowed")
        self.charge(1 + (length >> 6))

    def check_items(self, count: int) -> None:
        """Before a list of `count` elements is made."""
        if count > self.items:
            self._over(f"would make a list of {count} elements, {self.items} are allowed")
        self.charge(1 + (count >> 4))

    def check_bits(self, bits: int) -> None:
        """Before an integer of `bits` bits is made."""
        if bits > self.integer_bits:
            self._over(f"would make an integer of {bits} bits, {self.integer_bits} are allowed")

    def _over(self, what: str) -> Never:
        raise Fail(f"the expression {what}", "Do heavy work in a component, not in an expression.")


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name closest to `name`; looks closely at the 200 that begin most alike, so that it stays quick."""
    if len(name) > 100:
        return None
    plausible = sorted(other for other in known if abs(len(other) - len(name)) <= 4)
    if len(plausible) > 200:
        plausible = heapq.nlargest(200, plausible, key=lambda other: _common_start(name, other))
    return did_you_mean(name, plausible)


def _common_start(left: str, right: str) -> int:
    for position, (a, b) in enumerate(zip(left, right, strict=False)):
        if a != b:
            return position
    return min(len(left), len(right))


def shorten(value: object) -> str:
    """`repr`, for a message."""
    if isinstance(value, str):
        return repr(value) if len(value) <= 60 else repr(value[:60]) + "…"
    return repr(value)[:60]


def format_place(place: Iterable[str | int]) -> str:
    """A place in a configuration value as people read it: `headers.Accept[0]`."""
    text = ""
    for part in place:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text
