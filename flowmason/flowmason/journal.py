"""The Journal port: the one truth about runs. Adapters: `journal_memory`, `journal_sql`.

Safety rests on one rule alone: an append succeeds only if the run's row still has the writer's epoch
and the expected seq. Everyone but the owning conductor writes *commands*; the owner appends the
resulting events and takes the command in one transaction.

Liveness: a conductor holds a row with a beat counter and raises it; an observer that has seen no beat
for 10 s on its *own* monotonic clock (or knows the pid dead, on the same host) may declare it dead
with `bury`, which makes its runs claimable. No clocks of two machines are ever compared.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Protocol

import msgspec

from flowmason.event import Event, Frame, Recorded, StageStarted
from flowmason.ids import ConductorId, OrgId, PlanId, RunId
from flowmason.ledger import OrgCall, UsageSum
from flowmason.report import Delta, LogLine
from flowmason.slices import Day, Moves, Taken
from flowmason.usage import Amount, Call, Limit

TERMINAL = frozenset({"completed", "failed", "cancelled"})
URGENT = frozenset({"cancel", "pause"})
"""Commands that end work: they never wait for their org's turn."""
STATUSES = ("queued", "running", "paused", "completed", "failed", "cancelled")

_DIGEST = re.compile(rb"sha256:[0-9a-f]{64}")


def mentioned_digests(data: bytes) -> set[str]:
    """Every digest that stands in `data`, whether as a value, a Plan or a `$blob`.

    Used on encoded events and on stored values. A text that merely looks like a digest counts too: that
    keeps a value longer than needed, never too short.
    """
    if b"sha256:" not in data:
        return set()
    return {found.decode() for found in _DIGEST.findall(data)}


class Command(msgspec.Struct, frozen=True, omit_defaults=True):
    """What somebody asks of a run's owner."""

    id: str
    run_id: RunId
    name: str
    """cancel, pause, resume, edit, …"""
    arguments: dict[str, Any] = {}
    by: str = ""
    at: int = 0


class RunRow(msgspec.Struct, frozen=True, omit_defaults=True):
    """The row of a run: its lock, and a cache of what the journal says."""

    run_id: RunId
    org_id: OrgId
    plan_id: PlanId
    pipeline: str
    version: str
    status: str
    epoch: int
    seq: int
    """The last seq that is committed; 0 before the first frame."""
    owner: ConductorId | None = None
    wake_at: int | None = None
    """Milliseconds since the epoch at which an ownerless run wants to be claimed again."""
    priority: int = 0
    parent: RunId | None = None
    created_at: int = 0
    updated_at: int = 0
    summary: dict[str, Any] = {}
    """For lists: stage counts, usage, failure message; rebuilt from the journal at any time."""


class NewRun(msgspec.Struct, frozen=True):
    """What `submit` writes: the row, the Plan (if new) and the first frame, in one transaction."""

    run_id: RunId
    org_id: OrgId
    plan_id: PlanId
    plan: bytes
    """`Plan.encoded`."""
    pipeline: str
    version: str
    events: tuple[Event, ...]
    at: int
    by: str
    priority: int = 0
    parent: RunId | None = None
    status: str = "queued"
    idempotency_key: str | None = None


class Append(msgspec.Struct, frozen=True):
    """One fenced addition to one run."""

    run_id: RunId
    org_id: OrgId
    epoch: int
    seq: int
    """The seq the writer believes is the last one."""
    events: tuple[Event, ...]
    at: int
    by: str
    status: str | None = None
    """New status of the row; None: unchanged."""
    taken: tuple[str, ...] = ()
    """Ids of commands that these events answer."""
    release: bool = False
    """Give up ownership in the same transaction (terminal, paused, or asleep until `wake_at`)."""
    wake_at: int | None = None
    summary: dict[str, Any] | None = None
    durable: bool = False
    """Whether the commit must survive a power cut (it starts or finishes an effect)."""
    children: tuple[NewRun, ...] = ()
    """Runs to submit in the same transaction (asynchronous sub-pipelines)."""
    moves: Moves | None = None
    """Where the org has a budget a day: what these events move in it, between the slice of `by`, the run and what is
    spent."""

    @property
    def reserves(self) -> bool:
        """Whether attempts begin that are paid out of the slice of `by`: one that was buried has none any more."""
        return self.moves is not None and any(isinstance(event, StageStarted) for event in self.events)


class Claimed(msgspec.Struct, frozen=True):
    """A run that is now ours, under a fresh epoch."""

    row: RunRow


class Journal(Protocol):
    """The store of runs. Every method is one transaction; all may raise `JournalError`."""

    async def submit(self, run: NewRun) -> RunRow:
        """Record a new run. A known idempotency key (per org) returns the earlier run's row.

        So does a known run id, if org and Plan are the same; else it is refused.
        """
        ...

    async def begin(self, run: NewRun, conductor: ConductorId) -> tuple[RunRow, bool]:
        """`submit`, and in the same transaction claim the run for the conductor that will walk it.

        The flag says whether it is the conductor's, under epoch 1. It is not where the run was there already, where the
        conductor is not listed, and where its org has as many runs as it may have: whoever claims finds it then.
        """
        ...

    async def append(self, append: Append) -> int:
        """Add events; returns the new last seq. Raises `FencedError` if the epoch or seq is stale, or if a conductor
        that was buried would begin what its org's budget pays for.

        Many appends may share one commit; one that is refused never aborts the others.
        """
        ...

    async def row(self, run_id: RunId) -> RunRow | None:
        """The run's row, or None."""
        ...

    async def rows(
        self,
        org_id: OrgId,
        *,
        status: Sequence[str] = (),
        pipeline: str | None = None,
        limit: int = 50,
        before: RunId | None = None,
    ) -> list[RunRow]:
        """Runs of an org, newest first; `before` pages."""
        ...

    async def read(self, run_id: RunId, after: int = 0, limit: int | None = None) -> list[Recorded]:
        """Committed events with seq > `after`, in order; `limit` counts events (whole frames are read)."""
        ...

    async def frames(self, run_id: RunId, after: int = 0) -> list[Frame]:
        """The same as frames, for folding."""
        ...

    async def plan(self, plan_id: PlanId) -> bytes | None:
        """The bytes of a Plan."""
        ...

    async def put_plan(self, plan_id: PlanId, data: bytes) -> None:
        """Store a Plan that a running pipeline resolved. Storing it twice is fine."""
        ...

    async def post(self, command: Command) -> bool:
        """Put a command into a run's inbox. False where the run does not exist."""
        ...

    async def commands(self, run_ids: Sequence[RunId]) -> list[Command]:
        """Commands not yet taken, oldest first."""
        ...

    async def enlist(self, conductor: ConductorId, host: str, pid: int) -> None:
        """Make a conductor known."""
        ...

    async def beat(self, conductor: ConductorId) -> bool:
        """Raise the beat counter. False: the conductor was buried and must stop at once."""
        ...

    async def beats(self) -> dict[ConductorId, tuple[int, str, int]]:
        """Every living conductor: (beat, host, pid)."""
        ...

    async def bury(self, conductor: ConductorId, beat: int) -> bool:
        """Declare a conductor dead if its counter still is `beat`; its runs become ownerless."""
        ...

    async def retire(self, conductor: ConductorId) -> None:
        """A conductor says goodbye: its runs become ownerless."""
        ...

    async def claim(
        self, conductor: ConductorId, now: int, limit: int, run_id: RunId | None = None, *, spare: int = 0
    ) -> list[Claimed]:
        """Take ownerless runs that are queued or running, have a command waiting or a due `wake_at`.

        A run that sleeps until a later `wake_at` is left alone unless a command waits. Orgs take turns
        (`fairness.in_turn`, with `spare`), the one with the fewest held runs first, and none gets beyond its
        `max_concurrent_runs`. Inside an org: runs that were begun before those that wait, then higher
        priority, then the oldest. A run that somebody wants cancelled or paused is taken before all
        others, whatever its org has. Raises the epoch of each. `run_id` claims that run alone, whatever its
        state, unless a living conductor holds it (then the list is empty). Raises `FencedError` where
        the conductor itself was never enlisted or was buried.
        """
        ...

    async def add_side(self, org_id: OrgId, run_id: RunId, lines: Sequence[LogLine], deltas: Sequence[Delta]) -> None:
        """Store log lines and token deltas; numbers already stored are ignored."""
        ...

    async def logs(self, run_id: RunId, after: int = 0, limit: int = 1000) -> list[tuple[int, LogLine]]:
        """Stored log lines with their row numbers."""
        ...

    async def deltas(self, run_id: RunId, after: int = 0, limit: int = 1000) -> list[tuple[int, Delta]]:
        """Stored token deltas with their row numbers. They go when the run completes: its output holds the text."""
        ...

    async def usage(self, org_id: OrgId, since: str, until: str, pipeline: str | None = None) -> list[UsageSum]:
        """What an org's model calls of some days (UTC, both included) add up to, the latest day first.

        Calls are noted in the transaction of the events that carry them, and stay when their runs are pruned.
        """
        ...

    async def budgets(self, org_ids: Sequence[OrgId]) -> dict[OrgId, Limit]:
        """What orgs may spend a day; those without a budget are left out."""
        ...

    async def budget_day(self, org_id: OrgId, day: str) -> Day | None:
        """How an org's budget of a day stands; None: it has none."""
        ...

    async def take_slice(self, conductor: ConductorId, org_id: OrgId, day: str, need: Amount) -> Taken | None:
        """A larger slice of an org's budget for a living conductor (`slices.take`); None: there is no budget any more,
        or no such conductor.

        `bury` and `retire` empty a conductor's slices; what its runs have reserved stays with them.
        """
        ...

    async def return_slices(self, conductor: ConductorId, org_id: OrgId) -> None:
        """Give back what is free in a conductor's slices of an org."""
        ...

    async def hold_call(self, owner: ConductorId, made: OrgCall, need: Amount, at: int) -> Taken | None:
        """Reserve a call that no run makes out of its owner's slice, which grows as by `take_slice`.

        None: it is held, or the org has no budget. Else it does not fit, and what it gives says how the day stands.

        Raises `FencedError` where the owner is not listed. `bury` and `retire` end its calls as lost.
        """
        ...

    async def end_call(self, made: OrgCall, call: Call, at: int) -> None:
        """Note a call that no run made in the ledger and settle what was held for it, on the day of `at` (ms). A slice
        of which no call is held any more goes back. A call that has ended already is left as it is."""
        ...

    async def prune(self, org_id: OrgId, *, before: int, statuses: Sequence[str], dry_run: bool = False) -> list[RunId]:
        """Delete ended runs last touched before `before` (ms) with all their rows; returns their ids."""
        ...

    async def references(self, digests: Sequence[str]) -> set[str]:
        """Which of these value digests any run still refers to."""
        ...

    async def close(self) -> None:
        """Finish what is being written and let go of the store."""
        ...
