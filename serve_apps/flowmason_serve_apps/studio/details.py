"""A run in full, as JSON: folded from its journal, remembered while nothing new is in it."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import Any

import msgspec

from flowmason.assembly.outcome import Shown, failure_document, moment, result, usage_document
from flowmason.assembly.picture import RunPicture
from flowmason.errors import Code, JournalError, UsageError
from flowmason.event import Recorded, RunSubmitted, StageExpanded
from flowmason.ids import OrgId, PlanId, RunId
from flowmason.journal import NewRun, RunRow
from flowmason.journal_sql.tenant import OrgRuns, RunStore
from flowmason.plan import Plan, decode
from flowmason.usage import Usage
from flowmason.value import Inline
from flowmason.values import ValueStore

_ENCODED_BYTES = 32 * 1024 * 1024
_PICTURES = 64
_encode = msgspec.json.Encoder().encode


class Details:
    """Makes and remembers the details of runs. One per process; lives on its event loop."""

    def __init__(self, runs: RunStore, values: ValueStore) -> None:
        self._runs = runs
        self._values = values
        self._encoded: OrderedDict[tuple[OrgId, RunId, int], bytes] = OrderedDict()
        self._bytes = 0
        self._pictures: OrderedDict[tuple[OrgId, RunId], RunPicture] = OrderedDict()
        self._folding: dict[tuple[OrgId, RunId], asyncio.Lock] = {}

    async def encoded(self, org_id: OrgId, run_id: RunId) -> tuple[int, bytes]:
        """The seq and the detail of a run. Raises `UsageError` (`NOT_FOUND`)."""
        row = await self._runs.org(org_id).row(run_id)
        if row is None:
            raise no_run(run_id)
        known = self._encoded.get((org_id, run_id, row.seq))
        if known is not None:
            self._encoded.move_to_end((org_id, run_id, row.seq))
            return row.seq, known
        picture = await self.picture(org_id, run_id)
        data = await asyncio.to_thread(lambda: _encode(detail(row, picture, self._values)))
        if picture.ended and picture.seq == row.seq:
            self._remember((org_id, run_id, row.seq), data)
            self._pictures.pop((org_id, run_id), None)
        return picture.seq, data

    async def begun(self, new: NewRun, row: RunRow, plan: Plan) -> bytes:
        """The detail of a run that was recorded just now; nothing is read for it."""
        picture = RunPicture(plan)
        for seq, event in enumerate(new.events, 1):
            picture.apply(Recorded(new.run_id, seq, new.at, new.by, event))
        if isinstance(picture.input, Inline | None):
            return _encode(detail(row, picture, self._values))
        return await asyncio.to_thread(lambda: _encode(detail(row, picture, self._values)))

    async def picture(self, org_id: OrgId, run_id: RunId) -> RunPicture:
        """The run as its journal says now; what was folded before is not read again. Raises `UsageError`."""
        key = (org_id, run_id)
        lock = self._folding.setdefault(key, asyncio.Lock())
        try:
            async with lock:
                picture = await _folded(self._runs.org(org_id), run_id, self._pictures.pop(key, None))
                self._pictures[key] = picture
                while len(self._pictures) > _PICTURES:
                    self._pictures.popitem(last=False)
                return picture
        finally:
            if not lock.locked():
                self._folding.pop(key, None)

    def _remember(self, key: tuple[OrgId, RunId, int], data: bytes) -> None:
        if key in self._encoded or len(data) > _ENCODED_BYTES // 4:
            return
        self._encoded[key] = data
        self._bytes += len(data)
        while self._bytes > _ENCODED_BYTES:
            self._bytes -= len(self._encoded.popitem(last=False)[1])


async def _folded(runs: OrgRuns, run_id: RunId, known: RunPicture | None) -> RunPicture:
    recorded = await runs.read(run_id, known.seq if known is not None else 0)
    picture = known
    for each in recorded:
        event = each.event
        if isinstance(event, RunSubmitted):
            picture = RunPicture(await _plan(runs, run_id, event.plan))
        if picture is None:
            raise JournalError(f"the journal of run {run_id} does not begin with run.submitted", code=Code.STORAGE)
        if isinstance(event, StageExpanded) and event.plan is not None and not picture.knows(event.plan):
            plan = await _plan(runs, run_id, event.plan)
            if plan is not None:
                picture.learn(plan)
        picture.apply(each)
    if picture is None:
        raise no_run(run_id)
    return picture


async def _plan(runs: OrgRuns, run_id: RunId, plan_id: PlanId) -> Plan | None:
    data = await runs.plan(run_id, plan_id)
    return None if data is None else decode(data)


def no_run(run_id: str) -> UsageError:
    """That the org has no such run."""
    return UsageError(f"there is no run {run_id!r}", code=Code.NOT_FOUND)


def detail(row: RunRow, picture: RunPicture, values: ValueStore) -> dict[str, Any]:
    """A run as `GET /runs/{id}` answers it. May fetch values: blocks."""
    shown = Shown(values, row.org_id)
    found = result(picture, values, executor="", org_id=row.org_id).document()
    options = picture.options
    ended = picture.ended_at or 0
    return {
        **summary(row, options),
        "status": found["status"],
        "pausing": picture.pausing,
        "cancelling": picture.cancelling,
        "reason": picture.reason,
        "input": None if picture.input is None else shown.data(picture.input),
        "output": found["output"],
        "error": found["error"],
        "stages": found["stages"],
        "usage": found["usage"],
        "models": found.get("models", []),
        "prompts": picture.prompts,
        "options": {name: item for name, item in options.items() if name in _OPTIONS},
        "seq": picture.seq,
        "plan": picture.plan_id,
        "started_at": moment(picture.started_at),
        "ended_at": moment(ended) if picture.ended else None,
        "duration_ms": ended - picture.started_at if picture.ended and picture.started_at and ended else None,
    }


_OPTIONS = ("provider", "max_concurrency", "budget", "labels")


def summary(row: RunRow, options: dict[str, Any] | None = None) -> dict[str, Any]:
    """A run as lists show it, from its row alone (what `options` add is known in detail only)."""
    kept = row.summary
    usage = kept.get("usage")
    found: dict[str, Any] = {
        "id": row.run_id,
        "pipeline": row.pipeline,
        "version": row.version,
        "status": row.status,
        "priority": row.priority,
        "parent": row.parent,
        "created_at": moment(row.created_at),
        "updated_at": moment(row.updated_at),
        "duration_ms": kept.get("duration_ms"),
        "counts": kept.get("stages") or {},
        "usage": usage_document(msgspec.convert(usage, Usage)) if usage else usage_document(Usage()),
        "error": _short_failure(kept.get("failure")),
    }
    if options is not None:
        found["pipeline_id"] = options.get("pipeline_id")
        found["submitted_by"] = options.get("submitted_by")
        found["test"] = bool(options.get("test"))
    return found


def _short_failure(failure: Any) -> dict[str, Any] | None:
    return {"stage": None, **failure} if isinstance(failure, dict) else None


__all__ = ["Details", "detail", "failure_document", "summary"]
