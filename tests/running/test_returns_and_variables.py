"""return ends the nearest pipeline or item; variables flow along the edges."""

from __future__ import annotations

from typing import Any

import pytest

from running.kit import Engine, pipe, say, stage, touch


def back(value: Any = None, id: str = "back", **more: Any) -> dict[str, Any]:
    return stage(id, "return", return_value=value, **more)


async def test_the_value_is_the_pipeline_s_output(engine: Engine) -> None:
    result = await engine.run(pipe(say("a", 1), back({"early": "{{upstream.a.value}}"}), say("b", depends_on=["back"])))
    assert result.status == "completed"
    assert result.output == {"early": 1}
    assert result.ran() == ["a"]


async def test_a_return_whose_condition_is_false_changes_nothing(engine: Engine) -> None:
    result = await engine.run(pipe(back(1, condition="{{input.x > 5}}"), say("b", 2, depends_on=["back"])), {"x": 3})
    assert result.output == {"value": 2}
    other = await engine.run(pipe(back(1, condition="{{input.x > 5}}"), say("b", 2, depends_on=["back"])), {"x": 6})
    assert other.output == 1


@pytest.mark.parametrize("make", [say, touch])
async def test_what_runs_beside_it_is_cancelled(engine: Engine, make: Any) -> None:
    result = await engine.run(pipe(make("slow", seconds=20), touch("a", seconds=0.05), back(1, depends_on=["a"])))
    assert (result.status, result.output) == ("completed", 1)


async def test_the_statuses_of_a_return_are_those_of_the_run(engine: Engine) -> None:
    failed = await engine.run(pipe(back(1, status="failed", message="not today")))
    assert failed.status == "failed"
    assert failed.error is not None
    assert (failed.error.code, failed.error.message, failed.error.stage) == ("RETURNED_FAILED", "not today", "back")
    cancelled = await engine.run(pipe(back(1, status="cancelled")))
    assert cancelled.status == "cancelled"


@pytest.mark.parametrize("make", [say, touch])
async def test_in_a_loop_it_ends_its_item_alone(engine: Engine, make: Any) -> None:
    result = await engine.run(
        pipe(
            stage("each", "foreach", items=[1, 2, 3], loop_stages=["first", "back", "last"], parallel=True),
            make("first", "{{item}}"),
            back("early", condition="{{upstream.first.value == 2}}"),
            make("last", "{{item}}", depends_on=["back"]),
            say("end", ["{{upstream.each.results}}", "{{upstream.last}}"]),
        )
    )
    assert result.status == "completed"
    assert result.out("end") == [[{"value": 1}, "early", {"value": 3}], [{"value": 1}, None, {"value": 3}]]


@pytest.mark.parametrize("stop", [True, False])
async def test_an_item_that_returns_failed_is_a_failed_item(engine: Engine, stop: bool) -> None:
    result = await engine.run(
        pipe(
            stage("each", "foreach", items=[1, 2], loop_stages=["back", "last"], break_on_error=stop),
            back(None, condition="{{item == 1}}", status="failed", message="bad item"),
            say("last", "{{item}}", depends_on=["back"]),
        )
    )
    if stop:
        assert result.status == "failed"
        assert result.error is not None
        assert (result.error.code, result.error.message) == ("RETURNED_FAILED", "bad item")
    else:
        assert result.status == "completed"
        assert result.output["failed_items"] == 1
        assert result.output["results"][0]["$error"]["message"] == "bad item"
        assert result.output["results"][1] == {"value": 2}


async def test_in_a_sub_pipeline_it_ends_that_alone(engine: Engine) -> None:
    inner = pipe(back("from inside"), say("never", depends_on=["back"]), name="inner")
    result = await engine.run(
        pipe(stage("sub", "subpipeline", pipeline_id="inner"), say("end", "{{upstream.sub.result}}")), others=[inner]
    )
    assert result.out("end") == "from inside"


async def test_a_sub_pipeline_that_returns_failed_has_failed(engine: Engine) -> None:
    inner = pipe(back(1, status="failed", message="no"), name="inner")
    call = stage("sub", "subpipeline", pipeline_id="inner", on_error="default", default_result=9)
    result = await engine.run(pipe(call, say("end", "{{upstream.sub.result}}")), others=[inner])
    assert result.out("end") == 9
    call = stage("sub", "subpipeline", pipeline_id="inner")
    result = await engine.run(pipe(call), others=[inner])
    assert result.error is not None
    assert (result.status, result.error.code) == ("failed", "RETURNED_FAILED")


@pytest.mark.parametrize("make", [say, touch])
async def test_a_trycatch_on_the_way_out_still_cleans_up(engine: Engine, make: Any) -> None:
    result = await engine.run(
        pipe(
            stage("guard", "trycatch", try_stages=["a", "back"], catch_stages=["mend"], finally_stages=["close"]),
            make("a", 1),
            back("{{upstream.a.value}}"),
            make("mend"),
            make("close"),
            make("never", depends_on=["guard"]),
        )
    )
    assert (result.status, result.output) == ("completed", 1)
    assert result.ran() == ["a", "close"]


async def test_a_return_in_a_trycatch_in_a_loop_ends_the_item(engine: Engine) -> None:
    result = await engine.run(
        pipe(
            stage("each", "foreach", items=[1, 2], loop_stages=["guard", "last"], parallel=True),
            stage("guard", "trycatch", try_stages=["back"], finally_stages=["close"]),
            back("{{'out ' + str(item)}}", condition="{{item == 1}}"),
            touch("close", "{{item}}"),
            say("last", "{{item}}", depends_on=["guard"]),
        )
    )
    assert result.output["results"] == ["out 1", {"value": 2}]
    assert sorted(note.value for note in result.notes if note.path.endswith("close")) == [1, 2]


async def test_variables_are_seen_downstream_and_overwritten_in_order(engine: Engine) -> None:
    result = await engine.run(
        pipe(
            stage("one", "variable_set", name="v", value="{{input.x}}"),
            say("first", "{{context.v}}", depends_on=["one"]),
            stage("two", "variable_set", name="v", value="{{context.v + 1}}", depends_on=["first"]),
            say("second", "{{context.v}}", depends_on=["two"]),
            touch("third", "{{context.v * 10}}", depends_on=["second"]),
        ),
        {"x": 4},
    )
    assert [result.out(name) for name in ("first", "second", "third")] == [4, 5, 50]


async def test_overwrite_false_keeps_the_earlier_value(engine: Engine) -> None:
    result = await engine.run(
        pipe(
            stage("one", "variable_set", name="v", value=1),
            stage("two", "variable_set", name="v", value=2, overwrite=False, depends_on=["one"]),
            say("end", ["{{context.v}}", "{{upstream.two.was_set}}"]),
        )
    )
    assert result.out("end") == [1, False]


async def test_a_setter_that_was_skipped_sets_nothing(engine: Engine) -> None:
    result = await engine.run(
        pipe(
            stage("one", "variable_set", name="v", value=1),
            stage("pick", "conditional", condition="{{input.x}}", true_branch_stages=["two"], depends_on=["one"]),
            stage("two", "variable_set", name="v", value=2),
            say("end", "{{context.v}}", depends_on=["two", "one"]),
        ),
        {"x": False},
    )
    assert result.out("end") == 1


async def test_variables_set_in_a_body_stay_there(engine: Engine) -> None:
    result = await engine.run(
        pipe(
            stage("outer", "variable_set", name="v", value=0),
            stage("each", "foreach", items=[1, 2], loop_stages=["inner", "read"], depends_on=["outer"]),
            stage("inner", "variable_set", name="v", value="{{context.v + item}}"),
            say("read", "{{context.v}}", depends_on=["inner"]),
            say("end", ["{{context.v}}", "{{upstream.read}}"]),
        )
    )
    assert result.out("end") == [0, [{"value": 1}, {"value": 2}]]
