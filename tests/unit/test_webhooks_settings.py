"""What the file may say of senders: every contradiction is told with its place and remedy."""

from pathlib import Path

import msgspec
import pytest

from gateway.config import loader, show
from gateway.config.model import Config
from gateway.webhooks.presets import PRESETS
from gateway.webhooks.scheme import Handshake

ENVIRON = {
    "S": "a-secret-of-the-tests",
    "T": "token",
    "PLAID": "id:secret",
    "PUBLIC": "whpk_" + "A" * 43 + "=",
}


def check(tmp_path: Path, text: str) -> tuple[Config | None, list[str], list[str]]:
    path = tmp_path / "gateway.toml"
    path.write_text(text)
    config, faults, warnings = loader.check(path, environ=ENVIRON)
    return config, [str(fault) for fault in faults], warnings


def webhook(keys: str, secret: str = "S") -> str:  # noqa: S107  # a variable's name
    return f'[vendors.v.webhook]\nsecrets = ["env:{secret}"]\n{keys}\n'


def signed_calls(sign: str) -> str:
    return f'[vendors.v.api]\nbase_url = "https://api.example"\nauth = {{ sign = {sign} }}\n'


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            webhook('verify = "square"'),
            "vendors.v.webhook.url (line 1): is missing, and square signs",
        ),
        (webhook('verify = "twilio"'), "is missing, and twilio signs it"),
        (
            webhook('verify = { header = "X", signed = "{url}{body}" }'),
            "is missing, and custom signs",
        ),
        ('[vendors.v.webhook]\nverify = "ip"', 'allow_ips (line 1): is missing, and verify = "ip"'),
        (
            '[vendors.v.webhook]\nverify = "twilio"\nurl = "https://h/x"',
            "nothing could be verified",
        ),
        ('[vendors.v.webhook]\nverify = "asana"', 'learn_secret = "FILE" keeps it'),
        (webhook('verify = "adyen"'), "the value of env:S is no key of adyen"),
        (webhook('verify = "aws-sns"'), "no topic's ARN"),
        (webhook('verify = { preset = "twilio", signed = "{body}" }'), "has no effect: twilio is"),
        (
            webhook('verify = { preset = "plaid", keys_url = "https://e.example/" }', "PLAID"),
            "keys_url: write https://production.plaid.com",
        ),
        (webhook('verify = "github"\nverify_token = "env:T"'), "has no handshake that shows it"),
        (webhook('verify = "github"\nlearn_secret = "x"'), "no handshake that tells a secret"),
        (webhook('verify = "asana"\nlearn_secret = "no/such/x"'), "does not exist; create it"),
        (
            webhook('verify = "github"\nhandshakes = [{}]'),
            "handshakes[0].match (line 4): is missing",
        ),
        (webhook('verify = "github"\nhandshakes = [{ match = {} }]'), "every request would be one"),
        (
            webhook('verify = "github"\nhandshakes = [{ match = { "field:x" = "*" } }]'),
            'a source is "query:name"',
        ),
        (
            webhook(
                'verify = "github"\nhandshakes = [{ match = { "body:x" = "*" }, body = "{boy:x}" }]'
            ),
            "{boy:x} is no placeholder",
        ),
        (
            webhook(
                'verify = "github"\nhandshakes = [{ method = "GET", match = { "query:x" = "*" } }]'
            ),
            "write signed = false for a GET",
        ),
        (
            webhook(
                'verify = "github"\nhandshakes = [{ match = { "query:x" = "*" }, signed = false, '
                'body = "{hmac-hex:query:x}" }]'
            ),
            "whoever asks would be told HMACs",
        ),
        (
            signed_calls('{ scheme = "standard-webhooks", secret = "env:PUBLIC" }'),
            "private key that only the sender holds",
        ),
        (
            signed_calls('{ scheme = "mailgun", secret = "env:S" }'),
            "calls cannot be signed as mailgun does",
        ),
    ],
)
def test_a_fault_is_told(tmp_path: Path, text: str, words: str) -> None:
    config, faults, _ = check(tmp_path, text)
    assert config is None
    assert any(words in fault for fault in faults), faults
    assert ENVIRON["S"] not in str(faults)


def test_an_asana_that_has_told_nothing_yet_is_warned_of(tmp_path: Path) -> None:
    config, _, warnings = check(
        tmp_path, '[vendors.v.webhook]\nverify = "asana"\nlearn_secret = "v.secret"\n'
    )
    assert config is not None
    assert "the first handshake that comes is believed" in warnings[0]


def test_a_learnt_secret_is_one_of_the_secrets(tmp_path: Path) -> None:
    kept = tmp_path / "v.secret"
    kept.write_text("told-in-the-handshake\n")
    kept.chmod(0o600)
    text = webhook('verify = "asana"\nlearn_secret = "v.secret"')
    config, _, warnings = check(tmp_path, text)
    assert config is not None
    assert warnings == []
    found = config.vendors["v"].webhook
    assert found is not None
    assert [secret.value for secret in found.secrets] == [ENVIRON["S"], "told-in-the-handshake"]
    shown, faults, _ = check(tmp_path, show.render(config))
    assert faults == []
    assert shown is not None
    assert shown.vendors == config.vendors


def test_handshakes_and_urls_survive_being_shown(tmp_path: Path) -> None:
    text = webhook(
        """
verify = "meta"
url = "https://hooks.example.com/in?a=1"
verify_token = "env:T"
[[vendors.v.webhook.handshakes]]
match = { "body:kind" = "ping", "header:X-Q" = "" }
body = '{"a":"{body:n}"}'
content_type = "application/json"
headers = { "X-A" = "{body:n}" }
"""
    )
    config, faults, _ = check(tmp_path, text)
    assert faults == []
    assert config is not None
    found = config.vendors["v"].webhook
    assert found is not None
    assert found.handshakes == (
        Handshake(
            match={"body:kind": "ping", "header:X-Q": ""},
            body='{"a":"{body:n}"}',
            content_type="application/json",
            headers={"X-A": "{body:n}"},
        ),
    )
    shown, _, _ = check(tmp_path, show.render(config))
    assert shown is not None
    assert shown.vendors == config.vendors


def test_an_overridden_preset_keeps_its_handshakes_and_its_check(tmp_path: Path) -> None:
    text = webhook('verify = { preset = "mailgun", tolerance = "5m" }')
    config, _, _ = check(tmp_path, text)
    assert config is not None
    found = config.vendors["v"].webhook
    assert found is not None
    expected = msgspec.structs.replace(PRESETS["mailgun"], tolerance_seconds=300.0)
    assert found.verify == expected
