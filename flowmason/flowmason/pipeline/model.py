"""What people write, as data: `Pipeline`, `Stage`, `Composition` and their parts.

Every documented key has its place here, in its canonical spelling; a key that is not given holds its default
and is not written back. Nothing here is checked: `parse_pipeline` does that.
"""

from __future__ import annotations

from typing import Any

import msgspec

from flowmason.ids import StageId
from flowmason.policy import Resources, RetryPolicy

ABSTRACT = "abstract"
"""The component of a stage that a pipeline further down the chain must give a component."""
MAX_STAGES = 20_000
"""Stages and compositions of one file."""
RETRY_DEFAULTS = RetryPolicy(max_retries=3)
"""What a `retry_config` means for the keys that it leaves out."""


class Position(msgspec.Struct, frozen=True):
    """Where the canvas draws a stage."""

    x: float
    y: float


class LLMSettings(msgspec.Struct, frozen=True, omit_defaults=True):
    """How a stage wants its language model; None: as the component or the project says."""

    provider: str | None = None
    model: str | None = None
    temperature: float | None = None
    """0 to 2."""
    max_tokens: int | None = None
    top_p: float | None = None
    """0 to 1."""
    stop_sequences: tuple[str, ...] | None = None
    cache_s: int | None = None
    """Seconds for which an answer is given again to the same request; None: every call is made."""
    prompt_cache: bool | None = None
    """Whether the provider is asked to keep the beginning of the prompt."""


class Fallback(msgspec.Struct, frozen=True, omit_defaults=True):
    """A cheaper model."""

    model: str
    provider: str | None = None
    """None: the stage's own."""


class Budget(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a run or a stage may spend."""

    max_cost: str | None = None
    """US dollars as a decimal string."""
    max_tokens: int | None = None
    fallback: Fallback | None = None
    """Of a stage: what it asks once its own model no longer fits in what is left."""


class Stage(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """One stage as written, with one spelling for each thing."""

    id: StageId
    component: str
    """Snake case; written as `component_type`. `ABSTRACT` is a placeholder."""
    name: str = ""
    depends_on: tuple[StageId, ...] = ()
    config: dict[str, Any] = {}
    input_mapping: dict[str, Any] = {}
    llm_settings: LLMSettings | None = None
    provider: str | None = None
    """Older spelling of `llm_settings.provider`; `llm` reads both."""
    timeout_ms: int | None = None
    retry_config: RetryPolicy | None = None
    resources: Resources | None = None
    budget: Budget | None = None
    condition: Any = None
    skip_if: Any = None
    skip_output: Any = None
    federation: dict[str, Any] | None = None
    component_package: str | None = None
    position: Position | None = None
    extra: dict[str, Any] = {}
    extensions: dict[str, Any] = {}
    """The `x-…` keys."""

    @property
    def inputs(self) -> dict[str, Any]:
        """What the component is given: `config` and `input_mapping` in one; the mapping wins."""
        return {**self.config, **self.input_mapping}

    @property
    def llm(self) -> LLMSettings | None:
        """`llm_settings` with the stage's `provider` filled in."""
        if self.provider is None:
            return self.llm_settings
        return msgspec.structs.replace(self.llm_settings or LLMSettings(), provider=self.provider)

    def input_key(self, name: str) -> str:
        """Under which key of the stage the input `name` is written: `config` or `input_mapping`."""
        return "input_mapping" if name in self.input_mapping else "config"


class Composition(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """Another pipeline used as a stage."""

    id: StageId
    pipeline: str
    """`name` or `name@version`."""
    input_mapping: dict[str, Any] = {}
    output_mapping: dict[str, str] = {}
    """Field of the result → path in the other pipeline's output."""
    depends_on: tuple[StageId, ...] = ()
    extra: dict[str, Any] = {}
    extensions: dict[str, Any] = {}


class Pipeline(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """One pipeline file, with one spelling for each thing."""

    schema_uri: str | None = msgspec.field(default=None, name="$schema")
    id: str | None = None
    name: str
    version: str = "1.0.0"
    description: str = ""
    extends: str | None = None
    """`name` or `name@version`."""
    abstract: bool = False
    """An abstract pipeline is only there to be extended."""
    category: str | None = None
    tags: tuple[str, ...] = ()
    status: str | None = None
    """`draft` or `published`."""
    is_template: bool = False
    input_schema: dict[str, Any] = {}
    output_schema: dict[str, Any] = {}
    variables: dict[str, Any] | None = None
    sample_input: dict[str, Any] | None = None
    max_concurrency: int | None = None
    budget: Budget | None = None
    stages: tuple[Stage, ...] = ()
    overrides: dict[str, dict[str, Any]] = {}
    """Stage id → the keys (canonical spelling, plain values) to merge over the inherited stage."""
    compositions: tuple[Composition, ...] = ()
    output_stage_id: StageId | None = None
    output_config: dict[str, Any] | None = None
    triggers: dict[str, Any] | None = None
    schedule: str | dict[str, Any] | None = None
    federation: dict[str, Any] | None = None
    extra: dict[str, Any] = {}
    extensions: dict[str, Any] = {}
    """The `x-…` keys."""

    @property
    def reference(self) -> str:
        """`name@version`."""
        return f"{self.name}@{self.version}"
