"""Adyen signs eight fields of each item and puts the signature among the item's own fields.

https://docs.adyen.com/development-resources/webhooks/secure-webhooks/verify-hmac-signatures/
"""

from __future__ import annotations

import binascii
import hmac
from collections.abc import Sequence

import msgspec

from gateway.errors import SignatureRefused
from gateway.webhooks.checks.base import (
    SelfContained,
    body_object,
    decoded_for_signing,
    text_at,
    to_bytes,
)
from gateway.webhooks.codec import decode_key, signature_decoder
from gateway.webhooks.scheme import Scheme
from gateway.webhooks.signed import SignedRequest

_MAX_ITEMS = 6  # as many as Adyen ever sends at once; JSON has one
_FIELDS = (
    ("pspReference",),
    ("originalReference",),
    ("merchantAccountCode",),
    ("merchantReference",),
    ("amount", "value"),
    ("amount", "currency"),
    ("eventCode",),
    ("success",),
)


class AdyenVerifier(SelfContained):
    """See RequestVerifier. Every item must be signed, all with the same key."""

    __slots__ = ("_decode", "_keys")

    def __init__(self, scheme: Scheme, secrets: Sequence[str]) -> None:
        self._keys = tuple(decode_key(scheme, secret) for secret in secrets)
        self._decode = signature_decoder(scheme)

    def verify(self, request: SignedRequest, now: float, fetched: bytes = b"") -> int:  # noqa: ARG002
        """See RequestVerifier."""
        signed = []
        for item in _items(request):
            signature = self._decode(text_at(item, "additionalData", "hmacSignature"))
            if signature is None:
                raise SignatureRefused("malformed additionalData.hmacSignature")
            signed.append((signature, _message(item)))
        for index, key in enumerate(self._keys):
            if all(
                hmac.compare_digest(hmac.digest(key, message, "sha256"), signature)
                for signature, message in signed
            ):
                return index
        raise SignatureRefused("no signature matches any secret")

    def message_of(self, request: SignedRequest) -> bytes:
        """See RequestVerifier."""
        return b"\n".join(_message(item) for item in _items(request))


def sign_adyen(scheme: Scheme, secret: str, body: bytes, *, message_id: str) -> bytes:
    """Return *body* with a signature in each item; one that has no items becomes one item.

    An item that has no ``pspReference``, or *message_id* where the signature belongs, gets
    *message_id* as its reference, so that it is an event of its own.
    """
    decoded = decoded_for_signing(body)
    if not isinstance(decoded, dict):
        raise ValueError("the body is no JSON object, so the signature has no place in it")
    items = decoded.setdefault("notificationItems", [{"NotificationRequestItem": {}}])
    try:
        for wrapped in items:
            item = wrapped["NotificationRequestItem"]
            additional = item.setdefault("additionalData", {})
            if "pspReference" not in item or additional.get("hmacSignature") == message_id:
                item["pspReference"] = message_id
            digest = hmac.digest(decode_key(scheme, secret), _message(item), "sha256")
            additional["hmacSignature"] = binascii.b2a_base64(digest, newline=False).decode()
    except (TypeError, KeyError, AttributeError, SignatureRefused):
        raise ValueError("notificationItems does not hold items as Adyen's do") from None
    return msgspec.json.encode(decoded)


def _items(request: SignedRequest) -> list[dict[str, object]]:
    wrapped = body_object(request).get("notificationItems")
    if not isinstance(wrapped, list) or not 0 < len(wrapped) <= _MAX_ITEMS:
        raise SignatureRefused(f"notificationItems does not hold 1 to {_MAX_ITEMS} items")
    items = [w.get("NotificationRequestItem") if isinstance(w, dict) else None for w in wrapped]
    found = [item for item in items if isinstance(item, dict)]
    if len(found) != len(items):
        raise SignatureRefused("an item without NotificationRequestItem")
    return found


def _message(item: dict[str, object]) -> bytes:
    return b":".join(_text(item, path) for path in _FIELDS)


def _text(item: object, path: tuple[str, ...]) -> bytes:
    for step in path:
        item = item.get(step) if isinstance(item, dict) else None
    match item:
        case None:
            return b""
        case bool():
            return b"true" if item else b"false"
        case str():
            return to_bytes(item)
        case int():
            return str(item).encode()
        case _:
            raise SignatureRefused(f"{'.'.join(path)} is neither a text nor a whole number")
