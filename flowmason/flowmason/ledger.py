"""The ledger: every model call of every run, as rows that are written with the events that carry them; and every call
that an org's people made of served models over HTTP, which belongs to no run.

It outlives the runs that `fm runs prune` deletes. What it says of a run is what the run's journal says, no more.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Any

import msgspec

from flowmason.event import Event
from flowmason.ids import OrgId, StagePath
from flowmason.usage import Amount, Call, CallEnd, dollars


class Entry(msgspec.Struct, frozen=True):
    """One call, and where it was made."""

    seq: int
    """Of the event that carries it."""
    n: int
    """Its place among that event's calls, from 1."""
    path: StagePath
    """The stage; of items that are recorded in columns, their foreach."""
    attempt: int
    """0 for items that are recorded in columns."""
    call: Call


class OrgCall(msgspec.Struct, frozen=True):
    """A call that no run makes: somebody of an org asks a served model over HTTP."""

    id: str
    """`call_…`; in the ledger it stands in the place of a run's."""
    org_id: OrgId
    caller: str
    """The API key or the user."""
    provider: str
    model: str


class UsageSum(msgspec.Struct, frozen=True, kw_only=True):
    """What an org's calls of one day, pipeline (or caller) and model add up to."""

    day: str
    """UTC, `2026-11-27`."""
    pipeline: str
    """Empty: no run made the calls, but `caller`."""
    caller: str = ""
    """The API key or the user that asked over HTTP; empty for calls of runs."""
    provider: str
    model: str
    calls: int = 0
    """All but those that failed or were answered from a cache."""
    failed: int = 0
    cached: int = 0
    """Answered from a cache."""
    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    cost_nanodollars: int = 0
    """Of the calls whose price is known."""
    unpriced: int = 0
    """How many calls were made at an unknown price."""
    estimated: int = 0
    """How many calls are our own count."""

    def plus(self, call: Call) -> UsageSum:
        """With one more call."""
        counted = call.end not in (CallEnd.FAILED, CallEnd.CACHED)
        return msgspec.structs.replace(
            self,
            calls=self.calls + counted,
            failed=self.failed + (call.end == CallEnd.FAILED),
            cached=self.cached + (call.end == CallEnd.CACHED),
            input_tokens=self.input_tokens + call.input_tokens,
            output_tokens=self.output_tokens + call.output_tokens,
            cached_tokens=self.cached_tokens + call.cached_tokens,
            cost_nanodollars=self.cost_nanodollars + (call.cost_nanodollars or 0),
            unpriced=self.unpriced + (call.cost_nanodollars is None),
            estimated=self.estimated + call.estimated,
        )


def entries(events: Iterable[Event], first_seq: int) -> Iterator[Entry]:
    """The calls that events carry; `first_seq` is the seq of the first event."""
    for offset, event in enumerate(events):
        calls = getattr(event, "calls", None)
        if calls:
            path: StagePath = event.path  # type: ignore[union-attr]
            for n, call in enumerate(calls, 1):
                yield Entry(first_seq + offset, n, path, getattr(event, "attempt", 0), call)


def lost(held: Amount) -> Call:
    """What is noted of a call whose end nobody told: all that was held for it."""
    return Call(
        "", "", CallEnd.LOST, input_tokens=held.tokens, cost_nanodollars=held.nanodollars, estimated=True
    )  # fmt: skip


def day_of(at: int) -> str:
    """The UTC day of a moment in ms."""
    return datetime.fromtimestamp(at / 1000, UTC).strftime("%Y-%m-%d")


def sums(found: Iterable[tuple[str, str, str, Call]]) -> list[UsageSum]:
    """Calls as (day, pipeline, caller, call), added up, in the order of `in_order`."""
    table: dict[tuple[str, str, str, str, str], UsageSum] = {}
    for day, pipeline, caller, call in found:
        key = (day, pipeline, caller, call.provider, call.model)
        known = table.get(key) or UsageSum(
            day=day, pipeline=pipeline, caller=caller, provider=call.provider, model=call.model
        )
        table[key] = known.plus(call)
    return in_order(table.values())


def in_order(found: Iterable[UsageSum]) -> list[UsageSum]:
    """The latest day first, then by pipeline, caller, provider and model."""
    ordered = sorted(found, key=lambda each: (each.pipeline, each.caller, each.provider, each.model))
    return sorted(ordered, key=lambda each: each.day, reverse=True)


def told(found: UsageSum) -> dict[str, Any]:
    """A sum as people and programs are told it: money as a decimal string."""
    fields = msgspec.structs.asdict(found)
    return {**fields, "cost": dollars(fields.pop("cost_nanodollars"))}
