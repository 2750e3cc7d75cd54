"""Configuration values with `{{ … }}` in them, and the fields that hold conditions."""

from __future__ import annotations

import math
from typing import Any

import msgspec

from flowmason.errors import ExpressionError
from flowmason.expressions.lexer import check_text, refuse
from flowmason.expressions.limits import MAX_DEPTH, format_place
from flowmason.expressions.names import Names
from flowmason.expressions.parser import parse_bare_condition, parse_embedded
from flowmason.expressions.tree import Expr, Fields, Items, Key, Literal, Static, Template, Text

Place = tuple[Key, ...]


def parse_template(value: Any, names: Names, errors: list[ExpressionError] | None = None) -> Template:
    """A JSON value as a template: the strings in it are parsed wherever they stand, keys are left alone.

    Args:
        value: None, bool, int (64 bits), float, str, list, tuple, or dict with string keys.
        names: what the expressions may name.
        errors: where given, every error is appended there instead of raised, and the string at fault
            becomes null in the result.

    Raises:
        ExpressionError: `details` hold `reason`, `offset` in the string, `place` (the keys down to the
            string, absent at the top) and `nearest` where there is one.
    """
    return _parse(value, names, (), errors)


def parse_condition(value: Any, names: Names, errors: list[ExpressionError] | None = None) -> Template:
    """A field that holds a condition.

    A string is one expression, in which `{{ … }}` stands for parentheses: `item > 3` and `{{item}} > 3` are
    the same. Anything else (a boolean, say) is read by `parse_template`. Arguments and errors as there.
    """
    if not isinstance(value, str):
        return parse_template(value, names, errors)
    try:
        check_text(value, value, 0)
        return _fold(parse_bare_condition(value, names))
    except ExpressionError as error:
        if errors is None:
            raise
        errors.append(error)
        return Static(None)


def field_of(template: Template, key: str) -> Template | None:
    """The template of one field of an object; None where there is no such field or no object."""
    if isinstance(template, Fields):
        return template.fields.get(key)
    if isinstance(template, Static) and isinstance(template.value, dict) and key in template.value:
        return Static(template.value[key])
    return None


def _parse(value: Any, names: Names, place: Place, errors: list[ExpressionError] | None) -> Template:
    if len(place) > MAX_DEPTH:
        return _take(refuse(f"the value is nested more than {MAX_DEPTH} deep", "", 0), place[:8], errors)
    if isinstance(value, str):
        try:
            return _parse_string(value, names, place, errors)
        except ExpressionError as error:
            return _take(error, place, errors)
    if isinstance(value, dict):
        fields: dict[str, Template] = {}
        for key, item in value.items():
            if not isinstance(key, str):
                return _take(refuse(f"the key {key!r} of an object is not a string", "", 0), place, errors)
            fields[key] = _parse(item, names, (*place, key), errors)
        if all(isinstance(field, Static) for field in fields.values()):
            return Static({key: field.value for key, field in fields.items() if isinstance(field, Static)})
        return Fields(fields)
    if isinstance(value, list | tuple):
        items = tuple(_parse(item, names, (*place, index), errors) for index, item in enumerate(value))
        if all(isinstance(item, Static) for item in items):
            return Static([item.value for item in items if isinstance(item, Static)])
        return Items(items)
    if value is None or isinstance(value, bool):
        return Static(value)
    if isinstance(value, int):
        if -(2**63) <= value < 2**64:
            return Static(value)
        return _take(refuse("an integer of more than 64 bits", "", 0), place, errors)
    if isinstance(value, float) and math.isfinite(value):
        return Static(value)
    shown = repr(value) if isinstance(value, float) else f"a {type(value).__name__}"
    return _take(refuse(f"{shown} is no JSON value", "", 0), place, errors)


def _parse_string(source: str, names: Names, place: Place, errors: list[ExpressionError] | None) -> Template:
    """A string; with `errors`, an expression that is wrong does not hide what is wrong with the next one."""
    check_text(source, source, 0)
    if "{{" not in source:
        return Static(source)
    parts: list[str | Expr] = []
    literal = ""
    position = 0
    broken = False
    while (opened := source.find("{{", position)) >= 0:
        literal += source[position:opened]
        if source.startswith("{{{{", opened):
            literal += "{{"
            position = opened + 4
            continue
        try:
            tree, position = parse_embedded(source, opened + 2, names)
        except ExpressionError as error:
            closed = source.find("}}", opened + 2)
            if errors is None or closed < 0:
                raise
            _take(error, place, errors)
            broken, position = True, closed + 2
            continue
        if literal:
            parts.append(literal)
            literal = ""
        parts.append(tree)
    if broken:
        return Static(None)
    literal += source[position:]
    if literal:
        parts.append(literal)
    if len(parts) == 1:
        only = parts[0]
        return Static(only) if isinstance(only, str) else _fold(only)
    return Text(tuple(parts))


def _fold(tree: Expr) -> Template:
    return Static(tree.value) if isinstance(tree, Literal) else tree


def _take(error: ExpressionError, place: Place, errors: list[ExpressionError] | None) -> Static:
    if place:
        failure = error.failure
        details = {**(failure.details or {}), "place": list(place)}
        message = f"{format_place(place)}: {failure.message}"
        error.args = (message,)
        error.failure = msgspec.structs.replace(failure, message=message, details=details)
    if errors is None:
        raise error
    errors.append(error)
    return Static(None)
