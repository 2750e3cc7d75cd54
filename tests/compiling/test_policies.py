"""Effects, timeouts, retries, placement and resources: the stage's word, then the component's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from compiling_kit import BY_NAME, build, echo, only, read, refused, stage
from flowmason.compiler import compile_pipeline
from flowmason.errors import Code
from flowmason.plan import Stage, decode
from flowmason.policy import Effect, OnLost, Placement, RetryPolicy

FETCH = {"url": "https://example.org"}


def one(component: str, config: Mapping[str, Any], **more: Any) -> Stage:
    found: Stage = build(stage("a", component, config, **more)).scope.stages[0]
    return found


def test_the_component_decides_where_the_stage_says_nothing() -> None:
    plain, model = one("echo", {"value": 1}), one("generator", {"prompt": "x"})
    assert (plain.effect, plain.placement, plain.timeout_ms, plain.retry) == (
        Effect.PURE,
        Placement.TASK,
        30_000,
        RetryPolicy(),
    )
    assert (model.effect, model.placement, model.timeout_ms, model.retry.max_retries) == (
        Effect.IDEMPOTENT,
        Placement.HOST,
        120_000,
        3,
    )
    assert plain.pure and not model.pure


def test_the_stage_may_set_timeout_and_retries() -> None:
    found = one("generator", {"prompt": "x"}, timeout_ms=500, retry_config={"max_retries": 0})
    assert found.timeout_ms == 500 and found.retry.max_retries == 0


def test_the_effect_may_follow_from_a_literal_field() -> None:
    assert one("http_request", FETCH).effect is Effect.IDEMPOTENT  # the default of `method` is GET
    assert one("http_request", {**FETCH, "method": "put"}).on_lost is OnLost.RERUN
    for method in ("POST", "{{input.method}}"):
        found = one("http_request", {**FETCH, "method": method})
        assert (found.effect, found.on_lost) == (Effect.UNSAFE, OnLost.UNKNOWN)


def test_resources_make_a_task_of_its_own() -> None:
    found = one("generator", {"prompt": "x"}, resources={"num_gpus": 1})
    assert found.placement is Placement.TASK and found.resources.num_gpus == 1 and not found.pure


def test_llm_settings_reach_the_stage() -> None:
    found = one("generator", {"prompt": "x"}, llm_settings={"provider": "mock", "temperature": 0.2})
    assert found.llm == {"provider": "mock", "temperature": 0.2}
    assert one("generator", {"prompt": "x"}).llm is None


def test_a_body_is_bounded_only_where_the_stage_says_so() -> None:
    loop = {"items": [1], "loop_stages": ["s"]}
    free = build(stage("each", "foreach", loop), echo("s")).stages["each"]
    bound = build(stage("each", "foreach", loop, timeout_ms=5000), echo("s")).stages["each"]
    assert (free.timeout_ms, free.body_timeout_ms) == (30_000, None)
    assert (bound.timeout_ms, bound.body_timeout_ms) == (30_000, 5000)


def test_what_a_control_stage_cannot_honour_is_refused() -> None:
    loop = {"items": [1], "loop_stages": ["s"]}
    more = {"retry_config": {"max_retries": 2}, "resources": {"num_cpus": 2}}
    faults = refused(stage("each", "foreach", loop, **more), echo("s"))
    assert [(fault.pointer, fault.code) for fault in faults] == [
        ("$.stages[0].retry_config", Code.NOT_SUPPORTED),
        ("$.stages[0].resources", Code.NOT_SUPPORTED),
    ]


def test_a_loop_of_plain_pure_stages_is_flat() -> None:
    loop = stage("each", "foreach", {"items": [1], "loop_stages": ["s", "t"]})
    flat = build(loop, echo("s"), echo("t", "{{upstream.s.value}}"))
    assert flat.stages["each"].pure and flat.stages["each"].scopes[0].flat
    mixed = build(loop, echo("s"), stage("t", "generator", {"prompt": "{{item}}"}))
    assert not mixed.stages["each"].pure


def test_the_plan_pins_its_components_and_survives_storage() -> None:
    plan = build(echo("a"), stage("b", "generator", {"prompt": "{{upstream.a.value}}!"}), max_concurrency=4)
    assert set(plan.components) == {"echo", "generator"} and plan.max_concurrency == 4
    assert plan.components["echo"].digest == BY_NAME["echo"].digest
    again = decode(plan.encoded)
    assert again == plan and again.id == plan.id


def test_a_component_may_be_written_in_kebab_case() -> None:
    assert build(stage("a", "http-request", FETCH)).scope.stages[0].component == "http_request"


def test_components_may_load_lazily() -> None:
    class Lazy(dict):  # type: ignore[type-arg]
        asked: list[str] = []

        def get(self, name: str, default: object = None) -> object:
            self.asked.append(name)
            return BY_NAME.get(name, default)

    compile_pipeline(read({"stages": [echo("a"), echo("b")]}), Lazy())
    assert set(Lazy.asked) == {"echo"}


def test_an_unknown_component_is_refused_once_per_stage() -> None:
    fault = only(refused(stage("a", "genrator", {"prompt": "x"}), echo("b", "{{upstream.a.anything}}")))
    assert fault.nearest == "generator" and "node" in fault.reason
