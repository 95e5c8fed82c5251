"""Plaid sends a JWT (ES256) over the body's hash, by a key that is asked for by its id.

The secret is ``client_id:secret``: Plaid tells its keys to its customers only.
https://plaid.com/docs/api/webhooks/webhook-verification/
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ec import (
    ECDSA,
    SECP256R1,
    EllipticCurvePublicNumbers,
)
from cryptography.hazmat.primitives.hashes import SHA256

from gateway.errors import SignatureRefused
from gateway.webhooks.checks.base import header_of, json_object, text_at
from gateway.webhooks.checks.jws import Token, check_body_hash, der_of, number_at, parse
from gateway.webhooks.scheme import Scheme
from gateway.webhooks.signed import Need, SignedRequest
from gateway.webhooks.verify import check_age

_KEYS_URL = re.compile(
    r"https://(?:production|sandbox|development)\.plaid\.com/webhook_verification_key/get"
)
_KEY_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")


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
        key_id = _key_id(_token(request))
        question = {"client_id": self._client_id, "secret": self._secret, "key_id": key_id}
        return Need(
            url=self._url,
            key=f"{self._url}#{key_id}",
            post=msgspec.json.encode(question),
            expects=b"{",
        )

    def verify(self, request: SignedRequest, now: float, fetched: bytes = b"") -> int:
        """See RequestVerifier."""
        token = _token(request)
        key = json_object(fetched).get("key")
        if not isinstance(key, dict) or key.get("kid") != _key_id(token):
            raise SignatureRefused("Plaid told another key than was asked for")
        if key.get("expired_at") is not None:
            raise SignatureRefused("the key has expired")
        _check(key, token)
        payload = token.payload()
        issued = payload.get("iat")
        if not isinstance(issued, int) or isinstance(issued, bool) or not 0 < issued < 1 << 40:
            raise SignatureRefused("no iat in the token")
        check_age(now - issued, self._tolerance_seconds)
        stated = payload.get("request_body_sha256")
        check_body_hash(stated, request.body, "request_body_sha256")
        return 0

    def message_of(self, request: SignedRequest) -> bytes:
        """See RequestVerifier."""
        return header_of(request, "plaid-verification").rpartition(".")[0].encode()


def _token(request: SignedRequest) -> Token:
    text = header_of(request, "plaid-verification")
    return parse(text, "plaid-verification", algorithm="ES256")


def _key_id(token: Token) -> str:
    key_id = text_at(token.head, "kid")
    if _KEY_ID.fullmatch(key_id) is None:
        raise SignatureRefused("malformed kid in the token")
    return key_id


def _check(key: dict[str, object], token: Token) -> None:
    """Refuse unless the token's signature is that key's."""
    if key.get("kty") != "EC" or key.get("crv") != "P-256":
        raise SignatureRefused("the key is not on the curve P-256")
    x, y = number_at(key, "x"), number_at(key, "y")
    der = der_of(token.signature)
    try:
        public = EllipticCurvePublicNumbers(x, y, SECP256R1()).public_key()
        public.verify(der, token.message, ECDSA(SHA256()))
    except ValueError:
        raise SignatureRefused("the key is no point of the curve") from None
    except InvalidSignature:
        raise SignatureRefused("the token's signature is not the key's") from None
