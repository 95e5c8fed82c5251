"""Signed requests that npm packages are asked about, and who is asked about which sender.

Most are signed by the gateway, so that their verdicts judge it; each also comes altered.
"""

import base64
import datetime as dt
import json
from collections.abc import Iterator, Mapping
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.hashes import SHA1, SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from gateway.webhooks.presets import PRESETS
from gateway.webhooks.sign import sign

NOW = 1_700_000_000
SECRET = "a-secret-of-the-tests"
BODY = f'{{"id":"evt_1","event":"a.b","webhookTimestamp":{NOW}000,"text":"é"}}'
TOPIC = "arn:aws:sns:eu-central-1:123456789012:orders"
GITHUB_BODIES = ("push.0", "ping.0", "star.0")  # committed; all others are only asked

# Which package is asked about which preset: the sender's own where there is one.
ORACLES = {
    "asana": "n8n-nodes-base",
    "aws-sns": "sns-validator",
    "bitbucket": "nuxt-webhook-validators",
    "calendly": "n8n-nodes-base",
    "docusign": "nuxt-webhook-validators",
    "dropbox": "nuxt-webhook-validators",
    "github": "@octokit/webhooks-methods",
    "gitlab": "nuxt-webhook-validators",
    "intercom": "x-hub-signature",
    "jira": "x-hub-signature",
    "linear": "@linear/sdk",
    "meta": "nuxt-webhook-validators",
    "notion": "@notionhq/client",
    "shopify": "@shopify/shopify-api",
    "typeform": "n8n-nodes-base",
    "x": "twitter-autohook",
    "zendesk": "n8n-nodes-base",
    "zoom": "@zoom/rivet",
}
CHECKS_TIME = ("calendly", "linear")  # of those packages
HANDSHAKE_TOKEN = "qgg8vlvZRS6UYooatFL8Aw"

Case = dict[str, Any]


def signed_cases(github_bodies: Mapping[str, str]) -> Iterator[Case]:
    """Yield what the gateway signs, as it is and altered; the same every time."""
    for preset in ORACLES:
        if preset == "aws-sns":
            continue
        genuine = signed_case(preset, BODY)
        yield genuine
        yield from _altered(genuine)
        if preset == "github":
            for name in GITHUB_BODIES:
                yield signed_case(preset, github_bodies[name], name)


def signed_case(preset: str, body: str, what: str = "genuine") -> Case:
    """Return a request as the gateway signs it for *preset*."""
    headers = sign(
        PRESETS[preset],
        SECRET,
        body=body.encode(),
        now=NOW,
        message_id="msg_1",
        event_type="push",
    )
    return {
        "preset": preset,
        "what": what,
        "secret": SECRET,
        "headers": {name.lower(): text for name, text in headers.items()},
        "body": body,
        "now": NOW,
    }


def handshake_cases() -> list[Case]:
    """Return handshakes whose answers the packages make, too."""
    body = '{"event":"endpoint.url_validation","payload":{"plainToken":"%s"},"event_ts":1}'
    zoom = signed_case("zoom", body % HANDSHAKE_TOKEN, "handshake")
    return [zoom, {"preset": "x", "secret": SECRET, "token": HANDSHAKE_TOKEN}]


def sns_cases() -> Iterator[Case]:
    """Yield messages of Amazon SNS under a key that is made anew: only Amazon can sign them."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    certificate = _certificate(key)
    confirmation = {
        "Token": "2336412f37",
        "SubscribeURL": "https://sns.eu-central-1.amazonaws.com/?Action=ConfirmSubscription",
    }
    for version in ("1", "2"):
        for kind, more in (
            ("Notification", {}),
            ("Notification", {"Subject": "A subject"}),
            ("SubscriptionConfirmation", confirmation),
        ):
            message = _sns_message(key, version, {"Type": kind, **more})
            genuine = {
                "preset": "aws-sns",
                "what": "genuine",
                "secret": TOPIC,
                "headers": {},
                "body": json.dumps(message),
                "now": NOW,
                "fetched": certificate,
            }
            yield genuine
            for name in sorted({"Message", "MessageId", "Timestamp", "Type", *more}):
                changed = {**message, name: message[name] + "x"}
                yield {**genuine, "what": f"another {name}", "body": json.dumps(changed)}
            other = {**message, "SignatureVersion": "2" if version == "1" else "1"}
            yield {**genuine, "what": "another version", "body": json.dumps(other)}
            strange = rsa.generate_private_key(public_exponent=65537, key_size=2048)
            yield {**genuine, "what": "another key", "fetched": _certificate(strange)}


def _altered(genuine: Case) -> Iterator[Case]:
    scheme = PRESETS[genuine["preset"]]
    header = scheme.header if isinstance(scheme.header, str) else scheme.header[0]
    header = header.lower()
    headers = genuine["headers"]
    text = headers[header]
    yield {**genuine, "what": "another body", "body": BODY.replace("a.b", "a.c")}
    yield {**genuine, "what": "another secret", "secret": SECRET[::-1]}
    forged = text[:-9] + ("a" if text[-9] != "a" else "b") + text[-8:]
    yield {**genuine, "what": "another signature", "headers": {**headers, header: forged}}
    bare = {name: value for name, value in headers.items() if name != header}
    yield {**genuine, "what": "no signature", "headers": bare}
    if genuine["preset"] in CHECKS_TIME:
        for what, seconds in (("too late", 400), ("too early", -400)):
            yield {**genuine, "what": what, "now": NOW + seconds}


def _sns_message(key: rsa.RSAPrivateKey, version: str, fields: Mapping[str, str]) -> dict[str, str]:
    message = {
        "MessageId": "22b80b92-fdea-4c2c-8f9d-bdfb0c7bf324",
        "TopicArn": TOPIC,
        "Message": 'line one\nline "two" é',
        "Timestamp": "2023-11-14T22:13:20.000Z",
        **fields,
    }
    text = "".join(f"{name}\n{message[name]}\n" for name in sorted(message))
    hashed = SHA256() if version == "2" else SHA1()  # noqa: S303  # what version 1 is
    signature = key.sign(text.encode(), padding.PKCS1v15(), hashed)
    return {
        **message,
        "SignatureVersion": version,
        "Signature": base64.b64encode(signature).decode(),
        "SigningCertURL": "https://sns.eu-central-1.amazonaws.com/"
        "SimpleNotificationService-01d088a6f77103d0fe307c0069e40ed6.pem",
    }


def _certificate(key: rsa.RSAPrivateKey) -> str:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "sns.amazonaws.com")])
    start = dt.datetime.fromtimestamp(NOW, dt.UTC) - dt.timedelta(days=1)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(start)
        .not_valid_after(start + dt.timedelta(days=365))
        .sign(key, SHA256())
    )
    return made.public_bytes(Encoding.PEM).decode()
