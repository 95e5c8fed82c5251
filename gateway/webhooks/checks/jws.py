"""Compact JWS, of which a JWT is one: its three parts, and public keys as JWKs tell them.

Nothing here believes what a token says of itself: who calls pins the algorithm.
RFC 7515 (JWS), RFC 7517 (JWK), RFC 7518 (their algorithms).
"""

from __future__ import annotations

import binascii
import hashlib
import hmac
import re

import msgspec

from gateway.errors import SignatureRefused
from gateway.webhooks.checks.base import json_object

_BASE64URL = re.compile(r"[A-Za-z0-9_-]+")
_HALF = 32  # bytes of r and of s (RFC 7518, 3.4)


class Token(msgspec.Struct, frozen=True, gc=False):
    """A token in its parts: well-formed but not yet believed."""

    head: dict[str, object]
    claims: str  # still encoded: they are read once the signature is known to be good
    signature: bytes
    message: bytes  # what is signed

    def payload(self) -> dict[str, object]:
        """Return the claims; refuses what is no JSON object."""
        return json_object(decoded(self.claims))


def parse(text: str, what: str, *, algorithm: str) -> Token:
    """Return the token in *text*, which *what* names; refuses any but the pinned *algorithm*."""
    parts = text.split(".")
    if len(parts) != 3 or not all(_BASE64URL.fullmatch(part) for part in parts):
        raise SignatureRefused(f"{what} is no JWT")
    head = json_object(decoded(parts[0]))
    if head.get("alg") != algorithm:
        raise SignatureRefused(f"the token is not signed with {algorithm}")
    if "crit" in head:  # extensions that must be understood (RFC 7515, 4.1.11); we know none
        raise SignatureRefused("the token has critical extensions, which are not known here")
    message = f"{parts[0]}.{parts[1]}".encode()
    return Token(head, parts[1], decoded(parts[2]), message)


def check_body_hash(stated: object, body: bytes, claim: str) -> None:
    """Refuse unless *stated* is the SHA-256 of *body* in hex."""
    actual = hashlib.sha256(body).hexdigest()
    if (
        not isinstance(stated, str)
        or not stated.isascii()
        or not hmac.compare_digest(stated, actual)
    ):
        raise SignatureRefused(f"{claim} is not that of the body")


def der_of(signature: bytes) -> bytes:
    """Return an ES256 signature (r and s, 32 bytes each) as DER."""
    from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

    if len(signature) != 2 * _HALF:
        raise SignatureRefused("the token's signature has not 64 bytes")
    r, s = signature[:_HALF], signature[_HALF:]
    return encode_dss_signature(int.from_bytes(r), int.from_bytes(s))


def number_at(key: dict[str, object], name: str) -> int:
    """Return a number of a JWK."""
    text = key.get(name)
    if not isinstance(text, str) or not text or len(text) > 2048:
        raise SignatureRefused(f"the key has no {name}")
    return int.from_bytes(decoded(text))


def decoded(text: str) -> bytes:
    """Return the bytes of unpadded base64url, of which there is one spelling."""
    try:
        data = binascii.a2b_base64(
            text.replace("-", "+").replace("_", "/") + "=" * (-len(text) % 4), strict_mode=True
        )
    except ValueError:
        raise SignatureRefused("the token is not base64url") from None
    if encoded(data) != text:
        raise SignatureRefused("the token is not base64url")
    return data


def encoded(data: bytes) -> str:
    """Return *data* as unpadded base64url."""
    spelled = binascii.b2a_base64(data, newline=False).decode().rstrip("=")
    return spelled.replace("+", "-").replace("/", "_")
