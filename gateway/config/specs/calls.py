"""The keys of what we call of a vendor: limits, retries, breaker, quota, TLS, proxy."""

from __future__ import annotations

from typing import Any

from gateway.backoff import RetryPolicy
from gateway.config import values
from gateway.config.kinds import (
    Choice,
    Flag,
    Number,
    SecretReference,
    TableOrFalse,
    Text,
    UrlOrTable,
    duration,
    response_expression,
    size,
)
from gateway.config.model import Api, Breaker, Proxy, QuotaHeaders, Tls
from gateway.config.retries import unused_keys
from gateway.config.specs.auth import AUTH
from gateway.config.specs.shared_kinds import HEADER_NAME, RATE, RETRY_REASONS, STATUSES
from gateway.config.walker import REQUIRED, Key, ListOf, MapOf, Section, Table


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


BREAKER = Section(
    doc="Stops calling a vendor that only fails; open on one node, it is open on all. Every vendor "
    "has one; breaker = false switches it off.",
    make=Breaker,
    keys=(
        Key(
            name="failures",
            kind=Number(1, 1_000_000),
            unset="10, or twice the concurrency if that is more",
            doc="in a row within the window that open it; left out: so many that all calls under "
            "way may fail at one moment without opening it",
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
            unset="1m, or three times the timeout if that is longer",
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
            kind=HEADER_NAME,
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
            kind=HEADER_NAME,
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
            kind=ListOf(RATE, or_single=True),
            default=[],
            doc="every window holds: never more calls in any such span; empty: no limit",
        ),
        Key(name="concurrency", kind=Number(1, 10_000), default=8, doc="calls at the same time"),
        Key(
            name="timeout",
            kind=duration(most="1h"),
            default="10s",
            field="timeout_seconds",
            doc="for one whole call; time in line for its `rate` does not count",
        ),
        Key(name="retry", kind=Table(RETRY), default={}, doc="when a failed call is tried again"),
        Key(
            name="retry_on",
            kind=RETRY_REASONS,
            default=["timeout", "connect", "429", "5xx"],
            doc="what is tried again; everything else that is no success is dead at once",
        ),
        Key(name="success", kind=STATUSES, default=["2xx"], doc="answers that complete a job"),
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
        Key(
            name="breaker",
            kind=TableOrFalse(BREAKER),
            default={},
            doc="stops calling a vendor that only fails; false: never",
        ),
        Key(
            name="quota",
            kind=Table(QUOTA),
            unset="the standard headers",
            doc="where it says how many more calls it welcomes; its lane slows down before a 429",
        ),
        Key(
            name="idempotency_header",
            kind=HEADER_NAME,
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
