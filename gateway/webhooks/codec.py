"""Texts to bytes and back: keys as configured, signatures as they stand in a header."""

from __future__ import annotations

import binascii
from collections.abc import Callable
from typing import assert_never

from gateway.webhooks.scheme import Alternative, Scheme

# The least and most bytes of a signature; ECDSA's is DER, RSA's as long as the key.
SIGNATURE_BYTES = {
    "sha1": (20, 20),
    "sha256": (32, 32),
    "sha512": (64, 64),
    "ed25519": (64, 64),
    "ecdsa-sha256": (8, 72),
    "rsa-sha256": (256, 1024),
}


def decode_key(scheme: Scheme | Alternative, secret: str) -> bytes:
    """Return the key that *secret* stands for.

    ``ValueError`` says what is wrong with it, never what it is.
    """
    text = secret.removeprefix(scheme.key_prefix) if scheme.key_prefix else secret
    key = _decode_text(text, scheme.key_encoding)
    if key is None:
        prefix = f' (with or without "{scheme.key_prefix}" in front)' if scheme.key_prefix else ""
        raise ValueError(
            f"the secret is not {scheme.key_encoding}{prefix}; copy it again from the sender, "
            'or set key_encoding to "utf8", "base64" or "hex", as the sender uses it'
        )
    if not key:
        raise ValueError("the secret is empty, so anyone could sign; put the sender's secret there")
    return key


def signature_decoder(scheme: Scheme | Alternative) -> Callable[[str], bytes | None]:
    """Return a function from a header's signature to its bytes; None for a malformed one.

    Exactly one text is accepted per digest, but for the case of hex digits (and the padding of
    base64url, which many leave out): no spaces, no stray bits, no other length.
    """
    if scheme.algorithm == "token":
        return lambda text: text.encode() if text.isascii() else None
    least, most = SIGNATURE_BYTES[scheme.algorithm]
    match scheme.encoding:
        case "hex":

            def decode(text: str) -> bytes | None:
                try:
                    digest = binascii.unhexlify(text)
                except ValueError:
                    return None
                return digest if least <= len(digest) <= most else None

        case "base64":

            def decode(text: str) -> bytes | None:
                try:
                    digest = binascii.a2b_base64(text)
                except ValueError:
                    return None
                canonical = binascii.b2a_base64(digest, newline=False) == text.encode()
                return digest if canonical and least <= len(digest) <= most else None

        case "base64url":

            def decode(text: str) -> bytes | None:
                standard = text.rstrip("=").translate(_FROM_URL_SAFE)
                try:
                    digest = binascii.a2b_base64(standard + "=" * (-len(standard) % 4))
                except ValueError:
                    return None
                padded = _encode_url_safe(digest)
                canonical = text in (padded, padded.rstrip("="))
                return digest if canonical and least <= len(digest) <= most else None

        case _:
            assert_never(scheme.encoding)
    return decode


def encode_signature(scheme: Scheme | Alternative, digest: bytes) -> str:
    """Return *digest* as the scheme's header carries it, without its prefix."""
    match scheme.encoding:
        case "hex":
            return digest.hex()
        case "base64":
            return binascii.b2a_base64(digest, newline=False).decode()
        case "base64url":
            return _encode_url_safe(digest)
        case _:
            assert_never(scheme.encoding)


_FROM_URL_SAFE = str.maketrans("-_", "+/")
_TO_URL_SAFE = str.maketrans("+/", "-_")


def _encode_url_safe(digest: bytes) -> str:
    return binascii.b2a_base64(digest, newline=False).decode().translate(_TO_URL_SAFE)


def _decode_text(text: str, encoding: str) -> bytes | None:
    try:
        match encoding:
            case "base64":  # senders show it with or without its padding
                return binascii.a2b_base64(text + "=" * (-len(text) % 4), strict_mode=True)
            case "hex":
                return binascii.unhexlify(text)
            case _:
                return text.encode("utf-8")
    except ValueError:
        return None
