"""PayPal signs ``id|time|webhook id|crc32(body)`` by a certificate that it names a URL of.

The webhook's id, which PayPal shows at its creation, stands in a secret's place. A CRC is no hash:
who holds one signed webhook can make another body of the same CRC. PayPal offers nothing better
without a call for each webhook.
https://developer.paypal.com/api/rest/webhooks/rest/#link-messagesignature
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence

from gateway.errors import SignatureRefused
from gateway.webhooks.checks.base import header_of
from gateway.webhooks.checks.certificates import BEGIN, check_signature
from gateway.webhooks.signed import Need, SignedRequest

_CERTIFICATE_URL = re.compile(
    r"https://api(?:-m)?(?:\.sandbox)?\.paypal\.com/v1/notifications/certs/[A-Za-z0-9_-]{1,100}"
)
_WEBHOOK_ID = re.compile(r"[A-Za-z0-9-]{1,100}")
_PART = re.compile(r"[A-Za-z0-9:.+-]{1,100}")  # of a transmission: no "|" that could shift parts


class PaypalVerifier:
    """See RequestVerifier."""

    __slots__ = ("_webhook_ids",)

    fetches = True

    def __init__(self, secrets: Sequence[str]) -> None:
        self._webhook_ids = tuple(secrets)
        if not all(_WEBHOOK_ID.fullmatch(secret) for secret in secrets):
            raise ValueError("the secret is no id of a PayPal webhook; copy the webhook's id there")

    def needs(self, request: SignedRequest) -> Need | None:
        """See RequestVerifier."""
        url = header_of(request, "paypal-cert-url")
        if _CERTIFICATE_URL.fullmatch(url) is None:
            raise SignatureRefused("paypal-cert-url is none of PayPal's certificates")
        return Need(url=url, key=url, expects=BEGIN)

    def verify(self, request: SignedRequest, now: float, fetched: bytes = b"") -> int:
        """See RequestVerifier."""
        if header_of(request, "paypal-auth-algo").lower() != "sha256withrsa":
            raise SignatureRefused("paypal-auth-algo is not SHA256withRSA")
        signature = header_of(request, "paypal-transmission-sig")
        for index, webhook_id in enumerate(self._webhook_ids):
            message = _message(request, webhook_id)
            try:
                check_signature(fetched, signature, message, algorithm="sha256", now=now)
            except SignatureRefused:
                if index == len(self._webhook_ids) - 1:
                    raise
            else:
                return index
        raise SignatureRefused("no webhook id is known")

    def message_of(self, request: SignedRequest) -> bytes:
        """See RequestVerifier."""
        return _message(request, self._webhook_ids[0])


def _message(request: SignedRequest, webhook_id: str) -> bytes:
    transmission_id = header_of(request, "paypal-transmission-id")
    time = header_of(request, "paypal-transmission-time")
    if _PART.fullmatch(transmission_id) is None or _PART.fullmatch(time) is None:
        raise SignatureRefused("malformed paypal-transmission-id or -time")
    return f"{transmission_id}|{time}|{webhook_id}|{zlib.crc32(request.body)}".encode()
