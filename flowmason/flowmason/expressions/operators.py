"""What operators do with values: JSON's types, Python's readings, and never a Python object's own methods.

Values are None, bool, int, float, str, list or tuple, dict or another Mapping, and bytes (opaque). A
boolean is no number. Nothing here trusts a value to be small: work is charged to the meter first.
"""

from __future__ import annotations

import json
import math
import operator
from collections.abc import Callable, Mapping
from typing import Any

from flowmason.expressions.limits import Fail, Meter, Missing, shorten


def kind(value: object) -> str:
    """The name of a value's type, as messages give it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, int | float):
        return "a number"
    if isinstance(value, str):
        return "a string"
    if isinstance(value, list | tuple):
        return "a list"
    if isinstance(value, Mapping):
        return "an object"
    return "bytes" if isinstance(value, bytes | bytearray | memoryview) else f"opaque ({type(value).__name__})"


def is_number(value: object) -> bool:
    """Whether arithmetic takes `value`."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def take(container: Any, key: Any, owner: Callable[[], str]) -> Any:
    """`container[key]`, the container called `owner()` in messages.

    Raises `Missing` for what is not there, `Fail` for what cannot be.
    """
    if container is None:
        raise Missing(key, None, owner)
    if isinstance(container, Mapping):
        if isinstance(key, str) or (isinstance(key, int) and not isinstance(key, bool)):
            try:
                return container[key]
            except KeyError:
                raise Missing(key, container, owner) from None
        raise Fail(f"{owner()} is an object: its keys are strings, not {kind(key)}")
    if isinstance(container, list | tuple | str):
        if isinstance(key, int) and not isinstance(key, bool):
            try:
                return container[key]
            except IndexError:
                raise Missing(key, container, owner) from None
        if isinstance(container, str):
            raise Fail(f"{owner()} is a string: it has no field {shorten(key)}")
        raise Fail(f"{owner()} is a list: its positions are integers, not {shorten(key)}", "Write [0] for the first.")
    raise Fail(f"{owner()} is {kind(container)}: it has no field {shorten(key)}")


def finite(number: float | int, meter: Meter) -> float | int:
    """A result, refused where it is NaN, infinite or too wide."""
    if isinstance(number, int):
        meter.check_bits(number.bit_length())
    elif not math.isfinite(number):
        raise Fail("the result is not a finite number")
    return number


def add(left: Any, right: Any, meter: Meter) -> Any:
    """Numbers, two strings or two lists."""
    if is_number(left) and is_number(right):
        return _number(left, right, meter, operator.add)
    if isinstance(left, str) and isinstance(right, str):
        meter.check_string(len(left) + len(right))
        return left + right
    if isinstance(left, list | tuple) and isinstance(right, list | tuple):
        meter.check_items(len(left) + len(right))
        return [*left, *right]
    mixed = isinstance(left, str) != isinstance(right, str)
    help = "To write a value into text use str(…) or a template." if mixed else None
    raise Fail(f"+ does not join {kind(left)} and {kind(right)}", help)


def subtract(left: Any, right: Any, meter: Meter) -> Any:
    return _number(left, right, meter, operator.sub)


def multiply(left: Any, right: Any, meter: Meter) -> Any:
    if isinstance(left, int) and isinstance(right, int):
        meter.check_bits(left.bit_length() + right.bit_length() - 1)
    return _number(left, right, meter, operator.mul)


def divide(left: Any, right: Any, meter: Meter) -> Any:
    """True division: always a float."""
    return _number(left, right, meter, operator.truediv)


def modulo(left: Any, right: Any, meter: Meter) -> Any:
    """The remainder with the sign of the divisor, as in Python."""
    return _number(left, right, meter, operator.mod)


def negate(value: Any) -> Any:
    if not is_number(value):
        raise Fail(f"- needs a number, not {kind(value)}")
    return -value


_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), default=dict)
_SIGNS = {
    operator.add: "+",
    operator.sub: "-",
    operator.mul: "*",
    operator.truediv: "/",
    operator.mod: "%",
}
ARITHMETIC: dict[str, Callable[[Any, Any, Meter], Any]] = {
    "+": add,
    "-": subtract,
    "*": multiply,
    "/": divide,
    "%": modulo,
}


def _number(left: Any, right: Any, meter: Meter, operation: Callable[[Any, Any], Any]) -> Any:
    if not (is_number(left) and is_number(right)):
        raise Fail(f"{_SIGNS[operation]} needs numbers, not {kind(left)} and {kind(right)}")
    try:
        return finite(operation(left, right), meter)
    except ZeroDivisionError:
        raise Fail("division by zero") from None
    except OverflowError:
        raise Fail("the result is not a finite number") from None


def equal(left: Any, right: Any, meter: Meter) -> bool:
    """Whether two values are the same JSON value; `1 == 1.0`, but `1 != true`."""
    waiting = [(left, right)]
    while waiting:
        a, b = waiting.pop()
        if isinstance(a, bool) or isinstance(b, bool) or a is None or b is None:
            if a is not b:
                return False
        elif isinstance(a, str) and isinstance(b, str):
            if len(a) != len(b):
                return False
            meter.charge(len(a) >> 10)
            if a != b:
                return False
        elif isinstance(a, int | float) and isinstance(b, int | float):
            if a != b:
                return False
        elif isinstance(a, list | tuple) and isinstance(b, list | tuple):
            if len(a) != len(b):
                return False
            meter.charge(1 + (len(a) >> 2))
            waiting.extend(zip(a, b, strict=True))
        elif isinstance(a, Mapping) and isinstance(b, Mapping):
            if len(a) != len(b):
                return False
            meter.charge(1 + (len(a) >> 2))
            for key, value in a.items():
                if key not in b:
                    return False
                waiting.append((value, b[key]))
        elif isinstance(a, bytes) and isinstance(b, bytes):
            meter.charge(len(a) >> 10)
            if a != b:
                return False
        else:
            return False
    return True


def ordered(op: str, left: Any, right: Any, meter: Meter) -> bool:
    """`< <= > >=` between two numbers or two strings."""
    if is_number(left) and is_number(right):
        pass
    elif isinstance(left, str) and isinstance(right, str):
        meter.charge(min(len(left), len(right)) >> 10)
    else:
        help = "Where it may be null, write default(…, fallback)." if left is None or right is None else None
        raise Fail(f"{op} does not compare {kind(left)} and {kind(right)}", help)
    if op == "<":
        return bool(left < right)
    if op == "<=":
        return bool(left <= right)
    return bool(left > right) if op == ">" else bool(left >= right)


def contains(container: Any, item: Any, meter: Meter) -> bool:
    """`item in container`: an element of a list, a part of a string, a key of an object."""
    if isinstance(container, str):
        if not isinstance(item, str):
            raise Fail(f"a string contains strings, not {kind(item)}")
        meter.charge(len(container) >> 6)
        return item in container
    if isinstance(container, list | tuple):
        meter.charge(len(container) >> 4)
        if item is None or isinstance(item, bool):
            return any(element is item for element in container)
        if isinstance(item, str):
            return any(isinstance(element, str) and element == item for element in container)
        return any(equal(element, item, meter) for element in container)
    if isinstance(container, Mapping):
        return isinstance(item, str) and item in container
    raise Fail(f"{kind(container)} contains nothing: `in` needs a list, a string or an object")


def compare(op: str, left: Any, right: Any, meter: Meter) -> bool:
    """One comparison of a chain."""
    meter.charge(1)
    if op == "==":
        return equal(left, right, meter)
    if op == "!=":
        return not equal(left, right, meter)
    if op == "in":
        return contains(right, left, meter)
    if op == "not in":
        return not contains(right, left, meter)
    return ordered(op, left, right, meter)


def splice(value: Any, meter: Meter) -> str:
    """A value as it is written into text: a string bare, null empty, the rest as compact JSON."""
    if isinstance(value, str):
        return value
    return "" if value is None else to_json(value, meter)


def to_json(value: Any, meter: Meter) -> str:
    """Compact JSON, in the order of the keys."""
    if value is True:
        return "true"
    if value is False:
        return "false"
    if type(value) is int:
        meter.check_bits(value.bit_length())
        return repr(value)
    _weigh(value, meter)
    text = _ENCODER.encode(value)
    meter.check_string(len(text))
    return text


def _weigh(value: Any, meter: Meter) -> None:
    """Refuse a value that JSON cannot hold or that is too large or too deep to write."""
    length = 0
    waiting = [(value, 1)]
    while waiting:
        item, level = waiting.pop()
        length += 2
        if item is None or isinstance(item, bool):
            continue
        if isinstance(item, str):
            length += len(item)
        elif isinstance(item, int):
            meter.check_bits(item.bit_length())
        elif isinstance(item, float):
            if not math.isfinite(item):
                raise Fail("NaN and infinity cannot be written as JSON")
        elif isinstance(item, list | tuple):
            meter.charge(1 + (len(item) >> 2))
            waiting.extend([(element, level + 1) for element in item])
        elif isinstance(item, Mapping):
            meter.charge(1 + (len(item) >> 2))
            for key, element in item.items():
                if not isinstance(key, str):
                    raise Fail(f"a key that is {kind(key)} cannot be written as JSON")
                length += len(key)
                waiting.append((element, level + 1))
        else:
            raise Fail(f"{kind(item)} cannot be written as text")
        if level > meter.depth:
            raise Fail(f"the value is nested more than {meter.depth} deep")
        if length > meter.string:
            meter.check_string(length)
