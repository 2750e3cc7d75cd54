"""`serve deploy configs/serve/studio.yaml` on a Ray that somebody else started."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from faults.studio_kit import Load, StudioProcess
from flowmason_actors import processes
from flowmason_serve_apps.studio.supervisor import is_healthy

pytestmark = pytest.mark.slow
CONFIG = Path(__file__).parents[2] / "configs" / "serve" / "studio.yaml"


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[StudioProcess]:
    """A warm cluster with a database that has an org in it; no Studio yet."""
    private = tmp_path / "private.json"
    made = StudioProcess(tmp_path, FLOWMASON_PRIVATE_ENVIRONMENT=str(private))
    private.write_text(json.dumps({"DATABASE_URL": made.database}))
    made.people()
    made.fm("cluster", "up", "--num-cpus", "2")
    try:
        yield made
    finally:
        made.fm("cluster", "down")
        processes.kill(processes.marks(made.processes()))


async def test_the_config_deploys_a_studio_with_its_conductors(cluster: StudioProcess, tmp_path: Path) -> None:
    port = processes.free_port()
    config = yaml.safe_load(CONFIG.read_text())
    config["http_options"] = {"host": "127.0.0.1", "port": port}
    file = tmp_path / "studio.yaml"
    file.write_text(yaml.safe_dump(config))
    state = json.loads((cluster.home / "cluster.json").read_bytes())
    environ = {**cluster.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": state["token_path"]}
    command = [sys.executable, "-m", "ray.serve.scripts", "deploy", str(file), "--address", state["dashboard"]]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    cluster.url = f"http://127.0.0.1:{port}"
    deadline = time.monotonic() + 90
    # The proxy says 404 until it has heard of the application.
    while not is_healthy("127.0.0.1", port) or len(cluster.processes("ray::ServeReplica:studio:api")) < 2:
        assert time.monotonic() < deadline, os.listdir(state["temp_dir"])
        time.sleep(0.2)
    async with Load(cluster, "deployed") as load:
        await load.submit_all(20, readers=5)
        killed = await load.submit_all(60, readers=0, at=30, then=lambda: cluster.kill("ConductorHost"))
        await load.verify(killed)
