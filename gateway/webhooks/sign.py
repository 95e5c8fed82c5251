"""Sign as a sender does: for trying a route without the vendor, and for calls that we sign."""

from __future__ import annotations

import binascii
import hmac
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import assert_never

from gateway.errors import SignatureRefused
from gateway.webhooks.codec import decode_key, encode_signature
from gateway.webhooks.scheme import ASYMMETRIC, Alternative, Scheme
from gateway.webhooks.signed import Parts, SignedRequest
from gateway.webhooks.verify import compile_message


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
    private_key: str = "",
) -> dict[str, str]:
    """Return the headers that a real sender would add to *body*, sent at Unix time *now*.

    A sender that signs with a private key has that of *private_key* (PEM). What the sender carries
    inside the body (its ids, Linear's timestamp) must stand there already; a signature inside the
    body is put there by :func:`sign_body`. ``ValueError`` tells what is wrong with the scheme, the
    secret or the key, or that only the sender holds one.
    """
    if scheme.check:
        return _sign_otherwise(
            scheme, secret, body, now=now, method=method, url=url, message_id=message_id
        )
    digest = _digest_of(scheme, secret, private_key)
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
    signature = scheme.prefix + secret if scheme.algorithm == "token" else digest(message)
    header = scheme.header if isinstance(scheme.header, str) else scheme.header[0]
    headers[header] = _join_fields(scheme, fields, signature)
    return headers


def _digest_of(scheme: Scheme, secret: str, private_key: str) -> Callable[[bytes], str]:
    """Return what makes a signature of a message, as it stands in the header, prefix and all."""
    other = scheme.alternative
    keyed: Scheme | Alternative | None = scheme if scheme.algorithm in ASYMMETRIC else None
    if other is not None and (private_key or secret.startswith(other.key_prefix)):
        keyed = other
    if keyed is None:
        key = decode_key(scheme, secret)
        return lambda message: (
            scheme.prefix + encode_signature(scheme, hmac.digest(key, message, scheme.algorithm))
        )
    if not private_key:
        raise _only_the_sender(scheme, own_key=True)
    from gateway.webhooks.privatekeys import load_private_key  # costs 20 ms, which few need

    by, sign_message = keyed, load_private_key(keyed, private_key)
    return lambda message: by.prefix + encode_signature(by, sign_message(message))


def sign_body(scheme: Scheme, secret: str, body: bytes, *, now: float, message_id: str) -> bytes:
    """Return *body* with its signature in it where the sender puts it there; else as it is.

    ``ValueError`` tells why there is no place for it.
    """
    match scheme.check:
        case "mailgun":
            from gateway.webhooks.checks.mailgun import sign_mailgun

            return sign_mailgun(scheme, secret, body, now=now, token=message_id)
        case "adyen":
            from gateway.webhooks.checks.adyen import sign_adyen

            return sign_adyen(scheme, secret, body, message_id=message_id)
        case "microsoft-graph":
            from gateway.webhooks.checks.shown import show_client_state

            return show_client_state(secret, body)
        case _:
            return body


def check_signing(scheme: Scheme, secret: str) -> None:
    """Raise ``ValueError`` where calls cannot be signed by *scheme* with *secret*."""
    if scheme.check not in ("", "twilio", "basic", "jwt"):
        raise ValueError(f"calls cannot be signed as {scheme.name} does: it signs no headers")
    other = scheme.alternative
    if scheme.algorithm in ASYMMETRIC or (other and secret.startswith(other.key_prefix)):
        raise _only_the_sender(scheme)
    decode_key(scheme, secret)


def _sign_otherwise(
    scheme: Scheme,
    secret: str,
    body: bytes,
    *,
    now: float,
    method: str,
    url: str,
    message_id: str,
) -> dict[str, str]:
    match scheme.check:
        case "jwt" if scheme.algorithm not in ASYMMETRIC:
            from gateway.webhooks.checks.jwt import sign_jwt

            return sign_jwt(scheme, secret, body, now=now, message_id=message_id)
        case "twilio":
            from gateway.webhooks.checks.twilio import sign_twilio

            # A body that is no form would be signed in the URL, which is not ours to change.
            query = url.partition("?")[2]
            form = {"content-type": "application/x-www-form-urlencoded"}
            try:
                request = SignedRequest(
                    method, url, {} if "bodySHA256=" in query else form, body, query
                )
                signature = sign_twilio(scheme, secret, request)
            except SignatureRefused as refusal:
                raise ValueError(f"{refusal.reason}, so this request cannot be signed") from None
            return {"I-Twilio-Idempotency-Token": message_id, "X-Twilio-Signature": signature}
        case "basic":
            credentials = binascii.b2a_base64(secret.encode(), newline=False).decode()
            return {"Authorization": f"Basic {credentials}"}
        case "mailgun" | "adyen" | "microsoft-graph" | "ip":
            return {}  # what there is stands in the body
        case _:
            raise _only_the_sender(scheme)


def _only_the_sender(scheme: Scheme, *, own_key: bool = False) -> ValueError:
    remedy = (
        "make a key pair, put its public half into secrets beside the sender's, and name the "
        "private one with --key FILE"
        if own_key
        else "try the route with another sender, or the sender's own test button"
    )
    return ValueError(
        f"{scheme.name} signs with a private key that only the sender holds, so its webhooks "
        f"cannot be made here; {remedy}"
    )


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
