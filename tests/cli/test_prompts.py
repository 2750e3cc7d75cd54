"""`fm prompts`: what there is, and what changed since a run."""

from __future__ import annotations

import pytest

from fm_project import Fm, Project

PROMPT = """---
description: Greets.
variables:
  name: {type: string}
---
Say hello to {{name}}.
"""
PIPELINE = {
    "name": "greet",
    "stages": [
        {
            "id": "say",
            "component_type": "generator",
            "config": {"prompt": {"$prompt": "hello", "variables": {"name": "{{input.who}}"}}},
        }
    ],
}


@pytest.fixture
def greeting(project: Project) -> Project:
    project.write("prompts/hello.md", PROMPT)
    project.pipeline(PIPELINE)
    return project


def test_a_run_tells_which_version_it_used_and_what_changed_since(greeting: Project, fm: Fm) -> None:
    ran = fm("run", "greet", "-i", '{"who": "Ada"}', "--provider", "mock", "--json").json
    listed = fm("prompts", "list", "--json").json["items"]
    assert [(item["name"], item["description"]) for item in listed] == [("hello", "Greets.")]
    assert ran["prompts"] == {"hello": listed[0]["digest"]}
    assert "Say hello to Ada." in ran["output"]["content"]
    shown = fm("runs", "show", ran["run_id"])
    assert f"prompt hello@{listed[0]['digest']}" in shown.out

    assert fm("prompts", "diff", f"hello@{ran['run_id']}").code == 0
    greeting.write("prompts/hello.md", PROMPT.replace("Say hello", "Say good morning"))
    changed = fm("prompts", "diff", f"hello@{ran['run_id']}")
    assert changed.code == 1 and "Say [-hello-]{+good morning+} to {{name}}." in changed.out
    old = fm("prompts", "show", f"hello@{ran['run_id']}", "--json").json
    assert old["text"] == PROMPT and old["digest"] == listed[0]["digest"]
    assert fm("prompts", "diff", f"hello@{ran['run_id']}", "--json").json["changes"] == [
        {"old": "hello", "new": "good morning"}
    ]


def test_two_files_are_compared(greeting: Project, fm: Fm) -> None:
    greeting.write("drafts/hello.v2.md", PROMPT.replace("Greets", "Welcomes"))
    answer = fm("prompts", "diff", "hello", "drafts/hello.v2.md")
    assert answer.code == 1 and "[-Greets-]{+Welcomes+}" in answer.out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("show", "helo"), "did you mean 'hello'"),
        (("diff", "hello"), "nothing to compare"),
        (("show", "hello@run_nope"), "run_nope"),
    ],
)
def test_what_is_not_there_is_refused_by_name(
    greeting: Project, fm: Fm, arguments: tuple[str, ...], words: str
) -> None:
    answer = fm("prompts", *arguments)
    assert answer.code == 2 and words in answer.err


def test_a_faulty_prompt_is_told_with_its_place(greeting: Project, fm: Fm) -> None:
    greeting.write("prompts/bad.md", "Say {{nothing}}\n")
    answer = fm("prompts", "list")
    assert answer.code == 2 and "prompts/bad.md:1:7" in answer.err and "hello" in answer.out
    checked = fm("validate")
    assert checked.code == 2 and "prompts/bad.md:1:7" in checked.err + checked.out
