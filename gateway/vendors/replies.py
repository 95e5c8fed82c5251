"""Read what a vendor answers: bounded, whatever it sends."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from gateway.config.model import QuotaHeaders
from gateway.messages import Answer
from gateway.vendors.calls import Reply
from gateway.vendors.classify import retry_after_seconds
from gateway.vendors.quota import STANDARD, quota_of

if TYPE_CHECKING:
    from aiohttp import StreamReader
    from aiohttp.http import RawResponseMessage

_DRAIN_BYTES = 1 << 20  # read, so that the connection can be used again; beyond it is closed
_MAX_HEADERS = 64
_MAX_CHARS = 2048  # of one header


def reply_of(
    answer: Answer,
    *,
    duration_seconds: float,
    now: Callable[[], float],
    quota: QuotaHeaders | None = None,
) -> Reply:
    """Return what *answer* says; *now* is Unix time.

    *quota* says where the vendor writes its quota, besides the standard headers.
    """
    headers = answer.headers
    wish = headers.get("retry-after")
    return Reply(
        status=answer.status,
        headers=headers,
        body=answer.body,
        body_complete=answer.body_complete,
        duration_seconds=duration_seconds,
        retry_after_seconds=None
        if wish is None
        else retry_after_seconds(wish, now=now(), date=headers.get("date")),
        quota=quota_of(headers, now=now(), formats=(*STANDARD, quota) if quota else STANDARD),
    )


async def read_body(stream: StreamReader, limit: int) -> tuple[bytes, bool]:
    """Return at most *limit* bytes of the body, and whether that is all of it.

    A somewhat larger body is read to its end and thrown away, a huge one not even that: then the
    connection cannot be used again.
    """
    chunk = await stream.readany()
    if stream.at_eof() and len(chunk) <= limit:
        return chunk, True
    kept, size = [chunk[:limit]], len(chunk)
    while not stream.at_eof():
        chunk = await stream.readany()
        if size < limit:
            kept.append(chunk[: limit - size])
        size += len(chunk)
        if size > max(limit, _DRAIN_BYTES):
            break
    return b"".join(kept), size <= limit


def headers_of(head: RawResponseMessage) -> dict[str, str]:
    """Return the headers by their names in lower case: bounded, repeated ones joined, as text."""
    received = head.headers
    headers = {name.lower(): _text(value) for name, value in received.items()}
    if len(headers) < len(received):
        headers = {name: _text(", ".join(received.getall(name))) for name in headers}
    return bounded(headers)


def bounded(headers: dict[str, str]) -> dict[str, str]:
    """Return as much of *headers* as is kept of an answer."""
    if len(headers) <= _MAX_HEADERS and max(map(len, headers.values()), default=0) <= _MAX_CHARS:
        return headers
    return {name: headers[name][:_MAX_CHARS] for name in list(headers)[:_MAX_HEADERS]}


def _text(value: str) -> str:
    """Return *value* without the lone surrogates in which aiohttp smuggles undecodable bytes
    through, and which no database takes.
    """
    return value if value.isascii() else value.encode("utf-8", "replace").decode()
