"""Two Studios on one machine; and what the command makes of one that is there, or was killed."""

from __future__ import annotations

import json
import os
import signal
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from faults.kit import wait_for
from faults.studio_kit import Load, StudioProcess
from flowmason_actors import processes

pytestmark = pytest.mark.slow


@pytest.fixture
def two(tmp_path: Path) -> Iterator[list[StudioProcess]]:
    """Two Studios with one replica each; not started."""
    made = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        made.append(StudioProcess(tmp_path / name, "--replicas", "1", "--num-cpus", "1"))
    yield made
    left = [made_.close() for made_ in made]
    assert left == [[], []], f"`fm studio stop` left {left}"


def _listening(pids: list[int]) -> set[int]:
    """The TCP ports on which these processes listen."""
    inodes = set()
    for pid in pids:
        for handle in Path(f"/proc/{pid}/fd").iterdir():
            try:
                inodes.add(os.readlink(handle).removeprefix("socket:[").removesuffix("]"))
            except OSError:
                continue
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in inodes:
                found.add(int(fields[1].rpartition(":")[2], 16))
    return found


async def test_two_studios_do_not_see_each_other(two: list[StudioProcess]) -> None:
    one, other = two
    for studio in two:
        studio.start()
    ports = [_listening(studio.processes()) for studio in two]
    assert len(ports[0]) > 5 and not ports[0] & ports[1]
    states = [studio.status() for studio in two]
    assert states[0]["run_dir"] != states[1]["run_dir"]
    for folder in (Path(state["run_dir"]) for state in states):
        # The socket that commands HAProxy, which Ray leaves open to all, and the script that starts it.
        assert list(folder.rglob("admin.sock")) and folder.stat().st_mode & 0o077 == 0
    tokens = [Path(state["token_path"]).read_text() for state in states]
    assert tokens[0] != tokens[1]
    async with Load(one, "one") as first, Load(other, "other") as second:
        await first.submit_all(10, readers=2)
        await second.submit_all(10, readers=2)
        # The head of one is killed; the other goes on answering all the while.
        born = processes.marks(other.processes())
        one.kill_head()
        await second.submit_all(20, readers=2)
        assert not second.refused, second.refused
        await first.submit_all(20, readers=2)
        await first.verify()
        await second.verify()
        assert set(processes.living(born)) >= {
            pid for pid in born if b"IDLE" not in Path(f"/proc/{pid}/cmdline").read_bytes()
        }
    one.fm("studio", "stop")
    assert not one.processes()
    with urllib.request.urlopen(f"{other.url}/health", timeout=5) as answer:
        assert answer.status == 200


def test_start_is_idempotent_and_clears_up_after_a_killed_supervisor(two: list[StudioProcess]) -> None:
    studio = two[0]
    first = studio.start()
    assert first["started"] and first["healthy"]
    again = json.loads(studio.fm("studio", "start", "--json"))
    assert not again["started"] and again["pid"] == first["pid"] and again["bootstrap_token"] is None
    assert json.loads(studio.fm("studio", "status", "--json"))["healthy"]
    os.kill(first["pid"], signal.SIGKILL)
    wait_for(lambda: processes.born(first["pid"]) is None, what="the supervisor is gone")
    orphans = studio.processes()
    assert orphans
    assert json.loads(studio.fm("studio", "status", "--json", code=4)) == {"running": False, "healthy": False}
    second = studio.start()
    assert second["started"] and second["pid"] != first["pid"]
    assert not set(orphans) & set(studio.processes())
    third = json.loads(studio.fm("studio", "restart", "--json"))
    assert third["healthy"] and third["url"] == second["url"] and third["pid"] != second["pid"]
