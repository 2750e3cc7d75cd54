"""Processes of ours: told from others by when they were born, and ended by their ids."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Iterable
from pathlib import Path

from flowmason.errors import EngineUnavailableError


def born(pid: int) -> int | None:
    """When a process was started, in ticks since the machine's; None: there is none, or it is a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else int(fields[19])


def marks(pids: Iterable[int]) -> dict[int, int]:
    """Which of these processes live, and when each was born."""
    return {pid: mark for pid in pids if (mark := born(pid)) is not None}


def living(known: dict[int, int]) -> list[int]:
    """Those of the marked processes that still live: another process with the same id is not one of them."""
    return [pid for pid, mark in known.items() if born(pid) == mark]


def family(leader: int) -> list[int]:
    """The living processes of a session, without its leader, and what they started in sessions of its own.

    The leader may be gone: its session bears its id until the last of them ends.
    """
    parents: dict[int, int] = {}
    found: set[int] = set()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        pid = int(entry.name)
        if fields[0] == "Z":
            continue
        parents[pid] = int(fields[1])
        if int(fields[3]) == leader:
            found.add(pid)
    grown = True
    while grown:
        more = {pid for pid, parent in parents.items() if parent in found | {leader} and pid not in found}
        found |= more
        grown = bool(more)
    return sorted(found - {leader})


def end(leader: int, others: Iterable[int], *, within_s: float) -> None:
    """Ask the leader to end, wait until all have, then kill what is left. Blocks."""
    known = marks([leader, *others])
    mark = known.get(leader)
    send([leader], signal.SIGTERM)
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline and living(known):
        if born(leader) != mark:
            # What outlives its supervisor for long was missed by it.
            deadline = min(deadline, time.monotonic() + 2.0)
        reap(leader)
        time.sleep(0.05)
    kill(known)
    reap(leader)


def kill(known: dict[int, int], *, within_s: float = 5.0) -> None:
    """SIGKILL for the marked processes, and wait until they are gone. Blocks."""
    send(living(known), signal.SIGKILL)
    deadline = time.monotonic() + within_s
    while living(known) and time.monotonic() < deadline:
        for pid in known:
            reap(pid)
        time.sleep(0.02)


def send(pids: Iterable[int], number: signal.Signals) -> None:
    """A signal to each of them that is still there."""
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue


def reap(pid: int) -> None:
    """Take note of the end of a child; others' children are theirs."""
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return


def free_port(preferred: int = 0, *, host: str = "127.0.0.1") -> int:
    """A TCP port that nobody has open: the preferred one, else any."""
    for port in (preferred, 0):
        with socket.socket() as probe:
            try:
                probe.bind((host, port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise EngineUnavailableError("no free port")


def answers(host: str, port: int) -> bool:
    """Whether somebody listens there."""
    try:
        socket.create_connection((host, port), timeout=1.0).close()
    except OSError:
        return False
    return True


def write_private(path: Path, data: bytes) -> Path:
    """Replace a file, in one step, by one that its owner alone can read."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(data)
    draft.replace(path)
    return path
