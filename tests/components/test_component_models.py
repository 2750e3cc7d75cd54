"""What the Input and Output bases take and refuse."""

from __future__ import annotations

import datetime
import enum
from typing import Any

import pytest
from pydantic import ConfigDict, ValidationError

from flowmason import Field, NodeInput, NodeOutput


class Tone(enum.Enum):
    CALM = "calm-tone"
    LOUD = "loud-tone"


class Input(NodeInput):
    text: str = Field(default="", description="what to say")
    count: int = 0
    ratio: float = 0.0
    flag: bool = False
    day: datetime.date | None = None
    when: datetime.datetime | None = None
    tags: list[str] = []
    table: dict[str, int] | None = None
    tone: Tone = Tone.CALM
    either: str | list[str] = ""
    anything: Any = None


@pytest.mark.parametrize(
    ("field", "given", "expected"),
    [
        ("text", "  hi ", "hi"),
        ("count", "5", 5),
        ("ratio", "0.5", 0.5),
        ("flag", "true", True),
        ("day", "2026-01-31", datetime.date(2026, 1, 31)),
        ("when", "2026-01-31T10:00:00", datetime.datetime(2026, 1, 31, 10)),  # noqa: DTZ001
        ("tags", '["a", "b"]', ["a", "b"]),
        ("table", '{"a": 1}', {"a": 1}),
        ("tone", "LOUD", Tone.LOUD),
        ("tone", "loud-tone", Tone.LOUD),
        ("either", '["a"]', '["a"]'),  # text may be meant as text
        ("anything", '{"a": 1}', '{"a": 1}'),
    ],
)
def test_inputs_read_what_files_and_templates_give(field: str, given: Any, expected: Any) -> None:
    assert getattr(Input.model_validate({field: given}), field) == expected


@pytest.mark.parametrize("given", [{"count": "five"}, {"table": "{not json"}, {"tone": "QUIET"}, {"txt": "x"}])
def test_inputs_refuse_the_rest(given: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Input.model_validate(given)


def test_inputs_are_checked_when_assigned() -> None:
    item = Input()
    with pytest.raises(ValidationError):
        item.count = "many"  # type: ignore[assignment]


def test_a_subclass_reads_its_own_fields() -> None:
    Input.model_validate({"tags": "[]"})

    class More(Input):
        extra_list: list[int] = []

    assert More.model_validate({"extra_list": "[1]", "tags": '["x"]'}).extra_list == [1]


def test_inputs_describe_themselves() -> None:
    assert Input(text="x").to_dict()["text"] == "x"
    assert Input.get_schema()["additionalProperties"] is False
    assert Input.get_field_descriptions()["text"] == "what to say"


def test_outputs_are_closed_unless_the_author_opens_them() -> None:
    class Closed(NodeOutput):
        a: int

    class Open(NodeOutput):
        model_config = ConfigDict(extra="allow")
        a: int

    with pytest.raises(ValidationError):
        Closed.model_validate({"a": 1, "b": 2})
    assert Open.model_validate({"a": 1, "b": 2}).to_dict() == {"a": 1, "b": 2}
    assert Closed.get_schema()["additionalProperties"] is False
    assert Open.get_schema()["additionalProperties"] is True
