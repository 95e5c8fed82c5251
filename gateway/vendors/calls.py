"""One call to a vendor: what is asked, what came back, and the ways in which nothing came back."""

from __future__ import annotations

from typing import Literal

import msgspec

from gateway.errors import GatewayError
from gateway.masks import Path
from gateway.vendors.quota import Quota

FailureKind = Literal[
    "timeout",  # no whole answer in time, whatever it was that took so long
    "dns",  # the name has no address, or nobody could be asked
    "connect",  # nobody listens there, or there is no way there
    "tls",  # no trust, or no TLS at all
    "reset",  # the connection broke off before the whole answer was here
    "protocol",  # what came back is not HTTP
    "auth",  # no access token could be had
    "redirect",  # to where we do not follow
    "refused-address",  # our own guard: an address that is never called
    "request",  # our own check: a request that must not be sent as it is
]


class Call(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What to send. ``path`` is below the vendor's base URL, with its query, percent-encoded."""

    method: str
    path: str
    headers: dict[str, str] = {}
    body: bytes | None = None
    content_type: str | None = None
    idempotency_key: str = ""  # the same for every attempt of a job; empty: none is sent
    correlation_id: str = ""
    traceparent: str | None = None
    timeout_seconds: float | None = None  # None: the vendor's


class Reply(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What came back, bounded. ``body`` is cut when ``body_complete`` is False."""

    status: int
    headers: dict[str, str]  # names in lower case; repeated ones joined with ", "
    body: bytes  # as it came; we ask for no compression
    body_complete: bool
    duration_seconds: float
    retry_after_seconds: float | None = None  # the vendor's wish, if it stated a usable one
    quota: Quota | None = None  # what it says is left of its limit


class CallFailed(GatewayError):
    """No whole answer was had; ``kind`` says why not, for :func:`gateway.vendors.classify`."""

    def __init__(self, kind: FailureKind, text: str) -> None:
        self.kind: FailureKind = kind
        self.text = text
        super().__init__(f"{kind}: {text}")


class Redaction(msgspec.Struct, frozen=True, kw_only=True):
    """What is particular to one vendor about what may be kept of its calls."""

    base_url: str  # which holds no credentials
    query_name: str = ""  # of the parameter that authentication adds
    idempotency_header: str = ""
    keep: frozenset[str] = frozenset()  # further headers, in lower case
    paths: frozenset[Path] = frozenset()  # of fields that are masked
    secrets: tuple[bytes, ...] = ()  # which an answer might repeat
