"""Ray leaves the child processes of its drivers and workers alone."""

from __future__ import annotations

import subprocess
import sys

from flowmason_cluster import ray_start

EXIT_4 = "import subprocess, sys; print(subprocess.run([sys.executable, '-c', 'raise SystemExit(4)']).returncode)"


def status_of_a_child() -> int:
    return subprocess.run([sys.executable, "-c", "raise SystemExit(4)"], check=False).returncode


def test_a_driver_learns_how_its_children_end(cluster: ray_start.Cluster) -> None:
    assert [status_of_a_child() for _ in range(3)] == [4, 4, 4]


def test_a_worker_learns_how_its_children_end(cluster: ray_start.Cluster) -> None:
    import ray

    def run() -> str:
        import subprocess
        import sys

        return subprocess.run([sys.executable, "-c", EXIT_4], capture_output=True, text=True, check=False).stdout

    task = ray.remote(max_retries=0)(run)
    assert ray.get(task.remote(), timeout=60).strip() == "4"
