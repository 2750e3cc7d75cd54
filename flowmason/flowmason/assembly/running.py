"""`run_pipeline`: from a compiled pipeline to a run that has ended, in one call."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec

from flowmason.assembly.engine import Stores, make_executor, open_stores, refuse_unshared
from flowmason.assembly.hosting import Gate, RunHost, picture_of, started
from flowmason.assembly.picture import RunPicture
from flowmason.assembly.resuming import Resumption
from flowmason.assembly.workspace import Compiled, Workspace
from flowmason.conductor import Feed
from flowmason.event import DebugChanged, Recorded, RunReopened
from flowmason.executor import Executor, WorkerSettings
from flowmason.ids import RunId
from flowmason.report import Report
from flowmason.usage import Limit, dollars, limit_of

Started = Callable[[RunHost, RunId], None]
"""Told once the run exists, before anything of it runs."""


async def run_pipeline(
    workspace: Workspace,
    compiled: Compiled,
    given: Mapping[str, Any] | None,
    *,
    stores: Stores,
    executor: Executor,
    options: Mapping[str, Any] | None = None,
    feeds: Sequence[Feed] = (),
    on_start: Started | None = None,
    timeout_s: float | None = None,
    items: bool = False,
    debug: DebugChanged | None = None,
) -> RunPicture:
    """Submit a run of a pipeline and walk it here until it ends (or is paused, or `RunHost.leave` is called).

    `executor` has been started. `timeout_s` cancels the run after so many seconds, `debug` says what stops it. Raises
    `RefusedError` for a wrong input, `JournalError` where the run had to be given up; how a run went is in the
    picture, whatever it was.
    """
    host = RunHost(stores, executor, resolve=workspace.resolve, feeds=feeds)
    run_id = await host.submit(compiled.plan, given, run_options(workspace, executor, options), debug=debug)
    if on_start is not None:
        on_start(host, run_id)
    await _walk(host, run_id, timeout_s)
    return await picture_of(stores.journal, run_id, items=items)


async def resume_run(
    workspace: Workspace,
    resumption: Resumption,
    *,
    stores: Stores,
    executor: Executor,
    feeds: Sequence[Feed] = (),
    on_start: Started | None = None,
    timeout_s: float | None = None,
    items: bool = False,
) -> RunPicture:
    """Go on with a run as `resuming.prepare` found possible."""
    run_id = resumption.row.run_id
    if resumption.changed:
        await _accept(workspace, resumption, stores, executor)
    host = RunHost(stores, executor, resolve=workspace.resolve, feeds=feeds)
    if resumption.command is not None and not resumption.changed:
        await host.command(run_id, "resume", **resumption.command)
    if on_start is not None:
        on_start(host, run_id)
    await _walk(host, run_id, timeout_s)
    return await picture_of(stores.journal, run_id, items=items)


async def _accept(workspace: Workspace, resumption: Resumption, stores: Stores, executor: Executor) -> None:
    """Record that changed components are accepted, then let go: the new Plan is read when the run is taken up again."""
    gate = Gate(executor)
    leaver = _LeaveOnceReopened()
    host = leaver.host = RunHost(stores, gate, resolve=workspace.resolve, feeds=[leaver])
    assert resumption.command is not None
    await host.command(resumption.row.run_id, "resume", **resumption.command)
    await host.walk(resumption.row.run_id)


class _LeaveOnceReopened:
    host: RunHost

    def committed(self, run_id: RunId, events: Sequence[Recorded]) -> None:
        if any(isinstance(recorded.event, RunReopened) for recorded in events):
            self.host.leave()

    def beside(self, run_id: RunId, report: Report) -> None:
        pass


async def settle_ownerless(
    workspace: Workspace, run_id: RunId, *, stores: Stores, executor: Executor, command: str, reason: str
) -> RunPicture:
    """Cancel or pause a run that nobody walks: nothing more of it starts but what a cleanup needs."""
    gate = Gate(executor)
    host = gate.host = RunHost(stores, gate, resolve=workspace.resolve, feeds=[gate])
    await host.command(run_id, command, reason=reason)
    await host.walk(run_id)
    return await picture_of(stores.journal, run_id)


async def _walk(host: RunHost, run_id: RunId, timeout_s: float | None) -> None:
    timer = asyncio.create_task(_cancel_later(host, run_id, timeout_s)) if timeout_s is not None else None
    try:
        await host.walk(run_id)
    finally:
        if timer is not None:
            timer.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await timer


async def _cancel_later(host: RunHost, run_id: RunId, timeout_s: float) -> None:
    await asyncio.sleep(timeout_s)
    await host.command(run_id, "cancel", reason=f"it took longer than {timeout_s:g} s")


def run_options(workspace: Workspace, executor: Executor, more: Mapping[str, Any] | None) -> dict[str, Any]:
    """What a run's first event says of how it was asked for."""
    options: dict[str, Any] = {"executor": executor.name}
    if workspace.root is not None:
        options["project_root"] = str(workspace.root)
    options.update({key: item for key, item in (more or {}).items() if item is not None})
    budget = tightest_budget(msgspec.to_builtins(workspace.project.budget), options.pop("budget", None) or {})
    return {**options, "budget": budget} if budget else options


def tightest_budget(*budgets: Mapping[str, Any]) -> dict[str, Any]:
    """The tightest of some budgets as they are written (`max_cost`, `max_tokens`); empty: none limits anything."""
    limit = Limit()
    for given in budgets:
        limit = limit.tightest(limit_of(given.get("max_cost"), given.get("max_tokens")))
    found: dict[str, Any] = {}
    if limit.nanodollars is not None:
        found["max_cost"] = dollars(limit.nanodollars)
    if limit.tokens is not None:
        found["max_tokens"] = limit.tokens
    return found


@asynccontextmanager
async def opened(
    workspace: Workspace,
    *,
    on: str,
    address: str | None = None,
    allow_open: bool = False,
    workers: int | None = None,
    provider: str | None = None,
    journal: str | None = None,
    values: str | None = None,
) -> AsyncIterator[tuple[Stores, Executor]]:
    """The stores of a workspace and a started executor, closed at the end.

    The executor comes first: where it is not available, nothing is opened and no run exists.
    """
    from flowmason.assembly.engine import values_url

    url = values or values_url(workspace.root, workspace.environ)
    settings: WorkerSettings = workspace.worker_settings(url, provider=provider)
    executor = make_executor(on, settings, address=address, allow_open=allow_open, workers=workers)
    async with started(executor):
        stores = open_stores(workspace.root, workspace.environ, journal=journal, values=url)
        try:
            refuse_unshared(executor, stores)
            yield stores, executor
        finally:
            await stores.close()


def project_root(path: str | None) -> Path | None:
    """A run's `project_root` option as a path, if that folder is still there."""
    return Path(path) if path and Path(path).is_dir() else None
