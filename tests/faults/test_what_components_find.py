"""What an installed component, which runs under the Studio's own user, finds of what is private in processes."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from faults.studio_kit import StudioProcess
from flowmason.studio.identity.permissions import Role

pytestmark = pytest.mark.slow

_MASTER = base64.b64encode(b"canary-of-the-master-key-32bytes").decode()
_CANARIES = (_MASTER, "canary-of-jwt", "canary-of-smtp", "canary-in-url")
_COMPONENTS = """
import glob
import os

from flowmason import OperatorInput, OperatorOutput, operator


@operator(name="looking", category="test", description="Looks around.", effect="idempotent")
class Looking:
    class Input(OperatorInput):
        pass

    class Output(OperatorOutput):
        value: object

    async def execute(self, input, context):
        found = {"os": "\\n".join(f"{name}={text}" for name, text in os.environ.items())}
        for file in [*glob.glob("/proc/[0-9]*/environ"), *glob.glob("/proc/[0-9]*/cmdline")]:
            try:
                with open(file, "rb") as stream:
                    found[file] = stream.read().decode(errors="replace")
            except OSError:
                continue
        mark = "FLOWMASON_HOME=" + os.environ["FLOWMASON_HOME"]
        ours = {file.split("/")[2] for file, text in found.items() if mark in text and "/" in file}
        found = {file: text for file, text in found.items() if file == "os" or file.split("/")[2] in ours}
        return self.Output(value={
            "looked_at": len(found), "parent": f"/proc/{os.getppid()}/environ" in found,
            "own": "/proc/self/environ" and f"/proc/{os.getpid()}/environ" in found,
            "found": [[file, mark] for file, text in found.items() for mark in CANARIES if mark in text],
            "names": [file for file, text in found.items() if "DATABASE_URL=" in text],
        })
"""


class _Looked(StudioProcess):
    def _install(self) -> None:
        project = self.root / "project"
        (project / "components").mkdir(parents=True)
        (project / "flowmason.json").write_text('{"name": "looks", "version": "1.0.0"}')
        source = f"CANARIES = {_CANARIES!r}\n{_COMPONENTS}"
        (project / "components" / "looking.py").write_text(source)
        self.fm("pack", "-o", str(self.root / "looks.fmpkg"), cwd=project)
        self.fm("install", str(self.root / "looks.fmpkg"))


@pytest.fixture
def studio(tmp_path: Path) -> Iterator[_Looked]:
    home = tmp_path / "home"
    made = _Looked(
        tmp_path, "--replicas", "1", "--num-cpus", "1",
        DATABASE_URL=f"sqlite:///{home}/canary-in-url.db", FLOWMASON_MASTER_KEY=_MASTER,
        JWT_SECRET="canary-of-jwt", FLOWMASON_SMTP_URL="smtp://user:canary-of-smtp@127.0.0.1:1",
    )  # fmt: skip
    made.database = made.variables["DATABASE_URL"]
    yield made
    assert made.close() == []


def test_no_process_of_a_studio_shows_a_component_what_is_private(studio: _Looked) -> None:
    studio.start()
    headers = {"Authorization": f"Bearer {studio.keys[Role.OWNER]}"}
    with httpx2.Client(base_url=f"{studio.url}/api/v1", headers=headers, timeout=30, trust_env=False) as client:
        stage = {"id": "look", "component_type": "looking", "config": {}}
        made = client.post("/pipelines", json={"name": "look", "version": "1.0.0", "stages": [stage]})
        assert made.status_code == 201, made.text
        run: dict[str, Any] = client.post("/run", json={"pipeline": "look"}).json()
        deadline = time.monotonic() + 60
        while (run := client.get(f"/runs/{run['id']}").json())["status"] in ("queued", "pending", "running"):
            assert time.monotonic() < deadline, run
            time.sleep(0.1)
    assert run["status"] == "completed", run
    told = run["stages"]["look"]["output"]["value"]
    assert told["parent"] and told["own"] and told["looked_at"] > 10, told
    assert told["found"] == [] and told["names"] == [], told
    # It is still what the Studio works with.
    assert (studio.home / "canary-in-url.db").exists()
    private = list(Path(studio.status()["run_dir"]).glob("environment.json"))
    assert [file.stat().st_mode & 0o777 for file in private] == [0o600]
    assert json.loads(private[0].read_bytes())["FLOWMASON_MASTER_KEY"] == _MASTER
