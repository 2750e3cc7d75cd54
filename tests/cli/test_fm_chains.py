"""A chain of providers in `flowmason.json`: refused where it is wrong, told where it was used."""

from __future__ import annotations

import json
import socket
from typing import Any

from fm_project import Fm, Project

LINE = {
    "name": "line",
    "version": "1.0.0",
    "stages": [{"id": "one", "component_type": "generator", "config": {"prompt": "one two three"}}],
}


def configured(project: Project, providers: dict[str, Any]) -> Project:
    manifest = project.root / "flowmason.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "providers": providers}))
    project.pipeline(LINE)
    return project


def test_a_run_tells_who_answered_and_why_the_first_did_not(project: Project, fm: Fm) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # nobody listens there
        away = {"base_url": f"http://127.0.0.1:{closed.getsockname()[1]}/v1", "model": "m"}
        configured(project, {"default": "main", "main": {"chain": ["away", "mock"]}, "away": away})
        answer = fm("run", "line", "--json")
    assert answer.code == 0, answer
    lines = [(each["provider"], each["end"], each.get("failure")) for each in answer.json["models"]]
    assert lines == [("away", "failed", "CONNECTIVITY"), ("mock", "answered", None)]
    assert answer.json["stages"]["one"]["models"] == answer.json["models"]
    shown = fm("runs", "show", answer.json["run_id"])
    assert "mock/mock-1 answered; away/m failed (CONNECTIVITY)" in shown.out


def test_a_wrong_chain_is_refused_with_its_place(project: Project, fm: Fm) -> None:
    chains = {
        "main": {"chain": ["mock", "antropic"], "model": "m"},
        "openai": {"chain": ["mock"]},
        "ring": {"chain": ["main"]},
    }
    configured(project, chains)
    answer = fm("run", "line")
    assert answer.code == 2, answer
    for place in (
        "$.providers.main.model",
        "$.providers.main.chain[1]",
        "$.providers.openai",
        "$.providers.ring.chain[0]",
    ):
        assert place in answer.err, answer.err
    assert "did you mean 'anthropic'?" in answer.err
