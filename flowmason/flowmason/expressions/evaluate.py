"""Evaluation: a tree is turned once into nested closures, which then run against the roots.

A closure takes the roots and a meter. Inside, a path below a stage that did not run stays `ABSENT` until
the whole of it has been walked, and becomes null at its end.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, assert_never

from flowmason.errors import ExpressionError
from flowmason.expressions.functions import FUNCTIONS
from flowmason.expressions.limits import ABSENT, DEFAULT_BUDGET, Budget, Fail, Meter, Missing
from flowmason.expressions.operators import ARITHMETIC, compare, negate, splice, take
from flowmason.expressions.tree import (
    Access,
    Arithmetic,
    Call,
    Choose,
    Compare,
    Expr,
    Fields,
    Items,
    Literal,
    Logic,
    MakeList,
    MakeObject,
    Negate,
    Not,
    Path,
    Static,
    Template,
    Text,
    children,
    depth,
)
from flowmason.expressions.unparse import format_keys, unparse

Roots = Mapping[str, Any]
Prepared = Callable[[Roots, Budget | None], Any]
_Closure = Callable[[Roots, Meter], Any]


def evaluate(tree: Template, roots: Roots, budget: Budget | None = None) -> Any:
    """The value of an expression or a template.

    Args:
        tree: what `parse_expression`, `parse_template` or `parse_condition` gave.
        roots: the value of every root that is read; `upstream` maps stage ids to outputs, `ABSENT` for a
            stage that did not run. Values are plain JSON data, any Mapping (read key by key, so it may
            load lazily) and bytes. They are never changed; a result may be the very object that lies in
            `roots`.
        budget: what the evaluation may use; `Budget()` where None.

    Raises:
        ExpressionError: a key is missing, types do not fit, or the budget is used up. `details` hold `place`,
            `path`, `key` and `nearest` where they apply.
    """
    return prepare(tree)(roots, budget)


def prepare(tree: Template) -> Prepared:
    """`evaluate` for one tree, as a function of roots and budget; made once per tree and kept with it."""
    kept: Prepared | None = tree.__dict__.get("prepared_")
    if kept is None:
        kept = tree.__dict__["prepared_"] = _prepare(tree)
    return kept


def static_value(template: Template) -> Any:
    """The value of a template for which `is_static` holds. Raises `ExpressionError` as `evaluate` does."""
    return evaluate(template, {})


def _prepare(tree: Template) -> Prepared:
    closure = _template(tree)
    levels = _deepest(tree)

    def run(roots: Roots, budget: Budget | None = None) -> Any:
        meter = Meter(budget or DEFAULT_BUDGET)
        if levels > meter.depth:
            raise ExpressionError(f"the expression is nested more than {meter.depth} deep")
        try:
            return closure(roots, meter)
        except Fail as fail:
            raise fail.error() from None
        except RecursionError:
            raise ExpressionError("a value is nested too deeply") from None

    return run


def _deepest(tree: Template) -> int:
    """The depth of the deepest expression."""
    if isinstance(tree, Fields | Items | Text):
        return max((_deepest(child) for child in children(tree)), default=0)
    return depth(tree)


def _template(tree: Template) -> _Closure:
    if isinstance(tree, Static):
        return _static(tree.value)
    if isinstance(tree, Text):
        return _text(tree)
    if isinstance(tree, Fields):
        return _fields(tree)
    if isinstance(tree, Items):
        return _items(tree)
    return _expression(tree)


def _static(value: Any) -> _Closure:
    if isinstance(value, dict | list):
        # The Plan's own data: a component that changes its input must not change it.
        return lambda roots, meter: _copy(value)
    return lambda roots, meter: value


def _copy(value: Any) -> Any:
    if type(value) is dict:
        return {key: _copy(item) for key, item in value.items()}
    if type(value) is list:
        return [_copy(item) for item in value]
    return value


def _text(tree: Text) -> _Closure:
    parts = [part if isinstance(part, str) else _expression(part) for part in tree.parts]

    def run(roots: Roots, meter: Meter) -> str:
        pieces = []
        length = 0
        for part in parts:
            piece = part if isinstance(part, str) else splice(part(roots, meter), meter)
            length += len(piece)
            if length > meter.string:
                meter.check_string(length)
            pieces.append(piece)
        meter.check_string(length)
        return "".join(pieces)

    return run


def _fields(tree: Fields) -> _Closure:
    parts = [(key, _template(part)) for key, part in tree.fields.items()]

    def run(roots: Roots, meter: Meter) -> dict[str, Any]:
        made = {}
        key = ""
        try:
            for key, part in parts:
                made[key] = part(roots, meter)
        except Fail as fail:
            fail.place.insert(0, key)
            raise
        return made

    return run


def _items(tree: Items) -> _Closure:
    parts = [_template(part) for part in tree.items]

    def run(roots: Roots, meter: Meter) -> list[Any]:
        made: list[Any] = []
        try:
            for part in parts:
                made.append(part(roots, meter))
        except Fail as fail:
            fail.place.insert(0, len(made))
            raise
        return made

    return run


def _expression(tree: Expr) -> _Closure:
    match tree:
        case Literal(value):
            return lambda roots, meter: value
        case Path() | Access():
            return _settled(tree)
        case Not(operand):
            inner = _expression(operand)
            return lambda roots, meter: not inner(roots, meter)
        case Negate(operand):
            number = _expression(operand)
            return lambda roots, meter: negate(number(roots, meter))
        case Arithmetic():
            return _arithmetic(tree)
        case Compare():
            return _compare(tree)
        case Logic():
            return _logic(tree)
        case Choose(then, condition, otherwise):
            yes, test, no = _expression(then), _expression(condition), _expression(otherwise)
            return lambda roots, meter: yes(roots, meter) if test(roots, meter) else no(roots, meter)
        case MakeList(items):
            makers = [_expression(item) for item in items]
            return lambda roots, meter: [maker(roots, meter) for maker in makers]
        case MakeObject(fields):
            pairs = [(key, _expression(item)) for key, item in fields]
            return lambda roots, meter: {key: maker(roots, meter) for key, maker in pairs}
        case Call():
            return _call(tree)
        case _:
            assert_never(tree)


def _settled(tree: Path | Access) -> _Closure:
    """A whole path: what is absent becomes null."""
    raw = _path(tree) if isinstance(tree, Path) else _access(tree)
    if isinstance(tree, Path) and tree.root != "upstream":
        return raw

    def run(roots: Roots, meter: Meter) -> Any:
        value = raw(roots, meter)
        return None if value is ABSENT else value

    return run


def _path(tree: Path) -> _Closure:
    root, path = tree.root, tree.path

    def run(roots: Roots, meter: Meter) -> Any:
        try:
            value = roots[root]
            key: Any
            for key in path:
                # A dictionary may load what is missing by itself (`__missing__`).
                if isinstance(value, dict) or (type(value) is list and type(key) is int):
                    value = value[key]
                elif value is ABSENT:
                    return ABSENT
                else:
                    return _walk(tree, roots)
        except (KeyError, IndexError):
            return _walk(tree, roots)
        return value

    return run


def _walk(tree: Path, roots: Roots) -> Any:
    """The careful way: for values that are no plain dict or list, and to say what is wrong."""
    try:
        value = roots[tree.root]
    except KeyError:
        raise Missing(tree.root, roots, str) from None
    for position, key in enumerate(tree.path):
        if value is ABSENT:
            return ABSENT

        def owner(keys: tuple[str | int, ...] = tree.path[:position]) -> str:
            return tree.root + format_keys(keys)

        value = take(value, key, owner)
    return value


def _access(tree: Access) -> _Closure:
    target = tree.target
    if isinstance(target, Path):
        raw = _path(target)
    else:
        raw = _access(target) if isinstance(target, Access) else _expression(target)
    key = _expression(tree.key)

    def owner() -> str:
        text = unparse(target)
        return text if len(text) <= 80 else text[:80] + "…"

    def run(roots: Roots, meter: Meter) -> Any:
        meter.charge(1)
        value = raw(roots, meter)
        index = key(roots, meter)
        return ABSENT if value is ABSENT else take(value, index, owner)

    return run


def _arithmetic(tree: Arithmetic) -> _Closure:
    first = _expression(tree.first)
    steps = [(ARITHMETIC[op], _expression(operand)) for op, operand in zip(tree.ops, tree.rest, strict=True)]

    def run(roots: Roots, meter: Meter) -> Any:
        value = first(roots, meter)
        for operation, operand in steps:
            meter.charge(1)
            value = operation(value, operand(roots, meter), meter)
        return value

    return run


def _compare(tree: Compare) -> _Closure:
    first = _expression(tree.first)
    steps = [(op, _expression(operand)) for op, operand in zip(tree.ops, tree.rest, strict=True)]

    def run(roots: Roots, meter: Meter) -> bool:
        left = first(roots, meter)
        for op, operand in steps:
            right = operand(roots, meter)
            if not compare(op, left, right, meter):
                return False
            left = right
        return True

    return run


def _logic(tree: Logic) -> _Closure:
    operands = [_expression(operand) for operand in tree.operands]
    stop = tree.op == "or"

    def run(roots: Roots, meter: Meter) -> Any:
        value: Any = None
        for operand in operands:
            value = operand(roots, meter)
            if bool(value) is stop:
                return value
        return value

    return run


def _call(tree: Call) -> _Closure:
    if tree.function == "default":
        return _default(tree)
    function = FUNCTIONS[tree.function]
    arguments = [_expression(argument) for argument in tree.arguments]

    def run(roots: Roots, meter: Meter) -> Any:
        meter.charge(1)
        return function(meter, *[argument(roots, meter) for argument in arguments])

    return run


def _default(tree: Call) -> _Closure:
    wanted, fallback = (_expression(argument) for argument in tree.arguments)

    def run(roots: Roots, meter: Meter) -> Any:
        meter.charge(1)
        try:
            value = wanted(roots, meter)
        except Missing:
            value = None
        return fallback(roots, meter) if value is None else value

    return run
