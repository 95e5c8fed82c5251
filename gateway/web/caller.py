"""Who is calling: the peer, or, behind proxies that we trust, whom they speak for."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

IpAddress = IPv4Address | IPv6Address
IpNetwork = IPv4Network | IPv6Network

MAX_HOPS = 32


class Networks:
    """A set of networks; an IPv4 address in IPv6 clothes (``::ffff:a.b.c.d``) is the IPv4 one."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._networks: tuple[IpNetwork, ...] = tuple(ip_network(text) for text in texts)

    def __bool__(self) -> bool:
        return bool(self._networks)

    def __contains__(self, address: IpAddress) -> bool:
        return any(
            address.version == network.version and address in network for network in self._networks
        )


def peer_of(transport: asyncio.BaseTransport | None) -> str | None:
    """Return the address at the other end of a connection; None for a Unix socket, or none."""
    peer = transport.get_extra_info("peername") if transport is not None else None
    return str(peer[0]) if isinstance(peer, (tuple, list)) else None


def caller_address(
    peer: str | None, headers: Mapping[str, str], trusted: Networks
) -> IpAddress | None:
    """Return the caller's address: the right-most hop that is not one of our *trusted* proxies.

    ``X-Forwarded-For`` is read, else ``Forwarded`` (RFC 7239), and only as far as the peer and
    each hop before it are trusted: whatever stands further left, anyone may have written. None
    when the peer is unknown (a Unix socket) or a trusted proxy wrote something that is no address.
    *headers* is asked for names in lower case.
    """
    address = _parsed(peer or "")
    if address is None or address not in trusted:
        return address
    for text in reversed(_hops(headers)):
        hop = _parsed(text)
        if hop is None:
            return None
        address = hop
        if address not in trusted:
            break
    return address


def _hops(headers: Mapping[str, str]) -> list[str]:
    chain = _joined(headers, "x-forwarded-for")
    if chain:
        return [hop.strip() for hop in chain.split(",")][-MAX_HOPS:]
    hops = []
    for element in _joined(headers, "forwarded").split(","):
        for pair in element.split(";"):
            name, _, value = pair.strip().partition("=")
            if name.lower() == "for":
                hops.append(value.strip('"'))
    return hops[-MAX_HOPS:]


def _joined(headers: Mapping[str, str], name: str) -> str:
    """Return a header with its repetitions in order; a proxy may add a line of its own."""
    getall = getattr(headers, "getall", None)
    if getall is None:
        return headers.get(name, "")
    return ",".join(getall(name, ()))


def _parsed(text: str) -> IpAddress | None:
    """Return the address in *text*, which may carry a port, or None."""
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address
