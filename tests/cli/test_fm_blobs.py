"""Files go in as blobs, components read them and make new ones."""

from __future__ import annotations

from typing import Any

from fm_project import Project

COMPONENTS = """
from typing import Any
from flowmason import operator, OperatorInput, OperatorOutput

@operator(name="shout_file", description="The text of a file, in capitals.", category="test")
class ShoutFile:
    class Input(OperatorInput):
        doc: dict[str, Any]

    class Output(OperatorOutput):
        text: str
        copy_of: dict[str, Any]

    async def execute(self, input, context):
        text = context.read_blob(input.doc).decode()
        return self.Output(text=text, copy_of=context.make_blob(text.upper().encode(), "text/plain"))
"""


def document(value: Any) -> dict[str, Any]:
    return {
        "name": "blobs",
        "stages": [
            {"id": "first", "component": "shout_file", "config": {"doc": value}},
            {"id": "second", "component": "shout_file", "config": {"doc": "{{upstream.first.copy_of}}"}},
        ],
        "output_stage_id": "second",
    }


def test_a_component_reads_a_file_and_hands_a_new_one_on(project: Project, fm: Any) -> None:
    project.write("components/shout.py", COMPONENTS)
    project.pipeline(document("{{input.doc}}"))
    (project.root / "note.txt").write_text("quiet words")
    found = fm("run", "blobs", "--set", "doc=@note.txt", "--json").json
    assert found["status"] == "completed"
    assert found["output"]["text"] == "QUIET WORDS"
    assert found["stages"]["first"]["output"]["copy_of"]["size"] == len("QUIET WORDS")


def test_what_is_no_blob_is_refused_with_help(project: Project, fm: Any) -> None:
    project.write("components/shout.py", COMPONENTS)
    project.pipeline(document({"no": "blob"}))
    found = fm("run", "blobs", "--json").json
    assert found["error"]["code"] == "INVALID_INPUT"
    assert "--set" in found["error"]["help"]
