"""Record the golden journals: `python -m tests.journals.write [NAME …]`."""

from __future__ import annotations

import asyncio
import sys
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import msgspec

from flowmason.conductor.loading import load_plan
from flowmason.event import Recorded, RunSubmitted, StageExpanded
from flowmason.ids import RunId, format_path
from flowmason.state import fold
from journals.golden import Golden, save, snapshot, timeless
from running.kit import Engine, Running, pipe, post, say, stage, touch

RETRY = {"max_retries": 2, "initial_delay_ms": 100, "max_delay_ms": 1000}


async def chain(engine: Engine) -> Running:
    return await engine.begin(
        pipe(
            say("clean", "{{trim(input.text)}}"),
            touch("fetch", ["{{upstream.clean.value}}", 1]),
            stage("ask", "ask", prompt="{{upstream.clean.value}}"),
            post("send", "{{upstream.fetch.value}}", depends_on=["ask"]),
            input_schema={"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]},
            output_schema={"type": "object", "properties": {"value": {"type": "array"}}},
        ),
        {"text": " printer on fire "},
    )


async def branches(engine: Engine) -> Running:
    return await engine.begin(
        pipe(
            stage(
                "route",
                "router",
                value="{{input.kind}}",
                routes={"a": ["left", "both"], "b": ["right", "both"]},
                default_route=["other"],
            ),
            say("left", 1),
            touch("right", 2),
            say("both", 3),
            say("other", 4),
            say("after_left", "{{upstream.left.value}}"),
            stage(
                "check",
                "conditional",
                condition="{{upstream.both.value > 5}}",
                true_branch_stages=["big"],
                false_branch_stages=["small"],
            ),
            say("big"),
            say("small", 6),
            say("end", ["{{upstream.left.value}}", "{{upstream.right.value}}", "{{upstream.small.value}}"]),
        ),
        {"kind": "b"},
    )


async def loop_in_columns(engine: Engine) -> Running:
    return await engine.begin(
        pipe(
            stage(
                "each",
                "foreach",
                items="{{input.items}}",
                loop_stages=["first", "second"],
                parallel=True,
                break_on_error=False,
                filter_expression="item != 3",
            ),
            say("first", "{{item * 10}}"),
            say("second", "{{upstream.first.value}}", error="{{'ValueError' if item == 2 else ''}}"),
            say("end", ["{{upstream.each.results}}", "{{upstream.first}}"]),
        ),
        {"items": [1, 2, 3, 4, 5]},
    )


async def loop_of_effects(engine: Engine) -> Running:
    return await engine.begin(
        pipe(
            stage("each", "foreach", items={"a": 1, "b": 2}, loop_stages=["pick", "odd", "send"], parallel=True),
            stage("pick", "conditional", condition="{{item.value % 2 == 1}}", true_branch_stages=["odd"]),
            say("odd", "{{item.key}}"),
            post("send", ["{{item.value}}", "{{upstream.odd.value}}"], depends_on=["pick"]),
        )
    )


async def caught(engine: Engine) -> Running:
    return await engine.begin(
        pipe(
            stage(
                "guard",
                "trycatch",
                try_stages=["a", "b"],
                catch_stages=["mend"],
                finally_stages=["close"],
                max_retries=1,
                retry_delay_ms=20,
                catch_error_types=["SOLD_OUT"],
            ),
            touch("a", 1),
            say("b", code="SOLD_OUT", depends_on=["a"]),
            say("mend", "{{error.code}}"),
            touch("close"),
            say("end", ["{{upstream.mend.value}}", "{{upstream.guard.status}}"]),
        )
    )


async def nested(engine: Engine) -> Running:
    inner = pipe(
        stage("route", "router", value="{{input.kind}}", routes={"try": ["guard"], "back": ["back"]}),
        stage("guard", "trycatch", try_stages=["loop"], catch_stages=["mend"], finally_stages=["close"]),
        stage("loop", "foreach", items="{{input.items}}", loop_stages=["work"]),
        post("work", "{{item}}", error="{{'ValueError' if item == 13 else ''}}"),
        touch("mend", "{{error.stage}}"),
        say("close"),
        stage("back", "return", return_value="early"),
        say("out", ["{{upstream.loop.results}}", "{{upstream.mend.value}}"], depends_on=["back"]),
        name="inner",
        output_stage_id="out",
    )
    return await engine.begin(
        pipe(
            stage("outer", "foreach", items="{{input.jobs}}", loop_stages=["call"]),
            stage(
                "call", "subpipeline", pipeline_id="{{item.name}}", input_data="{{item}}", output_mapping={"got": "$"}
            ),
            stage(
                "pinned",
                "subpipeline",
                pipeline_id="inner",
                input_data={"kind": "back", "items": []},
                depends_on=["outer"],
            ),
        ),
        {
            "jobs": [
                {"name": "inner", "kind": kind, "items": items}
                for kind, items in (("try", [1, 2]), ("try", [1, 13]), ("back", []))
            ]
        },
        others=[inner],
    )


async def failed_and_resumed(engine: Engine) -> Running:
    running = await engine.begin(
        pipe(
            touch("a", 1),
            touch("b", "{{upstream.a.value}}", error="ConnectionError", times=3, retry_config=RETRY),
            post("c", "{{upstream.b.value}}"),
        )
    )
    await running.end()
    await running.command("resume")
    running.start()
    return running


async def paused_and_cancelled(engine: Engine) -> Running:
    running = await engine.begin(
        pipe(
            stage("guard", "trycatch", try_stages=["a", "b"], finally_stages=["close"]),
            touch("a", 1, seconds=0.1),
            post("b", "{{upstream.a.value}}", seconds=20),
            touch("close", 2),
        )
    )
    await running.began("a")
    await running.command("pause", reason="lunch")
    await running.end()
    await running.command("resume")
    running.start()
    await running.began("b")
    await running.command("cancel", reason="enough")
    return running


async def adopted(engine: Engine) -> Running:
    running = await engine.begin(
        pipe(touch("a", 1), touch("b", "{{upstream.a.value}}", seconds=0.3), post("c", "{{upstream.b.value}}"))
    )
    await running.until(lambda event: format_path(getattr(event, "path", ())) == "b")
    await asyncio.sleep(0.1)
    running.host.leave()
    await running.end()
    running.host.left = False
    running.start()
    return running


async def timed_out(engine: Engine) -> Running:
    return await engine.begin(
        pipe(
            stage("guard", "trycatch", try_stages=["slow"], finally_stages=["close"], timeout_ms=200),
            touch("slow", seconds=20),
            say("close"),
        )
    )


async def failing(engine: Engine) -> Running:
    return await engine.begin(
        pipe(
            stage("each", "foreach", items=[1, 2], loop_stages=["body"], parallel=True),
            post(
                "body", "{{item}}", seconds="{{0.3 if item == 1 else 0}}", error="{{'ValueError' if item == 2 else ''}}"
            ),
            touch("slow", 1, seconds=0.4),
            say("never", "{{upstream.slow.value}}"),
        )
    )


async def debugged(engine: Engine) -> Running:
    running = await engine.begin(
        pipe(
            say("topic", "hens"),
            stage("each", "foreach", items=[1, 2, 3], loop_stages=["x"]),
            say("x", "{{item}}"),
            stage("ask", "ask", prompt="Write about {{upstream.topic.value}}."),
            touch("fragile", "{{upstream.x}}", error="{{'ValueError' if upstream.topic.value == 'hens' else ''}}"),
            say("end", ["{{upstream.ask.text}}", "{{upstream.fragile.value}}"]),
        ),
        debug={
            "breakpoints": ["ask", {"stage": "x", "condition": "item > 1", "hit_condition": "hits == 2"}],
            "exceptions": ["uncaught"],
            "stop_on_entry": True,
        },
    )
    steps: list[tuple[str, dict[str, Any]]] = [
        ("step", {"kind": "over"}),
        ("continue", {}),
        ("continue", {}),
        ("breakpoints", {"breakpoints": ["end"], "exceptions": ["uncaught"]}),
        ("continue", {}),
        ("edit", {"path": "topic", "value": {"value": "ducks"}}),
        ("rerun", {"path": "fragile"}),
        ("rerun", {"path": "ask", "user_prompt": "Write about geese.", "system_prompt": "Be brief."}),
        ("continue", {"redo": True}),
        ("continue", {}),
    ]
    for name, arguments in steps:
        await running.end()
        await running.command(name, **arguments)
        running.start()
    return running


async def budgeted(engine: Engine) -> Running:
    cheap = {"max_tokens": 20_000, "fallback": {"model": "mock-small"}}
    return await engine.begin(
        pipe(
            {**stage("ask", "ask", prompt="how much?"), "budget": cheap},
            stage("again", "ask", prompt="and now?", depends_on=["ask"]),
        ),
        options={"budget": {"max_cost": "0.50", "max_tokens": 60_000}},
    )


WRITERS: list[Callable[[Engine], Awaitable[Running]]] = [
    chain, branches, loop_in_columns, loop_of_effects, caught, nested, failed_and_resumed, paused_and_cancelled,
    adopted, timed_out, failing, debugged, budgeted,
]  # fmt: skip


async def record(engine: Engine, name: str, writer: Callable[[Engine], Awaitable[Running]]) -> Golden:
    """Run a pipeline and keep its journal."""
    running = await writer(engine)
    await running.end()
    journal = running.host.stores.journal
    run_id = RunId("run_" + name.upper().replace("_", "")[:26].ljust(26, "0"))
    renamed = [msgspec.structs.replace(each, run_id=run_id) for each in await journal.read(running.run_id)]
    events = [timeless(each) for each in renamed]
    plans = {running.plan.id: running.plan}
    for each in events:
        if isinstance(each.event, StageExpanded) and each.event.plan and each.event.plan not in running.plan.plans:
            plans[each.event.plan] = await load_plan(journal, each.event.plan)
    state = fold(run_id, running.plan, events, plans)
    return Golden(name, events, list(plans.values()), snapshot(state))


def of_a_newer_format(golden: Golden) -> Golden:
    """The same journal as a newer FlowMason would have begun it."""
    first = golden.events[0]
    assert isinstance(first.event, RunSubmitted)
    newer = Recorded(first.run_id, 1, first.at, first.by, msgspec.structs.replace(first.event, format=99))
    return msgspec.structs.replace(golden, name="newer_format", events=[newer, *golden.events[1:]])


async def main(wanted: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        engine = Engine(Path(folder))
        for writer in WRITERS:
            name: Any = getattr(writer, "__name__", "")
            if not wanted or name in wanted:
                golden = await record(engine, name, writer)
                save(golden)
                if writer is chain:
                    save(of_a_newer_format(golden))
                print(name, len(golden.events), golden.state["status"])
        await engine.executor.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
