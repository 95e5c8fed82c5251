"""``gateway send``: every sender's webhook verifies, and every answer is understood."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from gateway.cli import main
from gateway.cli.sample import Sample, choose_event_type, choose_fields, make_sample
from gateway.config import loader
from gateway.config.model import Secret, Webhook
from gateway.webhooks.compile import verifier_for
from gateway.webhooks.extract import compile_dedupe, compile_event_type, decode_body
from gateway.webhooks.presets import PRESETS
from gateway.webhooks.signed import SignedRequest

NOW = 1_790_000_000.0
KEYS = {"standard-webhooks": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "basic": "user:word"}
UNSIGNABLE = {"aws-sns", "discord", "paypal", "plaid", "sendgrid"}  # with their senders' keys only


def webhook_of(preset: str) -> Webhook:
    scheme = PRESETS[preset]
    key = KEYS.get(
        preset, "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw" if scheme.key_prefix else "6b6579"
    )
    return Webhook(
        vendor="v",
        verify=scheme,
        secrets=(Secret("env:S", key),),
        event_type=scheme.event_type or "none",
        dedupe=scheme.dedupe,
    )


def identify(webhook: Webhook, sample: Sample) -> tuple[str | None, str | None]:
    headers = {name.lower(): value for name, value in sample.headers.items()}
    decoded = decode_body(sample.body, headers["content-type"])
    return (
        compile_event_type(webhook.event_type)(headers, decoded, sample.body),
        compile_dedupe(webhook.dedupe)(headers, decoded, sample.body),
    )


@pytest.mark.parametrize("preset", sorted(UNSIGNABLE))
def test_what_only_the_sender_can_sign_is_said_to_be_so(preset: str) -> None:
    with pytest.raises(ValueError, match="private key that only the sender holds"):
        make_sample(webhook_of(preset), event_type="x", now=NOW, url="/", body=None, fresh=False)


@pytest.mark.parametrize("preset", sorted(set(PRESETS) - UNSIGNABLE))
@pytest.mark.parametrize("body", [None, b'{"given": 1}'])
def test_the_sample_of_every_preset_verifies_and_has_ids_of_its_own(
    preset: str, body: bytes | None
) -> None:
    webhook = webhook_of(preset)
    assert webhook.verify is not None
    keys = set()
    for fresh in (False, True):
        sample = make_sample(
            webhook, event_type="a.b", now=NOW, url="/webhooks/v", body=body, fresh=fresh
        )
        headers = {name.lower(): value for name, value in sample.headers.items()}
        request = SignedRequest("POST", "/webhooks/v", headers, sample.body)
        verifier_for(webhook.verify, [webhook.secrets[0].value]).verify(request, NOW)
        event_type, key = identify(webhook, sample)
        keys.add(key)
        if body is None and webhook.event_type != "none":
            assert event_type == "a.b"
    if body is None and webhook.dedupe not in ("hash", "none"):
        assert len(keys) == 2


def test_a_given_body_is_sent_byte_for_byte() -> None:
    body = b' { "id" : "evt_1" , "x": 1.0 }\n'
    sample = make_sample(
        webhook_of("stripe"), event_type="x", now=NOW, url="/", body=body, fresh=False
    )
    assert sample.body == body


@pytest.mark.parametrize("body", [b"", b"\xff", b"[]", b"[1]", b'"x"', b"1", b"{", b"[" * 100_000])
@pytest.mark.parametrize("preset", ["stripe", "linear", "slack", "hubspot"])
def test_any_body_can_be_sent_again_and_again(preset: str, body: bytes) -> None:
    make_sample(webhook_of(preset), event_type="x", now=NOW, url="/", body=body, fresh=True)


# The command ------------------------------------------------------------------------------------


class Stub(HTTPServer):
    """A gateway that says what it is told to, and remembers what it was sent."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answer: tuple[int, bytes] = (
            202,
            b'{"event_id": "e", "jobs": 1, "duplicate": false}',
        )
        self.received: list[tuple[str, dict[str, str], bytes]] = []


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Stub

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.server.received.append((self.path, headers, body))
        status, answer = self.server.answer
        self.send_response(status)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def stub() -> Iterator[Stub]:
    with Stub() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def config_path(stub: Stub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("SECRET", "s3cret")
    path = tmp_path / "config.toml"
    path.write_text(
        f"""
        [database]
        url = "postgresql://nobody@127.0.0.1:1/none"
        [server]
        listen = "127.0.0.1:{stub.server_port}"
        [vendors.shop.webhook]
        verify = "stripe"
        secrets = ["env:SECRET"]
        [vendors.open.webhook]
        verify = "none"
        event_type = "header:X-Event"
        dedupe = "body:data.id"
        [vendors.crm.api]
        base_url = "https://crm.example"
        [[routes]]
        name = "all"
        from = "shop"
        events = ["invoice.payment_*"]
        call = "POST crm:/x"
        """
    )
    return str(path)


def send(config_path: str, *arguments: str, given: bytes = b"") -> tuple[int, str, str]:
    result = CliRunner().invoke(main, ["send", "--config", config_path, *arguments], input=given)
    return result.exit_code, result.stdout, result.stderr


def test_each_of_many_has_an_id_and_a_signature_of_its_own(stub: Stub, config_path: str) -> None:
    code, out, _ = send(config_path, "shop", "--count", "3", "--json")
    assert code == 0
    assert [json.loads(line) for line in out.splitlines()] == [
        {"status": 202, "event_id": "e", "jobs": 1, "duplicate": False}
    ] * 3
    assert {path for path, _, _ in stub.received} == {"/webhooks/shop"}
    bodies = [json.loads(body) for _, _, body in stub.received]
    assert len({body["id"] for body in bodies}) == 3
    assert {body["type"] for body in bodies} == {"invoice.payment_test"}
    assert all(headers["stripe-signature"] for _, headers, _ in stub.received)


def test_without_verification_nothing_is_signed_and_ids_stand_where_they_are_read(
    stub: Stub, config_path: str
) -> None:
    code, out, _ = send(config_path, "open", "--event-type", "t", "--header", "X-Extra: yes")
    assert code == 0
    assert out.splitlines()[1].split() == ["202", "e", "1", "no"]
    ((_, headers, body),) = stub.received
    assert (headers["x-event"], headers["x-extra"]) == ("t", "yes")
    assert json.loads(body)["data"]["id"]
    assert not any("signature" in name for name in headers)


def test_a_body_comes_from_a_file_or_from_standard_input(
    stub: Stub, config_path: str, tmp_path: Path
) -> None:
    (tmp_path / "body").write_bytes(b"\x00raw")
    assert send(config_path, "shop", "--body", str(tmp_path / "body"))[0] == 0
    assert send(config_path, "shop", "--body", "-", given=b"piped")[0] == 0
    assert [body for _, _, body in stub.received] == [b"\x00raw", b"piped"]


def test_only_the_copies_of_a_given_body_get_ids_of_their_own(stub: Stub, config_path: str) -> None:
    given = b'{"id":"evt_1",  "data": {"n": 1}}'
    assert send(config_path, "shop", "--body", "-", "--count", "3", given=given)[0] == 0
    bodies = [body for _, _, body in stub.received]
    assert bodies[0] == given
    assert len({json.loads(body)["id"] for body in bodies}) == 3
    assert {json.loads(body)["data"]["n"] for body in bodies} == {1}


@pytest.mark.parametrize(
    ("status", "answer", "words"),
    [
        (401, b'{"error": "not verified"}', "refused with 401: not verified; does the running"),
        (404, b'{"error": "no such vendor"}', "does not know this vendor"),
        (503, b"", "refused with 503: no words; it drains"),
        (500, b"\x1b[2J\xff", "refused with 500: \\x1b[2J"),
        (302, b'["x"]', "refused with 302"),
    ],
)
def test_a_refusal_exits_1_with_its_words_and_a_hint(
    stub: Stub, config_path: str, status: int, answer: bytes, words: str
) -> None:
    stub.answer = (status, answer)
    code, out, err = send(config_path, "shop", "--count", "5")
    assert (code, out) == (1, "")
    assert words in err
    assert "\x1b" not in err
    assert len(stub.received) == 1


@pytest.mark.parametrize("answer", [b"ok", b"", b"[1]", b'{"event_id": 7}'])
def test_a_success_in_other_words_is_a_success(stub: Stub, config_path: str, answer: bytes) -> None:
    stub.answer = (200, answer)
    code, out, _ = send(config_path, "shop", "--json")
    assert code == 0
    assert json.loads(out)["status"] == 200


def test_who_sends_nothing_is_not_found(config_path: str) -> None:
    for name in ("crm", "nobody"):
        code, _, err = send(config_path, name)
        assert code == 3
        assert "vendors that send: open, shop" in err


def test_no_gateway_is_said_to_be_missing(config_path: str, stub: Stub) -> None:
    stub.server_close()
    code, _, err = send(config_path, "shop", "--url", "http://127.0.0.1:1/webhooks/shop")
    assert code == 1
    assert "is `gateway serve` running" in err


@pytest.mark.parametrize("url", ["x", "ftp://h/x", "http:///x"])
def test_no_url_is_wrong_usage(config_path: str, url: str) -> None:
    assert send(config_path, "shop", "--url", url)[0] == 2
    assert send(config_path, "shop", "--header", "nocolon")[0] == 2


def test_the_event_type_falls_back_where_routes_name_none(config_path: str) -> None:
    config = loader.load(Path(config_path))
    assert choose_event_type(config, "open") == "gateway.test"


def test_an_example_has_the_fields_that_the_routes_read(tmp_path: Path) -> None:
    toml = tmp_path / "config.toml"
    toml.write_text("""
        [vendors.open.webhook]
        verify = "none"
        [vendors.crm.api]
        base_url = "https://crm.example"
        [[routes]]
        name = "one"
        from = "open"
        where = "event.data.amount > 0"
        call = "PUT crm:/orders/{{ event.data.id }}"
        body = { all = "{{ event.data }}", nested = { name = "{{ event.customer.name }}" } }
    """)
    config = loader.load(toml)
    fields = choose_fields(config, "open")
    assert fields == ["customer.name", "data.amount", "data.id"]
    webhook = config.vendors["open"].webhook
    assert webhook is not None
    sample = make_sample(
        webhook, event_type="x", now=NOW, url="/", body=None, fresh=False, fields=fields
    )
    decoded = json.loads(sample.body)
    assert decoded["data"]["amount"] > 0
    assert decoded["data"]["id"]
    assert decoded["customer"]["name"]
