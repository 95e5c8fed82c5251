"""Amazon SNS signs the fields of its message by a certificate that the message names a URL of.

That shows that AWS sent it, not for whom: everybody can have a topic. So the ARN of the topic,
which is signed too, stands in a secret's place and must be one of those configured.
https://docs.aws.amazon.com/sns/latest/dg/sns-verify-signature-of-message.html
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Sequence
from typing import Literal

from gateway.errors import SignatureRefused
from gateway.webhooks.checks.base import body_object, text_at, to_bytes
from gateway.webhooks.checks.certificates import BEGIN, check_signature
from gateway.webhooks.signed import Need, SignedRequest

_CERTIFICATE_URL = re.compile(
    r"https://sns\.[a-z]{2}(?:-[a-z0-9]{1,12}){2,3}\.amazonaws\.com(?:\.cn)?/"
    r"SimpleNotificationService-[A-Za-z0-9]{1,64}\.pem"
)
_ARN = re.compile(r"arn:aws[a-z-]*:sns:[a-z0-9-]{1,30}:[0-9]{12}:[A-Za-z0-9_.-]{1,256}")
_NOTIFICATION = ("Message", "MessageId", "Subject", "Timestamp", "TopicArn", "Type")
_CONFIRMATION = ("Message", "MessageId", "SubscribeURL", "Timestamp", "Token", "TopicArn", "Type")
_SIGNED = {
    "Notification": _NOTIFICATION,
    "SubscriptionConfirmation": _CONFIRMATION,
    "UnsubscribeConfirmation": _CONFIRMATION,
}


class SnsVerifier:
    """See RequestVerifier."""

    __slots__ = ("_topics",)

    fetches = True

    def __init__(self, secrets: Sequence[str]) -> None:
        self._topics = tuple(secret.encode() for secret in secrets)
        if not all(_ARN.fullmatch(secret) for secret in secrets):
            raise ValueError(
                'the secret is no topic\'s ARN; write "arn:aws:sns:REGION:ACCOUNT:TOPIC" there'
            )

    def needs(self, request: SignedRequest) -> Need | None:
        """See RequestVerifier."""
        fields = body_object(request)
        self._topic(fields)  # nothing is fetched for topics that are not ours
        url = text_at(fields, "SigningCertURL")
        if _CERTIFICATE_URL.fullmatch(url) is None:
            raise SignatureRefused("SigningCertURL is none of Amazon SNS's certificates")
        return Need(url=url, key=url, expects=BEGIN, keep_seconds=86400.0)

    def verify(self, request: SignedRequest, now: float, fetched: bytes = b"") -> int:
        """See RequestVerifier."""
        fields = body_object(request)
        algorithm: Literal["sha1", "sha256"]
        match text_at(fields, "SignatureVersion"):
            case "1":
                algorithm = "sha1"
            case "2":
                algorithm = "sha256"
            case _:
                raise SignatureRefused("SignatureVersion is neither 1 nor 2")
        signature = text_at(fields, "Signature")
        check_signature(fetched, signature, _message(fields), algorithm=algorithm, now=now)
        return self._topic(fields)

    def message_of(self, request: SignedRequest) -> bytes:
        """See RequestVerifier."""
        return _message(body_object(request))

    def _topic(self, fields: dict[str, object]) -> int:
        given = to_bytes(text_at(fields, "TopicArn"))
        for index, topic in enumerate(self._topics):
            if hmac.compare_digest(topic, given):
                return index
        raise SignatureRefused("TopicArn is none of the configured topics")


def _message(fields: dict[str, object]) -> bytes:
    names = _SIGNED.get(text_at(fields, "Type"))
    if names is None:
        raise SignatureRefused("Type is none of Amazon SNS's")
    pieces: list[str] = []
    for name in names:
        if name == "Subject" and fields.get(name) is None:
            continue
        value = fields.get(name)
        if not isinstance(value, str):
            raise SignatureRefused(f"no text at {name} of the body")
        pieces += (name, value)
    return to_bytes("\n".join(pieces) + "\n")
