"""Plaid sends a JWT (ES256) over the body's hash, by a key that is asked for by its id.

The secret is ``client_id:secret``: Plaid tells its keys to its customers only.
https://plaid.com/docs/api/webhooks/webhook-verification/
"""

from __future__ import annotations

import binascii
import hashlib
import hmac
import re
from collections.abc import Sequence

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ec import (
    ECDSA,
    SECP256R1,
    EllipticCurvePublicNumbers,
)
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256

from gateway.errors import SignatureRefused
from gateway.webhooks.checks.base import header_of, json_object, text_at
from gateway.webhooks.scheme import Scheme
from gateway.webhooks.verify import Need, SignedRequest, check_age

_KEYS_URL = re.compile(
    r"https://(?:production|sandbox|development)\.plaid\.com/webhook_verification_key/get"
)
_KEY_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_BASE64URL = re.compile(r"[A-Za-z0-9_-]+")


class PlaidVerifier:
    """See RequestVerifier. The key is asked for with the first secret, whichever there are."""

    __slots__ = ("_client_id", "_secret", "_tolerance_seconds", "_url")

    fetches = True

    def __init__(self, scheme: Scheme, secrets: Sequence[str]) -> None:
        for secret in secrets:
            client_id, colon, key = secret.partition(":")
            if not (client_id and colon and key):
                raise ValueError('the secret is not of the form "client_id:secret"')
        if _KEYS_URL.fullmatch(scheme.keys_url) is None:
            raise ValueError(
                "keys_url: write https://production.plaid.com/webhook_verification_key/get, "
                "or the same of sandbox.plaid.com"
            )
        self._client_id, _, self._secret = secrets[0].partition(":")
        self._url = scheme.keys_url
        self._tolerance_seconds = scheme.tolerance_seconds

    def needs(self, request: SignedRequest) -> Need | None:
        """See RequestVerifier."""
        head, _, _ = _parts(request)
        key_id = _key_id(head)
        question = {"client_id": self._client_id, "secret": self._secret, "key_id": key_id}
        return Need(
            url=self._url,
            key=f"{self._url}#{key_id}",
            post=msgspec.json.encode(question),
            expects=b"{",
        )

    def verify(self, request: SignedRequest, now: float, fetched: bytes = b"") -> int:
        """See RequestVerifier."""
        head, claims, signature = _parts(request)
        key = json_object(fetched).get("key")
        if not isinstance(key, dict) or key.get("kid") != _key_id(head):
            raise SignatureRefused("Plaid told another key than was asked for")
        if key.get("expired_at") is not None:
            raise SignatureRefused("the key has expired")
        _check(key, signature, self.message_of(request))
        payload = json_object(_decoded(claims))
        issued = payload.get("iat")
        if not isinstance(issued, int) or isinstance(issued, bool) or not 0 < issued < 1 << 40:
            raise SignatureRefused("no iat in the token")
        check_age(now - issued, self._tolerance_seconds)
        stated = text_at(payload, "request_body_sha256")
        actual = hashlib.sha256(request.body).hexdigest()
        if not stated.isascii() or not hmac.compare_digest(stated, actual):
            raise SignatureRefused("request_body_sha256 is not that of the body")
        return 0

    def message_of(self, request: SignedRequest) -> bytes:
        """See RequestVerifier."""
        return header_of(request, "plaid-verification").rpartition(".")[0].encode()


def _parts(request: SignedRequest) -> tuple[str, str, str]:
    parts = header_of(request, "plaid-verification").split(".")
    if len(parts) != 3 or not all(_BASE64URL.fullmatch(part) for part in parts):
        raise SignatureRefused("plaid-verification is no JWT")
    return parts[0], parts[1], parts[2]


def _key_id(head: str) -> str:
    fields = json_object(_decoded(head))
    if fields.get("alg") != "ES256":
        raise SignatureRefused("the token is not signed with ES256")
    key_id = text_at(fields, "kid")
    if _KEY_ID.fullmatch(key_id) is None:
        raise SignatureRefused("malformed kid in the token")
    return key_id


def _check(key: dict[str, object], signature: str, message: bytes) -> None:
    """Refuse unless *signature* (r and s, 32 bytes each: RFC 7518, 3.4) is that key's."""
    if key.get("kty") != "EC" or key.get("crv") != "P-256":
        raise SignatureRefused("the key is not on the curve P-256")
    x, y = (int.from_bytes(_decoded(text_at(key, name))) for name in ("x", "y"))
    raw = _decoded(signature)
    if len(raw) != 64:
        raise SignatureRefused("the token's signature has not 64 bytes")
    der = encode_dss_signature(int.from_bytes(raw[:32]), int.from_bytes(raw[32:]))
    try:
        public = EllipticCurvePublicNumbers(x, y, SECP256R1()).public_key()
        public.verify(der, message, ECDSA(SHA256()))
    except ValueError:
        raise SignatureRefused("the key is no point of the curve") from None
    except InvalidSignature:
        raise SignatureRefused("the token's signature is not the key's") from None


def _decoded(text: str) -> bytes:
    """Return the bytes of unpadded base64url, of which there is one spelling."""
    try:
        data = binascii.a2b_base64(
            text.replace("-", "+").replace("_", "/") + "=" * (-len(text) % 4), strict_mode=True
        )
    except ValueError:
        raise SignatureRefused("the token is not base64url") from None
    spelled = binascii.b2a_base64(data, newline=False).decode().rstrip("=")
    if spelled.replace("+", "-").replace("/", "_") != text:
        raise SignatureRefused("the token is not base64url")
    return data
