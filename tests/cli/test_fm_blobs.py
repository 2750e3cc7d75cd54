"""Files go in as blobs, components read them and make new ones."""

from __future__ import annotations

import json
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


def test_a_blob_that_is_not_there_is_refused_before_the_run_begins(project: Project, fm: Any) -> None:
    project.write("components/shout.py", COMPONENTS)
    project.pipeline(document("{{input.doc}}"))
    found = fm("run", "blobs", "--input", '{"doc": {"$blob": "sha256:%s"}}' % ("0" * 64))
    assert found.code == 2 and "refused $.input.doc\n  there is no blob" in found.err
    many = json.dumps({"docs": [{"$blob": f"sha256:{n:064}"} for n in range(1001)]})
    found = fm("run", "blobs", "--input", many)
    assert found.code == 2 and "the input names 1001 blobs; 1000 are possible" in found.err
    assert fm("runs", "list", "--json").json["items"] == []
