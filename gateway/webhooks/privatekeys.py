"""Private keys, for trying a route of a sender that signs with one: a test's own, never the
sender's.
"""

from __future__ import annotations

from collections.abc import Callable

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import (
    ECDSA,
    SECP256R1,
    EllipticCurvePrivateKey,
)
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from gateway.webhooks.scheme import Alternative, Scheme

_NAMES = {
    "ed25519": "an Ed25519 private key",
    "ecdsa-sha256": "a private key on the curve P-256",
    "rsa-sha256": "an RSA private key",
}


def load_private_key(scheme: Scheme | Alternative, pem: str) -> Callable[[bytes], bytes]:
    """Return what signs a message by *pem*, an unencrypted private key as PEM.

    ``ValueError`` where it is none, or not of the scheme's algorithm.
    """
    wanted = _NAMES[scheme.algorithm]
    try:
        key = load_pem_private_key(pem.encode(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise ValueError(
            f"the key is not {wanted} in PEM; make one, and put its public half into secrets"
        ) from None
    match scheme.algorithm, key:
        case "ed25519", Ed25519PrivateKey():
            return key.sign
        case "ecdsa-sha256", EllipticCurvePrivateKey() if isinstance(key.curve, SECP256R1):
            p256, ecdsa = key, ECDSA(SHA256())
            return lambda message: p256.sign(message, ecdsa)
        case "rsa-sha256", RSAPrivateKey():
            rsa, padding, hashed = key, PKCS1v15(), SHA256()
            return lambda message: rsa.sign(message, padding, hashed)
        case _:
            raise ValueError(f"the key is of another kind; the sender uses {wanted}")
