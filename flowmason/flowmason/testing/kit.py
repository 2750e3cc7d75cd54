"""The kit for tests in Python: run a pipeline with mocks, and a model that says what a script says."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from flowmason.assembly.outcome import RunResult
from flowmason.assembly.workspace import Workspace
from flowmason.errors import RefusedError, UsageError
from flowmason.model import ModelProvider, ModelRequest, ModelResponse
from flowmason.plan import Plan
from flowmason.providers.mock import MockProvider
from flowmason.region.mocks import Mock, Mocks
from flowmason.testing.bench import Bench
from flowmason.testing.files import Setup
from flowmason.testing.mocking import fitted, read_mocks
from flowmason.testing.reader import Reader

Answer = str | Mapping[str, Any] | list[Any] | Exception | ModelResponse


class FakeModel(MockProvider):
    """A language model that answers from a script; `requests` keeps what it was asked.

    `answers`: one text for every call; a list, one answer after the other; an object, by the first key that the
    prompt contains (`*` fits every prompt); a function of the request; None: the least value that fits the JSON
    Schema that is asked for, else a text that says it is a mock. An answer is text, plain data (written as JSON), an
    exception to raise, or a whole `ModelResponse`.
    """

    def __init__(
        self,
        answers: str | Iterable[Answer] | Mapping[str, Answer] | Callable[[ModelRequest], Answer] | None = None,
        *,
        delay_ms: float = 0,
    ) -> None:
        super().__init__({"*": answers} if isinstance(answers, str) else answers, delay_ms=delay_ms)

    @property
    def prompts(self) -> list[str]:
        """The last user turn of every request."""
        return [request.conversation()[-1].content for request in self.requests]


MockLike = Mapping[str, Any] | Callable[[Mapping[str, Any]], Any] | Exception


def mocks(given: Mapping[str, MockLike]) -> Mocks:
    """Mocks by stage or component, as `run_pipeline` takes them; keep them to look at their `calls` afterwards.

    A mock is what a `.test.json` writes (`{"output": …}`, `{"outputs": […]}`, `{"error": {…}}`, `{"delay_ms": …}`), a
    function that makes the output of the stage's inputs, or an exception to raise. Raises `RefusedError`.
    """
    reader = Reader()
    written = {name: mock for name, mock in given.items() if isinstance(mock, Mapping)}
    found = read_mocks(reader, {"mocks": {name: dict(mock) for name, mock in written.items()}}, ())
    if reader.faults:
        raise RefusedError(reader.faults)
    for name, mock in given.items():
        if isinstance(mock, Exception):
            found[name] = Mock(function=_raiser(mock))
        elif not isinstance(mock, Mapping):
            if not callable(mock):
                raise UsageError(f"the mock {name!r} is neither an object, a function nor an exception")
            found[name] = Mock(function=mock)
    return Mocks(found)


def run_pipeline(
    pipeline: str | Path | Mapping[str, Any],
    input: Mapping[str, Any] | None = None,
    *,
    mocks: Mapping[str, MockLike] | Mocks | None = None,
    llm: ModelProvider | str | Iterable[Answer] | Mapping[str, Answer] | None = None,
    env: Mapping[str, str] | None = None,
    secrets: Mapping[str, str] | None = None,
    timeout_s: float = 30.0,
) -> RunResult:
    """Run a pipeline in this process, with mocks and without any network, and wait for its end.

    `pipeline` is a file, a name in the project we are in, or the pipeline itself as a dictionary. `llm` answers in
    the place of every model provider; `env` and `secrets` are set for this run only. A run that fails or takes longer
    than `timeout_s` is a result with `status == "failed"` and an `error`. Raises `RefusedError` for a wrong pipeline,
    input or mock, `UsageError` where there is no such pipeline, and inside a running event loop (await
    `run_pipeline_async` there).
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(
            run_pipeline_async(pipeline, input, mocks=mocks, llm=llm, env=env, secrets=secrets, timeout_s=timeout_s)
        )
    raise UsageError("an event loop is running already", help="Await run_pipeline_async(…) instead.")


async def run_pipeline_async(
    pipeline: str | Path | Mapping[str, Any],
    input: Mapping[str, Any] | None = None,
    *,
    mocks: Mapping[str, MockLike] | Mocks | None = None,
    llm: ModelProvider | str | Iterable[Answer] | Mapping[str, Answer] | None = None,
    env: Mapping[str, str] | None = None,
    secrets: Mapping[str, str] | None = None,
    timeout_s: float = 30.0,
) -> RunResult:
    """The same as `run_pipeline`, to be awaited."""
    from flowmason.inputs import prepare_input

    workspace, plan = _compiled(pipeline)
    prepare_input(plan.input_schema, input)  # refuses a wrong one here, where the caller sees all its faults
    with Bench(workspace) as bench:
        outcome = await bench.run(
            plan,
            input,
            mocks=_mocks(mocks, plan, workspace) if mocks is not None else None,
            model=_model(llm),
            setup=Setup(env=dict(env or {}), secrets=dict(secrets or {})),
            timeout_ms=max(1, int(timeout_s * 1000)),
        )
    assert outcome.result is not None
    return msgspec.structs.replace(outcome.result, status=outcome.status, error=outcome.error)


def _compiled(pipeline: str | Path | Mapping[str, Any]) -> tuple[Workspace, Plan]:
    if not isinstance(pipeline, Mapping):
        workspace = Workspace.at(pipeline)
        return workspace, workspace.compile(pipeline).plan
    from flowmason.compiler import compile_pipeline
    from flowmason.inherit import trace
    from flowmason.pipeline import parse_pipeline

    workspace = Workspace.at()
    faults: list[Any] = []
    written = parse_pipeline(dict(pipeline), faults)
    if written is None:
        raise RefusedError(faults)
    resolved = trace(written, workspace.written)
    plan = compile_pipeline(
        resolved.pipeline,
        workspace.registry,
        find=workspace.named,
        env=workspace.project.env,
        prompts=workspace.prompts,
    )
    return workspace, plan


def _mocks(given: Mapping[str, MockLike] | Mocks, plan: Plan, workspace: Workspace) -> Mocks:
    ready = given if isinstance(given, Mocks) else mocks(given)
    ready.complete(lambda written: fitted(written, ("mocks",), plan, workspace.registry))
    return ready


def _model(llm: Any) -> ModelProvider | None:
    if llm is None or hasattr(llm, "generate"):
        return llm  # type: ignore[no-any-return]
    return FakeModel(llm)


def _raiser(error: Exception) -> Callable[[Any], Any]:
    def fail(_: Any) -> Any:
        raise error

    return fail
