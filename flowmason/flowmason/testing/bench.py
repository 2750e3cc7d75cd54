"""`Bench`: runs Plans in this process on the real engine, with mocks and no network."""

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import msgspec

from flowmason.assembly.engine import Stores
from flowmason.assembly.hosting import RunHost, picture_of, started
from flowmason.assembly.outcome import RunResult, result
from flowmason.errors import Code, Failure, RefusedError
from flowmason.event import StageExpanded
from flowmason.executor_local import LocalExecutor
from flowmason.ids import LOCAL_ORG, RunId
from flowmason.journal_memory import MemoryJournal
from flowmason.plan import Plan
from flowmason.region import Worker
from flowmason.region.mocks import Mocks
from flowmason.testing.coverage import Seen, observe
from flowmason.testing.files import Setup
from flowmason.testing.offline import OfflineServices, environ_of
from flowmason.testing.plans import without_waiting
from flowmason.values_fs import open_values

if TYPE_CHECKING:
    from flowmason.assembly.workspace import Workspace
    from flowmason.model import ModelProvider

_WORKERS = 2
_FASTEST = Path("/dev/shm")
"""In memory, where there is one: the values of tests need not survive anything."""


class Outcome(msgspec.Struct, frozen=True):
    """How one run of a test went."""

    status: str
    """completed, failed or cancelled."""
    output: Any
    error: Failure | None
    duration_ms: float
    result: RunResult | None = None
    """None where the input was refused."""
    seen: Seen | None = None
    """What the run touched."""

    def document(self) -> dict[str, Any]:
        """What assertions look at, as plain data."""
        found: dict[str, Any] = self.result.document() if self.result is not None else {"stages": {}}
        error = None if self.error is None else msgspec.to_builtins(self.error)
        return {**found, "status": self.status, "output": self.output, "error": error}


class Bench:
    """A place to run tests; use it as a context manager. Values lie in a folder that is removed at the end."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self.left_behind: list[str] = []
        """Threads of components that did not stop."""
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def __enter__(self) -> Bench:
        where = str(_FASTEST) if os.access(_FASTEST, os.W_OK) else None
        self._folder = tempfile.TemporaryDirectory(prefix="flowmason-test-", dir=where, ignore_cleanup_errors=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._folder is not None
        self._folder.cleanup()

    async def run(
        self,
        plan: Plan,
        given: Mapping[str, Any] | None,
        *,
        mocks: Mocks | None = None,
        model: ModelProvider | None = None,
        setup: Setup | None = None,
        timeout_ms: int = 30_000,
    ) -> Outcome:
        """Run `plan` to its end. A wrong input, a failure and a timeout are outcomes, not exceptions."""
        begun = time.perf_counter()
        assert self._folder is not None, "a bench is entered first"
        url = self._folder.name
        settings = self.workspace.worker_settings(url)
        environ = environ_of(setup or Setup(), self.workspace.environ)

        def make_runner() -> Any:
            return Worker(settings, services=OfflineServices(settings, environ, model), mocks=mocks).run

        executor = LocalExecutor(make_runner, workers=_WORKERS)
        stores = Stores(MemoryJournal(), open_values(url), "memory:", url)
        host = RunHost(stores, executor, resolve=self._resolve)
        options = {"executor": executor.name, "test": True}
        async with started(executor):
            try:
                run_id = await host.submit(without_waiting(plan), given, options)
            except RefusedError as error:
                return Outcome("failed", None, refused(error), _since(begun))
            late = await _walk(host, run_id, timeout_ms)
            outcome = await self._outcome(stores, plan, run_id, _since(begun))
        self.left_behind += executor.left_behind
        if late and outcome.status == "cancelled":
            message = f"the test took longer than {timeout_ms} ms"
            return msgspec.structs.replace(
                outcome, status="failed", error=Failure(code=Code.TIMEOUT, message=message, type="TimeoutError")
            )
        return outcome

    async def _resolve(self, name: str, options: dict[str, Any]) -> Plan:
        return without_waiting(await self.workspace.resolve(name, options))

    async def _outcome(self, stores: Stores, plan: Plan, run_id: RunId, duration_ms: float) -> Outcome:
        seen = Seen()
        for row in await stores.journal.rows(LOCAL_ORG):  # children that the run submitted included
            recorded = await stores.journal.read(row.run_id)
            plans = {each.id: each for each in await _plans(stores, row.plan_id, recorded)}
            observe(seen, plans[row.plan_id], plans, recorded)
        picture = await picture_of(stores.journal, run_id, items=True)
        found = result(picture, stores.values, executor="local", items=True, limit=None)
        error = found.error
        if found.status == "cancelled":
            reason = picture.reason or "the pipeline returned"
            error = Failure(code=Code.CANCELLED, message=f"the run was cancelled: {reason}")
        return Outcome(found.status, found.output, error, duration_ms, found, seen)


async def _plans(stores: Stores, plan_id: Any, recorded: Any) -> list[Plan]:
    from flowmason.conductor.loading import load_plan

    wanted = [plan_id]
    wanted += [
        each.event.plan for each in recorded if isinstance(each.event, StageExpanded) and each.event.plan is not None
    ]
    found: dict[Any, Plan] = {}
    for each in dict.fromkeys(wanted):
        if each not in found:
            plan = await load_plan(stores.journal, each)
            found.update({plan.id: plan, **plan.plans})
    return list(found.values())


async def _walk(host: RunHost, run_id: RunId, timeout_ms: int) -> bool:
    """Walk the run to its end; says whether it had to be cancelled."""
    late = False

    async def cancel() -> None:
        nonlocal late
        await asyncio.sleep(timeout_ms / 1000)
        late = True
        await host.command(run_id, "cancel", reason=f"it took longer than {timeout_ms} ms")

    timer = asyncio.create_task(cancel())
    try:
        await host.walk(run_id)
    finally:
        timer.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await timer
    return late


def refused(error: RefusedError) -> Failure:
    """A refused input as the failure of a run that never began."""
    faults = "; ".join(str(fault) for fault in error.faults)
    return msgspec.structs.replace(error.failure, message=faults or str(error), code=Code.INVALID_INPUT)


def _since(begun: float) -> float:
    return (time.perf_counter() - begun) * 1000
