"""The six control-flow components. What they decide is `flowmason.control`; here are their typed faces.

Fields marked `x-condition` hold a condition: a template there is one expression, whatever stands around
its braces. Fields marked `x-expression` hold the text of an expression over the listed names; it is
evaluated by the component, so it takes no templates.
"""

from __future__ import annotations

from typing import Any, Literal

from flowmason import control
from flowmason.component import Context, control_flow
from flowmason.component.models import ControlFlowInput, ControlFlowOutput, Field
from flowmason.policy import STAGE_TIMEOUT_MS_MAX, STAGE_TIMEOUT_MS_MIN


def _condition(description: str, **options: Any) -> Any:
    return Field(description=description, json_schema_extra={"x-condition": True}, **options)


def _expression(description: str, *names: str) -> Any:
    return Field(default=None, description=description, json_schema_extra={"x-expression": list(names)})


@control_flow(
    name="conditional",
    control_flow_type="conditional",
    description="Run one of two branches, by the truth of a condition.",
    icon="git-branch",
    color="#EC4899",
    timeout_seconds=5,
)
class Conditional:
    """Choose between two lists of stages."""

    class Input(ControlFlowInput):
        condition: Any = _condition("Decides by its truth, as Python counts it: 0, empty and null are false.")
        condition_expression: str | bool | None = _expression(
            "Decides instead of `condition`, which it sees as `value`.", "value"
        )
        true_branch_stages: list[str] = Field(default=[], description="Stages that run only if true.")
        false_branch_stages: list[str] = Field(default=[], description="Stages that run only if false.")
        pass_data: Any = Field(default=None, description="Handed on as `data`.")

    class Output(ControlFlowOutput):
        branch_taken: Literal["true", "false"]
        condition_value: Any = None
        condition_result: bool
        data: Any = None

    async def execute(self, input: Input, context: Context) -> Output:
        return self.Output(**control.conditional(input.to_dict()).output)


@control_flow(
    name="router",
    control_flow_type="router",
    description="Run the stages that are listed for a value.",
    icon="git-merge",
    color="#F59E0B",
    timeout_seconds=5,
)
class Router:
    """Choose among named routes."""

    class Input(ControlFlowInput):
        value: Any = Field(description="Looked up in `routes`: as it is, then as text.")
        routes: dict[str, list[str] | str] = Field(description="Key → the stages that run for it.")
        default_route: list[str] | str = Field(default=[], description="Stages that run where no key matches.")
        value_expression: Any = _expression("Looked up instead of `value`, which it sees as `value`.", "value")
        case_insensitive: bool = Field(default=False, description="Also match keys that differ only in case.")
        pass_data: Any = Field(default=None, description="Handed on as `data`.")

    class Output(ControlFlowOutput):
        route_taken: str = Field(description='A key of `routes`, or "default".')
        original_value: Any = None
        matched_value: Any = Field(default=None, description="What was looked up.")
        stages_to_execute: list[str] = []
        stages_to_skip: list[str] = []
        data: Any = None

    async def execute(self, input: Input, context: Context) -> Output:
        return self.Output(**control.router(input.to_dict()).output)


@control_flow(
    name="foreach",
    control_flow_type="foreach",
    description="Run stages once for each item of a list.",
    icon="repeat",
    color="#10B981",
    timeout_seconds=300,
)
class Foreach:
    """Make the list of items that the body runs over."""

    class Input(ControlFlowInput):
        items: list[Any] | dict[str, Any] = Field(
            description="A list; an object is run over as `{key, value}` in the order of its keys."
        )
        loop_stages: list[str] = Field(default=[], description="The body.")
        item_variable: str = Field(default="item", description="What the body calls the item.")
        index_variable: str = Field(default="index", description="What the body calls its position, from 0.")
        collect_results: bool = Field(default=True, description="Whether `results` is filled.")
        parallel: bool = False
        max_parallel: int = Field(default=5, ge=1, le=1000, description="Items at once, where `parallel`.")
        break_on_error: bool = Field(
            default=True, description="False: a failed item leaves `{$error: …}` in its place and the rest runs."
        )
        filter_expression: str | bool | None = _expression("Items for which it is false are left out.", "item", "index")

    class Output(ControlFlowOutput):
        total_items: int = Field(description="Items before the filter.")
        processed_items: int = Field(default=0, description="Items that ended, well or not.")
        skipped_items: int = Field(default=0, description="Items that the filter left out.")
        failed_items: int = 0
        current_item: Any = Field(default=None, description="Inside the body; null outside.")
        current_index: int | None = Field(default=None, description="Inside the body; null outside.")
        items_to_process: list[Any] = []
        results: list[Any] = Field(default=[], description="Per item, what the last stage of the body gave.")
        is_complete: bool = False

    async def execute(self, input: Input, context: Context) -> Output:
        return self.Output(**control.foreach(input.to_dict()).output)


@control_flow(
    name="trycatch",
    control_flow_type="trycatch",
    description="Run stages; on an error run others instead; and some whatever happened.",
    icon="shield",
    color="#EF4444",
    timeout_seconds=120,
)
class TryCatch:
    """Say how the body's errors are taken."""

    class Input(ControlFlowInput):
        try_stages: list[str] = Field(default=[], description="The body.")
        catch_stages: list[str] = Field(default=[], description="Run on an error that is taken; they see `error`.")
        finally_stages: list[str] = Field(default=[], description="Run whatever happened.")
        error_scope: Literal["propagate", "continue"] = Field(
            default="continue", description="propagate: the error goes on after the catch."
        )
        catch_error_types: list[str] = Field(default=[], description="Class names or failure codes; none: all.")
        max_retries: int = Field(default=0, ge=0, le=10, description="More rounds of the body before the catch.")
        retry_delay_ms: int = Field(default=1000, ge=0)
        pass_data: Any = Field(default=None, description="Handed on as `data`.")

    class Output(ControlFlowOutput):
        status: Literal["pending", "success", "caught", "error"]
        error_occurred: bool = False
        error: dict[str, Any] | None = Field(default=None, description="message, type, code, stage, details.")
        error_message: str | None = None
        error_type: str | None = None
        recovered: bool = False
        try_result: Any = None
        catch_result: Any = None
        data: Any = None

    async def execute(self, input: Input, context: Context) -> Output:
        return self.Output(**control.trycatch(input.to_dict()).output)


@control_flow(
    name="subpipeline",
    control_flow_type="subpipeline",
    description="Run another pipeline as a stage of this one.",
    icon="box",
    color="#8B5CF6",
    timeout_seconds=120,
)
class SubPipeline:
    """Say which pipeline runs and on what."""

    class Input(ControlFlowInput):
        pipeline_id: str = Field(min_length=1, description="`name`, `name@version`, or a path in the project.")
        pipeline_version: str | None = None
        input_data: dict[str, Any] = Field(default={}, description="Its input.")
        output_mapping: dict[str, str] = Field(
            default={}, description="Makes `result` of these fields: name → dotted path into the pipeline's output."
        )
        timeout_ms: int | None = Field(
            default=None, ge=STAGE_TIMEOUT_MS_MIN, le=STAGE_TIMEOUT_MS_MAX, description="Of the whole sub-pipeline."
        )
        async_execution: bool = Field(
            default=False, description="Start it as a run of its own, and go on at once with its `run_id`."
        )
        wait_for_completion: bool = Field(default=True, description="`false` is the same as `async_execution`.")
        inherit_context: bool = Field(
            default=True, description="Whether it sees the caller's variables where it sets none of that name."
        )
        isolated: bool = Field(default=False, description="It sees nothing of its caller but its input.")
        on_error: Literal["propagate", "ignore", "default"] = "propagate"
        default_result: Any = Field(default=None, description='The result after a failure with on_error "default".')

    class Output(ControlFlowOutput):
        pipeline_id: str
        pipeline_version: str | None = None
        run_id: str | None = Field(default=None, description="Of an asynchronous sub-pipeline.")
        status: Literal["pending", "queued", "running", "completed", "failed", "cancelled"]
        input_data: dict[str, Any] = {}
        result: Any = None
        execution_time_ms: float | None = None
        error: dict[str, Any] | None = None

    async def execute(self, input: Input, context: Context) -> Output:
        return self.Output(**control.subpipeline(input.to_dict()).output)


@control_flow(
    name="return",
    control_flow_type="return",
    description="End the pipeline here, with this output.",
    icon="corner-down-left",
    color="#6366F1",
    timeout_seconds=5,
)
class Return:
    """End the nearest pipeline, or the item of a foreach."""

    class Input(ControlFlowInput):
        condition: Any = _condition("Return only if true.", default=True)
        condition_expression: str | bool | None = _expression(
            "Decides instead of `condition`, which it sees as `value`.", "value"
        )
        return_value: Any = Field(default=None, description="The pipeline's output.")
        message: str | None = None
        status: Literal["completed", "cancelled", "failed"] = "completed"

    class Output(ControlFlowOutput):
        should_return: bool
        return_value: Any = None
        message: str | None = None
        status: Literal["completed", "cancelled", "failed"] = "completed"
        remaining_stages: list[str] = Field(default=[], description="Empty: whoever reads it was not cut off.")

    async def execute(self, input: Input, context: Context) -> Output:
        return self.Output(**control.return_(input.to_dict()).output)


COMPONENTS = [Conditional, Router, Foreach, TryCatch, SubPipeline, Return]
