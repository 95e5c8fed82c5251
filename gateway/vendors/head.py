"""Write the head of a request, its first line and its header lines, so that nothing smuggles: pure.

Header lines are kept ready to be written, by their name in lower case, so that what all calls of a
vendor have in common is put together once, and what comes later replaces what came before.
"""

from __future__ import annotations

import re
from functools import lru_cache

from gateway.vendors.calls import CallFailed

# A route may not set these: they frame the request on the wire.
FRAMING = frozenset(
    {
        *("host", "content-length", "transfer-encoding", "connection", "keep-alive", "te"),
        *("trailer", "upgrade", "expect", "proxy-authorization", "proxy-connection"),
    }
)
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")  # RFC 9110, 5.6.2
_UNSAFE = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_WITHOUT_BODY = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})  # their length is not stated as 0
_WITH_BODY = frozenset({"PATCH", "POST", "PUT"})

HeaderLines = dict[str, str]  # "Name: value" by name in lower case


def header_line(name: str, value: str) -> str:
    """Return the line; :class:`CallFailed` for a value that would be more than one."""
    line = f"{name}: {value}"
    # What can be printed holds no control character; a tab is allowed, and found out slowly.
    if not line.isprintable() and _UNSAFE.search(line):
        raise _unsafe_header(name)
    return line


@lru_cache(maxsize=1024)
def field_name(name: str) -> str:
    """Return *name* in lower case; :class:`CallFailed` unless it is a token."""
    if _TOKEN.fullmatch(name) is None:
        raise _unsafe_header(name)
    return name.lower()


def head_of(method: str, target: str, lines: HeaderLines, body: bytes | None) -> bytes:
    """Return the head of a request with *body*, which it frames by its length.

    *target* is in its written form, without anything but visible ASCII.
    """
    method = _method(method)
    if body is not None:
        lines["content-length"] = f"Content-Length: {len(body)}"
    elif method not in _WITHOUT_BODY:
        lines["content-length"] = "Content-Length: 0"
    if "content-type" not in lines and (body is not None or method in _WITH_BODY):
        lines["content-type"] = "Content-Type: application/octet-stream"
    head = f"{method} {target} HTTP/1.1\r\n" + "\r\n".join(lines.values()) + "\r\n\r\n"
    return head.encode("utf-8", "ignore")


def written_target(path: str) -> str:
    """Return the target of a request for *path*: never empty, and without an empty query."""
    asked, _, query = path.partition("?")
    return f"{asked or '/'}?{query}" if query else asked or "/"


@lru_cache(maxsize=64)
def _method(method: str) -> str:
    if _TOKEN.fullmatch(method) is None:
        raise CallFailed("request", f"the method {method[:20]!r} cannot be sent")
    return method.upper()


def _unsafe_header(name: str) -> CallFailed:
    return CallFailed(
        "request", f"header {name[:100]!r}: names are tokens, values hold no CR, LF or NUL"
    )
