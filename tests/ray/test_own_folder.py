"""A Ray that lives as long as the process that started it has a folder that nobody else may enter."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from flowmason_cluster import ray_start
from flowmason_cluster.own_folder import OwnFolder

_HOLD = """
import sys
from flowmason_cluster.own_folder import OwnFolder
folder = OwnFolder()
print(folder.path, flush=True)
sys.stdin.read()
folder.remove()
"""


def _holder() -> tuple[subprocess.Popen[str], Path]:
    process = subprocess.Popen([sys.executable, "-c", _HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def test_what_a_killed_process_left_is_cleared_away_and_no_living_ones() -> None:
    killed, left = _holder()
    living, kept = _holder()
    try:
        assert left.stat().st_mode & 0o777 == 0o700
        killed.kill()
        killed.wait(60)
        assert left.exists()
        another = OwnFolder()
        assert not left.exists() and kept.exists() and another.path.exists()
        another.remove()
        assert not another.path.exists()
        living.communicate("", timeout=60)
        assert not kept.exists()
    finally:
        for process in (killed, living):
            process.kill()
            process.wait(60)


_RUN = """
from flowmason_cluster import ray_start
ray_start.connect("local", num_cpus=1)
import ray
print(ray._private.worker._global_node.get_session_dir_path())
ray_start.disconnect()
"""


@pytest.mark.ray
def test_a_local_ray_keeps_everything_in_a_folder_of_its_owner_which_goes_with_it(
    cluster: ray_start.Cluster, home: Path
) -> None:
    import ray

    assert cluster.kind == "local"
    node: Any = ray._private.worker._global_node
    session = Path(node.get_session_dir_path())
    folder = session.parents[1]
    assert folder.name.startswith("fm-ray-") and folder.stat().st_mode & 0o777 == 0o700
    assert folder.stat().st_uid == os.getuid() and (session / "logs").is_dir()
    command = [sys.executable, "-c", _RUN]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    theirs = Path(done.stdout.split()[-1])
    assert theirs.name.startswith("session_") and theirs.parents[1] != folder
    assert not theirs.parents[1].exists() and folder.exists()
