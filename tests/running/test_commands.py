"""Cancel, pause, resume and edit, as their commands reach a run under way."""

from __future__ import annotations

import time
from typing import Any

import pytest

from flowmason.event import RunFailing, RunPaused, RunReopened, StageCancelled, StageReopened, StageStarted, ValueEdited
from flowmason.ids import format_path
from running.kit import Engine, Running, pipe, post, say, stage, touch


async def finished(running: Running, name: str) -> None:
    """Wait until the stage `name` has its output."""
    await running.until(lambda event: format_path(getattr(event, "path", ())) == name and hasattr(event, "output"))


@pytest.mark.parametrize("make", [say, touch, post], ids=["pure", "idempotent", "unsafe"])
async def test_a_cancel_ends_what_is_under_way(engine: Engine, make: Any) -> None:
    running = await engine.begin(
        pipe(touch("a"), make("slow", "{{upstream.a.value}}", seconds=30), say("b", "{{upstream.slow.value}}"))
    )
    await finished(running, "a")
    begun = time.monotonic()
    await running.command("cancel", reason="enough")
    result = await running.end()
    assert time.monotonic() - begun < 20
    assert result.status == "cancelled"
    assert result.stages["a"].status == "completed"
    assert "b" not in result.ran()
    assert all(note.cancelled for note in result.notes if note.path == "slow")


async def test_a_cancelled_unsafe_effect_is_recorded_as_unknown(engine: Engine) -> None:
    running = await engine.begin(pipe(post("slow", seconds=30)))
    await running.began("slow")
    await running.command("cancel")
    result = await running.end()
    (event,) = result.of(StageCancelled, "slow")
    assert event.failure.code == "OUTCOME_UNKNOWN"


async def test_a_cancel_waits_for_what_will_not_stop_at_once(engine: Engine) -> None:
    running = await engine.begin(pipe(touch("slow", seconds=30, stubborn=True)))
    await running.works("slow")
    await running.command("cancel")
    result = await running.end()
    assert (result.status, result.stages["slow"].status) == ("cancelled", "cancelled")
    assert result.note("slow").cancelled


async def test_a_cancel_of_a_run_that_has_ended_changes_nothing(engine: Engine) -> None:
    running = await engine.begin(pipe(say("a", 1)))
    await running.end()
    await running.command("cancel")
    running.start()
    result = await running.end()
    assert result.status == "completed"


@pytest.mark.parametrize("make", [say, touch])
async def test_a_pause_waits_for_what_is_under_way_and_holds_nothing(engine: Engine, make: Any) -> None:
    running = await engine.begin(
        pipe(touch("a", 1), make("b", "{{upstream.a.value}}", seconds=0.2), make("c", "{{upstream.b.value}}"))
    )
    await finished(running, "a")
    await running.command("pause")
    paused = await running.end()
    assert paused.status == "paused"
    assert "c" not in paused.ran()
    assert all(note.ended is not None for note in paused.notes)
    row = await running.host.stores.journal.row(paused.run_id)
    assert row is not None and row.owner is None
    assert len(paused.of(RunPaused)) == 1
    result = await running.resume()
    assert result.status == "completed"
    assert result.ran() == ["a", "b", "c"]


async def test_a_pause_in_a_loop_keeps_the_items_that_ended(engine: Engine) -> None:
    for make in (say, touch):
        running = await engine.begin(
            pipe(
                stage("each", "foreach", items=list(range(6)), loop_stages=["body"]),
                make("body", "{{item}}", seconds=0.05),
                say("end", "{{upstream.body}}"),
            )
        )
        await running.until(lambda event: hasattr(event, "count") or getattr(event, "path", ())[1:2] == (1,))
        await running.command("pause")
        paused = await running.end()
        assert paused.status == "paused"
        result = await running.resume()
        assert result.status == "completed"
        assert result.out("end") == [{"value": n} for n in range(6)]
        assert [note.value for note in result.notes if note.path != "end"] == list(range(6))


async def test_a_paused_run_can_be_cancelled_and_cleans_up(engine: Engine) -> None:
    running = await engine.begin(
        pipe(
            stage("guard", "trycatch", try_stages=["a", "b"], finally_stages=["close"]),
            touch("a", 1, seconds=0.1),
            touch("b", "{{upstream.a.value}}"),
            touch("close"),
        )
    )
    await running.began("a")
    await running.command("pause")
    assert (await running.end()).status == "paused"
    await running.command("cancel")
    running.start()
    result = await running.end()
    assert result.status == "cancelled"
    assert result.ran() == ["a", "close"]


async def test_a_failed_run_goes_on_where_it_failed(engine: Engine) -> None:
    running = await engine.begin(
        pipe(
            touch("a", 1),
            touch("b", "{{upstream.a.value}}", error="ValueError", times=1),
            touch("c", "{{upstream.b.value}}"),
            post("side", 1),
        )
    )
    failed = await running.end()
    assert failed.status == "failed"
    result = await running.resume()
    assert result.status == "completed"
    assert sorted(result.ran()) == ["a", "b", "b", "c", "side"]
    assert len({note.key for note in result.notes if note.path == "b"}) == 1
    assert {note.round for note in result.notes} == {1}
    assert len(result.of(RunReopened)) == 1
    assert result.error is None


async def test_resuming_repeats_the_retries(engine: Engine) -> None:
    config = {"max_retries": 1, "initial_delay_ms": 100}
    running = await engine.begin(pipe(touch("a", error="ConnectionError", retry_config=config)))
    assert len((await running.end()).notes) == 2
    result = await running.resume()
    assert (result.status, [note.attempt for note in result.notes]) == ("failed", [1, 2, 3, 4])


@pytest.mark.parametrize("make", [say, touch])
async def test_a_failed_loop_goes_on_with_the_items_that_had_not_ended(engine: Engine, make: Any) -> None:
    running = await engine.begin(
        pipe(
            stage("each", "foreach", items=[1, 2, 3], loop_stages=["first", "body"]),
            make("first", "{{item}}"),
            make("body", "{{item}}", error="{{'ValueError' if item == 2 else ''}}", times=1, depends_on=["first"]),
            say("end", "{{upstream.each.results}}"),
        )
    )
    assert (await running.end()).status == "failed"
    result = await running.resume()
    assert result.status == "completed"
    assert result.out("end") == [{"value": 1}, {"value": 2}, {"value": 3}]
    ran = [note.path for note in result.notes if note.path.startswith("each")]
    assert ran == [
        "each[0].first",
        "each[0].body",
        "each[1].first",
        "each[1].body",
        "each[1].body",
        "each[2].first",
        "each[2].body",
    ]


async def test_a_failed_sub_pipeline_goes_on_inside(engine: Engine) -> None:
    inner = pipe(post("x", 1), touch("y", "{{upstream.x.value}}", error="ValueError", times=1), name="inner")
    running = await engine.begin(
        pipe(stage("sub", "subpipeline", pipeline_id="inner"), say("end", "{{upstream.sub.result.value}}")),
        others=[inner],
    )
    assert (await running.end()).status == "failed"
    result = await running.resume()
    assert (result.status, result.out("end")) == ("completed", 1)
    assert result.ran() == ["sub.x", "sub.y", "sub.y", "end"]


async def test_a_sub_pipeline_that_returned_failed_does_not_go_on_behind_its_return(engine: Engine) -> None:
    inner = pipe(stage("back", "return", status="failed"), touch("never", depends_on=["back"]), name="inner")
    running = await engine.begin(pipe(stage("sub", "subpipeline", pipeline_id="inner")), others=[inner])
    assert (await running.end()).status == "failed"
    result = await running.resume()
    assert (result.status, result.ran()) == ("failed", [])


async def test_a_loop_whose_item_returned_failed_does_not_go_on_behind_its_return(engine: Engine) -> None:
    running = await engine.begin(
        pipe(
            stage("each", "foreach", items=[1, 2], loop_stages=["back", "never"]),
            stage("back", "return", status="failed"),
            touch("never", depends_on=["back"]),
        )
    )
    assert (await running.end()).status == "failed"
    result = await running.resume()
    assert (result.status, result.ran()) == ("failed", [])


async def test_a_failed_trycatch_goes_on_where_it_failed_and_cleans_up_anew(engine: Engine) -> None:
    running = await engine.begin(
        pipe(
            stage("guard", "trycatch", try_stages=["a", "b"], finally_stages=["close"], catch_error_types=["KeyError"]),
            touch("a", 1),
            touch("b", "{{upstream.a.value}}", error="ValueError", times=1),
            touch("close"),
        )
    )
    assert (await running.end()).status == "failed"
    result = await running.resume()
    assert (result.status, result.ran()) == ("completed", ["a", "b", "close", "b", "guard~2.close"])
    assert len({note.key for note in result.notes if note.path == "b"}) == 1
    assert len({note.key for note in result.notes if note.path.endswith("close")}) == 2
    assert len(result.of(StageReopened, "b")) == 1


@pytest.mark.parametrize("make", [touch, post])
async def test_a_trycatch_that_fell_to_a_sibling_keeps_its_round_and_keys(engine: Engine, make: Any) -> None:
    """Its attempt goes on; what it had cleaned up meanwhile it cleans up once more at its end."""
    running = await engine.begin(
        pipe(
            stage("guard", "trycatch", try_stages=["a", "wait", "b"], finally_stages=["close"]),
            make("a", 1),
            say("wait", seconds=0.2, depends_on=["a"]),
            make("b", "{{upstream.a.value}}", depends_on=["wait"]),
            touch("close"),
            touch("other", error="ValueError", seconds=0.1, times=1),
        )
    )
    failed = await running.end()
    assert (failed.status, failed.stages["guard"].status) == ("failed", "cancelled")
    assert "b" not in failed.ran()
    result = await running.resume()
    assert result.status == "completed"
    assert [path for path in result.ran() if path not in ("wait", "other")] == ["a", "close", "b", "guard~2.close"]
    assert result.of(StageReopened, "guard") == []


async def test_a_rescue_that_fell_to_a_sibling_goes_on(engine: Engine) -> None:
    running = await engine.begin(
        pipe(
            stage("guard", "trycatch", try_stages=["a"], catch_stages=["first", "wait", "mend"]),
            touch("a", error="ValueError"),
            touch("first"),
            say("wait", seconds=0.3, depends_on=["first"]),
            touch("mend", "{{error.message}}", depends_on=["wait"]),
            touch("other", error="ValueError", seconds=0.1, times=1),
        )
    )
    assert (await running.end()).status == "failed"
    result = await running.resume()
    assert result.status == "completed"
    assert [path for path in result.ran() if path not in ("wait", "other")] == ["a", "first", "mend"]


async def test_a_failed_cleanup_alone_is_repeated(engine: Engine) -> None:
    running = await engine.begin(
        pipe(
            stage("guard", "trycatch", try_stages=["a"], finally_stages=["open", "close"]),
            touch("a", 1),
            touch("open"),
            touch("close", error="ValueError", times=1, depends_on=["open"]),
            say("end", "{{upstream.guard.try_result.value}}"),
        )
    )
    assert (await running.end()).status == "failed"
    result = await running.resume()
    assert (result.status, result.out("end")) == ("completed", 1)
    assert result.ran() == ["a", "open", "close", "close", "end"]


async def test_two_items_that_failed_at_once_both_go_on(engine: Engine) -> None:
    running = await engine.begin(
        pipe(
            stage("each", "foreach", items=[1, 2], loop_stages=["body", "after"], parallel=True),
            touch("body", "{{item}}", error="ValueError", seconds=0.1, times=1),
            touch("after", "{{upstream.body.value}}"),
            say("end", "{{upstream.each.results}}"),
        )
    )
    assert (await running.end()).status == "failed"
    result = await running.resume()
    assert (result.status, result.out("end")) == ("completed", [{"value": 1}, {"value": 2}])


@pytest.mark.parametrize("make", [touch, post])
async def test_a_cancel_shortens_the_wait_of_a_failing_run(engine: Engine, make: Any) -> None:
    running = await engine.begin(pipe(make("slow", seconds=30), touch("bad", error="ValueError")))
    await running.until(lambda event: isinstance(event, RunFailing))
    await running.command("cancel")
    result = await running.end(seconds=10)
    assert (result.status, result.stages["slow"].status) == ("failed", "cancelled")
    failure = result.of(StageCancelled, "slow")[0].failure
    assert (failure.code if failure is not None else None) == ("OUTCOME_UNKNOWN" if make is post else None)
    if make is post:  # nobody knows whether it happened, so it is not simply repeated
        again = await running.resume()
        assert (again.status, len(again.events)) == ("failed", len(result.events))


async def test_resuming_a_completed_run_does_nothing(engine: Engine) -> None:
    running = await engine.begin(pipe(touch("a", 1)))
    before = await running.end()
    result = await running.resume()
    assert (result.status, len(result.notes), len(result.events)) == ("completed", 1, len(before.events))


async def test_an_edited_value_is_what_later_stages_see(engine: Engine) -> None:
    running = await engine.begin(
        pipe(
            touch("a", 1),
            touch("b", 2, seconds=0.15, depends_on=["a"]),
            say("c", "{{upstream.a.value}}", depends_on=["b"]),
        )
    )
    await finished(running, "a")
    await running.command("edit", path="a", value={"value": 99})
    result = await running.end()
    assert (result.status, result.out("c")) == ("completed", 99)
    assert len(result.of(ValueEdited)) == 1


@pytest.mark.parametrize("path", ["nowhere", "[[", "", "b", "each[0].x", None])
async def test_an_edit_that_makes_no_sense_changes_nothing(engine: Engine, path: Any) -> None:
    running = await engine.begin(
        pipe(touch("a", 1), touch("b", seconds=0.1, depends_on=["a"]), say("c", "{{upstream.b}}"))
    )
    await finished(running, "a")
    await running.command("edit", path=path, value=1)
    result = await running.end()
    assert result.status == "completed"
    assert result.of(ValueEdited) == []


async def test_a_command_that_nobody_knows_changes_nothing(engine: Engine) -> None:
    running = await engine.begin(pipe(touch("a", 1, seconds=0.1)))
    await running.command("dance", fast=True)
    assert (await running.end()).status == "completed"


async def test_leaving_a_run_keeps_it_resumable_and_nothing_is_done_twice(engine: Engine) -> None:
    running = await engine.begin(
        pipe(touch("a", 1), say("b", "{{upstream.a.value}}", seconds=0.3), touch("c", "{{upstream.b.value}}"))
    )
    await finished(running, "a")
    running.host.leave()
    left = await running.end()
    assert left.status == "running"
    running.host.left = False
    running.start()
    result = await running.end()
    assert result.status == "completed"
    assert [path for path in result.ran() if path != "b"] == ["a", "c"]
    assert len(result.of(StageStarted, "a")) == 1


async def test_a_command_that_cannot_be_read_is_answered_and_changes_nothing(engine: Engine) -> None:
    running = await engine.begin(pipe(touch("a"), touch("b", seconds=0.3, depends_on=["a"])))
    await finished(running, "a")
    await running.command("resume", rerun_unknown=5, plan="sha256:none", accept_changes=7)
    await running.command("step", kind=["over"])
    await running.command("breakpoints", breakpoints=3)
    result = await running.end()
    assert result.status == "completed"
    assert not await running.host.stores.journal.commands([running.run_id])
