"""On Ray, too, a secret travels with the call that declares it, and stands nowhere afterwards."""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

import ray
from flowmason.package import install
from flowmason.studio.components import Catalogue
from flowmason.studio.secrets import org_secrets
from flowmason_actors.launch import launch_of, open_worker
from flowmason_cluster import ray_start
from flowmason_cluster.executor import RayExecutor
from ray_kit import Lab
from studio.conducting import conducting, ended, made, started
from studio.kit import Studio, studio_in
from studio.parrots import assert_nowhere, parrots, pipeline, upload

SECRET = "sk-live-on-ray-Zx81kPqLw0"
OPTIONS = {"providers": {"default": "mock", "mock": {}}}


@pytest.fixture(params=["uploaded", "installed"])
def birds(
    request: pytest.FixtureRequest, cluster: ray_start.Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Studio]:
    """A Studio whose runs go over Ray, with components of an org's package or of the server's."""
    monkeypatch.setenv("FLOWMASON_MASTER_KEY", base64.b64encode(os.urandom(32)).decode())
    monkeypatch.setenv("FLOWMASON_SECRET_API_KEY", "of-the-operator-and-of-no-org")
    home = tmp_path / "server"
    home.mkdir()
    data = parrots(home)
    (home / "p.fmpkg").write_bytes(data)
    install(home / "p.fmpkg", home)
    (tmp_path / "studio").mkdir()
    with studio_in(tmp_path / "studio") as studio:
        if request.param == "installed":
            studio.services.catalogue = Catalogue(home / "packages")
        else:
            upload(studio, data)
        with conducting(
            studio.services.settings,
            {**OPTIONS, "mark": request.param},
            make=lambda worker: RayExecutor(worker, address="local"),
            packages=str(home / "packages"),
            secrets=org_secrets(studio.services.settings.database_url),
        ):
            yield studio


def test_it_is_used_on_a_host_and_stands_nowhere(birds: Studio, tmp_path: Path) -> None:
    studio = birds
    answer = studio.client.put("/api/v1/secrets/api_key", json={"value": SECRET}, headers=studio.headers())
    assert answer.status_code == 200, answer.text
    run_id = started(studio, made(studio, pipeline("parrot", ask=True))["id"])["id"]
    run = ended(studio, run_id, 60.0)
    assert run["status"] == "completed", run
    assert run["output"]["length"] == len(SECRET) and "key ***" in run["output"]["value"]
    assert_nowhere(studio, tmp_path / "studio", run_id, SECRET)
    node = ray._private.worker._global_node
    assert node is not None
    logs = Path(node.get_session_dir_path()) / "logs"
    said = [file.read_bytes() for file in logs.rglob("*") if file.is_file()]
    assert said and not any(SECRET.encode() in text for text in said)


def test_a_worker_has_no_master_key(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    environ = {"FLOWMASON_MASTER_KEY": "k", "FLOWMASON_SECRET_A": "a"}
    launch = launch_of(lab.settings(), environ, share=True)
    assert b"MASTER_KEY" not in launch and b"FLOWMASON_SECRET_A" in launch
    monkeypatch.setenv("FLOWMASON_MASTER_KEY", "inherited")
    monkeypatch.setenv("FLOWMASON_SECRET_A", "before")
    open_worker(launch)
    assert "FLOWMASON_MASTER_KEY" not in os.environ
