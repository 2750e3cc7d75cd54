"""What a path may begin with, and the one form in which every spelling of a path is kept."""

from __future__ import annotations

from typing import Never

import msgspec

from flowmason.expressions.functions import ARITY
from flowmason.expressions.lexer import Lexer
from flowmason.expressions.limits import nearest, shorten
from flowmason.expressions.tree import Key, Path

ROOTS = ("context", "env", "error", "input", "upstream")


class Names(msgspec.Struct, frozen=True):
    """What a path may begin with, beside the roots `input`, `upstream`, `context`, `env` and `error`."""

    stages: frozenset[str] = frozenset()
    """Stage ids that `upstream.<id>` and its spellings may name."""
    variables: frozenset[str] = frozenset()
    """Loop variables and the like; they hide stages of the same name."""


def resolve(names: Names, name: str, keys: tuple[Key, ...], lexer: Lexer, start: int) -> Path:
    """A path in its one form, whatever the spelling.

    `keys` is the whole static part after `name`. Errors are placed at `start`.
    """
    root = "error" if name == "_error" else name
    if name in names.variables or root in ("input", "context", "error"):
        return located(root, keys, start)
    if name == "env":
        if len(keys) != 1 or not isinstance(keys[0], str):
            lexer.fail("env is read by name", offset=start, help="Write env.NAME.")
        return located("env", keys, start)
    if name in ("upstream", "stages"):
        return _stage(names, name, keys, lexer, start)
    if name in names.stages:
        if not keys or keys[0] != "output":
            lexer.fail(
                f"{shorten(name)} is a stage, not a value",
                offset=start,
                help=f"Write upstream.{name} or {name}.output.",
            )
        return located("upstream", (name, *keys[1:]), start)
    raise _unknown(names, name, lexer, start)


def _stage(names: Names, name: str, keys: tuple[Key, ...], lexer: Lexer, start: int) -> Path:
    if not keys or not isinstance(keys[0], str):
        lexer.fail(f"{name} needs the id of a stage", offset=start, help=f"Write {name}.<id>, with the id itself.")
    stage = keys[0]
    if stage not in names.stages:
        lexer.fail(
            f"there is no stage {shorten(stage)} to read here",
            offset=start,
            nearest=nearest(stage, names.stages),
            unknown={"stage": stage},
        )
    if name == "upstream":
        return located("upstream", keys, start)
    if len(keys) < 2 or keys[1] != "output":
        lexer.fail(
            "a stage is read through its output",
            offset=start,
            help=f"Write stages.{stage}.output or upstream.{stage}.",
        )
    return located("upstream", (stage, *keys[2:]), start)


def _unknown(names: Names, name: str, lexer: Lexer, start: int) -> Never:
    roots = [root for root in (*ROOTS, *names.variables) if root != "error"]
    help = "A path begins with " + ", ".join(sorted(roots)[:12]) + " or the id of a stage."
    if name in ARITY:
        help = f"{name} is a function: {name}(…)."
    elif "-" in name and name.split("-")[0] in (*roots, *names.stages):
        help = "A hyphen without spaces belongs to the name; to subtract put spaces around it."
    near = None if name in ARITY else nearest(name, (*ROOTS, *names.variables, *names.stages))
    lexer.fail(f"unknown name {shorten(name)}", offset=start, nearest=near, help=help, unknown={"name": name})


def located(root: str, keys: tuple[Key, ...], start: int) -> Path:
    path = Path(root, keys)
    path.__dict__["offset_"] = start
    return path
