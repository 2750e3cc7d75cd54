"""Journals in SQL when processes, disks and servers fail."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from flowmason.database import sqlite
from flowmason.database.connections import Connection
from flowmason.database.sqlite import SqliteDatabase
from flowmason.errors import Code, FormatError, JournalError, Retry
from flowmason.event import RunSubmitted, encode_events
from flowmason.ids import RunId
from flowmason.journal_sql import SqlJournal, open_journal
from flowmason.journal_sql.operations import AddEvents, Beat, Post
from flowmason.journal_sql.writer import Writer
from flowmason.value import inline
from journal_samples import ME, OTHER, PLAN_ID, Opener, append, claimed, command, contiguous, finished, new_run
from services import PostgresServer

_APPEND_FOR_EVER = """
import asyncio, itertools, sys
sys.path.insert(0, sys.argv[2])
from journal_samples import append, claimed, finished
from flowmason.journal_sql import open_journal
from flowmason.ids import ConductorId

async def main():
    journal = open_journal(sys.argv[1])
    async def walk(name):
        row = await claimed(journal, name, ConductorId("cond_" + name))
        for seq in itertools.count(1, 2):
            last = await journal.append(append(row, finished("s", "x" * 500), finished("t"), seq=seq))
            print(name, last, flush=True)
    await asyncio.gather(*map(walk, sys.argv[3:]))
asyncio.run(main())
"""

_FILL_THE_DISK = """
import asyncio, resource, sys, os
sys.path.insert(0, sys.argv[2])
from journal_samples import append, claimed, contiguous, finished
from flowmason.errors import JournalError
from flowmason.journal_sql import open_journal

async def main():
    journal = open_journal(sys.argv[1])
    row = await claimed(journal)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (600_000, hard))
    last = 1
    try:
        while True:
            last = await journal.append(append(row, finished("s", os.urandom(40_000)), seq=last))
    except JournalError as error:
        assert error.failure.code == "STORAGE", error.failure
        print(error)
    assert last > 3
    await contiguous(journal, row.run_id, last)
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    await journal.append(append(row, finished("s", os.urandom(40_000)), seq=last))
    await contiguous(journal, row.run_id, last + 1)
    await journal.close()
asyncio.run(main())
"""

TESTS = str(Path(__file__).parents[1])


def _child(code: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, text=True)


def _acknowledged(child: subprocess.Popen[str], lines: int) -> dict[str, int]:
    assert child.stdout is not None
    last: dict[str, int] = {}
    for line in itertools.islice(child.stdout, lines):
        name, seq = line.split()
        last[name] = int(seq)
    return last


@pytest.mark.parametrize("store", ["sqlite"])
async def test_after_a_writer_was_killed_the_journal_is_whole_and_has_all_it_acknowledged(
    store_url: str, open_another: Opener
) -> None:
    child = _child(_APPEND_FOR_EVER, store_url, TESTS, "a", "b", "c")
    last = _acknowledged(child, 200)
    os.kill(child.pid, signal.SIGKILL)
    for line in child.communicate()[0].splitlines():
        if len(parts := line.split()) == 2 and parts[1].isdigit():
            last[parts[0]] = max(int(parts[1]), last[parts[0]])
    journal = open_another()
    for name, seq in last.items():
        row = await journal.row(RunId(f"run_{name}"))
        assert row is not None
        assert row.seq >= seq
        await contiguous(journal, row.run_id, row.seq)
    assert len(last) == 3


@pytest.mark.parametrize("store", ["sqlite"])
async def test_two_processes_write_one_sqlite_file(store_url: str, open_another: Opener) -> None:
    children = [_child(_APPEND_FOR_EVER, store_url, TESTS, name) for name in ("a", "b")]
    journal = open_another()
    row = await claimed(journal, "mine")
    seq = 1
    for _ in range(100):
        seq = await journal.append(append(row, finished("s"), seq=seq))
    for child, name in zip(children, ("a", "b"), strict=True):
        assert _acknowledged(child, 50)[name] == 101
        child.kill()
        child.communicate()
    await contiguous(journal, row.run_id, 101)
    for name in ("a", "b"):
        found = await journal.row(RunId(f"run_{name}"))
        assert found is not None
        await contiguous(journal, found.run_id, found.seq)


@pytest.mark.parametrize("store", ["sqlite"])
def test_a_full_disk_is_a_storage_error_that_leaves_nothing_half_written(store_url: str) -> None:
    child = _child(_FILL_THE_DISK, store_url, TESTS)
    output, _ = child.communicate(timeout=60)
    assert child.returncode == 0
    assert "does not take more" in output


@pytest.mark.parametrize("store", ["sqlite"])
async def test_a_file_that_another_process_keeps_locked_is_an_error_that_may_pass(
    store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "BUSY_TIMEOUT_S", 0.1)
    journal = open_journal(store_url)
    row = await claimed(journal)
    other = sqlite3.connect(store_url.removeprefix("sqlite:///"), isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(JournalError, match="locked") as caught:
        await journal.append(append(row, finished("s")))
    assert (caught.value.failure.code, caught.value.failure.retry) == (Code.STORAGE, Retry.NOW)
    other.execute("ROLLBACK")
    other.close()
    assert await journal.append(append(row, finished("s"))) == 2
    await journal.close()


@pytest.mark.parametrize("store", ["sqlite"])
async def test_a_frame_that_cannot_be_read_is_named(store_url: str, sql: SqlJournal) -> None:
    row = await claimed(sql)
    good = encode_events((RunSubmitted(PLAN_ID, inline(1)),))
    for codec, data in ((0, good[:-3]), (1, b"no zlib"), (7, good), (0, b"\x91\x81\xa4kind\xabrun.adopted")):
        with sqlite3.connect(store_url.removeprefix("sqlite:///")) as connection:
            connection.execute("UPDATE frames SET codec=?, data=?", (codec, data))
        connection.close()
        with pytest.raises(FormatError, match="events 1 to 1 of run run_a"):
            await sql.frames(row.run_id)


@pytest.mark.parametrize("store", ["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
async def test_two_submitters_with_one_key_get_one_run(sql: SqlJournal, open_another: Opener) -> None:
    other = open_another()
    for n in range(10):
        first, second = await asyncio.gather(
            sql.submit(new_run(f"a{n}", idempotency_key=f"k{n}")),
            other.submit(new_run(f"b{n}", idempotency_key=f"k{n}")),
        )
        assert first.run_id == second.run_id


@pytest.mark.parametrize("store", ["sqlite"])
async def test_a_closed_journal_refuses(sql: SqlJournal) -> None:
    row = await claimed(sql)
    await sql.close()
    with pytest.raises(JournalError, match="closed"):
        await sql.append(append(row, finished("s")))
    with pytest.raises(JournalError, match="closed"):
        await sql.row(row.run_id)


class _Watched:
    """A connection that writes down transactions and holds the first commit back."""

    def __init__(self, inner: Connection) -> None:
        self._inner = inner
        self.begun: list[bool] = []
        self.go_on = threading.Event()

    def __getattr__(self, name: str) -> object:
        return getattr(self._inner, name)

    def begin(self, durable: bool) -> None:
        self.begun.append(durable)
        self._inner.begin(durable)

    def commit(self) -> None:
        self.go_on.wait(60)
        self._inner.commit()


@pytest.mark.parametrize("store", ["sqlite"])
async def test_what_arrives_during_a_commit_shares_the_next_which_is_durable_if_one_asks(
    store_url: str, sql: SqlJournal
) -> None:
    rows = [await claimed(sql, f"r{n}") for n in range(8)]
    where = SqliteDatabase(store_url)
    watched = _Watched(where.connect())
    writer = Writer(where, watched, patience_s=1)  # type: ignore[arg-type]
    beat = asyncio.create_task(writer.write(Beat(ME)))
    while not watched.begun:
        await asyncio.sleep(0.001)
    writes = [asyncio.create_task(writer.write(AddEvents(append(row, finished("s"))))) for row in rows]
    writes.append(asyncio.create_task(writer.write(Post(command(rows[0])))))
    await asyncio.sleep(0.01)
    watched.go_on.set()
    assert await asyncio.gather(beat, *writes) == [True, *[2] * 8, True]
    assert watched.begun == [False, True]
    await asyncio.to_thread(writer.close)


@pytest.mark.postgres
@pytest.mark.parametrize("store", ["postgres"])
async def test_a_server_restart_under_load_loses_and_doubles_nothing(
    sql: SqlJournal, postgres_server: PostgresServer
) -> None:
    rows = [await claimed(sql, f"r{n}") for n in range(8)]
    done = {row.run_id: 1 for row in rows}
    stop = asyncio.Event()

    async def walk(run: int) -> None:
        while not stop.is_set():
            last = done[rows[run].run_id]
            done[rows[run].run_id] = await sql.append(append(rows[run], finished("s", last), seq=last, at=last))

    walks = [asyncio.create_task(walk(n)) for n in range(len(rows))]
    reads = asyncio.create_task(_read_until(stop, sql, rows[0].run_id))
    for _ in range(2):
        await asyncio.sleep(0.3)
        await asyncio.to_thread(postgres_server.stop)
        before = dict(done)
        await asyncio.to_thread(postgres_server.start)
        while min(done[run_id] - before[run_id] for run_id in done) < 5:
            await asyncio.sleep(0.01)
    stop.set()
    await asyncio.gather(*walks, reads)
    for row in rows:
        await contiguous(sql, row.run_id, done[row.run_id])
        events = [recorded.event for recorded in await sql.read(row.run_id, 1)]
        assert events == [finished("s", seq) for seq in range(1, done[row.run_id])]


async def _read_until(stop: asyncio.Event, journal: SqlJournal, run_id: RunId) -> None:
    while not stop.is_set():
        assert await journal.row(run_id) is not None
        await asyncio.sleep(0.01)


class _Proxy:
    """Stands between a journal and its server; once armed, it cuts the line at the next COMMIT."""

    def __init__(self, server: PostgresServer) -> None:
        self._target = int(server.url().rpartition(":")[2].partition("/")[0])
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.cut: str | None = None
        self.cuts = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self._target))
            threading.Thread(target=self._pump, args=(client, server, True), daemon=True).start()
            threading.Thread(target=self._pump, args=(server, client, False), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, from_client: bool) -> None:
        try:
            while data := source.recv(65536):
                if from_client and self.cut and b"COMMIT" in data:
                    when, self.cut = self.cut, None
                    self.cuts += 1
                    # The client sees the line die first, so that the answer cannot reach it.
                    source.shutdown(socket.SHUT_RDWR)
                    if when == "after":
                        sink.sendall(data)
                        sink.recv(65536)
                    break
                sink.sendall(data)
        except OSError:
            pass
        finally:
            for end in (source, sink):
                end.close()


@pytest.fixture
def proxy(postgres_server: PostgresServer) -> Iterator[_Proxy]:
    standing = _Proxy(postgres_server)
    yield standing
    standing.close()


@pytest.mark.postgres
@pytest.mark.parametrize("store", ["postgres"])
@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_connection_that_dies_in_a_commit_neither_loses_nor_doubles_it(
    store_url: str, sql: SqlJournal, proxy: _Proxy, when: str
) -> None:
    row = await claimed(sql)
    await sql.enlist(OTHER, "host", 2)
    name = store_url.rpartition("/")[2]

    async def through(use: str) -> SqlJournal:
        journal = open_journal(f"postgresql://postgres@127.0.0.1:{proxy.port}/{name}", patience_s=20)
        proxy.cut = use
        return journal

    journal = await through(when)
    assert await journal.append(append(row, finished("s"))) == 2
    await contiguous(sql, row.run_id, 2)
    await journal.close()

    journal = await through(when)
    assert (await journal.submit(new_run("b", idempotency_key="k"))).run_id == "run_b"
    await contiguous(sql, RunId("run_b"), 1)
    await journal.close()

    journal = await through(when)
    [found] = await journal.claim(OTHER, 0, 10)
    assert (found.row.run_id, found.row.owner, found.row.epoch) == ("run_b", OTHER, 1)
    await journal.close()

    journal = await through(when)
    begun, ours = await journal.begin(new_run("c"), OTHER)
    assert (ours, begun.owner, begun.epoch) == (True, OTHER, 1)
    await contiguous(sql, RunId("run_c"), 1)
    await journal.close()

    journal = await through(when)
    assert await journal.bury(OTHER, 0)
    assert list(await sql.beats()) == [ME]
    await journal.close()
    assert proxy.cuts == 5


@pytest.mark.postgres
@pytest.mark.parametrize("store", ["postgres"])
async def test_a_server_that_stays_away_is_an_error_that_may_pass(
    store_url: str, postgres_server: PostgresServer
) -> None:
    journal = open_journal(store_url, patience_s=0.2)
    row = await claimed(journal)
    await asyncio.to_thread(postgres_server.stop)
    try:
        with pytest.raises(JournalError, match="does not answer") as caught:
            await journal.append(append(row, finished("s")))
        assert (caught.value.failure.code, caught.value.failure.retry) == (Code.STORAGE, Retry.NOW)
        with pytest.raises(JournalError, match="does not answer"):
            await journal.row(row.run_id)
    finally:
        await asyncio.to_thread(postgres_server.start)
    assert await journal.append(append(row, finished("s"))) == 2
    await journal.close()
