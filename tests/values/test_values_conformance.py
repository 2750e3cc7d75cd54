"""What every store of values promises: the same tests on a folder and on fsspec."""

from __future__ import annotations

import asyncio
import os
import pickle
import subprocess
import sys
import time
from pathlib import Path

import fsspec
import pytest

from flowmason import values_fs
from flowmason.errors import Code, FlowMasonError, UsageError
from flowmason.ids import LOCAL_ORG, Digest, OrgId, sha256
from flowmason.values import ValueStore
from flowmason.values_cache import Cache
from flowmason.values_fs import open_values

pytestmark = pytest.mark.wheel

DATA = b"some bytes" * 10_000
DIGEST = sha256(DATA)

_FILL_THE_DISK = """
import os, resource, sys
from pathlib import Path
from flowmason.errors import FlowMasonError
from flowmason.ids import LOCAL_ORG, sha256
from flowmason.values_cache import Cache
from flowmason.values_fs import open_values

store, data = open_values(sys.argv[1]), os.urandom(300_000)
soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
try:
    store.put(LOCAL_ORG, sha256(data), data)
except FlowMasonError as error:
    assert error.failure.code == "STORAGE", error.failure
    print("refused")
assert not store.has(LOCAL_ORG, sha256(data))
assert not [path for path in Path(sys.argv[1]).rglob("*") if path.is_file()]
resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
store.put(LOCAL_ORG, sha256(data), data)
assert store.get(LOCAL_ORG, sha256(data)) == data
"""


@pytest.fixture(params=["folder", "fsspec"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where a fresh store lies."""
    return str(tmp_path / "values") if request.param == "folder" else f"memory://{tmp_path}"


@pytest.fixture
def store(url: str) -> ValueStore:
    """A fresh store."""
    return open_values(url)


@pytest.fixture
def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that remembers no value, as one that has just started."""
    monkeypatch.setattr(values_fs, "_cache", Cache(0))


def _file(url: str, org_id: str = LOCAL_ORG, digest: str = DIGEST) -> str:
    name = digest.removeprefix("sha256:")
    return f"{url}/{org_id}/{name[:2]}/{name[2:4]}/{name}"


async def _untouched(store: ValueStore, seconds: float, org_id: OrgId = LOCAL_ORG) -> list[tuple[Digest, int]]:
    return [found async for found in store.untouched(org_id, seconds)]


def test_what_was_put_is_there_for_its_org_only(store: ValueStore) -> None:
    assert not store.has(LOCAL_ORG, DIGEST)
    store.put(LOCAL_ORG, DIGEST, DATA)
    store.put(LOCAL_ORG, DIGEST, DATA)
    assert store.has(LOCAL_ORG, DIGEST)
    assert store.get(LOCAL_ORG, DIGEST) == DATA
    assert not store.has(OrgId("other"), DIGEST)
    with pytest.raises(FlowMasonError) as caught:
        store.get(OrgId("other"), DIGEST)
    assert caught.value.failure.code == Code.VALUE_MISSING


@pytest.mark.usefixtures("forget")
@pytest.mark.parametrize("data", [b"", b"\xc0", DATA])
def test_what_was_put_is_read_back_from_where_it_lies(store: ValueStore, data: bytes) -> None:
    store.put(LOCAL_ORG, sha256(data), data)
    assert store.get(LOCAL_ORG, sha256(data)) == data


@pytest.mark.usefixtures("forget")
@pytest.mark.parametrize("data", [b"", DATA, b"more than is read at once" * 100_000])
def test_the_content_of_a_file_is_put_without_taking_the_file(store: ValueStore, tmp_path: Path, data: bytes) -> None:
    file = tmp_path / "given"
    file.write_bytes(data)
    store.put_file(LOCAL_ORG, sha256(data), file)
    store.put_file(LOCAL_ORG, sha256(data), file)
    assert store.get(LOCAL_ORG, sha256(data)) == data == file.read_bytes()
    assert not store.has(OrgId("other"), sha256(data))


def test_a_file_that_cannot_be_read_leaves_nothing(store: ValueStore, tmp_path: Path) -> None:
    with pytest.raises(FlowMasonError) as caught:
        store.put_file(LOCAL_ORG, DIGEST, tmp_path / "nothing")
    assert caught.value.failure.code == Code.STORAGE
    assert not store.has(LOCAL_ORG, DIGEST)


@pytest.mark.usefixtures("forget")
@pytest.mark.parametrize("damage", [DATA[:-1], b"", DATA[:-1] + b"!"])
def test_a_damaged_value_is_missing_and_can_be_put_again(url: str, store: ValueStore, damage: bytes) -> None:
    store.put(LOCAL_ORG, DIGEST, DATA)
    with fsspec.open(_file(url), "wb") as file:
        file.write(damage)
    with pytest.raises(FlowMasonError) as caught:
        store.get(LOCAL_ORG, DIGEST)
    assert caught.value.failure.code == Code.VALUE_MISSING
    assert not store.has(LOCAL_ORG, DIGEST)
    store.put(LOCAL_ORG, DIGEST, DATA)
    assert store.get(LOCAL_ORG, DIGEST) == DATA


@pytest.mark.usefixtures("forget")
def test_putting_over_a_file_of_another_size_mends_it(url: str, store: ValueStore) -> None:
    store.put(LOCAL_ORG, DIGEST, DATA)
    with fsspec.open(_file(url), "wb") as file:
        file.write(DATA[:100])
    store.put(LOCAL_ORG, DIGEST, DATA)
    assert store.get(LOCAL_ORG, DIGEST) == DATA


def test_a_value_that_was_made_here_is_not_read_again(url: str, store: ValueStore) -> None:
    store.put(LOCAL_ORG, DIGEST, DATA)
    with fsspec.open(_file(url), "wb") as file:
        file.write(b"damaged")
    assert store.get(LOCAL_ORG, DIGEST) is store.get(LOCAL_ORG, DIGEST)
    assert store.get(LOCAL_ORG, DIGEST) == DATA


def test_what_is_remembered_stays_within_its_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(values_fs, "_cache", Cache(100))
    store = open_values(str(tmp_path))
    parts = [bytes([n]) * 40 for n in range(3)]
    for part in parts:
        store.put(LOCAL_ORG, sha256(part), part)
    for path in tmp_path.rglob("*"):
        if path.is_file():
            path.unlink()
    with pytest.raises(FlowMasonError):
        store.get(LOCAL_ORG, sha256(parts[0]))
    assert store.get(LOCAL_ORG, sha256(parts[2])) == parts[2]


def test_deleting_is_final_and_may_be_repeated(store: ValueStore) -> None:
    store.put(LOCAL_ORG, DIGEST, DATA)
    assert store.delete(LOCAL_ORG, DIGEST)
    assert not store.delete(LOCAL_ORG, DIGEST)
    assert not store.has(LOCAL_ORG, DIGEST)
    with pytest.raises(FlowMasonError):
        store.get(LOCAL_ORG, DIGEST)


def test_a_value_that_was_just_put_is_not_deleted_as_an_old_one(store: ValueStore) -> None:
    store.put(LOCAL_ORG, DIGEST, DATA)
    assert not store.delete(LOCAL_ORG, DIGEST, untouched_s=60)
    assert store.get(LOCAL_ORG, DIGEST) == DATA


async def test_values_that_nobody_touched_are_listed_with_their_sizes(store: ValueStore) -> None:
    assert await _untouched(store, 0) == []
    other = b"other"
    store.put(LOCAL_ORG, DIGEST, DATA)
    store.put(LOCAL_ORG, sha256(other), other)
    store.put(OrgId("other"), DIGEST, DATA)
    assert sorted(await _untouched(store, 0)) == sorted([(DIGEST, len(DATA)), (sha256(other), 5)])
    assert await _untouched(store, 0, OrgId("other")) == [(DIGEST, len(DATA))]
    assert await _untouched(store, 60) == []


@pytest.mark.parametrize("url", ["folder"], indirect=True)
async def test_putting_again_touches(url: str, store: ValueStore) -> None:
    store.put(LOCAL_ORG, DIGEST, DATA)
    os.utime(_file(url), (1, 1))
    assert await _untouched(store, 60) == [(DIGEST, len(DATA))]
    store.put(LOCAL_ORG, DIGEST, DATA)
    assert await _untouched(store, 60) == []


@pytest.mark.parametrize("url", ["fsspec"], indirect=True)
async def test_putting_a_remote_value_again_after_a_while_touches(
    store: ValueStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(values_fs, "REWRITE_AFTER_S", 0.0)
    store.put(LOCAL_ORG, DIGEST, DATA)
    await asyncio.sleep(0.1)
    store.put(LOCAL_ORG, DIGEST, DATA)
    assert await _untouched(store, 0.09) == []


@pytest.mark.parametrize("url", ["folder"], indirect=True)
async def test_a_value_that_is_touched_counts_as_put_now_and_one_that_is_not_there_does_not(
    url: str, store: ValueStore
) -> None:
    assert not store.touch(LOCAL_ORG, DIGEST)
    store.put(LOCAL_ORG, DIGEST, DATA)
    os.utime(_file(url), (1, 1))
    assert store.touch(LOCAL_ORG, DIGEST) and await _untouched(store, 60) == []
    assert not store.delete(LOCAL_ORG, DIGEST, untouched_s=60)


@pytest.mark.parametrize("url", ["fsspec"], indirect=True)
async def test_a_remote_value_that_is_touched_after_a_while_counts_as_put_now(
    store: ValueStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not store.touch(LOCAL_ORG, DIGEST)
    store.put(LOCAL_ORG, DIGEST, DATA)
    ((_, since),) = [(digest, time.time()) async for digest, _ in store.untouched(LOCAL_ORG, 0)]
    monkeypatch.setattr(values_fs, "REWRITE_AFTER_S", 0.0)
    await asyncio.sleep(0.1)
    assert store.touch(LOCAL_ORG, DIGEST)
    assert await _untouched(store, time.time() - since) == []
    assert store.get(LOCAL_ORG, DIGEST) == DATA


def test_a_value_that_a_sweep_holds_aside_for_a_moment_is_read_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, file = open_values(str(tmp_path)), Path(_file(str(tmp_path)))
    store.put(LOCAL_ORG, DIGEST, DATA)
    os.utime(file, (1, 1))
    read: list[bytes] = []
    clock = time.time

    def between() -> float:
        for aside in file.parent.glob(".*.gone"):  # seen as old; but somebody put it before it was moved
            os.utime(aside)
            read.append(store.get(LOCAL_ORG, DIGEST))
        return clock()

    monkeypatch.setattr(time, "time", between)
    assert not store.delete(LOCAL_ORG, DIGEST, untouched_s=60)
    assert read == [DATA] and file.read_bytes() == DATA


def test_a_store_can_be_sent_to_a_worker(store: ValueStore) -> None:
    store.put(LOCAL_ORG, DIGEST, DATA)
    sent = pickle.loads(pickle.dumps(store))
    assert sent.get(LOCAL_ORG, DIGEST) == DATA


@pytest.mark.parametrize("org", ["..", ".", "a/b", "../../etc", "a b", "ä"])
def test_no_name_of_an_org_leads_out_of_the_store(tmp_path: Path, org: str) -> None:
    store = open_values(str(tmp_path / "values"))
    store.put(OrgId(org), DIGEST, DATA)
    assert store.get(OrgId(org), DIGEST) == DATA
    [path] = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert path.relative_to(tmp_path / "values").parts[1:] == (DIGEST[7:9], DIGEST[9:11], DIGEST[7:])


@pytest.mark.parametrize("digest", ["", "sha256:", "sha256:../../etc/passwd", "md5:" + "0" * 64, DIGEST + "0"])
def test_what_is_no_digest_names_no_value(store: ValueStore, digest: str) -> None:
    for call in (store.get, store.has, store.delete):
        with pytest.raises(FlowMasonError) as caught:
            call(LOCAL_ORG, Digest(digest))
        assert caught.value.failure.code == Code.VALUE_MISSING


def test_where_there_is_no_room_the_value_is_refused_and_nothing_is_left_behind(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _FILL_THE_DISK, str(tmp_path / "values")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout.strip()) == (0, "refused"), done.stderr


def test_a_new_folder_of_values_is_for_its_owner_alone(tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir(mode=0o755)
    for name, mode in (("new", 0o700), ("shared", 0o755)):
        open_values(str(tmp_path / name)).put(LOCAL_ORG, DIGEST, DATA)
        assert (tmp_path / name).stat().st_mode & 0o777 == mode


def test_a_folder_that_cannot_be_written_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "values").write_text("a file where the folder should be")
    with pytest.raises(FlowMasonError) as caught:
        open_values(str(tmp_path / "values")).put(LOCAL_ORG, DIGEST, DATA)
    assert caught.value.failure.code == Code.STORAGE


async def test_what_a_killed_writer_left_is_cleared_after_a_day(tmp_path: Path) -> None:
    store = open_values(f"file://{tmp_path}")
    store.put(LOCAL_ORG, DIGEST, DATA)
    folder = Path(_file(str(tmp_path))).parent
    fresh, stale = folder / ".x.1.tmp", folder / ".y.2.tmp"
    for path in (fresh, stale):
        path.write_bytes(b"half")
    day_ago = time.time() - 25 * 3600
    os.utime(stale, (day_ago, day_ago))
    assert await _untouched(store, 0) == [(DIGEST, len(DATA))]
    assert fresh.exists()
    assert not stale.exists()


def test_an_address_of_an_unknown_kind_is_refused() -> None:
    with pytest.raises(UsageError, match="nowhere://x") as caught:
        open_values("nowhere://x")
    assert caught.value.failure.help
