"""The configuration as frozen structs: what each part of the gateway is given a slice of.

Units are in the names. Secrets are :class:`Secret`, whose text never shows its value.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from gateway.backoff import RetryPolicy
from gateway.bodies import BodyFormat
from gateway.webhooks.scheme import Handshake, Scheme


class Secret(msgspec.Struct, frozen=True):
    """A secret and where it came from (``env:NAME``, ``file:/path``, ``credential:NAME``)."""

    reference: str
    value: str

    def __repr__(self) -> str:
        return f"Secret({self.reference})"

    __str__ = __repr__


class Address(msgspec.Struct, frozen=True):
    """Where to listen: a host (name or IP literal) and a TCP port."""

    host: str
    port: int


class Rate(msgspec.Struct, frozen=True):
    """At most ``count`` calls in any ``period_seconds``."""

    count: int
    period_seconds: float


class GatewaySection(msgspec.Struct, frozen=True, kw_only=True):
    """This process."""

    state_dir: Path = Path("var")  # absolute once loaded: relative to the TOML file's folder
    drain_seconds: float = 30.0
    node: str = ""  # the loader fills in the host's name


class DatabaseSection(msgspec.Struct, frozen=True, kw_only=True):
    """PostgreSQL, where everything is kept."""

    url: Secret  # value "embedded" or a postgresql:// URL; a literal URL has reference "config"
    retention_seconds: float = 90 * 86400.0
    pool: int = 8

    @property
    def embedded(self) -> bool:
        """Whether the gateway runs its own server."""
        return self.url.value == "embedded"


class ServerSection(msgspec.Struct, frozen=True, kw_only=True):
    """The public listener: webhooks and nothing else."""

    listen: Address = Address("127.0.0.1", 8080)
    max_body_bytes: int = 1 << 20
    trusted_proxies: tuple[str, ...] = ()
    rate: Rate | None = None  # of all vendors together
    burst: int = 0  # the loader fills in the rate's count
    concurrency: int = 1000  # requests under way at once
    connections: int = 5000


class AdminSection(msgspec.Struct, frozen=True, kw_only=True):
    """The operators' listener."""

    listen: Address = Address("127.0.0.1", 8081)
    token: Secret | None = None  # required when not on loopback


class QueueSection(msgspec.Struct, frozen=True, kw_only=True):
    """Jobs in this process and in the backlog."""

    lease_seconds: float = 15.0
    memory: int = 10_000
    max_backlog: int = 1_000_000
    local_concurrency: int = 16
    handler_timeout_seconds: float = 60.0
    excerpt_bytes: int = 2048  # of a request or response body kept with the attempt


class ResponseOverride(msgspec.Struct, frozen=True, kw_only=True):
    """The success answer that a vendor demands in place of ours."""

    status: int = 202  # the loader fills in the sender's own
    body: str | None = None  # None: our JSON


class Learning(msgspec.Struct, frozen=True):
    """Where the secret is kept that a sender tells in its handshake; None: not told yet."""

    path: Path
    secret: Secret | None = None


class Webhook(msgspec.Struct, frozen=True, kw_only=True):
    """What one vendor sends to ``POST /webhooks/{vendor}``."""

    vendor: str
    verify: Scheme | None  # None: ``verify = "none"``, written out
    secrets: tuple[Secret, ...] = ()  # the loader adds the one that was learnt
    url: str = ""  # the public one, as the sender knows it; empty: it signs none
    verify_token: Secret | None = None
    learn_secret: Learning | None = None
    handshakes: tuple[Handshake, ...] = ()  # before the scheme's own
    rate: Rate | None = None
    burst: int = 0  # the loader fills in the rate's count
    concurrency: int = 500  # requests under way at once; the loader fills in half the listener's
    answer_within_seconds: float = 8.0  # the loader fills in 4/5 of the sender's patience
    max_body_bytes: int = 1 << 20
    allow_ips: tuple[str, ...] = ()
    event_type: str = ""  # source or "none"; the loader fills in the scheme's own
    dedupe: str = ""  # source, "hash", "none"; the loader fills in the scheme's own
    dedupe_window_seconds: float = 7 * 86400.0
    response: ResponseOverride = ResponseOverride()


class BearerAuth(msgspec.Struct, frozen=True):
    """``Authorization: Bearer …``."""

    token: Secret


class BasicAuth(msgspec.Struct, frozen=True):
    """``Authorization: Basic …``."""

    username: str
    password: Secret


class HeaderAuth(msgspec.Struct, frozen=True):
    """A secret in a header of its own."""

    name: str
    value: Secret


class QueryAuth(msgspec.Struct, frozen=True):
    """A secret in the query of each URL."""

    name: str
    value: Secret


class OAuth2Auth(msgspec.Struct, frozen=True):
    """OAuth 2 client credentials."""

    token_url: str
    client_id: str
    client_secret: Secret
    scopes: tuple[str, ...] = ()
    audience: str | None = None
    params: dict[str, str] = {}  # sent to the token endpoint besides
    auth_style: Literal["basic", "post"] | None = None  # None: basic, and post where that fails


class SignAuth(msgspec.Struct, frozen=True):
    """Requests signed as a webhook's sender would."""

    scheme: Scheme
    secret: Secret


Auth = BearerAuth | BasicAuth | HeaderAuth | QueryAuth | OAuth2Auth | SignAuth


class Tls(msgspec.Struct, frozen=True, kw_only=True):
    """Whom a vendor is trusted by, and the certificate we show it; all texts are PEM."""

    certificate: Secret | None = None  # with its chain, perhaps with its key
    key: Secret | None = None
    password: Secret | None = None  # of the key
    ca: Secret | None = None  # None: the system's trust


class Proxy(msgspec.Struct, frozen=True, kw_only=True):
    """An HTTP proxy that all calls of a vendor go through."""

    url: str
    username: str | None = None
    password: Secret | None = None
    allow_private: bool = False  # may itself have a private address


class Breaker(msgspec.Struct, frozen=True, kw_only=True):
    """When to stop calling a vendor that only fails, and for how long."""

    failures: int = 16  # in a row; the loader fills in twice the concurrency, at least 10
    ratio: float | None = None  # … or this part of the window's calls, if there are enough
    minimum: int = 20
    window_seconds: float = 60.0  # the loader fills in three timeouts if that is longer
    cooldown_seconds: float = 30.0


class QuotaHeaders(msgspec.Struct, frozen=True, kw_only=True):
    """Where a vendor writes its quota: names in lower case, the unit, and what the number means.

    With ``meaning = "used/limit"`` the first header holds both, as Shopify's ``32/40``. Without a
    ``reset`` header, *reset_seconds* stands for it. In unit "auto" a reset is, from 10^11 on,
    milliseconds since 1970, from 10^9 on seconds since 1970, else seconds from now.
    """

    remaining: str
    reset: str = ""
    unit: Literal["auto", "seconds", "milliseconds", "unix", "unix_milliseconds"] = "auto"
    meaning: Literal["remaining", "used/limit"] = "remaining"
    reset_seconds: float = 1.0


class Api(msgspec.Struct, frozen=True, kw_only=True):
    """What we call of one vendor, and within which limits."""

    vendor: str
    base_url: str
    auth: Auth | None = None
    headers: dict[str, str] = {}
    rate: tuple[Rate, ...] = ()  # every window holds
    concurrency: int = 8
    timeout_seconds: float = 10.0
    retry: RetryPolicy = RetryPolicy()
    retry_on: tuple[str, ...] = ("timeout", "connect", "429", "5xx")
    success: tuple[str, ...] = ("2xx",)
    fail_when: str | None = None  # an expression over the answer
    retry_when: str | None = None
    breaker: Breaker | None = Breaker()  # None: ``breaker = false``
    quota: QuotaHeaders | None = None  # None: the standard headers
    idempotency_header: str = "Idempotency-Key"
    allow_private: bool = False
    redirects: int = 0  # how many are followed
    tls: Tls | None = None
    proxy: Proxy | None = None
    max_reply_bytes: int = 64 << 10  # kept of an answer's body
    redact: tuple[str, ...] = ()  # paths of fields that are masked in what is kept of calls
    keep_headers: tuple[str, ...] = ()  # that are kept of calls, too


class Vendor(msgspec.Struct, frozen=True, kw_only=True):
    """An outside system: it sends webhooks, is called, or both."""

    name: str
    webhook: Webhook | None = None
    api: Api | None = None


class Route(msgspec.Struct, frozen=True, kw_only=True):
    """Which events of one vendor become which job. Exactly one of ``call``, ``handler`` is set."""

    name: str
    source: str  # the sending vendor; TOML key ``from``
    events: tuple[str, ...] = ()  # shell-style patterns; empty: all
    where: str | None = None
    priority: int = 5
    call: str | None = None  # "METHOD vendor:/path"
    handler: str | None = None  # "package.module:function"
    lane: str = ""  # whose limits its jobs run under: the called vendor, or "local"
    body: msgspec.UnsetType | object = msgspec.UNSET  # UNSET: the raw bytes as received
    body_format: BodyFormat | None = None  # None: raw for a text and without body, else JSON
    headers: dict[str, str] = {}
    ordering_key: str | None = None
    on_dead: Literal["continue", "block"] = "continue"
    delay_seconds: float = 0.0
    retry: RetryPolicy | None = None  # None: the called vendor's, and so for the next four
    retry_on: tuple[str, ...] | None = None
    success: tuple[str, ...] | None = None
    fail_when: str | None = None
    retry_when: str | None = None

    @property
    def kind(self) -> str:
        """The kind of its jobs: what names their handler."""
        return "call" if self.call else "handler"


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """The whole file; only ``service`` and ``cli`` hold all of it."""

    source: Path
    gateway: GatewaySection
    database: DatabaseSection
    server: ServerSection
    admin: AdminSection
    queue: QueueSection
    vendors: dict[str, Vendor]
    routes: tuple[Route, ...]
