"""What a tree reads, found without evaluating it."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from flowmason.expressions.tree import Access, Call, Fields, Items, Key, Literal, Path, Static, Template, children


class Reference(msgspec.Struct, frozen=True):
    """One path that a tree reads."""

    root: str
    """`input`, `upstream`, `context`, `env`, `error` or a variable."""
    path: tuple[Key, ...] = ()
    """The static part below the root; for `upstream` it begins with the stage id. A computed index ends it."""
    optional: bool = False
    """Whether it stands in the first argument of `default()`, so that it may be missing."""
    offset: int = -1
    """Characters into its string; -1 in a tree that was read back from a Plan."""
    place: tuple[Key, ...] = ()
    """The keys of the configuration value that lead to its string."""


def references(tree: Template) -> tuple[Reference, ...]:
    """Every path read anywhere in `tree`, those inside indexes included, in the order of the source."""
    return tuple(_walk(tree, False, ()))


def is_static(template: Template) -> bool:
    """Whether the value is known without a run: nothing in it reads a path."""
    if isinstance(template, Static | Literal):
        return True
    return next(_walk(template, False, ()), None) is None


def _walk(tree: Template, optional: bool, place: tuple[Key, ...]) -> Iterator[Reference]:
    if isinstance(tree, Path):
        yield Reference(tree.root, tree.path, optional, tree.offset, place)
    elif isinstance(tree, Call) and tree.function == "default":
        first, second = tree.arguments
        yield from _walk(first, True, place)
        yield from _walk(second, optional, place)
    elif isinstance(tree, Access) and isinstance(tree.key, Literal):
        yield from _walk(tree.target, optional, place)
    elif isinstance(tree, Fields):
        for key, field in tree.fields.items():
            yield from _walk(field, optional, (*place, key))
    elif isinstance(tree, Items):
        for index, item in enumerate(tree.items):
            yield from _walk(item, optional, (*place, index))
    else:
        for child in children(tree):
            yield from _walk(child, optional, place)
