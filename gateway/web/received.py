"""What a request brings: its body within bounds, its headers as they are kept, its names."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping

import msgspec
from aiohttp import web

from gateway.texts import storable
from gateway.web.answers import Refusal
from gateway.web.doors import Door
from gateway.webhooks.signed import SignedRequest
from gateway.webhooks.verify import public_url

BODY_SECONDS = 20.0  # for the whole body of one request
MAX_HEADERS_BYTES = 64 << 10  # of all headers of one webhook, as they are stored

_SANE_CORRELATION_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/+=-]{0,127}").fullmatch

_encode = msgspec.json.Encoder().encode


async def read_body(request: web.BaseRequest, max_bytes: int) -> bytes:
    """Return the raw body, at most *max_bytes* of it, within BODY_SECONDS."""
    content = request.content
    if content.is_eof() and content.total_bytes <= max_bytes:
        return content.read_nowait(-1)  # it came with the headers
    too_large = Refusal(413, f"the body is larger than {max_bytes} bytes", result="too_large")
    if (request.content_length or 0) > max_bytes:
        raise too_large
    if request.headers.get("Expect", "").lower() == "100-continue":
        assert request.transport is not None  # noqa: S101  # the request has just arrived on it
        request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    chunks = []
    size = 0
    try:
        async with asyncio.timeout(BODY_SECONDS):
            while chunk := await content.readany():
                size += len(chunk)
                if size > max_bytes:
                    raise too_large
                chunks.append(chunk)
    except RuntimeError as error:
        if request.transport is not None:
            raise
        # aiohttp's word for a connection that was lost before anybody asked for the body.
        raise ConnectionResetError("the connection was lost") from error
    except TimeoutError:
        raise Refusal(408, f"the body did not arrive within {BODY_SECONDS:g} s") from None
    return b"".join(chunks)


def signed_request(
    door: Door, method: str, target: str, headers: Mapping[str, str], body: bytes, query: str
) -> SignedRequest:
    """Return what a signature may cover; the URL is the public one where it is configured."""
    url = public_url(door.config.url, target) if door.config.url else target
    return SignedRequest(method, url, headers, body, query)


def correlation_id_of(headers: Mapping[str, str]) -> str:
    """Return the caller's correlation id if it is a sane one, else nothing."""
    given = headers.get("x-correlation-id")
    return given if given is not None and _SANE_CORRELATION_ID(given) else ""


def kept_headers(headers: Mapping[str, str], masked: frozenset[str]) -> tuple[dict[str, str], str]:
    """Return the headers with names in lower case, repeated ones joined, secrets masked; as a
    dict and as JSON that PostgreSQL can hold.
    """
    if isinstance(headers, dict):
        kept = headers.copy()  # as they were read at once: by names in lower case, each once
    else:
        kept = {name.lower(): value for name, value in headers.items()}
    if len(kept) < len(headers):
        kept = {}
        for name, value in headers.items():
            name = name.lower()
            kept[name] = f"{kept[name]}, {value}" if name in kept else value
    for name in masked.intersection(kept):
        kept[name] = "***"
    try:
        encoded = _encode(kept)
        storable_as_it_is = b"\\u0000" not in encoded
    except UnicodeEncodeError:  # bytes that are no UTF-8 arrive as lone surrogates
        storable_as_it_is = False
    if not storable_as_it_is:
        kept = {storable(name): storable(value) for name, value in kept.items()}
        encoded = _encode(kept)
    if len(encoded) > MAX_HEADERS_BYTES:
        raise Refusal(431, f"the headers are larger than {MAX_HEADERS_BYTES} bytes")
    return kept, encoded.decode()
