"""Whatever is wrong is reported: all of it at once, where it stands, and never with a secret."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from certificates import Authority
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.config.loader import check
from gateway.errors import Fault

GOOD = """\
[admin]
listen = "127.0.0.1:8081"
[vendors.acme.webhook]
verify = "github"
secrets = ["env:SECRET"]
[vendors.acme.api]
base_url = "https://acme.example"
[vendors.acme-sender.webhook]
verify = "github"
secrets = ["env:SECRET"]
[[routes]]
name = "one"
from = "acme"
call = "POST acme:/x"
"""
ENVIRON = {"SECRET": "tops3cret", "EMPTY": " ", "TWO_LINES": "tops3cret\nX: 1", "SHORT": "abc"} | {
    "CA": Authority().pem
}


OAUTH2 = "token_url = 'https://a.example', client_id = 'a', client_secret = 'env:SECRET'"


def find(text: str, folder: Path) -> tuple[list[Fault], list[str]]:
    path = folder / "gateway.toml"
    path.write_text(text)
    config, faults, warnings = check(path, environ=ENVIRON, hostname="host-1")
    assert (config is None) == bool(faults)
    for text in [*map(str, faults), *warnings]:
        assert "tops3cret" not in text
        assert "\n" not in text
    return faults, warnings


# Each line is put in place of, or in addition to, what the section of GOOD says.
FAULTS = [
    # section, lines, path of the fault, words of it
    ("", "[gatway]", "gatway", 'did you mean "gateway"?'),
    ("", "[zzz]", "zzz", "known keys: admin, database"),
    ("", "[gateway]\ndrian = '1s'", "gateway.drian", 'did you mean "drain"?'),
    ("", "[gateway]\ndrain = 30", "gateway.drain", 'expected "10s", got 30'),
    ("", "[gateway]\ndrain = '30'", "gateway.drain", 'got "30"; a duration is'),
    ("", "[gateway]\nnode = ''", "gateway.node", 'got ""'),
    ("", "[gateway]\nstate_dir = 1", "gateway.state_dir", "expected a path, got 1"),
    ("", "gateway = 1", "gateway", "expected a table, got a number"),
    ("", "[queue]\nlease = '0s'", "queue.lease", '"0s"'),
    ("", "[queue]\nmemory = '10'", "queue.memory", "without quotes"),
    ("", "[queue]\nmemory = true", "queue.memory", "got true"),
    ("", "[queue]\nmemory = 0", "queue.memory", "got 0"),
    ("", "[queue]\nexcerpt = '1KB'", "queue.excerpt", 'expected "64KiB", got "1KB"'),
    ("", "[database]\npool = 1.5", "database.pool", "got 1.5"),
    ("", "[database]\nurl = 'mysql://u:tops3cret@h'", "database.url", "is no PostgreSQL URL"),
    ("", "[database]\nurl = 'env:SECRET'", "database.url", "env:SECRET is no PostgreSQL URL"),
    ("", "[database]\nurl = 'env:NONE'", "database.url", "variable NONE is not set"),
    ("", "[server]\nlisten = '8080'", "server.listen", 'expected "127.0.0.1:8080", got "8080"'),
    ("", "[server]\nlisten = '127.0.0.1:8081'", "admin.listen", "also the public"),
    ("", "[server]\nlisten = '0.0.0.0:8081'", "admin.listen", "also the public"),
    ("", "[server]\nlisten = 'localhost:8081'", "admin.listen", "also the public"),
    ("", "[server]\nmax_body = '0B'", "server.max_body", 'got "0B"'),
    ("", "[server]\ntrusted_proxies = '::/0'", "server.trusted_proxies", "expected a list"),
    (
        "",
        "[server]\ntrusted_proxies = ['10.0.0.0/8', '10.0.0.1/8']",
        "server.trusted_proxies[1]",
        'did you mean "10.0.0.0/8"?',
    ),
    ("admin", "listen = '0.0.0.0:8081'", "admin.token", "required, since admin.listen"),
    ("admin", "listen = '[::]:8081'", "admin.token", "required"),
    ("admin", "token = 'tops3cret'", "admin.token", 'write "env:NAME"'),
    ("admin", "token = 7", "admin.token", "expected a reference, got a number"),
    ("admin", "token = 'env:EMPTY'", "admin.token", "is empty"),
    ("admin", "token = 'env:tops3cret!'", "admin.token", "variable's name"),
    ("admin", "token = 'env:TWO_LINES'", "admin.token", "line break"),
    ("admin", "token = 'file:none'", "admin.token", "does not exist"),
    ("admin", "token = 'file:'", "admin.token", "path"),
    ("admin", "token = 'credential:x'", "admin.token", "CREDENTIALS_DIRECTORY is not set"),
    ("admin", "token = 'credential:../x'", "admin.token", "plain file name"),
    ("webhook", "verify = 'gihub'", "vendors.acme.webhook.verify", 'did you mean "github"?'),
    ("webhook", "verify = 1", "vendors.acme.webhook.verify", "got a number"),
    ("webhook", "verify = {}", "vendors.acme.webhook.verify.header", "is missing"),
    (
        "webhook",
        "verify = { header = 'X-S', algorithm = 'sha265' }",
        "vendors.acme.webhook.verify.algorithm",
        'did you mean "sha256"?',
    ),
    (
        "webhook",
        "verify = { header = 'X-S', signed = '{timestamp}.{body}' }",
        "vendors.acme.webhook.verify",
        "{timestamp} has no source",
    ),
    (
        "webhook",
        "verify = { header = 'X-S', signed = 'constant' }",
        "vendors.acme.webhook.verify",
        "does not cover the body",
    ),
    (
        "webhook",
        "verify = { preset = 'stripe', tolerance = '0s' }",
        "vendors.acme.webhook.verify.tolerance",
        '"0s"',
    ),
    (
        "webhook",
        "verify = { preset = 'strip' }",
        "vendors.acme.webhook.verify.preset",
        'did you mean "stripe"?',
    ),
    (
        "webhook",
        "verify = 'standard-webhooks'\nsecrets = ['env:SHORT', 'env:TWO_LINES']",
        "vendors.acme.webhook.secrets",
        "the value of env:TWO_LINES is no key of standard-webhooks",
    ),
    ("webhook", "secrets = []", "vendors.acme.webhook.secrets", 'write secrets = ["env:NAME"]'),
    ("webhook", "secrets = 'tops3cret'", "vendors.acme.webhook.secrets", "got a string"),
    ("webhook", "secrets = ['tops3cret']", "vendors.acme.webhook.secrets[0]", '"credential:NAME"'),
    ("webhook", "rate = 'ten'", "vendors.acme.webhook.rate", 'expected "10/s", got "ten"'),
    ("webhook", "burst = 5", "vendors.acme.webhook.burst", "no rate"),
    ("webhook", "event_type = 'hash'", "vendors.acme.webhook.event_type", '"hash"'),
    ("webhook", "dedupe = 'id'", "vendors.acme.webhook.dedupe", '"header:X-Name"'),
    ("webhook", "allow_ips = ['1.2.3']", "vendors.acme.webhook.allow_ips[0]", '"1.2.3"'),
    ("webhook", "response.status = 404", "vendors.acme.webhook.response.status", "200 to 299"),
    ("api", "base_url = 'acme.example'", "vendors.acme.api.base_url", "https://"),
    ("api", "base_url = 'https://u:tops3cret@h'", "vendors.acme.api.base_url", "use auth"),
    ("api", "base_url = 'https://h/?a=1'", "vendors.acme.api.base_url", "query"),
    ("api", "auth = 'tops3cret'", "vendors.acme.api.auth", "expected a table, got a string"),
    ("api", "auth = {}", "vendors.acme.api.auth", "exactly one key, got none"),
    (
        "api",
        "auth = { bearer = 'env:SECRET', header = { name = 'X', value = 'env:SECRET' } }",
        "vendors.acme.api.auth",
        "got bearer and header",
    ),
    ("api", "auth = { bearer = 'tops3cret' }", "vendors.acme.api.auth.bearer", '"env:NAME"'),
    (
        "api",
        "auth = { basic = { username = 'u' } }",
        "vendors.acme.api.auth.basic.password",
        "is missing",
    ),
    (
        "api",
        "auth = { query = { name = 'a b', value = 'env:SECRET' } }",
        "vendors.acme.api.auth.query.name",
        "letters, digits",
    ),
    (
        "api",
        "auth = { query = { name = 'k', value = 'tops3cret' } }",
        "vendors.acme.api.auth.query.value",
        '"env:NAME"',
    ),
    (
        "api",
        f"auth = {{ oauth2 = {{ {OAUTH2}, auth_style = 'form' }} }}",
        "vendors.acme.api.auth.oauth2.auth_style",
        '"basic" or "post"',
    ),
    (
        "api",
        f"auth = {{ oauth2 = {{ {OAUTH2}, params = {{ grant_type = 'password' }} }} }}",
        "vendors.acme.api.auth.oauth2.params.grant_type",
        "key of its own",
    ),
    (
        "api",
        "auth = { sign = { scheme = 'standard-webhooks', secret = 'env:TWO_LINES' } }",
        "vendors.acme.api.auth.sign.secret",
        "is no key",
    ),
    ("api", "auth = { sign = { scheme = 'none', secret = 'env:SECRET' } }", "", "preset"),
    ("api", 'headers = { X = "a\\r\\nB: tops3cret" }', "vendors.acme.api.headers.X", "one line"),
    ("api", "headers = { X = 123456 }", "vendors.acme.api.headers.X", "got a number"),
    ("api", "headers = { X = 123456 }", "vendors.acme.api.headers.X", "got a number"),
    ("api", "headers = { 'X Y' = 'a' }", 'vendors.acme.api.headers."X Y"', "no header name"),
    ("api", "headers = { Host = 'a' }", "vendors.acme.api.headers.Host", "client sets it"),
    (
        "api",
        "headers = { authorization = 'Bearer tops3cret' }",
        "vendors.acme.api.headers.authorization",
        "use auth",
    ),
    ("api", "headers = { X = 'a', x = 'b' }", "vendors.acme.api.headers.x", "the same header"),
    ("api", "rate = 'ten'", "vendors.acme.api.rate", 'expected "10/s", got "ten"'),
    ("api", "rate = ['10/s', '0/h']", "vendors.acme.api.rate[1]", '"0/h"'),
    ("api", "concurrency = 0", "vendors.acme.api.concurrency", "got 0"),
    ("api", "timeout = '0s'", "vendors.acme.api.timeout", '"0s"'),
    ("api", "retry = { attempts = 0 }", "vendors.acme.api.retry.attempts", "got 0"),
    ("api", "retry = { factor = 0.5 }", "vendors.acme.api.retry.factor", "got 0.5"),
    ("api", "retry = { factor = nan }", "vendors.acme.api.retry.factor", "got nan"),
    ("api", "retry = { base = '0s' }", "vendors.acme.api.retry.base", '"0s"'),
    ("api", "retry = { base = '1h' }", "vendors.acme.api.retry.cap", 'shorter than base "1h"'),
    ("api", "retry = { jitter = 'ful' }", "vendors.acme.api.retry.jitter", '"full"'),
    ("api", "retry = { kind = 'lst' }", "vendors.acme.api.retry.kind", '"list"?'),
    ("api", "retry = { kind = 'list' }", "vendors.acme.api.retry.delays", "is missing"),
    ("api", "retry = { kind = 'list', delays = [] }", "vendors.acme.api.retry.delays", "empty"),
    ("api", "retry = { kind = 'list', delays = [5] }", "vendors.acme.api.retry.delays[0]", "got 5"),
    ("api", "retry = { delays = ['1s'] }", "vendors.acme.api.retry.delays", 'kind = "list"'),
    (
        "api",
        "retry = { kind = 'list', delays = ['1s'], base = '1s' }",
        "vendors.acme.api.retry.base",
        "no effect",
    ),
    (
        "api",
        "retry = { kind = 'fixed', factor = 2 }",
        "vendors.acme.api.retry.factor",
        "no effect",
    ),
    (
        "api",
        "retry = { kind = 'list', delays = ['1s', '1h'], cap = '1m' }",
        "vendors.acme.api.retry.cap",
        'shorter than a delay of "1h"',
    ),
    ("api", "retry_on = ['timout']", "vendors.acme.api.retry_on[0]", '"timout"'),
    ("api", "success = []", "vendors.acme.api.success", "empty"),
    ("api", "success = ['5xx']", "vendors.acme.api.success", "in both success"),
    ("api", "breaker = { failures = 0 }", "vendors.acme.api.breaker.failures", "got 0"),
    ("api", "breaker = true", "vendors.acme.api.breaker", "leave it out for its defaults"),
    ("api", "breaker = 'off'", "vendors.acme.api.breaker", 'table or false, got "off"'),
    ("api", "fail_when = 'response.ok =='", "vendors.acme.api.fail_when", "response.ok =="),
    ("api", "fail_when = 'ok == false'", "vendors.acme.api.fail_when", "response.ok"),
    ("api", "fail_when = 'event.ok'", "vendors.acme.api.fail_when", "unknown name 'event'"),
    ("api", "fail_when = false", "vendors.acme.api.fail_when", "got false"),
    ("api", "retry_when = '{{ status }}'", "vendors.acme.api.retry_when", "without {{ }}"),
    ("api", "max_reply = '17MiB'", "vendors.acme.api.max_reply", '"1B" to "16MiB"'),
    ("api", "redirects = 11", "vendors.acme.api.redirects", "0 to 10"),
    ("api", "redirects = true", "vendors.acme.api.redirects", "got true"),
    ("api", "tls = {}", "vendors.acme.api.tls", "says nothing"),
    ("api", "tls = { key = 'env:SECRET' }", "vendors.acme.api.tls.key", "no certificate"),
    (
        "api",
        "tls = { ca = 'env:SECRET', password = 'env:SECRET' }",
        "vendors.acme.api.tls.password",
        "no certificate",
    ),
    ("api", "tls = { ca = 'env:SECRET' }", "vendors.acme.api.tls.ca", "no certificates in PEM"),
    (
        "api",
        "tls = { certificate = 'env:SECRET', key = 'env:SECRET' }",
        "vendors.acme.api.tls.certificate",
        "cannot be used together",
    ),
    ("api", "tls = { ca = 'tops3cret' }", "vendors.acme.api.tls.ca", '"env:NAME"'),
    ("api", "proxy = 'https://p.example'", "vendors.acme.api.proxy.url", "http://HOST:PORT"),
    ("api", "proxy = 'http://u:tops3cret@p.example'", "vendors.acme.api.proxy.url", "password"),
    ("api", "proxy = 'http://p.example/x'", "vendors.acme.api.proxy.url", "http://HOST:PORT"),
    ("api", "proxy = 'p.example:3128'", "vendors.acme.api.proxy.url", "http"),
    ("api", "proxy = 1", "vendors.acme.api.proxy", "expected a table"),
    (
        "api",
        "proxy = { url = 'http://p.example', username = 'u' }",
        "vendors.acme.api.proxy.username",
        "no password",
    ),
    (
        "api",
        "proxy = { url = 'http://p.example', username = 'u', password = 'tops3cret' }",
        "vendors.acme.api.proxy.password",
        '"env:NAME"',
    ),
    ("api", "redact = ['$.a']", "vendors.acme.api.redact[0]", '"card.number" or "*.token"'),
    ("api", "redact = 'a'", "vendors.acme.api.redact", "expected a list"),
    ("api", "keep_headers = ['Set-Cookie']", "vendors.acme.api.keep_headers[0]", "never kept"),
    ("api", "keep_headers = ['a b']", "vendors.acme.api.keep_headers[0]", '"a b"'),
    ("api", "allow_private = 'yes'", "vendors.acme.api.allow_private", "true or false"),
    ("", "[vendors.empty]", "vendors.empty", "neither sends nor is called"),
    ("", "[vendors.Big.api]\nbase_url = 'https://b.example'", "vendors.Big", "small letters"),
    ("", "[vendors.local.api]\nbase_url = 'https://b.example'", "vendors.local", "another name"),
    ("", "[vendors.x.api]", "vendors.x.api.base_url", "is missing"),
    ("", "[vendors.x.webhook]\nsecrets = ['env:SECRET']", "vendors.x.webhook.verify", "missing"),
    ("", "vendors.x.webhok = {}", "vendors.x.webhok", 'did you mean "webhook"?'),
    ("route", "name = 'a b'", "routes[0].name", '"a b"'),
    ("route", "from = 'acmee'", "routes[0].from", 'did you mean "acme"?'),
    ("route", "from = 'nobody'", "routes[0].from", "vendor that sends webhooks: acme, acme-sender"),
    ("route", "call = 'POST acne:/x'", "routes[0].call", 'did you mean "acme"?'),
    ("route", "call = 'POST acme-sender:/x'", "routes[0].call", "has no api section"),
    ("route", "call = 'acme:/x'", "routes[0].call", 'expected "POST crm:/deals"'),
    ("route", "call = 'POST acme:/{{ event. }}'", "routes[0].call", "event."),
    ("route", "handler = 'a.b:c'", "routes[0]", "both call and handler"),
    ("route", "call = #none", "routes[0]", "neither call nor handler"),
    ("route", "call = #none\nhandler = 'a.b'", "routes[0].handler", "package.module:function"),
    ("route", "call = #none\nhandler = 'a:b'\nlane = 'acmee'", "routes[0].lane", '"acme"?'),
    ("route", "call = #none\nhandler = 'a:b'\nbody = 'x'", "routes[0].body", "belongs to call"),
    ("route", "lane = 'local'", "routes[0].lane", "not the called vendor"),
    ("route", "priority = 10", "routes[0].priority", "got 10"),
    ("route", "where = 'event.a >'", "routes[0].where", "event.a >"),
    ("route", "where = 'evnt.a > 1'", "routes[0].where", "evnt"),
    ("route", "where = 'job_id'", "routes[0].where", "job_id"),
    ("route", "body = { a = ['{{ event.a', 1] }", "routes[0].body.a[0]", "{{ event.a"),
    ("route", "body = { a = 1979-05-27 }", "routes[0].body.a", "what JSON can hold"),
    ("route", "headers = { X = '{{ attemp }}' }", "routes[0].headers.X", "attemp"),
    ("route", 'headers = { X = "a\\nb" }', "routes[0].headers.X", "one line"),
    ("route", "ordering_key = '{{ attempt }}'", "routes[0].ordering_key", "attempt"),
    ("route", "on_dead = 'stop'", "routes[0].on_dead", '"continue" or "block"'),
    ("route", "delay = '-1s'", "routes[0].delay", '"-1s"'),
    ("route", "events = []", "routes[0].events", "empty"),
    ("route", "retry = { base = '1h' }", "routes[0].retry.cap", 'shorter than base "1h"'),
    ("route", "body_format = 'forms'", "routes[0].body_format", '"form"?'),
    ("route", "body_format = 'form'", "routes[0].body_format", "needs a body"),
    ("route", "body = [1]\nbody_format = 'form'", "routes[0].body_format", "made of a table"),
    ("route", "body = 'x'\nbody_format = 'multipart'", "routes[0].body_format", "a table"),
    ("route", "body = { a = 1 }\nbody_format = 'raw'", "routes[0].body_format", "for a string"),
    (
        "route",
        "body = { a = { filenam = 'x', content = 'y' } }\nbody_format = 'multipart'",
        "routes[0].body.a.filenam",
        'did you mean "filename"?',
    ),
    (
        "route",
        "body = { a = { filename = 'x' } }\nbody_format = 'multipart'",
        "routes[0].body.a",
        "either content or base64",
    ),
    (
        "route",
        "body = { a = 'x' }\nbody_format = 'multipart'\nheaders = { Content-Type = 'a/b' }",
        "routes[0].headers.Content-Type",
        "brings its own",
    ),
    (
        "route",
        "call = #none\nhandler = 'a:b'\nbody_format = 'raw'",
        "routes[0].body_format",
        "belongs to call",
    ),
    ("route", "retry_on = ['timout']", "routes[0].retry_on[0]", '"timout"'),
    ("route", "retry_on = ['2xx']", "routes[0].retry_on", "in both success"),
    ("route", "success = []", "routes[0].success", "empty"),
    ("route", "success = ['429']", "routes[0].success", "in both success"),
    ("route", "fail_when = 'event.ok'", "routes[0].fail_when", "unknown name 'event'"),
    ("route", "retry_when = 'status ='", "routes[0].retry_when", "status ="),
    (
        "route",
        "call = #none\nhandler = 'a:b'\nfail_when = 'status == 202'",
        "routes[0].fail_when",
        "belongs to call",
    ),
    ("route", "retry = { kind = 'list' }", "routes[0].retry.delays", "is missing"),
    ("route", "retry = { delays = ['1s'] }", "routes[0].retry.delays", 'kind = "list"'),
    ("", "[[routes]]\nname = 'one'\nfrom = 'acme'\ncall = 'GET acme:/'", "routes[1].name", "line"),
    ("", "[[routes]]\nfrom = 'acme'\ncall = 'GET acme:/'", "routes[1].name", "is missing"),
]


@pytest.mark.parametrize(("section", "lines", "path", "words"), FAULTS)
def test_each_fault_is_found_alone_at_its_line(
    section: str, lines: str, path: str, words: str, tmp_path: Path
) -> None:
    text, first_line = _edit(section, lines)
    faults, _ = find(text, tmp_path)
    assert len(faults) == 1, faults
    (fault,) = faults
    if path:
        assert fault.path == path
    assert words in str(fault)
    assert fault.remedy or "got" in fault.problem
    named_elsewhere = ("admin.listen", "admin.token", "routes[0]", "vendors.acme.webhook.secrets")
    if path not in named_elsewhere:
        count = len(lines.splitlines())
        assert fault.line in range(first_line, first_line + count), (fault, text)


def _edit(section: str, lines: str) -> tuple[str, int]:
    """Put *lines* into a section of GOOD, replacing its keys of the same name."""
    header = {
        "admin": "[admin]",
        "webhook": "[vendors.acme.webhook]",
        "api": "[vendors.acme.api]",
        "route": "[[routes]]",
    }.get(section)
    if header is None:
        top = "" if lines.startswith("[") else lines + "\n"
        text = top + GOOD + ("" if top else lines)
        return text, 1 if top else GOOD.count("\n") + 1
    before, _, after = GOOD.partition(header + "\n")
    names = {line.partition(" =")[0] for line in lines.splitlines()}
    own, bracket, rest = after.partition("[")
    while bracket and not own.endswith("\n"):  # a bracket within a value, not a header
        more, bracket, rest = rest.partition("[")
        own += "[" + more
    kept = [line for line in own.splitlines() if line.partition(" =")[0] not in names]
    shown = [line for line in lines.splitlines() if not line.endswith("= #none")]
    text = before + header + "\n" + "\n".join([*shown, *kept]) + "\n" + bracket + rest
    return text, before.count("\n") + 2


def test_the_good_file_is_good(tmp_path: Path) -> None:
    assert find(GOOD, tmp_path) == ([], [])


MANY = """\
[gateway]
drian = "30s"

[admin]
listen = "0.0.0.0:8081"

[vendors.acme.webhook]
verify  = "stripe"
secrets = [
  "env:SECRET",
  "env:MISSING",
  "sk_live_tops3cret",
]

[vendors.acme.api]
base_url = "https://acme.example"
rate     = "ten"
auth     = { bearer = "tops3cret" }

[[routes]]
name  = "one"
from  = "acmee"
where = "event.a >"
call  = "POST acme:/x"

[[routes]]
name = "one"
from = "acme"
call = "POST crm:/x"
body = { a = "{{ nope }}" }
"""


def test_all_faults_are_reported_at_once_each_with_its_line(tmp_path: Path) -> None:
    faults, _ = find(MANY, tmp_path)
    assert [(fault.path, fault.line) for fault in faults] == [
        ("gateway.drian", 2),
        ("admin.token", 4),
        ("vendors.acme.webhook.secrets[1]", 11),
        ("vendors.acme.webhook.secrets[2]", 12),
        ("vendors.acme.api.rate", 17),
        ("vendors.acme.api.auth.bearer", 18),
        ("routes[0].from", 22),
        ("routes[0].where", 23),
        ("routes[1].name", 27),
        ("routes[1].call", 29),
        ("routes[1].body.a", 30),
    ]
    assert str(faults[4]).startswith('vendors.acme.api.rate (line 17): expected "10/s", got "ten"')


@pytest.mark.parametrize(
    ("content", "line", "words"),
    [
        (b"[gateway]\ndrain = 30s\n", 2, "column"),
        (b"[gateway]\n[gateway]\n", 2, "twice"),
        (b'a = """\n\n', 2, "Unterminated"),
        (b"a = 1\nb = '\xff'\n", 2, "UTF-8"),
        (b"a = " + b"[" * 5000, None, "nested"),
        (b"a = " + b"9" * 5000, None, "digits"),
    ],
)
def test_what_is_no_toml_is_reported_with_its_line(
    content: bytes, line: int | None, words: str, tmp_path: Path
) -> None:
    path = tmp_path / "gateway.toml"
    path.write_bytes(content)
    config, faults, _ = check(path, environ={})
    assert config is None
    assert [fault.line for fault in faults] == [line]
    assert words in str(faults[0])


def test_a_missing_file_says_how_to_name_another(tmp_path: Path) -> None:
    for path in (tmp_path / "none.toml", tmp_path):
        _, faults, _ = check(path, environ={})
        assert "--config" in str(faults[0])


def test_a_byte_order_mark_is_no_fault(tmp_path: Path) -> None:
    assert find("\ufeff" + GOOD, tmp_path) == ([], [])


WARNINGS = [
    ("webhook", "verify = 'none'\nsecrets = []", "vendors.acme.webhook.verify (line 4)"),
    ("webhook", "verify = 'none'", "not used"),
    ("", "[database]\nurl = 'postgresql://u:tops3cret@h/db'", "password is readable"),
    ("api", "base_url = 'http://acme.example'", "use https"),
    ("api", "base_url = 'http://127.0.0.1:9'", "allow_private = true"),
    ("api", "proxy = 'http://10.0.0.1:3128'", "the proxy is private"),
    ("api", "base_url = 'http://acme.example'\ntls = { ca = 'env:CA' }", "no effect on a base_url"),
    ("route", "on_dead = 'block'", "no effect"),
]


@pytest.mark.parametrize(("section", "lines", "words"), WARNINGS)
def test_what_is_allowed_and_worth_knowing_is_a_warning(
    section: str, lines: str, words: str, tmp_path: Path
) -> None:
    text, _ = _edit(section, lines)
    faults, warnings = find(text, tmp_path)
    assert faults == []
    assert any(words in warning for warning in warnings), warnings


def test_only_an_absolute_file_that_everyone_can_read_is_worth_a_warning(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("tops3cret")
    for mode, reference, count in [
        (0o640, f"file:{secret}", 0),
        (0o644, f"file:{secret}", 1),
        (0o644, "file:secret", 0),
    ]:
        secret.chmod(mode)
        text, _ = _edit("admin", f"token = '{reference}'")
        faults, warnings = find(text, tmp_path)
        assert (len(faults), len(warnings)) == (0, count)


_KEYS = sorted(
    {"gateway", "vendors", "acme", "webhook", "api", "routes", "verify", "secrets", "auth", "a"}
    | {"base_url", "retry", "name", "from", "call", "body", "headers", "lane", "response", "rate"}
)
_WRITTEN = st.recursive(
    st.one_of(
        st.booleans(),
        st.integers(),
        st.sampled_from(["x", "github", "none", "env:SECRET", "POST acme:/x", "acme", "local", ""]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(_KEYS), inner, max_size=4)
    ),
    max_leaves=12,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(path=st.lists(st.sampled_from(_KEYS), min_size=1, max_size=3), value=_WRITTEN)
def test_no_shape_of_file_makes_the_check_fail(
    path: list[str], value: object, tmp_path: Path
) -> None:
    text = f"{'.'.join(path)} = {_inline(value)}\n"
    tomllib.loads(text)
    find(text, tmp_path)


def _inline(value: object) -> str:
    match value:
        case bool():
            return str(value).lower()
        case dict():
            return "{" + ", ".join(f"{key} = {_inline(item)}" for key, item in value.items()) + "}"
        case list():
            return "[" + ", ".join(map(_inline, value)) + "]"
        case _:
            return repr(value)
