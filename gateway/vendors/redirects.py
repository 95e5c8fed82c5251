"""Where a redirect leads, and what may go there: pure.

A hop keeps its method and body with 307 and 308; a 303 is fetched with GET, and so is what a POST
got a 301 or 302 for, as everybody does (RFC 9110, 15.4). Whatever shows who we are goes to the
vendor's own origin only, and not again once the way has left it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from urllib.parse import unquote_plus, urljoin

import msgspec
from yarl import URL

from gateway.vendors.calls import CallFailed, Reply

STATUSES = frozenset({301, 302, 303, 307, 308})

_LOCATION = re.compile(r"[!#$%&'()*+,\-./0-9:;=?@A-Z_a-z~\[\]]{1,2000}")
_SECRET_NAME = re.compile(
    r"key|token|secret|signature|auth|passw|session|jwt|credential|cookie|hmac", re.IGNORECASE
)


class Hop(msgspec.Struct, frozen=True):
    """One request on the way: *own* while it has never left the vendor's origin."""

    method: str
    url: URL
    with_body: bool
    own: bool


def next_hop(hop: Hop, reply: Reply, *, query: str = "", query_name: str = "") -> Hop | None:
    """Return where *reply* to *hop* leads; None: it is no redirect that can be followed.

    *query* is what authentication adds to URLs of the vendor's own origin, and ``query_name`` its
    parameter. :class:`CallFailed` for a target that is none.
    """
    location = reply.headers.get("location")
    if reply.status not in STATUSES or location is None:
        return None
    url = _target(hop.url, location)
    own = hop.own and _origin(url) == _origin(hop.url)
    if query_name:
        url = _with_key(url, query if own else "", query_name)
    method, with_body = hop.method, hop.with_body
    if (reply.status == 303 and method != "HEAD") or (
        reply.status in (301, 302) and method == "POST"
    ):
        method, with_body = "GET", False
    return Hop(method, url, with_body, own)


def harmless(
    headers: Mapping[str, str], *, auth: Iterable[str], idempotency_header: str
) -> dict[str, str]:
    """Return those of *headers* that may go to another origin: none that could be a credential."""
    refused = {name.lower() for name in auth}
    return {
        name: value
        for name, value in headers.items()
        if name.lower() not in refused
        and (name.lower() == idempotency_header.lower() or not _SECRET_NAME.search(name))
    }


def _target(base: URL, location: str) -> URL:
    try:
        if _LOCATION.fullmatch(location) is None:
            raise ValueError("no plain URL")
        url = URL(urljoin(str(base), location).partition("#")[0], encoded=True)
        origin = url.origin()  # ValueError without a host
        if not 0 < (url.port or 80) < 1 << 16:
            raise ValueError("no port")
    except ValueError:
        raise CallFailed("redirect", "the vendor's Location is no URL that can be used") from None
    if url.scheme not in ("http", "https"):
        raise CallFailed("redirect", "the vendor's Location is neither http nor https")
    if url.user is not None or url.password is not None:
        raise CallFailed("redirect", f"the vendor's Location at {origin} holds credentials")
    if base.scheme == "https" and url.scheme == "http":
        raise CallFailed("redirect", f"{origin} would get in the clear what was sent with TLS")
    return url


def _origin(url: URL) -> tuple[str, str, int | None]:
    return url.scheme, (url.host or "").lower(), url.port


def _with_key(url: URL, query: str, query_name: str) -> URL:
    """Return *url* with *query* for the parameter *query_name*, or without it."""
    path, _, asked = str(url).partition("?")
    kept = [
        part
        for part in asked.split("&")
        if part and unquote_plus(part.partition("=")[0]) != query_name
    ]
    if query:
        kept.append(query)
    return URL(path + ("?" + "&".join(kept) if kept else ""), encoded=True)
