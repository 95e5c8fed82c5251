"""The addresses we refuse to connect to, decided on the concrete address just before connecting.

A check of the URL, or of what a resolver returned, can be walked around: with an IP literal, with
a decimal or hexadecimal form of one, with a name whose answer changes between check and use, with
a redirect. A socket factory cannot: whatever led here, it is given the address to connect to.

The list is our own because :attr:`ipaddress.IPv4Address.is_global` has holes (cloud metadata on
public addresses, IPv4 carried inside IPv6) and differs between versions of Python. Ranges are
those of the IANA special-purpose address registries.
"""

from __future__ import annotations

import contextlib
import re
import socket
from collections.abc import Callable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

_AddrInfo = tuple[int, int, int, str, tuple[object, ...]]  # as getaddrinfo returns them

_ALWAYS = {
    "a cloud metadata service": (
        "169.254.169.254/32",  # nearly everybody's
        "169.254.170.2/32",  # AWS ECS task credentials
        "169.254.170.23/32",  # AWS EKS pod identity
        "fd00:ec2::/32",  # AWS: IMDS, DNS, NTP, pod identity
        "fd20:ce::254/128",  # Google Cloud
        "100.100.100.200/32",  # Alibaba Cloud
        "168.63.129.16/32",  # Azure's host agent
        "192.0.0.192/32",  # Oracle Cloud
    ),
    "link-local": ("169.254.0.0/16", "fe80::/10"),
    "unspecified": ("0.0.0.0/8", "::/128"),
    "broadcast": ("255.255.255.255/32",),
    "multicast": ("224.0.0.0/4", "ff00::/8"),
    "reserved": ("240.0.0.0/4",),
}

_PRIVATE = {
    "loopback": ("127.0.0.0/8", "::1/128"),
    "private": ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7", "fec0::/10"),
    "shared by a carrier's NAT": ("100.64.0.0/10",),
    "special-purpose": (
        "192.0.0.0/24",
        "192.88.99.0/24",
        "198.18.0.0/15",
        "100::/64",
        "2001::/23",
        "5f00::/16",
        "64:ff9b:1::/48",
    ),
    "for documentation only": (
        "192.0.2.0/24",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "2001:db8::/32",
        "3fff::/20",
    ),
}

# IPv6 that a translator or tunnel turns into IPv4: the network, and how far right the IPv4
# address stands (RFC 4291, 6052, 3056).
_CARRIERS = (
    (IPv6Network("::ffff:0:0/96"), 0),  # IPv4-mapped
    (IPv6Network("::ffff:0:0:0/96"), 0),  # IPv4-translated (SIIT)
    (IPv6Network("64:ff9b::/96"), 0),  # NAT64
    (IPv6Network("2002::/16"), 80),  # 6to4
    (IPv6Network("::/96"), 0),  # IPv4-compatible, deprecated
)
_TEREDO = IPv6Network("2001::/32")  # the client's IPv4 address, all bits flipped, stands last
_ISATAP = (0x0000_5EFE, 0x0200_5EFE)  # upper half of the interface identifier (RFC 5214)

_METADATA_NAMES = frozenset(
    {"metadata.google.internal", "metadata.goog", "metadata", "instance-data", "metadata.azure.com"}
    | {"instance-data.ec2.internal", "metadata.tencentyun.com"}
)
_NUMBERS = re.compile(r"(?:0x)?[0-9a-f]+(?:\.(?:0x)?[0-9a-f]+){0,3}")

_Networks = tuple[tuple[IPv4Network | IPv6Network, str], ...]


class AddressRefused(OSError):
    """The address is not one that we connect to. An OSError, so that the next one is tried."""


def socket_factory(*, allow_private: bool) -> Callable[[_AddrInfo], socket.socket]:
    """Return a maker of sockets that raises :class:`AddressRefused` for a forbidden address."""

    def make(info: _AddrInfo) -> socket.socket:
        family, kind, protocol, _, sockaddr = info
        if reason := refusal(str(sockaddr[0]), allow_private=allow_private):
            raise AddressRefused(reason)
        return socket.socket(family, kind, protocol)

    return make


def refusal(address: str, *, allow_private: bool) -> str | None:
    """Say why *address* (an IP literal, perhaps with a scope) is refused; None where it is not."""
    try:
        ip = ip_address(address)
    except ValueError:
        return f"{address!r} is no IP address"
    if (what := _find(ip, _REFUSED_ALWAYS)) is not None:
        return f"{address} is {what}: such addresses are never called"
    if not allow_private and (what := _find(ip, _REFUSED_UNLESS_ALLOWED)) is not None:
        return f"{address} is {what}; set allow_private = true if this vendor is meant to be there"
    return None


def host_refusal(host: str, *, allow_private: bool) -> str | None:
    """Say why a URL's *host* is refused behind a proxy, which connects where we cannot see it.

    Addresses in any spelling that resolvers take are judged, and names that stand for such; what
    other names resolve to is the proxy's matter.
    """
    name = host.strip("[]").rstrip(".").lower()
    if name in _METADATA_NAMES:
        return f"{name} is a cloud metadata service: such addresses are never called"
    if name == "localhost" or name.endswith(".localhost"):
        name = "127.0.0.1"
    with contextlib.suppress(ValueError):
        return refusal(str(ip_address(name)), allow_private=allow_private)
    if _NUMBERS.fullmatch(name):
        with contextlib.suppress(OSError):
            address = socket.inet_ntoa(socket.inet_aton(name))  # 127.1, 0x7f000001, 2130706433
            return refusal(address, allow_private=allow_private)
    return None


def _find(ip: IPv4Address | IPv6Address, networks: _Networks) -> str | None:
    for network, what in networks:
        if ip.version == network.version and ip in network:
            return what
    if isinstance(ip, IPv6Address):
        for carried in _carried(ip):
            if (found := _find(carried, networks)) is not None:
                return f"{carried} in disguise, {found}"
    return None


def _carried(ip: IPv6Address) -> list[IPv4Address]:
    """Return the IPv4 addresses at which a packet to *ip* may come out."""
    number = int(ip)
    if number == 1:
        return []  # ::1 is loopback, not the IPv4-compatible form of 0.0.0.1
    found = [
        IPv4Address(number >> shift & 0xFFFF_FFFF) for network, shift in _CARRIERS if ip in network
    ]
    if ip in _TEREDO:
        found.append(IPv4Address(~number & 0xFFFF_FFFF))
    if number >> 32 & 0xFFFF_FFFF in _ISATAP:
        found.append(IPv4Address(number & 0xFFFF_FFFF))
    return found


def _parsed(ranges: dict[str, tuple[str, ...]]) -> _Networks:
    return tuple((ip_network(text), what) for what, texts in ranges.items() for text in texts)


_REFUSED_ALWAYS = _parsed(_ALWAYS)
_REFUSED_UNLESS_ALLOWED = _parsed(_PRIVATE)
