"""`fm run`: what it prints where, and how it ends."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fm_project import ORDERS, Fm, Project, nap_chain

pytestmark = pytest.mark.wheel

TOP = ["run_id", "pipeline", "version", "status", "output", "error", "stages", "usage", "executor"]
STAGE = {"status", "attempts", "started_at", "finished_at", "duration_ms", "output"}


def test_the_output_goes_to_stdout_and_all_else_to_stderr(project: Project, fm: Fm) -> None:
    answer = fm("run", "orders")
    assert answer.code == 0, answer
    assert answer.json["result"] == {
        "big": [{"id": 2, "total": 50}],
        "lines": [
            {"fields_mapped": 1, "fields_missing": [], "result": {"n": 1}},
            {"fields_mapped": 1, "fields_missing": [], "result": {"n": 2}},
        ],
        "city": "Bonn",
    }
    assert "completed · run_" in answer.err
    assert "✓ each" in answer.err


def test_json_is_one_object_with_the_stages_in_file_order(project: Project, fm: Fm) -> None:
    found = fm("run", "orders", "--json").json
    assert list(found) == TOP
    assert (found["pipeline"], found["version"], found["status"]) == ("orders", "1.2.0", "completed")
    assert found["executor"] == "local"
    assert list(found["stages"]) == ["big", "each", "end"]
    for stage in found["stages"].values():
        assert set(stage) == STAGE
        assert stage["status"] == "completed"
        assert stage["attempts"] == 1
        assert stage["started_at"].endswith("Z")
        assert stage["duration_ms"] >= 0
    assert found["usage"]["total_tokens"] == 0
    assert found["output"] == found["stages"]["end"]["output"]
    assert found["error"] is None


def test_items_lists_the_stages_inside_a_foreach(project: Project, fm: Fm) -> None:
    found = fm("run", "orders", "--json", "--items").json
    assert list(found["stages"]) == ["big", "each", "each[0].line", "each[1].line", "end"]
    assert found["stages"]["each[1].line"]["output"]["result"] == {"n": 2}


def test_a_failed_run_exits_1_and_tells_why_without_a_traceback(project: Project, fm: Fm) -> None:
    project.pipeline(
        {
            "name": "broken",
            "stages": [
                {"id": "ok", "component_type": "nap", "config": {"value": "a"}},
                {
                    "id": "bad",
                    "component_type": "needs_file",
                    "config": {"path": "x", "after": "{{upstream.ok.value}}"},
                },
            ],
        }
    )
    answer = fm("run", "broken")
    assert answer.code == 1
    assert answer.out == ""
    assert "[FILE_MISSING] bad: the file is not there" in answer.err
    assert "fm resume run_" in answer.err
    assert "Traceback" not in answer.err
    found = fm("run", "broken", "--json").json
    assert (found["status"], found["error"]["code"], found["error"]["stage"]) == ("failed", "FILE_MISSING", "bad")
    assert found["stages"]["ok"]["status"] == "completed"
    assert found["stages"]["bad"]["error"]["code"] == "FILE_MISSING"


def test_a_refused_file_exits_2_with_every_fault_in_its_place(project: Project, fm: Fm) -> None:
    wrong: Any = json.loads(json.dumps(ORDERS))
    wrong["name"] = "wrong"
    wrong["stages"][0]["component_type"] = "fliter"
    wrong["stages"][3]["config"]["data"]["city"] = "{{input.shpo.city}}"
    path = project.pipeline(wrong)
    answer = fm("run", "wrong")
    assert answer.code == 2
    line = 1 + path.read_text().splitlines().index('      "component_type": "fliter",')
    assert f"pipelines/wrong.pipeline.json:{line}:" in answer.err
    assert "did you mean 'filter'?" in answer.err
    assert "did you mean 'shop'?" in answer.err
    found = fm("run", "wrong", "--json")
    assert found.code == 2
    assert list(found.json) == TOP
    assert found.json["run_id"] is None
    assert len(found.json["error"]["details"]["faults"]) == 2


@pytest.mark.parametrize(
    ("args", "reason"),
    [
        (["orderz"], "did you mean 'orders'?"),
        (["orders", "--input", "[1]"], "--input must be a JSON object"),
        (["orders", "--input", "{"], "--input is not JSON"),
        (["orders", "--input", '{"orders": [], "orders": [1]}'], "the key 'orders' is given twice (line 1, column 16)"),
        (["orders", "--input", '{"orders": [1e999]}'], "the number is too large"),
        (["orders", "--input", '{"orders": ' + "[" * 50_000 + "]" * 50_000 + "}"], "nested deeper than 64 levels"),
        (["orders", "--set", "orders=" + "[" * 50_000 + "]" * 50_000], "nested deeper than 64 levels"),
        (["orders", "--set", 'orders={"a": 1, "a": 2}'], "--set orders is not JSON that can be read: the key 'a'"),
        (["orders", "--set", "orders=12"], "expected array"),
        (["orders", "--on", "locl"], "did you mean 'local'?"),
        (["orders", "--nope"], "No such option"),
        (["orders", "--set", "doc=@missing.pdf"], "cannot read missing.pdf"),
    ],
)
def test_wrong_usage_exits_2(project: Project, fm: Fm, args: list[str], reason: str) -> None:
    answer = fm("run", *args)
    assert answer.code == 2, answer
    assert reason in answer.err
    assert answer.out == ""


def test_the_input_comes_from_flags_before_the_file_before_the_sample(project: Project, fm: Fm) -> None:
    project.write("in.yaml", "orders:\n  - {id: 7, total: 70}\n")
    assert fm("run", "orders", "-f", "in.yaml").json["result"]["big"] == [{"id": 7, "total": 70}]
    given = fm("run", "orders", "-i", '{"orders": []}', "-f", "in.yaml", "--sample").json
    assert given["result"]["lines"] == []
    piped = fm("run", "orders", "-f", "-", input='{"orders": [{"id": 9, "total": 90}]}')
    assert piped.json["result"]["big"] == [{"id": 9, "total": 90}]


def test_set_changes_single_fields_as_json_or_text(project: Project, fm: Fm) -> None:
    answer = fm("run", "orders", "--sample", "--set", "shop.city=Köln", "--set", "orders.0.total=99")
    assert answer.json["result"]["city"] == "Köln"
    assert [order["total"] for order in answer.json["result"]["big"]] == [99, 50]


def test_a_file_becomes_a_blob_that_can_be_looked_up(project: Project, fm: Fm) -> None:
    data = b"%PDF-1.7 not really"
    (project.root / "scan.pdf").write_bytes(data)
    project.pipeline(
        {
            "name": "doc",
            "stages": [{"id": "same", "component_type": "json_transform", "config": {"data": "{{input.doc}}"}}],
        }
    )
    found = fm("run", "doc", "--set", "doc=@scan.pdf").json["result"]
    digest = "sha256:" + hashlib.sha256(data).hexdigest()
    assert found == {"$blob": digest, "type": "application/pdf", "size": len(data)}
    from flowmason.ids import LOCAL_ORG, Digest
    from flowmason.values_fs import open_values

    assert open_values(str(project.root / ".flowmason" / "values")).get(LOCAL_ORG, Digest(digest)) == data


def test_large_outputs_appear_as_blobs_in_json(project: Project, fm: Fm) -> None:
    project.pipeline(
        {"name": "big", "stages": [{"id": "make", "component_type": "large", "config": {"size": 100_000}}]}
    )
    found = fm("run", "big", "--json").json
    assert found["output"]["type"] == "application/msgpack"
    assert found["output"]["size"] > 100_000
    assert found["output"] == found["stages"]["make"]["output"]
    assert len(fm("run", "big").json["text"]) == 100_000


def test_the_mock_provider_answers_where_it_is_asked_for(project: Project, fm: Fm) -> None:
    project.pipeline(
        {
            "name": "write",
            "stages": [{"id": "words", "component_type": "generator", "config": {"prompt": "Say hello."}}],
        }
    )
    found = fm("run", "write", "--provider", "mock", "--json").json
    assert found["status"] == "completed"
    assert found["output"]["content"]
    assert found["usage"]["calls"] == 1
    assert found["usage"]["provider"] == "mock"


def test_a_timeout_cancels_the_run(project: Project, fm: Fm, tmp_path: Path) -> None:
    project.pipeline(nap_chain(tmp_path / "mark", seconds=30))
    answer = fm("run", "naps", "--timeout", "0.5", "--json")
    assert answer.code == 3, answer
    assert answer.json["status"] == "cancelled"
    assert answer.json["stages"]["first"]["status"] == "completed"
    assert answer.json["stages"]["third"]["status"] == "cancelled"
    assert "third" not in (tmp_path / "mark").read_text()


def test_quiet_says_nothing_but_the_output(project: Project, fm: Fm) -> None:
    answer = fm("run", "orders", "--quiet")
    assert answer.err == ""
    assert answer.json["result"]["city"] == "Bonn"


def test_without_ray_it_exits_4_and_names_the_extra(project: Project) -> None:
    script = "import sys; sys.modules['ray'] = None; from flowmason.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", script, "run", "orders", "--on", "ray", "--json"],
        cwd=project.root,
        env=project.environ,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 4, done.stderr
    assert "flowmason[ray]" in done.stderr
    assert "--on local" in done.stderr
    assert json.loads(done.stdout)["error"]["code"] == "ENGINE_UNAVAILABLE"
    assert not (project.root / ".flowmason" / "flowmason.db").exists()


def test_a_broken_component_file_warns_where_it_is_not_needed_and_is_named_where_it_is(
    project: Project, fm: Fm
) -> None:
    project.write("components/broken.py", "import flowmasn\n")
    answer = fm("run", "orders")
    assert answer.code == 0
    assert "components/broken.py" in answer.err
    project.pipeline({"name": "lost", "stages": [{"id": "a", "component_type": "gone_component", "config": {}}]})
    answer = fm("run", "lost")
    assert answer.code == 2
    assert "No module named 'flowmasn'" in answer.err


def test_set_alone_tells_how_to_start_from_the_sample(project: Project, fm: Fm) -> None:
    answer = fm("run", "orders", "--set", "limit=3")
    assert answer.code == 2
    assert "the field 'orders' is missing" in answer.err and "add --sample" in answer.err
    assert "add --sample" in fm("run", "orders", "--set", "limit=3", "--json").json["error"]["help"]
    assert fm("run", "orders", "--sample", "--set", "limit=3").code == 0
    assert "--sample" not in fm("run", "orders", "-i", "{}").err


def test_an_asynchronous_sub_pipeline_runs_to_its_end_too(project: Project, fm: Fm, tmp_path: Path) -> None:
    project.pipeline(nap_chain(tmp_path / "mark", name="child"))
    project.pipeline(
        {
            "name": "parent",
            "stages": [
                {
                    "id": "start",
                    "component_type": "subpipeline",
                    "config": {"pipeline_id": "child", "async_execution": True},
                }
            ],
        }
    )
    found = fm("run", "parent", "--json").json
    child = found["output"]["run_id"]
    assert found["status"] == "completed"
    shown = fm("runs", "show", child, "--json").json
    assert (shown["status"], shown["parent"]) == ("completed", found["run_id"])
    assert f"called by {found['run_id']}" in fm("runs", "show", child).out
    assert {row["run_id"]: row["parent"] for row in fm("runs", "list", "--json").json["items"]} == {
        found["run_id"]: None,
        child: found["run_id"],
    }
    assert "PARENT" in fm("runs", "list").out
    # Pure stages may run more than once before they are recorded, so only which ones ran counts.
    assert set((tmp_path / "mark").read_text().split()) == {"first", "second", "third"}


def test_what_components_print_does_not_spoil_the_answer(project: Project) -> None:
    project.write(
        "components/chatty.py",
        """
import os
from flowmason import Context, OperatorInput, OperatorOutput, operator


@operator(name="chatty", category="test", description="Prints in every way there is.")
class Chatty:
    class Input(OperatorInput):
        pass

    class Output(OperatorOutput):
        done: bool = True

    async def execute(self, input: Input, context: Context) -> Output:
        print("printed")
        os.system("echo echoed")
        return self.Output()
""",
    )
    project.pipeline({"name": "talk", "stages": [{"id": "a", "component_type": "chatty", "config": {}}]})
    process = project.start("run", "talk", "--on", "local", "--json")
    out, err = process.communicate(timeout=20)
    assert json.loads(out)["output"] == {"done": True}
    assert "printed" in err
    assert "echoed" in err


def test_a_run_that_the_journal_gives_up_is_told_to_be_resumable(
    project: Project, fm: Fm, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flowmason.errors import JournalError
    from flowmason.journal_sql import SqlJournal

    async def refuse(self: SqlJournal, append: Any) -> int:
        raise JournalError("the disk is full", code="DISK_FULL")

    monkeypatch.setattr(SqlJournal, "append", refuse)
    answer = fm("run", "orders", "--json")
    assert answer.code == 130, answer
    assert answer.json["run_id"].startswith("run_")
    assert answer.json["error"]["code"] == "DISK_FULL"
    monkeypatch.undo()
    resumed = subprocess.run(
        [sys.executable, "-c", "from flowmason.cli import main; main()", "resume", answer.json["run_id"], "--json"],
        cwd=project.root,
        env=project.environ,
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(resumed.stdout)["status"] == "completed"


def test_another_folder_can_be_named(project: Project, fm: Fm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project.root.parent)
    assert fm("run", "orders").code == 2
    monkeypatch.chdir(project.root.parent)
    assert fm("-C", "shop", "run", "orders").code == 0
    assert fm("-C", "nowhere", "run", "orders").code == 2


async def test_several_machines_need_stores_that_all_of_them_reach(project: Project) -> None:
    from flowmason.assembly.engine import open_stores, refuse_unshared
    from flowmason.errors import EngineUnavailableError
    from flowmason.executor_local import LocalExecutor

    class Spread(LocalExecutor):
        name = "spread"
        nodes = 2

    def never() -> Any:
        raise AssertionError

    stores = open_stores(project.root)
    try:
        refuse_unshared(LocalExecutor(never), stores)
        with pytest.raises(EngineUnavailableError, match="2 machines") as refused:
            refuse_unshared(Spread(never), stores)
        assert "DATABASE_URL" in str(refused.value.failure.help)
        assert "FLOWMASON_VALUES_URL" in str(refused.value.failure.help)
    finally:
        await stores.close()


@pytest.mark.parametrize("seconds", ["inf", "nan", "0", "-1", "soon"])
def test_a_timeout_is_a_number_of_seconds(project: Project, fm: Fm, seconds: str) -> None:
    for command in (("run", "orders"), ("resume", "some-run")):
        answer = fm(*command, "--timeout", seconds)
        assert answer.code == 2 and "--timeout" in answer.err, answer
