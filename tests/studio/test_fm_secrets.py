"""`fm secrets` against a Studio that listens on loopback."""

from __future__ import annotations

import base64
import json
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import uvicorn
from typer.testing import CliRunner, Result

from flowmason.cli.app import app
from flowmason.studio import secrets
from flowmason.studio.identity.permissions import Role
from flowmason_actors.processes import free_port
from studio.kit import Studio

VALUE = "sk-from-the-command-line"
Fm = Callable[..., Result]


@pytest.fixture
def fm(studio: Studio, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Fm]:
    """`fm`, signed in to the Studio as its admin."""
    monkeypatch.setenv("FLOWMASON_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("FLOWMASON_MASTER_KEY", base64.b64encode(os.urandom(32)).decode())
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(studio.app, port=port, lifespan="off", log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    monkeypatch.setenv("FLOWMASON_STUDIO_URL", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("FLOWMASON_API_KEY", studio.keys[Role.ADMIN])
    while not server.started:
        thread.join(0.01)

    def invoke(*args: str, input: str | bytes | None = None) -> Result:
        return CliRunner().invoke(app, ["secrets", *args], input=input, prog_name="fm")

    yield invoke
    server.should_exit = True
    thread.join(10)


def value(studio: Studio, name: str) -> str | None:
    with studio.services.store.scope(studio.org) as scope:
        return secrets.read(scope, studio.services.sealer, [name]).get(name)


def test_a_secret_is_set_listed_and_removed(fm: Fm, studio: Studio, tmp_path: Path) -> None:
    done = fm("set", "API-Key", input=VALUE + "\n")
    assert done.exit_code == 0, done.output
    assert "api_key is set (version 1)" in done.output and VALUE not in done.output
    assert value(studio, "api_key") == VALUE
    (tmp_path / "pem").write_text("-----BEGIN-----\nabcdefgh\n")
    again = fm("set", "api_key", "--from-file", str(tmp_path / "pem"), "--json")
    assert json.loads(again.stdout)["version"] == 2
    assert value(studio, "api_key") == "-----BEGIN-----\nabcdefgh\n"
    listed = fm("list")
    assert "api_key" in listed.stdout and "abcdefgh" not in listed.output
    assert json.loads(fm("list", "--json").stdout)["items"][0]["versions"] == 2
    assert json.loads(fm("rotate", "--json").stdout) == {"rewrapped": 0, "dropped": 1}
    assert fm("rm", "API-key").exit_code == 0
    assert value(studio, "api_key") is None
    assert "no secrets" in fm("list").output


def test_what_goes_wrong_is_told(fm: Fm, studio: Studio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for verb in ("set", "rm"):
        empty = fm(verb, "", input=VALUE)
        assert empty.exit_code == 2 and "a name or an id is empty" in empty.output, empty.output
    gone = fm("rm", "never")
    assert gone.exit_code != 0 and "there is no secret 'never'" in gone.output
    assert fm("set", "key", "value-as-an-argument").exit_code == 2
    for given in ("abc\n", "x" * 70_000, ""):
        refused = fm("set", "key", input=given)
        assert refused.exit_code != 0 and "4 to 65536 bytes" in refused.output, refused.output
    assert "UTF-8" in fm("set", "key", input=b"\xff\xfe\xfa\xfb").output
    assert "cannot read" in fm("set", "key", "--from-file", str(tmp_path / "absent")).output
    assert fm("set", "key", "-t", "nobody", input=VALUE).exit_code == 2
    assert studio.client.get("/api/v1/secrets", headers=studio.headers()).json()["items"] == []
    monkeypatch.setenv("FLOWMASON_API_KEY", studio.keys[Role.DEVELOPER])
    forbidden = fm("set", "key", input=VALUE)
    assert forbidden.exit_code == 1 and "secrets.write" in forbidden.output and VALUE not in forbidden.output
