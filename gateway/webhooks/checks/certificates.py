"""Signatures by a certificate that was fetched from its sender's own host over https.

The host is what is trusted; the certificate must be in date and hold an RSA key of a sound length.
"""

from __future__ import annotations

import binascii
from datetime import UTC, datetime
from typing import Literal

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.hashes import SHA1, SHA256, HashAlgorithm

from gateway.errors import SignatureRefused
from gateway.webhooks.checks.base import is_base64
from gateway.webhooks.publickeys import MIN_RSA_BITS

BEGIN = b"-----BEGIN CERTIFICATE-----"


def check_signature(
    certificate: bytes,
    signature: str,
    message: bytes,
    *,
    algorithm: Literal["sha1", "sha256"],
    now: float,
) -> None:
    """Refuse unless *signature* (base64) is the certificate's over *message*."""
    try:
        found = x509.load_pem_x509_certificate(certificate)
        key = found.public_key()
    except (ValueError, UnsupportedAlgorithm):
        raise SignatureRefused("the sender's certificate cannot be read") from None
    moment = datetime.fromtimestamp(now, UTC)
    if not found.not_valid_before_utc <= moment <= found.not_valid_after_utc:
        raise SignatureRefused("the sender's certificate is out of date")
    if not isinstance(key, RSAPublicKey) or key.key_size < MIN_RSA_BITS:
        raise SignatureRefused("the sender's certificate holds no sound RSA key")
    hashed: HashAlgorithm = SHA256() if algorithm == "sha256" else SHA1()  # noqa: S303  # SNS, version 1
    try:
        if not is_base64(signature):
            raise ValueError
        key.verify(binascii.a2b_base64(signature, strict_mode=True), message, PKCS1v15(), hashed)
    except ValueError:
        raise SignatureRefused("the signature is not base64") from None
    except InvalidSignature:
        raise SignatureRefused("the signature is not the certificate's") from None
