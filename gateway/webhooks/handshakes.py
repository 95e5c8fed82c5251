"""Requests that are no events: which one a sender shakes hands with, and what it wants to hear.

An answer repeats what the request brought, so it is always marked as what it is: plain text or
JSON that no browser may take for a page, its header values without line breaks.
"""

from __future__ import annotations

import binascii
import hmac
import json
import re
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from gateway.errors import SignatureRefused
from gateway.webhooks.codec import decode_key
from gateway.webhooks.extract import UNDECODED, decode_body, node_at
from gateway.webhooks.scheme import ASYMMETRIC, Handshake, Scheme
from gateway.webhooks.signed import Need, SignedRequest
from gateway.webhooks.verify import HANDSHAKE_TOKEN, query_fields

MAX_TEXT_CHARS = 2048  # of each text that an answer repeats
_MIN_LEARNT_CHARS = 16

_PLACEHOLDER = re.compile(r"\{((?:hmac-hex:|hmac-base64:)?(?:query|header|body):[^{}\"\s]+)\}")
_VISIBLE = re.compile(r"[ -~]*")


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What to answer; and before that, what to keep or to fetch."""

    status: int
    body: bytes
    headers: dict[str, str]
    learnt: str | None = None  # the sender's secret from now on
    confirm: Need | None = None


class Handshakes:
    """All handshakes of one vendor. ``ValueError`` says what is wrong with one.

    *secrets* are the vendor's; *verify_token* is what a sender shows that proves itself that way.
    """

    def __init__(
        self,
        handshakes: Sequence[Handshake],
        *,
        scheme: Scheme | None,
        secrets: Sequence[str],
        verify_token: str | None = None,
    ) -> None:
        keys = _hmac_keys(scheme, secrets)
        compiled = [_Compiled(handshake, keys, verify_token) for handshake in handshakes]
        self._signed = tuple(one for one in compiled if one.handshake.signed)
        self._unsigned = tuple(one for one in compiled if not one.handshake.signed)
        self.methods = frozenset(handshake.method for handshake in handshakes)

    def unsigned_answer(self, request: SignedRequest) -> Answer | None:
        """Return the answer to a handshake that its sender does not sign; None if it is none.

        Raises :class:`SignatureRefused` where it does not show what it should.
        """
        return _first(self._unsigned, request, 0)

    def signed_answer(self, request: SignedRequest, secret_index: int) -> Answer | None:
        """Return the answer to a verified handshake; None if the request is none.

        *secret_index* tells which secret the request was signed with.
        """
        return _first(self._signed, request, secret_index)


class _Body:
    """The decoded body of one request, decoded when it is first asked for."""

    def __init__(self, request: SignedRequest) -> None:
        self.request = request
        self.query = query_fields(request.query)
        self._decoded: Any = self

    def node(self, source: str) -> object:
        """Return what stands at *source*; None for nothing, or an empty text."""
        kind, _, name = source.partition(":")
        match kind:
            case "query":
                return self.query.get(name) or None
            case "header":
                return self.request.headers.get(name.lower()) or None
            case _:
                if self._decoded is self:
                    content_type = self.request.headers.get("content-type")
                    self._decoded = decode_body(self.request.body, content_type)
                found = (
                    None if self._decoded is UNDECODED else node_at(self._decoded, name.split("."))
                )
                return None if found == "" else found


def _first(compiled: Sequence[_Compiled], request: SignedRequest, index: int) -> Answer | None:
    parts: _Body | None = None
    for one in compiled:
        if one.may_match(request):
            parts = parts or _Body(request)
            if one.matches(parts):
                return one.answer(parts, index)
    return None


class _Compiled:
    """One handshake with its keys."""

    def __init__(self, handshake: Handshake, keys: Sequence[bytes], token: str | None) -> None:
        check_handshake(handshake)
        self.handshake = handshake
        self._keys = keys
        self._token = None if token is None else token.encode()
        # A text that must stand in the body is looked for before the body is decoded for it.
        self._needles = [
            expected.encode()
            for source, expected in handshake.match.items()
            if source.startswith("body:") and re.fullmatch("[A-Za-z0-9_.]+", expected)
        ]

    def may_match(self, request: SignedRequest) -> bool:
        return request.method == self.handshake.method and all(
            needle in request.body for needle in self._needles
        )

    def matches(self, parts: _Body) -> bool:
        for source, expected in self.handshake.match.items():
            node = parts.node(source)
            if expected == "*":
                if node is None:
                    return False
            elif (_spelled(node) if node is not None else "") != expected:
                return False
        return True

    def answer(self, parts: _Body, index: int) -> Answer:
        handshake = self.handshake
        if handshake.proof:
            given = _text(parts, handshake.proof).encode("utf-8", "surrogatepass")
            if self._token is None:
                raise SignatureRefused(
                    "a handshake came, but there is no verify_token to hold it to"
                )
            if not hmac.compare_digest(self._token, given):
                raise SignatureRefused(f"{handshake.proof} is not the verify_token")
        as_json = handshake.content_type == "application/json"
        body = self._render(handshake.body, parts, index, escape=_escaped if as_json else str)
        headers = {
            name: self._render(value, parts, index, escape=_header_value)
            for name, value in handshake.headers.items()
        }
        if body or handshake.status == 200:
            charset = "" if as_json else "; charset=utf-8"
            headers["Content-Type"] = handshake.content_type + charset
        headers["X-Content-Type-Options"] = "nosniff"
        return Answer(
            status=handshake.status,
            body=body.encode("utf-8", "replace"),
            headers=headers,
            learnt=_learnt(_text(parts, handshake.learn)) if handshake.learn else None,
            confirm=self._confirmation(parts) if handshake.confirm else None,
        )

    def _render(
        self, template: str, parts: _Body, index: int, *, escape: Callable[[str], str]
    ) -> str:
        def put(found: re.Match[str]) -> str:
            kind, _, source = found[1].partition(":")
            if kind not in ("hmac-hex", "hmac-base64"):
                return escape(_text(parts, found[1]))
            message = _text(parts, source).encode("utf-8", "replace")
            if not self.handshake.signed and HANDSHAKE_TOKEN(message) is None:
                raise SignatureRefused(f"{source} is no token of a handshake")
            if index >= len(self._keys):
                raise SignatureRefused("there is no secret to answer this handshake with")
            digest = hmac.digest(self._keys[index], message, "sha256")
            if kind == "hmac-hex":
                return digest.hex()
            return binascii.b2a_base64(digest, newline=False).decode()

        return _PLACEHOLDER.sub(put, template)

    def _confirmation(self, parts: _Body) -> Need:
        url = _text(parts, self.handshake.confirm)
        if re.fullmatch(self.handshake.confirm_url, url) is None:
            raise SignatureRefused(f"{self.handshake.confirm} is none of the sender's own URLs")
        return Need(url=url, key=url, keep_seconds=0.0)


def check_handshake(handshake: Handshake) -> None:
    """Raise ``ValueError`` for a handshake that would give something away or never match."""
    if not handshake.match:
        raise ValueError('match: is empty, so every request would be one; write "query:name" = "*"')
    sources = [*handshake.match, *filter(None, (handshake.proof,))]
    for source in sources:
        if re.fullmatch(r"(?:query|header|body):[^{}\"\s]+", source) is None:
            raise ValueError(
                f'"{source}" is no source; write "query:name", "header:X-Name" or "body:a.b"'
            )
    templates = (handshake.body, *handshake.headers.values())
    for template in templates:
        left = _PLACEHOLDER.sub("", template)
        if unknown := re.search(r"\{[a-z-]+:[^{}\"\s]*\}", left):
            raise ValueError(
                f"{unknown[0]} is no placeholder; write {{query:name}}, {{header:X-Name}}, "
                "{body:a.b}, {hmac-hex:…} or {hmac-base64:…}"
            )
    if handshake.method == "GET" and handshake.signed:
        raise ValueError("signed: senders sign what they POST; write signed = false for a GET")


def _hmac_keys(scheme: Scheme | None, secrets: Sequence[str]) -> tuple[bytes, ...]:
    """Return the secrets as keys of an HMAC; none where they are something else."""
    if scheme is None or scheme.check or scheme.algorithm in ASYMMETRIC:
        return ()
    other = scheme.alternative
    if other and any(secret.startswith(other.key_prefix) for secret in secrets):
        return ()
    return tuple(decode_key(scheme, secret) for secret in secrets)


def _text(parts: _Body, source: str) -> str:
    node = parts.node(source)
    if node is None or isinstance(node, dict | list):
        raise SignatureRefused(f"the handshake has no text at {source}")
    text = _spelled(node)
    if len(text) > MAX_TEXT_CHARS:
        raise SignatureRefused(f"{source} has over {MAX_TEXT_CHARS} characters")
    return text


def _spelled(node: object) -> str:
    match node:
        case str():
            return node
        case bool():
            return "true" if node else "false"
        case dict() | list():
            return "[…]" if node else "[]" if isinstance(node, list) else "{}"
        case _:
            return str(node)


def _escaped(text: str) -> str:
    return json.dumps(text)[1:-1]


def _header_value(text: str) -> str:
    if _VISIBLE.fullmatch(text) is None:
        raise SignatureRefused("what a header should repeat is no visible ASCII")
    return text


def _learnt(secret: str) -> str:
    if len(secret) < _MIN_LEARNT_CHARS or _VISIBLE.fullmatch(secret) is None:
        raise SignatureRefused(
            f"the handshake's secret is not at least {_MIN_LEARNT_CHARS} visible characters"
        )
    return secret
