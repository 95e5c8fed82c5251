"""Read what a vendor answers: bounded, whatever it sends."""

from __future__ import annotations

import time
from collections.abc import Callable

import aiohttp

from gateway.config.model import QuotaHeaders
from gateway.vendors.calls import Reply
from gateway.vendors.classify import retry_after_seconds
from gateway.vendors.quota import STANDARD, quota_of

_DRAIN_BYTES = 1 << 20  # read, so that the connection can be used again; beyond it is closed
_MAX_HEADERS = 64
_MAX_HEADER_CHARS = 2048


async def read_reply(
    response: aiohttp.ClientResponse,
    *,
    limit: int,
    started: float,
    now: Callable[[], float],
    quota: QuotaHeaders | None = None,
) -> Reply:
    """Return the answer with at most *limit* bytes of its body; *now* is Unix time.

    *started* is when the request was begun, by ``time.perf_counter``. *quota* says where the vendor
    writes its quota, besides the standard headers.
    """
    body, complete = await read_body(response, limit)
    headers = _reply_headers(response)
    wish = headers.get("retry-after")
    return Reply(
        status=response.status,
        headers=headers,
        body=body,
        body_complete=complete,
        duration_seconds=time.perf_counter() - started,
        retry_after_seconds=None
        if wish is None
        else retry_after_seconds(wish, now=now(), date=headers.get("date")),
        quota=quota_of(headers, now=now(), formats=(*STANDARD, quota) if quota else STANDARD),
    )


async def read_body(response: aiohttp.ClientResponse, limit: int) -> tuple[bytes, bool]:
    """Return at most *limit* bytes of the body, and whether that is all of it.

    A somewhat larger body is read to its end and thrown away, a huge one not even that.
    """
    stream = response.content
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
            response.close()
            break
    return b"".join(kept), size <= limit


def _reply_headers(response: aiohttp.ClientResponse) -> dict[str, str]:
    received = response.headers
    headers = {name.lower(): value for name, value in received.items()}
    if len(headers) == len(received) <= _MAX_HEADERS:
        return {name: _bounded(value) for name, value in headers.items()}
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
