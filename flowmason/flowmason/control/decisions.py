"""Evaluated inputs in, `Decision` out: what a control-flow stage chooses."""

from __future__ import annotations

import keyword
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import msgspec

from flowmason.control import inputs as forms
from flowmason.control.inputs import from_json_text, invalid, read
from flowmason.control.outcomes import foreach_output, subpipeline_output, trycatch_output
from flowmason.errors import Code, StageError, UsageError
from flowmason.expressions import Budget, Names, parse_condition, prepare

DEFAULT = "default"
"""What a router chose where no route matched."""


class Decision(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a control-flow stage decided."""

    output: dict[str, Any]
    """The component's Output. Of a stage with a body: as it stands before the body has run."""
    choice: tuple[str, ...] | None = None
    """Of a guard: `("true",)`, `("false",)`, a router's key, or `("default",)`."""
    returned: str | None = None
    """Of a `return` that takes effect: completed, cancelled or failed."""
    items: list[Any] | None = None
    """Of a foreach: the items to run, in order."""
    skipped: int = 0
    """Of a foreach: how many items the filter dropped."""
    input: Any = None
    """Of a sub-pipeline: its input."""
    pipeline: str = ""
    """Of a sub-pipeline: `name` or `name@version`."""
    settings: dict[str, Any] = {}
    """Of a stage with a body: the options by which the body runs."""


Prepared = Callable[[Mapping[str, Any], Budget | None], Any]


@lru_cache(maxsize=512)
def _prepared(source: str, variables: frozenset[str]) -> Prepared:
    run: Prepared = prepare(parse_condition(source, Names(stages=frozenset(), variables=variables)))
    return run


def expression(source: Any, names: frozenset[str]) -> Callable[[Mapping[str, Any]], Any]:
    """An expression field made callable over its names (`value`, or `item` and `index`).

    A value that is no string was evaluated already and stands for itself.
    Raises `ExpressionError` when called or here; an error is never taken for false.
    """
    if not isinstance(source, str):
        return lambda roots: source
    run = _prepared(source, names)
    return lambda roots: run(roots, None)


_VALUE = frozenset({"value"})


def _given(source: Any) -> bool:
    return source is not None and source != ""


def conditional(inputs: Mapping[str, Any]) -> Decision:
    """Choose `"true"` or `"false"` by the truth of `condition`, or of `condition_expression` over `value`."""
    form = read(forms.Conditional, inputs)
    value = form.condition
    if _given(form.condition_expression):
        value = expression(form.condition_expression, _VALUE)({"value": value})
    result = bool(value)
    taken = "true" if result else "false"
    return Decision(
        output={
            "branch_taken": taken,
            "condition_value": form.condition,
            "condition_result": result,
            "data": form.pass_data,
        },
        choice=(taken,),
    )


def router(inputs: Mapping[str, Any]) -> Decision:
    """Choose a route: the exact key, then the value as text, then by case-folded text if asked, then the default."""
    form = read(forms.Router, inputs)
    routes = {key: [ids] if isinstance(ids, str) else ids for key, ids in form.routes.items()}
    default = [form.default_route] if isinstance(form.default_route, str) else form.default_route
    if default and DEFAULT in routes:
        raise invalid("a route may not be called 'default' beside default_route", "routes")
    value = form.value
    if _given(form.value_expression):
        value = expression(form.value_expression, _VALUE)({"value": value})
    key = _matching(value, list(routes), form.case_insensitive)
    taken = DEFAULT if key is None else key
    execute = routes.get(taken, default)
    listed = dict.fromkeys(stage for ids in (*routes.values(), default) for stage in ids)
    return Decision(
        output={
            "route_taken": taken,
            "original_value": form.value,
            "matched_value": value,
            "stages_to_execute": list(execute),
            "stages_to_skip": [stage for stage in listed if stage not in execute],
            "data": form.pass_data,
        },
        choice=(taken,),
    )


def _matching(value: Any, keys: list[str], case_insensitive: bool) -> str | None:
    spellings = _spellings(value)
    for text in spellings:
        if text in keys:
            return text
    if case_insensitive:
        folded = {text.casefold() for text in spellings}
        for key in keys:
            if key.casefold() in folded:
                return key
    return None


def _spellings(value: Any) -> list[str]:
    """How a value may be written as the key of a route: as JSON first, then as Python's `str`."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, float) and value.is_integer():
        return [str(value), str(int(value))]
    try:
        text = msgspec.json.encode(value).decode()
    except (TypeError, ValueError, msgspec.EncodeError):
        return [str(value)]
    return [text, str(value)]


def foreach(inputs: Mapping[str, Any]) -> Decision:
    """Make the list of items: a list as it is, an object as `{key, value}` sorted by key; both filtered if asked."""
    form = read(forms.Foreach, inputs)
    for field in ("item_variable", "index_variable"):
        name = getattr(form, field)
        if not name.isidentifier() or keyword.iskeyword(name) or name in forms.RESERVED:
            raise invalid(f"{field}: {name!r} cannot be the name of a loop variable", field)
    if form.item_variable == form.index_variable:
        raise invalid("item_variable and index_variable must differ", "index_variable")
    given = from_json_text(form.items)
    if isinstance(given, Mapping):
        items: list[Any] = [{"key": key, "value": value} for key, value in given.items()]
    elif isinstance(given, list | tuple):
        items = list(given)
    else:
        raise invalid(f"items: expected a list or an object, got {_kind_of(given)}", "items")
    total = len(items)
    if _given(form.filter_expression):
        items = _kept(form, items)
    output = foreach_output(total=total, skipped=total - len(items))
    output["items_to_process"] = items
    return Decision(
        output=output,
        items=items,
        skipped=total - len(items),
        settings={
            "item_variable": form.item_variable,
            "index_variable": form.index_variable,
            "collect_results": form.collect_results,
            "parallel": form.parallel,
            "max_parallel": form.max_parallel,
            "break_on_error": form.break_on_error,
        },
    )


def _kept(form: forms.Foreach, items: list[Any]) -> list[Any]:
    names = frozenset({"item", "index", form.item_variable, form.index_variable})
    keep = expression(form.filter_expression, names)
    kept = []
    for index, item in enumerate(items):
        # The stage's own names come last, so that `index` may be what the author called the item.
        roots = {"item": item, "index": index, form.item_variable: item, form.index_variable: index}
        try:
            if keep(roots):
                kept.append(item)
        except StageError as error:
            raise StageError(
                f"filter_expression failed on item {index}: {error}",
                code=error.failure.code,
                details={**(error.failure.details or {}), "field": "filter_expression", "index": index},
            ) from error
    return kept


def trycatch(inputs: Mapping[str, Any]) -> Decision:
    """Read the options of a trycatch; its body decides the rest (`outcomes.catches`, `outcomes.trycatch_output`)."""
    form = read(forms.TryCatch, inputs)
    return Decision(
        output=trycatch_output("pending", data=form.pass_data),
        settings={
            "error_scope": form.error_scope,
            "catch_error_types": form.catch_error_types,
            "max_retries": form.max_retries,
            "retry_delay_ms": form.retry_delay_ms,
            "data": form.pass_data,
        },
    )


def subpipeline(inputs: Mapping[str, Any]) -> Decision:
    """Say which pipeline runs, on which input. `pipeline_id` may be `name` or `name@version`."""
    form = read(forms.SubPipeline, inputs)
    name, at, written = form.pipeline_id.rpartition("@")
    name, version = (name, written) if at and name else (form.pipeline_id, form.pipeline_version)
    if at and form.pipeline_version not in (None, "", version):
        raise invalid(
            f"pipeline_id asks for version {version!r}, pipeline_version for {form.pipeline_version!r}",
            "pipeline_version",
        )
    data = from_json_text(form.input_data)
    if data is None:
        data = {}
    if not isinstance(data, Mapping):
        raise invalid(f"input_data: expected an object, got {_kind_of(data)}", "input_data")
    data = dict(data)
    idle = forms.idle_options(form)
    if idle:
        reason = f"{idle[0]} has no effect on a sub-pipeline that is a run of its own: its stage does not wait for it"
        raise invalid(reason, idle[0])
    output = subpipeline_output("pending", pipeline_id=name, pipeline_version=version or None)
    output["input_data"] = data
    return Decision(
        output=output,
        input=data,
        pipeline=f"{name}@{version}" if version else name,
        settings={
            "pipeline_id": name,
            "pipeline_version": version or None,
            "output_mapping": form.output_mapping,
            "timeout_ms": form.timeout_ms,
            "async_execution": form.async_execution,
            "wait_for_completion": form.wait_for_completion,
            "inherit_context": form.inherit_context,
            "isolated": form.isolated,
            "on_error": form.on_error,
            "default_result": form.default_result,
        },
    )


def return_(inputs: Mapping[str, Any]) -> Decision:
    """Say whether the nearest pipeline (or foreach item) ends here, and with what."""
    form = read(forms.Return, inputs)
    value = form.condition
    if _given(form.condition_expression):
        value = expression(form.condition_expression, _VALUE)({"value": value})
    should = bool(value)
    return Decision(
        output={
            "should_return": should,
            "return_value": form.return_value,
            "message": form.message,
            "status": form.status,
            "remaining_stages": [],
        },
        returned=form.status if should else None,
    )


_BY_KIND: dict[str, Callable[[Mapping[str, Any]], Decision]] = {
    "conditional": conditional,
    "router": router,
    "foreach": foreach,
    "trycatch": trycatch,
    "subpipeline": subpipeline,
    "return": return_,
}


def decide(kind: str, inputs: Mapping[str, Any]) -> Decision:
    """Decide for a control-flow stage of `kind` (one of `inputs.KINDS`).

    Raises `StageError` (`INVALID_INPUT`, naming the field), `ExpressionError`, or `UsageError` for an unknown kind.
    """
    function = _BY_KIND.get(str(kind))
    if function is None:
        raise UsageError(f"{kind!r} is not a control-flow type", code=Code.USAGE)
    return function(inputs)


def _kind_of(value: Any) -> str:
    names = {str: "a string", bool: "a boolean", int: "a number", float: "a number", type(None): "null"}
    return names.get(type(value), type(value).__name__)
