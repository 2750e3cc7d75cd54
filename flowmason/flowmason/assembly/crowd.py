"""`Crowd`: many runs at once, walked by one conductor in this process."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from flowmason.assembly.engine import Stores, host_name, pid_alive
from flowmason.assembly.hosting import PARTING_S, now_ms, picture_of, post
from flowmason.assembly.picture import RunPicture
from flowmason.conductor import Conductor, Resolve, new_run, no_pipelines
from flowmason.errors import EngineUnavailableError
from flowmason.event import Recorded, RunCancelled, RunCompleted, RunFailed
from flowmason.executor import Executor
from flowmason.ids import Ids, RunId
from flowmason.plan import Plan
from flowmason.report import Report


class Crowd:
    """Runs pipelines until they end; use it as `async with`. Inside, `run` may be awaited many times at once."""

    def __init__(self, stores: Stores, executor: Executor, *, resolve: Resolve = no_pipelines) -> None:
        self.stores = stores
        self.executor = executor
        self._ids = Ids(time.time)
        self._waiting: dict[RunId, asyncio.Future[None]] = {}
        self._conductor = Conductor(
            journal=stores.journal,
            values=stores.values,
            executor=executor,
            now=now_ms,
            ids=self._ids,
            rng=random.Random(),
            host=host_name(),
            pid=os.getpid(),
            resolve=resolve,
            only=[],
            pid_alive=pid_alive,
        )
        self._conductor.follow(self)
        self._walking: list[asyncio.Task[Any]] = []

    async def __aenter__(self) -> Crowd:
        self._walking = [asyncio.create_task(self._conductor.run())]
        gone = getattr(self.executor, "gone", None)
        if gone is not None:
            self._walking.append(asyncio.create_task(gone()))
        for task in self._walking:
            task.add_done_callback(self._over)
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._conductor.stop()
        await asyncio.wait(self._walking[:1], timeout=PARTING_S)
        for task in self._walking:
            task.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await task

    async def run(self, plan: Plan, given: Mapping[str, Any], options: Mapping[str, Any]) -> RunPicture:
        """One run, to its end.

        Raises `RefusedError` for a wrong input, `JournalError` where the run had to be given up,
        `EngineUnavailableError` where the executor is gone for good.
        """
        by = f"{os.getpid()}@{host_name()}"
        run = new_run(
            plan,
            given,
            run_id=self._ids.run(),
            now=now_ms(),
            by=by,
            values=self.stores.values,
            options=dict(options),
        )
        ended = self._waiting[run.run_id] = asyncio.get_running_loop().create_future()
        try:
            await self._conductor.submit(run)
            while not ended.done():
                await asyncio.wait([ended], timeout=1.0)
                if run.run_id in self._conductor.failures:
                    raise self._conductor.failures[run.run_id]
            ended.result()
        finally:
            self._waiting.pop(run.run_id, None)
        return await picture_of(self.stores.journal, run.run_id)

    async def cancel(self, reason: str) -> None:
        """Ask every run that is under way to end."""
        for run_id in list(self._waiting):
            await post(self.stores.journal, run_id, "cancel", reason=reason)
        self._conductor.nudge()

    def committed(self, run_id: RunId, events: Sequence[Recorded]) -> None:
        """Somebody may be waiting for that run."""
        ended = self._waiting.get(run_id)
        over = any(isinstance(each.event, RunCompleted | RunFailed | RunCancelled) for each in events)
        if over and ended is not None and not ended.done():
            ended.set_result(None)

    def beside(self, run_id: RunId, report: Report) -> None:
        """Nobody looks."""

    def _over(self, task: asyncio.Task[Any]) -> None:
        if task.cancelled():
            return
        error = task.exception() or (task.result() if isinstance(task.result(), BaseException) else None)
        for ended in self._waiting.values():
            if not ended.done():
                ended.set_exception(error or EngineUnavailableError("the engine was stopped"))
