"""Cut a list into batches."""

from __future__ import annotations

from typing import Any

from flowmason.component import Context, operator
from flowmason.component.models import Field, OperatorInput, OperatorOutput


@operator(
    name="loop",
    category="core",
    description="Cut a list into batches, for a foreach to run over.",
    icon="repeat",
    color="#EC4899",
    timeout_seconds=10,
)
class Loop:
    """Batching only; `foreach` runs stages."""

    class Input(OperatorInput):
        items: list[Any]
        batch_size: int = Field(default=1, ge=1, le=1000)
        max_iterations: int | None = Field(default=None, ge=1, description="At most so many batches.")
        start_index: int = Field(default=0, ge=0, description="Position of the first item taken.")
        include_metadata: bool = True

    class Output(OperatorOutput):
        batches: list[list[Any]]
        total_items: int = Field(description="Items in the whole list.")
        total_batches: int
        has_more: bool = Field(description="Whether items remain after the last batch.")
        metadata: dict[str, int] | None = Field(
            default=None, description="start_index, batch_size, items_processed, items_remaining."
        )

    async def execute(self, input: Input, context: Context) -> Output:
        size, start, total = input.batch_size, input.start_index, len(input.items)
        end = total if input.max_iterations is None else min(total, start + size * input.max_iterations)
        batches = [input.items[at : min(at + size, end)] for at in range(start, end, size)]
        remaining = max(0, total - max(end, start))
        return self.Output(
            batches=batches,
            total_items=total,
            total_batches=len(batches),
            has_more=remaining > 0,
            metadata={
                "start_index": start,
                "batch_size": size,
                "items_processed": max(0, end - start),
                "items_remaining": remaining,
            }
            if input.include_metadata
            else None,
        )
