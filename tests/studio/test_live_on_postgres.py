"""Debugging, sockets, why and statistics on PostgreSQL, where the API sees through row-level security."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from flowmason.studio.identity.permissions import Role
from flowmason.studio.roles import ensure_api_role
from flowmason.studio.scope import StudioStore
from studio.conducting import awaited, conducting, hello
from studio.kit import settings_in, studio_in


@pytest.mark.postgres
def test_a_run_is_debugged_followed_explained_and_counted(postgres_url: str, tmp_path: Path) -> None:
    settings = msgspec.structs.replace(settings_in(tmp_path), database_url=postgres_url)
    StudioStore.open(postgres_url).close()
    ensure_api_role(postgres_url)
    with studio_in(tmp_path, settings) as studio:
        studio.services.beats.watch_s = 0.1
        body = {"pipeline": hello(), "breakpoints": [{"stage": "greet"}]}
        headers = studio.headers(Role.DEVELOPER)

        def why(run: str) -> str:
            found = studio.client.get(f"/api/v1/runs/{run}/why", headers=headers)
            assert found.status_code == 200, found.text
            return str(found.json()["causes"][0]["code"])

        answer = studio.client.post("/api/v1/debug/run", json=body, headers=headers)
        assert answer.status_code == 202, answer.text
        run = answer.json()["id"]
        assert why(run) == "NO_CONDUCTOR"
        with (
            studio.client.websocket_connect("/api/v1/ws/runs", headers=headers) as session,
            conducting(settings),
        ):
            awaited(studio, run, {"paused"})
            assert why(run) == "PAUSED"
            session.send_text(json.dumps({"type": "subscribe", "run_id": run}))
            session.send_text(json.dumps({"type": "continue", "run_id": run}))
            seqs, message = [], session.receive_json()
            while message["type"] != "end":
                assert message["type"] != "error", message
                if message["type"] == "event":
                    seqs.append(message["seq"])
                message = session.receive_json()
        assert seqs == list(range(1, message["seq"] + 1)) and message["status"] == "completed"
        assert why(run) == "ENDED"
        assert studio.client.get("/api/v1/stats", headers=headers).json()["runs"] == {"completed": 1}
        others = studio.other_headers()
        assert studio.client.get("/api/v1/stats", headers=others).json()["runs"] == {}
        assert studio.client.get(f"/api/v1/runs/{run}/debug/state", headers=others).status_code == 404
