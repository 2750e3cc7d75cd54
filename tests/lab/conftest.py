"""A small context for components under test: a scripted model, a log that remembers, a client given by the test."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import pytest

from flowmason.component import ComponentContextError, parse_json
from flowmason.ids import RunId, idempotency_key


class ScriptedLLM:
    """Answers in the order of the script; an answer may be an exception, or (text, finish_reason)."""

    provider_name = "scripted"

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.calls: list[dict[str, Any]] = []

    async def generate(self, prompt: str, system_prompt: str | None = None, **options: Any) -> Any:
        self.calls.append({"prompt": prompt, "system_prompt": system_prompt, **options})
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        text, reason = answer if isinstance(answer, tuple) else (answer, "stop")
        return SimpleNamespace(
            content=text,
            text=text,
            model="scripted-1",
            finish_reason=reason,
            input_tokens=7,
            output_tokens=3,
            total_tokens=10,
        )

    def parse_json(self, text: str) -> Any:
        return parse_json(text)


class Log:
    """Keeps what was logged as (level, message, fields)."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str, dict[str, Any]]] = []

    def __getattr__(self, level: str) -> Callable[..., None]:
        return lambda message, **fields: self.lines.append((level, message, fields))


class FakeContext:
    """What the components of this package use of a context."""

    run_id = "run_1"
    path: tuple[str | int, ...] = ("stage",)
    attempt = 1
    round = 1
    trace_id = "trace-1"

    def __init__(
        self, *, llm: Any = None, http: Any = None, variables: Mapping[str, Any] | None = None, effect: bool = False
    ) -> None:
        self.llm = llm
        self.variables = variables or {}
        self.logger = Log()
        self.shown: list[tuple[int | None, int | None]] = []
        self._http = http
        self._effect = effect

    @property
    def http(self) -> Any:
        self._needs_effect()
        return self._http

    @property
    def idempotency_key(self) -> str:
        self._needs_effect()
        return idempotency_key(RunId(self.run_id), self.path, self.round)

    def progress(self, fraction: float | None = None, *, done: int | None = None, total: int | None = None) -> None:
        self.shown.append((done, total))

    def _needs_effect(self) -> None:
        if not self._effect:
            raise ComponentContextError("a pure component has none")


async def run(component: type[Any], inputs: dict[str, Any], context: Any = None) -> dict[str, Any]:
    """Check the inputs, execute, and give the Output as plain data: what the engine does with a stage."""
    output = await component().execute(component.Input.model_validate(inputs), context or FakeContext())
    assert isinstance(output, component.Output)
    plain: dict[str, Any] = output.to_dict()
    return plain


@pytest.fixture(name="run")
def _run() -> Callable[..., Any]:
    return run


@pytest.fixture
def context() -> type[FakeContext]:
    """The class of contexts, for a test to make its own."""
    return FakeContext


@pytest.fixture
def script() -> Callable[..., Any]:
    """A context whose model says these things in turn."""
    return lambda *answers: FakeContext(llm=ScriptedLLM(*answers), effect=True)
