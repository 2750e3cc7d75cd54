"""`fm resume`."""

from __future__ import annotations

import time
from contextlib import AsyncExitStack
from typing import Annotated, Any

import typer

from flowmason.cli import console


def resume(
    run_id: Annotated[
        str | None, typer.Argument(metavar="[RUN]", help="Default: the last run that can be resumed.")
    ] = None,
    rerun_unknown: Annotated[
        list[str] | None,
        typer.Option(
            metavar="STAGE", help="Run this stage again although nobody knows whether it took effect. Repeatable."
        ),
    ] = None,
    accept_changes: Annotated[
        bool, typer.Option("--accept-changes", help="Go on although the code of a component was changed.")
    ] = False,
    max_cost: Annotated[
        str | None,
        typer.Option(
            "--max-cost", metavar="DOLLARS", help="The run's own budget from here on, with what it has spent."
        ),
    ] = None,
    max_tokens: Annotated[int | None, typer.Option("--max-tokens", min=1, help="The same in tokens.")] = None,
    on: Annotated[
        str | None, typer.Option("--on", metavar="EXECUTOR", help="ray or local. Default: where the run began.")
    ] = None,
    ray: Annotated[str | None, typer.Option("--ray", metavar="ADDRESS", help="Join this Ray cluster.")] = None,
    allow_open_ray: Annotated[bool, typer.Option(help="Use a Ray cluster although it asks for no token.")] = False,
    studio: Annotated[
        bool, typer.Option("--studio", help="A run in an org of a Studio, which is to be named.")
    ] = False,
    target_org: Annotated[
        str | None, typer.Option("--target-org", metavar="ALIAS", help="With --studio: the org; else the default one.")
    ] = None,
    timeout: console.Timeout = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")] = False,
    items: Annotated[bool, typer.Option("--items", help="With --json: list the stages of foreach items, too.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but the output and errors.")] = False,
    no_progress: Annotated[bool, typer.Option("--no-progress", help="Do not show the run while it runs.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show log lines, and tracebacks of errors.")] = False,
) -> None:
    """Go on with a run: a paused one continues, an interrupted one is taken over, a failed one is reopened.

    It stays the same run: finished stages are not run again. Completed and cancelled runs are final.

    Examples:
      fm resume
      fm resume run_01J9ZK3V8Q --rerun-unknown deliver
      fm resume run_01J9ZK3V8Q --max-cost 2
      fm resume run_01J9ZK3V8Q --studio
    """
    from flowmason.cli.running import Show, stopped
    from flowmason.errors import FlowMasonError

    console.be_verbose(verbose)
    show = Show(json=as_json, quiet=quiet, verbose=verbose, progress=not no_progress, items=items)
    request: dict[str, Any] = {
        "rerun_unknown": rerun_unknown or [],
        "accept_changes": accept_changes,
        "budget": budget_of(max_cost, max_tokens),
        "on": on,
        "address": ray,
        "allow_open": allow_open_ray,
        "timeout": timeout,
    }
    there = studio or target_org is not None
    try:
        if there:
            from flowmason.cli import remote_runs

            code = remote_runs.resume(target_org, run_id, request, show)
        else:
            code = console.run_async(_resume(run_id, request, show))
    except FlowMasonError as error:
        code = stopped(error, show, "", "studio" if there else on or "", request.get("run_id"))
    raise typer.Exit(code)


def budget_of(max_cost: str | None, max_tokens: int | None) -> dict[str, Any]:
    """A run's budget as its options and events have it; empty: none is given."""
    given = {"max_cost": console.money(max_cost, "--max-cost"), "max_tokens": max_tokens}
    return {key: item for key, item in given.items() if item is not None}


async def _resume(wanted: str | None, request: dict[str, Any], show: Any) -> int:
    from msgspec import to_builtins

    from flowmason.assembly import resuming
    from flowmason.assembly.engine import make_executor, open_stores, refuse_unshared
    from flowmason.assembly.hosting import picture_of, started
    from flowmason.assembly.outcome import result
    from flowmason.assembly.running import project_root, resume_run, tightest_budget
    from flowmason.assembly.workspace import Workspace
    from flowmason.cli.live import LiveModel
    from flowmason.cli.running import Signals, feeds_of, finish, remember_abandoned, walked
    from flowmason.policy import INLINE_LIMIT

    here = Workspace.at()
    signals = Signals(show)
    begun_at = time.monotonic()
    with console.stdout_kept(), signals.caught():
        async with AsyncExitStack() as stack:
            stores = open_stores(here.root, here.environ)
            stack.push_async_callback(stores.close)
            found = resuming.find_run(stores.journal, wanted) if wanted else resuming.last_resumable(stores.journal)
            row = await found
            picture = await picture_of(stores.journal, row.run_id)
            root = project_root(picture.options.get("project_root"))
            workspace = Workspace.at(root) if root is not None else here
            resumption = await resuming.prepare(
                stores,
                row,
                workspace.registry,
                rerun_unknown=request["rerun_unknown"],
                accept_changes=request["accept_changes"],
                budget=request["budget"] and tightest_budget(to_builtins(workspace.project.budget), request["budget"]),
            )
            on = request["on"] or str(picture.options.get("executor") or "ray")
            settings = workspace.worker_settings(stores.values_url, provider=picture.options.get("provider"))
            executor = make_executor(on, settings, address=request["address"], allow_open=request["allow_open"])
            await stack.enter_async_context(started(executor))
            refuse_unshared(executor, stores)
            kept = sum(stage.status == "completed" for stage in picture.stages.values())
            words = "1 finished stage is kept" if kept == 1 else f"{kept} finished stages are kept"
            show.say(f"resuming {console.paint(row.run_id, 'bold')} of {row.pipeline}: {words}")
            request["run_id"] = row.run_id
            model = LiveModel(resumption.state.plan, row.run_id)
            model.committed(row.run_id, await stores.journal.read(row.run_id))
            feeds, view = feeds_of(model, show)
            async with AsyncExitStack() as drawn:
                if view is not None:
                    await drawn.enter_async_context(view)
                walking = resume_run(
                    workspace,
                    resumption,
                    stores=stores,
                    executor=executor,
                    feeds=feeds,
                    on_start=signals.attach,
                    timeout_s=request["timeout"],
                    items=show.items,
                )
                picture, lost = await walked(walking, stores, request, show)
            limit = INLINE_LIMIT if show.json else None
            outcome = result(picture, stores.values, executor=executor.name, items=show.items, limit=limit)
        remember_abandoned(executor, show)
    return finish(outcome, show, time.monotonic() - begun_at, lost)
