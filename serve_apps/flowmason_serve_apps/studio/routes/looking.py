"""How runs of an org go: why one waits, and how many there were."""

from __future__ import annotations

import asyncio
import logging
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Query

from flowmason.assembly import forecasting
from flowmason.assembly.forecasting import LATEST
from flowmason.assembly.outcome import moment
from flowmason.ids import RunId
from flowmason.ledger import day_of, told
from flowmason.price import Price
from flowmason.slices import Day
from flowmason.studio.identity import orgs
from flowmason.studio.identity.callers import Caller
from flowmason.usage import Limit as UsageLimit
from flowmason.usage import dollars, limit_of
from flowmason.waiting import Why
from flowmason_serve_apps.llm.handles import in_cluster
from flowmason_serve_apps.studio import counting, reasons, running
from flowmason_serve_apps.studio.models import looking as models
from flowmason_serve_apps.studio.models.forecasts import Forecast, ForecastIn
from flowmason_serve_apps.studio.routes.parts import Given, OrgWriter, RunReader, RunStarter, StatsReader
from flowmason_serve_apps.studio.routes.runs import Run
from flowmason_serve_apps.studio.services import Services

router = APIRouter(tags=["runs"])
log = logging.getLogger("flowmason.studio")
_DAY_MS = 24 * 3600 * 1000
_SERVED_S = 5.0


@router.get("/runs/{run_id}/why", operation_id="runs_why")
async def why(services: Given, caller: RunReader, run_id: Run) -> models.WhyOut:
    """Why a run waits, and each of its stages that has not ended. Takes up to 9 s where no conductor lives."""
    found = await reasons.explain(services, caller, RunId(run_id))
    return models.WhyOut(
        run_id=run_id,
        status=found.status,  # type: ignore[arg-type]
        waiting=found.waiting,
        causes=[models.Why(**_plain(cause)) for cause in found.causes],
        stages=[models.StageWhy(**_plain(stage)) for stage in found.stages],
        more=found.more,
    )


@router.get("/stats", operation_id="stats")
async def stats(
    services: Given,
    caller: StatsReader,
    days: Annotated[int, Query(ge=1, le=90, description="How many days back.")] = 7,
) -> models.Stats:
    """Runs by state, how long they took, what they used and cost: of the newest 20,000 of the window."""
    since = services.now() - days * _DAY_MS
    rows = await counting.rows_since(services.runs, caller.org_id, since)
    kept = rows[: counting.MOST_RUNS]
    found = await asyncio.to_thread(counting.count, kept)
    complete = len(rows) == len(kept)
    return models.Stats(days=days, since=moment(since) or "", counted=len(kept), complete=complete, **found)


@router.post("/run/forecast", operation_id="run_forecast")
async def run_forecast(services: Given, caller: RunStarter, body: ForecastIn) -> Forecast:
    """What a run would use at worst, by its budgets, and what the latest 100 completed runs of its pipeline used.

    Nothing is started, and no model is asked. The org's own budget of a day is `GET /usage/budget`.
    """
    plan = await running.in_thread(services, caller, lambda scope: running.plan_of(services, scope, body.pipeline))
    page = await services.runs.org(caller.org_id).rows(status=("completed",), pipeline=plan.name, limit=LATEST)
    budget = body.options.budget.model_dump(exclude_none=True) if body.options.budget is not None else {}
    providers = {"default": body.options.provider} if body.options.provider is not None else {}
    served = await _prices_of_served(services)
    return Forecast(
        **await asyncio.to_thread(forecasting.told, plan, page.rows, budget, body.input, providers, {}, served)
    )


async def _prices_of_served(services: Services) -> dict[str, Price]:
    """What the models cost that are served beside this process; those that cost nothing are left out."""
    if not await asyncio.to_thread(in_cluster):
        return {}
    try:
        async with asyncio.timeout(_SERVED_S):
            cards = await services.served.cards()
    except Exception as error:  # whatever ails Serve: a forecast is no reason to fail
        log.warning("the prices of served models are not known: %s", error)
        return {}
    return {name: card.price for name, card in cards.items() if card.price is not None}


@router.get("/usage", operation_id="usage")
async def usage(
    services: Given,
    caller: StatsReader,
    days: Annotated[int, Query(ge=1, le=366, description="How many days back, today included.")] = 30,
    pipeline: Annotated[str | None, Query(max_length=200, description="Only of this pipeline.")] = None,
) -> models.UsagePage:
    """What the org's model calls used and cost, by day, pipeline and model; those of deleted runs included."""
    now = services.now()
    runs = services.runs.org(caller.org_id)
    found = await runs.usage(day_of(now - (days - 1) * _DAY_MS), day_of(now), pipeline)
    return models.UsagePage(items=[models.UsageSum(**told(each)) for each in found], next_cursor=None)


@router.get("/usage/budget", operation_id="usage_budget")
async def budget(services: Given, caller: StatsReader) -> models.DayBudgetOut:
    """What the org may spend on models a day, and how today stands."""
    return await _budget(services, caller)


@router.put("/usage/budget", operation_id="usage_budget_set")
async def set_budget(services: Given, caller: OrgWriter, body: models.DayBudget) -> models.DayBudgetOut:
    """Say what the org may spend on models a day. It holds what starts from now on; left out: any amount."""
    limit = limit_of(body.max_cost_per_day, body.max_tokens_per_day)
    await asyncio.to_thread(orgs.set_budget, services.store, caller, limit, services.now())
    return await _budget(services, caller)


async def _budget(services: Services, caller: Caller) -> models.DayBudgetOut:
    today = day_of(services.now())
    found = await services.runs.org(caller.org_id).budget_day(today) or Day(UsageLimit())
    cost = found.limit.nanodollars
    return models.DayBudgetOut(
        max_cost_per_day=None if cost is None else dollars(cost),
        max_tokens_per_day=found.limit.tokens,
        day=today,
        spent_cost=dollars(found.spent.nanodollars),
        spent_tokens=found.spent.tokens,
        reserved_cost=dollars(found.reserved.nanodollars),
        reserved_tokens=found.reserved.tokens,
        held_cost=dollars(found.free.nanodollars),
        held_tokens=found.free.tokens,
    )


def _plain(cause: Why) -> dict[str, Any]:
    return {**msgspec.structs.asdict(cause), "code": str(cause.code), "until": moment(cause.until or 0)}
