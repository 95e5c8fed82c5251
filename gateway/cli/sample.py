"""A made-up webhook that suits a vendor's configuration: its ids and its type where they belong."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

import msgspec

from gateway.config.model import Config, Route, Webhook
from gateway.webhooks.scheme import Scheme
from gateway.webhooks.sign import sign, sign_body
from gateway.webhooks.verify import public_url

# The dotted path of a field in an expression or template.
_FIELD = re.compile(r"\bevent\.([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)")

FALLBACK_TYPE = "gateway.test"
FORM = "application/x-www-form-urlencoded"


class Sample(msgspec.Struct, frozen=True):
    """One webhook, ready to be sent."""

    body: bytes
    headers: dict[str, str]


def make_sample(
    webhook: Webhook,
    *,
    event_type: str,
    now: float,
    url: str,
    body: bytes | None,
    fresh: bool,
    fields: Sequence[str] = (),
    private_key: str = "",
) -> Sample:
    """Return a signed webhook; *url* is its target's path, *private_key* a PEM for senders that
    sign with one.

    *body* None: a small example that has *fields* (dotted paths). A given body stays as it is byte
    for byte, unless *fresh* wants an id of its own in it, or its sender signs a time that stands
    in it, or its sender sends forms (twilio), which a JSON object is made into.
    ``ValueError`` says why it cannot be signed.
    """
    message_id = f"evt_{uuid.uuid4().hex}"
    scheme = webhook.verify
    decoded: Any = None
    if body is None:
        decoded = {"note": "sent by gateway send"}
        for number, field in enumerate(fields, start=1):
            _put(decoded, field.split("."), number)
        _put_all(decoded, [webhook.event_type], event_type)
        _put_all(decoded, _id_sources(webhook), message_id)
    elif fresh:
        decoded = _put_existing(body, _id_sources(webhook), message_id)
    if scheme is not None and "body:" in scheme.timestamp:
        decoded = _decode(body) if decoded is None else decoded
        _put_all(decoded, [scheme.timestamp], _timestamp(scheme, now))
    if scheme is not None and scheme.check == "twilio" and decoded is None:
        decoded = _decode(body)
    if decoded is not None:
        body = _encode(decoded, scheme)
    body = body or b""
    if scheme is not None:
        body = sign_body(scheme, _secret(webhook), body, now=now, message_id=message_id)
    return Sample(body, _headers(webhook, body, event_type, message_id, now, url, private_key))


def choose_event_type(config: Config, vendor: str) -> str:
    """Return a type that one of the vendor's routes takes, if they name any."""
    routes = [route for route in config.routes if route.source == vendor]
    return next(_plain_types(routes), FALLBACK_TYPE)


def choose_fields(config: Config, vendor: str) -> list[str]:
    """Return the fields that the vendor's routes read, so that an example can have them."""
    routes = [route for route in config.routes if route.source == vendor]
    found: set[str] = set()
    for route in routes:
        for text in _texts(
            [route.where, route.call, route.ordering_key, route.headers, route.body]
        ):
            found.update(_FIELD.findall(text))
    # Of event.data and event.data.id the longer one makes both.
    return sorted(f for f in found if not any(other.startswith(f + ".") for other in found))


def _texts(value: object) -> Iterator[str]:
    match value:
        case str():
            yield value
        case dict():
            for part in value.values():
                yield from _texts(part)
        case list():
            for part in value:
                yield from _texts(part)
        case _:
            pass


def _plain_types(routes: list[Route]) -> Iterator[str]:
    for route in routes:
        for pattern in route.events:
            if "[" not in pattern:
                yield pattern.replace("*", "test").replace("?", "x")


def _headers(
    webhook: Webhook,
    body: bytes,
    event_type: str,
    message_id: str,
    now: float,
    url: str,
    private_key: str,
) -> dict[str, str]:
    headers = {"Content-Type": "application/json" if _decode(body) is not None else "text/plain"}
    if webhook.verify is not None and webhook.verify.check == "twilio":
        headers["Content-Type"] = FORM  # a JSON body would have to be signed in the URL
    for source, text in ((webhook.event_type, event_type), (webhook.dedupe, message_id)):
        kind, _, name = source.partition("|")[0].strip().partition(":")
        if kind == "header":
            headers[name] = text
    if webhook.verify is not None:
        headers |= sign(
            webhook.verify,
            _secret(webhook),
            body=body,
            now=now,
            message_id=message_id,
            url=public_url(webhook.url, url),
            event_type=event_type,
            private_key=private_key,
        )
    return headers


def _secret(webhook: Webhook) -> str:
    return webhook.secrets[0].value if webhook.secrets else ""  # some schemes need none


def _encode(decoded: Any, scheme: Scheme | None) -> bytes:
    if scheme is not None and scheme.check == "twilio" and isinstance(decoded, dict):
        flat = {name: value for name, value in decoded.items() if isinstance(value, str | int)}
        return urlencode(flat).encode()
    return msgspec.json.encode(decoded)


def _id_sources(webhook: Webhook) -> list[str]:
    return [webhook.dedupe, webhook.verify.message_id if webhook.verify else ""]


def _put_existing(body: bytes, sources: list[str], text: str) -> Any:
    """Return the decoded *body* with *text* at its ids, or None where it has none."""
    decoded = _decode(body)
    if not isinstance(decoded, dict | list) or not any("body:" in source for source in sources):
        return None
    _put_all(decoded, sources, text)
    return decoded


def _put_all(decoded: Any, sources: list[str], value: object) -> None:
    """Set *value* where the first alternative of each ``body:`` source says."""
    for source in sources:
        kind, _, path = source.partition("|")[0].strip().partition(":")
        if kind == "body" and isinstance(decoded, dict | list):
            _put(decoded, path.split("."), value)


def _put(place: Any, path: list[str], value: object) -> None:
    *way, last = path
    for step, following in zip(way, path[1:], strict=True):
        if isinstance(place, list):
            if not step.isdecimal() or int(step) >= len(place):
                return
            place = place[int(step)]
        elif isinstance(place, dict):
            place = place.setdefault(step, [{}] if following == "0" else {})
        else:
            return
    if isinstance(place, dict):
        place[last] = value


def _decode(body: bytes | None) -> Any:
    try:
        return msgspec.json.decode(body or b"")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _timestamp(scheme: Scheme, now: float) -> int | str:
    match scheme.timestamp_unit:
        case "s":
            return int(now)
        case "ms":
            return int(now * 1000)
        case "iso8601":
            return datetime.fromtimestamp(int(now), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
