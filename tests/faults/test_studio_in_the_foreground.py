"""`fm studio start --foreground`: it stays, logs to stderr, and Ctrl-C ends it with everything that it started."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flowmason_actors import processes

pytestmark = pytest.mark.slow
FM = [sys.executable, "-c", "from flowmason.cli import main; main()", "studio"]


def test_it_stays_shows_its_conductor_and_ends_by_ctrl_c(tmp_path: Path) -> None:
    kept = {name: text for name, text in os.environ.items() if not name.startswith(("FLOWMASON_", "RAY_"))}
    kept.pop("DATABASE_URL", None)
    environ = {**kept, "FLOWMASON_HOME": str(tmp_path)}
    log = tmp_path / "said"
    with log.open("w") as said:
        command = [*FM, "start", "--foreground", "--port", "0", "--no-dashboard"]
        process = subprocess.Popen(command, env=environ, cwd=tmp_path, stdout=said, stderr=said)
    try:
        deadline = time.monotonic() + 120
        while True:
            asked = subprocess.run([*FM, "status", "--json"], env=environ, capture_output=True, text=True, check=False)
            found = json.loads(asked.stdout)
            if found["healthy"] and found["conductors"]:
                break
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.3)
        (conductor,) = found["conductors"]
        assert conductor["runs"] == 0 and processes.born(conductor["pid"]) is not None
        state = json.loads((tmp_path / "studio.json").read_bytes())
        assert state["pid"] == process.pid
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0, log.read_text()
        assert "told to end" in log.read_text() and "fm_bootstrap_" in log.read_text()
        left = [pid for pid, born in state["children"].items() if processes.born(int(pid)) == born]
        assert not left and processes.born(conductor["pid"]) is None
        assert not (tmp_path / "studio.json").exists()
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(60)
