"""Senders that sign nothing: a secret is shown with each request, or only addresses are checked."""

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
    header_of,
    text_at,
    to_bytes,
)
from gateway.webhooks.signed import SignedRequest

_MAX_NOTIFICATIONS = 1000


class BasicVerifier(SelfContained):
    """``Authorization: Basic …`` (RFC 7617); each secret is ``user:password``."""

    __slots__ = ("_credentials",)

    def __init__(self, secrets: Sequence[str]) -> None:
        if not all(":" in secret.strip(":") for secret in secrets):
            raise ValueError('the secret is not of the form "user:password"')
        self._credentials = tuple(secret.encode() for secret in secrets)

    def verify(self, request: SignedRequest, now: float, fetched: bytes = b"") -> int:  # noqa: ARG002
        """See RequestVerifier."""
        kind, _, text = header_of(request, "authorization").partition(" ")
        if kind.lower() != "basic":
            raise SignatureRefused("authorization is not Basic")
        try:
            given = binascii.a2b_base64(text.strip(), strict_mode=True)
        except ValueError:
            raise SignatureRefused("authorization is not base64") from None
        if binascii.b2a_base64(given, newline=False) != text.strip().encode():
            raise SignatureRefused("authorization is not base64 as it is written")  # stray bits
        return _index(self._credentials, given, "user and password")

    def message_of(self, request: SignedRequest) -> bytes:  # noqa: ARG002
        """See RequestVerifier."""
        raise SignatureRefused("nothing is signed")


class GraphVerifier(SelfContained):
    """Microsoft Graph: every notification of a body shows the subscription's ``clientState``."""

    __slots__ = ("_states",)

    def __init__(self, secrets: Sequence[str]) -> None:
        self._states = tuple(secret.encode() for secret in secrets)

    def verify(self, request: SignedRequest, now: float, fetched: bytes = b"") -> int:  # noqa: ARG002
        """See RequestVerifier."""
        notifications = body_object(request).get("value")
        if not isinstance(notifications, list) or not 0 < len(notifications) <= _MAX_NOTIFICATIONS:
            raise SignatureRefused(f"value does not hold 1 to {_MAX_NOTIFICATIONS} notifications")
        found = [
            _index(self._states, to_bytes(text_at(one, "clientState")), "clientState")
            for one in notifications
        ]
        return found[0]

    def message_of(self, request: SignedRequest) -> bytes:  # noqa: ARG002
        """See RequestVerifier."""
        raise SignatureRefused("nothing is signed")


def show_client_state(secret: str, body: bytes) -> bytes:
    """Return *body* with ``clientState`` in each notification; one without any becomes one."""
    decoded = decoded_for_signing(body)
    if not isinstance(decoded, dict):
        raise ValueError("the body is no JSON object, so clientState has no place in it")
    notifications = decoded.setdefault("value", [{}])
    if not isinstance(notifications, list) or not all(isinstance(n, dict) for n in notifications):
        raise ValueError("value does not hold notifications as Microsoft Graph's do")
    for notification in notifications:
        notification["clientState"] = secret
    return msgspec.json.encode(decoded)


class IpVerifier(SelfContained):
    """Takes everything: that ``allow_ips`` is not empty is seen to by the configuration."""

    __slots__ = ()

    def verify(self, request: SignedRequest, now: float, fetched: bytes = b"") -> int:  # noqa: ARG002
        """See RequestVerifier."""
        return 0

    def message_of(self, request: SignedRequest) -> bytes:  # noqa: ARG002
        """See RequestVerifier."""
        raise SignatureRefused("nothing is signed")


def _index(secrets: tuple[bytes, ...], given: bytes, what: str) -> int:
    for index, secret in enumerate(secrets):
        if hmac.compare_digest(secret, given):
            return index
    raise SignatureRefused(f"{what} match no secret")
