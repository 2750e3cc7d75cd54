"""A small project with components that count, wait, block and die, and regions of its Plans."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from flowmason.compiler import compile_pipeline
from flowmason.event import StageFinished
from flowmason.executor import Executor, WorkerSettings
from flowmason.ids import LOCAL_ORG, Digest, RunId, StageId
from flowmason.pipeline import parse_pipeline
from flowmason.plan import Plan
from flowmason.policy import Placement, Resources
from flowmason.registry import Registry, find_components
from flowmason.report import Piece, Region, Report
from flowmason.value import Inline, decode
from flowmason.values_fs import open_values

COMPONENTS = '''
import asyncio
import os
import signal
import time
from typing import Any

from flowmason import OperatorInput, OperatorOutput, operator


class Given(OperatorInput):
    value: Any = None
    seconds: float = 0.0
    file: str = ""


class Made(OperatorOutput):
    value: Any = None
    pid: int = 0


@operator(name="echo", category="test", description="Trouble.")
class Echo:
    Input, Output = Given, Made

    async def execute(self, input, context):
        return Made(value=input.value, pid=os.getpid())


@operator(name="wait", category="test", description="Trouble.")
class Wait:
    Input, Output = Given, Made

    async def execute(self, input, context):
        await asyncio.sleep(input.seconds)
        return Made(value=input.value, pid=os.getpid())


@operator(name="block", category="test", description="Trouble.")
class Block:
    Input, Output = Given, Made

    async def execute(self, input, context):
        time.sleep(input.seconds)
        return Made(value=input.value, pid=os.getpid())


@operator(name="look", category="test", description="Trouble.")
class Look:
    """Reads variables that it should not need."""

    Input, Output = Given, Made

    async def execute(self, input, context):
        return Made(value=[os.environ.get(name) for name in input.value], pid=os.getpid())


@operator(name="title", category="test", description="Trouble.")
class Title:
    """What the process list calls this process."""

    Input, Output = Given, Made

    async def execute(self, input, context):
        with open("/proc/self/cmdline") as file:
            return Made(value=file.read().rstrip("\\0").strip())


@operator(name="meet", category="test", description="Trouble.")
class Meet:
    """Leaves a file behind, and waits until somebody else has left theirs."""

    Input, Output = Given, Made

    async def execute(self, input, context):
        mine, other = input.value
        open(mine, "w").close()
        while not os.path.exists(other):
            time.sleep(0.02)
        return Made(value=mine, pid=os.getpid())


@operator(name="greedy", category="test", description="Trouble.", resources={"num_cpus": 64})
class Greedy:
    """Asks for more than there is."""

    Input, Output = Given, Made

    async def execute(self, input, context):
        return Made()


@operator(name="die", category="test", description="Trouble.")
class Die:
    Input, Output = Given, Made

    async def execute(self, input, context):
        if input.file:
            # Dies the first time only.
            try:
                os.close(os.open(input.file, os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                return Made(value=input.value, pid=os.getpid())
        os.kill(os.getpid(), signal.SIGKILL)


@operator(name="call", category="test", description="Trouble.", effect="idempotent")
class Call:
    """An effect: notes that it began, and that it ended, in a file."""

    Input, Output = Given, Made

    async def execute(self, input, context):
        _note(input.file, "began")
        await asyncio.sleep(input.seconds)
        _note(input.file, "ended")
        return Made(value=input.value, pid=os.getpid())


@operator(name="jam", category="test", description="Trouble.", effect="idempotent")
class Jam:
    """An effect that blocks the loop of its host."""

    Input, Output = Given, Made

    async def execute(self, input, context):
        time.sleep(input.seconds)
        return Made(value=input.value, pid=os.getpid())


@operator(name="stubborn", category="test", description="Trouble.", effect="idempotent")
class Stubborn:
    """An effect that takes no notice of being cancelled."""

    Input, Output = Given, Made

    async def execute(self, input, context):
        _note(input.file, "began")
        end = time.monotonic() + input.seconds
        while time.monotonic() < end:
            try:
                await asyncio.sleep(0.05)
            except asyncio.CancelledError:
                pass
        _note(input.file, "ended")
        return Made(value=input.value, pid=os.getpid())


def _note(file, text):
    if file:
        with open(file, "a") as notes:
            notes.write(f"{text} {os.getpid()}\\n")
'''

_numbers = itertools.count(1)


class Lab:
    """The project on disk, and what is made of it."""

    def __init__(self, root: Path, preface: str = "") -> None:
        (root / "components").mkdir(parents=True, exist_ok=True)
        (root / "components" / "trouble.py").write_text(preface + COMPONENTS)
        (root / "flowmason.json").write_text('{"name": "ray-tests", "version": "1.0.0"}')
        self.root = root
        self.values_url = f"file://{root / 'values'}"
        self.values = open_values(self.values_url)
        self.registry: Registry = find_components(root)
        assert not self.registry.faults, self.registry.faults

    def settings(self, **options: Any) -> WorkerSettings:
        """What workers are told; different options make different hosts."""
        return WorkerSettings(values_url=self.values_url, project_root=str(self.root), options=options)

    def plan(self, *stages: dict[str, Any], name: str = "lab") -> Plan:
        """The Plan of a pipeline of these stages, stored where workers find it."""
        faults: list[Any] = []
        pipeline = parse_pipeline({"name": name, "version": "1.0.0", "stages": list(stages)}, faults)
        assert pipeline is not None and not faults, faults
        plan = compile_pipeline(pipeline, self.registry)
        self.values.put(LOCAL_ORG, Digest(plan.id), plan.encoded)
        return plan


def stage(id: str, component: str, *, after: Sequence[str] = (), **config: Any) -> dict[str, Any]:
    """A stage of a pipeline document."""
    return {"id": id, "component": component, "config": config, "depends_on": list(after)}


def chain(length: int) -> list[dict[str, Any]]:
    """Stages that hand a value on."""
    first = stage("s0", "echo", value="a")
    return [first, *(stage(f"s{n}", "echo", value=f"{{{{upstream.s{n - 1}.value}}}}") for n in range(1, length))]


def region(
    plan: Plan,
    *stages: str,
    placement: Placement = Placement.TASK,
    resources: Resources = Resources(),  # noqa: B008 - frozen
    run_id: str = "run_1",
    **more: Any,
) -> Region:
    """A region of the given stages of a Plan (default: all of them)."""
    names = tuple(StageId(name) for name in stages) or tuple(plan.stages)
    number = next(_numbers)
    return Region(
        **{
            "id": f"region-{number}",
            "run_id": RunId(run_id),
            "org_id": LOCAL_ORG,
            "epoch": 1,
            "plan": plan.id,
            "pieces": (Piece(scope=(), plan=plan.id, stages=names, pipeline=(plan.name, plan.version)),),
            "name": f"{plan.name}/{names[0]}" if len(names) == 1 else f"{plan.name}/{names[0]}…{names[-1]}",
            "placement": placement,
            "effect": placement is Placement.HOST,
            "resources": resources,
            "budget_ms": 60_000.0,
            **more,
        }
    )


async def run(executor: Executor, wanted: Region, *, within_s: float = 100.0) -> list[Report]:
    """All reports of a region."""
    async with asyncio.timeout(within_s):
        return [report async for report in executor.submit([wanted])]


def outputs(reports: Sequence[Report]) -> dict[str, Any]:
    """Outputs of the stages that the reports say are finished, by path."""
    found: dict[str, Any] = {}
    for report in reports:
        for event in report.events:
            if isinstance(event, StageFinished):
                assert isinstance(event.output, Inline)
                found[".".join(map(str, event.path))] = decode(event.output.data)
    return found


def again(wanted: Region, **changes: Any) -> Region:
    """The same region with something changed."""
    return msgspec.structs.replace(wanted, **changes)
