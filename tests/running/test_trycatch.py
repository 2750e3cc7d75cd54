"""trycatch: what is caught, what goes on, and the cleanup that always runs."""

from __future__ import annotations

from typing import Any

import pytest

from flowmason.event import StageRetried
from running.kit import Engine, pipe, post, say, stage, touch


def guard(
    attempt: list[str],
    rescue: list[str] | None = None,
    cleanup: list[str] | None = None,
    *,
    id: str = "guard",
    **more: Any,
) -> dict[str, Any]:
    return stage(id, "trycatch", try_stages=attempt, catch_stages=rescue or [], finally_stages=cleanup or [], **more)


MAKE = pytest.mark.parametrize("make", [say, touch, post], ids=["pure", "idempotent", "unsafe"])


@MAKE
async def test_nothing_is_rescued_where_nothing_fails(engine: Engine, make: Any) -> None:
    result = await engine.run(
        pipe(
            guard(["a", "b"], ["mend"], ["close"]),
            make("a", 1),
            make("b", "{{upstream.a.value}}", depends_on=["a"]),
            make("mend", "mended"),
            make("close", "{{error == null}}"),
            say("end", ["{{upstream.b.value}}", "{{upstream.mend.value}}", "{{upstream.guard}}"]),
        )
    )
    assert result.status == "completed"
    assert result.ran() == ["a", "b", "close", "end"]
    b, mend, output = result.out("end")
    assert (b, mend) == (1, None)
    assert (output["status"], output["try_result"], output["catch_result"]) == ("success", {"value": 1}, None)
    assert result.note("close").value is True


@MAKE
async def test_a_failure_is_rescued_and_the_pipeline_goes_on(engine: Engine, make: Any) -> None:
    result = await engine.run(
        pipe(
            guard(["a", "b", "c"], ["mend"], ["close"]),
            make("a", 1),
            make("b", 2, error="ValueError", message="broken", depends_on=["a"]),
            make("c", 3, depends_on=["b"]),
            make(
                "mend",
                [
                    "{{error.message}}",
                    "{{error.type}}",
                    "{{error.code}}",
                    "{{error.stage}}",
                    "{{_error.message}}",
                    "{{upstream.guard.error_type}}",
                    "{{upstream.a.value}}",
                ],
            ),
            make("close", "{{error.message}}"),
            say(
                "end", ["{{upstream.mend.value}}", "{{upstream.a.value}}", "{{upstream.c.value}}", "{{upstream.guard}}"]
            ),
        )
    )
    assert result.status == "completed"
    assert result.ran() == ["a", "b", "mend", "close", "end"]
    mended, a, c, output = result.out("end")
    assert mended == ["broken", "ValueError", "EXECUTION", "b", "broken", "ValueError", 1]
    assert (a, c) == (1, None)
    assert (output["status"], output["recovered"], output["error_type"]) == ("caught", True, "ValueError")
    assert output["catch_result"] == {"value": mended}
    assert result.note("close").value == "broken"
    assert result.error is None


async def test_with_propagate_the_rescue_runs_and_the_first_failure_goes_on(engine: Engine) -> None:
    result = await engine.run(
        pipe(
            guard(["a"], ["mend"], ["close"], error_scope="propagate"),
            touch("a", error="ValueError", message="first"),
            say("mend"),
            say("close"),
            say("end", depends_on=["guard"]),
        )
    )
    assert result.status == "failed"
    assert result.error is not None
    assert (result.error.message, result.error.stage) == ("first", "a")
    assert result.ran() == ["a", "mend", "close"]


async def test_on_error_is_another_spelling_of_the_scope(engine: Engine) -> None:
    stages = (say("a", error="ValueError"), say("mend"))
    result = await engine.run(pipe(guard(["a"], ["mend"], on_error="propagate"), *stages))
    assert result.status == "failed"
    result = await engine.run(pipe(guard(["a"], ["mend"], on_error="continue"), *stages))
    assert result.status == "completed"


@pytest.mark.parametrize(
    ("types", "taken"),
    [
        (["ValueError"], True),
        (["builtins.ValueError"], True),
        (["KeyError"], False),
        (["KeyError", "Exception"], True),
        (["EXECUTION"], True),
        (["TIMEOUT"], False),
    ],
)
@pytest.mark.parametrize("scope", ["continue", "propagate"])
async def test_only_what_the_catch_names_is_caught(engine: Engine, types: list[str], taken: bool, scope: str) -> None:
    result = await engine.run(
        pipe(
            guard(["a"], ["mend"], ["close"], catch_error_types=types, error_scope=scope),
            say("a", error="ValueError"),
            say("mend"),
            say("close"),
        )
    )
    assert result.status == ("completed" if taken and scope == "continue" else "failed")
    assert result.ran() == ["a", *["mend"] * taken, "close"]


async def test_a_code_of_the_author_s_is_caught_by_its_name(engine: Engine) -> None:
    result = await engine.run(
        pipe(guard(["a"], ["mend"], catch_error_types=["SOLD_OUT"]), say("a", code="SOLD_OUT"), say("mend", 1))
    )
    assert result.status == "completed"
    assert result.stages["guard"].output["error"]["code"] == "SOLD_OUT"


@MAKE
async def test_the_first_failure_ends_the_attempt(engine: Engine, make: Any) -> None:
    result = await engine.run(
        pipe(
            guard(["bad", "slow", "never"], ["mend"]),
            make("bad", error="ValueError"),
            say("slow", seconds=5),
            make("never", "{{upstream.slow.value}}"),
            say("mend", "ok"),
        )
    )
    assert result.status == "completed"
    assert "never" not in result.ran()
    assert result.out("mend") == "ok"
    assert all(note.cancelled for note in result.notes if note.path == "slow")


async def test_an_effect_under_way_ends_before_the_rescue(engine: Engine) -> None:
    result = await engine.run(
        pipe(guard(["bad", "slow"], ["mend"]), post("bad", error="ValueError"), post("slow", seconds=0.2), say("mend"))
    )
    assert result.status == "completed"
    assert (result.note("slow").ended or 9e9) <= result.note("mend").begun
    assert result.stages["slow"].status == "completed"


@MAKE
async def test_retries_run_the_body_again_as_rounds(engine: Engine, make: Any) -> None:
    result = await engine.run(
        pipe(
            guard(["a", "b"], ["mend"], ["close"], max_retries=2, retry_delay_ms=10),
            make("a", 1),
            make("b", "{{upstream.a.value}}", error="ValueError", depends_on=["a"]),
            make("mend", 2),
            make("close", 3),
        )
    )
    assert result.status == "completed"
    assert result.ran() == [
        "a",
        "b",
        "guard~2.a",
        "guard~2.b",
        "guard~3.a",
        "guard~3.b",
        "guard~3.mend",
        "guard~3.close",
    ]
    assert len(result.of(StageRetried, "guard")) == 2
    keys = [note.key for note in result.notes if note.key]
    assert len(keys) == len(set(keys))


async def test_a_round_that_succeeds_is_the_result(engine: Engine) -> None:
    result = await engine.run(
        pipe(
            say("clock", 0),
            guard(["a"], ["mend"], max_retries=3, retry_delay_ms=1),
            touch("a", "{{upstream.clock.value}}", error="{{'ValueError' if len(context.run_id) == 0 else ''}}"),
            say("mend"),
            say("end", "{{upstream.a.value}}"),
        )
    )
    assert result.out("end") == 0
    assert "mend" not in result.ran()


async def test_a_failed_rescue_fails_with_the_first_failure_as_its_cause(engine: Engine) -> None:
    result = await engine.run(
        pipe(
            guard(["a"], ["mend"], ["close"]),
            say("a", error="ValueError", message="first"),
            say("mend", error="KeyError", message="second"),
            say("close"),
        )
    )
    assert result.status == "failed"
    assert result.error is not None and result.error.cause is not None
    assert (result.error.stage, result.error.cause.message) == ("mend", "first")
    assert result.ran() == ["a", "mend", "close"]


async def test_a_failed_cleanup_fails_the_stage(engine: Engine) -> None:
    result = await engine.run(pipe(guard(["a"], [], ["close"]), say("a"), say("close", error="KeyError")))
    assert result.status == "failed"
    assert result.error is not None
    assert result.error.stage == "close"


async def test_a_failed_cleanup_keeps_what_came_before_as_its_cause(engine: Engine) -> None:
    result = await engine.run(
        pipe(
            guard(["a"], [], ["close"], error_scope="propagate"),
            say("a", error="ValueError", message="first"),
            say("close", error="KeyError", message="second"),
        )
    )
    assert result.error is not None and result.error.cause is not None
    assert (result.error.stage, result.error.cause.message) == ("close", "first")


@pytest.mark.parametrize(("where", "ran"), [("catch", ["a", "close"]), ("finally", ["a", "mend"])])
async def test_a_return_in_the_catch_or_the_cleanup_returns(engine: Engine, where: str, ran: list[str]) -> None:
    mend, close = (["back"], ["close"]) if where == "catch" else (["mend"], ["back"])
    result = await engine.run(
        pipe(
            guard(["a"], mend, close),
            say("a", error="ValueError"),
            stage("back", "return", return_value="{{error.type}}"),
            touch("mend" if where == "finally" else "close"),
            touch("never", depends_on=["guard"]),
        )
    )
    assert (result.status, result.output) == ("completed", "ValueError")
    assert result.ran() == ran


async def test_without_a_catch_an_error_is_taken_in_silence_or_goes_on(engine: Engine) -> None:
    stages = (say("a", error="ValueError"), say("close"), say("end", "{{upstream.guard.status}}"))
    result = await engine.run(pipe(guard(["a"], [], ["close"]), *stages))
    assert (result.status, result.out("end")) == ("completed", "caught")
    result = await engine.run(pipe(guard(["a"], [], ["close"], error_scope="propagate"), *stages))
    assert (result.status, result.ran()) == ("failed", ["a", "close"])


async def test_trycatches_nest_and_the_inner_one_comes_first(engine: Engine) -> None:
    result = await engine.run(
        pipe(
            guard(["inner"], ["outer_mend"], ["outer_close"], id="outer"),
            guard(["a"], ["inner_mend"], ["inner_close"], id="inner", catch_error_types=["KeyError"]),
            touch("a", error="ValueError"),
            say("inner_mend"),
            say("inner_close", "{{error.type}}"),
            say("outer_mend", ["{{error.type}}", "{{error.stage}}"]),
            say("outer_close"),
        )
    )
    assert result.status == "completed"
    assert result.ran() == ["a", "inner_close", "outer_mend", "outer_close"]
    assert result.out("outer_mend") == ["ValueError", "a"]


async def test_a_trycatch_in_a_rescue_sees_its_own_error_and_then_the_outer_one(engine: Engine) -> None:
    result = await engine.run(
        pipe(
            guard(["a"], ["again", "after"]),
            say("a", error="ValueError", message="outer"),
            guard(["b"], ["mend"], id="again"),
            touch("b", "{{error.message}}", error="KeyError", message="inner"),
            touch("mend", "{{error.message}}"),
            touch("after", "{{error.message}}", depends_on=["again"]),
        )
    )
    assert result.status == "completed"
    assert [note.value for note in result.notes if note.path in ("b", "mend", "after")] == ["outer", "'inner'", "outer"]


async def test_a_loop_in_a_trycatch_is_caught_as_a_whole(engine: Engine) -> None:
    result = await engine.run(
        pipe(
            guard(["each"], ["mend"], ["close"]),
            stage("each", "foreach", items=[1, 2, 3], loop_stages=["body"], parallel=True),
            touch("body", "{{item}}", error="{{'ValueError' if item == 2 else ''}}"),
            say("mend", ["{{error.stage}}", "{{upstream.each}}"]),
            say("close"),
            say("end", "{{upstream.mend.value}}"),
        )
    )
    assert result.status == "completed"
    assert result.out("end") == ["each[1].body", None]


async def test_a_trycatch_in_a_loop_mends_each_item_by_itself(engine: Engine) -> None:
    result = await engine.run(
        pipe(
            stage("each", "foreach", items=[1, 2, 3], loop_stages=["guard", "last"], parallel=True),
            guard(["body"], ["mend"], ["close"]),
            touch("body", "{{item}}", error="{{'ValueError' if item == 2 else ''}}"),
            say("mend", "{{'mended ' + str(item)}}"),
            say("close", "{{item}}"),
            say("last", ["{{upstream.body.value}}", "{{upstream.mend.value}}"]),
            say("end", ["{{upstream.each.results}}", "{{upstream.mend}}"]),
        )
    )
    assert result.status == "completed"
    rows, mended = result.out("end")
    assert [row["value"] for row in rows] == [[1, None], [None, "mended 2"], [3, None]]
    assert mended == [None, {"value": "mended 2"}, None]


async def test_a_timeout_of_the_stage_ends_the_attempt_and_cleans_up(engine: Engine) -> None:
    result = await engine.run(
        pipe(
            guard(["slow"], ["mend"], ["close"], timeout_ms=150),
            say("slow", seconds=10),
            say("mend"),
            touch("close", 1),
        )
    )
    assert result.status == "failed"
    assert result.error is not None
    assert (result.error.code, result.error.stage) == ("TIMEOUT", "guard")
    assert "close" in result.ran() and "mend" not in result.ran()
    assert result.note("slow").cancelled


async def test_a_timeout_in_the_body_is_caught_by_either_of_its_names(engine: Engine) -> None:
    for name in ("TimeoutError", "TIMEOUT", "StageTimeoutError"):
        result = await engine.run(
            pipe(
                guard(["slow"], ["mend"], catch_error_types=[name]),
                say("slow", seconds=10, timeout_ms=100),
                say("mend"),
            )
        )
        assert result.status == "completed", name


@pytest.mark.parametrize("make", [say, touch])
async def test_a_cancelled_run_cleans_up_first(engine: Engine, make: Any) -> None:
    running = await engine.begin(
        pipe(
            guard(["first", "slow"], ["mend"], ["close"]),
            touch("first", 1),
            make("slow", "{{upstream.first.value}}", seconds=20),
            say("mend"),
            touch("close", ["{{upstream.first.value}}", "{{error == null}}"]),
            say("after", depends_on=["guard"]),
        )
    )
    await running.until(lambda event: getattr(event, "path", None) == ("first",) and hasattr(event, "output"))
    await running.command("cancel")
    result = await running.end()
    assert result.status == "cancelled"
    assert [path for path in result.ran() if path != "slow"] == ["first", "close"]
    assert result.note("close").value == [1, True]
    assert result.stages["close"].status == "completed"
