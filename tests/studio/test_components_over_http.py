"""Components and uploaded packages over HTTP: checked whole, named by the org's pipelines alone, never imported."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from flowmason.errors import RefusedError
from flowmason.package import pack_bytes
from flowmason.project import PromptFolder, load_project
from studio.conducting import conducting, ended, made, started
from studio.kit import Studio

BASE = "/api/v1/registry"
SOURCE = """
from flowmason import Field, OperatorInput, OperatorOutput, operator


@operator(name="shout", category="text", description="Louder.")
class Shout:
    class Input(OperatorInput):
        text: str = Field(description="What")

    class Output(OperatorOutput):
        text: str

    async def execute(self, input, context):
        return self.Output(text=input.text.upper())
"""


@pytest.fixture
def package(tmp_path: Path) -> bytes:
    root = tmp_path / "project"
    (root / "components").mkdir(parents=True)
    (root / "flowmason.json").write_text('{"name": "loud", "version": "1.2.0"}')
    (root / "components" / "shout.py").write_text(SOURCE)
    return pack_bytes(load_project(root))


def _upload(studio: Studio, data: bytes) -> Any:
    return studio.client.post(f"{BASE}/deploy", files={"file": ("loud.fmpkg", data)}, headers=studio.headers())


def test_an_uploaded_package_can_be_named_by_pipelines_of_its_org_alone(studio: Studio, package: bytes) -> None:
    answer = _upload(studio, package)
    assert answer.status_code == 201 and answer.json()["components"] == ["shout"], answer.text
    assert _upload(studio, package).json()["id"] == answer.json()["id"]
    stage = {"id": "a", "component_type": "shout", "config": {"text": "x"}}
    body = {"pipeline": {"name": "p", "stages": [stage]}}
    check = "/api/v1/pipelines/validate-inline"
    assert studio.client.post(check, json=body, headers=studio.headers()).json()["valid"]
    other = studio.client.post(check, json=body, headers=studio.other_headers()).json()
    assert not other["valid"] and other["faults"][0]["code"] == "COMPONENT_MISSING"
    detail = studio.client.get(f"{BASE}/components/shout", headers=studio.headers()).json()
    assert detail["package"] == "loud@1.2.0" and detail["versions"] == ["1.0.0"]
    assert studio.client.delete(f"{BASE}/components/shout", headers=studio.headers()).status_code == 204
    assert not studio.client.post(check, json=body, headers=studio.headers()).json()["valid"]


@pytest.mark.parametrize("garbage", [b"", b"PK\x03\x04", b"no zip at all", bytes(1000)])
def test_what_is_no_package_is_refused(studio: Studio, garbage: bytes) -> None:
    assert _upload(studio, garbage).status_code == 422


def test_a_package_that_was_changed_is_refused(studio: Studio, package: bytes) -> None:
    broken = package.replace(b"Louder.", b"Lauder.", 1)
    assert _upload(studio, broken).status_code == 422


def test_components_are_listed_page_by_page(studio: Studio) -> None:
    names: list[str] = []
    cursor = None
    while True:
        query = {"limit": "4", **({"cursor": cursor} if cursor else {})}
        page = studio.client.get(f"{BASE}/components", params=query, headers=studio.headers()).json()
        names += [item["name"] for item in page["items"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert names == sorted(set(names)) and {"http_request", "foreach", "generator"} <= set(names)
    built_in = studio.client.delete(f"{BASE}/components/filter", headers=studio.headers())
    assert built_in.status_code == 409
    assert studio.client.get(f"{BASE}/components/http_requst", headers=studio.headers()).status_code == 404


def test_prompts_of_a_package_are_there_for_pipelines_of_its_org_alone(studio: Studio, tmp_path: Path) -> None:
    root = tmp_path / "texts"
    (root / "prompts" / "team").mkdir(parents=True)
    (root / "flowmason.json").write_text('{"name": "texts", "version": "1.0.0"}')
    file = root / "prompts" / "team" / "greet.md"
    file.write_text("---\nvariables: {name: {type: string}}\n---\nGreet {{name}}.\n")
    prompt = {"$prompt": "team/greet", "variables": {"name": "{{input.who}}"}}
    body = {
        "pipeline": {"name": "p", "stages": [{"id": "a", "component_type": "generator", "config": {"prompt": prompt}}]}
    }
    check = "/api/v1/pipelines/validate-inline"

    def faults(headers: dict[str, str]) -> list[dict[str, Any]]:
        return list(studio.client.post(check, json=body, headers=headers).json()["faults"])

    assert "no prompt 'team/greet'" in faults(studio.headers())[0]["reason"]
    assert _upload(studio, pack_bytes(load_project(root))).status_code == 201
    assert faults(studio.headers()) == []
    assert "no prompt 'team/greet'" in faults(studio.other_headers())[0]["reason"]
    prompt["variables"] = {"nam": "x"}
    assert [fault["nearest"] for fault in faults(studio.headers())] == ["name"]


def test_a_faulty_prompt_is_not_packed(tmp_path: Path) -> None:
    (tmp_path / "prompts").mkdir()
    (tmp_path / "flowmason.json").write_text('{"name": "texts"}')
    (tmp_path / "prompts" / "greet.md").write_text("Greet {{name}}.\n")
    with pytest.raises(RefusedError) as caught:
        pack_bytes(load_project(tmp_path))
    assert (caught.value.faults[0].line, caught.value.faults[0].column) == (1, 9)


def test_a_run_names_the_version_of_the_prompt_that_it_used(studio: Studio, tmp_path: Path) -> None:
    (tmp_path / "prompts").mkdir()
    (tmp_path / "flowmason.json").write_text('{"name": "texts"}')
    (tmp_path / "prompts" / "greet.md").write_text("Greet everybody.\n")
    project = load_project(tmp_path)
    assert _upload(studio, pack_bytes(project)).status_code == 201
    stage = {"id": "a", "component_type": "generator", "config": {"prompt": {"$prompt": "greet"}}}
    stage["llm_settings"] = {"provider": "mock"}
    run = started(studio, made(studio, {"name": "p", "stages": [stage]})["id"], {})
    with conducting(studio.services.settings):
        done = ended(studio, run["id"])
    assert done["status"] == "completed" and "Greet everybody." in done["stages"]["a"]["output"]["content"], done
    assert done["prompts"] == {"greet": PromptFolder(tmp_path)["greet"].digest}


def test_faults_of_shape_and_of_meaning_are_told_at_once(studio: Studio) -> None:
    """Also of a pipeline that extends one which is not there."""
    check = "/api/v1/pipelines/validate-inline"
    stages: list[dict[str, Any]] = [
        {"id": "a", "component_type": "logger", "timeout_ms": 1, "config": {"message": "x"}},
        {"id": "b", "component_type": "loger", "config": {"message": "{{upstream.a.messag}}"}},
    ]
    text = json.dumps({"name": "p", "stages": stages}, indent=1)
    for body in ({"pipeline": json.loads(text)}, {"text": text}):
        told = studio.client.post(check, json=body, headers=studio.headers()).json()
        assert [fault["pointer"] for fault in told["faults"]][-2:] == [
            "$.stages[1].component_type",
            "$.stages[1].config.message",
        ]
        assert told["faults"][0]["pointer"] == "$.stages[0].timeout_ms" and len(told["faults"]) == 3
    stages[0].pop("timeout_ms")
    body = {"pipeline": {"name": "p", "extends": "none", "stages": stages}}
    told = studio.client.post(check, json=body, headers=studio.headers()).json()
    assert [fault["pointer"] for fault in told["faults"]] == [
        "$.extends",
        "$.stages[1].component_type",
        "$.stages[1].config.message",
    ]
