"""`context.llm.generate_object` in a node of the user's own, through `flowmason.load`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import flowmason
from flowmason.errors import Code
from fm_project import Project

NODE = """
from pydantic import Field, field_validator
from flowmason import Context, NodeInput, NodeOutput, node


class Rivers(NodeOutput):
    names: list[str] = Field(min_length=1)

    @field_validator("names")
    @classmethod
    def short(cls, names: list[str]) -> list[str]:
        if any(len(name) > 10 for name in names):
            raise ValueError("a name has at most ten letters")
        return names


@node(name="rivers", category="test", description="Names rivers.")
class NameRivers:
    class Input(NodeInput):
        plain: bool = False

    class Output(NodeOutput):
        names: list[str]
        kind: str

    async def execute(self, input: Input, context: Context) -> Output:
        schema = {"type": "array", "items": {"type": "string"}}
        found = await context.llm.generate_object("Name rivers.", schema if input.plain else Rivers)
        names = found if input.plain else found.names
        return self.Output(names=names, kind=type(found).__name__)
"""


async def run(folder: Path, monkeypatch: pytest.MonkeyPatch, answers: list[Any], **config: Any) -> Any:
    project = Project(folder / "shop", folder / "home")
    monkeypatch.setenv("FLOWMASON_HOME", str(project.home))
    providers = {"default": "mock", "mock": {"extra": {"answers": answers}}}
    project.write("flowmason.json", {"name": "shop", "providers": providers})
    project.write("components/rivers.py", NODE)
    stage = {"id": "ask", "component": "rivers", "config": config, "retry_config": {"max_retries": 0}}
    project.write("ask.pipeline.json", {"name": "ask", "version": "1.0.0", "stages": [stage]})
    monkeypatch.chdir(project.root)
    return await flowmason.load("ask").run_async()


async def test_an_answer_is_an_instance_of_the_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = await run(tmp_path, monkeypatch, [{"names": ["Rhine", "Elbe"]}])
    assert found.output == {"names": ["Rhine", "Elbe"], "kind": "Rivers"}


async def test_of_a_schema_it_is_plain_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = await run(tmp_path, monkeypatch, [["Rhine"]], plain=True)
    assert found.output == {"names": ["Rhine"], "kind": "list"}


async def test_what_the_schema_or_the_class_refuses_is_repaired(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad: list[Any] = [{"names": []}, {"names": ["Mississippi-Missouri"]}]
    found = await run(tmp_path, monkeypatch, [*bad, {"names": ["Elbe"]}])
    assert (found.output["names"], found.usage.calls) == (["Elbe"], 3)


async def test_the_last_bad_answer_is_a_typed_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = await run(tmp_path, monkeypatch, [{"names": ["Mississippi-Missouri"]}] * 3)
    assert (found.status, found.error.code) == ("failed", Code.BAD_ANSWER)
    assert "at most ten letters" in found.error.message
