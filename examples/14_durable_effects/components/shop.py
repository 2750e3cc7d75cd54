"""Two effects that leave a trace in files beside the pipeline, so that one can see what really happened."""

from pathlib import Path

from flowmason import Context, OperatorInput, OperatorOutput, StageError, operator

HERE = Path(__file__).resolve().parent.parent
LEDGER = HERE / "ledger.txt"
"""One line for every charge."""
WAREHOUSE = HERE / "warehouse-is-open"
"""Shipping works only while this file is there."""


@operator(name="charge", category="examples", description="Takes money.", effect="unsafe")
class Charge:
    class Input(OperatorInput):
        order: str
        amount: float

    class Output(OperatorOutput):
        receipt: str

    async def execute(self, input: Input, context: Context) -> Output:
        with LEDGER.open("a") as ledger:
            ledger.write(f"{context.idempotency_key} {input.order} {input.amount}\n")
        return self.Output(receipt=f"receipt for {input.order}")


@operator(name="ship", category="examples", description="Sends a parcel.", effect="idempotent")
class Ship:
    class Input(OperatorInput):
        order: str
        receipt: str

    class Output(OperatorOutput):
        shipped: bool
        charges: int

    async def execute(self, input: Input, context: Context) -> Output:
        if not WAREHOUSE.exists():
            raise StageError("the warehouse is closed", code="WAREHOUSE_CLOSED", help="touch warehouse-is-open")
        charges = sum(f" {input.order} " in line for line in LEDGER.read_text().splitlines())
        return self.Output(shipped=True, charges=charges)
