"""The evaluated inputs of the six control-flow components, in their canonical spelling."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta

from flowmason.errors import Code, StageError, did_you_mean
from flowmason.policy import STAGE_TIMEOUT_MS_MAX, STAGE_TIMEOUT_MS_MIN

RESERVED = frozenset({"input", "upstream", "stages", "context", "env", "error", "_error"})
"""Roots of the expression language; a loop variable may not hide one."""

MOST_RETRIES = 10
"""How often a trycatch may try again."""

_Timeout = Annotated[int, Meta(ge=STAGE_TIMEOUT_MS_MIN, le=STAGE_TIMEOUT_MS_MAX)]


class _Input(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    pass


class Conditional(_Input, frozen=True):
    condition: Any
    condition_expression: Any = None
    true_branch_stages: list[str] = []
    false_branch_stages: list[str] = []
    pass_data: Any = None


class Router(_Input, frozen=True):
    value: Any
    routes: dict[str, list[str] | str]
    default_route: list[str] | str = []
    value_expression: Any = None
    case_insensitive: bool = False
    pass_data: Any = None


class Foreach(_Input, frozen=True):
    items: Any
    loop_stages: list[str] = []
    item_variable: str = "item"
    index_variable: str = "index"
    collect_results: bool = True
    parallel: bool = False
    max_parallel: Annotated[int, Meta(ge=1, le=1000)] = 5
    break_on_error: bool = True
    filter_expression: Any = None


class TryCatch(_Input, frozen=True):
    try_stages: list[str] = []
    catch_stages: list[str] = []
    finally_stages: list[str] = []
    error_scope: Literal["propagate", "continue"] = "continue"
    catch_error_types: list[str] = []
    max_retries: Annotated[int, Meta(ge=0, le=MOST_RETRIES)] = 0
    retry_delay_ms: Annotated[int, Meta(ge=0)] = 1000
    pass_data: Any = None


class SubPipeline(_Input, frozen=True):
    pipeline_id: Annotated[str, Meta(min_length=1)]
    pipeline_version: str | None = None
    input_data: Any = {}
    output_mapping: dict[str, str] = {}
    timeout_ms: _Timeout | None = None
    async_execution: bool = False
    wait_for_completion: bool = True
    inherit_context: bool = True
    isolated: bool = False
    on_error: Literal["propagate", "ignore", "default"] = "propagate"
    default_result: Any = None


IDLE_IN_OWN_RUN: Mapping[str, Any] = {
    "output_mapping": {},
    "timeout_ms": None,
    "on_error": "propagate",
    "default_result": None,
}
"""Options of a sub-pipeline that have nothing to act on where it becomes a run of its own → their defaults."""


def idle_options(form: SubPipeline) -> list[str]:
    """Options that were given and would do nothing."""
    if form.wait_for_completion and not form.async_execution:
        return []
    return [name for name, usual in IDLE_IN_OWN_RUN.items() if getattr(form, name) != usual]


class Return(_Input, frozen=True):
    condition: Any = True
    condition_expression: Any = None
    return_value: Any = None
    message: str | None = None
    status: Literal["completed", "cancelled", "failed"] = "completed"


KINDS = ("conditional", "router", "foreach", "trycatch", "subpipeline", "return")
"""The control-flow types, as `plan.Kind` spells them."""

_T = TypeVar("_T", bound=_Input)
_PLACE = re.compile(r" - at `([^`]*)`$")


def read(kind: type[_T], inputs: Mapping[str, Any]) -> _T:
    """Check evaluated inputs against `kind`.

    Raises `StageError` (`INVALID_INPUT`) naming the field, and the nearest right one for an unknown field.
    """
    known = kind.__struct_fields__
    for name in inputs:
        if name not in known:
            near = did_you_mean(name, known)
            hint = f" (did you mean {near!r}?)" if near else ""
            raise invalid(f"unknown field {name!r}{hint}", name, known=list(known))
    try:
        return msgspec.convert(dict(inputs), kind, strict=False)
    except msgspec.ValidationError as error:
        text = str(error)
        place = _PLACE.search(text)
        field = place[1].removeprefix("$").removeprefix(".") if place else ""
        reason = _PLACE.sub("", text)
        raise invalid(f"{field}: {reason}" if field else reason, field) from None


def invalid(message: str, field: str, **details: Any) -> StageError:
    """The error for an evaluated input that a control-flow component cannot take."""
    return StageError(message, code=Code.INVALID_INPUT, details={"field": field, **details})


def from_json_text(value: Any) -> Any:
    """A string that holds a JSON list or object as that list or object; anything else unchanged."""
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        try:
            return msgspec.json.decode(value)
        except msgspec.DecodeError:
            return value
    return value
