"""Every key of the configuration, as data: its kind, its default, its meaning.

Reading the file, ``config show``, ``config schema`` and the tables of docs/configuration.md all
follow these sections, so they cannot disagree.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from gateway.backoff import RetryPolicy
from gateway.config import values
from gateway.config.kinds import (
    Body,
    Choice,
    DatabaseUrl,
    Flag,
    Folder,
    Number,
    SecretReference,
    Text,
    UrlOrTable,
    call,
    duration,
    expression,
    intake_template,
    response_expression,
    size,
    template,
)
from gateway.config.model import (
    AdminSection,
    Api,
    Auth,
    BasicAuth,
    BearerAuth,
    Breaker,
    Config,
    DatabaseSection,
    GatewaySection,
    HeaderAuth,
    OAuth2Auth,
    Proxy,
    QueryAuth,
    QueueSection,
    QuotaHeaders,
    ResponseOverride,
    Route,
    ServerSection,
    SignAuth,
    Tls,
    Vendor,
    Webhook,
)
from gateway.config.retries import unused_keys
from gateway.config.senders import HANDSHAKE as _HANDSHAKE
from gateway.config.senders import LearningFile
from gateway.config.signing import SchemeKind
from gateway.config.walker import REQUIRED, UNSET, Key, ListOf, MapOf, Section, Table

_PLAIN = Text("string", values.plain_text)
_NETWORKS = ListOf(Text("network", values.network, expected='"10.0.0.0/8"'))
_RATE = Text("rate", values.rate, values.rate_text, expected='"10/s"', pattern="^[0-9]+/[smhd]$")
_ADDRESS = Text("address", values.address, values.address_text, expected='"127.0.0.1:8080"')
_HEADER_NAME = Text("header name", values.header_name)
_STATUSES = ListOf(Text("status", values.status, pattern="^[2-5](xx|[0-9]{2})$"), min_items=1)
_RETRY_REASONS = ListOf(Text("status", values.retry_reason, expected='"timeout", "429" or "5xx"'))
_VENDORS = "the called vendor's"
_VENDOR_NAME_PATTERN = f"^{values.VENDOR_NAME_PATTERN}$"

GATEWAY = Section(
    doc="This process.",
    make=GatewaySection,
    keys=(
        Key(
            name="state_dir",
            kind=Folder(),
            default="var",
            doc="embedded PostgreSQL and sockets; relative to this file's folder",
        ),
        Key(
            name="drain",
            kind=duration(least="0s", most="1h"),
            default="30s",
            field="drain_seconds",
            doc="how long running attempts may go on after SIGTERM",
        ),
        Key(name="node", kind=_PLAIN, unset="the host's name", doc="this process in jobs and logs"),
    ),
)

DATABASE = Section(
    doc="PostgreSQL, where everything is kept.",
    make=DatabaseSection,
    keys=(
        Key(
            name="url",
            kind=DatabaseUrl(),
            default="embedded",
            doc="which server; embedded: the gateway runs its own in state_dir",
        ),
        Key(
            name="retention",
            kind=duration(least="1h"),
            default="90d",
            field="retention_seconds",
            doc="how long finished history is kept; dropped by partition",
        ),
        Key(
            name="pool",
            kind=Number(1, 1000),
            default=8,
            doc="connections of this process, besides two through which webhooks are written",
        ),
    ),
)

SERVER = Section(
    doc="The public listener: webhooks and nothing else.",
    make=ServerSection,
    keys=(
        Key(
            name="listen",
            kind=_ADDRESS,
            default="127.0.0.1:8080",
            doc="host and port; port 0 lets the system choose",
        ),
        Key(
            name="max_body",
            kind=size(),
            default="1MiB",
            field="max_body_bytes",
            doc="largest webhook, for vendors that do not say their own; beyond it 413",
        ),
        Key(
            name="trusted_proxies",
            kind=_NETWORKS,
            default=[],
            doc="proxies whose word about the caller's address is believed",
        ),
    ),
)

ADMIN = Section(
    doc="The operators' listener: health, metrics, API, dashboard.",
    make=AdminSection,
    keys=(
        Key(
            name="listen",
            kind=_ADDRESS,
            default="127.0.0.1:8081",
            doc="host and port; never the public listener's",
        ),
        Key(
            name="token",
            kind=SecretReference(one_line=True),
            unset="none; required when not on loopback",
            doc="the API's bearer token",
        ),
    ),
)

QUEUE = Section(
    doc="Jobs in this process and in the backlog.",
    make=QueueSection,
    keys=(
        Key(
            name="lease",
            kind=duration(least="100ms", most="1h"),
            default="15s",
            field="lease_seconds",
            doc="a node not heard of for this long is dead, and its jobs run elsewhere",
        ),
        Key(name="memory", kind=Number(1, 10_000_000), default=10_000, doc="jobs held in process"),
        Key(
            name="max_backlog",
            kind=Number(1, 10**12),
            default=1_000_000,
            doc="unfinished jobs beyond which the intake answers 503 + Retry-After",
        ),
        Key(
            name="local_concurrency",
            kind=Number(1, 10_000),
            default=16,
            doc="handlers of the lane local that run at once",
        ),
        Key(
            name="handler_timeout",
            kind=duration(least="1ms", most="1h"),
            default="60s",
            field="handler_timeout_seconds",
            doc="how long one attempt of a Python handler may take",
        ),
        Key(
            name="excerpt",
            kind=size(least=0, most=1 << 20),
            default="2KiB",
            field="excerpt_bytes",
            doc="how much of a request's or response's body is kept with the attempt",
        ),
    ),
)

RESPONSE = Section(
    doc="The answer to an accepted webhook, where the sender demands its own.",
    make=ResponseOverride,
    keys=(
        Key(name="status", kind=Number(200, 299), default=202, doc="its HTTP status"),
        Key(
            name="body",
            kind=Text("string", str),
            unset="the gateway's JSON",
            doc="its body, as plain text",
        ),
    ),
)


def _take_webhook(webhook: Webhook, key: Key) -> Any:
    if key.name == "burst":
        return webhook.burst or None  # without a rate there is none
    return getattr(webhook, key.target)


WEBHOOK = Section(
    doc="What a vendor sends: POST /webhooks/{vendor}.",
    make=Webhook,
    take=_take_webhook,
    keys=(
        Key(
            name="verify",
            kind=SchemeKind(or_none=True),
            default=REQUIRED,
            doc="how the sender signs; none accepts anything from anyone",
        ),
        Key(
            name="secrets",
            kind=ListOf(SecretReference()),
            default=[],
            doc="any may match, so that they can be rotated; required unless verify is none or ip",
        ),
        Key(
            name="url",
            kind=Text("URL", values.url, lambda url: url or None, may_echo=False),
            unset="required where the sender signs it",
            doc="the public URL of this endpoint, as it was entered at the sender",
        ),
        Key(
            name="verify_token",
            kind=SecretReference(),
            doc="what the sender shows in a handshake to prove itself (meta)",
        ),
        Key(
            name="learn_secret",
            kind=LearningFile(),
            doc="the file for the secret that the sender tells in its first handshake (asana, "
            "notion); written once, and one more of secrets from then on",
        ),
        Key(
            name="handshakes",
            kind=ListOf(Table(_HANDSHAKE)),
            default=[],
            doc="requests that are answered but are no events, besides those that the preset knows",
        ),
        Key(name="rate", kind=_RATE, doc="beyond it 429 + Retry-After"),
        Key(
            name="burst",
            kind=Number(1, 1_000_000_000),
            unset="the rate's count",
            doc="webhooks that may come at once within the rate",
        ),
        Key(
            name="max_body",
            kind=size(),
            unset="server.max_body",
            field="max_body_bytes",
            doc="largest webhook; beyond it 413",
        ),
        Key(
            name="allow_ips",
            kind=_NETWORKS,
            default=[],
            doc="callers allowed in; empty: everyone",
        ),
        Key(
            name="event_type",
            kind=Text("source", values.event_type_source, lambda source: source or None),
            unset="the sender's own, or none",
            doc='where the event\'s type is: "header:X-Event", "body:type", "none"',
        ),
        Key(
            name="dedupe",
            kind=Text("source", values.dedupe_source, lambda source: source or None),
            unset='the sender\'s own, or "hash"',
            doc='what repeated deliveries share: "header:X-Id", "body:id", "hash" of the body, '
            'or "none": every delivery is a new event',
        ),
        Key(
            name="dedupe_window",
            kind=duration(least="1s"),
            default="7d",
            field="dedupe_window_seconds",
            doc="how long it is remembered",
        ),
        Key(
            name="response",
            kind=Table(RESPONSE),
            default={},
            doc="the answer, where the sender demands its own",
        ),
    ),
)


def _take_retry(policy: RetryPolicy, key: Key) -> Any:
    unused = unused_keys(policy.kind)
    return None if key.name in unused else getattr(policy, key.target)


RETRY = Section(
    doc="When a failed attempt is tried again, and how often: a list of waits, the same wait each "
    "time (base), or base and then factor times longer each time, up to cap.",
    make=RetryPolicy,
    take=_take_retry,
    keys=(
        Key(
            name="kind",
            kind=Choice(("exponential", "fixed", "list")),
            default="exponential",
            doc="how the waits grow; list takes them from delays",
        ),
        Key(
            name="delays",
            kind=ListOf(duration(least="0s"), min_items=1),
            field="delays_seconds",
            doc="of a list: the waits, one by one; the last one stands for all that follow",
        ),
        Key(
            name="attempts",
            kind=Number(1, 10_000),
            default=8,
            doc="how often in all; after the last the job is dead; beside delays and left out: "
            "one more than they are",
        ),
        Key(
            name="base",
            kind=duration(),
            default="1s",
            field="base_seconds",
            doc="wait after the first failure",
        ),
        Key(
            name="factor",
            kind=Number(1, 100, whole=False),
            default=2.0,
            doc="how much longer each further wait is",
        ),
        Key(
            name="cap",
            kind=duration(),
            default="10m",
            field="cap_seconds",
            doc="longest wait; left out beside delays or a fixed base: the longest of those",
        ),
        Key(
            name="jitter",
            kind=Choice(("full", "equal", "none")),
            default="full",
            doc="a random part of the wait: all of it, the second half, or none",
        ),
        Key(
            name="max_age",
            kind=duration(),
            default="24h",
            field="max_age_seconds",
            doc="a job older than this is not tried again",
        ),
    ),
)

ROUTE_RETRY = replace(
    RETRY,
    doc="A route's own retry policy; what it leaves out is the called vendor's.",
    make=dict,  # completed with the vendor's policy once that is known
    keys=tuple(replace(key, default=UNSET, unset="the called vendor's") for key in RETRY.keys),
)

BREAKER = Section(
    doc="Stops calling a vendor that only fails; open on one node, it is open on all.",
    make=Breaker,
    keys=(
        Key(
            name="failures",
            kind=Number(1, 1_000_000),
            default=10,
            doc="in a row within the window that open it",
        ),
        Key(
            name="ratio",
            kind=Number(0.01, 1, whole=False),
            unset="failures in a row alone",
            doc="the part of the window's calls whose failure opens it, too",
        ),
        Key(
            name="minimum",
            kind=Number(1, 1_000_000),
            default=20,
            doc="fewer calls than this in the window have no ratio",
        ),
        Key(
            name="window",
            kind=duration(),
            default="1m",
            field="window_seconds",
            doc="failures older than this do not count",
        ),
        Key(
            name="cooldown",
            kind=duration(),
            default="30s",
            field="cooldown_seconds",
            doc="how long it stays open before a probe is let through",
        ),
    ),
)


def _make_quota(**given: Any) -> QuotaHeaders:
    names = {name: given[name].lower() for name in ("remaining", "reset") if given.get(name)}
    return QuotaHeaders(**(given | names))


QUOTA = Section(
    doc="The headers in which a vendor says how many more calls it welcomes; the standard ones "
    "(RateLimit, RateLimit-Remaining, X-RateLimit-Remaining, X-Rate-Limit-Remaining) are known.",
    make=_make_quota,
    take=lambda quota, key: getattr(quota, key.target) or None,
    keys=(
        Key(
            name="remaining",
            kind=_HEADER_NAME,
            default=REQUIRED,
            doc="how many calls are left",
        ),
        Key(
            name="meaning",
            kind=Choice(("remaining", "used/limit")),
            default="remaining",
            doc="what that header holds; used/limit as in 32/40",
        ),
        Key(
            name="reset",
            kind=_HEADER_NAME,
            unset="none: see reset_after",
            doc="when there are more",
        ),
        Key(
            name="unit",
            kind=Choice(("auto", "seconds", "milliseconds", "unix", "unix_milliseconds")),
            default="auto",
            doc="of the reset: from now, or since 1970; auto tells by the number's size",
        ),
        Key(
            name="reset_after",
            kind=duration(most="1h"),
            default="1s",
            field="reset_seconds",
            doc="when there are more, where no header says so",
        ),
    ),
)

BASIC = Section(
    doc="HTTP basic authentication.",
    make=BasicAuth,
    keys=(
        Key(
            name="username",
            kind=Text("string without colon", values.username),
            default=REQUIRED,
            doc="the user",
        ),
        Key(name="password", kind=SecretReference(), default=REQUIRED, doc="its password"),
    ),
)

HEADER = Section(
    doc="A secret in a header of its own.",
    make=HeaderAuth,
    keys=(
        Key(name="name", kind=_HEADER_NAME, default=REQUIRED, doc="the header"),
        Key(
            name="value",
            kind=SecretReference(one_line=True),
            default=REQUIRED,
            doc="the secret, as it is sent",
        ),
    ),
)

QUERY = Section(
    doc="A secret in the query of each URL, where a vendor takes nothing better.",
    make=QueryAuth,
    keys=(
        Key(
            name="name",
            kind=Text("parameter's name", values.parameter_name),
            default=REQUIRED,
            doc="the parameter, which no route may set",
        ),
        Key(
            name="value",
            kind=SecretReference(one_line=True),
            default=REQUIRED,
            doc="the secret; it is masked in what is kept and never in an error",
        ),
    ),
)

OAUTH2 = Section(
    doc="OAuth 2 client credentials (RFC 6749, section 4.4).",
    make=OAuth2Auth,
    keys=(
        Key(
            name="token_url",
            kind=Text("URL", values.url, may_echo=False),
            default=REQUIRED,
            doc="where tokens are fetched",
        ),
        Key(name="client_id", kind=_PLAIN, default=REQUIRED, doc="who we are"),
        Key(name="client_secret", kind=SecretReference(), default=REQUIRED, doc="and its proof"),
        Key(name="scopes", kind=ListOf(_PLAIN), default=[], doc="what is asked for"),
        Key(name="audience", kind=_PLAIN, doc="for whom, where the server wants to know"),
        Key(
            name="params",
            kind=MapOf(_PLAIN, name=values.token_parameter, what="parameter's name"),
            default={},
            doc="further parameters of the token request",
        ),
        Key(
            name="auth_style",
            kind=Choice(("basic", "post")),
            unset="basic, and post where the server refuses that",
            doc="how the client is shown: HTTP Basic, or in the form",
        ),
    ),
)

SIGN = Section(
    doc="Requests signed as a webhook's sender would.",
    make=SignAuth,
    keys=(
        Key(name="scheme", kind=SchemeKind(), default=REQUIRED, doc="as in webhook.verify"),
        Key(name="secret", kind=SecretReference(), default=REQUIRED, doc="the key"),
    ),
)


def _make_auth(**given: Any) -> Auth:
    ((name, value),) = given.items()
    return BearerAuth(value) if name == "bearer" else value


def _take_auth(auth: Auth, key: Key) -> Any:
    match auth, key.name:
        case BearerAuth(token), "bearer":
            return token
        case (BasicAuth(), "basic") | (HeaderAuth(), "header") | (QueryAuth(), "query"):
            return auth
        case (OAuth2Auth(), "oauth2") | (SignAuth(), "sign"):
            return auth
        case _:
            return None


AUTH = Section(
    doc="How we prove who we are; exactly one.",
    make=_make_auth,
    take=_take_auth,
    one_of=True,
    keys=(
        Key(name="bearer", kind=SecretReference(one_line=True), doc="Authorization: Bearer …"),
        Key(name="basic", kind=Table(BASIC), doc="Authorization: Basic …"),
        Key(name="header", kind=Table(HEADER), doc="a secret in a header of its own"),
        Key(name="query", kind=Table(QUERY), doc="a secret in the query of each URL"),
        Key(name="oauth2", kind=Table(OAUTH2), doc="OAuth 2 client credentials"),
        Key(name="sign", kind=Table(SIGN), doc="a signature over each request"),
    ),
)

TLS = Section(
    doc="Whom to trust, and what to show who wants a client's certificate; all in PEM.",
    make=Tls,
    keys=(
        Key(
            name="certificate",
            kind=SecretReference(public=True),
            doc="the client's certificate with its chain, perhaps with its key",
        ),
        Key(name="key", kind=SecretReference(), doc="the certificate's key"),
        Key(name="password", kind=SecretReference(), doc="of a key that is encrypted"),
        Key(
            name="ca",
            kind=SecretReference(public=True),
            unset="the system's trust",
            doc="the authorities that are trusted, and no others",
        ),
    ),
)


def _take_proxy(proxy: Proxy, key: Key) -> Any:
    if key.name == "allow_private":
        return proxy.allow_private or None  # so that a plain proxy is shown as its URL
    return getattr(proxy, key.target)


PROXY = Section(
    doc="An HTTP proxy for all calls of a vendor; https goes through it in a tunnel.",
    make=Proxy,
    take=_take_proxy,
    keys=(
        Key(
            name="url",
            kind=Text('URL ("http://…")', values.proxy_url, may_echo=False),
            default=REQUIRED,
            doc="where it listens",
        ),
        Key(name="username", kind=Text("string without colon", values.username), doc="the user"),
        Key(name="password", kind=SecretReference(), doc="its password"),
        Key(
            name="allow_private",
            kind=Flag(),
            unset="the vendor's",
            doc="whether the proxy itself may have a private address",
        ),
    ),
)

API = Section(
    doc="What we call of a vendor, and within which limits.",
    make=Api,
    keys=(
        Key(
            name="base_url",
            kind=Text('URL ("https://…")', values.base_url, may_echo=False),
            default=REQUIRED,
            doc="stands before the path of every call",
        ),
        Key(name="auth", kind=Table(AUTH), doc="how we prove who we are"),
        Key(
            name="headers",
            kind=MapOf(
                Text("header value", values.header_value, may_echo=False),
                name=values.sent_header_name,
                what="header name",
                fold_case=True,
            ),
            default={},
            doc="sent with every call",
        ),
        Key(
            name="rate",
            kind=ListOf(_RATE, or_single=True),
            default=[],
            doc="every window holds: never more calls in any such span; empty: no limit",
        ),
        Key(name="concurrency", kind=Number(1, 10_000), default=8, doc="calls at the same time"),
        Key(
            name="timeout",
            kind=duration(most="1h"),
            default="10s",
            field="timeout_seconds",
            doc="for one whole call",
        ),
        Key(name="retry", kind=Table(RETRY), default={}, doc="when a failed call is tried again"),
        Key(
            name="retry_on",
            kind=_RETRY_REASONS,
            default=["timeout", "connect", "429", "5xx"],
            doc="what is tried again; everything else that is no success is dead at once",
        ),
        Key(name="success", kind=_STATUSES, default=["2xx"], doc="answers that complete a job"),
        Key(
            name="fail_when",
            kind=response_expression(),
            doc="what makes a failure of such an answer: an expression over response (the decoded "
            "body), status and headers; dead at once, unless retry_when holds too",
        ),
        Key(
            name="retry_when",
            kind=response_expression(),
            doc="what makes any answer one to try again, whatever its status",
        ),
        Key(name="breaker", kind=Table(BREAKER), doc="stops calling a vendor that only fails"),
        Key(
            name="quota",
            kind=Table(QUOTA),
            unset="the standard headers",
            doc="where it says how many more calls it welcomes; its lane slows down before a 429",
        ),
        Key(
            name="idempotency_header",
            kind=_HEADER_NAME,
            default="Idempotency-Key",
            doc="carries a key that all attempts of one job share",
        ),
        Key(
            name="allow_private",
            kind=Flag(),
            default=False,
            doc="whether loopback and private addresses may be called; "
            "metadata and link-local ones never are",
        ),
        Key(
            name="redirects",
            kind=Number(0, 10),
            default=0,
            doc="how many are followed, each to an allowed address; auth stays with its origin",
        ),
        Key(name="tls", kind=Table(TLS), doc="a private authority, a client's certificate"),
        Key(name="proxy", kind=UrlOrTable(PROXY), doc="an HTTP proxy that all calls go through"),
        Key(
            name="max_reply",
            kind=size(least=1, most=16 << 20),
            default="64KiB",
            field="max_reply_bytes",
            doc="how much of an answer's body is read, for fail_when, excerpts and handlers",
        ),
        Key(
            name="redact",
            kind=ListOf(Text("path", values.field_path, expected='"card.number" or "*.token"')),
            default=[],
            doc="fields masked in what is kept of requests and answers",
        ),
        Key(
            name="keep_headers",
            kind=ListOf(Text("header name", values.kept_header_name)),
            default=[],
            doc="headers kept with the attempt, besides the harmless ones that always are",
        ),
    ),
)

VENDOR = Section(
    doc="An outside system: it sends webhooks, is called, or both.",
    make=Vendor,
    keys=(
        Key(name="webhook", kind=Table(WEBHOOK), doc="what it sends"),
        Key(name="api", kind=Table(API), doc="what we call"),
    ),
)


def _take_route(route: Route, key: Key) -> Any:
    if key.name == "events":
        return route.events or ("*",)
    if key.name == "headers":
        return route.headers if route.call else None  # a handler has none
    return getattr(route, key.target)


ROUTE = Section(
    doc="Which events of one vendor become which job.",
    make=Route,
    take=_take_route,
    keys=(
        Key(name="name", kind=Text("name", values.route_name), default=REQUIRED, doc="unique"),
        Key(
            name="from",
            kind=Text("vendor's name", str),
            default=REQUIRED,
            field="source",
            doc="the vendor that sends",
        ),
        Key(
            name="events",
            kind=ListOf(_PLAIN, min_items=1),
            default=["*"],
            doc="types of events, with * and ? as in a shell",
        ),
        Key(
            name="where",
            kind=expression(),
            unset="every event",
            doc="a condition over the event; what is missing is false",
        ),
        Key(name="priority", kind=Number(0, 9), default=5, doc="0 is most urgent, 9 least"),
        Key(name="call", kind=call(), doc="the request to make; its path is a template"),
        Key(
            name="handler",
            kind=Text('"package.module:function"', values.handler_reference),
            doc="the Python function to run, in place of a call",
        ),
        Key(
            name="lane",
            kind=Text("vendor's name", str),
            unset='the called vendor; "local" for a handler',
            doc="whose limits a handler's jobs run under",
        ),
        Key(
            name="body",
            kind=Body(),
            unset="the raw bytes as received",
            doc="what is sent",
        ),
        Key(
            name="body_format",
            kind=Choice(("json", "form", "multipart", "raw")),
            unset="raw for a string or without body, else json",
            doc="how it is written; in multipart a table { content or base64, filename, "
            "content_type } is a file",
        ),
        Key(
            name="headers",
            kind=MapOf(
                template(check=values.header_value),
                name=values.sent_header_name,
                what="header name",
                fold_case=True,
            ),
            default={},
            doc="sent in addition to the vendor's",
        ),
        Key(
            name="ordering_key",
            kind=intake_template(),
            doc="at most one job in flight per key, oldest first",
        ),
        Key(
            name="on_dead",
            kind=Choice(("continue", "block")),
            default="continue",
            doc="when a job dies: go on with its key, or hold the key until someone decides",
        ),
        Key(
            name="delay",
            kind=duration(least="0s"),
            default="0s",
            field="delay_seconds",
            doc="how long a job waits before its first attempt",
        ),
        Key(
            name="retry",
            kind=Table(ROUTE_RETRY),
            unset="the called vendor's",
            doc="the route's own retry policy",
        ),
        Key(name="retry_on", kind=_RETRY_REASONS, unset=_VENDORS, doc="what is tried again"),
        Key(name="success", kind=_STATUSES, unset=_VENDORS, doc="answers that complete a job"),
        Key(
            name="fail_when",
            kind=response_expression(),
            unset=_VENDORS,
            doc="what makes a failure of such an answer",
        ),
        Key(
            name="retry_when",
            kind=response_expression(),
            unset=_VENDORS,
            doc="what makes any answer one to try again",
        ),
    ),
)

ROOT = Section(
    doc="The configuration of the integration gateway.",
    make=Config,
    keys=(
        Key(name="gateway", kind=Table(GATEWAY), default={}, doc="this process"),
        Key(name="database", kind=Table(DATABASE), default={}, doc="where everything is kept"),
        Key(name="server", kind=Table(SERVER), default={}, doc="the public listener"),
        Key(name="admin", kind=Table(ADMIN), default={}, doc="the operators' listener"),
        Key(name="queue", kind=Table(QUEUE), default={}, doc="jobs in process and in the backlog"),
        Key(
            name="vendors",
            kind=MapOf(
                Table(VENDOR),
                name=values.vendor_name,
                what="vendor's name",
                name_pattern=_VENDOR_NAME_PATTERN,
            ),
            default={},
            doc="the outside systems",
        ),
        Key(name="routes", kind=ListOf(Table(ROUTE)), default=[], doc="from events to jobs"),
    ),
)
