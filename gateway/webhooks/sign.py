"""Sign as a sender does: for trying a route without the vendor, and for calls that we sign."""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import assert_never

from gateway.errors import SignatureRefused
from gateway.webhooks.codec import decode_key, encode_signature
from gateway.webhooks.scheme import Scheme
from gateway.webhooks.verify import Parts, SignedRequest, compile_message


def sign(
    scheme: Scheme,
    secret: str,
    *,
    body: bytes,
    now: float,
    message_id: str,
    method: str = "POST",
    url: str = "",
    event_type: str | None = None,
) -> dict[str, str]:
    """Return the headers that a real sender would add to *body*, sent at Unix time *now*.

    What the sender carries inside the body (its ids, Linear's timestamp) must stand there already.
    ``ValueError`` tells what is wrong with the scheme or the secret.
    """
    timestamp = _format_timestamp(scheme, now)
    headers: dict[str, str] = {}
    fields: dict[str, str] = {}
    for source, text in (
        (scheme.message_id, message_id),
        (scheme.timestamp, timestamp),
        (scheme.event_type, event_type),
        (scheme.dedupe, message_id),
    ):
        kind, _, name = source.partition("|")[0].strip().partition(":")
        if kind == "header" and text is not None:
            headers.setdefault(name, text)
        elif kind == "field" and text is not None:
            fields.setdefault(name, text)
    request = SignedRequest(method, url, {name.lower(): headers[name] for name in headers}, body)
    parts = Parts(request, fields, timestamp.encode(), message_id.encode())
    try:
        message = compile_message(scheme)(parts)
    except SignatureRefused as refusal:
        raise ValueError(f"signed: {refusal.reason}, so this request cannot be signed") from None
    key = decode_key(scheme, secret)
    if scheme.algorithm == "token":
        signature = scheme.prefix + secret
    else:
        digest = hmac.digest(key, message, scheme.algorithm)
        signature = scheme.prefix + encode_signature(scheme, digest)
    header = scheme.header if isinstance(scheme.header, str) else scheme.header[0]
    headers[header] = _join_fields(scheme, fields, signature)
    return headers


def _format_timestamp(scheme: Scheme, now: float) -> str:
    match scheme.timestamp_unit:
        case "s":
            return str(int(now))
        case "ms":
            return str(int(now * 1000))
        case "iso8601":
            return datetime.fromtimestamp(int(now), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        case _:
            assert_never(scheme.timestamp_unit)


def _join_fields(scheme: Scheme, fields: Mapping[str, str], signature: str) -> str:
    if not scheme.signature_field:
        return signature
    items = [f"{name}={text}" for name, text in fields.items()]
    return scheme.separator.join([*items, f"{scheme.signature_field}={signature}"])
