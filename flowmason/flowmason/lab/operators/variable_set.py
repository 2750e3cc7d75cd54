"""Set a variable that later stages see as `context.<name>`."""

from __future__ import annotations

from typing import Any, Literal

from flowmason.component import Context, operator
from flowmason.component.models import Field, OperatorInput, OperatorOutput
from flowmason.control import MISSING, pick
from flowmason.errors import Code, StageError


@operator(
    name="variable_set",
    category="core",
    description="Set a variable for the stages that depend on this one.",
    icon="variable",
    color="#6366F1",
    timeout_seconds=5,
)
class VariableSet:
    """The machine reads `name` and `value` of the output: the value that holds from here on."""

    class Input(OperatorInput):
        name: str = Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=128)
        value: Any
        scope: Literal["pipeline", "global"] = Field(
            default="pipeline", description="Two names for the same: variables flow to all later stages of the run."
        )
        overwrite: bool = Field(default=True, description="False: a value set earlier stays.")
        extract_path: str | None = Field(default=None, description="Take this part of `value`: `orders[0].id`.")

    class Output(OperatorOutput):
        name: str
        value: Any = Field(default=None, description="The variable's value after this stage.")
        previous_value: Any = None
        was_set: bool = Field(description="False where an earlier value stayed.")

    async def execute(self, input: Input, context: Context) -> Output:
        known = input.name in context.variables
        previous = context.variables[input.name] if known else None
        if known and not input.overwrite:
            return self.Output(name=input.name, value=previous, previous_value=previous, was_set=False)
        value = input.value
        if input.extract_path:
            value = pick(value, input.extract_path)
            if value is MISSING:
                raise StageError(
                    f"extract_path: there is nothing at {input.extract_path!r} in the value",
                    code=Code.INVALID_INPUT,
                    details={"field": "extract_path"},
                )
        return self.Output(name=input.name, value=value, previous_value=previous, was_set=True)
