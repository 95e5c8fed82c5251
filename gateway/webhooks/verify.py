"""Is this webhook its sender's? One verifier for every scheme that can be told as data.

A :class:`Plan` is a scheme compiled once: what to read from a request, and which bytes were
signed. A :class:`Verifier` is a plan with its keys. Signatures are over the raw body and the raw
text of the timestamp, so nothing is decoded and encoded again on the way.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Literal, Protocol, assert_never
from urllib.parse import parse_qsl

from gateway.errors import SignatureRefused
from gateway.webhooks.codec import signature_decoder
from gateway.webhooks.extract import compile_lookup, decode_body
from gateway.webhooks.keys import compile_key
from gateway.webhooks.scheme import Scheme
from gateway.webhooks.signed import Need, Parts, Reading, SignedRequest

MAX_HEADER_CHARS = 4096  # of one signature header
MAX_SIGNATURES = 16  # items of all signature headers together
MAX_TIMESTAMP_CHARS = 40
MAX_QUERY_FIELDS = 100

# What a sender may have us answer the HMAC of, unsigned, to show that we hold the secret. Nothing
# that it signs as an event looks like this, and nothing that looks like this passes as one.
HANDSHAKE_TOKEN = re.compile(rb"[A-Za-z0-9_+/=.-]{1,512}").fullmatch


class RequestVerifier(Protocol):
    """What every way to verify a request offers."""

    @property
    def fetches(self) -> bool:
        """Whether :meth:`needs` must be asked."""

    def needs(self, request: SignedRequest) -> Need | None:
        """Return what must be fetched first; raises SignatureRefused where nothing could help."""

    def verify(self, request: SignedRequest, now: float, fetched: bytes = b"") -> int:
        """Return the index of the secret that matched; *now* is in Unix seconds.

        Raises :class:`SignatureRefused`, and nothing else whatever the sender sent.
        """

    def message_of(self, request: SignedRequest) -> bytes:
        """Return the bytes that the sender should have signed, for people to look at.

        Raises :class:`SignatureRefused` where they cannot be put together.
        """


class Verifier:
    """Tells whether a request was signed with one of several secrets: the generic verifier.

    Raises ``ValueError``, with what to write instead, for a scheme that contradicts itself and
    for missing, empty or undecodable secrets.
    """

    __slots__ = ("_keys", "_plan", "_refuses_tokens", "_tolerance_seconds")

    fetches = False

    def __init__(self, scheme: Scheme, secrets: Sequence[str]) -> None:
        require_secrets(secrets)
        self._plan = Plan(scheme)
        self._keys = tuple(compile_key(scheme, secret) for secret in secrets)
        self._tolerance_seconds = scheme.tolerance_seconds
        self._refuses_tokens = any(shake.signs_for_anyone for shake in scheme.handshakes)

    def verify(self, request: SignedRequest, now: float, fetched: bytes = b"") -> int:  # noqa: ARG002
        """See RequestVerifier."""
        reading = self._plan.read(request)
        if reading.timestamp_seconds is not None:
            check_age(now - reading.timestamp_seconds, self._tolerance_seconds)
        if self._refuses_tokens and HANDSHAKE_TOKEN(reading.message):
            raise SignatureRefused(
                "it looks like a handshake's token, which anyone can have signed"
            )
        for index, matches in enumerate(self._keys):
            if matches(reading):
                return index
        raise SignatureRefused("no signature matches any secret")

    def needs(self, request: SignedRequest) -> Need | None:  # noqa: ARG002
        """See RequestVerifier."""
        return None

    def message_of(self, request: SignedRequest) -> bytes:
        """See RequestVerifier."""
        return self._plan.read(request).message


def require_secrets(secrets: Sequence[str]) -> None:
    """Raise ``ValueError`` where nothing could be verified."""
    if not secrets:
        raise ValueError("there is no secret, so anyone could sign; name at least one in secrets")


def check_age(age_seconds: float, tolerance_seconds: float) -> None:
    """Refuse a timestamp that is too old or too far in the future."""
    if not -tolerance_seconds <= age_seconds <= tolerance_seconds:
        raise SignatureRefused(
            f"timestamp is {age_seconds:.0f} s old, allowed are ±{tolerance_seconds:.0f} s"
        )


class Plan:
    """A scheme, compiled: reads a request's signatures, timestamp and signed message.

    Raises ``ValueError`` for a scheme that contradicts itself or would let anything pass.
    """

    __slots__ = (
        "_decode",
        "_decode_other",
        "_headers",
        "_message",
        "_message_id",
        "_scheme",
        "_timestamp",
    )

    def __init__(self, scheme: Scheme) -> None:
        names = (scheme.header,) if isinstance(scheme.header, str) else scheme.header
        self._scheme = scheme
        self._message = compile_message(scheme)
        self._headers = tuple(name.lower() for name in names)
        self._decode = signature_decoder(scheme)
        other = scheme.alternative
        self._decode_other = signature_decoder(other) if other else None
        self._timestamp = _compile_source(scheme.timestamp) if scheme.timestamp else None
        self._message_id = _compile_source(scheme.message_id) if scheme.message_id else None

    def read(self, request: SignedRequest) -> Reading:
        """Return what *request* carries; raises SignatureRefused where something is missing."""
        signatures, others, fields = self._signatures(request.headers)
        timestamp = message_id = b""
        seconds = None
        if self._timestamp is not None:
            text = self._timestamp(request, fields)
            if text is None:
                raise SignatureRefused(f"no timestamp at {self._scheme.timestamp}")
            seconds = _parse_timestamp(text, self._scheme.timestamp_unit)
            if seconds is None:
                raise SignatureRefused(f"malformed timestamp at {self._scheme.timestamp}")
            timestamp = text.encode()
        if self._message_id is not None:
            text = self._message_id(request, fields)
            if text is None or not text.isascii():
                raise SignatureRefused(f"no usable id at {self._scheme.message_id}")
            message_id = text.encode()
        message = self._message(Parts(request, fields, timestamp, message_id))
        return Reading(signatures, others, seconds, message)

    def _signatures(
        self, headers: Mapping[str, str]
    ) -> tuple[list[bytes], list[bytes], dict[str, str]]:
        """Return the well-formed signatures, those of the scheme's alternative, and the other
        ``name=value`` items by name.

        Malformed ones and those of unknown versions are passed over, as senders that rotate
        their schemes demand, and any match wins; but one must be left.
        """
        scheme = self._scheme
        found: list[str] = []
        fields: dict[str, str] = {}
        count = 0
        for name in self._headers:
            text = headers.get(name)
            if not text:
                continue
            if len(text) > MAX_HEADER_CHARS:
                raise SignatureRefused(f"header {name} has over {MAX_HEADER_CHARS} characters")
            items = text.split(scheme.separator, MAX_SIGNATURES) if scheme.separator else (text,)
            count += len(items)
            if count > MAX_SIGNATURES:
                raise SignatureRefused(f"header {name} has over {MAX_SIGNATURES} signatures")
            if scheme.signature_field:
                _sort_fields(items, scheme.signature_field, found, fields)
            else:
                found += items
        if not count:
            raise SignatureRefused(f"no header {' or '.join(self._headers)}")
        signatures: list[bytes] = []
        others: list[bytes] = []
        for item in found:
            item = item.strip()
            if item.startswith(scheme.prefix):
                signature = self._decode(item[len(scheme.prefix) :])
                if signature is not None:
                    signatures.append(signature)
            elif scheme.alternative is not None and item.startswith(scheme.alternative.prefix):
                assert self._decode_other is not None  # noqa: S101  # it goes with the alternative
                signature = self._decode_other(item[len(scheme.alternative.prefix) :])
                if signature is not None:
                    others.append(signature)
        if not signatures and not others:
            raise SignatureRefused(f"no well-formed signature in {' or '.join(self._headers)}")
        return signatures, others, fields


Message = Callable[[Parts], bytes]


def compile_message(scheme: Scheme) -> Message:
    """Return a function that puts together the bytes that *scheme* signs.

    It raises SignatureRefused for a request that lacks one of its parts; compiling raises
    ``ValueError`` for a scheme that contradicts itself or would let anything pass.
    """
    _check(scheme)
    pieces = _PLACEHOLDER.split(scheme.signed)  # literal, name, literal, name, …, literal
    getters = [_compile_part(name) for name in pieces[1::2]]
    literals = [piece.encode() for piece in pieces[::2]]
    if any(b"{" in literal or b"}" in literal for literal in literals):
        raise ValueError(f'signed: "{scheme.signed}" has a brace without its partner')
    if len(getters) == 1 and not any(literals):
        return getters[0]
    layout = b"%b".join(literal.replace(b"%", b"%%") for literal in literals)
    return lambda parts: layout % tuple([get(parts) for get in getters])


_Source = Callable[[SignedRequest, Mapping[str, str]], str | None]

_PARTS: dict[str, Message] = {
    "body": lambda parts: parts.request.body,
    "timestamp": lambda parts: parts.timestamp,
    "id": lambda parts: parts.message_id,
    "method": lambda parts: _to_bytes(parts.request.method, "method"),
    "url": lambda parts: _to_bytes(parts.request.url, "URL"),
    "decoded_url": lambda parts: _to_bytes(decoded_url(parts.request.url), "URL"),
}
_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")


def _check(scheme: Scheme) -> None:
    """Refuse what would be no protection, or could never match, before a sender finds out."""
    if not scheme.header or not all(scheme.header):
        raise ValueError('header: none is named; write e.g. header = "X-Signature"')
    if scheme.algorithm == "token" and scheme.timestamp:
        raise ValueError("timestamp: a token protects none, so leave it out")
    names = _PLACEHOLDER.findall(scheme.signed)
    if "body" not in names:
        raise ValueError(
            f'signed: "{scheme.signed}" does not cover the body; write {{body}} into it'
        )
    if "timestamp" in names and not scheme.timestamp:
        raise ValueError('signed: {timestamp} has no source; write e.g. timestamp = "header:X-T"')
    if "id" in names and not scheme.message_id:
        raise ValueError('signed: {id} has no source; write e.g. message_id = "header:X-Id"')
    unsigned = "header:" in scheme.timestamp or "field:" in scheme.timestamp
    if unsigned and "timestamp" not in names:
        raise ValueError(
            "timestamp: it is not part of what is signed, so anyone could renew it; "
            "put {timestamp} into signed, or leave timestamp out"
        )
    if "field:" in scheme.timestamp + scheme.message_id and not scheme.signature_field:
        raise ValueError(
            'signature_field: is needed with a "field:" source; write e.g. signature_field = "v1"'
        )
    if not scheme.tolerance_seconds > 0:
        raise ValueError(f'tolerance: {scheme.tolerance_seconds} lets nothing pass; write "5m"')
    if scheme.signature_field and not scheme.separator:
        raise ValueError('separator: is needed with signature_field; write e.g. separator = ","')


def _compile_part(name: str) -> Message:
    if name in _PARTS:
        return _PARTS[name]
    try:
        source = _compile_source(name)
    except ValueError:
        known = ", ".join(f"{{{part}}}" for part in _PARTS)
        raise ValueError(
            f"signed: unknown part {{{name}}}; write {known}, {{header:X-Name}}, {{query:name}} "
            "or {body:path}"
        ) from None

    def get(parts: Parts) -> bytes:
        text = source(parts.request, parts.fields)
        if text is None:
            raise SignatureRefused(f"nothing at {name}")
        return _to_bytes(text, name)

    return get


def _to_bytes(text: str, what: str) -> bytes:
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError:  # a lone surrogate: the sender's bytes were no UTF-8
        raise SignatureRefused(f"{what} is no UTF-8") from None


def _compile_source(source: str) -> _Source:
    """Return a function that finds the text of a header:, query:, body: or field: source."""
    kind, _, name = source.partition(":")
    if kind == "field" and name and "|" not in name:
        return lambda _request, fields: fields.get(name)
    if kind == "query" and name and "|" not in name:
        return lambda request, _fields: query_fields(request.query).get(name) or None
    lookup = compile_lookup(source)
    if "body:" not in source:
        return lambda request, _fields: lookup(request.headers, None)
    return lambda request, _fields: lookup(
        request.headers, decode_body(request.body, request.headers.get("content-type"))
    )


def public_url(configured: str, target: str) -> str:
    """Return the URL that a sender called: *configured*, with the query that came in *target*.

    *target* itself where nothing is configured.
    """
    if not configured:
        return target
    query = target.partition("?")[2]
    base = configured.partition("?")[0]
    return f"{base}?{query}" if query else base


def query_fields(query: str) -> dict[str, str]:
    """Return a URL's query by name, decoded; the first value of each; empty if it is malformed."""
    try:
        pairs = parse_qsl(query, keep_blank_values=True, max_num_fields=MAX_QUERY_FIELDS)
    except ValueError:
        return {}
    fields: dict[str, str] = {}
    for name, value in pairs:
        fields.setdefault(name, value)
    return fields


_HUBSPOT_DECODED = {f"%{ord(sign):02X}": sign for sign in ":/?@!$'()*,;"}
_ENCODED = re.compile("|".join(_HUBSPOT_DECODED), re.IGNORECASE)


def decoded_url(url: str) -> str:
    """Return *url* with those signs decoded that HubSpot decodes before it signs, and no others."""
    return _ENCODED.sub(lambda found: _HUBSPOT_DECODED[found[0].upper()], url)


def _sort_fields(
    items: Sequence[str], signature_field: str, found: list[str], fields: dict[str, str]
) -> None:
    """Put the signatures of ``name=value`` items into *found*, the others into *fields*."""
    for item in items:
        name, _, value = item.strip().partition("=")
        if name == signature_field:
            found.append(value)
        else:
            fields.setdefault(name, value)


def _parse_timestamp(text: str, unit: Literal["s", "ms", "iso8601"]) -> float | None:
    """Return Unix seconds, or None for what no honest sender writes (signs, underscores, …)."""
    if len(text) > MAX_TIMESTAMP_CHARS or not text.isascii():
        return None
    match unit:
        case "s":
            return float(text) if text.isdigit() else None
        case "ms":
            return float(text) / 1000 if text.isdigit() else None
        case "iso8601":
            try:
                moment = datetime.fromisoformat(text)
            except ValueError:
                return None
            return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
        case _:
            assert_never(unit)
