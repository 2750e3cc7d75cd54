"""Identifiers and the one address of a stage inside a run, the `StagePath`.

Ids are plain strings on disk and on the wire; the `NewType`s exist so that a type checker
refuses to pass a run id where a stage id belongs.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Callable
from typing import NewType

RunId = NewType("RunId", str)
"""A run: `run_` and 26 characters of Crockford base 32 that sort by the time of submission."""
StageId = NewType("StageId", str)
"""A stage's `id` as written in the pipeline file; unique within one pipeline."""
PlanId = NewType("PlanId", str)
"""`sha256:<hex>` over the canonical content of a Plan."""
OrgId = NewType("OrgId", str)
"""The tenant that owns a row. `LOCAL_ORG` where there is no Studio."""
ConductorId = NewType("ConductorId", str)
"""One live conductor: `cond_` and 26 characters."""
Digest = NewType("Digest", str)
"""`sha256:<hex>` over bytes."""

GATE = "gate_"
"""How the id of an endpoint of served models begins, which stands in the list of conductors."""
LOCAL_ORG = OrgId("local")

StagePath = tuple[str | int, ...]
"""Where a stage stands in a run: `("each", 3, "summarise")`.

It grows by a foreach index (an int), by a round of a trycatch body from the second on
(`"guard~2"`), and by a sub-pipeline's stage id. The root scope is `()`.
"""

_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_SEGMENT = re.compile(r"([^.\[\]]+)|\[(\d+)\]")


def format_path(path: StagePath) -> str:
    """Write a path as people read it: `each[3].summarise`."""
    text = ""
    for segment in path:
        if isinstance(segment, int):
            text += f"[{segment}]"
        else:
            text += f".{segment}" if text else segment
    return text


def parse_path(text: str) -> StagePath:
    """Read what `format_path` wrote. Raises `ValueError` for anything else."""
    path: list[str | int] = []
    position = 0
    while position < len(text):
        if path and text[position] == ".":
            position += 1
        match = _SEGMENT.match(text, position)
        if match is None:
            raise ValueError(f"not a stage path: {text!r}")
        path.append(match[1] if match[1] is not None else int(match[2]))
        position = match.end()
    return tuple(path)


def sha256(data: bytes | memoryview) -> Digest:
    """The digest of `data` as it is written everywhere: `sha256:<hex>`."""
    return Digest("sha256:" + hashlib.sha256(data).hexdigest())


def _base32(number: int, length: int) -> str:
    characters = []
    for _ in range(length):
        characters.append(_ALPHABET[number & 31])
        number >>= 5
    return "".join(reversed(characters))


class Ids:
    """Makes new ids from an injected clock (seconds since the epoch) and random source.

    The conductor is handed one, so that a seeded simulation gives the same ids every time.
    """

    def __init__(self, now: Callable[[], float], rng: random.Random | None = None) -> None:
        self._now = now
        self._rng = rng or random.SystemRandom()

    def _sortable(self) -> str:
        return _base32(int(self._now() * 1000), 10) + _base32(self._rng.getrandbits(80), 16)

    def run(self) -> RunId:
        """A fresh run id."""
        return RunId("run_" + self._sortable())

    def conductor(self) -> ConductorId:
        """A fresh conductor id."""
        return ConductorId("cond_" + self._sortable())

    def gate(self) -> ConductorId:
        """A fresh id of an endpoint of served models, which beats and holds slices as a conductor does."""
        return ConductorId(GATE + self._sortable())

    def call(self) -> str:
        """A fresh id of a model call that no run makes."""
        return "call_" + self._sortable()

    def command(self) -> str:
        """A fresh command id."""
        return "cmd_" + self._sortable()


def child_run_id(parent: RunId, path: StagePath) -> RunId:
    """The id of an asynchronous sub-pipeline's run: the same for the same parent and path."""
    seed = hashlib.sha256(f"{parent}/{format_path(path)}".encode()).digest()
    return RunId("run_" + _base32(int.from_bytes(seed[:17], "big"), 26))


def idempotency_key(run_id: RunId, path: StagePath, round_: int, name: str = "") -> str:
    """The key under which an effect is safe to repeat.

    It depends on the run, the stage's path, its round (which rises when a finished stage is
    reopened) and a name the component may give; never on the attempt.
    """
    text = "\x1f".join((run_id, format_path(path), str(round_), name))
    return hashlib.sha256(text.encode()).hexdigest()[:32]
