"""Trees back to source, in one canonical spelling. Parsing what is written here gives an equal tree."""

from __future__ import annotations

import re
from typing import Any, assert_never

from flowmason.expressions.tree import (
    Access,
    Arithmetic,
    Call,
    Choose,
    Compare,
    Expr,
    Fields,
    Items,
    Key,
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
)

_BRACES = re.compile(r"\{(?=\{)")
_PLAIN_FIELD = re.compile(r"\w+(?:-\w+)*")
_ESCAPES = {"\\": "\\\\", "'": "\\'", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\b": "\\b", "\f": "\\f"}
_CONSTANTS = {None: "null", True: "true", False: "false"}

_CHOOSE, _OR, _AND, _NOT, _COMPARE, _SUM, _PRODUCT, _SIGN, _POSTFIX, _PRIMARY = range(10)


def unparse(tree: Expr) -> str:
    """The canonical source of an expression."""
    return _write(tree, _CHOOSE)


def unparse_template(template: Template) -> Any:
    """The JSON value that `parse_template` reads as `template`."""
    if isinstance(template, Static):
        return _escape(template.value)
    if isinstance(template, Fields):
        return {key: unparse_template(part) for key, part in template.fields.items()}
    if isinstance(template, Items):
        return [unparse_template(part) for part in template.items]
    if isinstance(template, Text):
        return "".join(_escape(part) if isinstance(part, str) else _braced(part) for part in template.parts)
    return _braced(template)


def quote(text: str) -> str:
    """A string literal in single quotes."""
    written = "".join(_ESCAPES.get(character) or _control(character) for character in text)
    # Inside a condition a bare {{ would open a template.
    return "'" + _BRACES.sub(r"\\u007b", written) + "'"


def format_keys(keys: tuple[Key, ...]) -> str:
    """The part of a path after its root: `.body[0]['a key']`."""
    return "".join(_step(key) for key in keys)


def _step(key: Key) -> str:
    if isinstance(key, int):
        return f"[{key}]"
    return f".{key}" if _PLAIN_FIELD.fullmatch(key) and not key.isdigit() else f"[{quote(key)}]"


def _control(character: str) -> str:
    return f"\\u{ord(character):04x}" if character < " " or character in "\x7f\u2028\u2029" else character


def _braced(tree: Expr) -> str:
    return "{{ " + unparse(tree) + " }}"


def _escape(value: Any) -> Any:
    if isinstance(value, str):
        return value.replace("{{", "{{{{")
    if isinstance(value, list):
        return [_escape(item) for item in value]
    if isinstance(value, dict):
        return {key: _escape(item) for key, item in value.items()}
    return value


def _write(tree: Expr, least: int) -> str:
    """`tree`, in parentheses where it binds more loosely than `least`."""
    level, text = _render(tree)
    return text if level >= least else f"({text})"


def _render(tree: Expr) -> tuple[int, str]:
    match tree:
        case Literal(value):
            return _literal(value)
        case Path(root, path):
            return _PRIMARY, root + format_keys(path)
        case Access(target, Literal(str() as key)):
            return _POSTFIX, _write(target, _POSTFIX) + _step(key)
        case Access(target, key):
            return _POSTFIX, f"{_write(target, _POSTFIX)}[{unparse(key)}]"
        case Not(operand):
            return _NOT, "not " + _write(operand, _NOT)
        case Negate(operand):
            text = _write(operand, _SIGN)
            # A minus just before a digit belongs to the number.
            return _SIGN, f"-({text})" if text[0].isdigit() else f"-{text}"
        case Arithmetic(first, ops, rest):
            level = _SUM if ops[0] in "+-" else _PRODUCT
            return level, _chain(first, ops, rest, level)
        case Compare(first, ops, rest):
            return _COMPARE, _chain(first, ops, rest, _COMPARE)
        case Logic(op, operands):
            level = _OR if op == "or" else _AND
            return level, f" {op} ".join(_write(operand, level + 1) for operand in operands)
        case Choose(then, condition, otherwise):
            return _CHOOSE, f"{_write(then, _OR)} if {_write(condition, _OR)} else {_write(otherwise, _CHOOSE)}"
        case MakeList(items):
            return _PRIMARY, "[" + ", ".join(map(unparse, items)) + "]"
        case MakeObject(fields):
            return _PRIMARY, "{" + ", ".join(f"{quote(key)}: {unparse(item)}" for key, item in fields) + "}"
        case Call(function, arguments):
            return _PRIMARY, f"{function}(" + ", ".join(map(unparse, arguments)) + ")"
        case _:
            assert_never(tree)


def _literal(value: bool | int | float | str | None) -> tuple[int, str]:
    if value is None or isinstance(value, bool):
        return _PRIMARY, _CONSTANTS[value]
    if isinstance(value, str):
        return _PRIMARY, quote(value)
    # A number takes no postfix; a negative one is folded like a sign.
    return _SIGN, repr(value)


def _chain(first: Expr, ops: tuple[str, ...], rest: tuple[Expr, ...], level: int) -> str:
    text = _write(first, level + 1)
    for op, operand in zip(ops, rest, strict=True):
        text += f" {op} {_write(operand, level + 1)}"
    return text
