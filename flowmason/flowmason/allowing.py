"""Whether an attempt of a stage may start under the budgets it is under, and with which allowance. Pure.

A component that may ask models and is idempotent starts with a part of what is left, or with what attempts of its
stage were seen to need; where that is too little the attempt comes back unharmed (`stage.deferred`) and goes again with
more. One with an unsafe effect cannot be begun again: it starts with all that is left to it, once nothing else is
reserved there.
"""

from __future__ import annotations

from dataclasses import dataclass

from flowmason.budget import Granted, Never, Slice, Verdict, Waits, ask, refusal
from flowmason.errors import Code, Failure
from flowmason.ids import format_path
from flowmason.plan import Kind, Plan, Stage
from flowmason.policy import Effect
from flowmason.state import RunState, StageState
from flowmason.usage import Amount, Limit


@dataclass(frozen=True, slots=True)
class Allowed:
    """It may start."""

    allowance: Limit | None = None
    """None: it is under no budget."""
    fallback: bool = False
    """Whether with the cheaper model of its budget."""


@dataclass(frozen=True, slots=True)
class Held:
    """It waits until others settle."""

    budget: str
    """Whose: `the run`, `the stage ask`."""
    grow: Amount | None = None
    """How much a conductor's slice of the org's budget would have to have free; None: it is not for want of that."""


def allow(state: RunState, stage: StageState, org: Slice | None = None) -> Allowed | Held | Failure:
    """What becomes of the next attempt of a stage with an effect; `org`: what there is of its org's budget."""
    keys = state.budgets(stage)
    accounts = [state.purse.accounts[key] for key in keys]
    if org is not None:
        accounts.append(org)
    if not accounts:
        return Allowed()
    unsafe = stage.stage.effect is Effect.UNSAFE

    def verdict(fallback: bool) -> Verdict:
        known = state.purse.need(stage.path, fallback)
        need, generous = known if known is not None else (None if may_ask(stage) else Amount(), False)
        return ask(accounts, need, whole=unsafe, generous=generous)

    found = verdict(False)
    if isinstance(found, Waits | Never) and found.account is org and org is not None:
        # Who does not know yet what it needs waits for a slice with any tokens in it.
        need = found.need.most(Amount(0, int(org.limit.tokens is not None)))
        if org.exhausted is None or org.exhausted.free.fits(need.beyond(org.free.amount)):
            return Held(org.name, grow=need)
        if isinstance(found, Never):
            found = Never(org.exhausted, found.need)
    fallback = stage.stage.budget is not None and stage.stage.budget.fallback is not None
    cheaper = verdict(True) if isinstance(found, Never) and fallback else found
    if isinstance(cheaper, Granted):
        return Allowed(cheaper.allowance, fallback=cheaper is not found)
    if isinstance(cheaper, Waits):
        return Held(cheaper.account.name)
    reason, details = refusal(cheaper)
    also = ", nor does the cheaper model of its budget" if fallback else ""
    return Failure(
        code=Code.BUDGET_EXCEEDED,
        message=f"the stage does not fit in what may be spent{also}: {reason}",
        type="BudgetExceededError",
        stage=format_path(stage.path),
        details=details,
        help="Raise the budget, lower max_tokens in llm_settings, or give the stage's budget a cheaper model "
        '("fallback": {"model": …}).',
    )


def may_ask(stage: StageState) -> bool:
    """Whether a stage's component says that it may ask models."""
    return asks_models(stage.scope.plan, stage.stage)


def asks_models(plan: Plan, stage: Stage) -> bool:
    """The same of a stage that has no state yet: nodes, and what declares `models`."""
    ref = plan.components.get(stage.component)
    return stage.kind is Kind.NODE or (ref is not None and bool(ref.models))
