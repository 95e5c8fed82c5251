"""Which event is it: read one text out of a webhook's headers or body, wherever its sender puts it.

A *source* is ``"header:Name"``, ``"body:dotted.path"`` (keys of objects and indexes of arrays),
``"hash"`` (of the raw body) or ``"none"``; several, of which the first that finds something is
taken, are joined by ``" | "``. Nothing here raises because of what a sender sent.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any, Final, TypedDict
from urllib.parse import parse_qsl

import msgspec

from gateway.texts import storable

MAX_EVENT_TYPE_CHARS = 200
MAX_DEDUPE_KEY_CHARS = 255
MAX_FORM_FIELDS = 1000

Headers = Mapping[str, str]  # found by a name in lower case
Lookup = Callable[[Headers, object], str | None]  # (headers, decoded body)
Extract = Callable[[Headers, object, bytes], str | None]  # (headers, decoded body, raw body)
DecodeJson = Callable[[bytes], object]  # raises ValueError or RecursionError


class _Undecoded(Enum):
    UNDECODED = "undecoded"


UNDECODED: Final = _Undecoded.UNDECODED
"""Stands in for the body that is neither JSON nor a form; differs from JSON's ``null``."""


def compile_source(source: str) -> Extract:
    """Return a function that finds *source*'s text, fit for PostgreSQL but of any length.

    ``ValueError`` tells what to write instead of a source that cannot be understood.
    """
    if source == "hash":
        return lambda _headers, _decoded, body: hashlib.sha256(body).hexdigest()
    if source == "none":
        return lambda _headers, _decoded, _body: None
    lookup = compile_lookup(source)

    def extract(headers: Headers, decoded: object, _body: bytes) -> str | None:
        text = lookup(headers, decoded)
        return None if text is None else storable(text)

    return extract


def compile_event_type(source: str) -> Extract:
    """Return a function that finds the event's type, cut to 200 characters; None if there is none.

    An empty *source* is ``"none"``.
    """
    find = compile_source(source or "none")

    def event_type(headers: Headers, decoded: object, body: bytes) -> str | None:
        text = find(headers, decoded, body)
        return None if text is None else text[:MAX_EVENT_TYPE_CHARS]

    return event_type


def compile_dedupe(source: str) -> Extract:
    """Return a function that finds the event's dedupe key: None only where *source* is "none".

    A source that finds nothing falls back to the hash of the raw body, so that an event without
    its usual key is still stored once. A key that is too long, or that PostgreSQL cannot hold, is
    replaced by ``"sha256:<hex>"`` of it: two different keys never become one.
    """
    if source in ("hash", "none"):
        return compile_source(source)
    lookup = compile_lookup(source)

    def dedupe_key(headers: Headers, decoded: object, body: bytes) -> str:
        text = lookup(headers, decoded)
        if text is None:
            return hashlib.sha256(body).hexdigest()
        if len(text) > MAX_DEDUPE_KEY_CHARS or storable(text) != text:
            return "sha256:" + hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
        return text

    return dedupe_key


def compile_lookup(source: str) -> Lookup:
    """Return a function that finds the text of a ``header:`` or ``body:`` source as it was sent.

    An empty text counts as not found.
    """
    lookups = [_compile_one(alternative) for alternative in _alternatives(source)]
    if len(lookups) == 1:
        return lookups[0]

    def first(headers: Headers, decoded: object) -> str | None:
        return next((text for look in lookups if (text := look(headers, decoded))), None)

    return first


def _alternatives(source: str) -> list[str]:
    return [alternative.strip() for alternative in source.split("|")]


decode_json = msgspec.json.Decoder().decode


def compile_decoder(*sources: str) -> DecodeJson | None:
    """Return a JSON decoder for who looks for these *sources* only; None if none is in the body.

    It builds what stands at their paths and passes over the rest, which is most of an event, in a
    third of the time. What is passed over must be JSON as well, but its texts may be no UTF-8 and
    its numbers too large for a float.
    """
    alternatives = [one for source in sources for one in _alternatives(source)]
    paths = [one[5:].split(".") for one in alternatives if one.startswith("body:")]
    if not paths:
        return None
    decode_asked = msgspec.json.Decoder(_shape_of(paths)).decode

    def decode(body: bytes) -> object:
        try:
            return decode_asked(body)
        except ValueError:  # not of the shape: a list for an object, say, where nothing is found
            return decode_json(body)

    return decode


def _shape_of(paths: list[list[str]]) -> Any:
    """Return the type, as msgspec knows them, of what holds *paths* and nothing else."""
    # A leaf; what may be a list; and members of such names msgspec 0.22 may not find.
    if any(not path or path[0].isdecimal() or not path[0].isascii() for path in paths):
        return Any
    below: dict[str, list[list[str]]] = {}
    for first, *rest in paths:
        below.setdefault(first, []).append(rest)
    members = {step: _shape_of(rest) for step, rest in below.items()}
    return TypedDict("Asked", members, total=False) | None  # type: ignore[operator]


def decode_body(
    body: bytes, content_type: str | None, decode_json: DecodeJson = decode_json
) -> object:
    """Return the decoded JSON, a form as a dict of texts (lists where repeated), or UNDECODED.

    JSON is tried whatever the content type says. Where it says that this is a form, which is some
    clients' default, only a body that begins as no form can is tried so.
    """
    is_form = content_type is not None and "x-www-form-urlencoded" in content_type.lower()
    if is_form and not begins_as_json(body):
        return _decode_form(body)
    try:
        return decode_json(body)
    except (ValueError, RecursionError):  # msgspec.DecodeError and UnicodeError are ValueErrors
        return _decode_form(body) if is_form else UNDECODED


def begins_as_json(body: bytes) -> bool:
    """Tell whether *body* begins with a brace or bracket, which a form would have encoded."""
    return body[:64].lstrip()[:1] in (b"{", b"[")


def _decode_form(body: bytes) -> object:
    try:
        pairs = parse_qsl(
            body.decode("utf-8"),
            keep_blank_values=True,
            errors="strict",
            max_num_fields=MAX_FORM_FIELDS,
        )
    except ValueError:  # no UTF-8, or too many fields
        return UNDECODED
    form: dict[str, str | list[str]] = {}
    for name, value in pairs:
        match form.get(name):
            case None:
                form[name] = value
            case list() as values:
                values.append(value)
            case str() as only:
                form[name] = [only, value]
    return form


def _compile_one(source: str) -> Lookup:
    kind, _, where = source.partition(":")
    if kind == "header" and where and where.isascii() and where.isprintable() and " " not in where:
        name = where.lower()
        return lambda headers, _decoded: headers.get(name) or None
    if kind == "body" and all(where.split(".")):
        return _compile_path(where.split("."))
    raise ValueError(
        f'unknown source "{source}"; write "header:X-Name", "body:dotted.path", "hash" or "none"'
    )


def node_at(value: object, path: list[str]) -> object:
    """Return what stands at *path* of a decoded body; None if there is nothing, or a null."""
    for step in path:
        match value:
            case dict():
                value = value.get(step)
            case list() if step.isdecimal() and len(step) < 10 and int(step) < len(value):
                value = value[int(step)]
            case _:
                return None
    return value


def _compile_path(path: list[str]) -> Lookup:
    def look(_headers: Headers, value: object) -> str | None:
        value = node_at(value, path)
        match value:
            case str():
                return value or None
            case bool():
                return "true" if value else "false"
            case int() | float():
                return str(value)
            case _:
                return None

    return look
