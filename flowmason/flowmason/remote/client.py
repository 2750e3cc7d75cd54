"""`StudioClient`: requests to a Studio. What it refuses comes back as our own errors, with code, faults and help."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any

import httpx2
import msgspec

from flowmason.errors import Code, EngineUnavailableError, Fault, FlowMasonError, RefusedError, UsageError

PREFIX = "/api/v1"
TIMEOUT = httpx2.Timeout(30.0, connect=5.0)


class RemoteError(FlowMasonError):
    """A Studio refused a request; `status` is the HTTP status."""

    def __init__(self, message: str, *, status: int, **more: Any) -> None:
        super().__init__(message, **more)
        self.status = status


class StudioClient:
    """A Studio's API as one caller. Close it, or use it as a context manager."""

    def __init__(self, url: str, key: str | None = None, *, transport: httpx2.BaseTransport | None = None) -> None:
        if not url.startswith(("http://", "https://")):
            raise UsageError(f"{url!r} is not the address of a Studio", help="It looks like http://127.0.0.1:8999.")
        self.url = url.rstrip("/").removesuffix(PREFIX)
        headers = {"Accept": "application/json", **({"Authorization": f"Bearer {key}"} if key else {})}
        # Redirects are not followed: the key would go along.
        self._http = httpx2.Client(base_url=self.url + PREFIX, headers=headers, timeout=TIMEOUT, transport=transport)

    def __enter__(self) -> StudioClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the connections."""
        self._http.close()

    def get(self, path: str, **query: Any) -> Any:
        """The JSON of a resource."""
        return self.request("GET", path, query=query)

    def pages(self, path: str, **query: Any) -> Iterator[Any]:
        """Every item of a list, page by page."""
        cursor: str | None = None
        while True:
            page = self.get(path, **query, **({"cursor": cursor} if cursor else {}))
            yield from page["items"]
            cursor = page.get("next_cursor")
            if not cursor:
                return

    def request(
        self,
        method: str,
        path: str,
        *,
        body: Any = None,
        query: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        files: Mapping[str, Any] | None = None,
    ) -> Any:
        """Send a request; returns the answer's JSON (None where it has none).

        Raises `RefusedError` where the Studio names faults, `RemoteError` for any other refusal,
        `EngineUnavailableError` where it does not answer.
        """
        answer = self.send(method, path, body=body, query=query, headers=headers, files=files)
        if not answer.content:
            return None
        try:
            return msgspec.json.decode(answer.content)
        except msgspec.DecodeError:
            raise RemoteError(
                f"{self.url} did not answer in JSON: is it a FlowMason Studio?", status=answer.status_code
            ) from None

    def send(
        self,
        method: str,
        path: str,
        *,
        body: Any = None,
        query: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        files: Mapping[str, Any] | None = None,
        content: bytes | None = None,
    ) -> httpx2.Response:
        """The same, but the answer as it came: for its headers, or bytes. `content` is sent as it is."""
        if not path.rpartition("/")[2] or "//" in path:
            raise UsageError("a name or an id is empty")
        given = {name: item for name, item in (query or {}).items() if item is not None}
        more = dict(headers or {})
        if content is not None:
            more["Content-Type"] = "application/octet-stream"
        if body is not None:
            content, more["Content-Type"] = msgspec.json.encode(body), "application/json"
        try:
            try:
                answer = self._http.request(method, path, params=given, content=content, headers=more, files=files)
            except (httpx2.RemoteProtocolError, httpx2.ReadError):
                if method != "GET":
                    raise
                # Whoever was to answer has ended meanwhile; another one may answer.
                answer = self._http.request(method, path, params=given, headers=more)
        except httpx2.TransportError as error:
            raise unreachable(self.url, error) from error
        if answer.status_code >= 300:
            raise refusal(answer)
        return answer

    def streamed(
        self, path: str, *, query: Mapping[str, Any], timeout: httpx2.Timeout
    ) -> AbstractContextManager[httpx2.Response]:
        """An answer that is read as it comes; whoever opens it looks at its status."""
        return self._http.stream("GET", path, params=dict(query), timeout=timeout)


def unreachable(url: str, error: Exception) -> EngineUnavailableError:
    """That nobody answers at an address."""
    return EngineUnavailableError(
        f"the Studio at {url} does not answer: {error or type(error).__name__}",
        help="Check the address (`fm org display`) and that the Studio runs (`fm studio status`).",
    )


def refusal(answer: httpx2.Response) -> FlowMasonError:
    """The error that a Studio answered with."""
    try:
        problem = msgspec.json.decode(answer.content, type=dict[str, Any])
    except msgspec.DecodeError:
        problem = {}
    status = answer.status_code
    detail = str(problem.get("detail") or f"{answer.request.url} answered {status}")
    code = str(problem.get("code") or Code.INTERNAL)
    faults = problem.get("faults")
    if faults and status == 422:
        try:
            return RefusedError(msgspec.convert(faults, tuple[Fault, ...], strict=False), code=code)
        except msgspec.ValidationError:
            pass
    help_ = problem.get("help")
    if help_ is None and status == 401:
        help_ = "The key is wrong, expired or revoked; sign in again: `fm org login`."
    retry_after = answer.headers.get("Retry-After", "")
    return RemoteError(
        detail,
        status=status,
        code=code,
        help=help_,
        details=problem.get("details"),
        retry_after_ms=int(retry_after) * 1000 if retry_after.isdecimal() else None,
    )
