"""The syntax tree: frozen structs that are stored in a Plan as they are.

Expressions (`Expr`) compute a value. Templates (`Template`) are whole configuration values in which
expressions may stand: an expression alone, `Text` around expressions, `Fields` and `Items` that hold
templates, and `Static` for everything that holds none.

Positions in the source are no part of a tree: two spellings of one expression are equal, are encoded
to the same bytes, and give a Plan the same digest. A tree fresh from the parser still knows the
offsets of its paths (`Path.offset`); one read back from a Plan does not.
"""

from __future__ import annotations

from typing import Any

import msgspec

Key = str | int
"""A field of an object (str) or a position in a list (int, negative from the end)."""


class Node(msgspec.Struct, frozen=True, array_like=True, dict=True):
    """Base of every node."""


class Literal(Node, frozen=True, tag="literal"):
    """null, true, false, a number (integers of 64 bits) or a string."""

    value: bool | int | float | str | None


class Path(Node, frozen=True, tag="path"):
    """A root and a static path below it. Under `upstream`, `path[0]` is the stage id."""

    root: str
    path: tuple[Key, ...] = ()

    @property
    def offset(self) -> int:
        """Where the path begins in its source string; -1 in a tree that was read back."""
        found: int = self.__dict__.get("offset_", -1)
        return found


class Access(Node, frozen=True, tag="access"):
    """`target[key]` where the key is computed or the target is no plain path."""

    target: Expr
    key: Expr


class Not(Node, frozen=True, tag="not"):
    """`not operand`; true or false."""

    operand: Expr


class Negate(Node, frozen=True, tag="negate"):
    """`-operand`, where it is no number literal (those carry their sign)."""

    operand: Expr


class Arithmetic(Node, frozen=True, tag="arithmetic"):
    """`first ops[0] rest[0] ops[1] rest[1] …`, from the left; all of `+ -` or all of `* / %`."""

    first: Expr
    ops: tuple[str, ...]
    rest: tuple[Expr, ...]


class Compare(Node, frozen=True, tag="compare"):
    """A chain as Python reads it: `a < b <= c` is `a < b and b <= c` with `b` evaluated once."""

    first: Expr
    ops: tuple[str, ...]
    rest: tuple[Expr, ...]


class Logic(Node, frozen=True, tag="logic"):
    """`and` or `or` between two or more operands; gives the operand that decided, like Python's."""

    op: str
    operands: tuple[Expr, ...]


class Choose(Node, frozen=True, tag="choose"):
    """`then if condition else otherwise`."""

    then: Expr
    condition: Expr
    otherwise: Expr


class MakeList(Node, frozen=True, tag="list"):
    """`[a, b]`."""

    items: tuple[Expr, ...]


class MakeObject(Node, frozen=True, tag="object"):
    """`{'key': a}`; keys are literal and each stands once."""

    fields: tuple[tuple[str, Expr], ...]


class Call(Node, frozen=True, tag="call"):
    """A call of one of `functions.FUNCTIONS`, or of `default`."""

    function: str
    arguments: tuple[Expr, ...]


Expr = Literal | Path | Access | Not | Negate | Arithmetic | Compare | Logic | Choose | MakeList | MakeObject | Call


class Static(Node, frozen=True, tag="static"):
    """A JSON value without expressions."""

    value: Any


class Text(Node, frozen=True, tag="text"):
    """Pieces of text and expressions, spliced into one string."""

    parts: tuple[str | Expr, ...]


class Fields(Node, frozen=True, tag="fields"):
    """An object, at least one of whose values holds an expression."""

    fields: dict[str, Template]


class Items(Node, frozen=True, tag="items"):
    """A list, at least one of whose elements holds an expression."""

    items: tuple[Template, ...]


Template = (
    Static | Text | Fields | Items
    | Literal | Path | Access | Not | Negate | Arithmetic | Compare | Logic | Choose | MakeList | MakeObject | Call
)  # fmt: skip


def children(node: Template) -> tuple[Template, ...]:
    """The nodes directly below `node`, in the order of the source."""
    match node:
        case Literal() | Path() | Static():
            return ()
        case Access(target, key):
            return (target, key)
        case Not(operand) | Negate(operand):
            return (operand,)
        case Arithmetic(first, _, rest) | Compare(first, _, rest):
            return (first, *rest)
        case Logic(_, operands):
            return operands
        case Choose(then, condition, otherwise):
            return (then, condition, otherwise)
        case MakeList(items):
            return items
        case MakeObject(pairs):
            return tuple(item for _, item in pairs)
        case Call(_, arguments):
            return arguments
        case Text(parts):
            return tuple(part for part in parts if not isinstance(part, str))
        case Fields(fields):
            return tuple(fields.values())
        case Items(entries):
            return entries


def depth(node: Template) -> int:
    """How many nodes stand on the longest way down; 1 for a leaf."""
    deepest = 0
    waiting: list[tuple[Template, int]] = [(node, 1)]
    while waiting:
        current, level = waiting.pop()
        deepest = max(deepest, level)
        waiting.extend((child, level + 1) for child in children(current))
    return deepest
