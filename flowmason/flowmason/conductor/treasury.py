"""What the orgs of a conductor's runs may spend today: its slices, and what each run reserves out of them.

The rule is in `flowmason.slices`; here is the copy in memory of what this conductor holds, which is what dispatching
asks, and what each commit moves. Orgs without a budget cost one look at the database now and then.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from typing import Any

from flowmason import event as ev
from flowmason.budget import Account, Slice, Ticket
from flowmason.errors import JournalError
from flowmason.ids import ConductorId, OrgId
from flowmason.journal import Journal
from flowmason.ledger import day_of
from flowmason.slices import Moves
from flowmason.state import RunState
from flowmason.usage import Amount, Limit, used

log = logging.getLogger("flowmason.conductor")

FRESH_S = 5.0
"""How old what is known of an org's budget may be when a run is taken up."""
AGAIN_S = 1.0
"""How soon a conductor asks again for what others hold."""
_ENDINGS = (
    ev.StageFinished,
    ev.StageFailed,
    ev.StageRetried,
    ev.StageLost,
    ev.StageDeferred,
    ev.StageCancelled,
    ev.ItemsFinished,
)
NAME = "today's budget of the org"


class Treasury:
    """The budgets of orgs, as one conductor holds them. `nudge` wakes the walkers of an org."""

    def __init__(
        self, journal: Journal, conductor: ConductorId, now: Callable[[], int], nudge: Callable[[OrgId], None]
    ) -> None:
        self._journal, self._conductor, self._now, self._nudge = journal, conductor, now, nudge
        self._limits: dict[OrgId, tuple[Limit, float]] = {}
        self._slices: dict[OrgId, Slice] = {}
        self._users: Counter[OrgId] = Counter()
        self._locks: defaultdict[OrgId, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._owed: set[OrgId] = set()
        """Whose slice could not be given back: the store was away."""
        self._helpers: set[asyncio.Task[None]] = set()

    async def enter(self, org_id: OrgId, state: RunState) -> RunMoney:
        """A run of an org is taken up, with what it has reserved."""
        self._users[org_id] += 1
        try:
            known = self._limits.get(org_id)
            if known is None or asyncio.get_running_loop().time() - known[1] >= FRESH_S:
                await self.refresh([org_id])
            money = RunMoney(self, org_id, state)
            if self.slice(org_id) is not None:
                await self.grow(org_id, Amount())
        except BaseException:
            self.leave(org_id)
            raise
        money.adopt()
        return money

    async def refresh(self, org_ids: Iterable[OrgId] | None = None) -> None:
        """Look at the budgets of some orgs, or of all whose runs are walked here; give back what is still owed."""
        for org_id in sorted(self._owed) if org_ids is None else ():
            await self._release(org_id)
        wanted = [org_id for org_id in (self._users if org_ids is None else org_ids) if self._users[org_id]]
        if not wanted:
            return
        found = await self._journal.budgets(wanted)
        clock = asyncio.get_running_loop().time()
        for org_id in wanted:
            limit = found.get(org_id, Limit())
            before = self._limits.get(org_id)
            self._limits[org_id] = (limit, clock)
            if before is not None and before[0] != limit:
                if (held := self._slices.get(org_id)) is not None:
                    held.exhausted = None
                    held.limit = limit.of(held.limit.amount) if limit else Limit()
                self._nudge(org_id)

    def slice(self, org_id: OrgId) -> Slice | None:
        """What this conductor holds of an org's budget today; None: the org has none."""
        limit = self._limits.get(org_id, (Limit(), 0.0))[0]
        if not limit:
            return None
        today = self.today
        held = self._slices.get(org_id)
        if held is None or held.day != today:
            held = self._slices[org_id] = Slice(NAME, limit.of(Amount()), day=today)
        return held

    @property
    def today(self) -> str:
        """The day, by UTC."""
        return day_of(self._now())

    async def grow(self, org_id: OrgId, need: Amount) -> None:
        """Ask for more of an org's budget, so that `need` can be reserved; the walkers of the org are told."""
        async with self._locks[org_id]:
            held = self.slice(org_id)
            if held is None:
                return
            missing = need.beyond(held.free.amount)
            if not missing and (held.limit.nanodollars or held.limit.tokens):
                if need:  # somebody settled meanwhile
                    self._nudge(org_id)
                return
            taken = await self._journal.take_slice(self._conductor, org_id, held.day, missing)
            if taken is None:
                return
            if taken.got:
                held.limit = held.limit.of(held.limit.amount + taken.got)
                held.exhausted = None
                self._nudge(org_id)
                return
            day = taken.day
            if taken.may_come:
                held.again_at = asyncio.get_running_loop().time() + AGAIN_S
                asyncio.get_running_loop().call_later(AGAIN_S, self._ask_again, org_id, held)
            else:
                held.exhausted = Account(NAME, day.limit, day.spent, day.free + day.reserved)
                self._nudge(org_id)

    def grow_later(self, org_id: OrgId, need: Amount) -> None:
        """The same in the background, unless it was refused a moment ago."""
        held = self.slice(org_id)
        if held is not None and not held.growing and asyncio.get_running_loop().time() >= held.again_at:
            held.growing = True
            self._help(self._grown(org_id, held, need))

    def _ask_again(self, org_id: OrgId, held: Slice) -> None:
        # By the clock it may be a hair too early; whoever waits is not told twice.
        held.again_at = 0.0
        self._nudge(org_id)

    async def _grown(self, org_id: OrgId, held: Slice, need: Amount) -> None:
        try:
            await self.grow(org_id, need)
        except JournalError as error:
            log.warning("no slice of the budget of %s: %s", org_id, error)
            asyncio.get_running_loop().call_later(AGAIN_S, self._nudge, org_id)
        finally:
            held.growing = False

    def tell(self, org_id: OrgId) -> None:
        """Something is free again that runs of the org wait for."""
        self._nudge(org_id)

    def leave(self, org_id: OrgId) -> None:
        """A run of an org is walked here no more. After the last one the slice goes back."""
        self._users[org_id] -= 1
        if not self._users[org_id] and org_id in self._slices:
            self._help(self._release(org_id))

    async def _release(self, org_id: OrgId) -> None:
        async with self._locks[org_id]:
            if self._users[org_id]:
                return
            if self._slices.pop(org_id, None) is not None:
                self._owed.add(org_id)
            if org_id not in self._owed:
                return
            try:
                await self._journal.return_slices(self._conductor, org_id)
                self._owed.discard(org_id)
            except JournalError as error:
                log.warning("a slice of the budget of %s was not given back yet: %s", org_id, error)

    def _help(self, coroutine: Any) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._helpers.add(task)
        task.add_done_callback(self._helpers.discard)


class RunMoney:
    """What one run has reserved out of its conductor's slice, and what its next commit moves."""

    def __init__(self, treasury: Treasury, org_id: OrgId, state: RunState) -> None:
        self._treasury, self._org_id, self._state = treasury, org_id, state
        self._held: dict[Ticket, tuple[Slice, Amount]] = {}
        self._free = Amount()
        self._spent = Amount()
        self._moved = False

    @property
    def slice(self) -> Slice | None:
        """Where it reserves; None: its org has no budget."""
        return self._treasury.slice(self._org_id)

    def adopt(self) -> None:
        """What the run had reserved when it was taken up is reserved here."""
        held = self.slice
        for ticket, (allowance, _) in self._state.purse.open.items():
            if held is not None:
                self._move_in(held, allowance.amount)
                held.reserved += allowance.amount
                self._held[ticket] = (held, allowance.amount)

    def reserve(self, ticket: Ticket, amount: Amount) -> None:
        """An attempt is about to start with an allowance."""
        held = self.slice
        if held is not None:
            held.reserved += amount
            self._held[ticket] = (held, amount)
            self._free -= amount
            self._moved = True

    def note(self, event: ev.Event) -> None:
        """An event is about to be applied: does it end attempts?"""
        if isinstance(event, ev.StageReopened):
            for ticket in [each for each in self._state.purse.open if each[0][: len(event.path)] == event.path]:
                self._settle(ticket, self._state.purse.open[ticket][0].amount)
        elif isinstance(event, _ENDINGS) and (event.usage is not None or self._held):
            self._settle((event.path, getattr(event, "attempt", 0)), used(event.usage))

    def _settle(self, ticket: Ticket, spent: Amount) -> None:
        reserved_in, amount = self._held.pop(ticket, (None, Amount()))
        if reserved_in is not None:
            reserved_in.reserved -= amount
            self._moved = True
        held = self.slice
        if held is not reserved_in:
            # Reserved on another day, or before the org had a budget: it is this day that pays.
            if reserved_in is not None:
                self._move_in(reserved_in, Amount() - amount)
            if held is not None:
                self._move_in(held, amount if reserved_in is not None else spent)
        if held is None or not (amount or spent):
            return
        held.spent += spent
        if held.waited_for:
            held.waited_for = False
            self._treasury.tell(self._org_id)
        self._free += (amount - spent) if reserved_in is not None else Amount()
        self._spent += spent
        self._moved = True

    @staticmethod
    def _move_in(held: Slice, amount: Amount) -> None:
        held.limit = held.limit.of(held.limit.amount + amount)

    def moves(self) -> Moves | None:
        """What the commit that is about to be made moves; None: nothing."""
        if not self._moved:
            return None
        found = Moves(self._treasury.today, self._free, self._spent, self._state.purse.reserved)
        self._free, self._spent, self._moved = Amount(), Amount(), False
        return found

    def leave(self) -> None:
        """The run is walked here no more: what it has reserved is somebody else's to settle."""
        for held, amount in self._held.values():
            held.reserved -= amount
            self._move_in(held, Amount() - amount)
        self._held.clear()
        self._treasury.leave(self._org_id)
