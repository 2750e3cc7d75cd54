"""Runs, commands and conductors in memory."""

from __future__ import annotations

import inspect
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec

from flowmason.errors import Code, FencedError, JournalError, UsageError
from flowmason.event import Frame, Recorded, decode_events
from flowmason.fairness import NO_LIMITS, OrgLimits, Waiting, in_turn
from flowmason.ids import ConductorId, OrgId, PlanId, RunId
from flowmason.journal import TERMINAL, URGENT, Append, Claimed, Command, NewRun, RunRow
from flowmason.journal_memory.books import Books
from flowmason.journal_memory.runs import Run, rank, wants_claiming
from flowmason.ledger import OrgCall, UsageSum, day_of, entries
from flowmason.report import Delta, LogLine
from flowmason.slices import Day, Taken
from flowmason.usage import Amount, Call, Limit

Hook = Callable[[str, Any], Awaitable[None] | None]
"""Called with the name of the writing method and its argument; may be a coroutine function."""

_encode = msgspec.msgpack.Encoder().encode
_decode_command = msgspec.msgpack.Decoder(Command).decode
_decode_line = msgspec.msgpack.Decoder(LogLine).decode
_decode_delta = msgspec.msgpack.Decoder(Delta).decode


class MemoryJournal:
    """The Journal port in memory.

    `before_commit` is awaited before anything of a write is checked or done: raising there loses the
    write. `after_commit` is awaited when it is done: raising there loses only the answer.
    """

    def __init__(self, *, before_commit: Hook | None = None, after_commit: Hook | None = None) -> None:
        self.before_commit = before_commit
        self.after_commit = after_commit
        self._runs: dict[RunId, Run] = {}
        self._plans: dict[PlanId, bytes] = {}
        self._keys: dict[tuple[OrgId, str], RunId] = {}
        self.limits: dict[OrgId, OrgLimits] = {}
        """Of orgs that have any."""
        self._conductors: dict[ConductorId, tuple[int, str, int]] = {}
        self._books = Books()
        self._last_number = 0

    async def submit(self, run: NewRun) -> RunRow:
        await _call(self.before_commit, "submit", run)
        row = self._submit(run).row()
        await _call(self.after_commit, "submit", run)
        return row

    async def begin(self, run: NewRun, conductor: ConductorId) -> tuple[RunRow, bool]:
        await _call(self.before_commit, "begin", run)
        before = len(self._runs)
        kept = self._submit(run)
        most = self.limits.get(run.org_id, NO_LIMITS).max_concurrent_runs
        held = sum(each.bare.owner is not None and each.bare.org_id == run.org_id for each in self._runs.values())
        ours = len(self._runs) > before and conductor in self._conductors and (most is None or held < most)
        if ours:
            kept.change(owner=conductor, epoch=1)
        row = kept.row()
        await _call(self.after_commit, "begin", run)
        return row, ours

    async def append(self, append: Append) -> int:
        await _call(self.before_commit, "append", append)
        seq = self._append(append)
        await _call(self.after_commit, "append", append)
        return seq

    async def row(self, run_id: RunId) -> RunRow | None:
        run = self._runs.get(run_id)
        return run.row() if run else None

    async def rows(
        self,
        org_id: OrgId,
        *,
        status: Sequence[str] = (),
        pipeline: str | None = None,
        limit: int = 50,
        before: RunId | None = None,
    ) -> list[RunRow]:
        def age(run: Run) -> tuple[int, str]:
            return run.bare.created_at, run.bare.run_id

        edge = None
        if before is not None:
            if before not in self._runs:
                raise JournalError(f"there is no run {before} to page from", code=Code.NOT_FOUND)
            edge = age(self._runs[before])
        found = [
            run
            for run in self._runs.values()
            if run.bare.org_id == org_id
            and (not status or run.bare.status in status)
            and (pipeline is None or run.bare.pipeline == pipeline)
            and (edge is None or age(run) < edge)
        ]
        return [run.row() for run in sorted(found, key=age, reverse=True)[:limit]]

    async def read(self, run_id: RunId, after: int = 0, limit: int | None = None) -> list[Recorded]:
        found: list[Recorded] = []
        for frame in await self.frames(run_id, after):
            if limit is not None and len(found) >= limit:
                break
            found.extend(frame.recorded())
        return found[:limit]

    async def frames(self, run_id: RunId, after: int = 0) -> list[Frame]:
        run = self._runs.get(run_id)
        if run is None:
            return []
        found = []
        for first, last, at, by, data in run.frames:
            if last > after:
                done = max(0, after + 1 - first)
                found.append(Frame(run_id, run.bare.org_id, first + done, at, by, decode_events(data)[done:]))
        return found

    async def plan(self, plan_id: PlanId) -> bytes | None:
        return self._plans.get(plan_id)

    async def put_plan(self, plan_id: PlanId, data: bytes) -> None:
        await _call(self.before_commit, "put_plan", plan_id)
        self._plans.setdefault(plan_id, bytes(data))
        await _call(self.after_commit, "put_plan", plan_id)

    async def post(self, command: Command) -> bool:
        await _call(self.before_commit, "post", command)
        run = self._runs.get(command.run_id)
        if run and command.id not in run.known_commands:
            run.known_commands.add(command.id)
            run.waiting[command.id] = (self._number(), _encode(command))
        await _call(self.after_commit, "post", command)
        return run is not None

    async def commands(self, run_ids: Sequence[RunId]) -> list[Command]:
        runs = [self._runs[run_id] for run_id in dict.fromkeys(run_ids) if run_id in self._runs]
        return [_decode_command(data) for _, data in sorted(item for run in runs for item in run.waiting.values())]

    async def enlist(self, conductor: ConductorId, host: str, pid: int) -> None:
        await _call(self.before_commit, "enlist", conductor)
        beat = self._conductors.get(conductor, (0, host, pid))[0]
        self._conductors[conductor] = (beat, host, pid)
        await _call(self.after_commit, "enlist", conductor)

    async def beat(self, conductor: ConductorId) -> bool:
        await _call(self.before_commit, "beat", conductor)
        known = self._conductors.get(conductor)
        if known:
            self._conductors[conductor] = (known[0] + 1, known[1], known[2])
        await _call(self.after_commit, "beat", conductor)
        return known is not None

    async def beats(self) -> dict[ConductorId, tuple[int, str, int]]:
        return dict(self._conductors)

    async def bury(self, conductor: ConductorId, beat: int) -> bool:
        await _call(self.before_commit, "bury", conductor)
        dead = conductor in self._conductors and self._conductors[conductor][0] == beat
        if dead:
            self._remove(conductor)
        await _call(self.after_commit, "bury", conductor)
        return dead

    async def retire(self, conductor: ConductorId) -> None:
        await _call(self.before_commit, "retire", conductor)
        self._remove(conductor)
        await _call(self.after_commit, "retire", conductor)

    async def claim(
        self, conductor: ConductorId, now: int, limit: int, run_id: RunId | None = None, *, spare: int = 0
    ) -> list[Claimed]:
        await _call(self.before_commit, "claim", conductor)
        if conductor not in self._conductors:
            raise FencedError(f"conductor {conductor} was buried or never enlisted")
        if run_id is not None:
            free = [run for run in (self._runs.get(run_id),) if run and run.bare.owner not in self._conductors]
        else:
            free = self._next(now, limit, spare)
        for run in free:
            run.change(owner=conductor, epoch=run.bare.epoch + 1, wake_at=None)
        claimed = [Claimed(run.row()) for run in free]
        await _call(self.after_commit, "claim", conductor)
        return claimed

    def _next(self, now: int, limit: int, spare: int) -> list[Run]:
        wanted = sorted((run for run in self._runs.values() if wants_claiming(run, now)), key=rank)
        urgent = [
            run for run in wanted if any(_decode_command(data).name in URGENT for _, data in run.waiting.values())
        ]
        chosen = urgent[:limit]
        held = Counter(run.bare.org_id for run in self._runs.values() if run.bare.owner is not None)
        held.update(run.bare.org_id for run in chosen)
        waiting: dict[OrgId, list[Waiting]] = defaultdict(list)
        for run in wanted:
            if run not in urgent:
                waiting[run.bare.org_id].append(Waiting(run.bare.run_id, run.bare.created_at))
        turns = in_turn(limit - len(chosen), waiting, held=held, limits=self.limits, spare=spare)
        return chosen + [self._runs[run_id] for _, run_id in turns]

    async def add_side(self, org_id: OrgId, run_id: RunId, lines: Sequence[LogLine], deltas: Sequence[Delta]) -> None:
        await _call(self.before_commit, "add_side", run_id)
        run = self._runs.get(run_id)
        if run:
            run.add_side(run.logs, lines, self._number)
            run.add_side(run.deltas, deltas, self._number)
        await _call(self.after_commit, "add_side", run_id)

    async def logs(self, run_id: RunId, after: int = 0, limit: int = 1000) -> list[tuple[int, LogLine]]:
        run = self._runs.get(run_id)
        return [(n, _decode_line(data)) for n, data in (run.logs if run else ()) if n > after][:limit]

    async def deltas(self, run_id: RunId, after: int = 0, limit: int = 1000) -> list[tuple[int, Delta]]:
        run = self._runs.get(run_id)
        return [(n, _decode_delta(data)) for n, data in (run.deltas if run else ()) if n > after][:limit]

    async def usage(self, org_id: OrgId, since: str, until: str, pipeline: str | None = None) -> list[UsageSum]:
        return self._books.usage(org_id, since, until, pipeline)

    async def budgets(self, org_ids: Sequence[OrgId]) -> dict[OrgId, Limit]:
        return {org_id: self.daily[org_id] for org_id in org_ids if org_id in self.daily}

    async def budget_day(self, org_id: OrgId, day: str) -> Day | None:
        return self._books.day(org_id, day)

    @property
    def daily(self) -> dict[OrgId, Limit]:
        """What orgs may spend a day, of those that have a budget."""
        return self._books.daily

    def day(self, org_id: OrgId, day: str) -> Day | None:
        """`budget_day` at once."""
        return self._books.day(org_id, day)

    async def take_slice(self, conductor: ConductorId, org_id: OrgId, day: str, need: Amount) -> Taken | None:
        await _call(self.before_commit, "take_slice", conductor)
        taken = self._books.take(conductor, org_id, day, need) if conductor in self._conductors else None
        await _call(self.after_commit, "take_slice", conductor)
        return taken

    async def return_slices(self, conductor: ConductorId, org_id: OrgId) -> None:
        await _call(self.before_commit, "return_slices", conductor)
        self._books.empty(conductor, org_id)
        await _call(self.after_commit, "return_slices", conductor)

    async def hold_call(self, owner: ConductorId, made: OrgCall, need: Amount, at: int) -> Taken | None:
        await _call(self.before_commit, "hold_call", made)
        if owner not in self._conductors:
            raise FencedError(f"{owner} was buried or never enlisted")
        taken = self._books.hold(owner, made, need, at)
        await _call(self.after_commit, "hold_call", made)
        return taken

    async def end_call(self, made: OrgCall, call: Call, at: int) -> None:
        await _call(self.before_commit, "end_call", made)
        self._books.end(made, call, at)
        await _call(self.after_commit, "end_call", made)

    async def prune(self, org_id: OrgId, *, before: int, statuses: Sequence[str], dry_run: bool = False) -> list[RunId]:
        await _call(self.before_commit, "prune", org_id)
        wanted = set(statuses or TERMINAL)
        if not wanted <= TERMINAL:
            raise UsageError(f"only ended runs can be pruned, not {', '.join(sorted(wanted - TERMINAL))}")
        old = [
            run_id
            for run_id, run in self._runs.items()
            if run.bare.org_id == org_id
            and run.bare.status in wanted
            and run.bare.updated_at < before
            and run.bare.owner is None
            and not run.waiting
        ]
        for run_id in old if not dry_run else ():
            del self._runs[run_id]
        if not dry_run:
            self._keys = {key: run_id for key, run_id in self._keys.items() if run_id in self._runs}
        await _call(self.after_commit, "prune", org_id)
        return sorted(old)

    async def references(self, digests: Sequence[str]) -> set[str]:
        return {digest for digest in digests if any(digest in run.mentioned for run in self._runs.values())}

    async def close(self) -> None:
        """Nothing to do: what is in memory is gone with the object."""

    def _number(self) -> int:
        self._last_number += 1
        return self._last_number

    def _submit(self, run: NewRun) -> Run:
        key = (run.org_id, run.idempotency_key) if run.idempotency_key is not None else None
        if key in self._keys:
            return self._runs[self._keys[key]]
        known = self._known(run)
        if known is not None:
            return known
        row = RunRow(
            run_id=run.run_id,
            org_id=run.org_id,
            plan_id=run.plan_id,
            pipeline=run.pipeline,
            version=run.version,
            status=run.status,
            epoch=0,
            seq=0,
            priority=run.priority,
            parent=run.parent,
            created_at=run.at,
            updated_at=run.at,
        )
        fresh = Run(row)
        if run.events:
            fresh.add_frame(run.at, run.by, run.events)
        self._plans.setdefault(run.plan_id, bytes(run.plan))
        self._runs[run.run_id] = fresh
        if key is not None:
            self._keys[key] = run.run_id
        return fresh

    def _known(self, run: NewRun) -> Run | None:
        known = self._runs.get(run.run_id)
        if known is not None and (known.bare.org_id, known.bare.plan_id) != (run.org_id, run.plan_id):
            raise JournalError(f"another run has the id {run.run_id} already")
        return known

    def _append(self, append: Append) -> int:
        run = self._runs.get(append.run_id)
        if run is None or (run.bare.epoch, run.bare.seq) != (append.epoch, append.seq):
            raise FencedError(f"run {append.run_id} has another owner, or went on without this one")
        if append.reserves and append.by not in self._conductors:
            raise FencedError(f"{append.by} was buried or never enlisted")
        for child in append.children:
            self._known(child)
        summary = None if append.summary is None else msgspec.json.encode(append.summary)
        if append.moves is not None:
            self._books.move(append.run_id, append.org_id, ConductorId(append.by), append.moves)
        for entry in entries(append.events, append.seq + 1):
            self._books.note(append.org_id, day_of(append.at), run.bare.pipeline, entry.call)
        if append.events:
            run.add_frame(append.at, append.by, append.events)
        run.change(updated_at=append.at)
        if append.status is not None:
            run.change(status=append.status)
        if append.release:
            run.change(owner=None)
        if append.release or append.wake_at is not None:
            run.change(wake_at=append.wake_at)
        if summary is not None:
            run.summary = summary
        for command_id in append.taken:
            run.waiting.pop(command_id, None)
        if append.status == "completed":
            run.deltas.clear()
        for child in append.children:
            self._submit(child)
        return run.bare.seq

    def _remove(self, conductor: ConductorId) -> None:
        self._conductors.pop(conductor, None)
        self._books.bury(conductor)
        for run in self._runs.values():
            if run.bare.owner == conductor:
                run.change(owner=None)


async def _call(hook: Hook | None, name: str, argument: Any) -> None:
    if hook is not None:
        waiting = hook(name, argument)
        if inspect.isawaitable(waiting):
            await waiting
