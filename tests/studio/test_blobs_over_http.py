"""Files are uploaded to an org, and stand in the inputs of its runs."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from flowmason import retention
from flowmason.ids import Digest, sha256
from flowmason.journal_sql import open_journal
from flowmason.studio.identity.permissions import Role
from flowmason_serve_apps.studio.routes import blobs
from studio.conducting import conducting, ended, hello, made, started
from studio.kit import Studio, settings_in, studio_in

DATA = bytes(range(256)) * 400
"""More than the limit of other bodies, below."""
BLOBS = "/api/v1/blobs"


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Studio]:
    """A Studio with small bounds."""
    settings = msgspec.structs.replace(settings_in(tmp_path), max_body_bytes=1000, max_blob_bytes=len(DATA))
    with studio_in(tmp_path, settings) as studio:
        yield studio


def _upload(studio: Studio, content: Any, type_: str | None = "application/pdf", **headers: str) -> Any:
    more = {**studio.headers(Role.DEVELOPER), **headers, **({"Content-Type": type_} if type_ else {})}
    return studio.client.post(BLOBS, content=content, headers=more)


def _kept(studio: Studio) -> list[Path]:
    root = Path(studio.services.settings.values_url)
    return [path for path in root.rglob("*") if path.is_file()]


def test_a_file_stands_in_the_input_of_a_run_by_what_the_upload_answered(small: Studio) -> None:
    answer = _upload(small, DATA)
    assert answer.status_code == 201, answer.text
    blob = answer.json()
    assert blob == {"$blob": sha256(DATA), "type": "application/pdf", "size": len(DATA)}
    assert _upload(small, DATA).json() == blob and len(_kept(small)) == 1
    stage = {
        "id": "see",
        "component_type": "json_transform",
        "config": {"data": "{{input.doc}}", "jmespath_expression": "@"},
    }
    pipeline = made(small, {"name": "seer", "version": "1.0.0", "stages": [stage]})
    run = started(small, pipeline["id"], {"doc": blob})
    with conducting(small.services.settings):
        assert ended(small, run["id"])["output"]["result"] == blob
    address = f"/api/v1/runs/{run['id']}/values/{blob['$blob']}"
    octets = {"Accept": "application/octet-stream"}
    assert small.client.get(address, headers={**small.headers(), **octets}).content == DATA
    assert small.client.get(address, headers={**small.other_headers(), **octets}).status_code == 404
    assert not small.services.values.has(small.other, Digest(blob["$blob"]))


class Sweeper:
    """The values as a sweep sees them that has looked, and is about to remove: then something happens."""

    def __init__(self, values: Any, happens: Callable[[], None]) -> None:
        self._values, self._happens = values, happens

    def __getattr__(self, name: str) -> Any:
        return getattr(self._values, name)

    def delete(self, *given: Any) -> bool:
        self._happens()
        return bool(self._values.delete(*given))


async def test_a_file_that_a_run_names_while_a_sweep_is_about_to_remove_it_stays(small: Studio) -> None:
    blob = _upload(small, DATA).json()
    (file,) = _kept(small)
    os.utime(file, (1, 1))
    stage = {"id": "see", "component_type": "json_transform", "config": {"data": 1, "jmespath_expression": "@"}}
    pipeline = made(small, {"name": "seer", "version": "1.0.0", "stages": [stage]})
    runs: list[Any] = []
    values: Any = Sweeper(small.services.values, lambda: runs.append(started(small, pipeline["id"], {"doc": blob})))
    journal = open_journal(small.services.settings.database_url)
    try:
        assert (await retention.sweep(journal, values, small.org)).values == 0
        assert len(runs) == 1 and file.read_bytes() == DATA
        os.utime(file, (1, 1))
        assert (await retention.sweep(journal, values, small.org)).values == 0 and len(runs) == 1, "a run mentions it"
    finally:
        await journal.close()


def test_what_is_too_large_is_refused_and_not_kept(small: Studio) -> None:
    def pieces() -> Iterator[bytes]:
        yield DATA
        yield b"!"

    assert _upload(small, iter([DATA[:1000], DATA[1000:]])).status_code == 201
    before = _kept(small)
    for content in (DATA + b"!", pieces()):
        answer = _upload(small, content)
        assert answer.status_code == 413 and answer.json()["code"] == "TOO_LARGE", answer.text
    assert _kept(small) == before


def test_an_upload_says_what_it_is_or_is_bytes(small: Studio) -> None:
    assert _upload(small, b"", None).json() == {"$blob": sha256(b""), "type": "application/octet-stream", "size": 0}
    assert _upload(small, b"x", "Text/Plain; charset=utf-8").json()["type"] == "text/plain"
    for wrong in ("pdf", "a/b/c", "text/<script>"):
        answer = _upload(small, b"x", wrong)
        assert answer.status_code == 400 and answer.json()["code"] == "USAGE", answer.text


def test_a_run_whose_input_names_a_blob_that_is_not_there_is_refused_with_the_place(small: Studio) -> None:
    pipeline = made(small, {"name": "seer", "version": "1.0.0", "stages": [hello()["stages"][0]]})
    blob = _upload(small, b"mine").json()
    theirs = small.client.post(BLOBS, content=b"theirs", headers=small.other_headers()).json()
    address = f"/api/v1/pipelines/{pipeline['id']}/run"
    given = {
        "good": blob,
        "docs": [blob, {"$blob": sha256(b"nothing")}],
        "deep": {"of another": theirs, "odd": {"$blob": "../../etc/passwd"}, "none": {"$blob": 1}},
    }
    for body in ({"input": given}, {"input": given, "async_mode": False}):
        answer = small.client.post(address, json=body, headers=small.headers())
        assert answer.status_code == 422 and answer.headers["content-type"] == "application/problem+json"
        places = [fault["pointer"] for fault in answer.json()["faults"]]
        assert places == ["$.input.deep.none", "$.input.deep.odd", '$.input.deep["of another"]', "$.input.docs[1]"]
        assert answer.json()["code"] == "INVALID_INPUT"
    assert small.client.get("/api/v1/runs", headers=small.headers()).json()["items"] == []
    assert started(small, pipeline["id"], {"good": blob, "docs": [blob]})["status"] == "queued"


def test_who_may_start_no_runs_uploads_nothing(small: Studio) -> None:
    assert small.client.post(BLOBS, content=DATA, headers=small.headers(Role.VIEWER)).status_code == 403
    assert small.client.post(BLOBS, content=DATA).status_code == 401
    assert not _kept(small)


async def _told(studio: Studio, receive: Any, **given: str) -> dict[str, Any]:
    """What the app says first to an upload whose messages `receive` gives."""
    sent: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        sent.append(message)

    headers = {"host": "127.0.0.1", **{name.lower(): text for name, text in (given or studio.headers()).items()}}
    scope = {
        "type": "http", "method": "POST", "path": BLOBS, "raw_path": BLOBS.encode(), "query_string": b"",
        "scheme": "http", "http_version": "1.1", "server": ("127.0.0.1", 80), "client": ("127.0.0.1", 1),
        "root_path": "",
        "headers": [(name.encode(), text.encode()) for name, text in headers.items()], "state": {},
    }  # fmt: skip
    await asyncio.wait_for(studio.app(scope, receive, send), 60)
    return sent[0]


HALF = {"type": "http.request", "body": b"half", "more_body": True}


async def test_a_body_that_breaks_off_is_no_file(small: Studio) -> None:
    come: Iterator[dict[str, Any]] = iter([HALF, {"type": "http.disconnect"}])

    async def receive() -> dict[str, Any]:
        return next(come)

    assert (await _told(small, receive))["status"] == 400
    assert not _kept(small)


async def test_so_many_files_of_an_org_are_taken_in_at_once_and_no_more(
    small: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blobs, "MOST_UPLOADS", 2)
    go_on = asyncio.Event()

    def upload(**headers: str) -> tuple[asyncio.Task[dict[str, Any]], asyncio.Event]:
        come, begun = [HALF, {"type": "http.request", "body": b"", "more_body": False}], asyncio.Event()

        async def receive() -> dict[str, Any]:
            if len(come) == 1:
                begun.set()
                await go_on.wait()
            return come.pop(0)

        return asyncio.create_task(_told(small, receive, **headers)), begun

    first = [upload(), upload()]
    async with asyncio.timeout(60):
        await asyncio.gather(*(begun.wait() for _, begun in first))
        refused, _ = upload()
        answer = await refused
        assert answer["status"] == 429 and (b"retry-after", b"5") in answer["headers"]
        other, begun = upload(**small.other_headers())
        await begun.wait()
        go_on.set()
        taken = await asyncio.gather(other, *(task for task, _ in first))
        assert [each["status"] for each in taken] == [201, 201, 201]
        assert (await upload()[0])["status"] == 201, "there is room again"
    assert not small.services.uploads


async def test_a_body_that_never_ends_is_given_up(small: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blobs, "BODY_S", 0.1)
    come = [HALF]

    async def receive() -> dict[str, Any]:
        while not come:
            await asyncio.sleep(60)
        return come.pop()

    assert (await _told(small, receive))["status"] == 408
    assert not _kept(small)
