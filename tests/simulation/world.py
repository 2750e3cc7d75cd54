"""The world of a simulated run: workers that lose, delay, double and reorder; a ledger of effects; crashes."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any

from flowmason import event as ev
from flowmason.errors import Code, Failure, RetryableError, StageError
from flowmason.event import decode_events
from flowmason.executor import Capacity
from flowmason.ids import Digest, OrgId, RunId, StagePath, format_path
from flowmason.journal import TERMINAL
from flowmason.journal_memory import MemoryJournal
from flowmason.plan import ComponentRef, Plan
from flowmason.policy import Placement, Resources
from flowmason.region import Worker
from flowmason.region.run import RegionRun
from flowmason.report import Ended, Region, Report
from flowmason.secrets import Masker
from simulation.budgets import Bank


class MemoryValues:
    """The value store in a dictionary."""

    location = "memory"

    def __init__(self) -> None:
        self.kept: dict[tuple[OrgId, Digest], bytes] = {}

    def put(self, org_id: OrgId, digest: Digest, data: bytes) -> None:
        self.kept[org_id, digest] = bytes(data)

    def put_file(self, org_id: OrgId, digest: Digest, file: Path) -> None:
        self.put(org_id, digest, file.read_bytes())

    def get(self, org_id: OrgId, digest: Digest) -> bytes:
        return self.kept[org_id, digest]

    def has(self, org_id: OrgId, digest: Digest) -> bool:
        return (org_id, digest) in self.kept

    def touch(self, org_id: OrgId, digest: Digest) -> bool:
        return self.has(org_id, digest)

    def delete(self, org_id: OrgId, digest: Digest, untouched_s: float = 0.0) -> bool:
        return self.kept.pop((org_id, digest), None) is not None

    async def untouched(self, org_id: OrgId, seconds: float) -> AsyncIterator[tuple[Digest, int]]:
        for (owner, digest), data in self.kept.items():
            if owner == org_id:
                yield digest, len(data)


class Ledger:
    """What happened to the world outside: every start and every end of an effect, and every pure result."""

    def __init__(self) -> None:
        self.starts: Counter[str] = Counter()
        self.open: dict[str, list[int]] = defaultdict(list)


class _Component:
    """A component whose behaviour is drawn from the seed, the path, the round and the attempt alone."""

    def __init__(self, world: World, ref: ComponentRef) -> None:
        self._world = world
        self._ref = ref

    def make(self) -> _Component:
        return self

    def validate(self, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        return inputs

    def dump(self, result: Any) -> Any:
        return result

    async def execute(self, inputs: Mapping[str, Any], context: Any) -> Any:
        path = format_path(context.path)
        if context.run_id != self._world.first_run:
            path = f"{context.run_id}/{path}"
        rng = random.Random(f"{self._world.seed}/{path}/{context.round}/{context.attempt}")
        effect = self._ref.name != "pure"
        if effect and self._world.bank is not None:
            for number in range(rng.choice((0, 1, 1, 2, 3))):
                await context.llm.generate(f"{context.run_id} {path} {number} " + "please " * rng.choice((0, 9, 40)))
        if effect:
            self._world.begins(context.run_id, context.path, context.attempt)
            self._world.ledger.starts[f"{path}#{context.round}#{context.attempt}"] += 1
        await asyncio.sleep(rng.choice((0.0, 0.0, 0.001, 0.05, 1.0)))
        trouble = rng.random()
        if trouble < float(inputs.get("flaky") or 0):
            raise RetryableError("flaky")
        if inputs.get("fails"):
            raise StageError("as asked", code="ASKED")
        if trouble > 0.995:
            await asyncio.sleep(10_000)
        return {"value": inputs.get("value"), "path": path}


class SimWorker(Worker):
    """The real region runner, on the virtual clock and without threads."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.values = world.values
        self.name = "sim"
        self.masker = Masker()
        self.mocks = None
        self._plans = {}
        self._templates = {}
        self._scopes = {}
        self._rng = random.Random(f"{world.seed}/worker")
        self._active = set()  # type: ignore[assignment]
        self.services = world.bank  # type: ignore[assignment]

    def _beat(self, run: RegionRun) -> None:
        self._active.add(run)

        async def pulse() -> None:
            while run in self._active:
                await asyncio.sleep(0.02)
                run.outbox.flush()

        task = asyncio.get_running_loop().create_task(pulse())
        self.world.keep(task)

    def component(self, ref: ComponentRef) -> Any:
        return _Component(self.world, ref)

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()

    def now(self) -> int:
        return int(self.monotonic() * 1000)

    def environment(self) -> Mapping[str, str]:
        return {}


class SimExecutor:
    """Workers in a bad neighbourhood. Calls of effects live on a host that outlives conductors."""

    name = "sim"

    def __init__(self, world: World) -> None:
        self._world = world
        self._sent: set[str] = set()
        self._dead = False

    def die(self) -> None:
        """The process of its conductor is gone: its tasks die with it, and it neither hears nor ends anything more."""
        self._dead = True
        self._world.conductor_died(self._sent)

    async def start(self) -> None:
        pass

    def capacity(self) -> Capacity:
        return Capacity(2, 16)

    def infeasible(self, placement: Placement, resources: Resources) -> str | None:
        return None

    async def submit(self, regions: Sequence[Region]) -> AsyncIterator[Report]:
        self._sent.update(region.id for region in regions)
        reports = self._world.call(regions[0]) if len(regions) == 1 else self._world.share(regions)
        async for report in reports:
            if self._dead:
                await self._world.never.wait()
            yield report

    async def cancel(self, region_id: str, *, grace_s: float) -> None:
        if not self._dead:
            await self._world.cancel(region_id, grace_s)

    async def close(self) -> None:
        pass


class _Call:
    def __init__(self, region: Region) -> None:
        self.region = region
        self.reports: list[Report] = []
        self.changed = asyncio.Event()
        self.task: asyncio.Task[None] | None = None
        self.ended = False

    def add(self, report: Report) -> None:
        if not self.ended:
            self.ended = report.ended is not None
            self.reports.append(report)
            self.changed.set()


class World:
    """Everything outside the conductor and the journal; survives both."""

    def __init__(self, seed: int, *, trouble: bool = True, bank: Bank | None = None) -> None:
        self.seed = seed
        self.rng = random.Random(f"{seed}/world")
        self.trouble = trouble
        self.values = MemoryValues()
        self.ledger = Ledger()
        self.bank = bank
        self.worker = SimWorker(self)
        self.host_calls: dict[str, _Call] = {}
        self.calls: dict[str, _Call] = {}
        self.first_run = RunId("")
        self.never = asyncio.Event()
        """What the dead wait for."""
        self.shared = 0
        """How many tasks carried regions of several runs."""
        self.epochs: dict[str, int] = {}
        self.journal: MemoryJournal | None = None
        self.problems: list[str] = []
        self._tasks: set[asyncio.Task[Any]] = set()
        self._calls: list[_Call] = []
        """All there ever were: somebody may wait for the end of one of which nobody knows any more."""

    def keep(self, task: asyncio.Task[Any]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def begins(self, run_id: RunId, path: StagePath, attempt: int) -> None:
        """An effect happens: by then its start is recorded, and the run goes on."""
        assert self.journal is not None
        run = self.journal._runs[run_id]
        events = [event for *_, data in run.frames for event in decode_events(data)]
        if not any(
            isinstance(each, ev.StageStarted) and (each.path, each.attempt) == (path, attempt) for each in events
        ):
            self.problems.append(f"{format_path(path)} took effect before its start was recorded")
        if run.bare.status in ("paused", *TERMINAL):
            self.problems.append(f"{format_path(path)} took effect in a run that is {run.bare.status}")

    def chance(self, probability: float) -> bool:
        return self.trouble and self.rng.random() < probability

    def conductor_died(self, sent: AbstractSet[str]) -> None:
        """The tasks that it sent die with it; calls on the host run on, unless the host dies as well."""
        for region_id, call in list(self.calls.items()):
            if region_id in sent and region_id not in self.host_calls:
                del self.calls[region_id]
                self._kill(call)
        if self.chance(0.3):
            self.host_died()

    def host_died(self) -> None:
        for call in self.host_calls.values():
            self._kill(call)
            call.add(Report(region=call.region.id, ended=Ended.LOST, failure=_lost()))
        self.host_calls.clear()

    def _kill(self, call: _Call) -> None:
        if call.task is not None:
            call.task.cancel()

    async def call(self, region: Region) -> AsyncIterator[Report]:
        stale = region.epoch < self.epochs.get(region.run_id, 0)
        self.epochs[region.run_id] = max(region.epoch, self.epochs.get(region.run_id, 0))
        known = self.host_calls.get(region.id)
        # A host that has the call does not refuse it: whoever were told so would begin it again beside itself.
        if stale or (known is None and (region.attach or self.chance(0.02))):
            yield Report(region=region.id, ended=Ended.REFUSED, failure=_lost())
            return
        call = known
        if call is None:
            call = _Call(region)
            self._calls.append(call)
            if region.placement is Placement.HOST:
                self.host_calls[region.id] = call
            call.task = asyncio.get_running_loop().create_task(self._run(call))
            self.keep(call.task)
        self.calls[region.id] = call
        async for report in self._deliver(call):
            yield report
        self.calls.pop(region.id, None)
        if self.host_calls.get(region.id) is call:
            del self.host_calls[region.id]

    async def share(self, regions: Sequence[Region]) -> AsyncIterator[Report]:
        """Regions in one task. It may die when only some have reported, or bring all ends with the last one."""
        self.shared += 1
        reports: asyncio.Queue[Report] = asyncio.Queue()

        async def pump(region: Region) -> None:
            async for report in self.call(region):
                reports.put_nowait(report)

        pumps = [asyncio.get_running_loop().create_task(pump(region)) for region in regions]
        for task in pumps:
            self.keep(task)
        dies_after = self.rng.randrange(3 * len(regions)) if self.chance(0.15) else -1
        holds = self.chance(0.2)
        held: list[Report] = []
        under_way = {region.id for region in regions}
        try:
            while under_way:
                if dies_after == 0:
                    for region in regions:
                        call = self.calls.pop(region.id, None)
                        if call is not None:
                            self._kill(call)
                        if region.id in under_way or any(report.region == region.id for report in held):
                            yield Report(region=region.id, ended=Ended.LOST, failure=_lost())
                    return
                dies_after -= 1
                report = await reports.get()
                if report.ended is not None:
                    under_way.discard(report.region)
                    if holds and under_way:
                        held.append(report)
                        continue
                yield report
            for report in held:
                yield report
        finally:
            for task in pumps:
                task.cancel()

    async def _deliver(self, call: _Call) -> AsyncIterator[Report]:
        """Reports in some order, some late, some twice; the last stays the last."""
        position = 0
        held: list[Report] = []
        while True:
            while position < len(call.reports):
                report = call.reports[position]
                position += 1
                if report.ended is not None:
                    for late in held:
                        yield late
                    yield report
                    return
                if self.chance(0.1):
                    held.append(report)
                    continue
                if self.chance(0.3):
                    await asyncio.sleep(self.rng.random())
                yield report
                if self.chance(0.1):
                    yield report
            call.changed.clear()
            if position == len(call.reports):
                await call.changed.wait()

    async def _run(self, call: _Call) -> None:
        region = call.region
        work = asyncio.get_running_loop().create_task(self.worker.run(region, call.add))
        self.keep(work)
        try:
            if self.chance(0.08):
                await asyncio.wait([work], timeout=self.rng.choice((0.0, 0.01, 0.5)))
                if not work.done():
                    if region.placement is Placement.HOST:
                        self.host_died()
                    call.add(Report(region=region.id, ended=Ended.LOST, failure=_lost()))
                    return
            await work
        except asyncio.CancelledError:
            # The region's own last report comes first; this one counts only where there is none.
            work.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([work])
            call.add(Report(region=region.id, ended=Ended.CANCELLED))
        finally:
            work.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([work])

    async def cancel(self, region_id: str, grace_s: float) -> None:
        call = self.calls.get(region_id)
        if call is None or call.ended:
            return
        if call.task is not None:
            call.task.cancel()
            await asyncio.wait([call.task], timeout=max(grace_s, 0.001))
        call.add(Report(region=region_id, ended=Ended.LOST, failure=_lost()))


def _lost() -> Failure:
    return Failure(code=Code.LOST, message="simulated")


def plan_value(world: World, org_id: OrgId, plan: Plan) -> None:
    """Put a Plan where workers look for it."""
    world.values.put(org_id, Digest(plan.id), plan.encoded)
