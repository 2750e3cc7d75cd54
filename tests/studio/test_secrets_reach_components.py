"""A secret reaches the component that declares it, with its call, and is found nowhere afterwards."""

from __future__ import annotations

import asyncio
import base64
import logging
import os
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import msgspec
import pytest

from flowmason.package import install
from flowmason.studio.components import Catalogue
from flowmason.studio.secrets import org_secrets
from flowmason_actors.conductor_host import ConductorHost
from flowmason_serve_apps.studio import conductors
from studio.conducting import conducting, ended, made, started
from studio.kit import Studio
from studio.parrots import assert_nowhere, parrots, pipeline, upload

SECRET = 'sk-live-"quoted"-Zx81kPqLw0'
OPTIONS = {"providers": {"default": "mock", "mock": {}}}


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLOWMASON_MASTER_KEY", base64.b64encode(os.urandom(32)).decode())
    monkeypatch.setenv("FLOWMASON_SECRET_API_KEY", "of-the-operator-and-of-no-org")


@pytest.fixture(params=["uploaded", "installed"])
def birds(request: pytest.FixtureRequest, studio: Studio, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A conductor, and the components: of a package of the org's (in a sandbox), or of the server's (in the worker)."""
    home = tmp_path_factory.mktemp("home")
    data, packages = parrots(home), home / "packages"
    packages.mkdir()
    if request.param == "installed":
        (home / "p.fmpkg").write_bytes(data)
        install(home / "p.fmpkg", home)
        studio.services.catalogue = Catalogue(packages)
    else:
        upload(studio, data)
        upload(studio, data, studio.other_headers())
    secrets = org_secrets(studio.services.settings.database_url)
    with conducting(studio.services.settings, OPTIONS, packages=str(packages), secrets=secrets):
        yield


def put(studio: Studio, name: str = "api_key", value: str = SECRET) -> None:
    answer = studio.client.put(f"/api/v1/secrets/{name}", json={"value": value}, headers=studio.headers())
    assert answer.status_code == 200, answer.text


def ran(studio: Studio, component: str, **config: Any) -> tuple[dict[str, Any], str]:
    run_id = started(studio, made(studio, pipeline(component, **config))["id"])["id"]
    return ended(studio, run_id), run_id


def _logs(studio: Studio, run_id: str) -> str:
    """They are stored a moment after the run has ended."""
    for _ in range(100):
        answer = studio.client.get(f"/api/v1/runs/{run_id}/logs", headers=studio.headers())
        if answer.json()["items"]:
            break
        time.sleep(0.02)
    return answer.text


@pytest.mark.usefixtures("birds")
def test_it_is_used_and_stands_nowhere(
    studio: Studio, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    put(studio)
    run, run_id = ran(studio, "parrot", ask=True)
    assert run["status"] == "completed", run
    assert run["output"]["length"] == len(SECRET)
    assert run["output"]["value"] == {"key ***": ["***", {"in": "(***)"}]}
    assert "it is ***" in _logs(studio, run_id)
    assert_nowhere(studio, tmp_path, run_id, SECRET)
    assert SECRET not in caplog.text
    assert SECRET not in "".join(capfd.readouterr())


@pytest.mark.usefixtures("birds")
def test_it_stands_in_no_failure(studio: Studio, tmp_path: Path) -> None:
    put(studio)
    run, run_id = ran(studio, "parrot", fail=True)
    assert run["status"] == "failed" and "cannot go on with ***" in str(run), run
    assert_nowhere(studio, tmp_path, run_id, SECRET)


@pytest.mark.usefixtures("birds")
def test_what_the_org_has_not_set_nobody_else_lends(studio: Studio) -> None:
    other = {"value": SECRET}
    studio.client.put("/api/v1/secrets/api_key", json=other, headers=studio.other_headers()).raise_for_status()
    run, _ = ran(studio, "parrot")
    assert run["status"] == "failed"
    assert run["error"]["code"] == "SECRET_MISSING" and "fm secrets set" in run["error"]["help"], run
    assert "of-the-operator" not in str(run)


@pytest.mark.usefixtures("birds")
def test_a_component_that_does_not_declare_it_is_refused(studio: Studio) -> None:
    put(studio)
    run, _ = ran(studio, "nosy")
    assert run["status"] == "failed" and "declare" in run["error"]["message"]


@pytest.mark.parametrize("birds", ["uploaded"], indirect=True)
@pytest.mark.usefixtures("birds")
def test_an_uploaded_component_sees_neither_environment_nor_what_another_org_put(studio: Studio) -> None:
    put(studio)
    run, _ = ran(studio, "nosy", what="environment")
    assert run["status"] == "completed"
    found = str(run["output"])
    assert "FLOWMASON" not in found and "of-the-operator" not in found and SECRET not in found
    document = {**pipeline("nosy", what="put"), "name": "puts"}
    answer = studio.client.post("/api/v1/pipelines", json=document, headers=studio.other_headers())
    path = f"/api/v1/pipelines/{answer.json()['id']}/run"
    body = {"input": None, "async_mode": False}
    answer = studio.client.post(path, json=body, headers=studio.other_headers())
    assert answer.json()["status"] == "completed", answer.text
    document = {**pipeline("nosy", what="cache"), "name": "gets"}
    run_id = started(studio, made(studio, document)["id"])["id"]
    assert ended(studio, run_id)["output"] == {"value": None}


@pytest.mark.parametrize("birds", ["installed"], indirect=True)
@pytest.mark.usefixtures("birds")
def test_a_new_value_is_used_from_then_on(studio: Studio) -> None:
    put(studio)
    run, _ = ran(studio, "parrot")
    put(studio, value="another one, and longer than the first")
    time.sleep(1.1)  # a conductor looks at most once a second
    again = started(studio, run["pipeline_id"])["id"]
    assert ended(studio, again)["output"]["length"] == 38


@pytest.mark.usefixtures("birds")
def test_a_value_that_does_not_open_fails_the_stage_by_name(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    put(studio)
    monkeypatch.setenv("FLOWMASON_MASTER_KEY", base64.b64encode(os.urandom(32)).decode())
    run, _ = ran(studio, "parrot")
    assert run["status"] == "failed" and run["error"]["code"] == "SECURITY", run
    assert "which is not here" in run["error"]["message"]


class _Model(BaseHTTPRequestHandler):
    keys: list[str | None] = []

    def do_POST(self) -> None:
        self.keys.append(self.headers.get("Authorization"))
        self.send_response(401)
        self.end_headers()
        self.wfile.write(f'{{"error": {{"message": "bad key {self.headers.get("Authorization")}"}}}}'.encode())

    def log_message(self, *_: Any) -> None: ...


def test_a_node_asks_its_model_with_the_orgs_own_key(
    studio: Studio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-the-operator")
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Model)
    Thread(target=server.serve_forever, daemon=True).start()
    _Model.keys.clear()
    url = f"http://127.0.0.1:{server.server_port}/v1"
    options = {"providers": {"default": "openai", "openai": {"base_url": url, "api_key_env": "OPENAI_API_KEY"}}}
    stage = {
        "id": "a",
        "component_type": "generator",
        "config": {"prompt": "hello"},
        "retry_config": {"max_retries": 0},
    }
    body = {"input": None, "async_mode": False}
    secrets = org_secrets(studio.services.settings.database_url)
    try:
        with conducting(studio.services.settings, options, secrets=secrets):
            put(studio, "openai_api_key")
            pipeline_id = made(studio, {"name": "asks", "version": "1.0.0", "stages": [stage]})["id"]
            run_id = started(studio, pipeline_id)["id"]
            assert ended(studio, run_id)["status"] == "failed"
            assert_nowhere(studio, tmp_path, run_id, SECRET)
            document = {"name": "asks", "version": "1.0.0", "stages": [stage]}
            answer = studio.client.post("/api/v1/pipelines", json=document, headers=studio.other_headers())
            path = f"/api/v1/pipelines/{answer.json()['id']}/run"
            studio.client.post(path, json=body, headers=studio.other_headers()).raise_for_status()
    finally:
        server.shutdown()
        server.server_close()
    assert _Model.keys == [f"Bearer {SECRET}", "Bearer sk-of-the-operator"]


def test_a_conductor_host_hands_secrets_out(studio: Studio, tmp_path: Path) -> None:
    """As `fm studio start` makes them."""
    upload(studio, parrots(tmp_path))
    put(studio)
    database = studio.services.settings
    settings = msgspec.structs.replace(
        conductors.settings({"FLOWMASON_VALUES_URL": database.values_url}),
        database_url=database.database_url,
        executor="flowmason_serve_apps.studio.dev:local_executor",
    )
    assert settings.secrets
    run_id = started(studio, made(studio, pipeline("parrot"))["id"])["id"]

    async def walked() -> dict[str, Any]:
        host = ConductorHost(msgspec.msgpack.encode(settings))
        await host.ready()
        try:
            return await asyncio.to_thread(ended, studio, run_id)
        finally:
            await host.drain(2.0)

    run = asyncio.run(walked())
    assert run["status"] == "completed" and run["output"]["length"] == len(SECRET), run
