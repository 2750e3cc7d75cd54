"""The three decorators. They describe a class and check it; they neither register nor wrap it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import msgspec

from flowmason.component.spec import (
    CONTROL_FLOW_TYPES,
    ComponentSpec,
    EffectBy,
    default_on_lost,
    default_placement,
    snake,
    spec_faults,
)
from flowmason.errors import did_you_mean
from flowmason.policy import (
    NODE_TIMEOUT_MS,
    OPERATOR_TIMEOUT_MS,
    STAGE_TIMEOUT_MS_MAX,
    STAGE_TIMEOUT_MS_MIN,
    Effect,
    OnLost,
    Placement,
    Resources,
    RetryPolicy,
)

C = TypeVar("C")
_ATTRIBUTE = "_flowmason_spec_"
_CONFIG_KEYS = {
    "node": ("timeout_seconds", "timeout", "max_retries", "requires_llm", "supports_streaming", "deterministic"),
    "operator": ("timeout_seconds", "timeout", "max_retries", "deterministic"),
    "control_flow": ("timeout_seconds", "timeout"),
}


def node(
    *,
    name: str,
    description: str,
    category: str,
    version: str = "1.0.0",
    icon: str = "box",
    color: str = "#6B7280",
    author: str = "",
    tags: Sequence[str] = (),
    recommended_providers: Mapping[str, Mapping[str, Any]] | None = None,
    default_provider: str | None = None,
    required_capabilities: Sequence[str] | None = None,
    min_context_window: int | None = None,
    require_vision: bool | None = None,
    require_function_calling: bool | None = None,
    timeout: float | None = None,
    timeout_seconds: float | None = None,
    max_retries: int | None = None,
    retry: RetryPolicy | Mapping[str, Any] | None = None,
    requires_llm: bool | None = None,
    supports_streaming: bool | None = None,
    deterministic: bool | None = None,
    effect: Effect | str | None = None,
    resources: Resources | Mapping[str, Any] | None = None,
    placement: Placement | str | None = None,
    secrets: Sequence[str] = (),
    models: Sequence[str] = (),
    hosts: Sequence[str] = (),
    on_lost: OnLost | str | None = None,
) -> Callable[[type[C]], type[C]]:
    """Declare an AI node: `idempotent`, 60 seconds and 3 retries unless told otherwise.

    `timeout` (or `timeout_seconds`) is in seconds; `max_retries=3` means four attempts, `retry` is the whole
    policy. A nested `Config` class may hold timeout_seconds, max_retries, requires_llm, supports_streaming and
    deterministic instead. Raises `ValueError` listing everything that is wrong with the class.
    """
    return _decorator("node", dict(locals()))


def operator(
    *,
    name: str,
    description: str,
    category: str,
    version: str = "1.0.0",
    icon: str = "zap",
    color: str = "#3B82F6",
    author: str = "",
    tags: Sequence[str] = (),
    timeout: float | None = None,
    timeout_seconds: float | None = None,
    max_retries: int | None = None,
    retry: RetryPolicy | Mapping[str, Any] | None = None,
    deterministic: bool | None = None,
    effect: Effect | str | None = None,
    effect_by: EffectBy | Mapping[str, Any] | None = None,
    resources: Resources | Mapping[str, Any] | None = None,
    placement: Placement | str | None = None,
    secrets: Sequence[str] = (),
    models: Sequence[str] = (),
    hosts: Sequence[str] = (),
    on_lost: OnLost | str | None = None,
) -> Callable[[type[C]], type[C]]:
    """Declare an operator: `pure` (`idempotent` with `deterministic=False`), 30 seconds and no retries.

    `effect_by={"field": "method", "map": {"GET": "idempotent"}, "default": "unsafe"}` makes the effect depend on
    a literal field of the Input. For the rest see `node`. Raises `ValueError` listing everything that is wrong.
    """
    return _decorator("operator", dict(locals()))


def control_flow(
    *,
    name: str,
    description: str,
    control_flow_type: str,
    category: str = "control_flow",
    version: str = "1.0.0",
    icon: str = "git-branch",
    color: str = "#EC4899",
    author: str = "",
    tags: Sequence[str] = (),
    timeout: float | None = None,
    timeout_seconds: float | None = None,
) -> Callable[[type[C]], type[C]]:
    """Declare a control-flow component: pure, 30 seconds for its own evaluation.

    `control_flow_type` is one of conditional, router, foreach, trycatch, subpipeline, return. Raises `ValueError`
    listing everything that is wrong.
    """
    return _decorator("control_flow", dict(locals()))


def is_component(candidate: Any) -> bool:
    """Whether `candidate` is a class that was decorated itself (a mere subclass of one is not)."""
    return isinstance(candidate, type) and _ATTRIBUTE in vars(candidate)


def spec_of(cls: type[Any]) -> ComponentSpec:
    """The spec of a decorated class, its schemas included. Raises `ValueError` for any other class."""
    if not is_component(cls):
        raise ValueError(f"{cls.__name__} is not a component: it wants @node, @operator or @control_flow")
    spec: ComponentSpec = getattr(cls, _ATTRIBUTE)
    return spec


class _LazySpec:
    """A class attribute that makes the schemas when first asked: importing a component stays cheap."""

    def __init__(self, bare: ComponentSpec) -> None:
        self._bare = bare
        self._spec: ComponentSpec | None = None

    def __get__(self, instance: object, owner: Any) -> ComponentSpec:
        if self._spec is None:
            self._spec = msgspec.structs.replace(
                self._bare,
                input_schema=owner.Input.model_json_schema(mode="validation"),
                output_schema=owner.Output.model_json_schema(mode="serialization"),
            )
        return self._spec


def _decorator(kind: str, options: dict[str, Any]) -> Callable[[type[C]], type[C]]:
    def decorate(cls: type[C]) -> type[C]:
        faults = _class_faults(kind, cls)
        _read_config(kind, cls, options, faults)
        spec = _make_spec(kind, cls, options, faults)
        if spec is not None:
            faults += spec_faults(spec)
        if faults or spec is None:
            lines = "".join(f"\n  - {fault}" for fault in faults)
            article = "an" if kind[0] in "aeiou" else "a"
            raise ValueError(f"{cls.__name__} cannot be {article} {kind} component:{lines}")
        setattr(cls, _ATTRIBUTE, _LazySpec(spec))
        return cls

    return decorate


def _class_faults(kind: str, cls: type[Any]) -> list[str]:
    from flowmason.component import models

    stem = {"node": "Node", "operator": "Operator", "control_flow": "ControlFlow"}[kind]
    faults = []
    for role in ("Input", "Output"):
        base = getattr(models, stem + role)
        nested = getattr(cls, role, None)
        if nested is None:
            faults.append(f"it has no nested class {role}({base.__name__})")
        elif not (isinstance(nested, type) and issubclass(nested, base)):
            faults.append(f"its {role} does not derive from {base.__name__}")
    execute = getattr(cls, "execute", None)
    if execute is None:
        faults.append("it has no method `async def execute(self, input, context)`")
    elif not inspect.iscoroutinefunction(execute):
        faults.append("its execute is not `async def`")
    elif not _takes(execute, 3):
        faults.append("its execute does not take (self, input, context)")
    if not _takes(cls, 0):
        faults.append("its __init__ has parameters without defaults; components are made without arguments")
    return faults


def _takes(function: Callable[..., Any], count: int) -> bool:
    """Whether `function` can be called with exactly `count` positional arguments."""
    try:
        inspect.signature(function).bind(*range(count))
    except TypeError:
        return False
    except ValueError:  # no signature to be had
        return True
    return True


def _read_config(kind: str, cls: type[Any], options: dict[str, Any], faults: list[str]) -> None:
    """Move the nested `Config` into `options`."""
    config = getattr(cls, "Config", None)
    if config is None:
        return
    known = _CONFIG_KEYS[kind]
    for key, value in vars(config).items():
        if key.startswith("_"):
            continue
        if key not in known:
            hint = did_you_mean(key, known)
            faults.append(f"Config.{key} is not known" + (f" (did you mean {hint!r}?)" if hint else ""))
        elif options.get(key) is not None:
            faults.append(f"{key} is given both to the decorator and in Config")
        else:
            options[key] = value


def _make_spec(kind: str, cls: type[Any], options: dict[str, Any], faults: list[str]) -> ComponentSpec | None:
    for key in ("name", "description", "category"):
        if not isinstance(options[key], str) or not options[key].strip():
            faults.append(f"{key} must be a text that is not empty")
    if kind == "control_flow" and options["control_flow_type"] not in CONTROL_FLOW_TYPES:
        faults.append(f"control_flow_type must be one of {', '.join(CONTROL_FLOW_TYPES)}")
    timeout_ms = _timeout_ms(kind, options, faults)
    retry = _retry(kind, options, faults)
    resources = _convert(options, "resources", Resources, faults) or Resources()
    deterministic = options.get("deterministic")
    if deterministic is None:
        deterministic = kind != "node"
    effect_by = _convert(options, "effect_by", EffectBy, faults)
    effect = _convert(options, "effect", Effect, faults)
    if effect_by is not None:
        if effect is not None or options.get("on_lost") is not None:
            faults.append("effect_by decides effect and on_lost; they cannot be given beside it")
        nested = getattr(cls, "Input", None)
        if effect_by.field not in getattr(nested, "model_fields", {effect_by.field}):
            faults.append(f"effect_by names {effect_by.field!r}, which is no field of Input")
        effect = effect_by.default
    if effect is None:
        effect = Effect.IDEMPOTENT if kind == "node" or not deterministic else Effect.PURE
    placement = _convert(options, "placement", Placement, faults) or default_placement(effect, resources)
    on_lost = _convert(options, "on_lost", OnLost, faults) or default_on_lost(effect)
    ai_keys = (
        "recommended_providers",
        "default_provider",
        "required_capabilities",
        "min_context_window",
        "require_vision",
        "require_function_calling",
    )
    data = {
        "name": snake(str(options["name"])),
        "version": options["version"],
        "kind": kind,
        "control_flow_type": options.get("control_flow_type"),
        "description": str(options["description"]).strip(),
        "category": str(options["category"]).replace("-", "_") if kind == "control_flow" else options["category"],
        "icon": options["icon"],
        "color": options["color"],
        "author": options["author"] or "",
        "tags": _names(options, "tags", faults),
        "effect": effect,
        "effect_by": effect_by,
        "placement": placement,
        "on_lost": on_lost,
        "retry": retry,
        "timeout_ms": timeout_ms,
        "resources": resources,
        "secrets": _names(options, "secrets", faults),
        "models": _names(options, "models", faults),
        "hosts": _names(options, "hosts", faults),
        "deterministic": deterministic,
        "requires_llm": kind == "node" if options.get("requires_llm") is None else options["requires_llm"],
        "supports_streaming": bool(options.get("supports_streaming")),
        "ai_config": {key: options[key] for key in ai_keys if options.get(key) is not None},
        "target": f"{cls.__module__}:{cls.__qualname__}",
    }
    try:
        return msgspec.convert(msgspec.to_builtins(data), ComponentSpec)
    except (msgspec.ValidationError, TypeError) as error:
        faults.append(str(error))
        return None


def _convert(options: dict[str, Any], key: str, kind: type[C], faults: list[str]) -> C | None:
    given = options.get(key)
    if given is None or isinstance(given, kind):
        return given
    try:
        if isinstance(given, Mapping) and issubclass(kind, msgspec.Struct):
            unknown = [name for name in given if name not in kind.__struct_fields__]
            if unknown:
                hint = did_you_mean(unknown[0], kind.__struct_fields__)
                faults.append(f"{key} has no {unknown[0]!r}" + (f" (did you mean {hint!r}?)" if hint else ""))
        return msgspec.convert(given, kind)
    except (msgspec.ValidationError, TypeError) as error:
        allowed = f"; it is one of {', '.join(kind)}" if issubclass(kind, str) else ""  # type: ignore[arg-type]
        faults.append(f"{key}: {error}{allowed}")
        return None


def _names(options: dict[str, Any], key: str, faults: list[str]) -> tuple[str, ...]:
    given = options.get(key) or ()
    if isinstance(given, str) or not all(isinstance(item, str) for item in given):
        faults.append(f"{key} must be a list of texts")
        return ()
    return tuple(given)


def _timeout_ms(kind: str, options: dict[str, Any], faults: list[str]) -> int:
    given = [options[key] for key in ("timeout", "timeout_seconds") if options.get(key) is not None]
    default = NODE_TIMEOUT_MS if kind == "node" else OPERATOR_TIMEOUT_MS
    if len(given) > 1:
        faults.append("timeout and timeout_seconds are the same thing; give one")
    if not given:
        return default
    low, high = STAGE_TIMEOUT_MS_MIN / 1000, STAGE_TIMEOUT_MS_MAX / 1000
    if isinstance(given[0], bool) or not isinstance(given[0], int | float) or not low <= given[0] <= high:
        faults.append(f"timeout must be a number of seconds from {low:g} to {high:g}")
        return default
    return round(given[0] * 1000)


def _retry(kind: str, options: dict[str, Any], faults: list[str]) -> RetryPolicy:
    policy = _convert(options, "retry", RetryPolicy, faults)
    most = options.get("max_retries")
    if policy is not None and most is not None:
        faults.append("max_retries is part of retry; give one of them")
    if policy is None:
        policy = RetryPolicy(max_retries=(3 if kind == "node" else 0) if most is None else most)
    if not isinstance(policy.max_retries, int) or isinstance(policy.max_retries, bool):
        faults.append("max_retries must be a whole number from 0 to 10")
    elif not 0 <= policy.max_retries <= 10:
        faults.append(f"max_retries is {policy.max_retries}; it goes from 0 to 10")
    if not 1 <= policy.backoff_multiplier <= 5:
        faults.append("backoff_multiplier goes from 1 to 5")
    return policy
