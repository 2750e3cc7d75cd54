"""What a component is given: its context, secrets, logs, and a language model with its usage."""

from __future__ import annotations

from typing import Any

import pytest

from flowmason.event import StageFinished
from running.kit import Engine, Result, pipe, say, stage

TOKEN = "tok-3f9a77c1"


@pytest.fixture
def token(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("FLOWMASON_SECRET_TOKEN", TOKEN)
    return TOKEN


def seen(result: Result, path: str = "look") -> dict[str, Any]:
    found: dict[str, Any] = result.stages[path].output["seen"]
    return found


async def test_a_component_knows_where_it_stands(engine: Engine) -> None:
    result = await engine.run(
        pipe(
            say("before", 1),
            stage("keep", "variable_set", name="v", value=2),
            stage("look", "look", value=["{{upstream.before.value}}", "{{context.v}}"], depends_on=["keep"]),
        ),
        {"x": 5},
    )
    told = seen(result)
    assert told["run_id"] == result.run_id
    assert told["pipeline"] == ["main", "1.0.0"]
    assert (told["stage"], told["path"], told["attempt"], told["round"]) == ("look", "look", 1, 1)
    assert told["variables"] == {"v": 2}
    assert told["upstream"]["before"] == {"value": 1}
    assert told["input"] == {"x": 5}
    assert told["cancelled"] is False
    assert told["key"] != told["named"]


async def test_keys_differ_by_path_and_run_alone(engine: Engine) -> None:
    document = pipe(stage("each", "foreach", items=[1, 2], loop_stages=["look"], parallel=True), stage("look", "look"))
    keys = []
    for _ in range(2):
        result = await engine.run(document)
        keys += [row["seen"][name] for row in result.output["results"] for name in ("key", "named")]
    assert len(set(keys)) == 8


async def test_log_lines_progress_and_order_reach_followers_and_the_journal(engine: Engine) -> None:
    running = await engine.begin(pipe(stage("look", "look", value=[1, "{{input.x}}"])), {"x": 2})
    result = await running.end()
    lines = [line for report in result.reports for line in report.logs]
    assert [(line.level, line.message, line.fields) for line in lines] == [("warning", "seen", {"value": [1, 2]})]
    progress = [step for report in result.reports for step in report.progress]
    assert [(step.done, step.total, step.message) for step in progress] == [(1.0, 4.0, "a quarter")]
    kept = await running.host.stores.journal.logs(running.run_id)
    assert [line.message for _, line in kept] == ["seen"]


async def test_secrets_are_masked_in_logs_and_failures(engine: Engine, token: str) -> None:
    result = await engine.run(pipe(stage("look", "look", secret=True)))
    assert seen(result)["length"] == len(token)
    (line, _) = (line for report in result.reports for line in report.logs)
    assert token not in line.message and token not in str(line.fields)
    assert line.message.startswith("the token is ")
    told = [step.message for report in result.reports for step in report.progress]
    assert told == ["a quarter", "with ***"]
    leaked = await engine.run(pipe(stage("look", "look", secret=True, leak=True)))
    assert leaked.error is not None
    assert leaked.error.message.startswith("bad token ")
    assert token not in str(leaked.error)


async def test_secrets_are_masked_in_streamed_text_however_it_is_cut(engine: Engine, token: str) -> None:
    result = await engine.run(pipe(stage("a", "confide", prompt=f"say {token} and go")))
    deltas = [delta for report in result.reports for delta in report.deltas]
    assert token in result.stages["a"].output["text"]
    assert "".join(delta.text for delta in deltas) == result.stages["a"].output["text"].replace(token, "***")
    assert [delta.n for delta in deltas] == list(range(1, len(deltas) + 1))


async def test_a_component_that_declares_hosts_reaches_no_other(engine: Engine) -> None:
    result = await engine.run(pipe(stage("a", "caller", url="https://elsewhere.example/x")))
    assert result.error is not None
    assert (result.error.code, result.error.stage) == ("EGRESS_DENIED", "a")
    assert "only api.example.com may be called" in result.error.message
    assert "elsewhere.example" in (result.error.help or "") and "hosts=" in (result.error.help or "")


async def test_a_secret_that_is_not_set_is_told_by_name(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FLOWMASON_SECRET_TOKEN", raising=False)
    result = await engine.run(pipe(stage("look", "look", secret=True)))
    assert result.error is not None
    assert result.error.code == "SECRET_MISSING"
    assert "FLOWMASON_SECRET_TOKEN" in (result.error.help or "")


@pytest.mark.parametrize("field", ["idempotency_key", "secrets", "cache", "http"])
async def test_pure_components_get_nothing_that_has_effects(engine: Engine, field: str) -> None:
    result = await engine.run(pipe(stage("a", "nosy", field=field)))
    assert result.status == "failed"
    assert result.error is not None
    assert field in result.error.message and "effect" in (result.error.help or "")


def ask(id: str, prompt: str, **more: Any) -> dict[str, Any]:
    return stage(id, "ask", prompt=prompt, **more)


async def test_the_mock_model_answers_and_its_usage_adds_up(engine: Engine) -> None:
    result = await engine.run(pipe(ask("a", "one two three"), ask("b", "{{upstream.a.text}}")))
    assert result.status == "completed"
    assert "mock" in result.stages["a"].output["text"]
    parts = [event.usage for event in result.of(StageFinished)]
    assert all(part is not None and part.input_tokens > 0 and part.output_tokens > 0 for part in parts)
    assert result.usage.input_tokens == sum(part.input_tokens for part in parts)
    assert result.usage.output_tokens == sum(part.output_tokens for part in parts)


async def test_tokens_stream_in_order(engine: Engine) -> None:
    result = await engine.run(pipe(ask("a", "one two three four")))
    deltas = [delta for report in result.reports for delta in report.deltas]
    assert "".join(delta.text for delta in deltas) == result.stages["a"].output["text"]
    assert [delta.n for delta in deltas] == list(range(1, len(deltas) + 1))


async def test_the_built_in_generator_runs_on_the_mock(engine: Engine) -> None:
    result = await engine.run(pipe(stage("a", "generator", prompt="say it", llm_settings={"provider": "mock"})))
    assert result.status == "completed"
    assert result.stages["a"].output["content"]
    assert result.usage.total_tokens > 0


async def test_usage_in_loops_adds_up_even_where_the_component_calls_itself_pure(engine: Engine) -> None:
    for component in ("ask", "ask_purely"):
        result = await engine.run(
            pipe(
                stage("each", "foreach", items=["a b", "c d", "e f"], loop_stages=["body"], parallel=True),
                stage("body", component, prompt="{{item}}"),
            )
        )
        assert result.status == "completed"
        one = await engine.run(pipe(stage("body", component, prompt="a b")))
        assert result.usage.total_tokens == 3 * one.usage.total_tokens > 0, component


async def test_a_failed_run_keeps_its_usage(engine: Engine) -> None:
    result = await engine.run(pipe(ask("a", "one two"), say("b", "{{upstream.a.text}}", error="ValueError")))
    assert result.status == "failed"
    assert result.usage.total_tokens > 0
    assert result.stages["a"].output["text"]


async def test_an_unknown_provider_is_told(engine: Engine) -> None:
    result = await engine.run(pipe(ask("a", "x", llm_settings={"provider": "nobody"})))
    assert result.status == "failed"
    assert result.error is not None
    assert result.error.code == "NO_PROVIDER"
