"""The tables: every key of a pipeline file, a stage and a composition, what it takes and what it means.

The parser, the writer and the exported JSON Schema all read these tables, and the written order of keys is theirs.
"""

from __future__ import annotations

from typing import Any

from flowmason.errors import Fault
from flowmason.pipeline.model import (
    RETRY_DEFAULTS,
    Budget,
    Composition,
    Fallback,
    LLMSettings,
    Pipeline,
    Position,
    Stage,
)
from flowmason.pipeline.pointers import Path
from flowmason.pipeline.schemas import check_schema
from flowmason.pipeline.shapes import (
    INVALID,
    AnyObject,
    Choice,
    Either,
    Flag,
    Key,
    ListOf,
    MapOf,
    Number,
    Record,
    Shape,
    Text,
    add_fault,
)
from flowmason.pipeline.spellings import ID_PATTERN, STAGE_ID, snake
from flowmason.policy import STAGE_TIMEOUT_MS_MAX, STAGE_TIMEOUT_MS_MIN, Resources, RetryPolicy

_NAME = r"[^\s@\x00-\x1f](?:[^@\x00-\x1f]*[^\s@\x00-\x1f])?"
_VERSION = r"[0-9]+(?:\.[0-9]+){0,2}(?:[-+.][0-9A-Za-z.+-]+)?"

TEXT = Text()
FLAG = Flag()
OBJECT = AnyObject()
ANY = Shape()
TEXTS = ListOf(TEXT, "a list of strings")
PLAIN_TEXTS = ListOf(TEXT, "a list of strings", plain=True)
IDS = ListOf(Text("the id of a stage", ID_PATTERN, max=200), "a list of stage ids", distinct=True)
NAME = Text("a name without '@', line breaks or spaces at its ends, of at most 200 characters", _NAME, max=200)
VERSION = Text("a version such as '1.0.0' (a string)", _VERSION, max=100)
REFERENCE = Text("the name of a pipeline: 'name' or 'name@version'", f"{_NAME}(?:@{_VERSION})?", max=300)


class _Component(Text):
    def read(self, value: Any, path: Path, faults: list[Fault]) -> Any:
        found = super().read(value, path, faults)
        return found if found is INVALID else snake(found)


COMPONENT = _Component("the name of a component (letters, digits, _ and -)", ID_PATTERN, max=200)


class _JSONSchema(AnyObject):
    expected = "a JSON Schema (an object)"

    def read(self, value: Any, path: Path, faults: list[Fault]) -> Any:
        if type(value) is not dict:
            return self.refuse(value, path, faults)
        before = len(faults)
        for place, reason in check_schema(value):
            add_fault(faults, (*path, *place), reason)
        return value if len(faults) == before else INVALID


JSON_SCHEMA = _JSONSchema()

_LIMITS = {
    "max_cost": Key(
        Text("US dollars as a decimal string such as '0.50'", r"[0-9]{1,9}(?:\.[0-9]{1,9})?"),
        "US dollars, as a decimal string.",
    ),
    "max_tokens": Key(Number(0, whole=True), "Tokens, prompt and answer together."),
}
BUDGET = Record(_LIMITS, Budget)
FALLBACK = Record(
    {
        "model": Key(TEXT, "The model's name at the provider.", required=True),
        "provider": Key(TEXT, "Its provider; without one the stage's own."),
    },
    Fallback,
)
STAGE_BUDGET = Record(
    {**_LIMITS, "fallback": Key(FALLBACK, "A cheaper model, asked once the stage's own no longer fits.")}, Budget
)

LLM_SETTINGS = Record(
    {
        "provider": Key(TEXT, "anthropic, openai, llamacpp, mock, or a provider of the project."),
        "model": Key(TEXT, "The model's name at the provider."),
        "temperature": Key(Number(0, 2), "0 (always the likeliest word) to 2."),
        "max_tokens": Key(Number(1, whole=True), "The longest answer, in tokens."),
        "top_p": Key(Number(0, 1), "Nucleus sampling."),
        "stop_sequences": Key(TEXTS, "Texts that end the answer."),
        "cache_s": Key(
            Number(0, 30 * 24 * 3600, whole=True),
            "The same request within so many seconds is given the same answer, without asking the model; 0: never.",
        ),
        "prompt_cache": Key(FLAG, "Ask the provider to keep the beginning of the prompt, which makes it cheaper."),
    },
    LLMSettings,
)

RETRY = Record(
    {
        "max_retries": Key(Number(0, 10, whole=True), "3 means four attempts."),
        "initial_delay_ms": Key(Number(100, STAGE_TIMEOUT_MS_MAX, whole=True), "Wait before the first repetition."),
        "max_delay_ms": Key(Number(1000, STAGE_TIMEOUT_MS_MAX, whole=True), "The longest wait."),
        "backoff_multiplier": Key(Number(1, 5), "Each wait is so many times the one before."),
    },
    lambda **given: RetryPolicy(**{"max_retries": RETRY_DEFAULTS.max_retries, **given}),
    base=RETRY_DEFAULTS,
)

RESOURCES = Record(
    {
        "num_cpus": Key(Number(0), "CPU slots."),
        "num_gpus": Key(Number(0), "GPUs; a fraction shares one."),
        "memory": Key(Number(0, whole=True), "Bytes."),
        "accelerator_type": Key(TEXT, "Ray's name of a kind of accelerator."),
        "custom": Key(MapOf(Number(0), "an object of resource → amount"), "Ray's custom resources."),
    },
    Resources,
)

POSITION = Record(
    {"x": Key(Number(), "Pixels.", required=True), "y": Key(Number(), "Pixels.", required=True)},
    Position,
)

_ROUTING = Choice(
    "parallel", "sequential", "nearest", "round_robin", "load_based", "cost_based", "least_loaded", "cost_optimized"
)
_AGGREGATION = Choice("merge", "concat", "first", "vote", "best", "reduce", "all", "majority")

STAGE_FEDERATION = Record(
    {
        "strategy": Key(_ROUTING, "How regions are chosen."),
        "regions": Key(PLAIN_TEXTS, "Regions to choose from."),
        "data_locality": Key(ANY, "Where the data lies."),
        "aggregation": Key(_AGGREGATION, "How the regions' outputs become one."),
        "reduce_function": Key(Choice("sum", "avg", "min", "max", "count"), "For aggregation reduce."),
        "score_field": Key(TEXT, "For aggregation best."),
        "vote_field": Key(TEXT, "For aggregation vote."),
        "min_regions": Key(Number(1, whole=True), "So many must succeed."),
        "timeout_seconds": Key(Number(0), "For one region."),
        "retry_on_failure": Key(FLAG, "Whether a failed region is tried again."),
        "max_retries": Key(Number(0, whole=True), "For one region."),
        "fallback_region": Key(TEXT, "The region that takes over."),
    }
)

FEDERATION = Record(
    {
        "enabled": Key(FLAG, "Whether stages may run in other regions."),
        "default_strategy": Key(_ROUTING, "For stages that name none."),
        "regions": Key(MapOf(OBJECT, "an object of region → settings"), "The regions."),
        "health_check_interval": Key(Number(0), "Seconds."),
    }
)

DESTINATION = Record(
    {
        "id": Key(Text("a non-empty string", min=1), "Its name in delivery reports.", required=True),
        "type": Key(Choice("webhook", "email", "database", "message_queue"), "What kind it is.", required=True),
        "name": Key(TEXT, "For people."),
        "enabled": Key(FLAG, "Default true."),
        "config": Key(OBJECT, "Settings of the kind."),
        "on_success": Key(FLAG, "Default true."),
        "on_error": Key(FLAG, "Default false."),
        "error_types": Key(PLAIN_TEXTS, "Only for these failures."),
        "payload_template": Key(TEXT, "What is sent, as a template."),
    }
)

OUTPUT_CONFIG = Record(
    {
        "destinations": Key(ListOf(DESTINATION, "a list of destinations", plain=True), "Where the output goes."),
        "allow_caller_destinations": Key(FLAG, "Default true."),
        "allow_caller_override": Key(FLAG, "Default false."),
    }
)

TRIGGERS = Record(
    {
        "natural_language": Key(
            Record(
                {
                    "patterns": Key(PLAIN_TEXTS, "Sentences, with {entities}."),
                    "entities": Key(OBJECT, "What the entities are."),
                    "keywords": Key(PLAIN_TEXTS, "Words that point here."),
                }
            ),
            "Requests in plain words that start the pipeline.",
        ),
        "webhook": Key(ANY, "A call that starts the pipeline."),
        "event": Key(ANY, "An event that starts the pipeline."),
    }
)

_EXTRA = Key(OBJECT, "Carried along; FlowMason does not look inside.")
_DEPENDS_ON = Key(IDS, "Stages that must have ended first. A reference in a template implies it.")

STAGE = Record(
    {
        "id": Key(STAGE_ID, "Unique in the file.", required=True),
        "component_type": Key(
            COMPONENT, "The component to run.", also=("component", "type"), required=True, attribute="component"
        ),
        "name": Key(TEXT, "For people."),
        "depends_on": _DEPENDS_ON,
        "config": Key(OBJECT, "The component's inputs; strings may hold {{templates}}."),
        "input_mapping": Key(OBJECT, "More inputs; wins over config."),
        "llm_settings": Key(LLM_SETTINGS, "How the stage wants its language model."),
        "provider": Key(TEXT, "Older spelling of llm_settings.provider."),
        "timeout_ms": Key(
            Number(STAGE_TIMEOUT_MS_MIN, STAGE_TIMEOUT_MS_MAX, whole=True),
            "Of one attempt; for a control stage, of its body too.",
        ),
        "retry_config": Key(RETRY, "When a failed attempt is repeated."),
        "resources": Key(RESOURCES, "What the stage needs of a worker."),
        "budget": Key(STAGE_BUDGET, "What the stage may spend."),
        "condition": Key(ANY, "Run only if this holds."),
        "skip_if": Key(ANY, "Skip if this holds."),
        "skip_output": Key(ANY, "The output of a skipped stage."),
        "federation": Key(STAGE_FEDERATION, "Where the stage runs in a federation."),
        "component_package": Key(TEXT, "org/package@version of the component."),
        "position": Key(POSITION, "Where the canvas draws the stage."),
        "extra": _EXTRA,
    },
    Stage,
    open=True,
    expected="a stage (an object)",
)

COMPOSITION = Record(
    {
        "id": Key(STAGE_ID, "Unique in the file.", required=True),
        "pipeline": Key(REFERENCE, "The pipeline to run.", required=True),
        "input_mapping": Key(OBJECT, "Its input; strings may hold {{templates}}."),
        "output_mapping": Key(MapOf(TEXT, "an object of field → path"), "Field → path in its output."),
        "depends_on": _DEPENDS_ON,
        "extra": _EXTRA,
    },
    Composition,
    open=True,
    expected="a composition (an object)",
)


class _Override(Shape):
    """Some keys of a stage, kept plain: what they mean depends on the stage they are merged over."""

    expected = "an object with keys of a stage"

    def read(self, value: Any, path: Path, faults: list[Fault]) -> Any:
        if type(value) is not dict:
            return self.refuse(value, path, faults)
        before = len(faults)
        STAGE.fields(value, path, faults, partial=True)
        if len(faults) > before:
            return INVALID
        found = {STAGE.spellings[key][0] if key in STAGE.spellings else key: item for key, item in value.items()}
        if isinstance(found.get("component_type"), str):
            found["component_type"] = snake(found["component_type"])
        return found

    def schema(self) -> dict[str, Any]:
        whole = STAGE.schema()
        return {key: whole[key] for key in ("type", "properties", "patternProperties", "additionalProperties")}


class _StageMap(Shape):
    """A list of stages or compositions; ids and number are checked by the parser, for the whole file."""

    def __init__(self, item: Record, expected: str) -> None:
        self.item, self.expected = item, expected

    def read(self, value: Any, path: Path, faults: list[Fault]) -> Any:
        if type(value) is not list:
            return self.refuse(value, path, faults)
        return tuple([self.item.read(item, (*path, index), faults) for index, item in enumerate(value)])

    def write(self, value: Any) -> Any:
        return [self.item.write(item) for item in value]

    def schema(self) -> dict[str, Any]:
        return {"type": "array", "items": self.item.schema()}


PIPELINE = Record(
    {
        "$schema": Key(TEXT, "Address of this JSON Schema, for editors.", attribute="schema_uri"),
        "id": Key(TEXT, "The pipeline's id in a Studio."),
        "name": Key(NAME, "The pipeline's name, unique in a project.", required=True),
        "version": Key(VERSION, "Default 1.0.0."),
        "description": Key(TEXT, "For people."),
        "extends": Key(REFERENCE, "The pipeline that this one is built on."),
        "abstract": Key(FLAG, "Only there to be extended; cannot be run."),
        "category": Key(TEXT, "For lists."),
        "tags": Key(TEXTS, "For lists."),
        "status": Key(Choice("draft", "published"), "In a Studio."),
        "is_template": Key(FLAG, "In a Studio."),
        "input_schema": Key(JSON_SCHEMA, "What a run must be given (2020-12).", also=("input",)),
        "output_schema": Key(JSON_SCHEMA, "What a run gives (2020-12).", also=("output",)),
        "variables": Key(OBJECT, "Variables, for platforms that set them."),
        "sample_input": Key(OBJECT, "The input of a run that is given none."),
        "max_concurrency": Key(Number(1, whole=True), "How many stages may run at once."),
        "budget": Key(BUDGET, "What a run may spend."),
        "stages": Key(_StageMap(STAGE, "a list of stages"), "The stages."),
        "overrides": Key(
            MapOf(_Override(), "an object of stage id → keys of a stage"), "Changes to stages of the extended pipeline."
        ),
        "compositions": Key(_StageMap(COMPOSITION, "a list of compositions"), "Other pipelines used as stages."),
        "output_stage_id": Key(
            Text("the id of a stage", ID_PATTERN, max=200), "The stage whose output is the pipeline's."
        ),
        "output_config": Key(OUTPUT_CONFIG, "Where the output is delivered."),
        "triggers": Key(TRIGGERS, "What starts the pipeline."),
        "schedule": Key(
            Either(
                "a cron expression or an object",
                (lambda value: type(value) is str, TEXT),
                (lambda value: type(value) is dict, OBJECT),
            ),
            "When the pipeline starts.",
        ),
        "federation": Key(FEDERATION, "Other regions."),
        "extra": _EXTRA,
    },
    Pipeline,
    open=True,
    expected="a pipeline (an object)",
)
