"""A model call is a span of its own under its stage's, with what OpenTelemetry's conventions name, and no prompt."""

from __future__ import annotations

from flowmason import event as ev
from flowmason.errors import Code, Failure
from flowmason.ids import PlanId, RunId
from flowmason.telemetry.spans import Span, spans
from flowmason.usage import Call, CallEnd, Usage, total
from flowmason.value import inline

RUN, T0 = RunId("run_1"), 1_750_000_000_000


def _recorded(*events: ev.Event) -> list[ev.Recorded]:
    return [ev.Recorded(RUN, n, T0 + 1000 * n, "conductor", event) for n, event in enumerate(events, 1)]


def _call(at: int, duration: int, **more: object) -> Call:
    return Call("openai", "gpt-5", started_at=T0 + at, duration_ms=duration, input_tokens=9, output_tokens=4, **more)  # type: ignore[arg-type]


def _told() -> list[Span]:
    first = (_call(1100, 200, end=CallEnd.FAILED), _call(1400, 300, end=CallEnd.ABORTED))
    second = (
        _call(2100, 50, cost_nanodollars=1_500_000),
        _call(2200, 600, cached_tokens=7),
        Call("openai", "gpt-5", end=CallEnd.CACHED),
    )
    failure = Failure(code=Code.RATE_LIMITED, message="too many")
    return spans(
        _recorded(
            ev.RunSubmitted(plan=PlanId("sha256:0"), input=inline({"secret": "prompt"}), pipeline="p"),
            ev.StageStarted(path=("ask",), attempt=1, epoch=1),
            ev.StageRetried(
                path=("ask",), attempt=1, failure=failure, usage=total(first), calls=first
            ),
            ev.StageFinished(
                path=("ask",), attempt=2, output=inline("an answer"), started_at=T0 + 2050, duration_ms=900,
                usage=total(second), calls=second,
            ),
            ev.RunCompleted(output=inline(None)),
        ),
        "org_1",
    )  # fmt: skip


def test_every_call_of_every_attempt_has_a_span_with_its_own_time() -> None:
    told = _told()
    (stage,) = [span for span in told if span.name == "stage ask"]
    calls = [span for span in told if span.name == "chat gpt-5"]
    assert len(calls) == 5 == len({span.span_id for span in calls})
    assert all(span.parent == stage.span_id and span.kind == "client" for span in calls)
    assert [(span.start - T0, span.end - span.start) for span in calls[:4]] == [
        (1100, 200), (1400, 300), (2100, 50), (2200, 600),
    ]  # fmt: skip
    assert [span.attributes["flowmason.stage.attempt"] for span in calls] == [1, 1, 2, 2, 2]
    assert [span.attributes["flowmason.llm.end"] for span in calls] == [
        "failed", "aborted", "answered", "answered", "cached",
    ]  # fmt: skip
    assert [span.error is not None for span in calls] == [True, True, False, False, False]
    assert [span.span_id for span in _told()] == [span.span_id for span in told]


def test_a_call_says_its_tokens_and_its_cost_and_nothing_of_what_was_asked() -> None:
    told = _told()
    said = [span for span in told if span.name == "chat gpt-5"][2].attributes
    assert said["gen_ai.operation.name"] == "chat" and said["gen_ai.request.model"] == "gpt-5"
    assert said["gen_ai.provider.name"] == "openai"
    assert (said["gen_ai.usage.input_tokens"], said["gen_ai.usage.output_tokens"]) == (9, 4)
    assert said["flowmason.llm.cost_dollars"] == 0.0015
    assert not any("prompt" in str(span.attributes) or "answer" in str(span.name) for span in told)


def test_a_journal_of_before_the_ledger_has_one_span_an_attempt() -> None:
    usage = Usage(input_tokens=3, output_tokens=6, calls=2, provider="mock", model="mock-1")
    told = spans(
        _recorded(
            ev.RunSubmitted(plan=PlanId("sha256:0"), input=inline({}), pipeline="p"),
            ev.StageFinished(path=("ask",), attempt=1, output=inline("x"), started_at=T0, duration_ms=9, usage=usage),
        ),
        "org_1",
    )
    (call,) = [span for span in told if span.name == "chat mock-1"]
    assert call.attributes["flowmason.llm.calls"] == 2 and "flowmason.llm.end" not in call.attributes
