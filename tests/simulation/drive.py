"""One seed: a random pipeline, a bad world, conductors that crash at durable writes, and what must hold after all."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
import random
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from flowmason import event as ev
from flowmason.conductor import Conductor, new_run
from flowmason.errors import JournalError
from flowmason.event import Recorded, encode_events
from flowmason.ids import LOCAL_ORG, Ids, OrgId, RunId, StagePath, format_path, parse_path
from flowmason.journal import TERMINAL, Append, Command, NewRun
from flowmason.journal_memory import MemoryJournal
from flowmason.plan import Plan
from flowmason.policy import Effect
from flowmason.state import RunState, fold
from flowmason.usage import Amount
from simulation import budgets, debugging
from simulation.house import Crash, House
from simulation.pipelines import random_plan
from simulation.virtual import run_virtual
from simulation.world import World


@dataclass
class Outcome:
    """What a seed led to."""

    seed: int
    status: str
    events: list[Recorded]
    plan: Plan
    crashes: int
    shared: int
    """How many tasks carried regions of several runs."""
    problems: list[str] = field(default_factory=list)

    @property
    def fingerprint(self) -> str:
        """Digest of the journal."""
        return hashlib.sha256(encode_events(tuple(item.event for item in self.events))).hexdigest()


def simulate(seed: int, *, trouble: bool = True) -> Outcome:
    """Run one seed to its end and check it."""
    return run_virtual(_simulate(seed, trouble))


async def _simulate(seed: int, trouble: bool) -> Outcome:
    rng = random.Random(f"{seed}/drive")
    plan = random_plan(seed)
    money = budgets.drawn(seed)
    world = World(seed, trouble=trouble, bank=None if money is None else budgets.Bank(seed))
    loop = asyncio.get_running_loop()
    unheard: list[str] = []
    """Errors of tasks that nobody waits for: a bug, whatever the run made of it."""
    loop.set_exception_handler(lambda _, context: unheard.append(str(context.get("exception") or context["message"])))
    budget = rng.choice((0, 0, 1, 2, 3)) if trouble else 0
    answered: defaultdict[str, list[Append]] = defaultdict(list)

    def after(name: str, argument: Any) -> None:
        watched.look()
        if isinstance(argument, Append):
            for command in argument.taken:
                # One that is tried again because nobody heard that it was done is the same answer.
                if not any(each is argument for each in answered[command]):
                    answered[command].append(argument)
        maybe(name, argument)

    def maybe(name: str, argument: Any) -> None:
        nonlocal budget
        at_start = name == "begin" and len(house.handed) > 0
        if not (isinstance(argument, Append) or at_start) or budget == 0 or rng.random() >= 0.15 or house.fallen:
            return
        budget -= 1
        who = house.handed[argument.run_id] if at_start else argument.by
        if not house.fell(who, taken_for_dead=rng.random() < 0.3):
            raise Crash

    journal = world.journal = MemoryJournal(before_commit=maybe, after_commit=after)

    def now() -> int:
        return int(loop.time() * 1000)

    watched = budgets.Watched(journal, LOCAL_ORG, now)
    daily = budgets.of_the_day(seed)
    if daily is not None:
        journal.daily[LOCAL_ORG] = daily
    ids = Ids(loop.time, random.Random(f"{seed}/ids"))
    latecomers = random.Random(f"{seed}/latecomers")
    neighbours: dict[RunId, Plan] = {}

    async def come(conductor: Conductor) -> None:
        """Somebody in a conductor's process hands it runs, while it lives."""
        for _ in range(latecomers.choice((0, 0, 0, 1, 3))):
            await asyncio.sleep(latecomers.choice((0.0, 0.01, 0.5)))
            if house.over or len(house.handed) > 6:
                return
            beside = random_plan(latecomers.randrange(2_000_000, 3_000_000))
            run = made(beside)
            neighbours[run.run_id] = beside
            house.handed[run.run_id] = conductor.id
            with contextlib.suppress(JournalError):
                await conductor.submit(run)

    house = House(seed, journal, world, ids, now, trouble=trouble, visitor=come)

    def made(plan: Plan, debug: ev.DebugChanged | None = None, org_id: OrgId = LOCAL_ORG, **options: Any) -> NewRun:
        return new_run(
            plan,
            {},
            run_id=ids.run(),
            now=now(),
            by="test",
            values=world.values,
            org_id=org_id,
            options=options,
            debug=debug,
        )

    async def submit(
        plan: Plan, debug: ev.DebugChanged | None = None, org_id: OrgId = LOCAL_ORG, **options: Any
    ) -> RunId:
        return (await journal.submit(made(plan, debug, org_id, **options))).run_id

    looked_at = random.Random(f"{seed}/debugging")
    debug = debugging.drawn(looked_at, plan) if trouble else None
    options: dict[str, Any] = {} if money is None else {"budget": money}
    run_id = world.first_run = await submit(plan, debug, max_concurrency=rng.choice((None, 1, 4)), **options)
    somebody = debugging.Somebody(journal, run_id, plan, ids, now)
    others: set[RunId] = set()
    """Runs of another org, which has no budget."""
    for number in range(random.Random(f"{seed}/neighbours").choice((0, 0, 2, 5))):
        beside = random_plan(1_000_000 + 10 * seed + number)
        org_id = OrgId("others") if number % 3 == 2 else LOCAL_ORG
        neighbour = await submit(beside, org_id=org_id)
        neighbours[neighbour] = beside
        others |= {neighbour} if org_id != LOCAL_ORG else set()
    commands: asyncio.Task[None] | None = None
    if debug is not None:
        commands = loop.create_task(somebody.debug(looked_at))
    elif trouble:
        commands = loop.create_task(_commands(journal, run_id, rng, ids, now))
    reopenings = random.Random(f"{seed}/reopenings").choice((0, 1, 2)) if trouble else 0
    while True:
        await house.until(_ended(journal, run_id, neighbours, house))
        if commands is not None:
            commands.cancel()
            commands = None
        row = await journal.row(run_id)
        if row is not None and row.status in TERMINAL and not await journal.commands([run_id]):
            if row.status != "failed" or reopenings == 0:
                break
            reopenings -= 1
            await journal.post(Command(id=ids.command(), run_id=run_id, name="resume", at=now()))
        if debug is not None:
            commands = loop.create_task(somebody.let_go())
    await house.close()
    outcome = await _outcome(seed, journal, run_id, plan, house.crashes, world)
    outcome.problems += [*house.problems, *world.problems]
    outcome.problems += [
        f"unsafe {call} ran {n} times" for call, n in world.ledger.starts.items() if "unsafe" in call and n > 1
    ]
    posted = [command for run in journal._runs.values() for command in run.known_commands - run.waiting.keys()]
    outcome.problems += [
        f"command {command} was answered {len(answered[command])} times"
        for command in posted
        if len(answered[command]) != 1
    ]
    outcome.problems += [f"a task failed unheard: {error}" for error in unheard]
    if world.bank is not None and daily is not None:
        ours = {run_id, *neighbours} - others
        outcome.problems += watched.at_the_end(sum((world.bank.billed[each] for each in ours), Amount()))
    for neighbour, beside in neighbours.items():
        if neighbour in house.handed and await journal.row(neighbour) is None:
            continue  # it was never recorded
        found = await _outcome(seed, journal, neighbour, beside, house.crashes, world)
        outcome.problems += [f"neighbour {neighbour} ({found.status}): {problem}" for problem in found.problems]
    return outcome


async def _outcome(seed: int, journal: MemoryJournal, run_id: RunId, plan: Plan, crashes: int, world: World) -> Outcome:
    row = await journal.row(run_id)
    assert row is not None
    outcome = Outcome(seed, row.status, await journal.read(run_id), plan, crashes, world.shared)
    outcome.problems = check(outcome)
    billed = Amount() if world.bank is None else world.bank.billed[run_id]
    outcome.problems += budgets.kept(outcome.events, plan, billed)
    return outcome


async def _ended(journal: MemoryJournal, run_id: RunId, neighbours: Mapping[RunId, Plan], house: House) -> None:
    missing = 0
    while True:
        rows = {run: await journal.row(run) for run in (run_id, *neighbours)}
        # What was handed to a conductor that died or failed may be recorded long after, or never.
        gone = [run for run, row in rows.items() if row is None and run in house.handed]
        ended = all(run in gone or (row is not None and row.status in TERMINAL) for run, row in rows.items())
        missing = missing + 1 if gone else 0
        # A run that was asked to go on is ended only once that was answered, however many turns it takes.
        settled = ended and (not gone or missing > 500) and not house.visited
        if settled and not await journal.commands(list(rows)) and len(rows) == 1 + len(neighbours):
            house.over = True
            return
        await asyncio.sleep(0.2)


async def _commands(journal: MemoryJournal, run_id: RunId, rng: random.Random, ids: Ids, now: Any) -> None:
    """Somebody pauses, resumes or cancels now and then, and may take that back; a paused run is resumed in the end."""
    for _ in range(rng.choice((0, 0, 1, 3))):
        await asyncio.sleep(rng.random() * 3)
        name = rng.choice(("pause", "pause", "resume", "cancel"))
        await journal.post(Command(id=ids.command(), run_id=run_id, name=name, at=now()))
        if name == "cancel" and rng.random() < 0.7:
            await asyncio.sleep(rng.random() * rng.choice((0.0, 0.2, 2.0)))
            back = {"withdraw": True}
            await journal.post(Command(id=ids.command(), run_id=run_id, name="resume", at=now(), arguments=back))
    while True:
        await asyncio.sleep(5)
        row = await journal.row(run_id)
        if row is not None and row.status == "paused":
            await journal.post(Command(id=ids.command(), run_id=run_id, name="resume", at=now()))


_ENDS = (ev.RunCompleted, ev.RunFailed, ev.RunCancelled)


def _of_runs(events: list[ev.Recorded]) -> list[ev.Recorded]:
    """The events that say whether the run has ended, and whether it was reopened."""
    return [item for item in events if isinstance(item.event, (*_ENDS, ev.RunCancelling, ev.RunReopened))]


def check(outcome: Outcome) -> list[str]:
    """The invariants that every run must keep."""
    problems: list[str] = []
    events = outcome.events
    if [item.seq for item in events] != list(range(1, len(events) + 1)):
        problems.append("seq is not contiguous")
    terminal = [item for item in events if isinstance(item.event, _ENDS)]
    reopened = sum(
        isinstance(item.event, ev.RunReopened) and isinstance(before.event, _ENDS)
        for before, item in itertools.pairwise(_of_runs(events))
    )
    if len(terminal) != reopened + 1:
        problems.append(f"{len(terminal)} terminal events after {reopened} reopenings")
    if terminal and events[-1] is not terminal[-1]:
        problems.append("something was recorded after the end")
    for before, item in itertools.pairwise(events):
        if isinstance(before.event, _ENDS) and not isinstance(item.event, ev.RunReopened):
            problems.append(f"{item.seq}: {ev.kind(item.event)} in a run that had ended")
    epochs = [item.event.epoch for item in events if isinstance(item.event, ev.RunAdopted)]
    if epochs != sorted(set(epochs)):
        problems.append(f"adopted under {epochs}")
    problems += _once(events, outcome.plan)
    problems += debugging.kept(events, outcome.plan)
    state = fold(events[0].run_id, outcome.plan, events)
    if str(state.status) != outcome.status:
        problems.append(f"the row says {outcome.status}, the fold {state.status}")
    problems += _effects(events, outcome.plan)
    if outcome.status == "completed":
        problems += _complete(state)
    return problems


def _once(events: list[Recorded], plan: Plan) -> list[str]:
    problems = []
    finished: Counter[StagePath] = Counter()
    items: Counter[StagePath] = Counter()
    rounds: dict[StagePath, int] = {}
    for item in events:
        event = item.event
        if isinstance(event, ev.StageFinished | ev.StageSkipped):
            finished[event.path] += 1
        elif isinstance(event, ev.StageReopened):
            anew = event.round > rounds.get(event.path, 1)
            rounds[event.path] = event.round
            for again in (finished, items):
                for path in list(again):
                    if path == event.path or (anew and debugging.within(path, event.path, plan)):
                        del again[path]
        elif isinstance(event, ev.ItemsFinished):
            for index in range(event.start, event.start + event.count):
                items[(*event.path, index)] += 1
    problems += [f"{format_path(path)} was recorded {n} times" for path, n in finished.items() if n > 1]
    problems += [f"item {format_path(path)} was recorded {n} times" for path, n in items.items() if n > 1]
    return problems


def _effects(events: list[Recorded], plan: Plan) -> list[str]:
    """No unsafe effect starts twice without a known failure in between; none ends without its start."""
    problems = []
    started: dict[str, bool] = {}
    for item in events:
        event = item.event
        path = format_path(event.path) if hasattr(event, "path") else ""
        if isinstance(event, ev.StageReopened) and event.round > 1:
            for name in [name for name in started if debugging.within(parse_path(name), event.path, plan)]:
                del started[name]  # under another round and another key
        elif isinstance(event, ev.StageStarted):
            stage = plan.stages[event.path[-1]]  # type: ignore[index]
            if started.get(path) and stage.effect is Effect.UNSAFE:
                problems.append(f"unsafe {path} started twice")
            started[path] = True
        elif isinstance(event, ev.StageRetried | ev.StageFailed):
            started[path] = False
        elif isinstance(event, ev.StageFinished) and path:
            stage = plan.stages[event.path[-1]]  # type: ignore[index]
            if stage.effect is not Effect.PURE and not started.get(path):
                problems.append(f"{path} finished without a recorded start")
    return problems


def _complete(state: RunState) -> list[str]:
    assert state.root is not None
    if state.root.doomed is not None:
        return []
    return [f"{s.stage.id} is {s.status}" for s in state.root.stages.values() if not s.ended]
