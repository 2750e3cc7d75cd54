"""What a `.test.json` says, as data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from flowmason.region.mocks import Mock

SUFFIX = ".test.json"


class Check(msgspec.Struct, frozen=True):
    """One thing that an assertion asks of the value at its path."""

    operator: str
    """A key of `assertions.OPERATORS`."""
    expected: Any = None


class Assertion(msgspec.Struct, frozen=True):
    """A path and what is asked of the value there; all checks must hold."""

    path: str
    checks: tuple[Check, ...]
    message: str = ""
    """The author's words for a failure."""


class Script(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the model says in the place of every provider."""

    answers: Any = None
    """One text for every call; a list, one answer per call; an object, by a fragment of the prompt (`*`: any)."""
    model: str | None = None
    delay_ms: float = 0
    """Between the words of an answer."""


class Setup(msgspec.Struct, frozen=True, omit_defaults=True):
    """What surrounds a test."""

    input: dict[str, Any] = {}
    """Fields that every input has unless the test gives its own."""
    env: dict[str, str] = {}
    """What `env.` reads, over the real environment; still only the names that `flowmason.json` lists."""
    secrets: dict[str, str] = {}


class TestCase(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """One test."""

    __test__ = False  # not one of pytest's

    name: str
    index: int
    """Position in the file's `tests`."""
    description: str = ""
    input: dict[str, Any] = {}
    assertions: tuple[Assertion, ...] = ()
    expect_error: bool | str = False
    """True: the run must not complete; a text must be part of the error's code, type or message."""
    snapshot: str | None = None
    """Name under which the output is kept."""
    timeout_ms: int | None = None
    tags: tuple[str, ...] = ()
    skip: bool | str = False
    """A text is the reason."""
    only: bool = False
    mocks: dict[str, Mock] = {}
    llm: Script | None = None


class TestFile(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """One file of tests of one pipeline or component."""

    __test__ = False

    path: Path
    name: str
    description: str = ""
    pipeline: str | None = None
    """A file or a name; exactly one of `pipeline` and `component` is given."""
    component: str | None = None
    """Name, or `name@version`."""
    timeout_ms: int | None = None
    tags: tuple[str, ...] = ()
    setup: Setup = Setup()
    mocks: dict[str, Mock] = {}
    llm: Script | None = None
    cases: tuple[TestCase, ...] = ()
