"""A project whose stages keep an effect ledger, `fm` in processes of its own, and what must hold afterwards."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from faults.components import source
from flowmason import event as ev
from flowmason.ids import LOCAL_ORG, RunId, StagePath, format_path
from flowmason.journal import RunRow
from flowmason.journal_sql import SqlJournal, open_journal

T = TypeVar("T")


class Entry(msgspec.Struct, frozen=True):
    """A line of the effect ledger."""

    what: str
    path: str
    round: int
    attempt: int
    key: str | None
    pid: int
    at: int
    """Milliseconds since the epoch."""


class Fm:
    """`fm` in a process of its own; its output goes to files, so that nothing ever waits for a reader."""

    def __init__(self, args: Sequence[str], cwd: Path, environ: dict[str, str], log: Path, **options: Any) -> None:
        self.args = tuple(args)
        self._out, self._err = log.with_suffix(".out"), log.with_suffix(".err")
        with self._out.open("w") as out, self._err.open("w") as err:
            command = [sys.executable, "-c", "from flowmason.cli import main; main()", *args]
            self.process = subprocess.Popen(command, cwd=cwd, env=environ, stdout=out, stderr=err, **options)
        self.pid = self.process.pid

    def send(self, number: int) -> None:
        """A signal to the process itself, not to its children."""
        os.kill(self.pid, number)

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self.process.kill()
        self.process.wait(30)

    def end(self, within_s: float = 90.0) -> Fm:
        """Wait for its end."""
        try:
            self.process.wait(within_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it did not end within {within_s:g} s: {self!r}") from None
        return self

    @property
    def code(self) -> int:
        assert self.process.returncode is not None, "it has not ended"
        return self.process.returncode

    @property
    def out(self) -> str:
        return self._out.read_text()

    @property
    def err(self) -> str:
        return self._err.read_text()

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    def __repr__(self) -> str:
        state = self.process.poll()
        return f"fm {' '.join(self.args)} -> {state}\n--- stdout\n{self.out}\n--- stderr\n{self.err}"


class Project:
    """A project in a folder of its own, with an executor and a journal to run on.

    `database` is a URL (None: SQLite), `state` the folder for journal and values, `cluster` the FLOWMASON_HOME of a
    warm Ray cluster that other projects use, too.
    """

    def __init__(
        self,
        root: Path,
        *,
        on: str = "local",
        database: str | None = None,
        state: Path | None = None,
        cluster: Path | None = None,
    ) -> None:
        self.root = root / "project"
        self.home = cluster or root / "home"
        self._alone = cluster is None
        self.logs = root / "logs"
        self.on = on
        self.database = database
        self.variables: dict[str, str] = {}
        """What `fm` sees beside that."""
        self.ledger = root / "ledger"
        for folder in (self.root / "pipelines", self.root / "components", self.logs):
            folder.mkdir(parents=True)
        if state is not None:
            (self.root / ".flowmason").symlink_to(state)
        (self.root / "flowmason.json").write_text('{"name": "faults", "version": "1.0.0"}')
        (self.root / "components" / "faults.py").write_text(source(str(self.ledger)))
        self._started: list[Fm] = []

    # -- files -----------------------------------------------------------------------------------

    def pipeline(self, name: str, *stages: dict[str, Any], **keys: Any) -> str:
        """Write a pipeline; returns its name."""
        content = {"name": name, "version": "1.0.0", "stages": list(stages), **keys}
        (self.root / "pipelines" / f"{name}.pipeline.json").write_text(json.dumps(content))
        return name

    def gate(self, name: str = "gate") -> Path:
        """A file for which stages wait; `touch` lets them pass."""
        return self.root.parent / name

    # -- processes -------------------------------------------------------------------------------

    @property
    def environ(self) -> dict[str, str]:
        kept = {
            key: item
            for key, item in os.environ.items()
            if not key.startswith(("FLOWMASON_", "RAY_")) and key != "DATABASE_URL"
        }
        kept |= {"FLOWMASON_HOME": str(self.home), "FLOWMASON_ON": self.on, "NO_COLOR": "1"}
        return kept | ({"DATABASE_URL": self.database} if self.database else {}) | self.variables

    def start(self, *args: str, **options: Any) -> Fm:
        """`fm`, not waited for."""
        log = self.logs / f"{len(self._started):03d}-{args[0]}"
        started = Fm(args, self.root, self.environ, log, **options)
        self._started.append(started)
        return started

    def fm(self, *args: str, within_s: float = 90.0) -> Fm:
        """`fm`, to its end."""
        return self.start(*args).end(within_s)

    def run(self, pipeline: str, *args: str, **options: Any) -> Fm:
        """`fm run --json` of a pipeline, not waited for."""
        return self.start("run", pipeline, "--json", *args, **options)

    def processes(self) -> list[int]:
        """Every living process that was started for this project, by us or by Ray."""
        mark = f"FLOWMASON_HOME={self.home}".encode()
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != os.getpid():
                try:
                    state = (entry / "stat").read_bytes().rpartition(b")")[2].split()[0]
                    if state != b"Z" and mark in (entry / "environ").read_bytes().split(b"\0"):
                        found.append(int(entry.name))
                except OSError:
                    continue
        return found

    def close(self) -> None:
        """End whatever of ours still lives."""
        mine = [started.pid for started in self._started if started.process.poll() is None]
        for pid in self.processes() if self._alone else mine:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        for started in self._started:
            started.process.wait(30)

    def __repr__(self) -> str:
        return "\n".join(["", *(repr(each) for each in self._started)])

    # -- what happened ---------------------------------------------------------------------------

    def entries(self, what: str = "begin", path: str | None = None) -> list[Entry]:
        """Lines of the ledger, in order."""
        lines = self.ledger.read_bytes().splitlines() if self.ledger.exists() else []
        found = [msgspec.json.decode(line, type=Entry) for line in lines]
        return [entry for entry in found if entry.what == what and path in (None, entry.path)]

    def await_entries(self, count: int) -> None:
        """Wait until so many stages began."""
        wait_for(lambda: len(self.entries()) >= count, what=lambda: f"{count} stages begin {self!r}")

    def began(self, path: str, times: int = 1) -> Entry:
        """Wait until the stage began so many times; returns the latest beginning."""
        return wait_for(lambda: self.entries("begin", path)[times - 1 :], what=lambda: f"{path} begins {self!r}")[-1]

    @property
    def journal_url(self) -> str:
        return self.database or f"sqlite:///{self.root}/.flowmason/flowmason.db"

    def rows(self) -> list[RunRow]:
        """Every run, the newest first."""
        return self._read(lambda journal: journal.rows(LOCAL_ORG))

    def only_run(self) -> RunRow:
        """The one run there is."""
        [row] = self.rows()
        return row

    def events(self, run_id: str | None = None) -> list[ev.Recorded]:
        """The journal of a run (default: of the only one)."""
        wanted = RunId(run_id) if run_id else self.only_run().run_id
        return self._read(lambda journal: journal.read(wanted))

    def _read(self, ask: Callable[[SqlJournal], Awaitable[T]]) -> T:
        async def read() -> T:
            journal = open_journal(self.journal_url)
            try:
                return await ask(journal)
            finally:
                await journal.close()

        return asyncio.run(read())

    def finished(self, path: str, run_id: str | None = None) -> bool:
        """Whether the journal has the stage's result."""
        return any(
            isinstance(each.event, ev.StageFinished) and format_path(each.event.path) == path
            for each in self.events(run_id)
        )

    def await_finished(self, path: str) -> None:
        """Wait until the journal has the stage's result."""
        wait_for(lambda: self.finished(path), what=lambda: f"{path} finishes {self!r}")

    def verify(self, status: str = "completed", run_id: str | None = None, pids: Sequence[int] | None = None) -> Story:
        """What holds after any fault; see `Story`. With `pids` only their lines of the ledger count."""
        begins = [entry for entry in self.entries() if pids is None or entry.pid in pids]
        story = Story(self.events(run_id), begins)
        story.check()
        assert story.status == status, story
        return story


class Story:
    """The journal of one run beside the ledger of its effects."""

    def __init__(self, recorded: list[ev.Recorded], begins: list[Entry]) -> None:
        self.recorded = recorded
        self.begins = begins
        self.results: dict[tuple[str, int], list[ev.Recorded]] = defaultdict(list)
        self.starts: dict[tuple[str, int, int], int] = {}
        self.reopened: Counter[str] = Counter()
        self.status = "running"
        rounds: dict[StagePath, int] = defaultdict(lambda: 1)
        items: dict[StagePath, list[tuple[int, int]]] = defaultdict(list)
        for each in recorded:
            event = each.event
            if isinstance(event, ev.StageReopened):
                rounds[event.path] = event.round
                self.reopened[format_path(event.path)] += 1
            elif isinstance(event, ev.StageStarted):
                self.starts[format_path(event.path), event.round, event.attempt] = each.at
            elif isinstance(event, ev.StageFinished):
                self.results[format_path(event.path), rounds[event.path]].append(each)
            elif isinstance(event, ev.ItemsFinished):
                items[event.path].append((event.start, event.start + event.count))
                for index in range(event.start, event.start + event.count):
                    for name in event.columns:
                        self.results[format_path((*event.path, index, name)), 1].append(each)
            elif isinstance(event, ev.RunReopened):
                self.status = "running"
            elif isinstance(event, ev.RunCompleted | ev.RunFailed | ev.RunCancelled):
                self.status = ev.kind(event).removeprefix("run.")

    def check(self) -> None:
        """Hold the two against each other.

        The journal has no gaps; no result is recorded twice; no stage began once its result was committed; each
        effect was journalled before it began, and repeats carry one key.
        """
        assert [each.seq for each in self.recorded] == list(range(1, len(self.recorded) + 1)), self
        assert isinstance(self.recorded[0].event, ev.RunSubmitted), self
        for (path, round_), results in self.results.items():
            assert len(results) == 1, f"{path} round {round_} has {len(results)} results\n{self}"
            late = [
                entry
                for entry in self.begins
                if (entry.path, entry.round) == (path, round_) and entry.at > results[0].at
            ]
            assert not late, f"{path} was redone after its result was committed: {late}\n{self}"
        keys: dict[tuple[str, int], set[str]] = defaultdict(set)
        for entry in self.begins:
            if entry.key is not None:
                keys[entry.path, entry.round].add(entry.key)
                started = self.starts.get((entry.path, entry.round, entry.attempt))
                assert started is not None and started <= entry.at, f"{entry} began before it was journalled\n{self}"
        for (path, round_), found in keys.items():
            assert len(found) == 1, f"{path} round {round_} was run under {len(found)} keys\n{self}"

    def times(self, path: str) -> int:
        """How often the stage began."""
        return sum(entry.path == path for entry in self.begins)

    def kinds(self, kind: type[T]) -> list[T]:
        """The events of one kind."""
        return [each.event for each in self.recorded if isinstance(each.event, kind)]

    def __repr__(self) -> str:
        lines = [f"{each.seq:4d} {each.at} {str(each.event)[:160]}" for each in self.recorded]
        return "\n".join(["journal:", *lines, "ledger:", *(str(entry) for entry in self.begins)])


def stage(id: str, component: str, **keys: Any) -> dict[str, Any]:
    """A stage; `after` names the stage whose value it reads, `policy` goes beside the config."""
    after = keys.pop("after", None)
    config = {**keys, **({"after": f"{{{{upstream.{after}.value}}}}"} if after else {})}
    return {
        "id": id,
        "component": component,
        "config": {key: str(v) if isinstance(v, Path) else v for key, v in config.items()},
    }


def chain(*components: str, gates: dict[int, Path] | None = None, **config: Any) -> list[dict[str, Any]]:
    """Stages `s1`, `s2` …, each reading the one before; `gates` names what a stage (from 1) waits for."""
    found = []
    for n, component in enumerate(components, start=1):
        more = {"gate": gates[n]} if gates and n in gates else {}
        found.append(stage(f"s{n}", component, **({"after": f"s{n - 1}"} if n > 1 else {}), **more, **config))
    return found


def wait_for(look: Callable[[], T], *, what: str | Callable[[], str], within_s: float = 60.0) -> T:
    """Wait until `look` gives something true; returns it."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        found = look()
        if found:
            return found
        time.sleep(0.03)
    raise AssertionError(f"it did not come to pass within {within_s:g} s: {what if isinstance(what, str) else what()}")


@contextmanager
def standing_cluster(folder: Path) -> Iterator[Project]:
    """A warm Ray of two CPUs, by `fm cluster up`, and the project that owns it."""
    owner = Project(folder, on="ray")
    try:
        up = owner.fm("cluster", "up", "--num-cpus", "2", "--no-dashboard")
        assert up.code == 0, repr(up)
        yield owner
        owner.fm("cluster", "down")
    finally:
        owner.close()
