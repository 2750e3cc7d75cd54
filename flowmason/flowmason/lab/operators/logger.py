"""Write a line to the run's log."""

from __future__ import annotations

from typing import Any, Literal

from flowmason.component import Context, operator
from flowmason.component.models import Field, OperatorInput, OperatorOutput
from flowmason.ids import RunId, idempotency_key


@operator(
    name="logger",
    category="core",
    description="Write a line to the run's log and hand a value on.",
    icon="file-text",
    color="#78716C",
    timeout_seconds=5,
)
class Logger:
    """A structured log line."""

    class Input(OperatorInput):
        message: str
        level: Literal["debug", "info", "warning", "error"] = "info"
        data: Any = None
        tags: dict[str, str] = {}
        emit_to_trace: bool = Field(default=True, description="Whether the line carries the trace id.")
        passthrough: Any = Field(default=None, description="Handed on unchanged.")

    class Output(OperatorOutput):
        logged: bool
        log_id: str = Field(description="8 hexadecimal digits; the same whenever this stage of this run is repeated.")
        passthrough: Any = None

    async def execute(self, input: Input, context: Context) -> Output:
        # Not `context.idempotency_key`: that is for effects, and a repeated log line does no harm.
        log_id = idempotency_key(RunId(context.run_id), tuple(context.path), context.round, "log")[:8]
        fields: dict[str, Any] = {"log_id": log_id}
        if input.data is not None:
            fields["data"] = input.data
        if input.tags:
            fields["tags"] = input.tags
        if input.emit_to_trace:
            fields["trace_id"] = context.trace_id
        getattr(context.logger, input.level)(input.message, **fields)
        return self.Output(logged=True, log_id=log_id, passthrough=input.passthrough)
