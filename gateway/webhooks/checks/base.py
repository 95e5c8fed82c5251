"""What the senders' functions share: fields of a body, one header, nothing to fetch."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from gateway.errors import SignatureRefused
from gateway.webhooks.extract import decode_body
from gateway.webhooks.signed import Need, SignedRequest
from gateway.webhooks.verify import MAX_HEADER_CHARS

MAX_FIELD_CHARS = 1 << 20
_BASE64 = re.compile(r"[A-Za-z0-9+/]{1,2048}={0,2}")


class SelfContained:
    """A verifier to which nothing need be fetched."""

    __slots__ = ()

    fetches = False

    def needs(self, request: SignedRequest) -> Need | None:  # noqa: ARG002
        """See RequestVerifier."""
        return None


def body_object(request: SignedRequest) -> dict[str, object]:
    """Return the body's JSON object or form."""
    decoded = decode_body(request.body, request.headers.get("content-type"))
    if not isinstance(decoded, dict):
        raise SignatureRefused("the body is neither a JSON object nor a form")
    return decoded


def text_at(fields: object, *path: str) -> str:
    """Return the text at *path* of nested objects; refuses anything else, also an empty text."""
    for step in path:
        fields = fields.get(step) if isinstance(fields, dict) else None
    if not isinstance(fields, str) or not fields or len(fields) > MAX_FIELD_CHARS:
        raise SignatureRefused(f"no text at {'.'.join(path)} of the body")
    return fields


def header_of(request: SignedRequest, name: str) -> str:
    """Return the header *name* (in lower case), which must be there, of a sane length and ASCII."""
    text = request.headers.get(name)
    if not text:
        raise SignatureRefused(f"no header {name}")
    if len(text) > MAX_HEADER_CHARS or not text.isascii():
        raise SignatureRefused(f"header {name} is malformed")
    return text


def to_bytes(text: str) -> bytes:
    """Return *text* as UTF-8; refuses lone surrogates."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise SignatureRefused("a signed field is no UTF-8") from None


def is_base64(text: str) -> bool:
    """Tell whether *text* is plain base64 of a signature's length."""
    return _BASE64.fullmatch(text) is not None


def decoded_for_signing(body: bytes) -> Any:
    """Return the JSON in *body*, ``{}`` where it is empty; ``ValueError`` where there is none."""
    try:
        return msgspec.json.decode(body or b"{}")
    except RecursionError:
        raise ValueError("the body is nested too deeply") from None


def json_object(data: bytes) -> dict[str, object]:
    """Return the JSON object in *data*, or refuse."""
    try:
        decoded = msgspec.json.decode(data)
    except (ValueError, RecursionError):
        decoded = None
    if not isinstance(decoded, dict):
        raise SignatureRefused("what was fetched or sent is no JSON object")
    return decoded
