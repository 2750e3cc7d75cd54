"""The guard on real sockets: the address that was checked is the one connected to, hop by hop, within bounds."""

from __future__ import annotations

import asyncio
import gzip
import ssl
import time
import zlib
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import httpx2
import pytest

from flowmason.egress import EgressPolicy
from flowmason.errors import Code, EgressError, UsageError
from flowmason.http_egress import guarded_client

Start = Callable[..., Awaitable[Any]]
Ok = Callable[..., bytes]
CERTIFICATE = Path(__file__).with_name("server_for_tests.pem")


class Names:
    """A resolver with a table; every look-up is counted."""

    def __init__(self, **table: list[Sequence[str]]) -> None:
        self.table = {name.replace("_", "."): answers for name, answers in table.items()}
        self.asked: list[str] = []

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        self.asked.append(host)
        answers = self.table.get(host)
        if answers is None:
            raise OSError(f"no such name: {host}")
        return answers.pop(0) if len(answers) > 1 else answers[0]


def allowing(*entries: str, **options: Any) -> EgressPolicy:
    return EgressPolicy(allow=frozenset(entries), **options)


async def test_an_allowed_loopback_server_answers(web: Start, ok: Ok) -> None:
    site = await web(ok(b"hello"))
    async with guarded_client(allowing(site.authority)) as client:
        response = await client.post(f"http://{site.authority}/path?q=1", content=b"body")
    assert (response.status_code, response.text) == (200, "hello")
    assert (site.requests[0].target, site.requests[0].body) == ("/path?q=1", b"body")


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "localhost", "127.1", "0x7f.1", "2130706433", "[::1]", "[::ffff:127.0.0.1]", "0", "127。0。0。1"],
)
async def test_loopback_is_refused_in_every_spelling(web: Start, ok: Ok, host: str) -> None:
    site = await web(ok())
    async with guarded_client(EgressPolicy()) as client:
        with pytest.raises(EgressError) as caught:
            await client.get(f"http://{host}:{site.port}/")
    assert caught.value.failure.code == Code.EGRESS_DENIED
    assert caught.value.failure.help
    assert site.connections == 0


async def test_digits_of_other_scripts_are_no_way_in(web: Start, ok: Ok) -> None:
    site = await web(ok())
    async with guarded_client(EgressPolicy()) as client:
        with pytest.raises((EgressError, httpx2.InvalidURL)):
            await client.get(f"http://\uff11\uff12\uff17.0.0.1:{site.port}/")
    assert site.connections == 0


async def test_a_name_that_resolves_to_loopback_is_refused(web: Start, ok: Ok) -> None:
    site = await web(ok())
    async with guarded_client(EgressPolicy(), resolver=Names(evil_example=[["127.0.0.1"]])) as client:
        with pytest.raises(EgressError, match="loopback"):
            await client.get(f"http://evil.example:{site.port}/")
    assert site.connections == 0


async def test_one_bad_address_among_good_ones_is_enough() -> None:
    names = Names(mixed_example=[["93.184.216.34", "169.254.169.254"]])
    async with guarded_client(EgressPolicy(), resolver=names) as client:
        with pytest.raises(EgressError, match="link-local"):
            await client.get("http://mixed.example/")


async def test_the_checked_address_is_the_one_connected_to(web: Start, ok: Ok) -> None:
    """A resolver that answers differently the second time gets no second time."""
    site = await web(ok())
    names = Names(rebind_example=[["93.184.216.34"], ["127.0.0.1"]])
    async with guarded_client(EgressPolicy(connect_timeout_s=0.3), resolver=names) as client:
        with pytest.raises(httpx2.TransportError):
            await client.get(f"http://rebind.example:{site.port}/")
    assert names.asked == ["rebind.example"]
    assert site.connections == 0


async def test_an_allowed_name_is_resolved_once_and_sent_as_host(web: Start, ok: Ok) -> None:
    site = await web(ok())
    names = Names(intern_example=[["127.0.0.1"], ["127.0.0.99"]])
    authority = f"intern.example:{site.port}"
    async with guarded_client(allowing(authority), resolver=names) as client:
        assert (await client.get(f"http://{authority}/")).text == "ok"
    assert names.asked == ["intern.example"]
    assert site.requests[0].headers["host"] == authority


async def test_the_next_address_is_tried_when_one_is_dead(web: Start, ok: Ok) -> None:
    site = await web(ok())
    authority = f"intern.example:{site.port}"
    names = Names(intern_example=[["127.0.0.77", "127.0.0.1"]])  # nobody listens on the first
    async with guarded_client(allowing(authority), resolver=names) as client:
        assert (await client.get(f"http://{authority}/")).text == "ok"


async def test_tls_verifies_the_name_although_an_address_is_connected_to(web: Start, ok: Ok) -> None:
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(CERTIFICATE)
    trusting = ssl.create_default_context(cafile=str(CERTIFICATE))
    site = await web(ok(b"secure"), tls=server)
    names = Names(api_example_test=[["127.0.0.1"]], other_example_test=[["127.0.0.1"]])
    policy = allowing(f"api.example.test:{site.port}", f"other.example.test:{site.port}")
    async with guarded_client(policy, resolver=names, verify=trusting) as client:
        assert (await client.get(f"https://api.example.test:{site.port}/")).text == "secure"
        with pytest.raises(httpx2.ConnectError, match=r"(?i)hostname mismatch|certificate"):
            await client.get(f"https://other.example.test:{site.port}/")
    async with guarded_client(policy, resolver=names) as client:
        with pytest.raises(httpx2.ConnectError, match=r"(?i)certificate"):
            await client.get(f"https://api.example.test:{site.port}/")


@pytest.mark.parametrize(
    "target",
    [
        "http://169.254.169.254/latest/meta-data",
        "http://127.0.0.1:{port}/secret",
        "file:///etc/passwd",
        "http://0x7f.1/",
    ],
)
async def test_redirects_are_checked_again(web: Start, ok: Ok, target: str) -> None:
    secret = await web(ok(b"secret"))
    location = target.format(port=secret.port)
    site = await web(ok(b"", f"Location: {location}", status="302 Found"))
    async with guarded_client(allowing(site.authority)) as client:
        with pytest.raises((EgressError, httpx2.UnsupportedProtocol)):
            await client.get(f"http://{site.authority}/")
    assert secret.connections == 0


async def test_credentials_do_not_follow_to_another_origin(web: Start, ok: Ok) -> None:
    final = await web(ok(b"there"))
    site = await web(ok(b"", f"Location: http://{final.authority}/x", status="307 Temporary Redirect"))
    headers = {"Authorization": "Bearer s3cret", "X-API-Key": "s3cret", "Cookie": "a=b", "X-Plain": "stays"}
    async with guarded_client(allowing(site.authority, final.authority)) as client:
        response = await client.post(f"http://{site.authority}/", headers=headers, content=b"data")
    assert response.text == "there"
    assert site.requests[0].headers["authorization"] == "Bearer s3cret"
    got = final.requests[0].headers
    assert not {"authorization", "x-api-key", "cookie"} & set(got)
    assert got["x-plain"] == "stays"


async def test_credentials_stay_within_one_origin(web: Start, ok: Ok) -> None:
    async def answer(writer: asyncio.StreamWriter, request: Any) -> None:
        first = request.target == "/"
        writer.write(ok(b"", "Location: /next", status="302 Found") if first else ok(b"end"))
        await writer.drain()

    site = await web(answer)
    async with guarded_client(allowing(site.authority)) as client:
        assert (await client.get(f"http://{site.authority}/", headers={"X-API-Key": "k"})).text == "end"
    assert site.requests[1].headers["x-api-key"] == "k"


async def test_a_cookie_given_to_one_call_does_not_go_out_with_the_next(web: Start, ok: Ok) -> None:
    site = await web(ok(b"hello", "Set-Cookie: session=secret; Path=/"))
    async with guarded_client(allowing(site.authority)) as client:
        await client.get(f"http://{site.authority}/")
        await client.get(f"http://{site.authority}/")
    assert "cookie" not in site.requests[1].headers


async def test_redirects_end(web: Start, ok: Ok) -> None:
    site = await web(ok(b"", "Location: /again", status="302 Found"))
    async with guarded_client(allowing(site.authority, max_redirects=3)) as client:
        with pytest.raises(httpx2.TooManyRedirects):
            await client.get(f"http://{site.authority}/")
    assert len(site.requests) == 4


async def test_a_large_answer_is_cut_off(web: Start, ok: Ok) -> None:
    announced = await web(ok(b"x" * 2000))
    unannounced = await web(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + b"x" * 2000)
    policy = allowing(announced.authority, unannounced.authority, max_response_bytes=1000)
    async with guarded_client(policy) as client:
        for site in (announced, unannounced):
            with pytest.raises(EgressError, match="larger than 1000 bytes"):
                await client.get(f"http://{site.authority}/")


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "raw"])
async def test_packed_answers_are_unpacked(web: Start, ok: Ok, encoding: str) -> None:
    text = b"packed " * 100_000
    raw = zlib.compressobj(wbits=-15)
    packed = {"gzip": gzip.compress(text), "deflate": zlib.compress(text), "raw": raw.compress(text) + raw.flush()}[
        encoding
    ]
    site = await web(ok(packed, f"Content-Encoding: {'deflate' if encoding == 'raw' else encoding}"))
    async with guarded_client(allowing(site.authority)) as client:
        assert (await client.get(f"http://{site.authority}/")).content == text


async def test_a_decompression_bomb_is_cut_off(web: Start, ok: Ok) -> None:
    bomb = gzip.compress(b"\0" * 50_000_000)
    site = await web(ok(bomb, "Content-Encoding: gzip"))
    async with guarded_client(allowing(site.authority, max_response_bytes=1_000_000)) as client:
        with pytest.raises(EgressError, match="larger than"):
            await client.get(f"http://{site.authority}/")


@pytest.mark.parametrize("header", ["br", "gzip, gzip"])
async def test_packing_that_was_not_asked_for_is_an_error(web: Start, ok: Ok, header: str) -> None:
    site = await web(ok(b"?", f"Content-Encoding: {header}"))
    async with guarded_client(allowing(site.authority)) as client:
        with pytest.raises(httpx2.DecodingError):
            await client.get(f"http://{site.authority}/")
    assert site.requests[0].headers["accept-encoding"] == "gzip, deflate"


async def test_a_truncated_packed_answer_is_an_error(web: Start, ok: Ok) -> None:
    site = await web(ok(gzip.compress(b"x" * 10_000)[:-8], "Content-Encoding: gzip"))
    async with guarded_client(allowing(site.authority)) as client:
        with pytest.raises(httpx2.DecodingError):
            await client.get(f"http://{site.authority}/")


async def test_an_answer_that_drips_is_given_up(web: Start) -> None:
    async def drip(writer: asyncio.StreamWriter, _: Any) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
        for _ in range(2000):
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.05)

    site = await web(drip)
    began = time.monotonic()
    async with guarded_client(allowing(site.authority, total_timeout_s=0.4)) as client:
        with pytest.raises(httpx2.ReadTimeout, match="in all"):
            await client.get(f"http://{site.authority}/")
    assert time.monotonic() - began < 30


async def test_a_server_that_says_nothing_is_given_up(web: Start) -> None:
    async def silence(_: asyncio.StreamWriter, __: Any) -> None:
        await asyncio.sleep(60)

    site = await web(silence)
    async with guarded_client(allowing(site.authority, read_timeout_s=0.2)) as client:
        with pytest.raises(httpx2.ReadTimeout):
            await client.get(f"http://{site.authority}/")


async def test_a_resolver_that_hangs_is_given_up() -> None:
    async def hang(host: str, port: int) -> Sequence[str]:
        await asyncio.sleep(60)
        return []

    async with guarded_client(EgressPolicy(connect_timeout_s=0.1), resolver=hang) as client:
        with pytest.raises(httpx2.ConnectTimeout):
            await client.get("http://slow.example/")


async def test_an_unknown_name_is_a_connection_error() -> None:
    async with guarded_client(EgressPolicy(), resolver=Names()) as client:
        with pytest.raises(httpx2.ConnectError, match="cannot be resolved"):
            await client.get("http://nowhere.example/")


async def test_proxies_in_the_environment_are_ignored(web: Start, ok: Ok, monkeypatch: pytest.MonkeyPatch) -> None:
    proxy, site = await web(ok(b"proxied")), await web(ok(b"direct"))
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, f"http://{proxy.authority}")
    async with guarded_client(allowing(site.authority)) as client:
        assert (await client.get(f"http://{site.authority}/")).text == "direct"
    assert proxy.connections == 0


@pytest.mark.parametrize("option", ["transport", "proxy", "mounts", "trust_env"])
def test_nothing_leads_around_the_guard(option: str) -> None:
    with pytest.raises(UsageError, match=option):
        guarded_client(EgressPolicy(), **{option: None})


async def test_head_and_empty_answers_pass(web: Start) -> None:
    site = await web(b"HTTP/1.1 200 OK\r\nContent-Length: 99999\r\nContent-Encoding: gzip\r\nConnection: close\r\n\r\n")
    async with guarded_client(allowing(site.authority, max_response_bytes=10)) as client:
        response = await client.head(f"http://{site.authority}/")
    assert response.headers["content-length"] == "99999"


async def test_answers_can_be_streamed(web: Start) -> None:
    async def pieces(writer: asyncio.StreamWriter, _: Any) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
        for piece in (b"one ", b"two ", b"three"):
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0.02)

    site = await web(pieces)
    async with (
        guarded_client(allowing(site.authority)) as client,
        client.stream("GET", f"http://{site.authority}/") as response,
    ):
        got = [piece async for piece in response.aiter_bytes()]
    assert b"".join(got) == b"one two three"
    assert len(got) >= 2


@pytest.mark.parametrize("host", ["127.0.0.1", "own.example"])
async def test_this_machines_own_public_addresses_are_refused(
    web: Start, ok: Ok, monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    site = await web(ok())
    # As if the address that the server has were a public one.
    monkeypatch.setattr("flowmason.egress.special", lambda address: None)
    names = Names(own_example=[["127.0.0.1"]])
    async with guarded_client(EgressPolicy(), resolver=names) as client:
        with pytest.raises(EgressError, match="this machine itself"):
            await client.get(f"http://{host}:{site.port}/")
    assert site.connections == 0
    async with guarded_client(allowing(f"{host}:{site.port}"), resolver=names) as client:
        assert (await client.get(f"http://{host}:{site.port}/")).status_code == 200


def test_addresses_of_others_are_not_this_machines() -> None:
    import ipaddress

    from flowmason.http_egress import is_own

    assert is_own(ipaddress.ip_address("127.0.0.1")) and not is_own(ipaddress.ip_address("93.184.216.34"))
    assert not is_own(ipaddress.ip_address("2606:4700:4700::1111"))
