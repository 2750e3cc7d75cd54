"""The accounts of budgets that a stage is under."""

from __future__ import annotations

from flowmason.budget import RUN, Key, Purse, account_path, stage_name
from flowmason.ids import format_path
from flowmason.state.tree import Role, StageState


def accounts_of(purse: Purse, stage: StageState) -> tuple[Key, ...]:
    """The stage's own account, those of the bodies and sub-pipelines around it, and the run's; opened in `purse`."""
    found: list[Key] = []
    here: StageState | None = stage
    while here is not None:
        budget = here.stage.budget
        if budget is not None and budget.limit:
            key = ("stage", account_path(here.path))
            purse.account(key, stage_name(key[1]), budget.limit)
            found.append(key)
        scope = here.scope
        if scope.role is Role.PIPELINE and scope.plan.budget:
            key = ("pipeline", scope.prefix)
            purse.account(key, f"one call of {scope.plan.name} ({format_path(scope.prefix)})", scope.plan.budget)
            found.append(key)
        here = scope.owner
    if RUN in purse.accounts:
        found.append(RUN)
    return tuple(found)
