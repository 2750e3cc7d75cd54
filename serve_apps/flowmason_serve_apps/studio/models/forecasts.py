"""What a run may use, before it runs."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, Field

from flowmason_serve_apps.studio.models.common import Body
from flowmason_serve_apps.studio.models.runs import BudgetIn


class ForecastOptions(Body):
    """What of a run's options matters."""

    provider: Annotated[str, Field(max_length=100)] | None = Field(
        default=None, description="Model provider of the stages that name none."
    )
    budget: BudgetIn | None = None


class ForecastIn(Body):
    """A run that somebody may start."""

    pipeline: Annotated[str, Field(min_length=1, max_length=300)] = Field(description="`name` or `name@version`.")
    input: dict[str, Any] | None = Field(
        default=None, description="As far as it is known: it tells how many items are."
    )
    options: ForecastOptions = ForecastOptions()


class Most(BaseModel):
    """The most that may be used; null: nothing bounds it."""

    cost: str | None = Field(description="US dollars.")
    tokens: int | None


class PriceOut(BaseModel):
    """US dollars per million tokens."""

    input: str
    output: str


class ModelAsked(BaseModel):
    """A model that a stage asks by its settings."""

    provider: str
    model: str | None
    price: PriceOut | None = Field(description="Null: not known.")
    max_tokens: int | None = Field(description="Of an answer, at most.")


class StageForecast(BaseModel):
    """A stage that may ask models."""

    stage: str
    worst: Most = Field(description="Its own budget.")
    models: list[ModelAsked] = Field(description="More than one: a chain, in the order in which they are asked.")


class Tokens(BaseModel):
    """The least, the middle and the most."""

    min: int
    median: int
    max: int


class Costs(BaseModel):
    """The same in US dollars."""

    min: str
    median: str
    max: str


class UsualOut(BaseModel):
    """What the latest completed runs used, of whatever version."""

    runs: int = Field(description="How many; at most 100.")
    same: int = Field(description="How many of them ran the very same version.")
    tokens: Tokens
    calls: Tokens
    cost: Costs | None = Field(description="Of the runs whose cost is known.")
    unpriced: int = Field(description="Runs whose cost is not known.")
    beyond: int = Field(description="Runs that used more than this one may.")


class Forecast(BaseModel):
    """What a run may use at worst, by its budgets, and what runs of its pipeline usually use."""

    pipeline: str
    version: str
    worst: Most
    notes: list[str] = Field(description="What is known only in the run.")
    stages: list[StageForecast]
    usual: UsualOut | None = Field(description="Null: there is no completed run.")
