"""Control-flow components that users write: their Output is read by the names of the built-in ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from flowmason.control import Decision, decide
from flowmason.errors import Code, StageError
from flowmason.plan import Kind
from flowmason.region.context import StageContext
from flowmason.region.roots import Upstream
from flowmason.state import StageState

if TYPE_CHECKING:
    from flowmason.region.run import RegionRun

_OPTIONS: Mapping[Kind, tuple[str, ...]] = {
    Kind.FOREACH: (
        "item_variable", "index_variable", "collect_results", "parallel", "max_parallel", "break_on_error",
    ),
    Kind.TRYCATCH: ("error_scope", "catch_error_types", "max_retries", "retry_delay_ms", "pass_data"),
    Kind.SUBPIPELINE: (
        "output_mapping", "timeout_ms", "async_execution", "wait_for_completion", "inherit_context", "isolated",
        "on_error", "default_result",
    ),
}  # fmt: skip


async def custom_decision(run: RegionRun, stage: StageState, inputs: Mapping[str, Any]) -> Decision:
    """Run the component and make a `Decision` of its Output. Raises `StageError` where a field is missing."""
    from flowmason.region.stage import execute

    upstream = Upstream(run.data, lambda name: run.state.value_of(stage.scope, name))
    output = await execute(run, stage, inputs, StageContext(run, stage, upstream))
    kind = stage.stage.kind
    if kind is Kind.CONDITIONAL:
        taken = str(_field(output, "branch_taken", stage)).lower()
        if taken not in ("true", "false"):
            raise _wrong(stage, f"branch_taken must be 'true' or 'false', not {taken!r}")
        return Decision(output=output, choice=(taken,))
    if kind is Kind.ROUTER:
        return Decision(output=output, choice=(str(_field(output, "route_taken", stage)),))
    if kind is Kind.FOREACH:
        items = _field(output, "items_to_process", stage)
        if not isinstance(items, list):
            raise _wrong(stage, "items_to_process must be a list")
        return Decision(output=output, items=items, settings=_settings(kind, inputs, items=[]))
    if kind is Kind.RETURN:
        status = str(output.get("status") or "completed")
        return Decision(output=output, returned=status if _field(output, "should_return", stage) else None)
    if kind is Kind.SUBPIPELINE:
        name, version = str(_field(output, "pipeline_id", stage)), output.get("pipeline_version")
        pipeline = f"{name}@{version}" if version and "@" not in name else name
        settings = _settings(kind, inputs, pipeline_id=pipeline)
        return Decision(output=output, input=output.get("input_data") or {}, pipeline=pipeline, settings=settings)
    return Decision(output=output, settings=_settings(kind, inputs))


def _settings(kind: Kind, inputs: Mapping[str, Any], **needed: Any) -> dict[str, Any]:
    """The options of the body, read as the built-in component reads them; what else went in is not recorded."""
    given = {name: inputs[name] for name in _OPTIONS[kind] if name in inputs}
    return decide(kind, {**given, **needed}).settings


def _field(output: Mapping[str, Any], name: str, stage: StageState) -> Any:
    if name not in output:
        raise _wrong(stage, f"its Output lacks {name}")
    return output[name]


def _wrong(stage: StageState, reason: str) -> StageError:
    return StageError(
        f"{stage.stage.component} is a {stage.stage.kind} component, but {reason}", code=Code.INVALID_OUTPUT
    )
