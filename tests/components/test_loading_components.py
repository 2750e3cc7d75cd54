"""Loading components in a worker."""

from __future__ import annotations

import datetime
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from flowmason.component import ComponentSpec
from flowmason.errors import Code, Fault, InvalidOutputError, StageError
from flowmason.registry import Loaded, Registry, find_components, load_component

Make = Callable[..., Path]
Component = Callable[..., str]


def own_faults(registry: Registry) -> list[Fault]:
    return [fault for fault in registry.faults if (fault.file or "").startswith("components/")]


async def run(loaded: Loaded, **inputs: Any) -> Any:
    return loaded.dump(await loaded.make().execute(loaded.validate(inputs), None))


def find(root: Path, name: str = "shout") -> ComponentSpec:
    registry = find_components(root)
    assert own_faults(registry) == []
    return registry[name]


async def test_a_component_is_loaded_and_runs(project: Make, component: Component) -> None:
    root = project(components__shout=component("shout"))
    assert await run(load_component(find(root), project_root=root), text="hi") == {"text": "HI"}
    assert str(root) not in sys.path
    assert "components" not in sys.modules
    assert not list(root.rglob("__pycache__"))


async def test_a_plans_reference_is_enough(project: Make, component: Component) -> None:
    from flowmason.plan import ComponentRef

    root = project(components__shout=component("shout"))
    spec = find(root)
    ref = ComponentRef(name=spec.name, version=spec.version, target=spec.target, digest=spec.digest)
    assert await run(load_component(ref, project_root=root), text="hi") == {"text": "HI"}
    assert load_component(ref, project_root=root) is load_component(spec, project_root=root)


@pytest.mark.parametrize(
    ("imports", "body"),
    [
        ("from components.tools.words import twice", "twice(input.text)"),
        ("import components.tools.words", "components.tools.words.twice(input.text)"),
        ("import components.tools.words as w", "w.twice(input.text)"),
        ("from components.tools import words", "words.twice(input.text)"),
        ("from .tools.words import twice", "twice(input.text)"),
        ("from . import tools\nfrom .tools import words", "words.twice(input.text)"),
    ],
)
async def test_siblings_can_be_imported(project: Make, imports: str, body: str, component: Component) -> None:
    root = project(
        components__shout=component("shout", imports=imports, body=body),
        components__tools__words="import json\nfrom lib import two\ndef twice(text): return text * two()\n",
        lib="def two(): return 2\n",
    )
    assert await run(load_component(find(root), project_root=root), text="ab") == {"text": "abab"}


async def test_edited_code_is_never_stale(project: Make, component: Component) -> None:
    files = {
        "components__shout": component("shout", imports="from components.words import end", body="input.text + end"),
        "components__words": "end = '!'\n",
    }
    root = project(**files)
    first = find(root)
    before = load_component(first, project_root=root)
    project(components__words="end = '?'\n")
    second = find(root)
    assert second.digest != first.digest
    after = load_component(second, project_root=root)
    assert await run(after, text="a") == {"text": "a?"}
    assert await run(before, text="a") == {"text": "a!"}


async def test_two_projects_do_not_mix(tmp_path: Path, home: Path, component: Component) -> None:
    for letter in "ab":
        folder = tmp_path / letter / "components"
        folder.mkdir(parents=True)
        (folder / "words.py").write_text(f"word = {letter!r}\n")
        (folder / "shout.py").write_text(component("shout", imports="from components.words import word", body="word"))
    for letter in "ab":
        root = tmp_path / letter
        assert await run(load_component(find(root), project_root=root), text="x") == {"text": letter}


def test_changed_code_is_refused_by_name(project: Make, component: Component) -> None:
    root = project(components__shout=component("shout"))
    spec = find(root)
    project(components__shout=component("shout", body="'other'"))
    with pytest.raises(StageError, match=r"shout@1\.0\.0") as caught:
        load_component(spec, project_root=root)
    assert caught.value.failure.code == Code.COMPONENT_CHANGED
    assert caught.value.failure.retry == "never"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"target": "components/none.py:Shout"}, "No such file"),
        ({"target": "components/shout.py:Shot"}, "did you mean 'Shout'?"),
        ({"target": "components/shout.py:OperatorInput"}, "not a component"),
        ({"target": "no_such_module_here:X"}, "No module named"),
        ({"target": "../outside.py:X"}, "outside the project"),
        ({"package": "nothing@1.0.0"}, "No such file"),
        ({"package": "../../etc@1.0.0"}, "not the name of a package"),
    ],
)
def test_what_is_not_there_is_missing(project: Make, change: dict[str, Any], reason: str, component: Component) -> None:
    root = project(components__shout=component("shout"))
    spec = msgspec.structs.replace(find(root), **change)
    with pytest.raises(StageError) as caught:
        load_component(spec, project_root=root)
    assert reason in str(caught.value)
    assert caught.value.failure.code == Code.COMPONENT_MISSING


def test_an_error_while_importing_carries_the_users_traceback(project: Make, component: Component) -> None:
    root = project(components__shout=component("shout"))
    spec = find(root)
    project(components__shout="def inner():\n    raise KeyError('oops')\n\ninner()\n")
    with pytest.raises(StageError) as caught:
        load_component(spec, project_root=root)
    assert "KeyError: 'oops'" in str(caught.value)
    assert "in inner" in (caught.value.failure.trace or "")


def test_wrong_input_is_named_field_by_field_without_its_values(project: Make, component: Component) -> None:
    root = project(components__shout=component("shout"))
    loaded = load_component(find(root), project_root=root)
    with pytest.raises(StageError) as caught:
        loaded.validate({"txt": "s3cret", "times": "many"})
    failure = caught.value.failure
    assert failure.code == Code.INVALID_INPUT
    assert "text: Field required" in failure.message
    assert "txt: unknown field (did you mean 'text'?)" in failure.message
    assert failure.details is not None
    assert [error["path"] for error in failure.details["errors"]] == ["text", "times", "txt"]
    assert "s3cret" not in repr(failure)


OUTPUTS = """
import datetime, decimal, enum, pathlib, uuid
from typing import Any
from flowmason import OperatorInput, OperatorOutput, Field, operator

class Tone(enum.Enum):
    CALM = "calm"

class Part(OperatorOutput):
    n: int

@operator(name="outputs", description="d", category="c")
class Outputs:
    class Input(OperatorInput):
        pass

    class Output(OperatorOutput):
        when: datetime.datetime
        amount: decimal.Decimal
        tone: Tone
        raw: bytes
        parts: list[Part]
        many: set[int]
        anything: Any = None
        from_: str = Field(default="x", alias="from")

    async def execute(self, input, context): ...
"""


def test_outputs_become_plain_data(project: Make, component: Component) -> None:
    root = project(components__outputs=OUTPUTS)
    loaded = load_component(find(root, "outputs"), project_root=root)
    module = sys.modules[loaded.cls.__module__]
    given = {
        "when": datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC),
        "amount": "0.50",
        "tone": "calm",
        "raw": b"\xff",
        "parts": [{"n": 1}],
        "many": [3],
        "anything": {"path": module.pathlib.PurePath("a/b"), "tone": module.Tone.CALM},
    }
    expected = {
        "when": "2026-01-02T00:00:00Z",
        "amount": "0.50",
        "tone": "calm",
        "raw": b"\xff",
        "parts": [{"n": 1}],
        "many": [3],
        "anything": {"path": "a/b", "tone": "calm"},
        "from": "x",
    }
    assert loaded.dump(loaded.cls.Output.model_validate(given)) == expected
    assert loaded.dump(given) == expected
    assert "from" in loaded.spec.output_schema["properties"]


def test_an_output_that_is_none_is_refused(project: Make, component: Component) -> None:
    loaded = load_component(find(project(components__shout=component("shout"))), project_root=project())
    for result, reason in [
        (None, "returned NoneType"),
        ({"txt": "x"}, "unknown field"),
        (loaded.cls.Output.model_construct(text=object()), "cannot be written"),
    ]:
        with pytest.raises(InvalidOutputError, match=reason):
            loaded.dump(result)
