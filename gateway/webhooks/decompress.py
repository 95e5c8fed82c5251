"""Compressed bodies: inflated after verification, never beyond a cap."""

from __future__ import annotations

import zlib
from collections.abc import Mapping

from gateway.webhooks.extract import UNDECODED, DecodeJson, decode_body, decode_json

MAX_INFLATED_BYTES = 10 << 20

_MAX_MEMBERS = 16  # a gzip body may be several in a row; real senders send one


def decode_received(
    body: bytes, headers: Mapping[str, str], decode_json: DecodeJson = decode_json
) -> object:
    """Return the decoded body of a request or a stored event, or ``UNDECODED``; never raises.

    *headers* is asked for names in lower case. A compressed body may grow to 10 MiB.
    """
    encoding = headers.get("content-encoding")
    if encoding:
        inflated = inflate(body, encoding, MAX_INFLATED_BYTES)
        if inflated is None:
            return UNDECODED
        body = inflated
    return decode_body(body, headers.get("content-type"), decode_json)


def inflate(body: bytes, encoding: str, max_bytes: int) -> bytes | None:
    """Return *body* decoded from ``Content-Encoding`` *encoding*: gzip, deflate or identity.

    None where that cannot be done: another encoding, broken or truncated data, or more than
    *max_bytes*; memory stays within *max_bytes*, however small the bomb.
    """
    match encoding.strip().lower():
        case "" | "identity":
            return body if len(body) <= max_bytes else None
        case "gzip" | "x-gzip":
            return _inflate_members(body, zlib.MAX_WBITS | 16, max_bytes)
        case "deflate":  # zlib-wrapped by RFC 9110; some senders leave the wrapper out
            inflated = _inflate_members(body, zlib.MAX_WBITS, max_bytes)
            if inflated is None:
                inflated = _inflate_members(body, -zlib.MAX_WBITS, max_bytes)
            return inflated
        case _:
            return None


def _inflate_members(body: bytes, wbits: int, max_bytes: int) -> bytes | None:
    inflated = b""
    for _ in range(_MAX_MEMBERS):
        stream = zlib.decompressobj(wbits)
        try:
            # One byte more than allowed shows that there is more, and 0 would mean "no limit".
            inflated += stream.decompress(body, max_bytes - len(inflated) + 1)
        except zlib.error:
            return None
        if len(inflated) > max_bytes or not stream.eof:
            return None
        body = stream.unused_data
        if not body:
            return inflated
    return None
