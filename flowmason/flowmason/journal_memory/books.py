"""The ledger and the budgets of orgs in memory."""

from __future__ import annotations

from msgspec import structs

from flowmason.ids import ConductorId, OrgId, RunId
from flowmason.ledger import OrgCall, UsageSum, day_of, lost, sums
from flowmason.slices import Day, Moves, Taken, take
from flowmason.usage import Amount, Call, Limit, used


class Books:
    """What was spent, and what conductors hold of what orgs may spend."""

    def __init__(self) -> None:
        self.daily: dict[OrgId, Limit] = {}
        """What orgs may spend a day, of those that have a budget."""
        self._ledger: list[tuple[OrgId, str, str, str, Call]] = []
        self._slices: dict[tuple[OrgId, str, ConductorId], list[Amount]] = {}
        """Free, and spent."""
        self._reserved: dict[RunId, tuple[OrgId, Amount]] = {}
        self._held: dict[str, tuple[ConductorId, OrgCall, Amount, int]] = {}
        """Calls that no run makes, under way."""
        self._ended: set[str] = set()

    def note(self, org_id: OrgId, day: str, pipeline: str, call: Call, caller: str = "") -> None:
        """Add a model call to the ledger."""
        self._ledger.append((org_id, day, pipeline, caller, call))

    def usage(self, org_id: OrgId, since: str, until: str, pipeline: str | None) -> list[UsageSum]:
        """Sums of the ledger from day `since` to day `until`."""
        return sums(
            (day, name, caller, call)
            for org, day, name, caller, call in self._ledger
            if org == org_id and since <= day <= until and pipeline in (None, name)
        )

    def day(self, org_id: OrgId, day: str) -> Day | None:
        """How a day of an org stands; None: it has no budget."""
        if org_id not in self.daily:
            return None
        held = [amounts for (org, date, _), amounts in self._slices.items() if (org, date) == (org_id, day)]
        return Day(
            self.daily[org_id],
            spent=sum((spent for _, spent in held), Amount()),
            free=sum((free for free, _ in held), Amount()),
            reserved=sum(
                (
                    *(amount for org, amount in self._reserved.values() if org == org_id),
                    *(amount for _, made, amount, _ in self._held.values() if made.org_id == org_id),
                ),
                Amount(),
            ),
        )

    def take(self, conductor: ConductorId, org_id: OrgId, day: str, need: Amount) -> Taken | None:
        """A slice for a conductor."""
        found = self.day(org_id, day)
        if found is None:
            return None
        own = self._slices.setdefault((org_id, day, conductor), [Amount(), Amount()])
        taken = take(found, need, own[0])
        own[0] += taken.got or Amount()
        return taken

    def empty(self, conductor: ConductorId, org_id: OrgId | None = None) -> None:
        """Give back what is free of a conductor's slices."""
        for (org, _, owner), amounts in self._slices.items():
            if owner == conductor and org_id in (None, org):
                amounts[0] = Amount()

    def move(self, run_id: RunId, org_id: OrgId, owner: ConductorId, moves: Moves) -> None:
        """What a commit of a run moves between free, reserved and spent."""
        held = self._slices.setdefault((org_id, moves.day, owner), [Amount(), Amount()])
        held[0], held[1] = held[0] + moves.free, held[1] + moves.spent
        self._reserved[run_id] = (org_id, moves.reserved)

    def hold(self, owner: ConductorId, made: OrgCall, need: Amount, at: int) -> Taken | None:
        """Reserve a call that no run makes."""
        day, limit = day_of(at), self.daily.get(made.org_id, Limit())
        if not limit:
            return None
        need = limit.of(need).amount
        own = self._slices.setdefault((made.org_id, day, owner), [Amount(), Amount()])
        if missing := need.beyond(own[0]):
            taken = self.take(owner, made.org_id, day, missing)
            if taken is None or taken.got is None:
                return taken
        own[0] -= need
        self._held[made.id] = (owner, made, need, at)
        return None

    def end(self, made: OrgCall, call: Call, at: int) -> None:
        """Note a call that no run made, and settle it."""
        if made.id in self._ended:
            return
        self._ended.add(made.id)
        call = structs.replace(call, provider=call.provider or made.provider, model=call.model or made.model)
        self.note(made.org_id, day_of(at), "", call, made.caller)
        if (held := self._held.pop(made.id, None)) is None:
            return
        owner, _, amount, since = held
        spent, own = used(call.usage), self._slices.setdefault((made.org_id, day_of(at), owner), [Amount(), Amount()])
        if day_of(since) == day_of(at):
            own[0] += amount - spent
        own[1] += spent
        if not any(each[0] == owner and each[1].org_id == made.org_id for each in self._held.values()):
            self.empty(owner, made.org_id)

    def bury(self, owner: ConductorId) -> None:
        """What a dead one held free is others', and its calls are lost."""
        for _, made, amount, at in [each for each in self._held.values() if each[0] == owner]:
            self.end(made, lost(amount), at)
        self.empty(owner)
