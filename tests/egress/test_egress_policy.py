"""What may be called, told from scheme, host, port and address alone."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowmason.egress import EgressPolicy, embedded, is_numeric_form, special
from flowmason.errors import UsageError

REFUSED = [
    "0.0.0.0", "0.1.2.3", "10.0.0.1", "10.255.255.255", "100.64.0.1", "100.100.100.200", "100.127.255.255",
    "127.0.0.1", "127.255.255.254", "168.63.129.16", "169.254.0.1", "169.254.169.254", "172.16.0.1",
    "172.31.255.255", "192.0.0.1", "192.0.0.192", "192.0.2.1", "192.88.99.1", "192.168.0.1", "198.18.0.1",
    "198.19.255.255", "198.51.100.7", "203.0.113.9", "224.0.0.1", "239.255.255.250", "240.0.0.1", "255.255.255.255",
    "::", "::1", "::127.0.0.1", "::8.8.8.8", "::ffff:127.0.0.1", "::ffff:8.8.8.8", "::ffff:0:169.254.169.254",
    "64:ff9b::a9fe:a9fe", "64:ff9b::808:808", "64:ff9b:1::1", "100::1", "2001::1",
    "2001:0:4136:e378:8000:63bf:3fff:fdd2",
    "2001:10::1", "2001:db8::1", "2002:7f00:1::", "2002:808:808::1", "3fff::1", "5f00::1", "fc00::1", "fd00:ec2::254",
    "fe80::1", "fe80::1%eth0", "2606:4700::1%1", "fec0::1", "ff02::1", "4000::1", "e000::1",
]  # fmt: skip
PUBLIC = [
    "1.1.1.1", "8.8.8.8", "9.255.255.255", "11.0.0.0", "93.184.216.34", "100.63.255.255", "100.128.0.0", "126.1.1.1",
    "128.0.0.1", "169.253.1.1", "172.15.255.255", "172.32.0.0", "192.0.1.1", "192.169.0.0", "198.17.1.1",
    "223.255.255.1",
    "2606:4700:4700::1111", "2a00:1450:4001::1", "2620:fe::fe", "2001:4860:4860::8888",
]  # fmt: skip


@pytest.mark.parametrize("text", REFUSED)
def test_special_addresses_are_refused(text: str) -> None:
    address = ipaddress.ip_address(text)
    assert special(address)
    assert EgressPolicy().refusal_of_address("example.com", 443, address)
    assert EgressPolicy().refusal("https", text, 443)


@pytest.mark.parametrize("text", PUBLIC)
def test_public_addresses_are_not(text: str) -> None:
    address = ipaddress.ip_address(text)
    assert special(address) is None
    assert EgressPolicy().refusal_of_address("example.com", 443, address) is None
    assert EgressPolicy().refusal("https", text, 443) is None


@settings(derandomize=True)
@given(st.ip_addresses(v=4))
def test_whatever_python_calls_private_is_refused_too(address: ipaddress.IPv4Address) -> None:
    if not address.is_global or address.is_multicast:
        assert special(address)


@settings(derandomize=True)
@given(st.ip_addresses(v=6))
def test_whatever_python_calls_private_is_refused_too_v6(address: ipaddress.IPv6Address) -> None:
    if not address.is_global or address.is_multicast:
        assert special(address)


@settings(derandomize=True)
@given(st.ip_addresses(v=4))
def test_no_way_of_writing_an_ipv4_address_into_ipv6_gets_through(address: ipaddress.IPv4Address) -> None:
    number = int(address)
    teredo = (0x20010000 << 96) | (~number & 0xFFFFFFFF)
    for written in (
        0xFFFF << 32 | number,
        0xFFFF0000 << 32 | number,
        0x64FF9B << 96 | number,
        0x2002 << 112 | number << 80,
        teredo,
    ):
        inside = ipaddress.IPv6Address(written)
        assert special(inside)
        assert embedded(inside) == address


@pytest.mark.parametrize(
    "host",
    [
        "127.1",
        "0x7f.1",
        "0x7f000001",
        "2130706433",
        "017700000001",
        "0177.0.0.1",
        "127.0.0.01",
        "1.2.3",
        "127.1.",
        "1",
        "0x",
    ],
)
def test_numbers_in_the_place_of_a_name_are_refused(host: str) -> None:
    assert is_numeric_form(host)
    refusal = EgressPolicy(allow=frozenset({"127.0.0.1:80"})).refusal("http", host, 80)
    assert refusal and "number" in refusal


@pytest.mark.parametrize(
    "host", ["example.com", "3com.example", "1.example", "a1", "0xdeadbeef.example", "xn--bcher-kva.example"]
)
def test_ordinary_names_are_not_numbers(host: str) -> None:
    assert not is_numeric_form(host)
    assert EgressPolicy().refusal("https", host, 443) is None


@pytest.mark.parametrize("scheme", ["ftp", "file", "gopher", "ws", "", "HTTPX"])
def test_other_schemes_are_refused(scheme: str) -> None:
    assert EgressPolicy().refusal(scheme, "example.com", 443)


def test_https_only_is_possible() -> None:
    policy = EgressPolicy(schemes=frozenset({"https"}))
    assert policy.refusal("http", "example.com", 80)
    assert policy.refusal("https", "example.com", 443) is None


@pytest.mark.parametrize("port", [22, 25, 5432, 6379, 11211])
def test_ports_of_other_protocols_are_refused_unless_listed(port: int) -> None:
    assert EgressPolicy().refusal("http", "example.com", port)
    assert EgressPolicy(allow=frozenset({f"example.com:{port}"})).refusal("http", "example.com", port) is None


def test_allowing_holds_for_one_port_of_one_host() -> None:
    policy = EgressPolicy(allow=frozenset({"127.0.0.1:8080", "[::1]:8080", "Intern.Example:80"}))
    assert policy.refusal("http", "127.0.0.1", 8080) is None
    assert policy.refusal("http", "127.0.0.1", 8081)
    assert policy.refusal("http", "::1", 8080) is None
    assert policy.refusal("http", "127.0.0.2", 8080)
    private = ipaddress.ip_address("10.1.2.3")
    assert policy.refusal_of_address("intern.example", 80, private) is None
    assert policy.refusal_of_address("INTERN.example.", 80, private) is None
    assert policy.refusal_of_address("intern.example", 443, private)
    assert policy.refusal_of_address("other.example", 80, private)


@pytest.mark.parametrize(
    "address",
    [
        "169.254.169.254",
        "fd00:ec2::254%1",
        "fe80::1",
        "224.0.0.1",
        "0.0.0.0",
        "64:ff9b::a9fe:a9fe",
        "100.100.100.200",
        "fd00:ec2::254",
        "fd20:ce::254",
    ],
)
def test_an_allowed_name_does_not_open_the_way_to_cloud_metadata(address: str) -> None:
    policy = EgressPolicy(allow=frozenset({"intern.example:80"}))
    assert policy.refusal_of_address("intern.example", 80, ipaddress.ip_address(address))


def test_the_literal_address_does() -> None:
    policy = EgressPolicy(allow=frozenset({"169.254.169.254:80"}))
    assert policy.refusal("http", "169.254.169.254", 80) is None
    assert policy.refusal_of_address("169.254.169.254", 80, ipaddress.ip_address("169.254.169.254")) is None


def test_only_names_all_hosts_that_may_be_called() -> None:
    policy = EgressPolicy(only=frozenset({"api.example.com", "*.wild.example", "port.example:8443"}))
    assert policy.refusal("https", "api.example.com", 443) is None
    assert policy.refusal("https", "API.example.com.", 443) is None
    assert policy.refusal("https", "a.b.wild.example", 443) is None
    assert policy.refusal("https", "port.example", 8443) is None
    for host, port in [("example.com", 443), ("wild.example", 443), ("evilwild.example", 443), ("port.example", 443)]:
        assert policy.refusal("https", host, port)


@pytest.mark.parametrize(
    "entry", ["example.com", "example.com:", "example.com:0", "example.com:99999", ":80", "::1:80", "h:8o", "h:٣"]
)
def test_a_wrong_entry_is_refused_at_once(entry: str) -> None:
    with pytest.raises(UsageError, match="host:port"):
        EgressPolicy(allow=frozenset({entry}))
