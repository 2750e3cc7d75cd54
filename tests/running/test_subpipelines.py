"""Sub-pipelines: pinned or resolved, their outputs, their failures, their depth."""

from __future__ import annotations

from typing import Any

import pytest

from flowmason.errors import RefusedError
from flowmason.event import RunCompleted, RunSubmitted
from flowmason.ids import child_run_id, format_path
from running.kit import Engine, expanded, pipe, post, say, stage, touch


def sub(name: str, given: Any = None, id: str = "sub", **more: Any) -> dict[str, Any]:
    return stage(id, "subpipeline", pipeline_id=name, input_data=given or {}, **more)


DOUBLE = pipe(
    touch("twice", "{{input.n * 2}}"),
    say("wrap", {"n": "{{upstream.twice.value}}"}),
    name="double",
    input_schema={
        "type": "object",
        "properties": {"n": {"type": "integer"}, "tag": {"type": "string", "default": "usual"}},
        "required": ["n"],
    },
)
BROKEN = pipe(say("bad", error="ValueError", message="inside"), name="broken")


async def test_its_output_is_the_result_and_its_stages_share_the_journal(engine: Engine) -> None:
    result = await engine.run(
        pipe(sub("double", {"n": "{{input.x}}"}), say("end", "{{upstream.sub.result.value.n}}")),
        {"x": 21},
        others=[DOUBLE],
    )
    assert result.status == "completed"
    assert result.out("end") == 42
    assert result.ran() == ["sub.twice", "sub.wrap", "end"]
    output = result.stages["sub"].output
    assert (output["pipeline_id"], output["pipeline_version"], output["status"]) == ("double", "1.0.0", "completed")
    assert output["input_data"] == {"n": 21, "tag": "usual"}


async def test_a_literal_name_is_pinned_by_digest(engine: Engine) -> None:
    result = await engine.run(pipe(sub("double@1.0.0", {"n": 1})), others=[DOUBLE])
    assert expanded(result, "sub").plan in result.plan.plans


async def test_a_name_that_is_a_template_is_resolved_at_run_time(engine: Engine) -> None:
    result = await engine.run(
        pipe(sub("{{input.which}}", {"n": 3}), say("end", "{{upstream.sub.result.value}}")),
        {"which": "double"},
        others=[DOUBLE],
    )
    assert result.out("end") == {"n": 6}
    assert result.plan.plans == {}
    assert expanded(result, "sub").pipeline == "double"


async def test_a_template_that_names_no_pipeline_fails_the_stage(engine: Engine) -> None:
    result = await engine.run(pipe(sub("{{input.which}}")), {"which": "nowhere"})
    assert result.status == "failed"
    assert result.error is not None
    assert (result.error.code, result.error.stage) == ("PIPELINE_NOT_FOUND", "sub")


@pytest.mark.parametrize("name", ["double", "{{input.which}}"])
async def test_its_input_gets_defaults_and_is_checked(engine: Engine, name: str) -> None:
    seen = pipe(say("tag", "{{input.tag}}"), name="double", input_schema=DOUBLE["input_schema"])
    result = await engine.run(pipe(sub(name, {"n": 1})), {"which": "double"}, others=[seen])
    assert result.stages["sub.tag"].output == {"value": "usual"}
    wrong = await engine.run(pipe(sub(name, {"n": "{{input.n}}"})), {"which": "double", "n": "many"}, others=[seen])
    assert wrong.status == "failed"
    assert wrong.error is not None
    assert wrong.error.stage == "sub"
    assert "integer" in wrong.error.message
    assert wrong.ran() == []


async def test_the_output_mapping_picks_from_the_result(engine: Engine) -> None:
    result = await engine.run(
        pipe(sub("double", {"n": 4}, output_mapping={"x": "value.n"}), say("end", "{{upstream.sub.result}}")),
        others=[DOUBLE],
    )
    assert result.out("end") == {"x": 8}


@pytest.mark.parametrize("mode", ["propagate", "ignore"])
async def test_a_mapping_that_leads_nowhere_fails_the_stage_and_names_the_nearest(engine: Engine, mode: str) -> None:
    result = await engine.run(
        pipe(
            sub("double", {"n": 4}, output_mapping={"x": "value.nn"}, on_error=mode),
            say("end", "{{upstream.sub.result}}"),
        ),
        others=[DOUBLE],
    )
    assert result.status == "failed" and result.error is not None
    assert (result.error.code, result.error.stage) == ("INVALID_OUTPUT", "sub")
    assert "'value.nn'" in result.error.message and "did you mean 'n'?" in result.error.message


async def test_a_mapping_of_a_large_result_fails_who_reads_it(engine: Engine) -> None:
    large = pipe(stage("blob", "blob", size=100_000), name="large")
    called = sub("large", output_mapping={"x": "sized"})
    result = await engine.run(pipe(called, say("end", "{{upstream.sub.result.x}}")), others=[large])
    assert result.status == "failed" and result.error is not None
    assert (result.error.code, result.error.stage) == ("INVALID_OUTPUT", "end")
    assert "did you mean 'size'?" in result.error.message
    unread = await engine.run(pipe(called), others=[large])
    assert unread.status == "completed"
    assert unread.output["result"]["x"]["$error"]["code"] == "INVALID_OUTPUT"


async def test_a_mapping_picks_from_several_ends_and_names_those_there_are(engine: Engine) -> None:
    ends = pipe(say("left", {"a.b": 1}), say("right", [7]), name="ends")

    def mapped(path: str) -> Any:
        return pipe(sub("ends", output_mapping={"x": path}), say("end", "{{upstream.sub.result.x}}"))

    for path, want in (
        ("left.value['a.b']", 1),
        ("right.value[0]", 7),
        ("right.value.0", 7),
        ("right", {"value": [7]}),
    ):
        assert (await engine.run(mapped(path), others=[ends])).out("end") == want
    for path, told in (("rigth.value", "did you mean 'right'?"), ("right.value[1]", "no '1'")):
        failed = await engine.run(mapped(path), others=[ends])
        assert failed.error is not None and told in failed.error.message


async def test_a_failure_inside_fails_the_stage(engine: Engine) -> None:
    result = await engine.run(pipe(sub("broken"), say("end", depends_on=["sub"])), others=[BROKEN])
    assert result.status == "failed"
    assert result.error is not None
    assert (result.error.message, result.error.stage) == ("inside", "sub.bad")
    assert result.stages["sub"].status == "failed"


@pytest.mark.parametrize(("mode", "want"), [("ignore", None), ("default", {"n": 0})])
async def test_a_failure_inside_can_be_taken_over(engine: Engine, mode: str, want: Any) -> None:
    result = await engine.run(
        pipe(
            sub("broken", on_error=mode, default_result={"n": 0}),
            say("end", ["{{upstream.sub.result}}", "{{upstream.sub.status}}", "{{upstream.sub.error.message}}"]),
        ),
        others=[BROKEN],
    )
    assert result.status == "completed"
    assert result.out("end") == [want, "failed", "inside"]


@pytest.mark.parametrize("mode", ["propagate", "default"])
async def test_a_time_that_is_over_is_a_failure_inside(engine: Engine, mode: str) -> None:
    slow = pipe(touch("slow", seconds=10), name="slow")
    result = await engine.run(
        pipe(sub("slow", timeout_ms=150, on_error=mode, default_result=7), say("end", "{{upstream.sub.result}}")),
        others=[slow],
    )
    if mode == "default":
        assert (result.status, result.out("end")) == ("completed", 7)
    else:
        assert result.error is not None
        assert (result.status, result.error.code, result.error.stage) == ("failed", "TIMEOUT", "sub")
    assert result.note("sub.slow").cancelled


async def test_recursion_by_template_ends_at_a_depth(engine: Engine) -> None:
    again = pipe(
        touch("mark", "{{input.n}}"),
        sub("{{input.name}}", {"name": "{{input.name}}", "n": "{{input.n + 1}}"}, depends_on=["mark"]),
        name="again",
    )
    result = await engine.run(pipe(sub("again", {"name": "again", "n": 1})), others=[again])
    assert result.status == "failed"
    assert result.error is not None
    assert result.error.code == "PIPELINE_DEPTH"
    assert max(note.value for note in result.notes) == 20


def test_a_literal_ring_is_refused(engine: Engine) -> None:
    with pytest.raises(RefusedError, match=r"a@1\.0\.0 → b@1\.0\.0 → a@1\.0\.0"):
        engine.plan(pipe(sub("a")), [pipe(sub("b"), name="a"), pipe(sub("a"), name="b")])


async def test_it_does_not_see_the_outer_pipeline_s_variables_and_stages(engine: Engine) -> None:
    with pytest.raises(RefusedError):
        engine.plan(
            pipe(stage("keep", "variable_set", name="v", value=1), sub("inner", depends_on=["keep"])),
            [pipe(say("read", "{{context.v}}"), name="inner")],
        )


CALLER = pipe(
    stage("keep", "variable_set", name="tag", value="caller's"),
    stage("own", "variable_set", name="own", value="caller's"),
    stage("sub", "subpipeline", pipeline_id="reads", depends_on=["keep", "own"]),
    say("end", "{{upstream.sub.result.value}}"),
)
READS = pipe(
    stage("own", "variable_set", name="own", value="callee's"),
    stage("each", "foreach", items=[1], loop_stages=["read"], depends_on=["own"]),
    say("read", ["{{default(context.tag, 'none')}}", "{{context.own}}"]),
    say("out", "{{upstream.each.results[0].value}}"),
    name="reads",
    output_stage_id="out",
)


def with_options(**options: Any) -> dict[str, Any]:
    """The caller, its sub-pipeline with these options."""
    stages = [
        {**each, "config": {**each["config"], **(options if each["id"] == "sub" else {})}} for each in CALLER["stages"]
    ]
    return {**CALLER, "stages": stages}


@pytest.mark.parametrize(
    ("options", "seen"),
    [
        ({}, "caller's"),
        ({"inherit_context": False}, "none"),
        ({"isolated": True}, "none"),
        ({"isolated": True, "inherit_context": True}, "none"),
    ],
)
async def test_it_inherits_the_variables_of_its_caller_unless_it_is_isolated(
    engine: Engine, options: dict[str, Any], seen: str
) -> None:
    result = await engine.run(with_options(**options), others=[READS])
    assert (result.status, result.out("end")) == ("completed", [seen, "callee's"])


async def test_variables_are_inherited_from_the_caller_s_caller_and_by_a_run_of_its_own(engine: Engine) -> None:
    middle = pipe(sub("reads"), say("out", "{{upstream.sub.result.value}}"), name="middle", output_stage_id="out")
    result = await engine.run(with_options(pipeline_id="middle"), others=[READS, middle])
    assert result.out("end") == ["caller's", "callee's"]
    stages = [*with_options(async_execution=True)["stages"][:3], say("end", "{{upstream.sub.run_id}}")]
    running = await engine.begin({**CALLER, "stages": stages}, others=[READS])
    child = (await running.end()).out("end")
    events = await running.host.stores.journal.read(child)
    outputs = [each.event.output for each in events if isinstance(each.event, RunCompleted)]
    assert [engine.load(output) for output in outputs] == [{"value": ["caller's", "callee's"]}]


@pytest.mark.parametrize("option", [{"async_execution": True}, {"wait_for_completion": False}])
async def test_an_asynchronous_one_is_a_run_of_its_own(engine: Engine, option: dict[str, Any]) -> None:
    running = await engine.begin(
        pipe(sub("double", {"n": 5}, **option), say("end", "{{upstream.sub.run_id}}")), others=[DOUBLE]
    )
    result = await running.end()
    assert result.status == "completed"
    child = child_run_id(result.run_id, ("sub",))
    assert result.out("end") == child
    journal = running.host.stores.journal
    row = await journal.row(child)
    assert row is not None and row.parent == result.run_id
    assert row.status == "completed"
    events = await journal.read(child)
    assert isinstance(events[0].event, RunSubmitted) and events[0].event.parent == result.run_id
    assert [note.path for note in result.notes] == ["end"]


async def test_its_parent_does_not_wait_for_a_run_of_its_own(engine: Engine) -> None:
    slow = pipe(touch("slow", seconds=0.3), name="slow")
    running = await engine.begin(pipe(sub("slow", wait_for_completion=False), say("end")), others=[slow])
    await running.until(lambda event: isinstance(event, RunCompleted))
    row = await running.host.stores.journal.row(child_run_id(running.run_id, ("sub",)))
    assert row is not None and row.status in ("queued", "running")
    result = await running.end()
    assert result.stages["sub"].output["status"] == "queued"


async def test_options_that_would_do_nothing_fail_a_templated_one(engine: Engine) -> None:
    result = await engine.run(
        pipe(sub("double", {"n": 1}, async_execution="{{input.own}}", on_error="ignore")),
        {"own": True},
        others=[DOUBLE],
    )
    assert result.error is not None
    assert (result.error.code, result.error.stage) == ("INVALID_INPUT", "sub")
    assert "on_error has no effect" in result.error.message


async def test_an_asynchronous_one_that_fails_leaves_its_parent_alone(engine: Engine) -> None:
    running = await engine.begin(pipe(sub("broken", async_execution=True), say("end")), others=[BROKEN])
    result = await running.end()
    assert result.status == "completed"
    row = await running.host.stores.journal.row(child_run_id(result.run_id, ("sub",)))
    assert row is not None and row.status == "failed"


async def test_asynchronous_ones_in_a_loop_are_runs_each(engine: Engine) -> None:
    running = await engine.begin(
        pipe(
            stage("each", "foreach", items=[1, 2, 3], loop_stages=["sub"], parallel=True),
            sub("{{input.which}}", {"n": "{{item}}"}, async_execution=True),
            say("end", "{{upstream.each.results}}"),
        ),
        {"which": "double"},
        others=[DOUBLE],
    )
    result = await running.end()
    assert result.status == "completed"
    ids = [row["run_id"] for row in result.out("end")]
    assert len(set(ids)) == 3
    for run_id in ids:
        row = await running.host.stores.journal.row(run_id)
        assert row is not None and row.status == "completed"


async def test_the_same_pipeline_twice_keeps_its_stages_apart(engine: Engine) -> None:
    result = await engine.run(
        pipe(
            sub("double", {"n": 1}, id="one"),
            sub("double", {"n": 2}, id="two"),
            say("end", ["{{upstream.one.result.value.n}}", "{{upstream.two.result.value.n}}"]),
        ),
        others=[DOUBLE],
    )
    assert result.out("end") == [2, 4]
    assert len({note.key for note in result.notes if note.key}) == 2


async def test_everything_in_everything(engine: Engine) -> None:
    """foreach in trycatch in router in sub-pipeline in foreach."""
    inner = pipe(
        stage("route", "router", value="{{input.kind}}", routes={"try": ["guard"], "plain": ["plain"]}),
        stage("guard", "trycatch", try_stages=["loop"], catch_stages=["mend"], finally_stages=["close"]),
        stage("loop", "foreach", items="{{input.items}}", loop_stages=["work"], parallel=True),
        post("work", "{{item}}", error="{{'ValueError' if item == 13 else ''}}"),
        touch("mend", "{{'mended: ' + error.stage}}"),
        touch("close", "{{input.kind}}"),
        say("plain", "plain"),
        say("out", ["{{upstream.loop.results}}", "{{upstream.mend.value}}", "{{upstream.plain.value}}"]),
        name="inner",
        output_stage_id="out",
    )
    result = await engine.run(
        pipe(
            stage("outer", "foreach", items="{{input.jobs}}", loop_stages=["call", "pick"], parallel=True),
            sub("inner", {"kind": "{{item.kind}}", "items": "{{item.items}}"}, id="call"),
            say("pick", "{{upstream.call.result.value}}"),
            say("end", "{{upstream.outer.results}}"),
        ),
        {
            "jobs": [
                {"kind": "try", "items": [1, 2]},
                {"kind": "try", "items": [1, 13]},
                {"kind": "plain", "items": []},
                {"kind": "try", "items": []},
            ]
        },
        others=[inner],
    )
    assert result.status == "completed", result.error
    ones = [{"value": 1}, {"value": 2}]
    assert [row["value"] for row in result.out("end")] == [
        [ones, None, None],
        [None, "mended: outer[1].call.loop[1].work", None],
        [None, None, "plain"],
        [[], None, None],
    ]
    closed = [note.path for note in result.notes if note.path.endswith("close")]
    assert sorted(closed) == ["outer[0].call.close", "outer[1].call.close", "outer[3].call.close"]
    for event in result.of(RunSubmitted):
        assert format_path(()) == "" and event.pipeline == "main"
