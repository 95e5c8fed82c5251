"""From a configured secret to a function that tells whether a request's signature is its own."""

from __future__ import annotations

import hmac
from collections.abc import Callable

from gateway.webhooks.codec import decode_key
from gateway.webhooks.scheme import ASYMMETRIC, Alternative, Scheme
from gateway.webhooks.signed import Reading

Matcher = Callable[[Reading], bool]


def compile_key(scheme: Scheme, secret: str) -> Matcher:
    """Return what matches the signatures of *secret*; ``ValueError`` says why it is no key."""
    other = scheme.alternative
    if other is not None and secret.startswith(other.key_prefix):
        return _asymmetric(other, secret, alternatives=True)
    if scheme.algorithm in ASYMMETRIC:
        return _asymmetric(scheme, secret, alternatives=False)
    key = decode_key(scheme, secret)
    compare = hmac.compare_digest
    if scheme.algorithm == "token":

        def matches_token(reading: Reading) -> bool:
            return any(compare(key, signature) for signature in reading.signatures)

        return matches_token
    keyed = hmac.new(key, digestmod=scheme.algorithm)  # a copy costs less than keying it anew

    def matches(reading: Reading) -> bool:
        mac = keyed.copy()
        mac.update(reading.message)
        expected = mac.digest()
        for signature in reading.signatures:  # noqa: SIM110  # the intake's hot path
            if compare(expected, signature):
                return True
        return False

    return matches


def _asymmetric(scheme: Scheme | Alternative, secret: str, *, alternatives: bool) -> Matcher:
    from gateway.webhooks.publickeys import load_public_key  # costs 20 ms, which few need

    verify = load_public_key(scheme, secret)

    def matches(reading: Reading) -> bool:
        found = reading.alternatives if alternatives else reading.signatures
        return any(verify(signature, reading.message) for signature in found)

    return matches
