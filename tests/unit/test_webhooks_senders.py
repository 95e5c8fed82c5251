"""Public keys and the senders that need code, against their own libraries or a second writing.

What a sender signs is made here without the gateway's code: by the vendor's library where it can
sign, else by PyNaCl, PyJWT or the standard library, as the vendor's page says.
"""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import hmac
import json
import time
import zlib
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlencode

import jwt
import msgspec
import nacl.signing
import pytest
from Adyen.util import generate_notification_sig, is_valid_hmac_notification
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA1, SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from cryptography.x509.oid import NameOID
from discord_interactions import verify_key
from hypothesis import given, settings
from hypothesis import strategies as st
from mailgun.security import SecurityGuard
from sendgrid.helpers.eventwebhook import EventWebhook
from twilio.request_validator import RequestValidator

from gateway.errors import SignatureRefused
from gateway.webhooks.compile import verifier_for
from gateway.webhooks.presets import PRESETS
from gateway.webhooks.scheme import Scheme
from gateway.webhooks.sign import sign, sign_body
from gateway.webhooks.signed import SignedRequest

NOW = 1_700_000_000
URL = "https://hooks.example.com/webhooks/x"
BODY = '{"id":"evt_1","type":"a.b","text":"é"}'.encode()
SECRET = "a-secret-of-the-tests"
JWT_SECRET = "a-secret-of-the-tests-of-32-bytes"
HEX_SECRET = "44782DEF547AAA06C910C43932B1EB0C71FC68D9D0C057550C48EC2ACF6BA056"
WEBHOOK_ID = "1JE4291016473214C"
TOPIC = "arn:aws:sns:eu-central-1:123456789012:orders"
KEY_ID = "bfbd5111-8e33-4643-8ced-b2e642a72f3c"

ED25519 = nacl.signing.SigningKey(bytes(range(32)))
P256 = ec.derive_private_key(0x5EED, ec.SECP256R1())
RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def spki(key: Any) -> bytes:
    der: bytes = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return der


def certificate(*, days: int = 365, key: Any = RSA) -> bytes:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "sender.example")])
    start = dt.datetime.fromtimestamp(NOW, dt.UTC) - dt.timedelta(days=1)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(start)
        .not_valid_after(start + dt.timedelta(days=days))
        .sign(key, SHA256())
    )
    return made.public_bytes(Encoding.PEM)


CERTIFICATE = certificate()


class Sent:
    """One request as its sender makes it, and what the gateway would have fetched for it."""

    def __init__(
        self,
        preset: str,
        secret: str,
        headers: Mapping[str, str],
        body: bytes = BODY,
        *,
        url: str = URL,
        fetched: bytes = b"",
        scheme: Scheme | None = None,
    ) -> None:
        self.scheme = scheme or PRESETS[preset]
        self.secret = secret
        self.headers = {name.lower(): value for name, value in headers.items()}
        self.body = body
        self.url = url
        self.fetched = fetched

    def verdict(self, **changes: Any) -> str:
        """Return "accepted" or the reason of the refusal."""
        secrets = changes.get("secrets", [self.secret])
        url = changes.get("url", self.url)
        request = SignedRequest(
            "POST",
            url,
            changes.get("headers", self.headers),
            changes.get("body", self.body),
            url.partition("?")[2],
        )
        verifier = verifier_for(self.scheme, secrets)
        try:
            need = verifier.needs(request)
            assert (need is not None) == verifier.fetches
            found = verifier.verify(
                request, changes.get("now", NOW), changes.get("fetched", self.fetched)
            )
        except SignatureRefused as refusal:
            return refusal.reason
        assert found == len(secrets) - 1 or "several" not in changes
        return "accepted"


def standard_webhooks() -> Sent:
    signature = ED25519.sign(f"msg_1.{NOW}.".encode() + BODY).signature
    headers = {
        "webhook-id": "msg_1",
        "webhook-timestamp": str(NOW),
        "webhook-signature": f"v1a,{b64(signature)}",
    }
    return Sent("standard-webhooks", "whpk_" + b64(bytes(ED25519.verify_key)), headers)


def discord() -> Sent:
    signature = ED25519.sign(str(NOW).encode() + BODY).signature.hex()
    headers = {"X-Signature-Ed25519": signature, "X-Signature-Timestamp": str(NOW)}
    return Sent("discord", bytes(ED25519.verify_key).hex(), headers)


def sendgrid() -> Sent:
    signature = P256.sign(str(NOW).encode() + BODY, ec.ECDSA(SHA256()))
    headers = {
        "X-Twilio-Email-Event-Webhook-Signature": b64(signature),
        "X-Twilio-Email-Event-Webhook-Timestamp": str(NOW),
    }
    return Sent("sendgrid", b64(spki(P256)), headers)


def rsa_by_data() -> Sent:
    scheme = Scheme(
        header="X-Signature-SHA256",
        algorithm="rsa-sha256",
        encoding="base64",
        key_encoding="base64",
    )
    signature = RSA.sign(BODY, padding.PKCS1v15(), SHA256())
    return Sent("", b64(spki(RSA)), {"X-Signature-SHA256": b64(signature)}, scheme=scheme)


FORM = {"From": "+41441234567", "Body": "é & more", "NumMedia": "0", "Empty": ""}


def twilio() -> Sent:
    headers = {
        "X-Twilio-Signature": RequestValidator(SECRET).compute_signature(URL, FORM),
        "Content-Type": "application/x-www-form-urlencoded; charset=utf-8",
    }
    return Sent("twilio", SECRET, headers, urlencode(FORM).encode())


def twilio_json() -> Sent:
    url = f"{URL}?bodySHA256={hashlib.sha256(BODY).hexdigest()}"
    headers = {
        "X-Twilio-Signature": RequestValidator(SECRET).compute_signature(url, {}),
        "Content-Type": "application/json",
    }
    return Sent("twilio", SECRET, headers, url=url)


def mailgun() -> Sent:
    token = "e0b5477167110d68991efc6b9f89f0a11066af27834600e123"
    signature = hmac.new(SECRET.encode(), f"{NOW}{token}".encode(), hashlib.sha256).hexdigest()
    proof = {"timestamp": str(NOW), "token": token, "signature": signature}
    body = json.dumps({"signature": proof, "event-data": {"event": "delivered"}}).encode()
    return Sent("mailgun", SECRET, {}, body)


ITEM = {
    "eventCode": "AUTHORISATION",
    "merchantAccountCode": "TestMerchant",
    "merchantReference": "TestPayment-1407325143704",
    "pspReference": "7914073381342284",
    "originalReference": "",
    "success": "true",
    "amount": {"value": 1130, "currency": "EUR"},
}


def adyen() -> Sent:
    signature = generate_notification_sig(ITEM, HEX_SECRET).decode()
    item = {**ITEM, "additionalData": {"hmacSignature": signature}}
    body = json.dumps({"live": "false", "notificationItems": [{"NotificationRequestItem": item}]})
    return Sent("adyen", HEX_SECRET, {}, body.encode())


def paypal() -> Sent:
    when = "2023-11-14T22:13:20Z"
    message = f"transmission-1|{when}|{WEBHOOK_ID}|{zlib.crc32(BODY)}".encode()
    headers = {
        "PAYPAL-TRANSMISSION-ID": "transmission-1",
        "PAYPAL-TRANSMISSION-TIME": when,
        "PAYPAL-TRANSMISSION-SIG": b64(RSA.sign(message, padding.PKCS1v15(), SHA256())),
        "PAYPAL-CERT-URL": "https://api.paypal.com/v1/notifications/certs/CERT-360caa42-fca2a594",
        "PAYPAL-AUTH-ALGO": "SHA256withRSA",
    }
    return Sent("paypal", WEBHOOK_ID, headers, fetched=CERTIFICATE)


def aws_sns(*, version: str = "2", message_type: str = "Notification", **more: str) -> Sent:
    fields = {
        "Type": message_type,
        "MessageId": "22b80b92-fdea-4c2c-8f9d-bdfb0c7bf324",
        "TopicArn": TOPIC,
        "Message": 'line one\nline "two"',
        "Timestamp": "2023-11-14T22:13:20.000Z",
        **more,
    }
    text = "".join(f"{name}\n{fields[name]}\n" for name in sorted(fields))
    hashed = SHA256() if version == "2" else SHA1()  # noqa: S303  # what version 1 is
    fields |= {
        "SignatureVersion": version,
        "Signature": b64(RSA.sign(text.encode(), padding.PKCS1v15(), hashed)),
        "SigningCertURL": "https://sns.eu-central-1.amazonaws.com/"
        "SimpleNotificationService-01d088a6f77103d0fe307c0069e40ed6.pem",
    }
    headers = {"Content-Type": "text/plain; charset=UTF-8"}
    return Sent("aws-sns", TOPIC, headers, json.dumps(fields).encode(), fetched=CERTIFICATE)


def plaid() -> Sent:
    claims = {"iat": NOW, "request_body_sha256": hashlib.sha256(BODY).hexdigest()}
    token = jwt.encode(claims, P256, algorithm="ES256", headers={"kid": KEY_ID})
    key = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(P256.public_key()))
    key |= {"kid": KEY_ID, "alg": "ES256", "use": "sig", "expired_at": None}
    return Sent(
        "plaid",
        "client-1:secret-1",
        {"Plaid-Verification": token},
        fetched=json.dumps({"key": key, "request_id": "r"}).encode(),
    )


def bearer_jwt() -> Sent:
    claims = {"exp": NOW + 60, "hash": hashlib.sha256(BODY).hexdigest()}
    token = jwt.encode(claims, JWT_SECRET, algorithm="HS256")
    scheme = msgspec.structs.replace(PRESETS["jwt"], body_hash="hash")
    return Sent("jwt", JWT_SECRET, {"Authorization": f"Bearer {token}"}, scheme=scheme)


def basic() -> Sent:
    return Sent(
        "basic", "user:pässword", {"Authorization": "Basic " + b64("user:pässword".encode())}
    )


def microsoft_graph() -> Sent:
    one = {"subscriptionId": "s", "clientState": SECRET, "changeType": "created"}
    return Sent("microsoft-graph", SECRET, {}, json.dumps({"value": [one, one]}).encode())


SENDERS: dict[str, Callable[[], Sent]] = {
    "standard-webhooks v1a": standard_webhooks,
    "discord": discord,
    "sendgrid": sendgrid,
    "rsa": rsa_by_data,
    "twilio": twilio,
    "twilio json": twilio_json,
    "mailgun": mailgun,
    "adyen": adyen,
    "paypal": paypal,
    "aws-sns": aws_sns,
    "aws-sns v1": lambda: aws_sns(version="1", Subject="A subject"),
    "aws-sns confirmation": lambda: aws_sns(
        message_type="SubscriptionConfirmation",
        Token="2336412f37",
        SubscribeURL="https://sns.eu-central-1.amazonaws.com/?Action=ConfirmSubscription",
    ),
    "plaid": plaid,
    "jwt": bearer_jwt,
    "basic": basic,
    "microsoft-graph": microsoft_graph,
}
OTHER_SECRETS = {
    "discord": "11" * 32,
    "standard-webhooks v1a": "whpk_" + b64(bytes(31) + b"\x01"),
    "sendgrid": b64(spki(ec.derive_private_key(0xBAD, ec.SECP256R1()))),
    "rsa": b64(spki(rsa.generate_private_key(public_exponent=65537, key_size=2048))),
    "adyen": "00" * 32,
    "paypal": "OTHERWEBHOOK",
    "aws-sns": "arn:aws:sns:eu-central-1:123456789012:other",
    "basic": "user:other",
}
SENT = {name: make() for name, make in SENDERS.items()}
CODED = {name for name in PRESETS if PRESETS[name].check}


def test_every_sender_that_needs_more_than_a_hash_is_here() -> None:
    covered = {name.partition(" ")[0] for name in SENDERS}
    assert CODED - {"ip"} <= covered


@pytest.mark.parametrize("name", SENDERS)
def test_what_the_sender_signs_is_accepted(name: str) -> None:
    assert SENT[name].verdict() == "accepted"


@pytest.mark.parametrize("name", sorted(set(SENDERS) - {"plaid"}))
def test_any_of_several_secrets_may_match(name: str) -> None:
    other = OTHER_SECRETS.get(name) or OTHER_SECRETS.get(name.partition(" ")[0], "another-secret")
    assert SENT[name].verdict(secrets=[other, SENT[name].secret], several=1) == "accepted"
    assert SENT[name].verdict(secrets=[other]) != "accepted"


# Of these requests nothing but the proof itself is protected, or several bodies mean the same.
PARTLY_SIGNED = {"mailgun", "adyen", "basic", "microsoft-graph"} | {n for n in SENT if "sns" in n}
bits = st.integers(min_value=0, max_value=1 << 16)


def flipped(data: bytes, bit: int) -> bytes:
    bit %= len(data) * 8
    return bytes(byte ^ (1 << bit % 8) if i == bit // 8 else byte for i, byte in enumerate(data))


@settings(max_examples=200)
@given(st.sampled_from(sorted(set(SENT) - PARTLY_SIGNED)), bits)
def test_a_flipped_bit_in_the_body_is_refused(name: str, bit: int) -> None:
    sent = SENT[name]
    body = flipped(sent.body, bit)
    if name == "twilio":  # what is signed is what the form means: "%c3" and "%C3" are the same
        from urllib.parse import parse_qsl

        try:
            if sorted(parse_qsl(body.decode(), keep_blank_values=True)) == sorted(FORM.items()):
                return
        except UnicodeDecodeError:
            pass
    assert sent.verdict(body=body) != "accepted"


@settings(max_examples=200)
@given(st.sampled_from(sorted(n for n in SENT if "sns" in n or n in ("mailgun", "adyen"))), bits)
def test_a_flipped_bit_in_a_signed_field_of_the_body_is_refused(name: str, bit: int) -> None:
    """Or it leaves every signed field as it was: a space, an escape, an unsigned field."""
    sent = SENT[name]
    body = flipped(sent.body, bit)
    if sent.verdict(body=body) == "accepted":
        before, after = json.loads(sent.body), json.loads(body)
        if "sns" in name:
            unsigned = {"SigningCertURL", "SignatureVersion"}
            assert {k: after.get(k) for k in before if k not in unsigned} == {
                k: v for k, v in before.items() if k not in unsigned
            }
        elif name == "mailgun":
            case_is_free = after["signature"]
            case_is_free["signature"] = case_is_free["signature"].lower()
            assert case_is_free == before["signature"]
        else:
            item = after["notificationItems"][0]["NotificationRequestItem"]
            before = before["notificationItems"][0]["NotificationRequestItem"]
            # An absent field is signed like an empty one, and the number like its digits.
            assert {k: str(item.get(k, "")) for k in ITEM} == {k: str(before[k]) for k in ITEM}


@settings(max_examples=200)
@given(st.sampled_from(sorted(name for name in SENT if SENT[name].headers)), bits, st.data())
def test_a_flipped_bit_in_a_signed_header_is_refused(
    name: str, bit: int, data: st.DataObject
) -> None:
    sent = SENT[name]
    touched = data.draw(st.sampled_from([h for h in sent.headers if h != "content-type"] or [""]))
    if not touched:
        return
    forged = flipped(sent.headers[touched].encode(), bit).decode("latin-1")
    if touched == "paypal-cert-url":
        return  # another of PayPal's certificates, which a test does not fetch
    case_is_free = touched in ("paypal-auth-algo", "x-signature-ed25519") or name in (
        "basic",
        "jwt",
    )
    if case_is_free and forged.lower() == sent.headers[touched].lower():
        return
    accepted = sent.verdict(headers={**sent.headers, touched: forged}) == "accepted"
    assert not accepted or forged.split() == sent.headers[touched].split()


any_text = st.text(st.characters() | st.sampled_from("\0\ud800\udcff"), max_size=60)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)


@settings(max_examples=300)
@given(st.sampled_from(sorted(SENT)), st.data())
def test_junk_raises_nothing_but_a_refusal(name: str, data: st.DataObject) -> None:
    sent = SENT[name]
    headers = dict(sent.headers)
    for header in data.draw(st.sets(st.sampled_from([*headers, "content-type"]))):
        headers[header] = data.draw(any_text)
    body = sent.body
    try:
        decoded = json.loads(body)
    except ValueError:
        decoded = None
    if decoded is not None and data.draw(st.booleans()):
        place = decoded
        if name == "adyen":
            place = decoded["notificationItems"][0]["NotificationRequestItem"]
        place[data.draw(st.sampled_from(sorted(place)))] = data.draw(json_values)
        body = json.dumps(decoded).encode()
    elif data.draw(st.booleans()):
        body = data.draw(st.binary(max_size=60))
    fetched = data.draw(st.sampled_from([sent.fetched, b"", b"{}", b"-----BEGIN CERTIFICATE-----"]))
    sent.verdict(
        headers=headers, body=body, fetched=fetched, url=data.draw(any_text | st.just(URL))
    )


@settings(max_examples=100)
@given(json_values, st.sampled_from(["x", "y", "kty", "crv", "kid", "expired_at"]))
def test_any_key_that_plaid_tells_raises_nothing_but_a_refusal(value: object, field: str) -> None:
    sent = SENT["plaid"]
    told = json.loads(sent.fetched)
    told["key"][field] = value
    accepted = sent.verdict(fetched=json.dumps(told).encode()) == "accepted"
    assert not accepted or (field == "expired_at" and value is None)


@pytest.mark.parametrize(
    "name", ["standard-webhooks v1a", "discord", "sendgrid", "mailgun", "plaid"]
)
def test_the_tolerance_is_two_sided(name: str) -> None:
    tolerance = SENT[name].scheme.tolerance_seconds
    for skew in (-tolerance, tolerance):
        assert SENT[name].verdict(now=NOW + skew) == "accepted"
    for skew in (-tolerance - 1, tolerance + 1):
        assert "s old" in SENT[name].verdict(now=NOW + skew)


# Twilio ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("signed", [URL, URL.replace(".com/", ".com:443/")])
@pytest.mark.parametrize("called", [URL, URL.replace(".com/", ".com:443/")])
def test_twilio_may_sign_the_port_or_not(signed: str, called: str) -> None:
    signature = RequestValidator(SECRET).compute_signature(signed, FORM)
    headers = {**twilio().headers, "x-twilio-signature": signature}
    assert twilio().verdict(headers=headers, url=called) == "accepted"


def test_twilio_may_sign_with_sha256_and_says_so() -> None:
    signature = RequestValidator(SECRET).compute_signature(URL, FORM, "HMAC_SHA256")
    settings_text = "key=webhooks_sharedkey_1,algorithm=HMAC_SHA256"
    name = "x-twilio-webhooks-signature-settings"
    headers = {**twilio().headers, "x-twilio-signature": signature}
    assert twilio().verdict(headers={**headers, name: settings_text}) == "accepted"
    assert twilio().verdict(headers=headers) != "accepted"
    assert "unknown algorithm" in twilio().verdict(headers={**headers, name: "algorithm=HMAC_MD5"})


def test_a_body_that_twilio_does_not_cover_is_refused() -> None:
    bare = RequestValidator(SECRET).compute_signature(URL, {})
    headers = {"x-twilio-signature": bare, "content-type": "application/json"}
    assert "bodySHA256" in twilio().verdict(headers=headers, body=b"{}", url=URL)
    assert twilio().verdict(headers=headers, body=b"", url=URL) == "accepted"


def test_library_of_twilio_takes_what_we_sign() -> None:
    ours = sign(
        PRESETS["twilio"], SECRET, body=urlencode(FORM).encode(), now=NOW, message_id="m", url=URL
    )
    assert RequestValidator(SECRET).validate(URL, FORM, ours["X-Twilio-Signature"])
    sent = twilio_json()
    ours = sign(PRESETS["twilio"], SECRET, body=BODY, now=NOW, message_id="m", url=sent.url)
    assert RequestValidator(SECRET).validate(sent.url, BODY.decode(), ours["X-Twilio-Signature"])


# The others' libraries ---------------------------------------------------------------------------


def test_libraries_of_discord_and_sendgrid_take_what_we_take() -> None:
    headers = discord().headers
    signature, stamp = headers["x-signature-ed25519"], headers["x-signature-timestamp"]
    assert verify_key(BODY, signature, stamp, discord().secret)
    headers = sendgrid().headers
    assert EventWebhook(sendgrid().secret).verify_signature(
        BODY.decode(),
        headers["x-twilio-email-event-webhook-signature"],
        headers["x-twilio-email-event-webhook-timestamp"],
    )


def test_library_of_mailgun_takes_what_we_sign_and_refuses_what_we_refuse() -> None:
    proof = json.loads(
        sign_body(PRESETS["mailgun"], SECRET, BODY, now=time.time(), message_id="t" * 50)
    )["signature"]
    assert SecurityGuard.verify_webhook(SECRET, **proof)
    assert (
        Sent("mailgun", SECRET, {}, json.dumps({"signature": proof}).encode()).verdict(
            now=time.time()
        )
        == "accepted"
    )
    forged = {**proof, "token": "u" * 50}
    assert not SecurityGuard.verify_webhook(SECRET, **forged)
    assert mailgun().verdict(body=json.dumps({"signature": forged}).encode()) != "accepted"


@pytest.mark.parametrize("name", ["adyen", "mailgun", "microsoft-graph"])
def test_what_is_nested_too_deeply_to_be_signed_is_said_to_be_so(name: str) -> None:
    with pytest.raises(ValueError, match="nested too deeply"):
        sign_body(PRESETS[name], HEX_SECRET, b'{"a":' * 100_000, now=NOW, message_id="m")


def test_every_item_of_adyen_must_be_signed() -> None:
    genuine = json.loads(adyen().body)["notificationItems"][0]
    item = genuine["NotificationRequestItem"]
    forged = {"NotificationRequestItem": {**item, "amount": {"value": 1, "currency": "EUR"}}}
    for items, accepted in (([genuine, genuine], True), ([genuine, forged], False), ([], False)):
        body = json.dumps({"notificationItems": items}).encode()
        assert (adyen().verdict(body=body) == "accepted") == accepted


def test_library_of_adyen_takes_what_we_sign() -> None:
    unsigned = json.dumps({"notificationItems": [{"NotificationRequestItem": ITEM}]}).encode()
    ours = sign_body(PRESETS["adyen"], HEX_SECRET, unsigned, now=NOW, message_id="m")
    assert is_valid_hmac_notification(json.loads(ours), HEX_SECRET)
    assert Sent("adyen", HEX_SECRET, {}, ours).verdict() == "accepted"


@pytest.mark.parametrize("name", ["mailgun", "adyen", "microsoft-graph", "basic", "twilio", "ip"])
def test_what_we_sign_we_accept(name: str) -> None:
    secret = {"adyen": HEX_SECRET, "basic": "user:word"}.get(name, SECRET)
    scheme = PRESETS[name]
    body = b"" if name == "twilio" else BODY
    body = sign_body(scheme, secret, body, now=NOW, message_id="token_1")
    headers = sign(scheme, secret, body=body, now=NOW, message_id="token_1", url=URL)
    assert Sent(name, secret, headers, body).verdict() == "accepted"


@pytest.mark.parametrize("name", ["discord", "sendgrid", "paypal", "aws-sns", "plaid"])
def test_what_only_the_sender_can_sign_is_said_to_be_so(name: str) -> None:
    with pytest.raises(ValueError, match="private key that only the sender holds"):
        sign(PRESETS[name], SENT[name].secret, body=BODY, now=NOW, message_id="m", url=URL)


def _pem(key: Any) -> str:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


OWN_ED25519, OWN_P256 = Ed25519PrivateKey.generate(), ec.generate_private_key(ec.SECP256R1())
OWN_KEYS = {  # what a user puts into secrets, and what is signed with
    "discord": (OWN_ED25519.public_key().public_bytes_raw().hex(), OWN_ED25519),
    "standard-webhooks": (
        "whpk_" + base64.b64encode(OWN_ED25519.public_key().public_bytes_raw()).decode(),
        OWN_ED25519,
    ),
    "sendgrid": (
        base64.b64encode(
            OWN_P256.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        ).decode(),
        OWN_P256,
    ),
}


@pytest.mark.parametrize("name", sorted(OWN_KEYS))
def test_a_key_of_ones_own_signs_as_the_sender_would(name: str) -> None:
    secret, key = OWN_KEYS[name]
    scheme = PRESETS[name]
    headers = sign(scheme, secret, body=BODY, now=NOW, message_id="m", private_key=_pem(key))
    assert Sent(name, secret, headers, BODY).verdict() == "accepted"
    other = (
        Ed25519PrivateKey.generate()
        if key is OWN_ED25519
        else ec.generate_private_key(ec.SECP256R1())
    )
    headers = sign(scheme, secret, body=BODY, now=NOW, message_id="m", private_key=_pem(other))
    assert Sent(name, secret, headers, BODY).verdict() != "accepted"


def test_a_key_that_does_not_fit_is_refused_with_what_would() -> None:
    for pem in ("", "no key", _pem(OWN_P256)):
        with pytest.raises(ValueError, match=r"Ed25519 private key|with --key FILE"):
            sign(PRESETS["discord"], "00" * 32, body=b"", now=NOW, message_id="m", private_key=pem)


def test_twilios_form_is_not_taken_for_json() -> None:
    body = b'{"a":"b"}'
    form = {"content-type": "application/x-www-form-urlencoded"}
    signature = RequestValidator(SECRET).compute_signature(URL, {body.decode(): ""})
    headers = {**form, "x-twilio-signature": signature}
    assert "is JSON though" in SENT["twilio"].verdict(body=body, headers=headers, url=URL)


def test_mailgun_also_sends_forms_and_a_main_accounts_signature() -> None:
    proof = json.loads(mailgun().body)["signature"]
    form = urlencode({"subject": "Hi", **proof}).encode()
    headers = {"content-type": "application/x-www-form-urlencoded"}
    assert mailgun().verdict(body=form, headers=headers) == "accepted"
    other = {**proof, "signature": "0" * 64, "parent-signature": proof["signature"]}
    assert mailgun().verdict(body=json.dumps({"signature": other}).encode()) == "accepted"


def test_digits_of_mailguns_token_do_not_pass_for_digits_of_the_time() -> None:
    proof = json.loads(mailgun().body)["signature"]
    moved = proof["timestamp"] + proof["token"]
    shifted = {**proof, "timestamp": moved[:9], "token": moved[9:]}
    assert (
        mailgun().verdict(body=json.dumps({"signature": shifted}).encode(), now=17e7) != "accepted"
    )


# What is fetched, and from where -----------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "http://api.paypal.com/v1/notifications/certs/CERT-1",
        "https://api.paypal.com.evil.example/v1/notifications/certs/CERT-1",
        "https://api.paypal.com@evil.example/v1/notifications/certs/CERT-1",
        "https://evil.example/?https://api.paypal.com/v1/notifications/certs/CERT-1",
        "https://api.paypal.com/v1/notifications/certs/../../../other",
        "https://api.paypal.com:8443/v1/notifications/certs/CERT-1",
        "https://apiXpaypal.com/v1/notifications/certs/CERT-1",
        "https://api.paypal.com/v1/notifications/certs/CERT-1\n",
    ],
)
def test_only_paypals_own_certificates_are_fetched(url: str) -> None:
    headers = {**paypal().headers, "paypal-cert-url": url}
    assert "none of PayPal's" in paypal().verdict(headers=headers)


@pytest.mark.parametrize(
    "url",
    [
        "http://sns.eu-central-1.amazonaws.com/SimpleNotificationService-1.pem",
        "https://sns.eu-central-1.amazonaws.com.evil.example/SimpleNotificationService-1.pem",
        "https://sns.evil.example/SimpleNotificationService-1.pem",
        "https://bucket.s3.amazonaws.com/SimpleNotificationService-1.pem",
        "https://sns.bucket.s3.amazonaws.com/SimpleNotificationService-1.pem",
        "https://sns.eu-central-1.amazonaws.com/other/SimpleNotificationService-1.pem",
        "https://sns.eu-central-1.amazonaws.com/?Action=GetTopic#SimpleNotificationService-1.pem",
    ],
)
def test_only_amazons_own_certificates_are_fetched(url: str) -> None:
    body = json.dumps({**json.loads(aws_sns().body), "SigningCertURL": url}).encode()
    assert "none of Amazon SNS's" in aws_sns().verdict(body=body)


def test_nothing_is_fetched_for_topics_that_are_not_ours() -> None:
    verifier = verifier_for(PRESETS["aws-sns"], ["arn:aws:sns:eu-central-1:999999999999:mine"])
    sent = aws_sns()
    with pytest.raises(SignatureRefused, match="none of the configured topics"):
        verifier.needs(SignedRequest("POST", URL, sent.headers, sent.body))


@pytest.mark.parametrize("name", ["paypal", "aws-sns"])
def test_a_certificate_out_of_date_or_of_another_kind_is_refused(name: str) -> None:
    assert "out of date" in SENT[name].verdict(now=NOW + 366 * 86400)
    assert "out of date" in SENT[name].verdict(now=NOW - 2 * 86400)
    assert "no sound RSA key" in SENT[name].verdict(fetched=certificate(key=P256))
    assert "cannot be read" in SENT[name].verdict(fetched=b"<html>")
    stranger = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    assert "not the certificate's" in SENT[name].verdict(fetched=certificate(key=stranger))


def test_plaid_is_asked_with_our_credentials_which_show_nowhere() -> None:
    verifier = verifier_for(PRESETS["plaid"], ["client-1:secret-1"])
    need = verifier.needs(SignedRequest("POST", URL, plaid().headers, BODY))
    assert need is not None
    assert json.loads(need.post) == {
        "client_id": "client-1",
        "secret": "secret-1",
        "key_id": KEY_ID,
    }
    assert "secret-1" not in repr(need) + need.key


@pytest.mark.parametrize("algorithm", ["none", "HS256"])
def test_plaids_token_cannot_choose_another_algorithm(algorithm: str) -> None:
    claims = {"iat": NOW, "request_body_sha256": hashlib.sha256(BODY).hexdigest()}
    key = None if algorithm == "none" else "k" * 32
    token = jwt.encode(claims, key, algorithm=algorithm, headers={"kid": KEY_ID})
    reason = plaid().verdict(headers={"plaid-verification": token})
    assert reason in ("the token is not signed with ES256", "plaid-verification is no JWT")


# Secrets -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "secret", "words"),
    [
        ("discord", "no hex", "not an Ed25519 public key"),
        ("discord", "00" * 31, "not an Ed25519 public key"),
        ("sendgrid", b64(spki(ec.derive_private_key(7, ec.SECP384R1()))), "another kind"),
        ("sendgrid", b64(b"junk"), "not a public key on the curve P-256"),
        ("standard-webhooks", "whpk_" + b64(b"short"), "not an Ed25519 public key"),
        ("adyen", "xyz", "not hex"),
        ("paypal", "an id", "no id of a PayPal webhook"),
        ("aws-sns", "orders", "no topic's ARN"),
        ("plaid", "secret-1", "client_id:secret"),
        ("basic", "word", "user:password"),
    ],
)
def test_a_secret_of_the_wrong_kind_is_named_without_its_value(
    name: str, secret: str, words: str
) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        verifier_for(PRESETS[name], [secret])
    assert len(secret) < 6 or secret not in str(caught.value)


@pytest.mark.parametrize("name", sorted(CODED - {"ip"}))
def test_without_a_secret_nothing_starts(name: str) -> None:
    with pytest.raises(ValueError, match="no secret"):
        verifier_for(PRESETS[name], [])


def test_a_public_key_may_be_pem() -> None:
    pem = P256.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    assert sendgrid().verdict(secrets=[pem]) == "accepted"


def test_a_short_rsa_key_is_refused() -> None:
    weak = rsa.generate_private_key(public_exponent=65537, key_size=1024)  # noqa: S505  # the point
    with pytest.raises(ValueError, match="another kind"):
        verifier_for(rsa_by_data().scheme, [b64(spki(weak))])


def test_hmac_and_public_keys_may_stand_side_by_side() -> None:
    whsec = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    headers = sign(PRESETS["svix"], whsec, body=BODY, now=time.time(), message_id="m")
    both = [standard_webhooks().secret, whsec]
    sent = Sent("svix", whsec, headers)
    assert sent.verdict(secrets=both, now=time.time(), several=1) == "accepted"
    assert standard_webhooks().verdict(secrets=[whsec, standard_webhooks().secret]) == "accepted"
    headers = standard_webhooks().headers
    mixed = {**headers, "webhook-signature": f"v1,{b64(bytes(32))} {headers['webhook-signature']}"}
    assert standard_webhooks().verdict(headers=mixed) == "accepted"
