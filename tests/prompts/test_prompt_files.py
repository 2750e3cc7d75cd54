"""Prompt files: what is read from them, and where a wrong one is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from flowmason.document.prompts import load_prompt, parse_prompt
from flowmason.errors import RefusedError
from flowmason.project import PromptFolder

GOOD = """---
description: Shortens a text.
system: You edit {{ lower(tone) }} texts.
model: small
temperature: 0
variables:
  text: {type: string}
  tone: {type: string, default: Plain}
---

Summarise:

{{text}}
"""


def refused(text: str) -> tuple[str, int | None, int | None, str | None]:
    with pytest.raises(RefusedError) as caught:
        parse_prompt(text, "x", file="prompts/x.md")
    fault = caught.value.faults[0]
    assert fault.file == "prompts/x.md"
    return fault.reason, fault.line, fault.column, fault.nearest


def test_a_prompt_holds_its_texts_variables_and_hints() -> None:
    prompt = parse_prompt(GOOD, "summarise")
    assert prompt.hints == {"model": "small", "temperature": 0}
    assert set(prompt.variables) == {"text", "tone"}
    assert prompt.system is not None and prompt.description == "Shortens a text."


def test_line_ends_do_not_make_a_version_and_every_word_does() -> None:
    first = parse_prompt(GOOD, "x").digest
    assert parse_prompt(GOOD.replace("\n", "\r\n"), "x").digest == first
    assert parse_prompt(GOOD.replace("Summarise", "Shorten"), "x").digest != first


def test_a_file_without_front_matter_is_a_prompt_without_variables() -> None:
    assert parse_prompt("Say hello.\n", "x").variables == {}


def test_an_unknown_key_is_refused_with_its_place_and_the_nearest() -> None:
    reason, line, column, nearest = refused("---\ndescription: a\nsistem: b\n---\nhi\n")
    assert (line, column, nearest) == (3, 1, "system") and "sistem" in reason


def test_a_name_that_the_file_does_not_declare_is_refused_where_it_stands() -> None:
    reason, line, column, nearest = refused("---\nvariables:\n  text: {type: string}\n---\n\nSay\n  {{txt}}\n")
    assert (line, column, nearest) == (7, 5, "text") and "txt" in reason


def test_a_prompt_cannot_read_the_pipeline_around_it() -> None:
    reason, line, _, _ = refused("Say {{input.name}}\n")
    assert line == 1 and "variables alone" in reason


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("---\nvariables:\n  input: {type: string}\n---\nhi\n", 3, "means something else"),
        ("---\nvariables:\n  n: {type: integer, default: many}\n---\nhi\n", 3, "default"),
        ("---\nvariables:\n  n: {type: int}\n---\nhi\n", 3, "type must be"),
        ("---\ntemperature: 3\n---\nhi\n", 2, "2"),
        ("---\nname: y\n---\nhi\n", 2, "by its place"),
        ("---\ndescription: a\n", 1, "no end"),
        ("---\ndescription: a\n---\n", None, "says nothing"),
        ("---\nsystem: 'You {{are'\n---\nhi\n", 2, "are"),
    ],
)
def test_wrong_files_are_refused(text: str, line: int | None, words: str) -> None:
    reason, found, _, _ = refused(text)
    assert words in reason and (line is None or found == line)


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.md"
    path.write_bytes(b"hi\n\xff")
    with pytest.raises(RefusedError, match="not UTF-8"):
        load_prompt(path, "x")


def test_a_prompt_is_named_by_its_path(tmp_path: Path) -> None:
    for name in ("a.md", "team/b.md", ".hidden/c.md", "team/.d.md", "e.txt"):
        (tmp_path / "prompts" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "prompts" / name).write_text("hi")
    folder = PromptFolder(tmp_path)
    assert list(folder) == ["a", "team/b"] and folder["team/b"].name == "team/b"
