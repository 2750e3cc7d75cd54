"""The egress guard: every outgoing HTTP call of components and model providers goes through `guarded_client`.

Host and port are checked against the policy, the host is resolved once, every address found is checked, and the
connection is made to one of those very addresses (TLS still verifies the name): a second look-up, which could answer
differently, never happens. Redirects pass the same checks hop by hop. Sizes and times are bounded, and proxies named
in the environment are ignored.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
import ssl
import time
import zlib
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from functools import cache
from http.cookiejar import DefaultCookiePolicy
from typing import Any

import httpcore2
import httpx2

from flowmason.egress import Address, EgressPolicy, as_address, authority, normal_host
from flowmason.errors import EgressError, UsageError

Resolver = Callable[[str, int], Awaitable[Sequence[str]]]
"""Host and port to addresses, as text. Raises `OSError` where there are none."""

_STATE = "flowmason_egress"
_SENSITIVE = ("authorization", "proxy-authorization", "x-api-key", "api-key", "x-goog-api-key", "x-auth-token")
_PIECE = 256 * 1024
_NO_BODY = (204, 304)
# Idle connections are left before uvicorn (vLLM's server) closes them after 5 s: a request that is sent just
# then fails, and nobody knows whether it was read.
_LIMITS = httpx2.Limits(max_connections=200, max_keepalive_connections=40, keepalive_expiry=4.0)
_NEVER = ("transport", "mounts", "proxy", "trust_env", "http2", "max_redirects", "app", "uds")


def guarded_client(
    policy: EgressPolicy,
    *,
    resolver: Resolver | None = None,
    verify: ssl.SSLContext | None = None,
    limits: httpx2.Limits | None = None,
    **options: Any,
) -> httpx2.AsyncClient:
    """An `httpx2.AsyncClient` that holds to `policy`; it follows redirects unless `follow_redirects=False`.

    `options` are those of `httpx2.AsyncClient`, without the ones that would lead around the guard (`transport`,
    `mounts`, `proxy`, …: `UsageError`). Calls raise `EgressError` where the policy refuses, and the client's own
    errors otherwise. Keeps no cookies. Belongs to the event loop that first uses it.
    """
    wrong = [name for name in _NEVER if name in options]
    if wrong:
        raise UsageError(f"a guarded client takes no {', '.join(wrong)}")
    hooks = dict(options.pop("event_hooks", None) or {})
    hooks["request"] = [*hooks.get("request", ()), _Hops(policy)]  # last, so that no other hook undoes it
    options.setdefault("follow_redirects", True)
    options.setdefault(
        "timeout", httpx2.Timeout(policy.read_timeout_s, connect=policy.connect_timeout_s, pool=policy.read_timeout_s)
    )
    client = httpx2.AsyncClient(
        transport=GuardedTransport(policy, resolver=resolver, verify=verify, limits=limits),
        trust_env=False,
        max_redirects=policy.max_redirects,
        event_hooks=hooks,
        **options,
    )
    # One client serves many stages and runs: a cookie that one of them was given must not go out with another's call.
    client.cookies.jar.set_policy(DefaultCookiePolicy(allowed_domains=[]))
    return client


class GuardedTransport(httpx2.AsyncBaseTransport):
    """The guard as a transport, for those who build their client themselves."""

    def __init__(
        self,
        policy: EgressPolicy,
        *,
        resolver: Resolver | None = None,
        verify: ssl.SSLContext | None = None,
        limits: httpx2.Limits | None = None,
    ) -> None:
        limits = limits or _LIMITS
        self._policy = policy
        self._pool = httpcore2.AsyncConnectionPool(
            ssl_context=verify or _default_context(),
            max_connections=limits.max_connections,
            max_keepalive_connections=limits.max_keepalive_connections,
            keepalive_expiry=limits.keepalive_expiry,
            network_backend=_CheckedBackend(policy, resolver or resolve),
        )

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        url = request.url
        host = url.raw_host.decode("ascii")
        refusal = self._policy.refusal(url.scheme, host, url.port or _default_port(url.scheme))
        if refusal is not None:
            raise refused(host, url.port or _default_port(url.scheme), refusal)
        if request.headers.get("accept-encoding", "").strip().lower() != "identity":
            request.headers["Accept-Encoding"] = "gzip, deflate"  # what can be unpacked here within bounds
        deadline = _deadline(request, self._policy)
        content = request.stream
        assert isinstance(content, AsyncIterable)
        with _client_errors(request):
            async with _until(deadline):
                answer = await self._pool.handle_async_request(
                    httpcore2.Request(
                        method=request.method,
                        url=httpcore2.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path),
                        headers=request.headers.raw,
                        content=content,
                        extensions=request.extensions,
                    )
                )
        has_body = request.method != "HEAD" and answer.status not in _NO_BODY
        headers = httpx2.Headers(answer.headers)
        body = _BoundedBody(request, answer, deadline, self._policy)
        if has_body:
            try:
                body.open(headers)
            except BaseException:
                await body.aclose()
                raise
        extensions = {key: value for key, value in answer.extensions.items() if key != "network_stream"}
        return httpx2.Response(answer.status, headers=headers, stream=body, extensions=extensions)

    async def aclose(self) -> None:
        await self._pool.aclose()


def refused(host: str, port: int, reason: str) -> EgressError:
    """The error of a refused call."""
    where = authority(host, port) if port else host or "nowhere"
    meant = f'If the project means it: "egress": {{"allow": ["{where}"]}} in flowmason.json.'
    if reason.startswith("only "):
        meant = f'If the component means it: hosts=[…, "{normal_host(host)}"] in its decorator.'
    return EgressError(
        f"the call to {where} was refused: {reason}",
        details={"host": host, "port": port, "reason": reason},
        help=meant,
    )


async def resolve(host: str, port: int) -> Sequence[str]:
    """The system's resolver, off the event loop."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(item[4][0]) for item in found))


def is_own(address: Address) -> bool:
    """Whether an address, a public one too, is one of this machine's own: behind it stand services that trust us."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    try:
        # Nothing is sent: the system chooses the address to send from, and to itself that is the same one.
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((str(address), 9))
            return ipaddress.ip_address(probe.getsockname()[0]) == address
    except (OSError, ValueError):
        return False


class _CheckedBackend(httpcore2.AsyncNetworkBackend):
    """Opens connections only to addresses that were checked."""

    def __init__(self, policy: EgressPolicy, resolver: Resolver) -> None:
        self._policy = policy
        self._resolver = resolver
        self._backend = httpcore2.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        deadline = time.monotonic() + (self._policy.connect_timeout_s if timeout is None else timeout)
        addresses = await self._checked(host, port, deadline)
        error: Exception | None = None
        for number, address in enumerate(addresses):
            share = max(deadline - time.monotonic(), 0.0) / (len(addresses) - number)
            try:
                return await self._backend.connect_tcp(address, port, share, local_address, socket_options)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as caught:
                error = caught
        raise error or httpcore2.ConnectError(f"{host} has no address")

    async def _checked(self, host: str, port: int, deadline: float) -> list[str]:
        literal = as_address(normal_host(host))
        if literal is not None:
            found: Sequence[str] = [str(literal)]
        else:
            try:
                found = await asyncio.wait_for(self._resolver(host, port), max(deadline - time.monotonic(), 0.0))
            except TimeoutError:
                raise httpcore2.ConnectTimeout(f"{host} was not resolved in time") from None
            except (OSError, UnicodeError) as error:
                raise httpcore2.ConnectError(f"{host} cannot be resolved: {error}") from error
        for text in found:
            address = as_address(text)
            reason = (
                f"it resolves to {text!r}, which is no address"
                if address is None
                else self._policy.refusal_of_address(host, port, address)
            )
            if reason is None and address is not None and is_own(address) and not self._policy.allows(host, port):
                reason = f"{address} is this machine itself"
            if reason is not None:
                raise refused(host, port, reason)
        return list(found)

    async def connect_unix_socket(
        self, path: str, timeout: float | None = None, socket_options: Iterable[Any] | None = None
    ) -> httpcore2.AsyncNetworkStream:
        raise refused(path, 0, "unix sockets are not called")

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class _Hops:
    """Called before every hop: keeps credentials from other origins, and one deadline over all hops."""

    def __init__(self, policy: EgressPolicy) -> None:
        self._policy = policy

    async def __call__(self, request: httpx2.Request) -> None:
        url = request.url
        origin = (url.scheme, url.raw_host, url.port or _default_port(url.scheme))
        state = request.extensions.get(_STATE)
        if state is None:
            request.extensions = {
                **request.extensions,
                _STATE: {"origin": origin, "deadline": time.monotonic() + self._policy.total_timeout_s},
            }
            return
        if origin == state["origin"]:
            return
        if state["origin"][0] == "https" and origin[0] == "http":
            raise refused(url.host, origin[2], "a redirect from https to http")
        for name in _SENSITIVE:
            request.headers.pop(name, None)


class _BoundedBody(httpx2.AsyncByteStream):
    """A response's body, unpacked here so that its true size can be bounded."""

    def __init__(
        self, request: httpx2.Request, answer: httpcore2.Response, deadline: float, policy: EgressPolicy
    ) -> None:
        self._request = request
        self._answer = answer
        self._deadline = deadline
        self._policy = policy
        self._packed = False
        self._decoder: Any = None
        self._deflate = False
        self._left = policy.max_response_bytes

    def open(self, headers: httpx2.Headers) -> None:
        """Read what the headers say about the body, and take out what no longer holds once it is unpacked."""
        length = headers.get("content-length", "")
        if length.isascii() and length.isdigit() and int(length) > self._left:
            raise self._too_large()
        encoding = headers.get("content-encoding", "").strip().lower()
        if encoding in ("", "identity"):
            return
        if encoding not in ("gzip", "x-gzip", "deflate"):
            raise httpx2.DecodingError(
                f"the answer is packed as {encoding!r}, which was not asked for", request=self._request
            )
        self._packed = True
        self._deflate = encoding == "deflate"
        del headers["content-encoding"]
        if "content-length" in headers:
            del headers["content-length"]

    async def __aiter__(self) -> AsyncIterator[bytes]:
        source = self._answer.stream
        assert isinstance(source, AsyncIterable)
        chunks = aiter(source)
        with _client_errors(self._request):
            while True:
                async with _until(self._deadline):
                    chunk = await anext(chunks, None)
                if chunk is None:
                    break
                for piece in self._unpack(chunk) if self._packed else (chunk,):
                    yield self._count(piece)
            if self._decoder is not None and not self._decoder.eof:
                raise httpx2.DecodingError("the packed answer ends too early", request=self._request)

    def _count(self, piece: bytes) -> bytes:
        self._left -= len(piece)
        if self._left < 0:
            raise self._too_large()
        return piece

    def _unpack(self, data: bytes) -> Iterator[bytes]:
        try:
            while data:
                if self._decoder is None:
                    self._decoder = self._new_decoder(data)
                piece = self._decoder.decompress(data, _PIECE)
                data = self._decoder.unconsumed_tail
                if self._decoder.eof:
                    data = self._decoder.unused_data  # gzip may hold several members
                    if data:
                        self._decoder = None
                if piece:
                    yield piece
                elif self._decoder is not None and not data:
                    return
        except zlib.error as error:
            raise httpx2.DecodingError(f"the packed answer is damaged: {error}", request=self._request) from error

    def _new_decoder(self, data: bytes) -> Any:
        if not self._deflate:
            return zlib.decompressobj(zlib.MAX_WBITS | 16)
        zlib_header = data[0] & 0x0F == 8  # "deflate" should have it; some servers send the bare stream
        return zlib.decompressobj(zlib.MAX_WBITS if zlib_header else -zlib.MAX_WBITS)

    def _too_large(self) -> EgressError:
        url = self._request.url
        return EgressError(
            f"the answer of {authority(url.host, url.port or _default_port(url.scheme))} is larger than "
            f"{self._policy.max_response_bytes} bytes",
            details={"max_response_bytes": self._policy.max_response_bytes},
        )

    async def aclose(self) -> None:
        close = getattr(self._answer.stream, "aclose", None)
        if close is not None:
            with _client_errors(self._request):
                await close()


@contextlib.contextmanager
def _client_errors(request: httpx2.Request) -> Iterator[None]:
    """Give the errors of the lower layer the names that users of the client know: they are the same."""
    try:
        yield
    except (httpcore2.TimeoutException, httpcore2.NetworkError, httpcore2.ProtocolError) as error:
        kind = getattr(httpx2, type(error).__name__, httpx2.TransportError)
        raise kind(str(error), request=request) from error
    except _DeadlineError as error:
        raise httpx2.ReadTimeout("the call took too long in all", request=request) from error
    except httpcore2.UnsupportedProtocol as error:
        raise httpx2.UnsupportedProtocol(str(error), request=request) from error


class _DeadlineError(Exception):
    pass


@contextlib.asynccontextmanager
async def _until(deadline: float) -> AsyncIterator[None]:
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout_at(loop.time() + max(deadline - time.monotonic(), 0.0)) as scope:
            yield
    except TimeoutError:
        if scope.expired():
            raise _DeadlineError from None
        raise


def _deadline(request: httpx2.Request, policy: EgressPolicy) -> float:
    state = request.extensions.get(_STATE)
    return float(state["deadline"]) if state else time.monotonic() + policy.total_timeout_s


def _default_port(scheme: str) -> int:
    return {"http": 80, "https": 443}.get(scheme, 0)


@cache
def _default_context() -> ssl.SSLContext:
    return httpx2.create_ssl_context(trust_env=False)
