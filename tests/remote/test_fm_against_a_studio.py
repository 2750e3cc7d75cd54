"""Signing in, deploying, pulling, and running by name."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx2
import pytest

from flowmason.ids import sha256
from flowmason.studio import schema
from flowmason.studio.identity.permissions import Role
from fm_project import COMPONENTS
from remote.conftest import Fm, greeting, write
from studio.kit import Studio


def _remote(studio: Studio, name: str = "greeting") -> dict[str, Any]:
    found: dict[str, Any] = studio.client.get(f"/api/v1/pipelines/by-name/{name}", headers=studio.headers()).json()
    return found


def _change(studio: Studio, **keys: Any) -> None:
    """Somebody else writes to the pipeline."""
    found = _remote(studio)
    answer = studio.client.put(
        f"/api/v1/pipelines/{found['id']}",
        json=keys,
        headers={**studio.headers(), "If-Match": f'"{found["revision"]}"'},
    )
    assert answer.status_code == 200, answer.text


def test_a_key_is_asked_about_before_it_is_kept_and_lies_where_nobody_else_reads_it(
    fm: Fm, url: str, tmp_path: Path, studio: Studio
) -> None:
    bad = fm("org", "login", "-a", "bad", "-u", url, "-k", "fm_live_wrong")
    assert bad.exit_code == 1 and "UNAUTHENTICATED" in bad.stderr
    listed = json.loads(fm("org", "list", "--json").stdout)["items"]
    assert [(each["alias"], each["default"]) for each in listed] == [("acme", True)]
    assert studio.keys[Role.DEVELOPER] not in fm("org", "list").output
    keys = tmp_path / "home" / "org-keys.json"
    assert stat.S_IMODE(keys.stat().st_mode) == 0o600
    me = json.loads(fm("auth", "whoami", "--json").stdout)
    assert (me["email"], me["role"]) == ("developer@acme.example", "developer")
    assert fm("org", "logout").exit_code == 0
    gone = fm("auth", "whoami")
    assert gone.exit_code == 2 and "fm org login" in gone.stderr


def test_a_studio_that_is_not_there_is_said_so(fm: Fm) -> None:
    down = fm("org", "login", "-a", "down", "-u", "http://127.0.0.1:9", "-k", "fm_live_x")
    assert down.exit_code == 4 and "does not answer" in down.stderr


def test_keys_are_made_and_ended(fm: Fm) -> None:
    made = fm("auth", "api-key", "create", "ci", "--scope", "read", "--json")
    key = json.loads(made.stdout)
    assert made.exit_code == 0 and key["api_key"].startswith("fm_live_")
    assert key["key_id"] in fm("auth", "api-key", "list").stdout
    rotated = fm("auth", "api-key", "rotate", key["key_id"])
    assert rotated.exit_code == 0 and rotated.stdout.startswith("fm_live_")
    assert fm("auth", "api-key", "revoke", key["key_id"], "-f", "-r", "left").exit_code == 0
    missing = fm("auth", "api-key", "revoke", "key_none", "-f")
    assert missing.exit_code == 1 and "NOT_FOUND" in missing.stderr
    denied = fm("auth", "audit-log")
    assert denied.exit_code == 1 and "FORBIDDEN" in denied.stderr


def test_a_project_is_deployed_once_and_its_changes_follow(fm: Fm, project: Path, studio: Studio) -> None:
    tried = fm("deploy", "--dry-run")
    assert tried.exit_code == 0 and "create" in tried.stderr
    assert studio.client.get("/api/v1/pipelines", headers=studio.headers()).json()["items"] == []
    assert fm("deploy").exit_code == 0
    again = json.loads(fm("deploy", "--json").stdout)
    assert [each["action"] for each in again["items"]] == ["same"]
    write(project, greeting(description="friendlier"))
    tried = fm("deploy", "--dry-run")
    assert "$.description" in tried.stderr and "friendlier" in tried.stderr
    assert fm("deploy", "greeting").exit_code == 0
    assert _remote(studio)["description"] == "friendlier"


def test_what_somebody_else_wrote_is_shown_and_left_alone(fm: Fm, project: Path, studio: Studio) -> None:
    assert fm("deploy").exit_code == 0
    _change(studio, description="of somebody else")
    write(project, greeting(description="mine"))
    conflict = fm("deploy")
    assert conflict.exit_code == 1
    assert "conflict" in conflict.stderr and "of somebody else" in conflict.stderr
    assert _remote(studio)["description"] == "of somebody else"
    assert fm("deploy", "--force").exit_code == 0
    assert _remote(studio)["description"] == "mine"


def test_the_projects_components_go_along_and_never_change_under_a_version(
    fm: Fm, project: Path, studio: Studio
) -> None:
    def packages() -> list[str]:
        found = studio.client.get("/api/v1/registry/packages", headers=studio.headers()).json()["items"]
        return [f"{each['name']}@{each['version']}" for each in found]

    def describe(version: str, text: str) -> None:
        described = {"name": "shop", "version": version, "description": text}
        (project / "flowmason.json").write_text(json.dumps(described))

    component = project / "components" / "own.py"
    component.parent.mkdir()
    component.write_text(COMPONENTS)
    describe("1.0.0", "first")
    write(project, greeting(name="own", stages=[{"id": "nap", "component_type": "nap", "config": {"value": "x"}}]))
    assert json.loads(fm("deploy", "--dry-run", "--json").stdout)["package"] == "shop@1.0.0"
    assert packages() == []
    done = fm("deploy", "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["package"] == "shop@1.0.0" and packages() == ["shop@1.0.0"]
    second = fm("deploy", "--json")
    assert second.exit_code == 0, second.output
    assert json.loads(second.stdout)["package"] is None
    write(
        project, greeting(name="own", stages=[{"id": "nap", "component_type": "nap", "config": {"value": "another"}}])
    )
    third = fm("deploy", "--json")  # a pipeline alone asks for no new version
    assert third.exit_code == 0, third.output
    assert {each["name"]: each["action"] for each in json.loads(third.stdout)["items"]} == {
        "greeting": "same", "own": "update"
    }  # fmt: skip
    component.write_text(COMPONENTS + "\n# changed\n")
    changed = fm("deploy")
    assert changed.exit_code == 2 and "new version" in changed.stderr
    describe("1.1.0", "second")
    again = fm("deploy")  # no pipeline has changed: the package goes there all the same
    assert again.exit_code == 0 and "uploaded shop@1.1.0" in again.stderr
    assert sorted(packages()) == ["shop@1.0.0", "shop@1.1.0"]


def test_one_that_is_refused_fails_the_deploy_and_the_others_arrive(fm: Fm, project: Path, studio: Studio) -> None:
    calls = {"id": "call", "component_type": "nothing_such", "config": {}}
    write(project, greeting(name="broken", stages=[calls]))
    caller = {
        "id": "sub",
        "component_type": "subpipeline",
        "config": {"pipeline_id": "greeting", "input_data": {}},
    }
    write(project, greeting(name="a_caller", stages=[caller]))
    done = fm("deploy", "--json")
    actions = {each["name"]: each["action"] for each in json.loads(done.stdout)["items"]}
    assert done.exit_code == 1
    assert actions == {"a_caller": "create", "broken": "failed", "greeting": "create"}


def test_a_pull_brings_the_very_same_document(fm: Fm, project: Path, studio: Studio, tmp_path: Path) -> None:
    assert fm("deploy").exit_code == 0
    (project / "pipelines" / "greeting.pipeline.json").unlink()
    assert fm("pull", "--dry-run").exit_code == 0
    assert not list((project / "pipelines").iterdir())
    assert fm("pull").exit_code == 0
    pulled = json.loads((project / "pipelines" / "greeting.pipeline.json").read_text())
    assert pulled == _remote(studio)["document"]
    assert json.loads(fm("deploy", "--json").stdout)["items"][0]["action"] == "same"


def test_a_pull_overwrites_no_work_of_ones_own(fm: Fm, project: Path, studio: Studio) -> None:
    assert fm("deploy").exit_code == 0
    file = write(project, greeting(description="mine"))
    _change(studio, description="theirs")
    conflict = fm("pull")
    assert conflict.exit_code == 1 and "conflict" in conflict.stderr
    assert json.loads(file.read_text())["description"] == "mine"
    assert fm("pull", "greeting", "--force").exit_code == 0
    assert json.loads(file.read_text())["description"] == "theirs"
    missing = fm("pull", "nothing")
    assert missing.exit_code == 1 and "NOT_FOUND" in missing.stderr


def test_a_run_by_name_is_shown_as_one_here_would_be(fm: Fm, project: Path) -> None:
    assert fm("deploy").exit_code == 0
    done = fm("run", "greeting", "--studio", "--set", "who=Ada")
    assert done.exit_code == 0, done.output
    assert "hello Ada" in done.stdout and "✓ greet" in done.stderr and "completed" in done.stderr
    result = json.loads(fm("run", "greeting@1.0.0", "--target-org", "acme", "--sample", "--json", "-q").stdout)
    assert result["status"] == "completed" and result["executor"] == "studio"
    assert result["stages"]["greet"]["status"] == "completed"
    assert set(result) == {
        "run_id", "pipeline", "version", "status", "output", "error", "stages", "usage", "executor"
    }  # fmt: skip


def test_a_run_that_fails_ends_with_one_and_a_wrong_one_with_two(fm: Fm, project: Path) -> None:
    stage = {
        "id": "check",
        "component_type": "schema_validate",
        "config": {"data": {"n": "{{input.who}}"}, "json_schema": {"type": "array"}, "strict": True},
    }
    write(project, greeting(name="failing", stages=[stage]))
    assert fm("deploy").exit_code == 0
    failed = fm("run", "failing", "--studio")
    assert failed.exit_code == 1 and "error" in failed.stderr
    assert fm("run", "greeting", "--studio", "-i", '{"who": 7}').exit_code == 2
    assert fm("run", "nothing", "--studio").exit_code == 2
    assert fm("run", "greeting", "--studio", "--items").exit_code == 2
    lost = fm("run", "greeting", "--studio", "--set", "who=@file")
    assert lost.exit_code == 2 and "cannot read file" in lost.stderr
    assert fm("run", "--studio").exit_code == 2


def test_files_go_along_with_the_input_of_a_run(fm: Fm, project: Path, studio: Studio) -> None:
    stage = {
        "id": "see",
        "component_type": "json_transform",
        "config": {"data": "{{input}}", "jmespath_expression": "@"},
    }
    write(project, greeting(name="filed", input_schema={"type": "object"}, stages=[stage]))
    assert fm("deploy").exit_code == 0
    scan = bytes(range(256)) * 1000
    (project / "scan.pdf").write_bytes(scan)
    done = fm("run", "filed", "--studio", "--json", "--set", "doc=@scan.pdf", "--set", "q=a=@b")
    assert done.exit_code == 0, done.output
    seen = json.loads(done.stdout)["output"]["result"]
    assert seen == {"doc": {"$blob": sha256(scan), "type": "application/pdf", "size": len(scan)}, "q": "a=@b"}
    assert studio.services.values.get(studio.org, sha256(scan)) == scan


def test_a_run_that_takes_too_long_is_cancelled(fm: Fm, project: Path, studio: Studio) -> None:
    assert fm("deploy").exit_code == 0
    with studio.services.store.scope(studio.org) as scope:
        # No run of the org has its turn.
        scope.add(schema.org_limits, max_concurrent_runs=0, max_queued_runs=None, weight=1)
    done = fm("run", "greeting", "--studio", "--timeout", "0.5")
    assert done.exit_code == 3, done.output
    assert "cancelling" in done.stderr and "cancelled" in done.stderr


def test_a_stream_that_breaks_is_taken_up_where_it_broke(
    fm: Fm, project: Path, monkeypatch: pytest.MonkeyPatch, url: str, studio: Studio
) -> None:
    from flowmason.remote import following
    from flowmason.remote.client import StudioClient

    assert fm("deploy").exit_code == 0
    run_id = json.loads(fm("run", "greeting", "--studio", "--json", "-q").stdout)["run_id"]
    opened = StudioClient.streamed
    broken: list[int] = []

    class Breaking:
        """Breaks after the second event."""

        def __init__(self, inner: Any) -> None:
            self._inner = inner

        def __enter__(self) -> Any:
            answer = self._inner.__enter__()
            lines = answer.iter_lines()

            def some() -> Any:
                for number, line in enumerate(lines):
                    if number == 7 and len(broken) < 2:
                        broken.append(number)
                        raise httpx2.ReadError("cut")
                    yield line

            answer.iter_lines = some
            return answer

        def __exit__(self, *error: Any) -> Any:
            return self._inner.__exit__(*error)

    monkeypatch.setattr(StudioClient, "streamed", lambda self, *a, **k: Breaking(opened(self, *a, **k)))
    # Of that module alone: a Studio whose threads do not sleep is kept busy by them.
    monkeypatch.setattr(following, "time", SimpleNamespace(sleep=lambda _: None))
    with StudioClient(url, studio.keys[Role.VIEWER]) as client:
        seqs = [told.data["seq"] for told in following.follow(client, run_id) if told.kind == "event"]
    assert broken and seqs == list(range(1, len(seqs) + 1))


def test_a_gate_that_holds_lets_a_pipeline_be_deployed(project: Path, fm: Fm, studio: Studio) -> None:
    case = {"id": "ada", "input": {"who": "Ada"}, "expected": "hello Ada"}
    (project / "cases.jsonl").write_text(json.dumps(case) + "\n")
    spec = {"pipeline": "greeting", "dataset": "cases.jsonl", "graders": [{"type": "exact", "of": "output.result"}]}
    (project / "greeting.eval.json").write_text(json.dumps({**spec, "gate": "pass_rate == 1"}))
    done = fm("deploy", "--gate", "greeting.eval.json", "--on", "local")
    assert done.exit_code == 0, done.output
    assert "gate greeting.eval.json: pass_rate == 1 holds" in done.output
    assert _remote(studio)["name"] == "greeting"


class Line:
    """What carries requests to the Studio, and may break."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.broken: list[str] = []
        self._carry = httpx2.HTTPTransport.handle_request
        self._before: set[str] = set()
        self._after: set[str] = set()
        self._gone = 1_000
        monkeypatch.setattr(
            httpx2.HTTPTransport, "handle_request", lambda inner, request: self._carried(inner, request)
        )

    def breaks(self, *, before: str = "", after: str = "") -> None:
        """The next requests of these methods break: before they arrive, or before they are answered."""
        self._before, self._after = set(before.split()), set(after.split())
        self.broken.clear()

    def ends_after(self, writes: int) -> None:
        """The Studio is gone after so many writes."""
        self._gone = writes

    def _carried(self, inner: httpx2.HTTPTransport, request: httpx2.Request) -> httpx2.Response:
        if request.method != "GET":
            self._gone -= 1
        if self._gone < 0:
            raise httpx2.ConnectError("refused")
        if request.method in self._before:
            self._before.remove(request.method)
            self.broken.append(request.method)
            raise httpx2.RemoteProtocolError("disconnected")
        answer = self._carry(inner, request)
        if request.method in self._after:
            self._after.remove(request.method)
            self.broken.append(request.method)
            answer.close()
            raise httpx2.ReadError("cut")
        return answer


def test_a_deploy_whose_answers_are_lost_writes_each_pipeline_once(
    fm: Fm, project: Path, studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = Line(monkeypatch)
    for number, (before, after) in enumerate([("GET POST", ""), ("GET PUT", ""), ("", "PUT"), ("PUT", "GET")]):
        write(project, greeting(description=f"take {number}"))
        line.breaks(before=before, after=after)
        done = fm("deploy")
        assert done.exit_code == 0, done.output
        assert sorted(line.broken) == sorted(f"{before} {after}".split())
        assert _remote(studio)["description"] == f"take {number}" and _remote(studio)["revision"] == number + 1
    write(project, {**greeting(), "name": "another"})
    line.breaks(after="POST")
    assert fm("deploy").exit_code == 0 and line.broken == ["POST"]
    assert len(studio.client.get("/api/v1/pipelines", headers=studio.headers()).json()["items"]) == 2


def test_what_a_deploy_wrote_before_the_studio_went_away_is_no_conflict_later(
    fm: Fm, project: Path, studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert fm("deploy").exit_code == 0
    write(project, greeting(description="changed"))
    write(project, {**greeting(), "name": "zebra"})
    line = Line(monkeypatch)
    line.ends_after(1)
    broken = fm("deploy")
    assert broken.exit_code == 4 and "does not answer" in broken.stderr
    line.ends_after(1_000)
    assert _remote(studio)["description"] == "changed"
    write(project, greeting(description="changed again"))
    assert fm("deploy").exit_code == 0
    assert _remote(studio)["description"] == "changed again" and _remote(studio, "zebra")
