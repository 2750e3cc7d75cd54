"""A project in a temporary folder, and `fm` in this process or in one of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

COMPONENTS = """
import asyncio, os, pathlib, time
from flowmason import Context, OperatorInput, OperatorOutput, node, NodeInput, NodeOutput, operator, StageError


@operator(name="nap", category="test", description="Sleeps and hands a value on.", timeout_seconds=60)
class Nap:
    class Input(OperatorInput):
        seconds: float = 0.0
        value: str = ""
        mark: str = ""

    class Output(OperatorOutput):
        value: str

    async def execute(self, input: Input, context: Context) -> Output:
        if input.mark:
            with open(input.mark, "a") as file:
                file.write(context.stage_id + "\\n")
        await asyncio.sleep(input.seconds)
        return self.Output(value=input.value)


@operator(name="needs_file", category="test", description="Fails while a file is missing.")
class NeedsFile:
    class Input(OperatorInput):
        path: str
        after: str = ""

    class Output(OperatorOutput):
        text: str

    async def execute(self, input: Input, context: Context) -> Output:
        if not os.path.exists(input.path):
            raise StageError("the file is not there", code="FILE_MISSING", help="Make it.")
        return self.Output(text=pathlib.Path(input.path).read_text())


@operator(name="large", category="test", description="A large text.")
class Large:
    class Input(OperatorInput):
        size: int

    class Output(OperatorOutput):
        text: str

    async def execute(self, input: Input, context: Context) -> Output:
        return self.Output(text="x" * input.size)
"""

ORDERS = {
    "name": "orders",
    "version": "1.2.0",
    "input_schema": {
        "type": "object",
        "properties": {
            "orders": {"type": "array", "items": {"type": "object"}},
            "shop": {"type": "object", "default": {"city": "Bonn"}},
            "limit": {"type": "number", "default": 10},
        },
        "required": ["orders"],
    },
    "sample_input": {"orders": [{"id": 1, "total": 5}, {"id": 2, "total": 50}]},
    "stages": [
        {
            "id": "big",
            "component_type": "filter",
            "config": {
                "data": "{{input.orders}}",
                "condition": "item.total > 10",
                "filter_mode": "filter_array",
            },
        },
        {"id": "each", "component_type": "foreach", "config": {"items": "{{input.orders}}", "loop_stages": ["line"]}},
        {"id": "line", "component_type": "json_transform", "config": {"data": "{{item}}", "mapping": {"n": "id"}}},
        {
            "id": "end",
            "component_type": "json_transform",
            "config": {
                "data": {"big": "{{upstream.big.data}}", "lines": "{{upstream.line}}", "city": "{{input.shop.city}}"},
                "mapping": {"big": "big", "lines": "lines", "city": "city"},
            },
        },
    ],
    "output_stage_id": "end",
}


def nap_chain(mark: Path, *, seconds: float = 0.0, name: str = "naps") -> dict[str, Any]:
    """Three stages in a row; the middle one sleeps. Each writes its id to `mark` when it starts."""
    return {
        "name": name,
        "stages": [
            {"id": "first", "component_type": "nap", "config": {"value": "1", "mark": str(mark)}},
            {
                "id": "second",
                "component_type": "nap",
                "config": {"value": "{{upstream.first.value}}2", "seconds": seconds, "mark": str(mark)},
            },
            {
                "id": "third",
                "component_type": "nap",
                "config": {"value": "{{upstream.second.value}}3", "mark": str(mark)},
            },
        ],
    }


class Project:
    """A project on disk."""

    def __init__(self, root: Path, home: Path) -> None:
        self.root = root
        self.home = home

    def write(self, path: str, content: Any) -> Path:
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(content if isinstance(content, str) else json.dumps(content, indent=2))
        return target

    def pipeline(self, content: dict[str, Any]) -> Path:
        return self.write(f"pipelines/{content['name']}.pipeline.json", content)

    @property
    def environ(self) -> dict[str, str]:
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("FLOWMASON_", "RAY_"))}
        return {**kept, "FLOWMASON_HOME": str(self.home), "NO_COLOR": "1"}

    def start(self, *args: str) -> subprocess.Popen[str]:
        """`fm` in a process of its own."""
        return subprocess.Popen(
            [sys.executable, "-c", "from flowmason.cli import main; main()", *args],
            cwd=self.root,
            env=self.environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


class Answer:
    """What a command gave."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    def __repr__(self) -> str:
        return f"exit {self.code}\n--- stdout\n{self.out}\n--- stderr\n{self.err}"


Fm = Callable[..., Answer]
