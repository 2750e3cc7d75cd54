"""The forecast of a run: what its Plan and the settings bound, and what earlier runs of its pipeline used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from flowmason.assembly.running import tightest_budget
from flowmason.assembly.workspace import Compiled, Workspace
from flowmason.errors import FlowMasonError
from flowmason.forecast import Spread, StageWorst, Usual, usual, worst_case
from flowmason.ids import LOCAL_ORG, OrgId, format_path
from flowmason.journal import Journal, RunRow
from flowmason.plan import Plan
from flowmason.price import Price
from flowmason.served.reading import FOLDER, read_folder
from flowmason.usage import Limit, Usage, dollars, limit_of

SERVED = "models"
"""The provider of models that are served."""
LATEST = 100
"""How many completed runs tell what is usual."""


async def forecast(
    workspace: Workspace,
    compiled: Compiled,
    journal: Journal,
    *,
    budget: Mapping[str, Any] | None = None,
    provider: str | None = None,
    given: Mapping[str, Any] | None = None,
    org_id: OrgId = LOCAL_ORG,
) -> dict[str, Any]:
    """What a run of a pipeline may use, as people and programs are told it; money is a decimal string.

    `budget` (`max_cost`, `max_tokens`) and `provider` are the run's own, `given` its input. Asks no model.
    """
    plan = compiled.plan
    own = tightest_budget(msgspec.to_builtins(workspace.project.budget), budget or {})
    providers: dict[str, Any] = workspace.worker_settings("", provider=provider).options["providers"]
    rows = await journal.rows(org_id, status=("completed",), pipeline=plan.name, limit=LATEST)
    declared = {} if workspace.root is None else read_folder(workspace.root / FOLDER)[0]
    served = {name: model.price for name, model in declared.items() if model.price is not None}
    return told(plan, rows, own, given, providers, workspace.environ, served)


def told(
    plan: Plan,
    rows: Sequence[RunRow],
    budget: Mapping[str, Any],
    given: Mapping[str, Any] | None,
    providers: Mapping[str, Any],
    environ: Mapping[str, str],
    served: Mapping[str, Price],
) -> dict[str, Any]:
    """The same of a Plan; `rows` are the completed runs of its pipeline, the latest first, `budget` the run's own,
    `providers` those of its workers, `served` the prices that served models declare, by their names."""
    worst = worst_case(plan, limit_of(budget.get("max_cost"), budget.get("max_tokens")), given)
    return {
        "pipeline": plan.name,
        "version": plan.version,
        "worst": _limit(worst.limit),
        "notes": list(worst.notes),
        "stages": [_stage(each, providers, environ, served) for each in worst.stages],
        "usual": _usual(_history(rows, plan, worst.limit)),
    }


def _history(rows: Sequence[RunRow], plan: Plan, limit: Limit) -> Usual | None:
    found = [(row.plan_id, msgspec.convert(row.summary.get("usage") or {}, Usage)) for row in rows]
    return usual(found, plan.id, limit)


def _stage(
    worst: StageWorst, providers: Mapping[str, Any], environ: Mapping[str, str], served: Mapping[str, Price]
) -> dict[str, Any]:
    return {
        "stage": format_path(worst.path),
        "worst": _limit(worst.limit),
        "models": _models(worst.stage.llm or {}, providers, environ, served),
    }


def _models(
    settings: Mapping[str, Any], providers: Mapping[str, Any], environ: Mapping[str, str], served: Mapping[str, Price]
) -> list[dict[str, Any]]:
    """Whom a stage asks by its settings; a component may name another one when it asks."""
    from flowmason.providers import chain_of

    name = settings.get("provider") or providers.get("default")
    if not name:
        return []
    found = []
    for index, member in enumerate(chain_of(str(name), providers)):
        model = (settings.get("model") or member.model) if index == 0 else member.model
        found.append(_model(member.provider, model, settings.get("max_tokens"), providers, environ, served))
    return found


def _model(
    name: str,
    model: str | None,
    most: int | None,
    providers: Mapping[str, Any],
    environ: Mapping[str, str],
    served: Mapping[str, Price],
) -> dict[str, Any]:
    from flowmason.providers import key_variables, make_provider, settings_of
    from flowmason.providers.counting import offer_of
    from flowmason.providers.prices import price_of

    told: dict[str, Any] = {"provider": name, "model": model, "price": None, "max_tokens": most}
    try:
        # Nobody is asked here, so a key that is missing here does not matter.
        keys = dict.fromkeys(key_variables(providers), "none")
        made = make_provider(name, settings_of(name, providers), environ={**keys, **environ})
    except FlowMasonError:
        return told
    told["model"] = model or made.default_model
    offer = offer_of(made, model)
    own = served.get(told["model"]) if name == SERVED else None
    told["max_tokens"] = most or offer.max_tokens
    price = offer.price or own or price_of(name, told["model"])
    if price is not None:
        told["price"] = {"input": f"{price.input:f}", "output": f"{price.output:f}"}
    return told


def _limit(limit: Limit) -> dict[str, Any]:
    cost = limit.nanodollars
    return {"cost": None if cost is None else dollars(cost), "tokens": limit.tokens}


def _usual(found: Usual | None) -> dict[str, Any] | None:
    if found is None:
        return None
    told = {**msgspec.structs.asdict(found), "tokens": _spread(found.tokens), "calls": _spread(found.calls)}
    if found.cost is not None:
        told["cost"] = {key: dollars(number) for key, number in _spread(found.cost).items()}
    return told


def _spread(found: Spread) -> dict[str, int]:
    return {"min": found.least, "median": found.median, "max": found.most}
