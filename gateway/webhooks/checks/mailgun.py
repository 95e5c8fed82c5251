"""Mailgun puts its proof into the body: a time, a token, and the HMAC of both.

Nothing else of the body is covered. What keeps a captured proof from being used for other bodies
is that a token is taken once, which the intake's dedupe by token sees to, and the time.
https://documentation.mailgun.com/docs/mailgun/user-manual/webhooks/securing-webhooks
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence

import msgspec

from gateway.errors import SignatureRefused
from gateway.webhooks.checks.base import (
    SelfContained,
    body_object,
    decoded_for_signing,
    text_at,
)
from gateway.webhooks.codec import decode_key, signature_decoder
from gateway.webhooks.scheme import Scheme
from gateway.webhooks.signed import SignedRequest
from gateway.webhooks.verify import MAX_TIMESTAMP_CHARS, check_age

_MAX_TOKEN_CHARS = 255  # longer ones could not be dedupe keys as they are


class MailgunVerifier(SelfContained):
    """See RequestVerifier. Takes JSON (``signature: {…}``) and forms (the fields at the top)."""

    __slots__ = ("_decode", "_keys", "_tolerance_seconds")

    def __init__(self, scheme: Scheme, secrets: Sequence[str]) -> None:
        self._keys = tuple(decode_key(scheme, secret) for secret in secrets)
        self._decode = signature_decoder(scheme)
        self._tolerance_seconds = scheme.tolerance_seconds

    def verify(self, request: SignedRequest, now: float, fetched: bytes = b"") -> int:  # noqa: ARG002
        """See RequestVerifier."""
        proof = _proof(request)
        timestamp, message = _message(proof)
        check_age(now - timestamp, self._tolerance_seconds)
        texts = [text_at(proof, "signature")]
        parent = proof.get("parent-signature")  # the main account's, for events of a subaccount
        if isinstance(parent, str):
            texts.append(parent)
        signatures = [found for text in texts if (found := self._decode(text)) is not None]
        for index, key in enumerate(self._keys):
            expected = hmac.digest(key, message, "sha256")
            if any(hmac.compare_digest(expected, signature) for signature in signatures):
                return index
        raise SignatureRefused("no signature matches any secret")

    def message_of(self, request: SignedRequest) -> bytes:
        """See RequestVerifier."""
        return _message(_proof(request))[1]


def sign_mailgun(scheme: Scheme, secret: str, body: bytes, *, now: float, token: str) -> bytes:
    """Return *body*, a JSON object, with its proof in it."""
    decoded = decoded_for_signing(body)
    if not isinstance(decoded, dict):
        raise ValueError("the body is no JSON object, so the proof has no place in it")
    timestamp = str(int(now))
    digest = hmac.digest(decode_key(scheme, secret), (timestamp + token).encode(), "sha256")
    decoded["signature"] = {"timestamp": timestamp, "token": token, "signature": digest.hex()}
    return msgspec.json.encode(decoded)


def _proof(request: SignedRequest) -> dict[str, object]:
    fields = body_object(request)
    nested = fields.get("signature")
    return nested if isinstance(nested, dict) else fields


def _message(proof: dict[str, object]) -> tuple[float, bytes]:
    timestamp = proof.get("timestamp")
    if isinstance(timestamp, int) and not isinstance(timestamp, bool):
        timestamp = str(timestamp)
    token = text_at(proof, "token")
    if (
        not isinstance(timestamp, str)
        or len(timestamp) > MAX_TIMESTAMP_CHARS
        or not (timestamp.isascii() and timestamp.isdigit())
    ):
        raise SignatureRefused("no well-formed timestamp in the body's signature")
    # Digits of the token could else pass for digits of the time, and the other way round.
    if len(token) > _MAX_TOKEN_CHARS or not token.isascii() or not 9 < len(timestamp) < 12:
        raise SignatureRefused("malformed token or timestamp in the body's signature")
    return float(timestamp), (timestamp + token).encode()
