"""`ComponentSpec`: everything FlowMason knows about a component without importing its code."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from flowmason.errors import Fault, RefusedError
from flowmason.ids import Digest, sha256
from flowmason.policy import OPERATOR_TIMEOUT_MS, Effect, OnLost, Placement, Resources, RetryPolicy

KINDS = ("node", "operator", "control_flow")
CONTROL_FLOW_TYPES = ("conditional", "router", "foreach", "trycatch", "subpipeline", "return")

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_RESERVED = frozenset({"abstract"})
_NUMBERS = re.compile(r"\d+|[A-Za-z]+")


class EffectBy(msgspec.Struct, frozen=True, omit_defaults=True):
    """The effect depends on one field of the Input: `http_request` on its `method`."""

    field: str
    map: dict[str, Effect]
    """Literal value (upper case letters match any case) → effect."""
    default: Effect = Effect.UNSAFE
    """For a value that is a template, or not in `map`."""


class ComponentSpec(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True, kw_only=True):
    """One component: its schemas, what running it does, and what it needs. Made by a decorator."""

    name: str
    """Snake case; `http-request` in a file is the same as `http_request`."""
    version: str = "1.0.0"
    kind: str
    """`node`, `operator` or `control_flow`."""
    control_flow_type: str | None = None
    """One of `CONTROL_FLOW_TYPES`, with kind `control_flow` only."""
    description: str = ""
    category: str = ""
    icon: str = ""
    """A Lucide icon's name."""
    color: str = ""
    """`#RRGGBB`."""
    author: str = ""
    tags: tuple[str, ...] = ()
    input_schema: dict[str, Any] = {}
    """JSON Schema of the Input, as a stage's inputs are written."""
    output_schema: dict[str, Any] = {}
    """JSON Schema of the Output; `additionalProperties` tells whether other fields may appear."""
    effect: Effect = Effect.PURE
    effect_by: EffectBy | None = None
    """Where given, `effect` is its default; `settle` tells the effect for given inputs."""
    placement: Placement = Placement.TASK
    on_lost: OnLost = OnLost.RERUN
    retry: RetryPolicy = RetryPolicy()
    timeout_ms: int = OPERATOR_TIMEOUT_MS
    """Of one attempt."""
    resources: Resources = Resources()
    secrets: tuple[str, ...] = ()
    """Names that `context.secrets` may be asked for."""
    models: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    """`host:port`s that the component calls."""
    deterministic: bool = True
    requires_llm: bool = False
    supports_streaming: bool = False
    ai_config: dict[str, Any] = {}
    """recommended_providers, default_provider, required_capabilities, min_context_window, require_vision,
    require_function_calling: those that were given."""
    target: str
    """`module:attribute` of an installed module, or `path/in/project.py:attribute`."""
    package: str | None = None
    """`name@version` of the installed `.fmpkg` it comes from."""
    archive: Digest | None = None
    """Digest of the `.fmpkg` that an org uploaded, where it comes from one: nobody has to trust it."""
    digest: str = ""
    """Over the canonical spec and the source; empty until the registry has seen the source."""

    @property
    def id(self) -> str:
        """`name@version`."""
        return f"{self.name}@{self.version}"

    @property
    def input_open(self) -> bool:
        """Whether the Input takes fields that its schema does not name."""
        return self.input_schema.get("additionalProperties", True) is not False

    @property
    def output_open(self) -> bool:
        """Whether the Output may hold fields that its schema does not name."""
        return self.output_schema.get("additionalProperties", True) is not False

    def settle(self, inputs: Mapping[str, Any]) -> ComponentSpec:
        """The spec as it holds for a stage with these inputs: `effect_by` looked up, all that follows from it set.

        `inputs` are the values as written in the file; a string that holds `{{` counts as a template.
        A field that is left out has the default of the Input's schema.
        """
        if self.effect_by is None:
            return self
        rule = self.effect_by
        declared = self.input_schema.get("properties", {}).get(rule.field, {})
        value = inputs.get(rule.field, declared.get("default"))
        effect = rule.default
        if isinstance(value, str) and "{{" not in value:
            effect = rule.map.get(value) or rule.map.get(value.strip().upper(), rule.default)
        return msgspec.structs.replace(self, effect=effect, effect_by=None, on_lost=default_on_lost(effect))

    def canonical(self) -> bytes:
        """The bytes of the spec that its digest covers: all but where the component was found."""
        bare = msgspec.structs.replace(self, digest="", package=None, archive=None)
        return msgspec.json.encode(bare, order="deterministic")

    def manifest(self) -> dict[str, Any]:
        """The spec as plain JSON data."""
        plain: dict[str, Any] = msgspec.to_builtins(self)
        return plain

    @classmethod
    def from_manifest(cls, data: Any, *, file: str | None = None) -> ComponentSpec:
        """Read what `manifest` wrote. Raises `RefusedError` for anything else."""
        try:
            spec = msgspec.convert(data, cls)
        except msgspec.ValidationError as error:
            raise RefusedError([Fault(f"not a component description: {error}", "$", file=file)]) from None
        faults = [Fault(reason, "$", file=file) for reason in spec_faults(spec)]
        if faults:
            raise RefusedError(faults)
        return spec


def default_on_lost(effect: Effect) -> OnLost:
    """What becomes of a lost attempt unless the author says otherwise."""
    return OnLost.UNKNOWN if effect is Effect.UNSAFE else OnLost.RERUN


def default_placement(effect: Effect, resources: Resources) -> Placement:
    """Effects run on hosts; pure work, and whatever asks for resources, as tasks."""
    return Placement.TASK if effect is Effect.PURE or resources else Placement.HOST


def spec_faults(spec: ComponentSpec) -> list[str]:
    """What is wrong with the names in a spec, whoever made it."""
    faults = []
    if not _NAME.match(spec.name):
        faults.append(f"the name {spec.name!r} must be letters, digits and underscores, not starting with a digit")
    elif spec.name in _RESERVED:
        faults.append(f"the name {spec.name!r} has a meaning of its own in pipeline files")
    if spec.kind not in KINDS:
        faults.append(f"the kind {spec.kind!r} is none of {', '.join(KINDS)}")
    if (spec.kind == "control_flow") != (spec.control_flow_type is not None):
        faults.append("control_flow_type goes with kind control_flow, and only with it")
    elif spec.control_flow_type is not None and spec.control_flow_type not in CONTROL_FLOW_TYPES:
        faults.append(f"control_flow_type {spec.control_flow_type!r} is none of {', '.join(CONTROL_FLOW_TYPES)}")
    if not re.match(r"\d+(\.\d+){0,2}([-+.][0-9A-Za-z.+-]+)?\Z", spec.version):
        faults.append(f"the version {spec.version!r} is not of the form 1.2.3")
    if ":" not in spec.target:
        faults.append(f"the target {spec.target!r} is not of the form module:attribute")
    return faults


def component_digest(spec: ComponentSpec, source: str | bytes) -> Digest:
    """Digest of a component: its canonical spec and its source (or the digest that stands for the source)."""
    return sha256(spec.canonical() + b"\0" + (source.encode() if isinstance(source, str) else source))


def snake(name: str) -> str:
    """A component's name as the registry has it: `http-request` → `http_request`."""
    return name.replace("-", "_")


def version_key(version: str) -> tuple[Any, ...]:
    """Sort key of a version: numbers as numbers, and a pre-release (`1.0.0-rc1`) before its release."""
    main, _, _build = version.partition("+")
    release, _, pre = main.partition("-")
    numbers = [int(part) if part.isdigit() else 0 for part in release.split(".")]
    while len(numbers) < 3:
        numbers.append(0)
    parts = tuple((0, int(part), "") if part.isdigit() else (1, 0, part) for part in _NUMBERS.findall(pre))
    return (*numbers[:3], (1,) if not pre else (0, parts))
