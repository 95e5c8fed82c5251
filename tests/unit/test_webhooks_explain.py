"""``gateway webhooks``: a refused request is explained, its secrets are not; the table is true."""

import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.cli import main
from gateway.webhooks.explain import explain
from gateway.webhooks.presets import PRESETS
from gateway.webhooks.scheme import ASYMMETRIC, Scheme
from gateway.webhooks.sign import sign
from gateway.webhooks.signed import SignedRequest
from gateway.webhooks.table import senders_markdown

DOCS = Path(__file__).parents[2] / "docs"
NOW = 1_700_000_000
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
OTHER = "whsec_T3RoZXJPdGhlck90aGVyT3RoZXJPdGhl"
BODY = b'{"id": "evt_1",\r\n"webhookTimestamp": 1700000000000, "text": "' + b"x" * 200 + b'"}'
GENERIC = [n for n, s in PRESETS.items() if not s.check and s.algorithm not in ASYMMETRIC]


def cause(scheme: Scheme, *, secret: str = SECRET, **changes: Any) -> str:
    url = "https://hooks.example.com/in"
    sent = changes.get("sent", BODY)
    headers = sign(scheme, SECRET, body=sent, now=NOW, message_id="m", url=url)
    headers = changes.get("headers") or {name.lower(): headers[name] for name in headers}
    request = SignedRequest("POST", changes.get("url", url), headers, changes.get("body", BODY), "")
    keys = {name: changes[name] for name in ("key_encoding", "key_prefix") if name in changes}
    used = msgspec.structs.replace(scheme, **keys)
    found = explain(used, [("env:S", secret)], request, now=changes.get("now", NOW))
    assert secret not in str(found)
    assert secret.strip() not in str(found)
    assert (found.verdict == "accepted") == (found.cause is None)
    return found.cause or "accepted"


@pytest.mark.parametrize("name", GENERIC)
def test_what_is_right_is_accepted(name: str) -> None:
    assert cause(PRESETS[name]) == "accepted"


GITHUB = PRESETS["github"]


@pytest.mark.parametrize(
    ("scheme", "changes", "words"),
    [
        (GITHUB, {"body": BODY + b"\n"}, "without the last line break"),
        (GITHUB, {"sent": BODY + b"\n"}, "with a line break at the end"),
        (GITHUB, {"body": BODY.replace(b"\r\n", b"\n")}, "with CRLF in place of LF"),
        (GITHUB, {"secret": f" {SECRET} "}, "without the blanks around it"),
        (GITHUB, {"secret": OTHER}, "no secret is the one that signed this"),
        (GITHUB, {"headers": {"stripe-signature": "t=1,v1=00"}}, "what stripe would send"),
        (GITHUB, {"headers": {"x": "y"}}, "the sender has no secret set"),
        (PRESETS["stripe"], {"now": NOW + 900}, "genuine, but the request is older"),
        (PRESETS["stripe"], {"now": NOW - 900}, "from the future"),
        (PRESETS["hubspot"], {"now": NOW * 1000}, "another unit"),
        (PRESETS["square"], {"url": "http://hooks.example.com/in"}, "fits the URL https://hooks"),
        (PRESETS["square"], {"url": "https://hooks.example.com/in/"}, "fits the URL https://hooks"),
        (
            PRESETS["standard-webhooks"],
            {"key_encoding": "utf8", "key_prefix": ""},
            'key_encoding = "base64" and key_prefix = "whsec_"',
        ),
    ],
)
def test_the_likely_cause_is_named(scheme: Scheme, changes: dict[str, Any], words: str) -> None:
    assert words in cause(scheme, **changes)


@settings(max_examples=150)
@given(st.sampled_from(sorted(set(PRESETS) - {"paypal", "plaid"})), st.data())
def test_any_request_can_be_explained(name: str, data: st.DataObject) -> None:
    scheme = PRESETS[name]
    secret = {
        "discord": "3b6a27bcceb6a42d62a3a8d02a6f0d73653215771de243a63ac048a18b59da29",
        "sendgrid": "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEaxfR8uEsQkf4vOblY6RA8ncDfYEt6zOg9KE5Rdi"
        "YwpZP40Li/hp/m47n60p8D54WK84zV2sxXs7LtkBoN79R9Q==",
        "adyen": "00" * 32,
        "aws-sns": "arn:aws:sns:eu-central-1:123456789012:orders",
        "basic": "user:password-1",
    }.get(name, SECRET)
    names = [scheme.header] if isinstance(scheme.header, str) else list(scheme.header)[:1]
    headers = {n.lower(): data.draw(st.text(max_size=40)) for n in [*names, "content-type"]}
    request = SignedRequest(
        "POST", data.draw(st.text(max_size=30)), headers, data.draw(st.binary())
    )
    found = explain(scheme, [("env:S", secret)], request, now=data.draw(st.floats(0, 1e10)))
    assert secret not in str(found)


def config(tmp_path: Path) -> str:
    path = tmp_path / "gateway.toml"
    path.write_text(
        '[vendors.stripe.webhook]\nverify = "stripe"\nsecrets = ["env:OLD", "env:NEW"]\n'
        '[vendors.any.webhook]\nverify = "none"\n'
        '[vendors.dropbox.webhook]\nverify = "dropbox"\nsecrets = ["env:NEW"]\n'
    )
    return str(path)


def run(tmp_path: Path, *more: str, body: bytes = BODY) -> Any:
    (tmp_path / "body").write_bytes(body)
    environ = {"OLD": OTHER, "NEW": SECRET}
    args = ["webhooks", "explain", "--config", config(tmp_path), "--body", str(tmp_path / "body")]
    return CliRunner().invoke(main, [*args, *more], env=environ)


def test_the_command_shows_everything_but_secrets(tmp_path: Path) -> None:
    headers = sign(PRESETS["stripe"], SECRET, body=BODY, now=NOW, message_id="m")
    header = f"Stripe-Signature: {headers['Stripe-Signature']}"
    right = run(tmp_path, "stripe", "--header", header, "--now", str(NOW + 10))
    assert right.exit_code == 0, right.output
    assert "verdict    accepted" in right.output
    assert "env:NEW: matches" in right.output
    assert "env:OLD: no signature matches" in right.output
    assert "10 s, within ±300 s" in right.output
    assert "bytes: 1700000000.{" in right.output
    assert "x" * 100 not in right.output
    late = run(tmp_path, "stripe", "--header", header, "--now", str(NOW + 1000), "--json")
    assert late.exit_code == 1
    found = json.loads(late.output)
    assert found["verdict"] == "refused"
    assert found["timestamp"]["skew_seconds"] == 1000
    assert [trial["matched"] for trial in found["tried"]] == [False, True]
    for output in (right.output, late.output):
        assert SECRET not in output
        assert OTHER not in output


def test_what_needs_no_explanation_is_said(tmp_path: Path) -> None:
    assert run(tmp_path, "nobody").exit_code == 3
    assert "everything is accepted" in run(tmp_path, "any").output
    shaken = run(tmp_path, "dropbox", "--method", "GET", "--query", "challenge=1")
    assert (shaken.exit_code, "handshake" in shaken.output) == (0, True)


def test_the_page_of_senders_is_the_data() -> None:
    page = (DOCS / "senders.md").read_text()
    found = re.search("<!-- senders: begin -->\n(.*)<!-- senders: end -->", page, re.DOTALL)
    assert found is not None
    assert found[1] == senders_markdown()
    assert all(f"`{name}`" in found[1] for name in PRESETS)


def test_every_sender_has_a_page_of_its_own_to_read() -> None:
    assert [name for name, scheme in PRESETS.items() if not scheme.link] == ["ip"]


def test_the_command_lists_every_sender() -> None:
    markdown = CliRunner().invoke(main, ["webhooks", "senders", "--markdown"])
    assert markdown.output == senders_markdown()
    lines = CliRunner().invoke(main, ["webhooks", "senders", "--json"]).output.splitlines()
    assert [json.loads(line)["preset"] for line in lines] == list(PRESETS)
    assert "stripe" in CliRunner().invoke(main, ["webhooks", "senders"]).output
