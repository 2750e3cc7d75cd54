"""Live streams: in order, without gap or repetition, from where the reader was."""

from __future__ import annotations

from typing import Any

from studio.conducting import awaited, conducting, ended, hello, made, sse, started
from studio.kit import Studio


def _seqs(events: list[dict[str, Any]]) -> list[int]:
    return [int(event["id"]) for event in events if "event" not in event]


def test_a_reader_that_comes_back_goes_on_where_it_was(studio: Studio) -> None:
    run = started(studio, made(studio, hello())["id"])
    with conducting(studio.services.settings):
        done = ended(studio, run["id"])
    last = done["seq"]
    assert _seqs(sse(studio, run["id"])) == list(range(1, last + 1))
    assert _seqs(sse(studio, f"{run['id']}?after=2")) == list(range(3, last + 1))
    assert _seqs(sse(studio, run["id"], **{"Last-Event-ID": "1"})) == list(range(2, last + 1))
    address = f"/api/v1/runs/{run['id']}/stream"
    over = studio.client.get(address, headers={**studio.headers(), "Last-Event-ID": str(last)})
    assert over.status_code == 204
    beyond = studio.client.get(f"{address}?after={last + 1}", headers=studio.headers())
    assert beyond.status_code == 400
    for text in (b"x", b"1.", b".1", b"1.2.3", b"-1", b"\xb2", b"9" * 17):
        headers = {name.encode(): item.encode() for name, item in studio.headers().items()}
        garbage = studio.client.get(address, headers={**headers, b"Last-Event-ID": text})
        assert garbage.status_code == 400, text
    assert studio.services.live.followed == 0


def test_the_journal_is_read_in_pages(studio: Studio) -> None:
    run = started(studio, made(studio, hello())["id"])
    with conducting(studio.services.settings):
        last = ended(studio, run["id"])["seq"]
    seqs: list[int] = []
    after = "0"
    while after is not None:
        address = f"/api/v1/runs/{run['id']}/events?after={after}&limit=1"
        page = studio.client.get(address, headers=studio.headers()).json()
        seqs += [event["seq"] for event in page["items"]]
        after = page["next_cursor"]
    assert seqs == list(range(1, last + 1))


def test_a_cancelled_run_ends_and_says_why(studio: Studio) -> None:
    run = started(studio, made(studio, hello())["id"])
    asked = studio.client.post(f"/api/v1/runs/{run['id']}/cancel", json={"reason": "no need"}, headers=studio.headers())
    assert asked.status_code == 202, asked.text
    with conducting(studio.services.settings):
        done = awaited(studio, run["id"], {"cancelled", "completed", "failed"})
    assert done["status"] == "cancelled" and done["reason"] == "no need"
    again = studio.client.post(f"/api/v1/runs/{run['id']}/cancel", headers=studio.headers())
    assert again.status_code == 409
    gone = studio.client.delete(f"/api/v1/runs/{run['id']}", headers=studio.headers())
    assert gone.status_code == 204
    assert studio.client.get(f"/api/v1/runs/{run['id']}", headers=studio.headers()).status_code == 404
