"""http_request against a real server on the loopback, through the guarded client."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from pydantic import ValidationError

from flowmason.component import spec_of
from flowmason.control import catches
from flowmason.egress import EgressPolicy
from flowmason.errors import Code, EgressError, Retry, RetryableError, StageError, StageTimeoutError
from flowmason.http_egress import guarded_client
from flowmason.lab.operators.http_request import HttpRequest
from flowmason.policy import Effect, Placement

Run = Callable[..., Any]


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *arguments: Any) -> None:
        pass

    def answer(self) -> None:
        length = int(self.headers.get("content-length") or 0)
        body = self.rfile.read(length).decode()
        path = self.path.split("?")[0]
        status, kind, content = 200, "application/json", b""
        if path == "/echo":
            content = json.dumps(
                {
                    "method": self.command,
                    "path": self.path,
                    "headers": {k.lower(): v for k, v in self.headers.items()},
                    "body": body,
                }
            ).encode()
        elif path == "/missing":
            status, kind, content = 404, "text/plain; charset=latin-1", "nicht da: ü".encode("latin-1")
        elif path == "/png":
            kind, content = "image/png", b"\x89PNG\xff\xfe"
        elif path == "/liar":
            content = b"no json"
        elif path == "/big":
            content = b"x" * 5000
        elif path == "/slow":
            time.sleep(3)
        elif path == "/drop":
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        elif path == "/moved":
            self.send_response(302)
            self.send_header("location", "/echo")
            self.send_header("content-length", "0")
            self.end_headers()
            return
        elif path == "/away":
            self.send_response(302)
            self.send_header("location", "http://169.254.169.254/latest/meta-data")
            self.send_header("content-length", "0")
            self.end_headers()
            return
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = do_OPTIONS = answer


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is part of these tests."""


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture
async def call(server: str, run: Run, context: Any) -> AsyncIterator[Callable[..., Any]]:
    async with guarded_client(EgressPolicy(allow=frozenset({server}))) as client:

        async def call(path: str, **inputs: Any) -> dict[str, Any]:
            url = path if "://" in path else f"http://{server}{path}"
            found: dict[str, Any] = await run(HttpRequest, {"url": url, **inputs}, context(http=client, effect=True))
            return found

        yield call


async def test_an_answer_has_status_headers_body_and_place(call: Run, server: str) -> None:
    found = await call("/echo", params={"q": "a b", "n": [1, 2], "ok": True, "none": None}, headers={"X-Mine": "1"})
    assert (found["status_code"], found["success"]) == (200, True)
    assert found["headers"]["content-type"] == "application/json"
    assert found["body"]["path"] in ("/echo?q=a+b&n=1&n=2&ok=true", "/echo?q=a%20b&n=1&n=2&ok=true")
    assert found["body"]["headers"]["x-mine"] == "1"
    assert "idempotency-key" not in found["body"]["headers"]
    assert found["url"].startswith(f"http://{server}/echo?")
    assert found["elapsed_ms"] > 0


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
async def test_calls_that_change_something_carry_the_idempotency_key(call: Run, method: str, context: Any) -> None:
    found = await call("/echo", method=method, body={"a": 1})
    assert found["body"]["method"] == method
    assert json.loads(found["body"]["body"]) == {"a": 1}
    assert found["body"]["headers"]["content-type"] == "application/json"
    assert found["body"]["headers"]["idempotency-key"] == context(effect=True).idempotency_key
    own = await call("/echo", method=method, headers={"idempotency-key": "mine"})
    assert own["body"]["headers"]["idempotency-key"] == "mine"


async def test_text_is_sent_as_it_is(call: Run) -> None:
    found = await call("/echo", method="POST", body="plain")
    assert found["body"]["body"] == "plain"


async def test_another_status_is_an_answer_too(call: Run) -> None:
    found = await call("/missing")
    assert (found["status_code"], found["success"], found["body"]) == (404, False, "nicht da: ü")


async def test_bytes_stay_bytes_and_false_json_is_text(call: Run) -> None:
    assert (await call("/png"))["body"] == b"\x89PNG\xff\xfe"
    assert (await call("/liar"))["body"] == "no json"
    assert (await call("/echo", method="HEAD"))["body"] is None


async def test_redirects_are_followed_if_asked(call: Run, server: str) -> None:
    assert (await call("/moved"))["url"] == f"http://{server}/echo"
    assert (await call("/moved", follow_redirects=False))["status_code"] == 302


async def test_the_egress_guard_stands_under_every_hop(call: Run) -> None:
    with pytest.raises(EgressError):
        await call("/away")
    with pytest.raises(EgressError):
        await call("http://127.0.0.1:1/")


async def test_a_timeout_may_be_retried_unless_it_might_happen_twice(call: Run) -> None:
    with pytest.raises(StageTimeoutError, match="no answer within 1 s") as caught:
        await call("/slow?token=hidden", timeout=1)
    assert caught.value.failure.retry == Retry.NOW
    assert "hidden" not in str(caught.value)
    with pytest.raises(StageTimeoutError) as caught:
        await call("/slow", timeout=1, method="POST")
    assert (caught.value.failure.code, caught.value.failure.retry) == (Code.OUTCOME_UNKNOWN, Retry.NEVER)
    assert catches(["TimeoutError"], caught.value.failure)


async def test_a_broken_connection_may_be_retried_unless_it_might_happen_twice(call: Run) -> None:
    with pytest.raises(RetryableError) as caught:
        await call("/drop")
    assert caught.value.failure.code == Code.CONNECTIVITY
    with pytest.raises(StageError) as unknown:
        await call("/drop", method="PATCH")
    assert (unknown.value.failure.code, unknown.value.failure.retry) == (Code.OUTCOME_UNKNOWN, Retry.NEVER)


async def test_a_post_that_was_never_sent_may_be_retried(run: Run, context: Any) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        place = f"127.0.0.1:{closed.getsockname()[1]}"
        async with guarded_client(EgressPolicy(allow=frozenset({place}))) as client:
            with pytest.raises(RetryableError):
                await run(HttpRequest, {"url": f"http://{place}/", "method": "POST"}, context(http=client, effect=True))


async def test_an_answer_that_is_too_large_is_refused(call: Run) -> None:
    assert (await call("/big", max_response_bytes=5000))["status_code"] == 200
    with pytest.raises(StageError, match="larger than 4999 bytes") as caught:
        await call("/big", max_response_bytes=4999)
    assert caught.value.failure.code == Code.RESOURCE_EXHAUSTED


async def test_what_cannot_be_done_is_refused(call: Run) -> None:
    with pytest.raises(StageError, match="verify_ssl") as caught:
        await call("/echo", verify_ssl=False)
    assert caught.value.failure.code == Code.NOT_SUPPORTED
    with pytest.raises(ValidationError):
        await call("/echo", method="BREW")
    with pytest.raises(StageError) as bad:
        await call("/echo", headers={"x": "a\r\nb: c"})
    assert bad.value.failure.code == Code.INVALID_INPUT


@pytest.mark.parametrize(
    ("inputs", "effect"),
    [
        ({}, Effect.IDEMPOTENT),
        ({"method": "HEAD"}, Effect.IDEMPOTENT),
        ({"method": "PUT"}, Effect.IDEMPOTENT),
        ({"method": "DELETE"}, Effect.IDEMPOTENT),
        ({"method": "POST"}, Effect.UNSAFE),
        ({"method": "PATCH"}, Effect.UNSAFE),
        ({"method": "{{input.method}}"}, Effect.UNSAFE),
    ],
)
def test_the_effect_goes_by_the_literal_method(inputs: dict[str, Any], effect: Effect) -> None:
    spec = spec_of(HttpRequest)
    assert spec.settle(inputs).effect is effect
    assert (spec.placement, spec.deterministic) == (Placement.HOST, False)
