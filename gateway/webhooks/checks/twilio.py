"""Twilio signs the URL it calls, followed by the sorted fields of the form that it posts.

A body that is no form is covered by ``bodySHA256`` in the URL's query. Twilio's back ends do not
agree whether the port belongs to the URL, so both forms count.
https://www.twilio.com/docs/usage/webhooks/webhooks-security; the algorithm's header as in
twilio-python's ``request_validator``.
"""

from __future__ import annotations

import binascii
import hashlib
import hmac
from collections.abc import Sequence
from urllib.parse import parse_qsl, urlsplit

import msgspec

from gateway.errors import SignatureRefused
from gateway.webhooks.checks.base import SelfContained, header_of, to_bytes
from gateway.webhooks.codec import decode_key, signature_decoder
from gateway.webhooks.extract import MAX_FORM_FIELDS, begins_as_json
from gateway.webhooks.scheme import Scheme
from gateway.webhooks.signed import SignedRequest
from gateway.webhooks.verify import query_fields

_ALGORITHMS = {"HMAC_SHA1": "sha1", "HMAC_SHA256": "sha256"}
_DEFAULT_PORTS = {"https": 443, "http": 80}


class TwilioVerifier(SelfContained):
    """See RequestVerifier; ``url`` of the requests must be the public one."""

    __slots__ = ("_decoders", "_keys")

    def __init__(self, scheme: Scheme, secrets: Sequence[str]) -> None:
        self._keys = tuple(decode_key(scheme, secret) for secret in secrets)
        self._decoders = {
            "sha1": signature_decoder(scheme),
            "sha256": signature_decoder(msgspec.structs.replace(scheme, algorithm="sha256")),
        }

    def verify(self, request: SignedRequest, now: float, fetched: bytes = b"") -> int:  # noqa: ARG002
        """See RequestVerifier."""
        algorithm = _algorithm(request)
        signature = self._decoders[algorithm](header_of(request, "x-twilio-signature"))
        if signature is None:
            raise SignatureRefused("malformed signature in x-twilio-signature")
        fields = _signed_fields(request)
        messages = [to_bytes(url) + fields for url in _spellings(request.url)]
        for index, key in enumerate(self._keys):
            for message in messages:
                if hmac.compare_digest(hmac.digest(key, message, algorithm), signature):
                    return index
        raise SignatureRefused("no signature matches any secret")

    def message_of(self, request: SignedRequest) -> bytes:
        """See RequestVerifier."""
        return to_bytes(request.url) + _signed_fields(request)


def sign_twilio(scheme: Scheme, secret: str, request: SignedRequest) -> str:
    """Return the ``X-Twilio-Signature`` of *request*."""
    message = to_bytes(request.url) + _signed_fields(request)
    digest = hmac.digest(decode_key(scheme, secret), message, "sha1")
    return binascii.b2a_base64(digest, newline=False).decode()


def _algorithm(request: SignedRequest) -> str:
    settings = request.headers.get("x-twilio-webhooks-signature-settings") or ""
    name = "HMAC_SHA1"
    for part in settings[:1000].split(","):
        key, _, value = part.partition("=")
        if key.strip() == "algorithm" and value.strip():
            name = value.strip().upper()
            break
    if name not in _ALGORITHMS:
        raise SignatureRefused("x-twilio-webhooks-signature-settings names an unknown algorithm")
    return _ALGORITHMS[name]


def _signed_fields(request: SignedRequest) -> bytes:
    """Return what follows the URL; refuses a body that the signature would not cover."""
    content_type = (request.headers.get("content-type") or "").lower()
    if "x-www-form-urlencoded" in content_type:
        return _sorted_form(request.body)
    if not request.body:
        return b""
    stated = query_fields(request.query).get("bodySHA256", "")
    actual = hashlib.sha256(request.body).hexdigest()
    if not stated.isascii() or not hmac.compare_digest(stated.lower(), actual):
        raise SignatureRefused("bodySHA256 in the URL is missing or not that of the body")
    return b""


def _sorted_form(body: bytes) -> bytes:
    if begins_as_json(body):  # would be read as JSON later, of which nothing was signed
        raise SignatureRefused("the body is JSON though its type is a form's")
    try:
        pairs = parse_qsl(
            body.decode(), keep_blank_values=True, errors="strict", max_num_fields=MAX_FORM_FIELDS
        )
    except ValueError:
        raise SignatureRefused("the body is no form in UTF-8, or has too many fields") from None
    # A field that is sent twice with the same value counts once, as in Twilio's own libraries.
    return to_bytes("".join(name + value for name, value in sorted(set(pairs))))


def _spellings(url: str) -> list[str]:
    """Return *url* as it is, without its port, and with the default one written out."""
    found = [url]
    try:
        parts = urlsplit(url)
        host, port = parts.netloc, parts.port
    except ValueError:
        return found
    if port is not None:
        bare = parts._replace(netloc=host.rpartition(":")[0])
        found.append(bare.geturl())
    elif parts.scheme in _DEFAULT_PORTS and host:
        found.append(parts._replace(netloc=f"{host}:{_DEFAULT_PORTS[parts.scheme]}").geturl())
    return found
