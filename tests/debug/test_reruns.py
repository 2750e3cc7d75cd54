"""A stage runs once more, alone, with another prompt or another value before it; what follows is asked for."""

from __future__ import annotations

from typing import Any

import pytest

from debug.kit import start
from flowmason import debug
from flowmason.errors import UsageError
from flowmason.event import StageReopened
from running.kit import Engine, pipe, post, say, stage, touch


def asking() -> dict[str, Any]:
    return pipe(
        say("topic", "hens"),
        stage("ask", "ask", prompt="Write about {{upstream.topic.value}}."),
        stage("ask2", "ask", prompt="Shorten: {{upstream.ask.text}}"),
        say("end", "{{upstream.ask2.text}}"),
    )


async def test_a_prompt_is_shown_before_the_stage_runs_and_as_it_was_asked(engine: Engine) -> None:
    run = await start(engine, asking(), "ask", "end")
    await run.stands()
    prompt = await run.prompt("ask")
    assert (prompt.source, prompt.user_prompt, prompt.input) == (
        "input",
        "Write about hens.",
        {"prompt": "Write about hens."},
    )
    assert (prompt.status, prompt.output) == ("pending", None)
    await run.go_on()
    prompt = await run.prompt("ask")
    assert (prompt.source, prompt.user_prompt, prompt.system_prompt) == ("asked", "Write about hens.", None)
    assert prompt.output["text"]


async def test_a_rerun_with_an_edited_prompt_runs_that_stage_alone(engine: Engine) -> None:
    run = await start(engine, asking(), "end")
    await run.stands()
    before = (await run.prompt("ask")).output["text"]
    downstream = (await run.prompt("ask2")).output["text"]
    at = await run.do("rerun", path="ask", user_prompt="Write about ducks.", system_prompt="Be brief.")
    assert (at.status, at.reason, at.path, at.stale) == ("paused", "rerun", "ask", ("ask",))
    prompt = await run.prompt("ask")
    assert (prompt.round, prompt.attempt, prompt.source) == (2, 2, "asked")
    assert (prompt.user_prompt, prompt.system_prompt) == ("Write about ducks.", "Be brief.")
    assert prompt.output["text"] != before
    assert (await run.prompt("ask2")).output["text"] == downstream
    assert (await run.go_on()).path == "end"
    assert (await run.go_on()).status == "completed"
    result = await run.result()
    assert result.out("end") == downstream
    assert [(event.path, event.round, event.edit.user_prompt) for event in result.of(StageReopened)] == [
        (("ask",), 2, "Write about ducks.")
    ]


async def test_continue_with_redo_runs_what_used_the_old_result_again(engine: Engine) -> None:
    run = await start(engine, asking(), "end")
    await run.stands()
    downstream = (await run.prompt("ask2")).output["text"]
    await run.do("rerun", path="ask", user_prompt="Write about ducks.")
    at = await run.go_on(redo=True)
    assert (at.path, at.hit) == ("end", 1)  # it has not begun; the breakpoint before it still holds
    assert (await run.go_on()).status == "completed"
    result = await run.result()
    assert result.out("end") == result.stages["ask2"].output["text"] != downstream
    assert "topic" not in [path[0] for path in (event.path for event in result.of(StageReopened))]


async def test_an_edited_value_is_read_by_what_has_not_run(engine: Engine) -> None:
    run = await start(
        engine, pipe(say("a", 1), say("b", "{{upstream.a.value}}"), say("c", "{{upstream.b.value}}")), "b"
    )
    await run.stands()
    at = await run.do("edit", path="a", value={"value": 5})
    assert (at.inputs["value"], at.stale) == (5, ("a",))
    assert (await run.go_on()).status == "completed"
    assert (await run.result()).out("c") == 5


async def test_redo_after_an_edit_goes_through_guards_loops_and_rounds(engine: Engine) -> None:
    document = pipe(
        say("n", 1),
        stage(
            "if",
            "conditional",
            condition="{{upstream.n.value > 3}}",
            true_branch_stages=["big"],
            false_branch_stages=["small"],
        ),
        touch("big", "{{upstream.n.value}}"),
        touch("small", "{{upstream.n.value}}"),
        stage("each", "foreach", items="{{range(upstream.n.value)}}", loop_stages=["x"]),
        touch("x", "{{item}}"),
        say("aside", 0),
        say("end", ["{{upstream.big}}", "{{upstream.small}}", "{{upstream.x}}"]),
        say("last", "{{upstream.end.value}}", depends_on=["aside"]),
    )
    run = await start(engine, document, "last")
    assert (await run.stands()).path == "last"
    keys = {note.path: note.key for note in (await run.result()).notes}
    await run.do("edit", path="n", value={"value": 4})
    at = await run.go_on(redo=True)
    assert at.path == "last"
    assert at.inputs["value"] == [{"value": 4}, None, [{"value": n} for n in range(4)]]
    at = await run.go_on()
    assert at.status == "completed"
    result = await run.result()
    assert result.statuses("big", "small") == {"big": "completed", "small": "skipped"}
    assert result.ran().count("n") == result.ran().count("aside") == 1
    again = [note for note in result.notes if note.path == "each[0].x"]
    assert [note.round for note in again] == [1, 2]
    assert again[0].key == keys["each[0].x"] != again[1].key  # another effect has another key


async def test_redo_of_a_loop_takes_what_stands_in_it_along(engine: Engine) -> None:
    document = pipe(
        say("a", [1]),
        stage("each", "foreach", items="{{upstream.a.value}}", loop_stages=["x", "y", "z"]),
        touch("x", "{{item}}"),
        touch("y", "{{upstream.x.value}}"),
        touch("z", "{{upstream.y.value}}"),
    )
    run = await start(engine, document, "z")
    assert (await run.stands()).path == "each[0].z"
    await run.do("rerun", path="each[0].x")
    await run.do("edit", path="a", value={"value": [7]})
    at = await run.go_on(redo=True)
    assert at.path == "each[0].z" and at.inputs["value"] == 7
    assert (await run.go_on()).status == "completed"


async def test_redo_after_a_rerun_that_failed_lets_the_run_fail(engine: Engine) -> None:
    document = pipe(
        say("a", ""),
        touch("b", 1, error="{{upstream.a.value}}"),
        say("c", "{{upstream.b}}"),
        say("end", "{{upstream.c.value}}"),
    )
    run = await start(engine, document, "end")
    assert (await run.stands()).path == "end"
    await run.do("edit", path="a", value={"value": "ValueError"})
    at = await run.do("rerun", path="b")
    assert (at.path, at.failure is not None) == ("b", True)
    assert (await run.go_on(redo=True)).status == "failed"
    result = await run.result()
    assert result.statuses("b", "c") == {"b": "failed", "c": "completed"}


async def test_a_failed_stage_runs_again_and_the_run_goes_on(engine: Engine) -> None:
    document = pipe(
        say("a", "ValueError"),
        touch("b", 1, error="{{upstream.a.value}}"),
        say("c", "{{upstream.b.value}}"),
    )
    run = await start(engine, document, exceptions=["uncaught"])
    assert (await run.stands()).path == "b"
    at = await run.do("rerun", path="b")
    assert (at.reason, at.path) == ("exception", "b")
    await run.do("edit", path="a", value={"value": ""})
    at = await run.do("rerun", path="b")
    assert (at.reason, at.path, at.failure, at.next) == ("rerun", "b", None, ("c",))
    at = await run.go_on()
    assert at.status == "completed"
    assert [note.round for note in (await run.result()).notes if note.path == "b"] == [1, 2, 3]


async def test_the_last_stage_of_a_run_can_run_again_after_it_failed(engine: Engine) -> None:
    run = await start(
        engine, pipe(say("x", "ValueError"), say("a", 1, error="{{upstream.x.value}}")), exceptions=["all"]
    )
    await run.stands()
    await run.do("edit", path="x", value={"value": ""})
    at = await run.do("rerun", path="a")
    assert (at.status, at.reason) == ("paused", "rerun")
    assert (await run.go_on()).status == "completed"


async def test_a_run_that_has_failed_is_taken_up_by_a_rerun(engine: Engine) -> None:
    document = pipe(touch("a", error="ValueError", times=1), touch("other", depends_on=["a"]))
    run = await start(engine, document)
    assert (await run.stands()).status == "failed"
    at = await run.do("rerun", path="a")
    assert (at.status, at.reason, at.path) == ("paused", "rerun", "a")
    assert (await run.go_on()).status == "completed"


async def test_a_stage_in_an_open_item_runs_again(engine: Engine) -> None:
    document = pipe(
        stage("each", "foreach", items=[1, 2], loop_stages=["x", "y"]),
        touch("x", "{{item}}"),
        say("y", "{{upstream.x.value}}"),
        say("end", "{{upstream.y}}"),
    )
    run = await start(engine, document, "each[1].y")
    await run.stands()
    at = await run.do("rerun", path="each[1].x")
    assert (at.reason, at.path, at.next) == ("rerun", "each[1].x", ("each[1].y",))
    await run.do("rerun", path="each[0].x")  # that item is over
    assert (await run.look()).path == "each[1].x"
    assert (await run.go_on()).path == "each[1].y"
    assert (await run.go_on()).status == "completed"
    assert (await run.result()).ran().count("each[0].x") == 1


async def test_what_cannot_run_again_says_why(engine: Engine) -> None:
    document = pipe(
        stage("each", "foreach", items=[1], loop_stages=["x"]),
        say("x", "{{item}}"),
        post("a"),
        say("b", "{{upstream.a.value}}"),
    )
    run = await start(engine, document, "b")
    await run.stands()
    state = await run.state()
    for path, why in (
        ("each", "has a body"),
        ("b", "is pending"),
        ("each[0].x", "open"),
        ("c", "no stage"),
        ("not a path[", "no stage"),
    ):
        with pytest.raises(UsageError, match=why):
            debug.rerun(state, {"path": path})
    with pytest.raises(UsageError, match="asks no model"):
        debug.rerun(state, {"path": "a", "user_prompt": "?"})
    await run.go_on()
    with pytest.raises(UsageError, match="completed"):
        debug.rerun(await run.state(), {"path": "a"})


async def test_nothing_runs_again_where_a_return_has_ended_the_run(engine: Engine) -> None:
    back = stage("back", "return", condition=True, return_value="{{upstream.a.value}}", status="failed")
    run = await start(engine, pipe(say("a", 1), back))
    assert (await run.stands()).status == "failed"
    for path in ("a", "back"):
        with pytest.raises(UsageError, match="a return has ended"):
            debug.rerun(await run.state(), {"path": path})
        # Posted all the same, by somebody who looked before it returned, it changes nothing.
        assert (await run.do("rerun", path=path)).status == "failed"
    assert not (await run.result()).of(StageReopened)


async def test_a_repair_of_a_bad_answer_keeps_the_edited_prompt(engine: Engine) -> None:
    document = pipe(
        stage("gen", "generator", prompt="Name a bird.", output_format="json", output_schema={"type": "object"}),
        say("end", "{{upstream.gen.content}}"),
    )
    run = await start(engine, document, "end", exceptions=["all"])
    at = await run.stands()
    at = await run.do("rerun", path="gen", user_prompt="Name a fish.")
    lines = [line for _, line in await run.running.host.stores.journal.logs(run.running.run_id)]
    asked = [line.fields["user_prompt"] for line in lines if line.attempt == 2]
    assert asked and all(text.startswith("Name a fish.") for text in asked)
    assert (await run.prompt("gen")).user_prompt == "Name a fish."
    assert at.mode == "paused"
