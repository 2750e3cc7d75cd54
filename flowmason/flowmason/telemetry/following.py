"""`Tracing`: tells of every run that ends in this process, from its journal."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from flowmason.errors import FlowMasonError
from flowmason.event import Recorded, RunCancelled, RunCompleted, RunFailed, RunSubmitted
from flowmason.ids import RunId
from flowmason.journal import Journal
from flowmason.report import Report
from flowmason.telemetry.context import OPTION, Traceparent, parse
from flowmason.telemetry.spans import run_span_id, spans, trace_id_of

_DEEPEST = 64
_AT_ONCE = 4
log = logging.getLogger("flowmason.telemetry")


class Tracing:
    """A feed of a conductor. It reads, and never writes; what goes wrong is logged, and no run minds.

    Whoever ends a run tells of it, also of what other conductors did before.
    """

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._telling: set[asyncio.Task[None]] = set()
        self._room = asyncio.Semaphore(_AT_ONCE)

    def committed(self, run_id: RunId, events: Sequence[Recorded]) -> None:
        """A run that ended is told of soon."""
        if any(isinstance(each.event, RunCompleted | RunFailed | RunCancelled) for each in events):
            task = asyncio.get_running_loop().create_task(self._tell(run_id))
            self._telling.add(task)
            task.add_done_callback(self._telling.discard)

    def beside(self, run_id: RunId, report: Report) -> None:
        """Of no interest."""

    async def close(self, within_s: float = 10.0) -> None:
        """Wait for what is being told."""
        if self._telling:
            await asyncio.wait(self._telling, timeout=within_s)

    async def _tell(self, run_id: RunId) -> None:
        async with self._room:
            try:
                if not await tell(self._journal, run_id):
                    log.warning("the trace of run %s was not taken", run_id)
            except FlowMasonError as error:
                log.warning("no trace of run %s: %s", run_id, error)
            except Exception:
                log.exception("no trace of run %s", run_id)


async def tell(journal: Journal, run_id: RunId) -> bool:
    """Send the spans of a run; False where they were not taken. Raises `JournalError`."""
    from flowmason.telemetry import otlp

    row = await journal.row(run_id)
    if row is None:
        return True
    recorded = await journal.read(run_id)
    trace_id, above = await _place(journal, run_id, recorded)
    if above is not None and not above.sampled:
        return True
    found = spans(recorded, row.org_id, above)
    return await asyncio.to_thread(otlp.send, found, trace_id)


async def _place(journal: Journal, run_id: RunId, recorded: Sequence[Recorded]) -> tuple[int, Traceparent | None]:
    """The trace of a run, and what it stands under. A run that another run called stands under that one."""
    first: RunSubmitted | None = _submitted(recorded)
    caller = first.parent if first is not None else None
    root = run_id
    for _ in range(_DEEPEST):
        if first is None or first.parent is None:
            break
        root = first.parent
        first = _submitted(await journal.read(root, limit=1))
    asked = parse(first.options.get(OPTION)) if first is not None else None
    trace_id = asked.trace_id if asked is not None else trace_id_of(root)
    if caller is not None:
        return trace_id, Traceparent(trace_id, run_span_id(caller), asked is None or asked.sampled)
    return trace_id, asked


def _submitted(recorded: Sequence[Recorded]) -> RunSubmitted | None:
    event = recorded[0].event if recorded else None
    return event if isinstance(event, RunSubmitted) else None
