"""A bearer JWT: a token that names its issuer, whom it is for, and how long it may be used.

The algorithm is pinned by the configuration and never chosen by the token: HS256 by a secret, or
RS256 and ES256 by a public key, given as PEM or told by the sender as JWKS at ``keys_url``.
The signature is checked first, and only then are the claims read. RFC 7519, RFC 8725.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Callable, Sequence

import msgspec

from gateway.errors import SignatureRefused
from gateway.webhooks.checks.base import header_of, json_object
from gateway.webhooks.checks.jws import (
    Token,
    check_body_hash,
    der_of,
    encoded,
    number_at,
    parse,
)
from gateway.webhooks.codec import decode_key
from gateway.webhooks.scheme import ASYMMETRIC, Scheme
from gateway.webhooks.signed import Need, SignedRequest
from gateway.webhooks.verify import require_secrets

ALGORITHMS = {"sha256": "HS256", "rsa-sha256": "RS256", "ecdsa-sha256": "ES256"}
KEYS_SECONDS = 300.0  # senders tell a new key long before they use it
LIFETIME_SECONDS = 300  # of the tokens that we make
MAX_KEYS = 32  # of one JWKS
_KEYS_URL = re.compile(r"https://[A-Za-z0-9.-]+(?:/[A-Za-z0-9._~!$&'()*+,;=:@%/?-]*)?")

_Matches = Callable[[Token], bool]


class JwtVerifier:
    """See RequestVerifier. ``ValueError`` for a scheme or secrets that cannot work."""

    __slots__ = ("_algorithm", "_keys", "_names", "_scheme", "_told")

    def __init__(self, scheme: Scheme, secrets: Sequence[str]) -> None:
        check_jwt(scheme)
        self._scheme = scheme
        self._algorithm = ALGORITHMS[scheme.algorithm]
        names = (scheme.header,) if isinstance(scheme.header, str) else scheme.header
        self._names = tuple(name.lower() for name in names)
        self._told: tuple[bytes, list[tuple[object, _Matches]]] = (b"", [])
        self._keys: tuple[_Matches, ...] = ()
        if not scheme.keys_url:
            require_secrets(secrets)
            self._keys = tuple(_matcher(scheme, secret) for secret in secrets)

    @property
    def fetches(self) -> bool:
        """See RequestVerifier."""
        return bool(self._scheme.keys_url)

    def needs(self, request: SignedRequest) -> Need | None:
        """See RequestVerifier. All keys are one answer: made-up key ids fetch nothing more."""
        url = self._scheme.keys_url
        if not url:
            return None
        self._token(request)
        return Need(url=url, key=url, expects=b"{", keep_seconds=KEYS_SECONDS)

    def verify(self, request: SignedRequest, now: float, fetched: bytes = b"") -> int:
        """See RequestVerifier."""
        token = self._token(request)
        keys = self._fitting(token, fetched) if self.fetches else self._keys
        index = next((index for index, matches in enumerate(keys) if matches(token)), None)
        if index is None:
            whose = "any that keys_url tells" if self.fetches else "any secret's"
            raise SignatureRefused(f"the token's signature is not {whose}")
        self._check_claims(token.payload(), request, now)
        return 0 if self.fetches else index

    def message_of(self, request: SignedRequest) -> bytes:
        """See RequestVerifier."""
        return self._token(request).message

    def _token(self, request: SignedRequest) -> Token:
        name = next((name for name in self._names if request.headers.get(name)), self._names[0])
        text, prefix = header_of(request, name), self._scheme.prefix
        if text[: len(prefix)].lower() != prefix.lower():  # "Bearer" in any case: RFC 9110, 11.1
            raise SignatureRefused(f'header {name} does not begin with "{prefix}"')
        return parse(text[len(prefix) :].strip(" "), f"header {name}", algorithm=self._algorithm)

    def _fitting(self, token: Token, fetched: bytes) -> list[_Matches]:
        """Return the fetched keys that the token's ``kid`` names; all where it names none."""
        if self._told[0] is not fetched:  # the fetcher hands out the same object while it keeps it
            self._told = (fetched, _read_keys(self._scheme, fetched))
        wanted = token.head.get("kid")
        return [key for key_id, key in self._told[1] if wanted is None or key_id == wanted]

    def _check_claims(self, claims: dict[str, object], request: SignedRequest, now: float) -> None:
        scheme = self._scheme
        early, late = now - scheme.tolerance_seconds, now + scheme.tolerance_seconds
        expires = _moment(claims, "exp")
        if expires is None:
            raise SignatureRefused("no exp in the token")
        if expires <= early:
            raise SignatureRefused(
                f"the token expired {now - expires:.0f} s ago, allowed are"
                f" {scheme.tolerance_seconds:.0f} s"
            )
        for name in ("nbf", "iat"):
            moment = _moment(claims, name)
            if moment is not None and moment > late:
                raise SignatureRefused(
                    f"{name} of the token is {moment - now:.0f} s in the future, allowed are"
                    f" {scheme.tolerance_seconds:.0f} s"
                )
        if scheme.issuer and claims.get("iss") != scheme.issuer:
            raise SignatureRefused("iss of the token is not the issuer")
        _check_audience(claims.get("aud"), scheme.audience)
        if scheme.body_hash:
            check_body_hash(claims.get(scheme.body_hash), request.body, scheme.body_hash)


def check_jwt(scheme: Scheme) -> None:
    """Raise ``ValueError`` for a scheme that cannot work, or would let strangers in."""
    if scheme.algorithm not in ALGORITHMS:
        known = ", ".join(f'"{name}" ({jws})' for name, jws in ALGORITHMS.items())
        raise ValueError(f'algorithm: "{scheme.algorithm}" signs no JWT here; write {known}')
    if not scheme.keys_url:
        return
    if scheme.algorithm not in ASYMMETRIC:
        raise ValueError(
            'keys_url: tells public keys, so write algorithm = "rsa-sha256" or "ecdsa-sha256"'
        )
    if _KEYS_URL.fullmatch(scheme.keys_url) is None:
        raise ValueError('keys_url: write "https://host/path" without port, user or fragment')
    if not scheme.audience:
        raise ValueError(
            "audience: is missing, and who tells keys at a URL signs for others, too; "
            "write the one that the sender puts into the tokens for this gateway"
        )


def sign_jwt(
    scheme: Scheme, secret: str, body: bytes, *, now: float, message_id: str
) -> dict[str, str]:
    """Return the header with a token as the sender would make it; HS256 only."""
    claims: dict[str, object] = {
        "iat": int(now),
        "exp": int(now) + LIFETIME_SECONDS,
        "jti": message_id,
    }
    named = {"iss": scheme.issuer, "aud": scheme.audience}
    claims |= {name: text for name, text in named.items() if text}
    if scheme.body_hash:
        claims[scheme.body_hash] = hashlib.sha256(body).hexdigest()
    head = {"alg": ALGORITHMS[scheme.algorithm], "typ": "JWT"}
    message = ".".join(encoded(msgspec.json.encode(part)) for part in (head, claims))
    digest = hmac.digest(decode_key(scheme, secret), message.encode(), "sha256")
    name = scheme.header if isinstance(scheme.header, str) else scheme.header[0]
    return {name: f"{scheme.prefix}{message}.{encoded(digest)}"}


def _matcher(scheme: Scheme, secret: str) -> _Matches:
    """Return what checks a token by one configured key."""
    if scheme.algorithm in ASYMMETRIC:
        from gateway.webhooks.publickeys import load_public_key

        return _by_public_key(scheme, load_public_key(scheme, secret))
    if "-----BEGIN" in secret:  # whoever has the public key could sign with it
        raise ValueError(
            "the secret is a key in PEM, which is no secret to HS256; "
            'write algorithm = "rsa-sha256" or "ecdsa-sha256"'
        )
    key = decode_key(scheme, secret)
    return lambda token: hmac.compare_digest(
        hmac.digest(key, token.message, "sha256"), token.signature
    )


def _by_public_key(scheme: Scheme, check: Callable[[bytes, bytes], bool]) -> _Matches:
    if scheme.algorithm == "ecdsa-sha256":
        return lambda token: check(der_of(token.signature), token.message)
    return lambda token: check(token.signature, token.message)


def _read_keys(scheme: Scheme, fetched: bytes) -> list[tuple[object, _Matches]]:
    """Return the usable keys of a JWKS, each with its id."""
    found = json_object(fetched).get("keys")
    if not isinstance(found, list):
        raise SignatureRefused("what keys_url tells is no JWKS")
    return [
        (key.get("kid"), matches)
        for key in found[:MAX_KEYS]
        if isinstance(key, dict) and (matches := _read_key(scheme, key)) is not None
    ]


def _read_key(scheme: Scheme, key: dict[str, object]) -> _Matches | None:
    """Return what checks by one JWK; None for one of another use or algorithm, or that is none."""
    algorithm = ALGORITHMS[scheme.algorithm]
    if key.get("use", "sig") != "sig" or key.get("alg", algorithm) != algorithm:
        return None
    from cryptography.hazmat.primitives.asymmetric.ec import (
        SECP256R1,
        EllipticCurvePublicNumbers,
    )
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicNumbers

    from gateway.webhooks.publickeys import check_by

    try:
        match scheme.algorithm, key.get("kty"), key.get("crv"):
            case "ecdsa-sha256", "EC", "P-256":
                x, y = number_at(key, "x"), number_at(key, "y")
                point = EllipticCurvePublicNumbers(x, y, SECP256R1()).public_key()
                return _by_public_key(scheme, check_by(scheme, point))
            case "rsa-sha256", "RSA", _:
                rsa = RSAPublicNumbers(number_at(key, "e"), number_at(key, "n")).public_key()
                return _by_public_key(scheme, check_by(scheme, rsa))
            case _:
                return None
    except (ValueError, SignatureRefused):
        return None


def _moment(claims: dict[str, object], name: str) -> float | None:
    """Return a NumericDate; None where there is none; refuses what is no sane number."""
    value = claims.get(name)
    if value is None and name not in claims:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1 << 40:
        raise SignatureRefused(f"{name} of the token is no time")
    return float(value)


def _check_audience(told: object, wanted: str) -> None:
    if told is None and not wanted:
        return
    audiences = told if isinstance(told, list) else [told]
    if not wanted:  # a token for somebody must not be taken by anybody (RFC 7519, 4.1.3)
        raise SignatureRefused("the token names an audience, and none is configured")
    if wanted not in audiences:
        raise SignatureRefused("aud of the token is not the audience")
