"""Every preset, in both directions, against code that is not ours.

Where a vendor's own library installs easily it is the oracle; otherwise the lines below follow
the vendor's documentation, with the standard library's ``hmac`` and nothing of the gateway.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import time
from collections.abc import Callable
from datetime import UTC, datetime

import hubspot.utils.signature as hubspot
import pytest
import standardwebhooks
import stripe
import svix
from hypothesis import given
from hypothesis import strategies as st
from paddle_billing.Notifications.PaddleSignature import PaddleSignature
from paddle_billing.Notifications.Secret import Secret
from slack_sdk.signature import Clock, SignatureVerifier
from square.utils.webhooks_helper import verify_signature

from gateway.webhooks.presets import PRESETS
from gateway.webhooks.scheme import ASYMMETRIC
from gateway.webhooks.sign import sign
from gateway.webhooks.signed import SignedRequest
from gateway.webhooks.verify import HANDSHAKE_TOKEN, Verifier, decoded_url

NOW = 1_700_000_000
ID = "msg_2f1c"
URL = "https://hooks.example.com/webhooks/x?a=1"
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
RAW_KEY = base64.b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
BODY = f'{{"id":"evt_1","type":"a.b","webhookTimestamp":{NOW}000,"text":"é"}}'.encode()


# Those that a secret signs for; test_webhooks_senders.py has the others.
GENERIC = [
    name
    for name, scheme in PRESETS.items()
    if not scheme.check and scheme.algorithm not in ASYMMETRIC
]


def hex_of(message: bytes, *, key: bytes = SECRET.encode(), algorithm: str = "sha256") -> str:
    return hmac.new(key, message, getattr(hashlib, algorithm)).hexdigest()


def b64_of(message: bytes, *, key: bytes = SECRET.encode()) -> str:
    return base64.b64encode(hmac.new(key, message, hashlib.sha256).digest()).decode()


def standard(family: str, body: bytes) -> dict[str, str]:
    signature = b64_of(f"{ID}.{NOW}.".encode() + body, key=RAW_KEY)
    return {
        f"{family}-id": ID,
        f"{family}-timestamp": str(NOW),
        f"{family}-signature": f"v1,{signature}",
    }


def zendesk(body: bytes) -> dict[str, str]:
    when = "2023-11-14T22:13:20Z"
    return {
        "X-Zendesk-Webhook-Signature": b64_of(when.encode() + body),
        "X-Zendesk-Webhook-Signature-Timestamp": when,
        "X-Zendesk-Webhook-Invocation-Id": ID,
    }


def v0(signature: str, timestamp: str, body: bytes) -> dict[str, str]:
    return {signature: f"v0={hex_of(f'v0:{NOW}:'.encode() + body)}", timestamp: str(NOW)}


# What each sender adds to a body, as its documentation says.
SENDERS: dict[str, Callable[[bytes], dict[str, str]]] = {
    "standard-webhooks": lambda body: standard("webhook", body),
    "svix": lambda body: standard("svix", body),
    "stripe": lambda body: {"Stripe-Signature": f"t={NOW},v1={hex_of(f'{NOW}.'.encode() + body)}"},
    "github": lambda body: {
        "X-Hub-Signature-256": f"sha256={hex_of(body)}",
        "X-GitHub-Delivery": ID,
        "X-GitHub-Event": "push",
    },
    "gitlab": lambda _body: {
        "X-Gitlab-Token": SECRET,
        "X-Gitlab-Event": "push",
        "Idempotency-Key": ID,
    },
    "bitbucket": lambda body: {
        "X-Hub-Signature": f"sha256={hex_of(body)}",
        "X-Request-UUID": ID,
        "X-Event-Key": "push",
    },
    "shopify": lambda body: {
        "X-Shopify-Hmac-Sha256": b64_of(body),
        "X-Shopify-Topic": "push",
        "X-Shopify-Webhook-Id": ID,
    },
    "slack": lambda body: v0("X-Slack-Signature", "X-Slack-Request-Timestamp", body),
    "zoom": lambda body: v0("x-zm-signature", "x-zm-request-timestamp", body),
    "square": lambda body: {"x-square-hmacsha256-signature": b64_of(URL.encode() + body)},
    "zendesk": zendesk,
    "hubspot": lambda body: {
        "X-HubSpot-Signature-v3": b64_of(f"POST{URL}".encode() + body + f"{NOW}000".encode()),
        "X-HubSpot-Request-Timestamp": f"{NOW}000",
    },
    "intercom": lambda body: {"X-Hub-Signature": f"sha1={hex_of(body, algorithm='sha1')}"},
    "linear": lambda body: {
        "Linear-Signature": hex_of(body),
        "Linear-Event": "push",
        "Linear-Delivery": ID,
    },
    "paddle": lambda body: {"Paddle-Signature": f"ts={NOW};h1={hex_of(f'{NOW}:'.encode() + body)}"},
    "xero": lambda body: {"x-xero-signature": b64_of(body)},
    "quickbooks": lambda body: {"intuit-signature": b64_of(body)},
    "meta": lambda body: {"X-Hub-Signature-256": f"sha256={hex_of(body)}"},
    "typeform": lambda body: {"Typeform-Signature": f"sha256={b64_of(body)}"},
    "calendly": lambda body: {
        "Calendly-Webhook-Signature": f"t={NOW},v1={hex_of(f'{NOW}.'.encode() + body)}"
    },
    "docusign": lambda body: {"X-DocuSign-Signature-1": b64_of(body)},
    "pagerduty": lambda body: {"X-PagerDuty-Signature": f"v1={hex_of(body)}"},
    "jira": lambda body: {
        "X-Hub-Signature": f"sha256={hex_of(body)}",
        "X-Atlassian-Webhook-Identifier": ID,
    },
    "notion": lambda body: {"X-Notion-Signature": f"sha256={hex_of(body)}"},
    "asana": lambda body: {"X-Hook-Signature": hex_of(body)},
    "dropbox": lambda body: {"X-Dropbox-Signature": hex_of(body)},
    "okta": lambda _body: {"Authorization": SECRET},
    "token": lambda _body: {"Authorization": f"Bearer {SECRET}"},
    "x": lambda body: {"x-twitter-webhooks-signature": f"sha256={b64_of(body)}"},
}


def request(headers: dict[str, str], body: bytes) -> SignedRequest:
    return SignedRequest("POST", URL, {name.lower(): headers[name] for name in headers}, body)


def test_every_preset_has_an_oracle() -> None:
    assert set(SENDERS) == set(GENERIC)


@pytest.mark.parametrize("name", GENERIC)
def test_what_the_sender_signs_is_accepted(name: str) -> None:
    verifier = Verifier(PRESETS[name], ["b3RoZXI=", SECRET])
    assert verifier.verify(request(SENDERS[name](BODY), BODY), NOW) == 1


@pytest.mark.parametrize("name", GENERIC)
def test_we_send_exactly_what_the_sender_would(name: str) -> None:
    ours = sign(
        PRESETS[name], SECRET, body=BODY, now=NOW, message_id=ID, url=URL, event_type="push"
    )
    assert ours == SENDERS[name](BODY)


@given(body=st.binary(max_size=200))
def test_any_bytes_can_be_signed_and_verified(body: bytes) -> None:
    for name in GENERIC:
        if name != "linear":  # its timestamp stands in the body
            scheme = PRESETS[name]
            signed = sign(scheme, SECRET, body=body, now=NOW, message_id=ID, url=URL)
            verifier = Verifier(scheme, [SECRET])
            if name == "x" and HANDSHAKE_TOKEN(body):
                continue  # no event of X looks like that, and its handshake signs it for anyone
            assert verifier.verify(request(signed, body), NOW) == 0


def test_vector_of_standard_webhooks() -> None:
    headers = {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }
    body = b'{"test": 2432232314}'
    for secret in ("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"):
        verifier = Verifier(PRESETS["standard-webhooks"], [secret])
        assert verifier.verify(SignedRequest("POST", "/", headers, body), 1614265330) == 0


def test_vector_of_github() -> None:
    signature = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"
    verifier = Verifier(PRESETS["github"], ["It's a Secret to Everybody"])
    headers = {"x-hub-signature-256": signature}
    assert verifier.verify(SignedRequest("POST", "/", headers, b"Hello, World!"), NOW) == 0


def test_vector_of_slack() -> None:
    """From docs.slack.dev/authentication/verifying-requests-from-slack."""
    body = (
        b"token=xyzz0WbapA4vBCDEFasx0q6G&team_id=T1DC2JH3J&team_domain=testteamnow"
        b"&channel_id=G8PSS9T3V&channel_name=foobar&user_id=U2CERLKJA&user_name=roadrunner"
        b"&command=%2Fwebhook-collect&text=&response_url=https%3A%2F%2Fhooks.slack.com%2Fcommands"
        b"%2FT1DC2JH3J%2F397700885554%2F96rGlfmibIGlgcZRskXaIFfN"
        b"&trigger_id=398738663015.47445629121.803a0bc887a14d10d2c447fce8b6703c"
    )
    headers = {
        "x-slack-request-timestamp": "1531420618",
        "x-slack-signature": "v0=a2114d57b48eac39b9ad189dd8316235a7b4a8d21a10bd27519666489c69b503",
    }
    verifier = Verifier(PRESETS["slack"], ["8f742231b10e8888abcd99yyyzzz85a5"])
    assert verifier.verify(SignedRequest("POST", "/", headers, body), 1531420618) == 0


def test_vector_of_bitbucket() -> None:
    """From support.atlassian.com/bitbucket-cloud/docs/manage-webhooks (secure webhooks)."""
    signature = "sha256=a4771c39fbe90f317c7824e83ddef3caae9cb3d976c214ace1f2937e133263c9"
    verifier = Verifier(PRESETS["bitbucket"], ["It's a Secret to Everybody"])
    headers = {"x-hub-signature": signature}
    assert verifier.verify(SignedRequest("POST", "/", headers, b"Hello World!"), NOW) == 0


def test_library_of_square_agrees() -> None:
    for body in (BODY, b'{"merchant_id":"M","type":"payment.created","event_id":"1"}'):
        ours = sign(PRESETS["square"], SECRET, body=body, now=NOW, message_id=ID, url=URL)

        def is_valid(url: str = URL, body: bytes = body, ours: dict[str, str] = ours) -> bool:
            return verify_signature(
                request_body=body.decode(),
                signature_header=ours["x-square-hmacsha256-signature"],
                signature_key=SECRET,
                notification_url=url,
            )

        assert is_valid()
        assert ours == SENDERS["square"](body)
        assert not is_valid(url=URL + "&b=2")
        assert not is_valid(body=body + b" ")


def test_library_of_standard_webhooks_agrees() -> None:
    library = standardwebhooks.Webhook(SECRET)
    theirs = library.sign(ID, datetime.fromtimestamp(NOW, UTC), BODY.decode())
    assert theirs == SENDERS["standard-webhooks"](BODY)["webhook-signature"]
    ours = sign(PRESETS["standard-webhooks"], SECRET, body=BODY, now=time.time(), message_id=ID)
    library.verify(BODY, ours)  # raises where it does not agree; it reads the clock itself


def test_library_of_stripe_agrees() -> None:
    theirs = stripe.WebhookSignature.generate_signature_header(BODY.decode(), SECRET, timestamp=NOW)
    assert (
        Verifier(PRESETS["stripe"], [SECRET]).verify(
            request({"Stripe-Signature": theirs}, BODY), NOW
        )
        == 0
    )
    ours = sign(PRESETS["stripe"], SECRET, body=BODY, now=NOW, message_id=ID)
    assert stripe.WebhookSignature.verify_header(BODY, ours["Stripe-Signature"], SECRET)


def test_library_of_slack_agrees() -> None:
    class Fixed(Clock):
        def now(self) -> float:
            return NOW

    library = SignatureVerifier(SECRET, Fixed())
    headers = sign(PRESETS["slack"], SECRET, body=BODY, now=NOW, message_id=ID)
    assert library.is_valid_request(BODY, headers)
    theirs = library.generate_signature(timestamp=str(NOW), body=BODY)
    assert theirs == headers["X-Slack-Signature"]


def test_library_of_svix_agrees() -> None:
    library = svix.Webhook(SECRET)
    now = time.time()
    ours = sign(PRESETS["svix"], SECRET, body=BODY, now=now, message_id=ID)
    library.verify(BODY, ours)  # raises where it does not agree; it reads the clock itself
    theirs = library.sign(ID, datetime.fromtimestamp(int(now), UTC), BODY.decode())
    assert theirs == ours["svix-signature"]


def test_library_of_hubspot_agrees() -> None:
    now = time.time()
    url = "https://hooks.example.com/webhooks/hubspot?a=1"
    ours = sign(PRESETS["hubspot"], SECRET, body=BODY, now=now, message_id=ID, url=url)
    assert hubspot.Signature.is_valid(
        signature=ours["X-HubSpot-Signature-v3"],
        client_secret=SECRET,
        request_body=BODY.decode(),
        http_uri=url,
        signature_version="v3",
        timestamp=ours["X-HubSpot-Request-Timestamp"],
    )


def test_hubspot_signs_its_url_decoded() -> None:
    """The table of signs is that of HubSpot's page; "%20" and "%23" stay as they are."""
    url = "https://h.example/a%3Ab%2Fc%3Fd%40e%21f%24g%27h%28i%29j%2Ak%2Cl%3Bm%20n%23o?x=%2f"
    assert decoded_url(url) == "https://h.example/a:b/c?d@e!f$g'h(i)j*k,l;m%20n%23o?x=/"


def test_library_of_paddle_agrees() -> None:
    signature = sign(PRESETS["paddle"], SECRET, body=BODY, now=NOW, message_id=ID)
    library = PaddleSignature()
    assert library.verify(signature["Paddle-Signature"], BODY.decode(), Secret(SECRET))
