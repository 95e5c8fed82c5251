"""What is kept of a call with its attempt: enough to see what happened, no secret, no flood.

The results are plain dictionaries that msgspec encodes and PostgreSQL takes as jsonb: no bytes,
no NUL, no lone surrogates.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Mapping
from functools import lru_cache
from typing import Any
from urllib.parse import quote, quote_plus

from gateway.config.model import (
    Api,
    BasicAuth,
    BearerAuth,
    HeaderAuth,
    QueryAuth,
    Secret,
    SignAuth,
)
from gateway.masks import MASK, masked_body, parse_path
from gateway.vendors.calls import Call, Redaction, Reply

_MIN_SECRET_CHARS = 6  # shorter ones occur by chance
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


def redaction_for(api: Api) -> Redaction:
    """Return what *api* says about it."""
    return Redaction(
        base_url=api.base_url,
        query_name=api.auth.name if isinstance(api.auth, QueryAuth) else "",
        idempotency_header=api.idempotency_header,
        keep=frozenset(name.lower() for name in api.keep_headers),
        paths=frozenset(map(parse_path, api.redact)),
        secrets=_secrets(api),
    )


def describe_request(call: Call, *, redaction: Redaction, excerpt_bytes: int) -> dict[str, Any]:
    """Return what is kept of *call*: method, url, allowed headers, and the body's beginning."""
    described: dict[str, Any] = {
        "method": _plain(call.method),
        "url": _sent_url(call.path, redaction),
    }
    headers = _kept(call.headers, redaction.keep) if call.headers else {}
    if call.content_type and call.body is not None:
        headers.setdefault("content-type", _plain(call.content_type))
    if call.idempotency_key:
        headers.setdefault(
            (redaction.idempotency_header or "idempotency-key").lower(),
            _plain(call.idempotency_key),
        )
    described["headers"] = headers
    if call.body is not None:
        body = call.body
        if redaction.paths and excerpt_bytes:
            body = masked_body(body, call.content_type or "", redaction.paths)
        _describe_body(described, body, len(call.body), excerpt_bytes, headers)
    return described


def describe_reply(reply: Reply, *, redaction: Redaction, excerpt_bytes: int) -> dict[str, Any]:
    """Return what is kept of *reply*: status, allowed headers, and the body's beginning."""
    headers = _kept(reply.headers, redaction.keep)
    for secret in redaction.secrets:
        for name, value in headers.items():
            if secret.decode() in value:
                headers[name] = value.replace(secret.decode(), MASK)
    described: dict[str, Any] = {
        "status": reply.status,
        "headers": headers,
    }
    size = len(reply.body) if reply.body_complete else None
    body = reply.body
    if redaction.paths and excerpt_bytes:
        body = masked_body(body, reply.headers.get("content-type", ""), redaction.paths)
    for secret in redaction.secrets:
        if secret in body:
            body = body.replace(secret, MASK.encode())
    _describe_body(described, body, size, excerpt_bytes, headers)
    return described


def _sent_url(path: str, redaction: Redaction) -> str:
    url = _url(redaction.base_url + path)
    if redaction.query_name:
        url += f"{'&' if '?' in path else '?'}{redaction.query_name}={MASK}"
    return url


def _secrets(api: Api) -> tuple[bytes, ...]:
    """Return the ways in which the vendor is shown the secret of its ``auth``."""
    match api.auth:
        case BearerAuth(Secret(_, value)) | HeaderAuth(_, Secret(_, value)):
            texts = {value}
        case BasicAuth(username, Secret(_, value)):
            texts = {value, b64encode(f"{username}:{value}".encode()).decode()}
        case QueryAuth(_, Secret(_, value)) | SignAuth(_, Secret(_, value)):
            texts = {value}
        case _:
            return ()
    texts |= {quote(value, safe=""), quote_plus(value)}
    return tuple(sorted(text.encode() for text in texts if len(text) >= _MIN_SECRET_CHARS))


def _describe_body(
    described: dict[str, Any],
    body: bytes,
    size: int | None,
    excerpt_bytes: int,
    headers: Mapping[str, str],
) -> None:
    """Add ``body`` and, where that is not all of it, ``body_bytes`` (None: more than we read)."""
    if size is None or size > excerpt_bytes or len(body) > excerpt_bytes:
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


def _kept(headers: Mapping[str, str], also: frozenset[str]) -> dict[str, str]:
    kept = {}
    for name, value in headers.items():
        name = name.lower()
        if name in also or _is_harmless(name):
            kept[_plain(name)] = _plain(_url(value) if name == "location" else value)
    return kept


@lru_cache(maxsize=256)  # a vendor sends the same few names again and again
def _is_harmless(name: str) -> bool:
    return name in _KEPT or _KEPT_PART.search(name) is not None


def _url(url: str) -> str:
    """Return *url* with the values of key-like query parameters masked."""
    path, mark, query = _plain(url, _MAX_URL_CHARS).partition("?")
    return path + mark + "&".join(map(_masked, query.split("&"))) if mark else path


def _masked(parameter: str) -> str:
    name, equals, _ = parameter.partition("=")
    return name + equals + MASK if equals and _SECRET_NAME.search(name) else parameter


def _plain(text: str, limit: int = _MAX_VALUE_CHARS) -> str:
    text = text[:limit]
    if text.isascii() and "\0" not in text:
        return text
    return text.encode("utf-8", "replace").decode().replace("\0", "\ufffd")
