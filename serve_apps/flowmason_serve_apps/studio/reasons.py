"""The facts around a run that `flowmason.waiting` asks for, read along indexes."""

from __future__ import annotations

from typing import Any

import msgspec

from flowmason.ids import RunId
from flowmason.journal import TERMINAL, Command, RunRow
from flowmason.journal_sql.claims import WAITING
from flowmason.report import LogLine
from flowmason.studio import schema
from flowmason.studio.identity.callers import Caller
from flowmason.waiting import Answer, Facts, lined_up, why
from flowmason_serve_apps.studio import running
from flowmason_serve_apps.studio.services import Services

MOST_AHEAD = 10_000
"""Runs ahead are counted up to this many."""
_AHEAD = (
    f"SELECT count(*) FROM (SELECT 1 FROM runs WHERE {WAITING} AND org_id=? AND run_id<>? AND (status='running'"
    " OR priority>? OR (priority=? AND (created_at, run_id) < (?, ?))) LIMIT ?) AS ahead"
)
_HELD = "SELECT count(*) FROM runs WHERE owner>'' AND org_id=?"
_COMMANDS = "SELECT data FROM commands WHERE run_id=? AND org_id=? ORDER BY number DESC LIMIT 50"
_LINES = "SELECT data FROM side_lines WHERE run_id=? AND org_id=? AND kind='log' ORDER BY number DESC LIMIT ?"
MOST_LINES = 2000
"""Log lines that are looked through for attempts that wait for a provider."""
_line = msgspec.msgpack.Decoder(LogLine).decode
_decode = msgspec.msgpack.Decoder(Command).decode


async def explain(services: Services, caller: Caller, run_id: RunId) -> Answer:
    """Why a run waits. Raises `UsageError` (`NOT_FOUND`)."""
    runs = services.runs.org(caller.org_id)
    row, state = await services.states.of(runs, run_id)
    facts = await _facts(services, caller, row)
    return why(state, facts)


async def _facts(services: Services, caller: Caller, row: RunRow) -> Facts:
    if row.status in TERMINAL:
        return Facts(now=services.now(), status=row.status)
    org, run_id = row.org_id, row.run_id
    if row.status == "paused":
        answers = await services.runs.ask([(org, _COMMANDS, (run_id, org))])
        commands = [_decode(bytes(data)) for (data,) in answers[0]]
        by = next((command.by for command in commands if command.name == "pause"), "")
        return Facts(now=services.now(), status=row.status, asked_by=by)
    asleep = row.wake_at is not None and row.wake_at > services.now()
    if not asleep:
        await services.beats.look(org, row.owner)
        if row.owner is not None and not services.beats.lives(row.owner):
            await services.beats.look(org)
    before = (org, run_id, row.priority, row.priority, row.created_at, run_id, MOST_AHEAD)
    asked = [(org, _AHEAD, before), (org, _HELD, (org,)), (org, _LINES, (run_id, org, MOST_LINES))]
    ahead, held, lines = await services.runs.ask(asked)
    limits: Any = await running.in_thread(services, caller, lambda scope: scope.one(schema.org_limits))
    beats = services.beats
    return Facts(
        now=services.now(),
        status=row.status,
        owner=row.owner,
        owner_lives=row.owner is None or beats.lives(row.owner),
        owner_silent_s=None if row.owner is None else beats.silent_s(row.owner),
        wake_at=row.wake_at,
        conductors=beats.living,
        silent_s=beats.silent_s(),
        ahead=int(ahead[0][0]),
        held=int(held[0][0]),
        lined_up=lined_up(_line(bytes(data)) for (data,) in lines),
        most_held=None if limits is None else limits["max_concurrent_runs"],
    )
