"""`fm pause` and `fm cancel`."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from flowmason.cli import console
from flowmason.cli.studio_org import Studio, TargetOrg

WAIT_S = 15.0
_TRIES = 3


def pause(
    run_id: Annotated[str, typer.Argument(metavar="RUN", help="The run's id, or the end of it.")],
    studio: Studio = False,
    target_org: TargetOrg = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")] = False,
) -> None:
    """Pause a run: nothing new starts, and it is paused once what is under way has ended.

    Examples:
      fm pause run_01J9ZK3V8Q
      fm pause run_01J9ZK3V8Q --studio
    """
    _steer(run_id, "pause", "", studio, target_org, as_json)


def cancel(
    run_id: Annotated[str, typer.Argument(metavar="RUN", help="The run's id, or the end of it.")],
    reason: Annotated[str, typer.Option("--reason", help="Why, for those who look at the run later.")] = "",
    studio: Studio = False,
    target_org: TargetOrg = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")] = False,
) -> None:
    """Cancel a run, whether it runs elsewhere, is paused, or was left behind. A cancelled run is final.

    Examples:
      fm cancel run_01J9ZK3V8Q --reason "wrong input"
      fm cancel run_01J9ZK3V8Q -t production
    """
    _steer(run_id, "cancel", reason or "cancelled from the command line", studio, target_org, as_json)


def _steer(wanted: str, command: str, reason: str, studio: bool, target_org: str | None, as_json: bool) -> None:
    if studio or target_org is not None:
        from flowmason.cli import remote_runs

        run_id, status = remote_runs.steer(target_org, wanted, command, reason, WAIT_S)
    else:
        run_id, status = console.run_async(_command(wanted, command, reason))
    if as_json:
        console.print_json({"run_id": run_id, "status": status})
    else:
        console.say(f"{run_id} is {status}")


async def _command(wanted: str, command: str, reason: str) -> tuple[str, str]:
    from flowmason.assembly import resuming
    from flowmason.assembly.engine import make_executor, open_stores
    from flowmason.assembly.hosting import living_owner, picture_of, post, started
    from flowmason.assembly.running import project_root, settle_ownerless
    from flowmason.assembly.workspace import Workspace
    from flowmason.errors import Code, JournalError, UsageError
    from flowmason.journal import TERMINAL

    here = Workspace.at()
    stores = open_stores(here.root, here.environ)
    try:
        for _ in range(_TRIES):
            row = await resuming.find_run(stores.journal, wanted)
            if row.status in TERMINAL or (command == "pause" and row.status == "paused"):
                raise UsageError(f"run {row.run_id} is {row.status} already")
            if await living_owner(stores.journal, row, trust_pid=True) is not None:
                await post(stores.journal, row.run_id, command, reason=reason)
                return row.run_id, await _settled(stores.journal, row.run_id, command)
            picture = await picture_of(stores.journal, row.run_id)
            root = project_root(picture.options.get("project_root"))
            workspace = Workspace.at(root) if root is not None else here
            executor = make_executor("local", workspace.worker_settings(stores.values_url))
            try:
                async with started(executor):
                    done = await settle_ownerless(
                        workspace, row.run_id, stores=stores, executor=executor, command=command, reason=reason
                    )
                return row.run_id, str(done.status)
            except (UsageError, JournalError) as error:
                # Somebody has just taken the run up, and has the command in the inbox; or has ended it by now.
                if error.failure.code != Code.FENCED:
                    raise
        return row.run_id, await _settled(stores.journal, row.run_id, command)
    finally:
        await stores.close()


async def _settled(journal: object, run_id: object, command: str) -> str:
    """The run's status once its owner has answered, or as it is after a while."""
    from flowmason.assembly.hosting import SETTLED

    for _ in range(int(WAIT_S / 0.1)):
        row = await journal.row(run_id)  # type: ignore[attr-defined]
        if row.status in SETTLED:
            return str(row.status)
        await asyncio.sleep(0.1)
    return "cancelling" if command == "cancel" else "pausing"
