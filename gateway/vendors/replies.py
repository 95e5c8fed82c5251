"""Read what a vendor answers: bounded, whatever it sends."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from gateway.config.model import QuotaHeaders
from gateway.vendors.calls import Reply
from gateway.vendors.classify import retry_after_seconds
from gateway.vendors.quota import STANDARD, quota_of

if TYPE_CHECKING:
    from aiohttp import StreamReader
    from aiohttp.http import RawResponseMessage

_DRAIN_BYTES = 1 << 20  # read, so that the connection can be used again; beyond it is closed
_MAX_HEADERS = 64
_MAX_HEADER_CHARS = 2048


def reply_of(
    head: RawResponseMessage,
    body: bytes,
    *,
    body_complete: bool,
    duration_seconds: float,
    now: Callable[[], float],
    quota: QuotaHeaders | None = None,
) -> Reply:
    """Return the answer with this *head* and this much of its *body*; *now* is Unix time.

    *quota* says where the vendor writes its quota, besides the standard headers.
    """
    headers = _reply_headers(head)
    wish = headers.get("retry-after")
    return Reply(
        status=head.code,
        headers=headers,
        body=body,
        body_complete=body_complete,
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


def _reply_headers(head: RawResponseMessage) -> dict[str, str]:
    received = head.headers
    headers = {
        name.lower(): value
        if value.isascii() and len(value) <= _MAX_HEADER_CHARS
        else _bounded(value)
        for name, value in received.items()
    }
    if len(headers) == len(received) <= _MAX_HEADERS:
        return headers
    bounded: dict[str, str] = {}
    for name in headers:
        bounded[name] = _bounded(", ".join(received.getall(name)))
        if len(bounded) == _MAX_HEADERS:
            break
    return bounded


def _bounded(value: str) -> str:
    if value.isascii():
        return value[:_MAX_HEADER_CHARS]
    # aiohttp smuggles undecodable bytes through as lone surrogates, which no database takes.
    return value[:_MAX_HEADER_CHARS].encode("utf-8", "replace").decode()
