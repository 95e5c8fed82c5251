"""What is kept of a call with its attempt: enough to see what happened, no secret, no flood.

The results are plain dictionaries that msgspec encodes and PostgreSQL takes as jsonb: no bytes,
no NUL, no lone surrogates.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from gateway.vendors.calls import Call, Reply

_MASK = "***"
_MAX_URL_CHARS = 2048
_MAX_VALUE_CHARS = 512

# Names of headers that are kept; every other one is left out, whatever it may be.
_KEPT = frozenset(
    (
        *("content-type", "content-length", "content-encoding", "date", "retry-after", "location"),
        *("idempotency-key", "x-correlation-id", "traceparent", "x-event-type"),
        *("request-id", "x-request-id", "x-amzn-requestid", "x-github-request-id", "cf-ray"),
        *("x-trace-id", "x-hubspot-correlation-id", "sforce-limit-info", "x-shopid"),
        *("server", "via", "deprecation", "sunset", "warning"),
    )
)
_KEPT_PART = re.compile(r"rate-?limit|api-call-limit")

# Parts of a query parameter's name that make its value a secret.
_SECRET_NAME = re.compile(
    r"key|token|secret|sig|auth|pass|pwd|code|session|jwt|credential|nonce|hmac", re.IGNORECASE
)


def describe_request(
    call: Call, *, base_url: str, excerpt_bytes: int, idempotency_header: str = ""
) -> dict[str, Any]:
    """Return what is kept of *call*: method, url, allowed headers, and the body's beginning.

    *base_url* is the vendor's own, which holds no credentials.
    """
    described: dict[str, Any] = {"method": _plain(call.method), "url": _url(base_url + call.path)}
    headers = _kept(call.headers) if call.headers else {}
    if call.content_type and call.body is not None:
        headers.setdefault("content-type", _plain(call.content_type))
    if call.idempotency_key:
        headers.setdefault(
            (idempotency_header or "idempotency-key").lower(), _plain(call.idempotency_key)
        )
    described["headers"] = headers
    if call.body is not None:
        _describe_body(described, call.body, len(call.body), excerpt_bytes, headers)
    return described


def describe_reply(reply: Reply, *, excerpt_bytes: int) -> dict[str, Any]:
    """Return what is kept of *reply*: status, allowed headers, and the body's beginning."""
    headers = _kept(reply.headers)
    described: dict[str, Any] = {
        "status": reply.status,
        "headers": headers,
    }
    size = len(reply.body) if reply.body_complete else None
    _describe_body(described, reply.body, size, excerpt_bytes, headers)
    return described


def _describe_body(
    described: dict[str, Any],
    body: bytes,
    size: int | None,
    excerpt_bytes: int,
    headers: Mapping[str, str],
) -> None:
    """Add ``body`` and, where that is not all of it, ``body_bytes`` (None: more than we read)."""
    if size is None or size > excerpt_bytes:
        described["body_bytes"] = size
    coding = headers.get("content-encoding")
    if coding and coding != "identity":
        described["body"] = f"<{coding}>"
        described["body_bytes"] = size
        return
    described["body"] = _excerpt(body, excerpt_bytes)


def _excerpt(body: bytes, limit: int) -> str:
    cut = body if len(body) <= limit else body[:limit]
    text = cut.decode("utf-8", "replace")
    if len(body) > limit:
        text = text.rstrip("\ufffd")  # the character that the cut went through
    return text.replace("\0", "\ufffd") if "\0" in text else text


def _kept(headers: Mapping[str, str]) -> dict[str, str]:
    kept = {}
    for name, value in headers.items():
        name = name.lower()
        if name in _KEPT or _KEPT_PART.search(name):
            kept[_plain(name)] = _plain(_url(value) if name == "location" else value)
    return kept


def _url(url: str) -> str:
    """Return *url* with the values of key-like query parameters masked."""
    path, mark, query = _plain(url, _MAX_URL_CHARS).partition("?")
    return path + mark + "&".join(map(_masked, query.split("&"))) if mark else path


def _masked(parameter: str) -> str:
    name, equals, _ = parameter.partition("=")
    return name + equals + _MASK if equals and _SECRET_NAME.search(name) else parameter


def _plain(text: str, limit: int = _MAX_VALUE_CHARS) -> str:
    text = text[:limit]
    if text.isascii() and "\0" not in text:
        return text
    return text.encode("utf-8", "replace").decode().replace("\0", "\ufffd")
