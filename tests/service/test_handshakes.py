"""Every sender's handshake over the real listener: answered as it wants, stored never.

The listener, the intake and the configuration are the gateway's; what would be committed is only
counted, and what would be fetched is handed out here.
"""

import base64
import hashlib
import hmac
import json
import os
import stat
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import nacl.signing
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from doorstep import ENVIRON, SECRET, serving, vendor
from structlog.testing import capture_logs
from twilio.request_validator import RequestValidator

from gateway.webhooks.presets import PRESETS

ED25519 = nacl.signing.SigningKey(bytes(range(32)))
TOPIC = "arn:aws:sns:eu-central-1:123456789012:orders"
RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
ENVIRON |= {
    "OTHER": "another-secret-of-the-tests",
    "TOKEN": "the-verify-token",
    "KEY": bytes(ED25519.verify_key).hex(),
    "TOPIC": TOPIC,
}


def discord_headers(body: bytes) -> dict[str, str]:
    now = str(int(time.time()))
    signature = ED25519.sign(now.encode() + body).signature.hex()
    return {"X-Signature-Ed25519": signature, "X-Signature-Timestamp": now}


def hmac_of(text: str) -> bytes:
    return hmac.new(SECRET.encode(), text.encode(), hashlib.sha256).digest()


# Signed ------------------------------------------------------------------------------------------


async def test_slack_gets_its_challenge_back(tmp_path: Path) -> None:
    async with serving(tmp_path, vendor("slack")) as place:
        body = b'{"type":"url_verification","token":"t","challenge":"3eZbr<b>Kig"}'
        status, text, headers = await place.signed("slack", body)
        assert (status, text) == (200, "3eZbr<b>Kig")
        assert headers["Content-Type"] == "text/plain; charset=utf-8"
        assert headers["X-Content-Type-Options"] == "nosniff"
        form = "application/x-www-form-urlencoded"  # what curl says unasked
        answer = await place.signed("slack", body, content_type=form)
        assert answer[:2] == (200, "3eZbr<b>Kig")
        assert (await place.call("slack", body))[0] == 401
        assert (await place.signed("slack", body, secret="wrong"))[0] == 401
        assert place.desk.stored == []
        assert place.count("slack", "handshake") == 2


async def test_zoom_gets_an_hmac_only_for_what_it_signed(tmp_path: Path) -> None:
    async with serving(tmp_path, vendor("zoom")) as place:
        body = (
            b'{"event":"endpoint.url_validation","payload":{"plainToken":"qgg8vlvZRS6UYooatFL8Aw"}}'
        )
        status, text, headers = await place.signed("zoom", body)
        assert status == 200
        assert json.loads(text) == {
            "plainToken": "qgg8vlvZRS6UYooatFL8Aw",
            "encryptedToken": hmac_of("qgg8vlvZRS6UYooatFL8Aw").hex(),
        }
        assert headers["Content-Type"] == "application/json"
        assert (await place.call("zoom", body))[0] == 401
        assert place.desk.stored == []


async def test_discord_pings_and_probes(tmp_path: Path) -> None:
    async with serving(tmp_path, vendor("discord", secret="env:KEY")) as place:
        ping = b'{"type":1}'
        status, text, _ = await place.call("discord", ping, discord_headers(ping))
        assert (status, json.loads(text)) == (200, {"type": 1})
        forged = {**discord_headers(ping), "X-Signature-Ed25519": "00" * 64}
        assert (await place.call("discord", ping, forged))[0] == 401
        event_ping = b'{"version":1,"application_id":"1","type":0}'
        status, text, _ = await place.call("discord", event_ping, discord_headers(event_ping))
        assert (status, text) == (204, "")
        assert place.desk.stored == []
        event = b'{"version":1,"type":1,"event":{"type":"ENTITLEMENT_CREATE","data":{}}}'
        assert (await place.call("discord", event, discord_headers(event)))[0] == 202
        assert place.desk.stored[0].event.event_type == "ENTITLEMENT_CREATE"


async def test_xero_gets_a_status_and_not_a_byte(tmp_path: Path) -> None:
    async with serving(tmp_path, vendor("xero")) as place:
        body = b'{"events":[],"firstEventSequence":0,"lastEventSequence":0,"entropy":"S0m3r4Nd0m"}'
        status, text, headers = await place.signed("xero", body)
        assert (status, text) == (200, "")
        assert "Set-Cookie" not in headers
        assert (await place.signed("xero", body, secret="wrong"))[:2] == (401, "")
        assert place.desk.stored == []
        event = b'{"events":[{"resourceId":"1"}],"entropy":"x"}'
        assert (await place.signed("xero", event))[:2] == (200, "")
        assert len(place.desk.stored) == 1


# By GET ------------------------------------------------------------------------------------------


async def test_meta_must_show_the_verify_token(tmp_path: Path) -> None:
    async with serving(tmp_path, vendor("meta", more='verify_token = "env:TOKEN"')) as place:
        query = {
            "hub.mode": "subscribe",
            "hub.verify_token": ENVIRON["TOKEN"],
            "hub.challenge": "1158201444",
        }
        status, text, _ = await place.call("meta", method="GET", query=query)
        assert (status, text) == (200, "1158201444")
        wrong = {**query, "hub.verify_token": "guess"}
        assert (await place.call("meta", method="GET", query=wrong))[0] == 403
        del wrong["hub.verify_token"]
        assert (await place.call("meta", method="GET", query=wrong))[0] == 403
        assert (await place.call("meta", method="GET"))[0] == 405
        assert place.desk.stored == []


async def test_meta_without_a_verify_token_is_refused(tmp_path: Path) -> None:
    async with serving(tmp_path, vendor("meta")) as place:
        query = {"hub.mode": "subscribe", "hub.verify_token": "", "hub.challenge": "1"}
        assert (await place.call("meta", method="GET", query=query))[0] == 403


async def test_dropbox_and_okta_hear_their_challenges(tmp_path: Path) -> None:
    async with serving(tmp_path, vendor("dropbox") + vendor("okta")) as place:
        query = {"challenge": "<script>é"}
        status, text, headers = await place.call("dropbox", method="GET", query=query)
        assert (status, text) == (200, "<script>é")
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Content-Type"].startswith("text/plain")
        challenge = {"X-Okta-Verification-Challenge": 'a"b\\c'}
        status, text, _ = await place.call("okta", headers=challenge, method="GET")
        assert (status, json.loads(text)) == (200, {"verification": 'a"b\\c'})
        assert place.desk.stored == []


async def test_x_hears_an_hmac_that_signs_no_event(tmp_path: Path) -> None:
    """Its request is not signed, so whoever asks is told HMACs: but never of what can be an event,
    and what they are told passes as none."""
    async with serving(tmp_path, vendor("x")) as place:
        token = "MTEyMzQ1Njc4OQ=="
        status, text, _ = await place.call("x", method="GET", query={"crc_token": token})
        told = json.loads(text)["response_token"]
        assert (status, told) == (200, "sha256=" + base64.b64encode(hmac_of(token)).decode())
        headers = {"x-twitter-webhooks-signature": told}
        assert (await place.call("x", token.encode(), headers))[0] == 401
        body = '{"for_user_id":"1"}'
        assert (await place.call("x", method="GET", query={"crc_token": body}))[0] == 403
        assert place.desk.stored == []
        assert (await place.signed("x", body.encode()))[0] == 200


async def test_a_get_is_for_handshakes_only(tmp_path: Path) -> None:
    async with serving(tmp_path, vendor("github") + vendor("dropbox")) as place:
        status, _, headers = await place.call("github", method="GET", query={"challenge": "1"})
        assert (status, headers["Allow"]) == (405, "POST")
        status, _, headers = await place.call("dropbox", method="GET")
        assert (status, headers["Allow"]) == (405, "GET, POST")
        assert (await place.call("dropbox", method="PUT"))[0] == 405


# By POST, unsigned -------------------------------------------------------------------------------


async def test_microsoft_graph_validates_and_then_shows_its_state(tmp_path: Path) -> None:
    async with serving(tmp_path, vendor("graph", "microsoft-graph")) as place:
        token = "Validation: Testing client application reachability for subscription Request-Id: 1"
        status, text, headers = await place.call("graph", query={"validationToken": token})
        assert (status, text) == (200, token)
        assert headers["Content-Type"].startswith("text/plain")
        assert place.desk.stored == []
        one = {"subscriptionId": "s", "clientState": SECRET}
        body = json.dumps({"value": [one]}).encode()
        assert (await place.call("graph", body))[0] == 202
        forged = json.dumps({"value": [one, {**one, "clientState": "guess"}]}).encode()
        assert (await place.call("graph", forged))[0] == 401


LEARNING = '[vendors.asana.webhook]\nverify = "asana"\nlearn_secret = "asana.secret"\n'


async def test_asanas_first_secret_is_kept_and_survives_a_restart(tmp_path: Path) -> None:
    told = "b537207f20cbfa02357cf448134da559e8bd39d61597dcd5631b8012eae53e81"
    event = b'{"events":[{"action":"changed"}]}'
    async with serving(tmp_path, LEARNING) as place:
        assert (await place.signed("asana", event, secret=told))[0] == 401
        with capture_logs() as logs:
            status, text, headers = await place.call("asana", b"{}", {"X-Hook-Secret": told})
        assert (status, text, headers["X-Hook-Secret"]) == (200, "", told)
        assert told not in str(logs)
        kept = tmp_path / "asana.secret"
        assert kept.read_text() == told + "\n"
        assert stat.S_IMODE(kept.stat().st_mode) == 0o600
        assert sorted(os.listdir(tmp_path)) == [kept.name, "gateway.toml"]  # noqa: PTH208
        assert place.desk.stored == []
        assert (await place.signed("asana", event, secret=told))[0] == 200
    async with serving(tmp_path, LEARNING) as place:
        assert (await place.signed("asana", event, secret=told))[0] == 200
        assert (await place.signed("asana", event, secret="guess"))[0] == 401


async def test_a_second_secret_is_not_believed(tmp_path: Path) -> None:
    told, forged = "the-first-secret-of-asana", "a-secret-of-somebody-else"
    async with serving(tmp_path, LEARNING) as place:
        assert (await place.call("asana", b"{}", {"X-Hook-Secret": told}))[0] == 200
        assert (await place.call("asana", b"{}", {"X-Hook-Secret": forged}))[0] == 403
        assert (await place.call("asana", b"{}", {"X-Hook-Secret": told}))[0] == 200
        assert (await place.signed("asana", b'{"events":[]}', secret=forged))[0] == 401
        assert (tmp_path / "asana.secret").read_text() == told + "\n"


async def test_without_a_file_no_secret_is_believed(tmp_path: Path) -> None:
    async with serving(tmp_path, vendor("asana")) as place:
        with capture_logs() as logs:
            answer = await place.call("asana", b"{}", {"X-Hook-Secret": "somebody's-secret-1"})
        assert answer[0] == 403
        (line,) = [line for line in logs if line["event"] == "handshake_refused"]
        assert "learn_secret" in line["reason"]
        assert "somebody's" not in line["reason"]
        assert (await place.call("asana", b"{}", {"X-Hook-Secret": SECRET}))[0] == 200


async def test_notion_tells_its_secret_in_the_body(tmp_path: Path) -> None:
    toml = '[vendors.notion.webhook]\nverify = "notion"\nlearn_secret = "notion.secret"\n'
    async with serving(tmp_path, toml) as place:
        told = "secret_tMrlL1qK5vuQAh1b6cZGhFChZTSYJlce98V0pYn7yBl"
        body = json.dumps({"verification_token": told}).encode()
        assert (await place.call("notion", body))[0] == 200
        assert (tmp_path / "notion.secret").read_text() == told + "\n"
        assert (await place.signed("notion", b'{"id":"1","type":"page"}', secret=told))[0] == 202
        assert len(place.desk.stored) == 1


# With something to fetch -------------------------------------------------------------------------

CERTIFICATE_URL = "https://sns.eu-central-1.amazonaws.com/SimpleNotificationService-01d0.pem"
SUBSCRIBE_URL = (
    "https://sns.eu-central-1.amazonaws.com/?Action=ConfirmSubscription"
    f"&TopicArn={TOPIC}&Token=2336412f37"
)


def certificate() -> bytes:
    from datetime import UTC, datetime, timedelta

    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "sns.amazonaws.com")])
    now = datetime.now(UTC)
    made = x509.CertificateBuilder().subject_name(name).issuer_name(name)
    made = made.public_key(RSA.public_key()).serial_number(1)
    made = made.not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=1))
    return made.sign(RSA, SHA256()).public_bytes(Encoding.PEM)


def sns(**fields: str) -> bytes:
    fields = {"MessageId": "m-1", "TopicArn": TOPIC, "Timestamp": "t", "Message": "hi", **fields}
    text = "".join(f"{name}\n{fields[name]}\n" for name in sorted(fields))
    signature = RSA.sign(text.encode(), padding.PKCS1v15(), SHA256())
    return json.dumps(
        {
            **fields,
            "SignatureVersion": "2",
            "Signature": base64.b64encode(signature).decode(),
            "SigningCertURL": CERTIFICATE_URL,
        }
    ).encode()


def confirmation(url: str = SUBSCRIBE_URL) -> bytes:
    return sns(Type="SubscriptionConfirmation", Token="2336412f37", SubscribeURL=url)


async def test_amazons_subscription_is_verified_and_then_confirmed(tmp_path: Path) -> None:
    async with serving(tmp_path, vendor("sns", "aws-sns", secret="env:TOPIC")) as place:
        place.fetcher.answers = {CERTIFICATE_URL: certificate(), SUBSCRIBE_URL: b"<ok/>"}
        assert (await place.call("sns", confirmation()))[0] == 200
        assert place.fetcher.asked == [CERTIFICATE_URL, SUBSCRIBE_URL]
        assert place.desk.stored == []
        assert (await place.call("sns", sns(Type="Notification")))[0] == 202
        assert len(place.desk.stored) == 1


@pytest.mark.parametrize(
    "url",
    [
        "https://evil.example/?Action=ConfirmSubscription&Token=1",
        "http://sns.eu-central-1.amazonaws.com/?Action=ConfirmSubscription&Token=1",
        "https://sns.eu-central-1.amazonaws.com/?Action=DeleteTopic&Token=1",
        "https://sns.eu-central-1.amazonaws.com@evil.example/?Action=ConfirmSubscription&Token=1",
    ],
)
async def test_only_amazons_own_confirmations_are_called(tmp_path: Path, url: str) -> None:
    async with serving(tmp_path, vendor("sns", "aws-sns", secret="env:TOPIC")) as place:
        place.fetcher.answers = {CERTIFICATE_URL: certificate(), url: b"<ok/>"}
        assert (await place.call("sns", confirmation(url)))[0] == 403
        assert place.fetcher.asked == [CERTIFICATE_URL]


async def test_what_cannot_be_fetched_makes_the_sender_try_again(tmp_path: Path) -> None:
    async with serving(tmp_path, vendor("sns", "aws-sns", secret="env:TOPIC")) as place:
        status, _, headers = await place.call("sns", sns(Type="Notification"))
        assert (status, "Retry-After" in headers) == (503, True)
        place.fetcher.answers = {CERTIFICATE_URL: certificate()}
        assert (await place.call("sns", confirmation()))[0] == 503
        assert place.desk.stored == []


# Of one's own, and around them -------------------------------------------------------------------

CUSTOM = """
[vendors.own.webhook]
verify = { header = "X-Signature" }
secrets = ["env:OTHER", "env:S"]
verify_token = "env:TOKEN"
response = { status = 200, body = "ok" }

[[vendors.own.webhook.handshakes]]
method = "GET"
match = { "query:mode" = "hello", "header:X-Kind" = "*", "query:no" = "" }
signed = false
proof = "query:token"
status = 201
body = '{"echo":"{query:c}","sum":"{hmac-hex:query:c}"}'
content_type = "application/json"
headers = { "X-Echo" = "<{query:c}>" }

[[vendors.own.webhook.handshakes]]
match = { "body:kind" = "ping", "body:list" = "[]", "body:deep.flag" = "true" }
body = "pong {body:n} {hmac-base64:body:n}"
"""


async def test_handshakes_of_ones_own_are_data(tmp_path: Path) -> None:
    async with serving(tmp_path, CUSTOM) as place:
        query = {"mode": "hello", "token": ENVIRON["TOKEN"], "c": 'a"b'}
        kind = {"X-Kind": "k"}
        status, text, headers = await place.call("own", headers=kind, method="GET", query=query)
        assert (status, "X-Echo" in headers) == (403, False)  # not in a token's alphabet
        query["c"] = "abc"
        status, text, headers = await place.call("own", headers=kind, method="GET", query=query)
        first = hmac.new(ENVIRON["OTHER"].encode(), b"abc", hashlib.sha256).hexdigest()
        assert (status, headers["X-Echo"]) == (201, "<abc>")
        assert json.loads(text) == {"echo": "abc", "sum": first}
        assert (await place.call("own", method="GET", query=query))[0] == 405
        more = {**query, "no": "1"}
        assert (await place.call("own", headers=kind, method="GET", query=more))[0] == 405
        ping = b'{"kind":"ping","list":[],"deep":{"flag":true},"n":7}'
        status, text, _ = await place.signed("own", ping)
        # With the secret that the sender signed with, be it the second.
        assert (status, text) == (200, "pong 7 " + base64.b64encode(hmac_of("7")).decode())
        assert place.desk.stored == []
        for event in (b'{"kind":"ping"}', b'{"kind":"ping","list":[1],"deep":{"flag":true},"n":7}'):
            assert (await place.signed("own", event))[:2] == (200, "ok")
        assert len(place.desk.stored) == 2


async def test_line_breaks_never_reach_a_header(tmp_path: Path) -> None:
    toml = """
[vendors.own.webhook]
verify = "none"
[[vendors.own.webhook.handshakes]]
match = { "body:echo" = "*" }
headers = { "X-Echo" = "{body:echo}" }
"""
    async with serving(tmp_path, toml) as place:
        for text in ("a\r\nX-Evil: 1", "a\nb", "a\0b", "é", "a" * 3000):
            status, _, headers = await place.call("own", json.dumps({"echo": text}).encode())
            assert (status, "X-Echo" in headers, "X-Evil" in headers) == (403, False, False)
        status, _, headers = await place.call("own", b'{"echo":"fine"}')
        assert (status, headers["X-Echo"]) == (200, "fine")


async def test_a_metric_tells_which_secret_matched(tmp_path: Path) -> None:
    toml = """
[vendors.code.webhook]
verify = "github"
secrets = ["env:OTHER", "env:S"]
[vendors.any.webhook]
verify = "none"
"""
    async with serving(tmp_path, toml) as place:
        assert (await place.signed("code", b'{"a":1}'))[0] == 202
        assert (await place.call("any", b'{"a":1}'))[0] == 202
        text = place.metrics.render().decode()
        assert 'gateway_webhook_secrets_total{secret="2",vendor="code"} 1.0' in text
        assert 'gateway_webhook_secrets_total{secret="none",vendor="any"} 1.0' in text


async def test_the_public_url_is_what_is_signed(tmp_path: Path) -> None:
    public = "https://hooks.example.com/in/twilio"
    async with serving(tmp_path, vendor("twilio", more=f'url = "{public}"')) as place:
        form = {"MessageSid": "SM1", "MessageStatus": "sent"}
        for query in (None, {"a": "1"}):
            url = public + (f"?{urlencode(query)}" if query else "")
            signature = RequestValidator(SECRET).compute_signature(url, form)
            headers = {
                "X-Twilio-Signature": signature,
                "Content-Type": "application/x-www-form-urlencoded",
            }
            body = urlencode(form).encode()
            assert (await place.call("twilio", body, headers, query=query))[0] == 202
            assert (await place.call("twilio", body, headers, query={"b": "2"}))[0] == 401
        assert place.desk.stored[0].event.event_type == "sent"


async def test_a_token_is_not_stored_with_its_event(tmp_path: Path) -> None:
    toml = """
[vendors.own.webhook]
verify = { header = "X-Own-Token", algorithm = "token" }
secrets = ["env:S"]
"""
    async with serving(tmp_path, toml) as place:
        assert (await place.call("own", b"{}", {"X-Own-Token": SECRET}))[0] == 202
        assert place.desk.stored[0].event.headers["x-own-token"] == "***"


def test_every_handshake_of_a_preset_is_tested_here() -> None:
    tested = Path(__file__).read_text()
    shaking: list[Any] = [name for name, scheme in PRESETS.items() if scheme.handshakes]
    assert all(f'"{name}"' in tested for name in shaking)
