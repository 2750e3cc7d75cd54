"""Taking up a run that has not ended well, or not ended at all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from flowmason.assembly.engine import Stores
from flowmason.assembly.hosting import living_owner
from flowmason.budget import RUN
from flowmason.component import ComponentSpec
from flowmason.conductor.loading import load_state
from flowmason.errors import Code, UsageError, did_you_mean
from flowmason.ids import LOCAL_ORG, Digest, RunId, format_path
from flowmason.journal import Journal, RunRow
from flowmason.plan import Plan
from flowmason.state import RunState, reopening

RESUMABLE = ("queued", "running", "paused", "failed")


class Resumption(msgspec.Struct, frozen=True):
    """What it takes to go on with a run."""

    row: RunRow
    state: Any
    """The `RunState` as it stands."""
    command: dict[str, Any] | None
    """Arguments of the `resume` command to post first; None: taking the run over is enough."""
    changed: dict[str, str]
    """Components whose changed code was accepted: name → new digest."""


async def last_resumable(journal: Journal) -> RunRow:
    """The newest run that can be resumed and that nobody walks. Raises `UsageError`."""
    for row in await journal.rows(LOCAL_ORG, status=RESUMABLE, limit=50):
        if row.parent is None and await living_owner(journal, row) is None:
            return row
    raise UsageError("there is no run to resume", code=Code.NOT_FOUND, help="`fm runs list` shows the runs there are.")


async def find_run(journal: Journal, wanted: str) -> RunRow:
    """A run by its id or by the end or beginning of it. Raises `UsageError`."""
    row = await journal.row(RunId(wanted))
    if row is not None:
        return row
    rows = await journal.rows(LOCAL_ORG, limit=500)
    found = the_one(wanted, [row.run_id for row in rows])
    return next(row for row in rows if row.run_id == found)


def the_one(wanted: str, run_ids: Sequence[str]) -> str:
    """Which of these runs, the newest first, is meant by the end or beginning of its id. Raises `UsageError`."""
    fitting = [each for each in run_ids if len(wanted) >= 4 and (each.startswith(wanted) or each.endswith(wanted))]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise UsageError(f"{wanted!r} fits more than one run: {', '.join(fitting[:5])}")
    near = did_you_mean(wanted, list(run_ids[:50]))
    hint = f"; did you mean {near}?" if near else ""
    raise UsageError(
        f"there is no run {wanted!r}{hint}", code=Code.NOT_FOUND, help="`fm runs list` shows those there are."
    )


async def prepare(
    stores: Stores,
    row: RunRow,
    specs: Mapping[str, ComponentSpec],
    *,
    rerun_unknown: Sequence[str] = (),
    accept_changes: bool = False,
    budget: Mapping[str, Any] | None = None,
) -> Resumption:
    """Check that a run can go on, and what it takes; `budget` (`max_cost`, `max_tokens`) is the run's own from then on.

    Raises `UsageError`: it is final, somebody walks it, a component was changed (`COMPONENT_CHANGED`), or a stage
    whose outcome is unknown stands in the way.
    """
    journal = stores.journal
    if row.status not in RESUMABLE:
        raise UsageError(f"run {row.run_id} is {row.status}; that is final", help="Run the pipeline again.")
    owner = await living_owner(journal, row)
    if owner is not None:
        raise UsageError(
            f"run {row.run_id} is being walked by process {owner}", help=f"`fm runs watch {row.run_id}` shows it."
        )
    state = await load_state(journal, row)
    _check_unknown(state, row, rerun_unknown)
    command: dict[str, Any] | None = None
    if row.status in ("failed", "paused") or state.pausing:
        command = {"rerun_unknown": list(rerun_unknown)} if rerun_unknown else {}
    if budget:
        check_budget(state)
        if command is None:
            raise UsageError("an interrupted run keeps its budget; resume it, and once more if it fails for it")
        command["budget"] = dict(budget)
    changed = _changed(state.plan, specs)
    if changed:
        if not accept_changes:
            names = ", ".join(sorted(changed))
            raise UsageError(
                f"the code of {names} was changed since the run began",
                code=Code.COMPONENT_CHANGED,
                help="Resume with --accept-changes to go on with the code as it is now.",
                details={"components": {name: {"then": old, "now": new} for name, (old, new) in changed.items()}},
            )
        digests = {name: new for name, (_, new) in changed.items()}
        plan = _renewed(state.plan, digests)
        stores.values.put(row.org_id, Digest(plan.id), plan.encoded)
        await journal.put_plan(plan.id, plan.encoded)
        command = {**(command or {}), "accept_changes": digests, "plan": plan.id}
        return Resumption(row, state, command, digests)
    return Resumption(row, state, command, {})


def check_budget(state: RunState) -> None:
    """Raise `UsageError` where a run cannot be given another budget: it had none, and counted nothing."""
    if RUN not in state.purse.accounts:
        raise UsageError("the run began without a budget of its own, and what it spent was not counted against one")


def _check_unknown(state: RunState, row: RunRow, rerun_unknown: Sequence[str]) -> None:
    if row.status != "failed":
        return
    stages, blocked = reopening(state, frozenset(rerun_unknown))
    if blocked:
        flags = " ".join(f"--rerun-unknown {path}" for path in blocked)
        raise UsageError(
            f"nobody knows whether {', '.join(blocked)} took effect before its worker was lost",
            code=Code.OUTCOME_UNKNOWN,
            help=f"Look, and if it may happen (again), resume with {flags}.",
        )
    paths = {format_path(event.path) for event in stages} | {*reopening(state)[1]}
    known = paths | {path.rpartition(".")[2] for path in paths}
    for name in rerun_unknown:
        if name not in known:
            near = did_you_mean(name, sorted(known))
            hint = f"; did you mean {near!r}?" if near else ""
            raise UsageError(f"--rerun-unknown {name}: no failed stage has that name{hint}")


def _changed(plan: Plan, specs: Mapping[str, ComponentSpec]) -> dict[str, tuple[str, str]]:
    """Components of a Plan whose code is another one now: name → (digest then, digest now)."""
    found: dict[str, tuple[str, str]] = {}
    for each in (plan, *plan.plans.values()):
        for name, ref in each.components.items():
            spec = specs.get(f"{ref.name}@{ref.version}") or specs.get(ref.name)
            if spec is None or not ref.digest or spec.digest == ref.digest:
                continue
            if each is not plan:
                raise UsageError(
                    f"the code of {name} was changed since the run began, and the sub-pipeline {each.name} uses it",
                    code=Code.COMPONENT_CHANGED,
                    help="Bring the code back, or run the pipeline again: sub-pipelines are pinned by digest.",
                )
            found[name] = (ref.digest, str(spec.digest))
    return found


def _renewed(plan: Plan, digests: Mapping[str, str]) -> Plan:
    components = {
        name: msgspec.structs.replace(ref, digest=digests[name]) if name in digests else ref
        for name, ref in plan.components.items()
    }
    return msgspec.structs.replace(plan, components=components)
