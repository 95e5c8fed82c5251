"""A good file becomes the configuration it says, and shows itself again without its secrets."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import get_type_hints

import msgspec
import pytest
from certificates import Authority

from gateway.backoff import RetryPolicy
from gateway.config import reference, show
from gateway.config.loader import check, load
from gateway.config.model import Address, Config, HeaderAuth, Proxy, QueryAuth, Rate, Secret
from gateway.config.place import Place, Report
from gateway.config.schema import json_schema
from gateway.config.signing import SCHEME, SchemeKind
from gateway.config.specs import auth, calls, process, root, webhook
from gateway.config.specs import route as route_specs
from gateway.config.walker import UNSET, Default, Section
from gateway.errors import ConfigInvalid
from gateway.webhooks.presets import PRESETS
from gateway.webhooks.scheme import PRESET_ONLY, Scheme

CONTRACT = (Path(__file__).parent / "contract.toml").read_text()
KEY = "dG9wc2VjcmV0dG9wc2VjcmV0"
NAMES = ("GATEWAY_ADMIN_TOKEN", "STRIPE_SECRET", "STRIPE_SECRET_OLD", "CRM_TOKEN", "PASSWORD")


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "credentials").mkdir()
    (tmp_path / "credentials" / "keyed").write_text("keyed-value\n")
    (tmp_path / "legacy.secret").write_text("legacy-value\n")
    values = {name: f"{name.lower()}-value" for name in NAMES}
    return values | {"SIGNING_KEY": KEY, "CREDENTIALS_DIRECTORY": str(tmp_path / "credentials")}


@pytest.fixture
def contract(tmp_path: Path, environ: dict[str, str]) -> Config:
    path = tmp_path / "gateway.toml"
    path.write_text(CONTRACT)
    config, faults, warnings = check(path, environ=environ, hostname="host-1")
    assert (faults, warnings) == ([], [])
    assert config is not None
    return config


def load_text(text: str, folder: Path, environ: dict[str, str] | None = None) -> Config:
    path = folder / "gateway.toml"
    path.write_text(text)
    return load(path, environ=environ or {}, hostname="host-1")


def test_the_contract_says_what_it_says(contract: Config, tmp_path: Path) -> None:
    assert contract.gateway.state_dir == tmp_path / "var"
    assert contract.gateway.node == "vm-1"
    assert contract.database.embedded
    assert contract.server.listen == Address("0.0.0.0", 8080)  # noqa: S104
    assert contract.admin.token == Secret("env:GATEWAY_ADMIN_TOKEN", "gateway_admin_token-value")
    stripe = contract.vendors["stripe"].webhook
    assert stripe is not None
    assert stripe.verify == PRESETS["stripe"]
    assert [secret.value for secret in stripe.secrets] == [
        "stripe_secret-value",
        "stripe_secret_old-value",
    ]
    assert (stripe.rate, stripe.burst, stripe.max_body_bytes) == (Rate(500, 1.0), 1000, 256 << 10)
    legacy = contract.vendors["legacy"].webhook
    assert legacy is not None
    assert legacy.verify == Scheme(
        header="X-Signature",
        prefix="sha256=",
        signed="{timestamp}.{body}",
        timestamp="header:X-Timestamp",
    )
    assert (legacy.response.status, legacy.response.body) == (200, "ok")
    crm = contract.vendors["crm"].api
    assert crm is not None
    assert crm.rate == (Rate(10, 1.0), Rate(5000, 3600.0))
    assert crm.retry == RetryPolicy()
    keyed = contract.vendors["keyed"].api
    assert keyed is not None
    assert keyed.auth == HeaderAuth("X-Key", Secret("credential:keyed", "keyed-value"))
    assert keyed.rate == (Rate(600, 60.0),)
    paid, archive = contract.routes
    assert (paid.source, paid.lane, paid.kind, paid.priority) == ("stripe", "crm", "call", 3)
    assert paid.body == {"stage": "paid", "amount": "{{ event.data.object.amount_due / 100 }}"}
    assert (archive.lane, archive.kind, archive.body, archive.events) == (
        "crm",
        "handler",
        msgspec.UNSET,
        (),
    )
    assert archive.retry == RetryPolicy(attempts=3)


def test_what_is_shown_loads_to_the_same_configuration(
    contract: Config, tmp_path: Path, environ: dict[str, str]
) -> None:
    shown = show.render(contract)
    again = load_text(shown, tmp_path, environ)
    assert again == contract
    assert show.render(again) == shown


def test_no_secret_is_shown(contract: Config, environ: dict[str, str]) -> None:
    shown = show.render(contract) + str(show.spell(contract)) + repr(contract)
    for value in ("-value", KEY):
        assert value not in shown
    assert "env:CRM_TOKEN" in shown


def test_strange_texts_survive_being_shown(tmp_path: Path) -> None:
    text = """
        [vendors.a.webhook]
        verify = "none"
        [vendors.b.api]
        base_url = "https://b.example/"
        retry = { cap = "1h", base = "90s" }
        headers = { "X-!~" = "tab\\t\\"quotes\\" é" }
        [[routes]]
        name = "r"
        from = "a"
        call = "POST b:/x"
        retry = { attempts = 2 }
        body = { "a b" = ["\\u007f\\u0001\\n", 1.5, true, { deep = [[]] }], "" = "" }
    """
    config = load_text(text, tmp_path)
    assert load_text(show.render(config), tmp_path) == config
    assert config.routes[0].retry == RetryPolicy(attempts=2, base_seconds=90.0, cap_seconds=3600.0)


RETRIES = """
    [vendors.a.webhook]
    verify = "none"
    [vendors.b.api]
    base_url = "https://b.example"
    retry = {vendor}
    [[routes]]
    name = "r"
    from = "a"
    call = "POST b:/x"
    retry = {route}
"""


@pytest.mark.parametrize(
    ("vendor", "route", "expected"),
    [
        (
            "{ kind = 'list', delays = ['1s', '2h', '5m'] }",
            "{ jitter = 'none' }",
            RetryPolicy(
                kind="list",
                delays_seconds=(1.0, 7200.0, 300.0),
                attempts=4,
                cap_seconds=7200.0,
                jitter="none",
            ),
        ),
        (
            "{ attempts = 20, cap = '1m', base = '2s' }",
            "{ kind = 'list', delays = ['5m'] }",
            RetryPolicy(
                kind="list",
                delays_seconds=(300.0,),
                attempts=2,
                cap_seconds=300.0,
                base_seconds=2.0,
            ),
        ),
        (
            "{ kind = 'list', delays = ['1s'], attempts = 9 }",
            "{ kind = 'fixed', base = '1h' }",
            RetryPolicy(
                kind="fixed",
                delays_seconds=(1.0,),
                attempts=9,
                base_seconds=3600.0,
                cap_seconds=3600.0,
            ),
        ),
        (
            "{ kind = 'list', delays = ['1s'], attempts = 9 }",
            "{ jitter = 'none' }",
            RetryPolicy(kind="list", delays_seconds=(1.0,), attempts=9, jitter="none"),
        ),
        ("{ kind = 'fixed', base = '1h' }", "{ kind = 'exponential', cap = '2h' }", None),
    ],
)
def test_a_routes_policy_is_its_vendors_with_some_keys_changed(
    vendor: str, route: str, expected: RetryPolicy | None, tmp_path: Path
) -> None:
    text = RETRIES.replace("{vendor}", vendor).replace("{route}", route)
    config = load_text(text, tmp_path)
    if expected is not None:
        assert config.routes[0].retry == expected
    assert load_text(show.render(config), tmp_path) == config


EVERY_KEY_OF_A_CALL = """
    [vendors.a.webhook]
    verify = "none"
    [vendors.b.api]
    base_url = "https://b.example"
    auth = { query = { name = "api_key", value = "env:KEY" } }
    fail_when = "response.ok == false"
    retry_when = "status == 202"
    redirects = 3
    tls = { certificate = "file:client.pem", key = "env:CLIENT_KEY", ca = "env:CA" }
    proxy = { url = "http://p.example:3128", username = "u", password = "env:PW" }
    max_reply = "1MiB"
    redact = ["card.number", "*.token"]
    keep_headers = ["X-Node"]
    [vendors.c.api]
    base_url = "https://c.example"
    proxy = "http://p.example:3128/"
    [vendors.c.api.auth.oauth2]
    token_url = "https://c.example/token"
    client_id = "id"
    client_secret = "env:KEY"
    audience = "https://c.example"
    params = { resource = "r" }
    auth_style = "post"
    [vendors.d.api]
    base_url = "https://d.example"
    proxy = { url = "http://10.0.0.1:3128", allow_private = true }
    tls = { ca = "env:CA" }
    [[routes]]
    name = "r"
    from = "a"
    call = "POST b:/x"
    body = { a = "1", f = { content = "x", filename = "y" } }
    body_format = "multipart"
    retry_on = ["404"]
    success = ["200"]
    fail_when = "not response.ok"
    retry_when = "false"
"""


def test_every_key_of_a_call_is_read_and_shown(tmp_path: Path) -> None:
    authority = Authority()
    certificate, key = authority.issue("gateway")
    (tmp_path / "client.pem").write_text(certificate)
    environ = {"KEY": "s3cr3t", "CLIENT_KEY": key, "CA": authority.pem, "PW": "s3cr3t"}
    config = load_text(EVERY_KEY_OF_A_CALL, tmp_path, environ)
    shown = show.render(config)
    assert load_text(shown, tmp_path, environ) == config
    assert "s3cr3t" not in shown + repr(config)
    assert "PRIVATE" not in shown + repr(config)
    b, c, d = (config.vendors[name].api for name in "bcd")
    assert b is not None
    assert c is not None
    assert d is not None
    assert b.auth == QueryAuth("api_key", Secret("env:KEY", "s3cr3t"))
    assert (b.redirects, b.max_reply_bytes, b.keep_headers) == (3, 1 << 20, ("X-Node",))
    assert b.proxy == Proxy(
        url="http://p.example:3128", username="u", password=Secret("env:PW", "s3cr3t")
    )
    assert c.proxy == Proxy(url="http://p.example:3128")
    assert d.proxy == Proxy(url="http://10.0.0.1:3128", allow_private=True)
    assert 'proxy = "http://p.example:3128"' in shown
    route = config.routes[0]
    assert (route.body_format, route.retry_on, route.success) == ("multipart", ("404",), ("200",))
    assert (route.fail_when, route.retry_when) == ("not response.ok", "false")
    _conforms(tomllib.loads(EVERY_KEY_OF_A_CALL), json_schema(), "")
    _conforms(tomllib.loads(shown), json_schema(), "")


def test_a_certificate_that_everybody_may_read_is_no_warning(tmp_path: Path) -> None:
    pem = tmp_path / "ca.pem"
    pem.write_text(Authority().pem)
    pem.chmod(0o644)
    path = tmp_path / "gateway.toml"
    path.write_text(
        f'vendors.b.api = {{ base_url = "https://b.example", tls = {{ ca = "file:{pem}" }} }}'
    )
    assert check(path, environ={})[1:] == ([], [])


def test_an_overridden_preset_keeps_the_rest_of_it(tmp_path: Path) -> None:
    text = """
        [vendors.a.webhook]
        verify = { preset = "stripe", tolerance = "1m" }
        secrets = ["env:S"]
    """
    config = load_text(text, tmp_path, {"S": "s"})
    webhook = config.vendors["a"].webhook
    assert webhook is not None
    assert webhook.verify == msgspec.structs.replace(PRESETS["stripe"], tolerance_seconds=60.0)
    assert (webhook.event_type, webhook.dedupe) == ("body:type", "body:id")
    assert 'verify = { preset = "stripe", tolerance = "1m" }' in show.render(config)


@pytest.mark.parametrize("name", sorted(name for name in PRESETS if not PRESETS[name].check))
def test_every_preset_survives_being_written_out_as_a_table(name: str, tmp_path: Path) -> None:
    settable = {key.target for key in SCHEME.keys} - {"preset"}
    custom = Scheme(**{field: getattr(PRESETS[name], field) for field in settable})
    spelled = SchemeKind().spell(custom)
    report = Report(environ={}, folder=tmp_path)
    assert SchemeKind().read(spelled, Place(report)) == custom
    assert report.faults == []


def test_an_empty_file_is_the_defaults(tmp_path: Path) -> None:
    config = load_text("", tmp_path)
    assert config.gateway.node == "host-1"
    assert config.database.embedded
    assert (config.vendors, config.routes) == ({}, ())


def test_what_is_left_out_follows_from_the_rest(tmp_path: Path) -> None:
    text = """
        server.max_body = "2MiB"
        [vendors.a.webhook]
        verify = "github"
        secrets = ["env:S"]
        rate = "600/m"
    """
    webhook = load_text(text, tmp_path, {"S": "s"}).vendors["a"].webhook
    assert webhook is not None
    assert webhook.max_body_bytes == 2 << 20
    assert webhook.burst == 600
    assert webhook.event_type == "header:X-GitHub-Event"
    assert webhook.dedupe == "header:X-GitHub-Delivery"


def test_one_line_break_is_taken_off_a_file(tmp_path: Path) -> None:
    (tmp_path / "token").write_bytes(b"t \n\n")
    text = 'vendors.a.webhook = { verify = "github", secrets = ["file:token"] }'
    webhook = load_text(text, tmp_path).vendors["a"].webhook
    assert webhook is not None
    assert webhook.secrets[0].value == "t \n"


def test_load_raises_with_every_fault(tmp_path: Path) -> None:
    with pytest.raises(ConfigInvalid) as caught:
        load_text("server.listen = 1\nqueue.memory = 'x'\n", tmp_path)
    assert [fault.path for fault in caught.value.faults] == ["server.listen", "queue.memory"]


STRUCT_SECTIONS = {  # once each, though modules import them from each other
    id(section): section
    for module in (auth, calls, process, root, route_specs, webhook)
    for section in vars(module).values()
    if isinstance(section, Section) and isinstance(section.make, type) and section.make is not dict
}.values()


@pytest.mark.parametrize("section", STRUCT_SECTIONS, ids=lambda section: section.make.__name__)
def test_specs_and_structs_agree_about_fields_and_defaults(
    section: Section, tmp_path: Path
) -> None:
    fields = {field.name: field for field in msgspec.structs.fields(section.make)}
    given_otherwise = {"vendor", "name", "source"}  # by the loader
    assert {key.target for key in section.keys} | given_otherwise >= set(fields)
    assert {key.target for key in section.keys} <= set(fields)
    report = Report(environ={}, folder=tmp_path)
    for key in section.keys:
        field = fields[key.target]
        if isinstance(key.default, Default) or key.name in ("events", "url", "state_dir", "routes"):
            continue
        value = key.kind.read(key.default, Place(report))
        if isinstance(value, str | int | float | tuple | Address):
            assert value == field.default, key.name
    assert report.faults == []


def test_every_field_of_a_scheme_can_be_configured() -> None:
    settable = set(get_type_hints(Scheme)) - PRESET_ONLY
    assert {key.target for key in SCHEME.keys} - {"preset"} == settable


def test_the_schema_describes_every_key() -> None:
    properties = json_schema()["properties"]
    vendor = properties["vendors"]["additionalProperties"]["properties"]
    route = properties["routes"]["items"]
    for section, schema in [
        (process.GATEWAY, properties["gateway"]),
        (webhook.WEBHOOK, vendor["webhook"]),
        (calls.API, vendor["api"]),
        (route_specs.ROUTE, route),
    ]:
        assert set(schema["properties"]) == {key.name for key in section.keys}
        assert schema["additionalProperties"] is False
    assert route["required"] == ["name", "from"]


def test_the_contract_uses_only_what_the_schema_allows() -> None:
    _conforms(tomllib.loads(CONTRACT), json_schema(), "")


def test_every_section_is_in_the_reference() -> None:
    text = reference.markdown()
    for section in STRUCT_SECTIONS:
        if section.make.__name__ in ("Config", "Vendor"):
            continue
        assert section.doc in text
        assert all(f"| `{key.name}` |" in text for key in section.keys)
    assert UNSET.value not in text


def _conforms(value: object, schema: dict, where: str) -> None:
    """Check *value* against the few words of JSON Schema that the gateway's schema uses."""
    if "anyOf" in schema:
        assert any(_fits(value, choice) for choice in schema["anyOf"]), where
    elif isinstance(value, dict):
        for name, item in value.items():
            known = schema.get("properties", {})
            other = schema.get("additionalProperties", {})
            assert name in known or other is not False, f"{where}.{name}"
            _conforms(item, known.get(name, other or {}), f"{where}.{name}")
    elif isinstance(value, list):
        for index, item in enumerate(value):
            _conforms(item, schema.get("items", {}), f"{where}[{index}]")
    else:
        assert _fits(value, schema), where


def _fits(value: object, schema: dict) -> bool:
    types = {"string": str, "integer": int, "number": float, "boolean": bool, "array": list}
    types["object"] = dict
    if "enum" in schema:
        return value in schema["enum"]
    names = schema.get("type", list(types))
    return isinstance(
        value, tuple(types[name] for name in ([names] if isinstance(names, str) else names))
    )
