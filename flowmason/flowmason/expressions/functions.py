"""The functions an expression may call. Each takes the meter and its evaluated arguments.

`default` is among the names but not among the implementations: its first argument may fail, so the
evaluator treats it itself.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from flowmason.expressions.limits import Fail, Meter, shorten
from flowmason.expressions.operators import contains, finite, is_number, kind, splice, to_json

_INTEGER = re.compile(r"\s*([+-]?)([0-9]+)\s*")
_DECIMAL = re.compile(r"\s*[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]{1,5})?\s*")


def _string(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise Fail(f"{name}() needs a string, not {kind(value)}")
    return value


def _list(name: str, value: Any) -> list[Any] | tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise Fail(f"{name}() needs a list, not {kind(value)}")
    return value


def _object(name: str, value: Any) -> Mapping[Any, Any]:
    if not isinstance(value, Mapping):
        raise Fail(f"{name}() needs an object, not {kind(value)}")
    return value


def _number(name: str, value: Any) -> Any:
    if not is_number(value):
        raise Fail(f"{name}() needs a number, not {kind(value)}")
    return value


def _integer(name: str, value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise Fail(f"{name}() needs an integer, not {kind(value)}")
    return value


def _alike(name: str, values: list[Any] | tuple[Any, ...], meter: Meter) -> None:
    """Refuse anything but all numbers or all strings."""
    meter.charge(1 + (len(values) >> 4))
    if all(map(is_number, values)) or all(isinstance(value, str) for value in values):
        return
    odd = next((value for value in values if kind(value) != kind(values[0])), None)
    both = kind(values[0]) if odd is None else f"{kind(values[0])} and {kind(odd)}"
    raise Fail(f"{name}() compares numbers with numbers or strings with strings, not {both}")


def _len(meter: Meter, value: Any) -> int:
    if isinstance(value, str | list | tuple | Mapping):
        return len(value)
    help = "Where it may be null, write len(default(…, []))." if value is None else None
    raise Fail(f"len() needs a string, a list or an object, not {kind(value)}", help)


def _upper(meter: Meter, text: Any) -> str:
    meter.check_string(len(_string("upper", text)))
    return str(text.upper())


def _lower(meter: Meter, text: Any) -> str:
    meter.check_string(len(_string("lower", text)))
    return str(text.lower())


def _trim(meter: Meter, text: Any) -> str:
    meter.check_string(len(_string("trim", text)))
    return str(text.strip())


def _split(meter: Meter, text: Any, separator: Any = None) -> list[str]:
    meter.charge(len(_string("split", text)) >> 6)
    if separator is None:
        if len(text) > 2 * meter.items:
            meter.check_items(len(text) // 2)
        meter.charge(len(text) >> 5)
        return text.split()  # type: ignore[no-any-return]
    if not _string("split", separator):
        raise Fail("split() needs a separator that is not empty")
    meter.check_items(text.count(separator) + 1)
    return text.split(separator)  # type: ignore[no-any-return]


def _join(meter: Meter, items: Any, separator: Any = "") -> str:
    _list("join", items)
    _string("join", separator)
    meter.charge(1 + (len(items) >> 2))
    length = len(separator) * max(0, len(items) - 1)
    meter.check_string(length)
    texts = []
    for item in items:
        text = splice(item, meter)
        length += len(text)
        if length > meter.string:
            meter.check_string(length)
        texts.append(text)
    meter.check_string(length)
    return str(separator.join(texts))


def _replace(meter: Meter, text: Any, old: Any, new: Any) -> str:
    for argument in (text, old, new):
        _string("replace", argument)
    if not old:
        raise Fail("replace() needs something to look for that is not empty")
    meter.charge(len(text) >> 6)
    meter.check_string(len(text) + text.count(old) * (len(new) - len(old)))
    return str(text.replace(old, new))


def _round(meter: Meter, number: Any, digits: Any = None) -> Any:
    _number("round", number)
    if digits is None:
        try:
            return round(number)
        except (OverflowError, ValueError):
            raise Fail("NaN and infinity cannot be rounded") from None
    if not -400 <= _integer("round", digits) <= 400:
        raise Fail("round() takes -400 to 400 digits")
    try:
        return finite(round(number, digits), meter)
    except OverflowError:
        raise Fail("the result is not a finite number") from None


def _abs(meter: Meter, number: Any) -> Any:
    return abs(_number("abs", number))


def _choose(name: str, pick: Callable[[Any], Any]) -> Callable[..., Any]:
    def function(meter: Meter, *arguments: Any) -> Any:
        values = _list(name, arguments[0]) if len(arguments) == 1 else arguments
        if not values:
            raise Fail(f"{name}() of an empty list", f"Write {name}([…] + […]) with a value that is always there.")
        _alike(name, values, meter)
        return pick(values)

    return function


def _sum(meter: Meter, items: Any) -> Any:
    meter.charge(1 + (len(_list("sum", items)) >> 4))
    if not all(map(is_number, items)):
        odd = next(item for item in items if not is_number(item))
        raise Fail(f"sum() adds numbers, not {kind(odd)}")
    if any(isinstance(item, int) and item.bit_length() > meter.integer_bits for item in items):
        meter.check_bits(meter.integer_bits + 1)
    try:
        return finite(sum(items), meter)
    except OverflowError:
        raise Fail("the result is not a finite number") from None


def _sorted(meter: Meter, items: Any) -> list[Any]:
    meter.check_items(len(_list("sorted", items)))
    meter.charge(len(items) >> 2)
    if items:
        _alike("sorted", items, meter)
    return sorted(items)


def _keys(meter: Meter, value: Any) -> list[Any]:
    meter.check_items(len(_object("keys", value)))
    return list(value)


def _values(meter: Meter, value: Any) -> list[Any]:
    meter.check_items(len(_object("values", value)))
    return list(value.values())


def _range(meter: Meter, *bounds: Any) -> list[int]:
    for bound in bounds:
        _integer("range", bound)
    if len(bounds) == 3 and bounds[2] == 0:
        raise Fail("range() needs a step that is not 0")
    numbers = range(*bounds)
    try:
        count = len(numbers)
    except OverflowError:
        count = meter.items + 1
    meter.check_items(count)
    return list(numbers)


def _json(meter: Meter, value: Any) -> str:
    return to_json(value, meter)


def _contains(meter: Meter, container: Any, item: Any) -> bool:
    return contains(container, item, meter)


def _starts_with(meter: Meter, text: Any, start: Any) -> bool:
    meter.charge(len(_string("starts_with", start)) >> 10)
    return _string("starts_with", text).startswith(start)


def _ends_with(meter: Meter, text: Any, end: Any) -> bool:
    meter.charge(len(_string("ends_with", end)) >> 10)
    return _string("ends_with", text).endswith(end)


def _str(meter: Meter, value: Any) -> str:
    return splice(value, meter)


def _int(meter: Meter, value: Any) -> int:
    if isinstance(value, bool | int):
        return int(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise Fail("NaN and infinity are no integers")
        return int(value)
    if isinstance(value, str):
        meter.charge(len(value) >> 6)
        found = _INTEGER.fullmatch(value)
        if found is None:
            raise Fail(f"{shorten(value)} is not an integer")
        meter.check_bits(int(len(found[2]) * 3.33))
        if len(found[2]) > 4000:
            raise Fail("an integer of more than 4000 digits")
        return int(value)
    raise Fail(f"int() reads numbers, booleans and strings, not {kind(value)}")


def _float(meter: Meter, value: Any) -> float:
    if isinstance(value, str):
        meter.charge(len(value) >> 6)
        if len(value) > 1000 or _DECIMAL.fullmatch(value) is None:
            raise Fail(f"{shorten(value)} is not a number")
    elif not isinstance(value, int | float):
        raise Fail(f"float() reads numbers, booleans and strings, not {kind(value)}")
    try:
        return float(finite(float(value), meter))
    except OverflowError:
        raise Fail("the number is too large for a float") from None


def _bool(meter: Meter, value: Any) -> bool:
    return bool(value)


_IMPLEMENTED: dict[str, tuple[int, int | None, Callable[..., Any]]] = {
    "abs": (1, 1, _abs),
    "bool": (1, 1, _bool),
    "contains": (2, 2, _contains),
    "ends_with": (2, 2, _ends_with),
    "float": (1, 1, _float),
    "int": (1, 1, _int),
    "join": (1, 2, _join),
    "json": (1, 1, _json),
    "keys": (1, 1, _keys),
    "len": (1, 1, _len),
    "lower": (1, 1, _lower),
    "max": (1, None, _choose("max", max)),
    "min": (1, None, _choose("min", min)),
    "range": (1, 3, _range),
    "replace": (3, 3, _replace),
    "round": (1, 2, _round),
    "sorted": (1, 1, _sorted),
    "split": (1, 2, _split),
    "starts_with": (2, 2, _starts_with),
    "str": (1, 1, _str),
    "sum": (1, 1, _sum),
    "trim": (1, 1, _trim),
    "upper": (1, 1, _upper),
    "values": (1, 1, _values),
}

FUNCTIONS: dict[str, Callable[..., Any]] = {name: function for name, (_, _, function) in _IMPLEMENTED.items()}
"""What runs, by name."""

ARITY: dict[str, tuple[int, int | None]] = {name: (least, most) for name, (least, most, _) in _IMPLEMENTED.items()}
"""The least and the most arguments (None: any number) of every function, `default` included."""
ARITY["default"] = (2, 2)
