"""What stands behind each preset that is not ours: the table, and the tests it leans on.

``npm``: a package's verdicts (tests/oracles); ``pypi``: a library that a test calls; ``vector``:
a published example with its signature; ``shown``: nothing is signed, a secret or an address is
all there is; ``words``: no code was found anywhere, only the sender's page.
"""

import base64
import re
from importlib.metadata import distribution
from pathlib import Path

import aiohttp
import pytest
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.hmac import HMAC
from oracles.cases import ORACLES
from paypalrestsdk.notifications import WebhookEvent
from quickbooks.client import QuickBooks

from gateway.errors import SignatureRefused
from gateway.webhooks.compile import verifier_for
from gateway.webhooks.presets import PRESETS
from gateway.webhooks.sign import sign
from gateway.webhooks.signed import SignedRequest

UNIT = Path(__file__).parent
NOW = 1_700_000_000
SECRET = "a-secret-of-the-tests"
BODY = '{"id":"evt_1","text":"é"}'.encode()

EVIDENCE = {
    "standard-webhooks": "vector, pypi standardwebhooks",
    "svix": "pypi svix",
    "stripe": "pypi stripe",
    "github": "vector, npm @octokit/webhooks-methods",
    "gitlab": "npm nuxt-webhook-validators",
    "bitbucket": "vector, npm nuxt-webhook-validators",
    "shopify": "npm @shopify/shopify-api",
    "slack": "vector, pypi slack_sdk",
    "zoom": "npm @zoom/rivet",
    "square": "pypi squareup",
    "zendesk": "npm n8n-nodes-base",
    "hubspot": "pypi hubspot-api-client",
    "intercom": "npm x-hub-signature",
    "linear": "npm @linear/sdk",
    "paddle": "pypi paddle-python-sdk",
    "xero": "words",
    "quickbooks": "pypi python-quickbooks",
    "meta": "npm nuxt-webhook-validators",
    "typeform": "npm n8n-nodes-base",
    "calendly": "npm n8n-nodes-base",
    "docusign": "npm nuxt-webhook-validators",
    "pagerduty": "vector",
    "jira": "npm x-hub-signature",
    "notion": "npm @notionhq/client",
    "asana": "npm n8n-nodes-base",
    "dropbox": "npm nuxt-webhook-validators",
    "x": "npm twitter-autohook",
    "discord": "pypi discord-interactions",
    "sendgrid": "pypi sendgrid",
    "twilio": "pypi twilio",
    "mailgun": "pypi mailgun",
    "adyen": "pypi Adyen",
    "paypal": "pypi paypalrestsdk",
    "aws-sns": "npm sns-validator",
    "plaid": "pypi PyJWT",
    "microsoft-graph": "shown",
    "okta": "shown",
    "token": "shown",
    "jwt": "pypi PyJWT",
    "basic": "pypi aiohttp",
    "ip": "shown",
}


def verdict(preset: str, headers: dict[str, str], secret: str = SECRET, body: bytes = BODY) -> str:
    request = SignedRequest("POST", "/", {n.lower(): headers[n] for n in headers}, body)
    try:
        verifier_for(PRESETS[preset], [secret]).verify(request, NOW)
    except SignatureRefused as refused:
        return refused.reason
    return "accepted"


def test_every_preset_has_something_behind_it() -> None:
    assert list(EVIDENCE) == list(PRESETS)
    by_npm = {
        preset: evidence.partition("npm ")[2]
        for preset, evidence in EVIDENCE.items()
        if "npm " in evidence
    }
    assert by_npm == ORACLES


@pytest.mark.parametrize("preset", [name for name in EVIDENCE if "vector" in EVIDENCE[name]])
def test_each_vector_is_tested(preset: str) -> None:
    name = "test_vector_of_" + preset.replace("-", "_")
    assert any(f"def {name}(" in path.read_text() for path in UNIT.glob("test_webhooks_*.py"))


@pytest.mark.parametrize("preset", [name for name in EVIDENCE if "pypi" in EVIDENCE[name]])
def test_each_library_is_called_by_a_test(preset: str) -> None:
    library = distribution(EVIDENCE[preset].partition("pypi ")[2])
    modules = {str(path).partition("/")[0] for path in library.files or ()}
    texts = [path.read_text() for path in UNIT.glob("test_webhooks_*.py")]
    assert any(
        re.search(rf"^(import|from) {module}\b", text, re.MULTILINE)
        for module in modules
        if module.isidentifier()
        for text in texts
    )


def test_vector_of_pagerduty() -> None:
    """Of PagerDuty's own library for Go: webhookv3_test.go."""
    secret = "lDQHScfUeXUKaQRNF+8XIiDKZ7XX3itBAYzwU0TARw8lJqRnkKl2iB1anSb0Z+IK"
    genuine = "v1=0c0b9495b893a39e70d1fea2fe11fbe0a825f88b9f67846f6cc07dd2bc5476cd"
    other = "v1=7020c8a7ec668a9b7012bc3dd82e483394b038f4230acc6785efbf2a7d8bcaf5"
    body = (UNIT / "pagerduty.json").read_bytes().rstrip()
    for header, accepted in (
        (genuine, True),
        (f"{other},{genuine}", True),
        (f"{genuine},{other}", True),
        (other, False),
        (f"v2{genuine[2:]}", False),
    ):
        told = verdict("pagerduty", {"X-PagerDuty-Signature": header}, secret, body)
        assert (told == "accepted") == accepted, header
    ours = sign(PRESETS["pagerduty"], secret, body=body, now=NOW, message_id="m")
    assert ours["X-PagerDuty-Signature"] == genuine


def test_library_of_quickbooks_agrees() -> None:
    header = sign(PRESETS["quickbooks"], SECRET, body=BODY, now=NOW, message_id="m")
    for body in (BODY, BODY + b" "):
        theirs = QuickBooks.validate_webhook_signature(
            None, body.decode(), header["intuit-signature"], SECRET
        )
        assert theirs == (verdict("quickbooks", header, body=body) == "accepted")
        assert theirs == (body == BODY)


def test_library_of_paypal_signs_the_same_message() -> None:
    parts = ("transmission-1", "2023-11-14T22:13:20Z", "1JE4291016473214C")
    headers = {
        "paypal-transmission-id": parts[0],
        "paypal-transmission-time": parts[1],
        "paypal-transmission-sig": "AAAA",
        "paypal-cert-url": "https://api.paypal.com/v1/notifications/certs/CERT-1",
        "paypal-auth-algo": "SHA256withRSA",
    }
    verifier = verifier_for(PRESETS["paypal"], [parts[2]])
    ours = verifier.message_of(SignedRequest("POST", "/", headers, BODY))
    assert ours.decode() == WebhookEvent._get_expected_sig(*parts, BODY.decode())


def test_basic_is_as_aiohttp_writes_it() -> None:
    written = aiohttp.encode_basic_auth("user", "pässword", encoding="utf-8")
    assert verdict("basic", {"Authorization": written}, "user:pässword") == "accepted"
    assert verdict("basic", {"Authorization": written}, "user:passwort") != "accepted"


def test_xero_is_as_its_page_says() -> None:
    """There is no code to ask: the page's words, over OpenSSL's HMAC in place of ours."""
    mac = HMAC(SECRET.encode(), SHA256())
    mac.update(BODY)
    written = {"x-xero-signature": base64.b64encode(mac.finalize()).decode()}
    assert verdict("xero", written) == "accepted"
    assert verdict("xero", written, body=BODY + b" ") != "accepted"
    assert sign(PRESETS["xero"], SECRET, body=BODY, now=NOW, message_id="m") == written
