"""Answers that are written in one piece: the commonest of them is sent once for every webhook.

aiohttp's own response is a mapping, a set of cookies, a body that may be compressed, and headers
that it puts together anew: more than all else that an answer of three fixed headers costs.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from email.utils import formatdate
from http import HTTPStatus

_NO_HEADERS: Mapping[str, str] = {}


def written(
    status: int,
    body: bytes,
    *,
    correlation_id: str,
    content_type: str,
    headers: Mapping[str, str] = _NO_HEADERS,
) -> bytes:
    """Return a whole answer as HTTP/1.1 has it, for a connection that is kept.

    *correlation_id*, *content_type* and *headers* must be fit for a header. Not for HEAD, whose
    answer has no body.
    """
    more = "".join([f"{name}: {text}\r\n" for name, text in headers.items()]) if headers else ""
    return b"%b%b%bX-Correlation-ID: %b\r\n%b" % (
        _head(status, content_type),
        _date(),
        more.encode(),
        correlation_id.encode(),
        b"Content-Length: %d\r\n\r\n%b" % (len(body), body) if status != 204 else b"\r\n",
    )


_heads: dict[tuple[int, str], bytes] = {}  # as many as there are statuses in the configuration
_dated: tuple[int, bytes] = (0, b"")


def _head(status: int, content_type: str) -> bytes:
    head = _heads.get((status, content_type))
    if head is None:
        known = HTTPStatus.__members__.values()
        phrase = next((one.phrase for one in known if one == status), "")
        text = f"HTTP/1.1 {status} {phrase}\r\nContent-Type: {content_type}\r\nServer: gateway\r\n"
        head = _heads[status, content_type] = text.encode()
    return head


def _date() -> bytes:
    """Return the Date header, made once a second."""
    global _dated  # one clock for the process
    now = int(time.time())
    if _dated[0] != now:
        _dated = now, f"Date: {formatdate(now, usegmt=True)}\r\n".encode()
    return _dated[1]
