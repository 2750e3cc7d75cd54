"""A Studio in processes of its own, runs over HTTP, readers of their streams, and what must hold afterwards."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import httpx2
import msgspec
from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException

from faults.kit import Entry, Story
from faults.studio_components import COMPONENTS, stages
from flowmason.ids import RunId
from flowmason.journal_sql import open_journal
from flowmason.studio.identity.permissions import Role
from flowmason.studio.scope import StudioStore
from flowmason_actors import processes
from studio.kit import ACME, people_in


class StudioProcess:
    """`fm studio` with a home, a database and a ledger of its own."""

    def __init__(self, root: Path, *options: str, database: str | None = None, **variables: str) -> None:
        self.root = root
        self.home = root / "home"
        self.ledger = root / "ledger"
        self.options = options
        self.database = database or f"sqlite:///{self.home}/flowmason.db"
        self.variables = {**variables, **({"DATABASE_URL": database} if database else {})}
        self.url = ""
        self.keys: dict[Role, str] = {}
        self._install()

    @property
    def environ(self) -> dict[str, str]:
        kept = {
            key: item
            for key, item in os.environ.items()
            if not key.startswith(("FLOWMASON_", "RAY_")) and key not in ("DATABASE_URL", "REDIS_URL")
        }
        return {**kept, "FLOWMASON_HOME": str(self.home), "NO_COLOR": "1", **self.variables}

    def fm(self, *args: str, cwd: Path | None = None, within_s: float = 200.0, code: int = 0) -> str:
        """`fm` to its end; returns what it printed."""
        command = [sys.executable, "-c", "from flowmason.cli import main; main()", *args]
        done = subprocess.run(
            command, cwd=cwd or self.root, env=self.environ, capture_output=True, text=True, timeout=within_s
        )
        assert done.returncode == code, f"fm {' '.join(args)} -> {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def start(self) -> dict[str, Any]:
        """Start it with an org in it; returns what `fm studio start --json` says."""
        self.people()
        said: dict[str, Any] = json.loads(
            self.fm("studio", "start", "--port", "0", "--no-dashboard", "--json", *self.options)
        )
        self.url = said["url"]
        return said

    def people(self) -> None:
        """An org with a key of every role, unless it is there."""
        if not self.keys:
            self.home.mkdir(exist_ok=True)
            store = StudioStore.open(self.database)
            self.keys = people_in(store, ACME, "acme")
            store.close()

    def status(self) -> dict[str, Any]:
        """What `studio.json` says."""
        found: dict[str, Any] = json.loads((self.home / "studio.json").read_bytes())
        return found

    def close(self) -> list[int]:
        """Stop it and kill whatever is left; returns the latter."""
        try:
            self.fm("studio", "stop", within_s=60)
        finally:
            left = self.processes()
            processes.kill(processes.marks(left))
        return left

    # -- its processes ---------------------------------------------------------------------------

    def processes(self, title: str = "") -> list[int]:
        """The living processes of this Studio, all or those whose command line says so."""
        mark = f"FLOWMASON_HOME={self.home}".encode()
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != os.getpid():
                try:
                    theirs = mark in (entry / "environ").read_bytes().split(b"\0")
                    if theirs and title.encode() in (entry / "cmdline").read_bytes().replace(b"\0", b" "):
                        found.append(int(entry.name))
                except OSError:
                    continue
        return [pid for pid in found if processes.born(pid) is not None]

    def kill(self, title: str, count: int = 1) -> float:
        """SIGKILL processes by their title; returns when, as Unix time."""
        found = self.processes(title)
        assert found, f"no process is called {title}"
        for pid in found[:count]:
            os.kill(pid, signal.SIGKILL)
        return time.time()

    def kill_head(self) -> float:
        """SIGKILL everything of Ray at once: the head, its workers, Serve and HAProxy."""
        leader = self.processes("ray.scripts.scripts start")[0]
        for pid in (leader, *processes.family(leader)):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        return time.time()

    # -- what it wrote down ----------------------------------------------------------------------

    def entries(self) -> dict[str, list[Entry]]:
        """The lines of the ledger by run."""
        found: dict[str, list[Entry]] = defaultdict(list)
        for line in self.ledger.read_bytes().splitlines() if self.ledger.exists() else []:
            found[json.loads(line)["run"]].append(msgspec.json.decode(line, type=Entry))
        return found

    def _install(self) -> None:
        project = self.root / "project"
        (project / "components").mkdir(parents=True)
        (project / "flowmason.json").write_text('{"name": "faults", "version": "1.0.0"}')
        (project / "components" / "ledgered.py").write_text(COMPONENTS.format(ledger=str(self.ledger)))
        self.fm("pack", "-o", str(self.root / "faults.fmpkg"), cwd=project)
        self.fm("install", str(self.root / "faults.fmpkg"))


class Load:
    """A client that retries: it submits runs, and readers follow some of them. Use it as a context."""

    def __init__(self, studio: StudioProcess, name: str = "load", **options: Any) -> None:
        self.studio = studio
        self.name = name
        self.options = options
        self.accepted: dict[str, str] = {}
        """Run ids by Idempotency-Key."""
        self.seen: dict[str, list[int]] = defaultdict(list)
        """The seqs that a run's reader was told, over all its connections."""
        self.places: dict[str, str] = {}
        """The last id of its stream that a run's reader was told."""
        self.connections: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        """What the client met and tried again."""
        self.pipeline = ""
        """The id of the pipeline of which runs are submitted."""

    async def __aenter__(self) -> Load:
        self.client = httpx2.AsyncClient(
            base_url=self.studio.url,
            headers={"Authorization": f"Bearer {self.studio.keys[Role.OWNER]}"},
            timeout=10.0,
            limits=httpx2.Limits(max_connections=100),
        )
        document = {"name": self.name, "version": "1.0.0", "stages": stages(**self.options)}
        made = await self.asked("POST", "/api/v1/pipelines", json=document)
        assert made.status_code == 201, made.text
        self.pipeline = made.json()["id"]
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.client.aclose()

    async def asked(self, method: str, path: str, within_s: float = 300.0, **more: Any) -> httpx2.Response:
        """A request, tried again where nobody answers, something broke, or it is asked to wait."""
        deadline = time.monotonic() + within_s
        while True:
            try:
                answer = await self.client.request(method, path, **more)
            except httpx2.TransportError as error:
                self.refused[type(error).__name__] += 1
                trouble: object = error
            else:
                if answer.status_code < 500 and answer.status_code != 429:
                    return answer
                self.refused[str(answer.status_code)] += 1
                trouble = answer.text
            assert time.monotonic() < deadline, f"{method} {path}: {trouble}"
            await asyncio.sleep(0.3)

    async def submit(self, key: str) -> str:
        """One run under a key; returns its id."""
        answer = await self.asked(
            "POST", f"/api/v1/pipelines/{self.pipeline}/run", json={"input": {}}, headers={"Idempotency-Key": key}
        )
        assert answer.status_code in (200, 202), answer.text
        run: str = answer.json()["id"]
        assert self.accepted.setdefault(key, run) == run, "one key, two runs"
        return run

    async def submit_all(self, count: int, *, readers: int = 20, at: int = 0, then: Callable[[], Any] = int) -> Any:
        """Submit so many runs, eight at a time; after `at` of them call `then` in a thread; returns what it said.

        Comes back when all runs have ended and all readers have read to the end.
        """
        waiting = [f"{self.name}-{n}" for n in range(count)]
        following: list[asyncio.Task[None]] = []
        struck: list[asyncio.Task[Any]] = []

        async def work() -> None:
            while waiting:
                run = await self.submit(waiting.pop(0))
                if len(following) < readers:
                    reader = self.follow_socket if len(following) % 2 else self.follow
                    following.append(asyncio.create_task(reader(run)))
                if len(self.accepted) >= at and not struck:
                    struck.append(asyncio.create_task(asyncio.to_thread(then)))

        await asyncio.gather(*(work() for _ in range(8)))
        # The answers to some may have been lost: whoever asks again gets the same run.
        await asyncio.gather(*(self.submit(f"{self.name}-{n}") for n in range(0, count, 20)))
        said = await struck[0] if struck else None
        await self.await_end()
        async with asyncio.timeout(30):
            await asyncio.gather(*following)
        return said

    async def await_end(self, within_s: float = 120.0) -> None:
        """Wait until no run is left that has not ended."""
        deadline = time.monotonic() + within_s
        while True:
            query = "/api/v1/runs?status=queued&status=running&status=paused&limit=5"
            left = (await self.asked("GET", query)).json()["items"]
            if not left:
                return
            assert time.monotonic() < deadline, f"not ended: {left}"
            await asyncio.sleep(0.5)

    async def follow(self, run: str) -> None:
        """Read a run's stream to its end, again from where it was whenever it breaks."""
        seen = self.seen[run]
        deadline = time.monotonic() + 150.0
        while time.monotonic() < deadline:
            self.connections[run] += 1
            place = self.places.get(run) or (str(seen[-1]) if seen else "")
            headers = {"Last-Event-ID": place} if place else {}
            try:
                async with self.client.stream("GET", f"/api/v1/runs/{run}/stream", headers=headers) as answer:
                    if answer.status_code == 204:
                        return
                    async for line in answer.aiter_lines():
                        if line.startswith("id: "):
                            self.places[run] = line[4:]
                            if line[4:].isdecimal():
                                seen.append(int(line[4:]))
            except httpx2.TransportError:
                pass
            await asyncio.sleep(0.3)
        raise AssertionError(f"the reader of {run} never came to its end: {seen}")

    async def follow_socket(self, run: str) -> None:
        """The same over the WebSocket."""
        seen = self.seen[run]
        address = f"ws{self.studio.url.removeprefix('http')}/api/v1/ws/runs"
        headers = {"Authorization": f"Bearer {self.studio.keys[Role.OWNER]}"}
        deadline = time.monotonic() + 150.0
        while time.monotonic() < deadline:
            self.connections[run] += 1
            try:
                async with connect(address, additional_headers=headers, open_timeout=10) as socket:
                    asked = {"type": "subscribe", "run_id": run, "after": seen[-1] if seen else 0, "side": False}
                    await socket.send(json.dumps(asked))
                    async for text in socket:
                        message = json.loads(text)
                        if message["type"] == "event":
                            seen.append(message["seq"])
                        elif message["type"] == "end":
                            return
                        elif message["type"] == "error":
                            break
            except (OSError, WebSocketException):
                pass
            await asyncio.sleep(0.3)
        raise AssertionError(f"the reader of {run} never came to its end: {seen}")

    async def verify(self, killed: float | None = None, adopted_within_s: float = 60.0) -> dict[str, Any]:
        """What holds after any fault; returns what was found.

        Every key has one run, which ended once, completed; no stage began after its result was committed, and no
        effect before its start was; a reader saw each event once, in order. With `killed` (Unix time) the runs that
        were under way then were taken on by somebody else in time.
        """
        assert len(set(self.accepted.values())) == len(self.accepted)
        entries = self.studio.entries()
        journal = open_journal(self.studio.database)
        slowest, adopted, again = 0.0, 0, 0
        try:
            for run in self.accepted.values():
                recorded = await journal.read(RunId(run))
                story = Story(recorded, entries[run])
                story.check()
                assert story.status == "completed", story
                ends = [each for each in recorded if type(each.event).__name__ in _ENDS]
                assert len(ends) == 1 and ends[0] is recorded[-1], story
                again += len(entries[run]) - len({entry.path for entry in entries[run]})
                if run in self.seen:
                    assert self.seen[run] == list(range(1, len(recorded) + 1)), (run, self.seen[run], len(recorded))
                wait = _adoption(recorded, killed)
                if wait is not None:
                    slowest, adopted = max(slowest, wait), adopted + 1
        finally:
            await journal.close()
        assert slowest <= adopted_within_s, f"adopted after {slowest:.1f} s"
        return {
            "runs": len(self.accepted),
            "adopted": adopted,
            "slowest_s": round(slowest, 1),
            "begun_again": again,
            "connections": sum(self.connections.values()),
            "tried_again": dict(self.refused),
        }


_ENDS = {"RunCompleted", "RunFailed", "RunCancelled"}


def _adoption(recorded: Sequence[Any], killed: float | None) -> float | None:
    """Seconds from the kill to the first word of another conductor; None for a run that nobody had walked."""
    if killed is None:
        return None
    at = int(killed * 1000)
    walked = [each for each in recorded[1:] if each.at <= at]
    later = [each for each in recorded if each.at > at]
    if not walked or not later:
        return None
    others = [each for each in later if each.by != walked[-1].by]
    return (others[0].at - at) / 1000 if others else None


async def during(load: Load, count: int, strike: Callable[[], Any], **options: Any) -> Any:
    """Runs are submitted, and after a quarter of them something is struck."""
    return await load.submit_all(count, at=count // 4, then=strike, **options)
