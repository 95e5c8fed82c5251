"""Public keys as senders show them, and the check of a signature by one."""

from __future__ import annotations

from collections.abc import Callable

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import (
    ECDSA,
    SECP256R1,
    EllipticCurvePublicKey,
)
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    load_der_public_key,
    load_pem_public_key,
)

from gateway.webhooks.codec import decode_key
from gateway.webhooks.scheme import Alternative, Scheme

MIN_RSA_BITS = 2048

SignatureCheck = Callable[[bytes, bytes], bool]  # (signature, message)

_NAMES = {
    "ed25519": "an Ed25519 public key",
    "ecdsa-sha256": "a public key on the curve P-256",
    "rsa-sha256": f"an RSA public key of at least {MIN_RSA_BITS} bits",
}


def load_public_key(scheme: Scheme | Alternative, secret: str) -> SignatureCheck:
    """Return a check of ``(signature, message)`` by the public key that *secret* spells.

    PEM; or, in the scheme's key encoding, the DER of a SubjectPublicKeyInfo or the 32 bytes of an
    Ed25519 key. ``ValueError`` says what is wrong with it.
    """
    wanted = _NAMES[scheme.algorithm]
    try:
        key = _load(scheme, secret)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise ValueError(
            f"the secret is not {wanted}; copy the public key again from the sender "
            '(PEM, or in key_encoding "base64" or "hex")'
        ) from None
    return check_by(scheme, key)


def check_by(scheme: Scheme | Alternative, key: object) -> SignatureCheck:
    """Return a check by *key*; ``ValueError`` where it is not of the scheme's algorithm."""
    match scheme.algorithm, key:
        case "ed25519", Ed25519PublicKey():
            return _catching(key.verify)
        case "ecdsa-sha256", EllipticCurvePublicKey() if isinstance(key.curve, SECP256R1):
            p256, ecdsa = key, ECDSA(SHA256())
            return _catching(lambda signature, message: p256.verify(signature, message, ecdsa))
        case "rsa-sha256", RSAPublicKey() if key.key_size >= MIN_RSA_BITS:
            rsa, padding, hashed = key, PKCS1v15(), SHA256()
            return _catching(
                lambda signature, message: rsa.verify(signature, message, padding, hashed)
            )
        case _:
            raise ValueError(
                f"the secret is a key of another kind; the sender uses {_NAMES[scheme.algorithm]}"
            )


def _load(scheme: Scheme | Alternative, secret: str) -> object:
    if "-----BEGIN" in secret:
        return load_pem_public_key(secret.encode())
    data = decode_key(scheme, secret)
    if scheme.algorithm == "ed25519" and len(data) == 32:
        return Ed25519PublicKey.from_public_bytes(data)
    return load_der_public_key(data)


def _catching(verify: Callable[[bytes, bytes], None]) -> SignatureCheck:
    def check(signature: bytes, message: bytes) -> bool:
        try:
            verify(signature, message)
        except InvalidSignature:
            return False
        return True

    return check
