"""From a document to a run that has ended, in this process, in milliseconds."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec

from flowmason import value
from flowmason.assembly.engine import Stores
from flowmason.assembly.hosting import RunHost, picture_of
from flowmason.assembly.outcome import StageResult, result
from flowmason.compiler import compile_pipeline
from flowmason.component import ComponentSpec, is_component, spec_of
from flowmason.debug import read_changes
from flowmason.errors import Code, Failure, Fault, FlowMasonError
from flowmason.event import Recorded, RunAdopted, StageEvent, StageExpanded, StageLost
from flowmason.executor import WorkerSettings
from flowmason.executor_local import LocalExecutor
from flowmason.ids import RunId, format_path
from flowmason.journal import Journal
from flowmason.journal_memory import MemoryJournal
from flowmason.pipeline import Pipeline, parse_pipeline
from flowmason.plan import Plan
from flowmason.region import Worker
from flowmason.registry import find_components
from flowmason.registry.finding import with_module_digest
from flowmason.report import Report
from flowmason.usage import Usage
from flowmason.value import Inline, Stored
from flowmason.values_fs import open_values
from running import parts

PROVIDERS = {"default": "mock", "mock": {}}


class Specs(dict[str, ComponentSpec]):
    """The parts of this folder, and the built-in components."""

    def __init__(self) -> None:
        super().__init__()
        self._lab = find_components(None)
        self.learn(parts)

    def learn(self, module: ModuleType) -> None:
        """Know the components of a module."""
        for found in vars(module).values():
            if is_component(found):
                spec = with_module_digest(spec_of(found))
                self[spec.name] = spec

    def __missing__(self, name: str) -> ComponentSpec:
        found = self._lab.get(name)
        if found is None:
            raise KeyError(name)
        self[name] = found
        return found

    def get(self, name: str, default: Any = None) -> Any:
        try:
            return self[name]
        except KeyError:
            return default

    def __contains__(self, name: object) -> bool:
        return self.get(str(name)) is not None


class Result(msgspec.Struct, frozen=True):
    """How a run went, and what its components did meanwhile."""

    run_id: RunId
    status: str
    output: Any
    error: Failure | None
    stages: dict[str, StageResult]
    """By path, those of foreach items included."""
    usage: Usage
    events: list[Recorded]
    notes: list[parts.Entry]
    reports: list[Report]
    """Logs, deltas and progress, as a follower saw them."""
    plan: Plan

    def statuses(self, *names: str) -> dict[str, str]:
        """Path → status, of these paths or of all."""
        return {name: self.stages[name].status for name in names or self.stages}

    def out(self, path: str) -> Any:
        """`value` of a stage's output."""
        return self.stages[path].output["value"]

    def ran(self, *, ended: bool = False) -> list[str]:
        """Paths of what began, in order; with `ended`, in the order in which it ended."""
        notes = self.notes
        if ended:
            notes = sorted((note for note in notes if note.ended is not None), key=lambda note: note.ended or 0.0)
        return [note.path for note in notes]

    def note(self, path: str) -> parts.Entry:
        """The last thing that the stage at `path` did."""
        return [note for note in self.notes if note.path == path][-1]

    def of(self, kind: type[Any], path: str | None = None) -> list[Any]:
        """The events of one kind, of one stage or of all."""
        found: list[Any] = [each.event for each in self.events if isinstance(each.event, kind)]
        return [event for event in found if path is None or format_path(event.path) == path]

    def at_once(self, *paths: str) -> int:
        """How many executions overlapped at most, of stages whose path begins with one of `paths`."""
        spans = [note for note in self.notes if not paths or note.path.startswith(paths)]
        moments = [(note.begun, 1) for note in spans] + [(note.ended or note.begun, -1) for note in spans]
        most = now = 0
        for _, change in sorted(moments):
            now += change
            most = max(most, now)
        return most


class Running:
    """A run under way."""

    def __init__(self, engine: Engine, host: RunHost, run_id: RunId, plan: Plan, watcher: Watcher) -> None:
        self.run_id = run_id
        self.host = host
        self.plan = plan
        self.watcher = watcher
        self._engine = engine
        self.task: asyncio.Task[Any] | None = None

    def start(self) -> None:
        """Walk it."""
        self.task = asyncio.create_task(self.host.walk(self.run_id))

    async def command(self, name: str, **arguments: Any) -> None:
        """Put a command into its inbox."""
        await self.host.command(self.run_id, name, **arguments)

    async def until(self, test: Callable[[Any], bool], seconds: float = 10.0) -> None:
        """Wait for an event of which `test` is true."""
        await asyncio.wait_for(self.watcher.wait(test), seconds)

    async def began(self, path: str, seconds: float = 10.0) -> None:
        """Wait until the start of an effect is recorded (and a moment more, for it to begin)."""
        await self.until(lambda event: format_path(getattr(event, "path", ())) == path, seconds)
        await asyncio.sleep(0.03)

    async def works(self, path: str, seconds: float = 60.0) -> None:
        """Wait until the component of a stage is at work."""
        async with asyncio.timeout(seconds):
            while (self.run_id, path) not in parts.BEGUN:
                await asyncio.sleep(0.001)

    async def end(self, seconds: float = 20.0) -> Result:
        """Wait until it is no longer walked."""
        assert self.task is not None
        await asyncio.wait_for(self.task, seconds)
        return await self._engine.result(self)

    async def resume(self, **arguments: Any) -> Result:
        """`fm resume`, and wait."""
        await self.command("resume", **arguments)
        self.start()
        return await self.end()


class Watcher:
    """Keeps what a run tells its followers."""

    def __init__(self) -> None:
        self.events: list[StageEvent | Any] = []
        self.reports: list[Report] = []
        self._told = asyncio.Event()

    def committed(self, run_id: RunId, events: Sequence[Recorded]) -> None:
        self.events.extend(recorded.event for recorded in events)
        self._told.set()

    def beside(self, run_id: RunId, report: Report) -> None:
        self.reports.append(report)

    async def wait(self, test: Callable[[Any], bool]) -> None:
        seen = 0
        while True:
            while seen < len(self.events):
                seen += 1
                if test(self.events[seen - 1]):
                    return
            self._told.clear()
            await self._told.wait()


class Engine:
    """One executor and one value store for a whole session of tests."""

    def __init__(self, folder: Path, workers: int = 2) -> None:
        self.url = folder.as_uri()
        self.values = open_values(self.url)
        self.settings = WorkerSettings(values_url=self.url, options={"providers": PROVIDERS})
        self.executor = LocalExecutor(lambda: Worker(self.settings).run, workers=workers)
        self.specs = Specs()

    def plan(self, document: Mapping[str, Any], others: Sequence[Mapping[str, Any]] = ()) -> Plan:
        """Compile a document; `others` are pipelines that it may name."""
        known = [read(other) for other in others]

        def find(name: str) -> Pipeline:
            for pipeline in known:
                if name in (pipeline.name, pipeline.reference):
                    return pipeline
            raise FlowMasonError(f"there is no pipeline {name!r}", code=Code.PIPELINE_NOT_FOUND)

        return compile_pipeline(read(document), self.specs, find=find)

    async def begin(
        self,
        document: Mapping[str, Any],
        given: Mapping[str, Any] | None = None,
        *,
        others: Sequence[Mapping[str, Any]] = (),
        journal: Journal | None = None,
        options: Mapping[str, Any] | None = None,
        debug: Mapping[str, Any] | None = None,
    ) -> Running:
        """Submit a run and walk it in the background; `debug` as the command `breakpoints` takes it."""
        plan = self.plan(document, others)

        async def resolve(name: str, options: dict[str, Any]) -> Plan:
            bare, _, version = name.partition("@")
            for other in others:
                if other["name"] == bare and version in ("", other.get("version", "1.0.0")):
                    return self.plan(other, others)
            raise FlowMasonError(f"there is no pipeline {name!r}", code=Code.PIPELINE_NOT_FOUND)

        stores = Stores(journal or MemoryJournal(), self.values, "memory:", self.url)
        watcher = Watcher()
        host = RunHost(stores, self.executor, resolve=resolve, feeds=[watcher])
        run_id = await host.submit(
            plan, given or {}, dict(options or {}), debug=read_changes(debug) if debug is not None else None
        )
        running = Running(self, host, run_id, plan, watcher)
        running.start()
        return running

    async def adopt(self, journal: Journal, run_id: RunId, plan: Plan) -> Running:
        """Walk a run that a journal holds."""
        watcher = Watcher()
        host = RunHost(Stores(journal, self.values, "memory:", self.url), self.executor, feeds=[watcher])
        running = Running(self, host, run_id, plan, watcher)
        running.start()
        return running

    async def run(self, document: Mapping[str, Any], given: Mapping[str, Any] | None = None, **more: Any) -> Result:
        """Run a document to its end."""
        return await (await self.begin(document, given, **more)).end()

    async def result(self, running: Running) -> Result:
        """What has become of a run."""
        journal = running.host.stores.journal
        picture = await picture_of(journal, running.run_id, items=True)
        found = result(picture, self.values, executor="local", items=True, limit=None)
        events = await journal.read(running.run_id)
        lost = [each.event.failure for each in events if isinstance(each.event, StageLost)]
        adopted = any(isinstance(each.event, RunAdopted) for each in events)
        assert adopted or not lost, lost  # nothing here kills a worker
        return Result(
            run_id=running.run_id,
            status=found.status,
            output=found.output,
            error=found.error,
            stages=found.stages,
            usage=found.usage,
            events=events,
            notes=parts.entries(running.run_id),
            reports=running.watcher.reports,
            plan=running.plan,
        )

    def load(self, kept: Any) -> Any:
        """The data of a value in an event."""
        if isinstance(kept, Inline):
            return value.decode(kept.data)
        assert isinstance(kept, Stored), kept
        return value.decode(self.values.get("local", kept.digest))  # type: ignore[arg-type]


def read(document: Mapping[str, Any]) -> Pipeline:
    """A pipeline from plain data, which must be in order as a document."""
    faults: list[Fault] = []
    pipeline = parse_pipeline(dict(document), faults)
    assert pipeline is not None and not faults, faults
    return pipeline


def pipe(*stages: Mapping[str, Any], name: str = "main", **keys: Any) -> dict[str, Any]:
    """A document of these stages."""
    return {"name": name, "version": "1.0.0", "stages": list(stages), **keys}


_STAGE = ("depends_on", "retry_config", "timeout_ms", "llm_settings")


def stage(id: str, component: str, **config: Any) -> dict[str, Any]:
    """A stage; `depends_on`, `retry_config`, `timeout_ms` and `llm_settings` are its own keys, the rest its config."""
    own = {key: config.pop(key) for key in _STAGE if key in config}
    return {"id": id, "component_type": component, "config": config, **own}


def say(id: str, value: Any = None, **config: Any) -> dict[str, Any]:
    """A pure stage."""
    return stage(id, "say", value=value, **config)


def touch(id: str, value: Any = None, **config: Any) -> dict[str, Any]:
    """A stage with an effect that may be repeated."""
    return stage(id, "touch", value=value, **config)


def post(id: str, value: Any = None, **config: Any) -> dict[str, Any]:
    """A stage with an effect that must not happen twice."""
    return stage(id, "post", value=value, **config)


def expanded(result: Result, path: str) -> StageExpanded:
    """How a stage with a body was expanded."""
    found: StageExpanded = result.of(StageExpanded, path)[-1]
    return found
