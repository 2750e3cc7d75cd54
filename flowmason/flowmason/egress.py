"""The port for outgoing calls: what may be called, decided without I/O. The guard that holds to it is `http_egress`."""

from __future__ import annotations

import ipaddress
import re

import msgspec

from flowmason.errors import UsageError

MIB = 1024 * 1024

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

# Ports that speak something else than HTTP: a request sent there could be read as commands.
_PORTS = """
1 7 9 11 13 15 17 19 20 21 22 23 25 37 42 43 53 69 77 79 87 95 101 102 103 104 109 110 111 113 115
117 119 123 135 137 139 143 161 179 389 427 465 512 513 514 515 526 530 531 532 540 548 554 556 563
587 601 636 989 990 993 995 1433 1521 1719 1720 1723 2049 2379 2380 3306 3389 3659 4045 4190 5060
5061 5432 5672 6000 6379 6566 6665 6666 6667 6668 6669 6679 6697 9042 9092 10080 11211 27017
"""
NOT_HTTP = frozenset(int(port) for port in _PORTS.split())


class EgressPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """What outgoing HTTP calls may do. Raises `UsageError` for entries that are not `host:port`."""

    allow: frozenset[str] = frozenset()
    """`host:port`s (IPv6 as `[::1]:8080`) that may be called although they are private or on an unusual port.

    An allowed *name* may resolve to loopback and private addresses, but never to link-local (cloud metadata) or
    multicast ones; those must be listed as the literal address.
    """
    only: frozenset[str] | None = None
    """Where given: no other host may be called. `api.example.com`, `*.example.com`, each also with `:port`."""
    schemes: frozenset[str] = frozenset({"http", "https"})
    max_redirects: int = 5
    max_response_bytes: int = 64 * MIB
    """Counted after decompression."""
    connect_timeout_s: float = 10.0
    read_timeout_s: float = 60.0
    """The longest wait for the next bytes, in either direction."""
    total_timeout_s: float = 600.0
    """From the first request to the last byte, redirects included."""

    def __post_init__(self) -> None:
        for entry in self.allow:
            split_authority(entry)

    def allowing(self, *authorities: str) -> EgressPolicy:
        """The same policy, with more `host:port`s allowed."""
        more = frozenset(authority(*split_authority(entry)) for entry in authorities)
        return msgspec.structs.replace(self, allow=self.allow | more)

    def allows(self, host: str, port: int) -> bool:
        """Whether `host:port` is listed under `allow`."""
        wanted = (normal_host(host), port)
        return any(split_authority(entry) == wanted for entry in self.allow)

    def refusal(self, scheme: str, host: str, port: int) -> str | None:
        """Why a URL may not be called, as far as it can be told before its host is resolved; None: it may."""
        if scheme not in self.schemes:
            return f"the scheme {scheme!r} is not allowed"
        host = normal_host(host)
        if not host:
            return "the URL names no host"
        if self.only is not None and not any(_fits(host, port, entry) for entry in self.only):
            return f"only {', '.join(sorted(self.only)) or 'no host at all'} may be called"
        literal = as_address(host)
        if literal is None and is_numeric_form(host):
            return f"{host!r} is a number in the place of a host name"
        if self.allows(host, port):
            return None
        if port in NOT_HTTP or not 0 < port < 65536:
            return f"port {port} does not speak HTTP"
        reason = special(literal) if literal is not None else None
        return f"{host} is {reason}" if reason else None

    def refusal_of_address(self, host: str, port: int, address: Address) -> str | None:
        """Why `address`, found for `host`, may not be connected to; None: it may."""
        reason = special(address)
        if reason is None:
            return None
        if self.allows(host, port):
            literal = as_address(normal_host(host))
            inner = embedded(address) or address
            if literal == address or special(inner) in (None, *_LOCAL):
                return None
        return f"it resolves to {address}, which is {reason}"


_LOCAL = ("loopback", "private", "unique local", "shared address space", "for benchmarks")

_SPECIAL_4 = [
    (ipaddress.IPv4Network(network), reason)
    for network, reason in [
        ("0.0.0.0/8", "unspecified"),
        ("10.0.0.0/8", "private"),
        ("100.100.100.200/32", "a cloud metadata address"),
        ("100.64.0.0/10", "shared address space"),
        ("127.0.0.0/8", "loopback"),
        ("168.63.129.16/32", "a cloud metadata address"),
        ("169.254.0.0/16", "link-local"),
        ("172.16.0.0/12", "private"),
        ("192.0.0.0/24", "reserved for protocols"),
        ("192.0.2.0/24", "for documentation"),
        ("192.88.99.0/24", "a 6to4 relay"),
        ("192.168.0.0/16", "private"),
        ("198.18.0.0/15", "for benchmarks"),
        ("198.51.100.0/24", "for documentation"),
        ("203.0.113.0/24", "for documentation"),
        ("224.0.0.0/4", "multicast"),
        ("240.0.0.0/4", "reserved"),
    ]
]
# Outside 2000::/3 nothing is global; inside it these are special.
_GLOBAL_6 = ipaddress.IPv6Network("2000::/3")
_SPECIAL_6 = [
    (ipaddress.IPv6Network(network), reason)
    for network, reason in [
        ("::1/128", "loopback"),
        ("::/128", "unspecified"),
        ("::ffff:0:0/96", "IPv4-mapped"),
        ("::ffff:0:0:0/96", "IPv4-translated"),
        ("::/96", "IPv4-compatible"),
        ("64:ff9b::/96", "NAT64"),
        ("64:ff9b:1::/48", "local NAT64"),
        ("100::/64", "discarded"),
        ("2001::/32", "Teredo"),
        ("2001::/23", "reserved for protocols"),
        ("2001:db8::/32", "for documentation"),
        ("2002::/16", "6to4"),
        ("3fff::/20", "for documentation"),
        ("fd00:ec2::254/128", "a cloud metadata address"),
        ("fd20:ce::254/128", "a cloud metadata address"),
        ("fc00::/7", "unique local"),
        ("fe80::/10", "link-local"),
        ("fec0::/10", "site-local"),
        ("ff00::/8", "multicast"),
    ]
]
_LOW_32_BITS = tuple(ipaddress.IPv6Network(n) for n in ("::ffff:0:0/96", "::ffff:0:0:0/96", "::/96", "64:ff9b::/96"))
_SIX_TO_FOUR = ipaddress.IPv6Network("2002::/16")
_TEREDO = ipaddress.IPv6Network("2001::/32")


def special(address: Address) -> str | None:
    """What keeps an address from being an ordinary public one (`loopback`, `private`, …); None: it is one.

    `ipaddress.is_global` is not enough: it takes 64:ff9b::/96, 2002::/16, ::/96 and 192.0.0.192 for global.
    """
    if isinstance(address, ipaddress.IPv4Address):
        return next((reason for network, reason in _SPECIAL_4 if address in network), None)
    if address.scope_id:
        return "link-local"
    reason = next((reason for network, reason in _SPECIAL_6 if address in network), None)
    if reason is None and address not in _GLOBAL_6:
        return "reserved"
    return reason


def embedded(address: Address) -> Address | None:
    """The IPv4 address inside a mapped, compatible, translated, NAT64, 6to4 or Teredo one."""
    if isinstance(address, ipaddress.IPv4Address) or address == ipaddress.IPv6Address(1) or int(address) == 0:
        return None
    if any(address in network for network in _LOW_32_BITS):
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    if address in _SIX_TO_FOUR:
        return ipaddress.IPv4Address(int(address) >> 80 & 0xFFFFFFFF)
    if address in _TEREDO:
        return ipaddress.IPv4Address(~int(address) & 0xFFFFFFFF)
    return None


def as_address(host: str) -> Address | None:
    """The address that a host is, in its ordinary spelling; None: it is a name or an odd number."""
    try:
        return ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
    except ValueError:
        return None


_NUMBER = re.compile(r"(0x[0-9a-f]*|[0-9]+)", re.IGNORECASE)


def is_numeric_form(host: str) -> bool:
    """Whether resolvers may read the host as an IPv4 address (`127.1`, `0x7f.1`, `2130706433`): its last label is a
    number, which no real host name's is."""
    return _NUMBER.fullmatch(host.rstrip(".").rpartition(".")[2]) is not None


def normal_host(host: str) -> str:
    """Lower case, without brackets and the final dot."""
    return host.lower().removeprefix("[").removesuffix("]").removesuffix(".")


def authority(host: str, port: int) -> str:
    """`host:port`, IPv6 in brackets."""
    host = normal_host(host)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def split_authority(entry: str) -> tuple[str, int]:
    """Read `host:port`. Raises `UsageError`."""
    host, colon, port = entry.rpartition(":")
    bare_ipv6 = ":" in host and not (host.startswith("[") and host.endswith("]"))
    if not colon or not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536 or bare_ipv6:
        raise UsageError(
            f"{entry!r} is not host:port", help='Write "example.internal:8080", or "[::1]:8080" for an IPv6 address.'
        )
    return normal_host(host), int(port)


def _fits(host: str, port: int, entry: str) -> bool:
    pattern = entry.lower()
    if re.search(r"[^:\]]:\d+$|\]:\d+$", pattern):
        pattern, _, wanted = pattern.rpartition(":")
        if int(wanted) != port:
            return False
    pattern = normal_host(pattern)
    if pattern.startswith("*."):
        return host.endswith(pattern[1:])
    return host == pattern
