"""Masks fields of bodies by their paths, so that what is kept of a call holds no card's number.

A path is dotted, ``card.number``; lists are looked through, and upper case does not matter. ``*``
stands for any part of the way, however long, also for none; at the end it stands for every field
that is there: ``*.token`` is a token anywhere, ``card.*`` all of a card. A body that cannot be
looked into is left out as a whole: what is not understood may hold what shall not be kept.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final
from urllib.parse import parse_qsl, urlencode

import msgspec

MASK: Final = "***"
_MAX_BYTES = 1 << 20  # of a body that is worth the work
_MAX_FIELDS = 10_000

_PATH = re.compile(r"[^\s.\[\]$]+(?:\.[^\s.\[\]$]+)*")
_decode, _encode = msgspec.json.Decoder().decode, msgspec.json.Encoder().encode

Path = tuple[str, ...]  # its steps, in lower case


def parse_path(text: str) -> Path:
    """Return the steps of a path; ValueError tells how one is written."""
    if _PATH.fullmatch(text) is None:
        raise ValueError('a path is dotted, "card.number" or "*.token"; lists are looked through')
    steps: list[str] = []
    for step in text.lower().split("."):
        if step != "*" or steps[-1:] != ["*"]:
            steps.append(step)
    return tuple(steps)


def masked_body(body: bytes, content_type: str, paths: frozenset[Path]) -> bytes:
    """Return *body* with what *paths* name masked, or a text in its place that says why not."""
    if not body.strip():
        return body
    kind = content_type.partition(";")[0].strip().lower()
    if len(body) > _MAX_BYTES:
        return _left_out("so long a body")
    if kind.startswith("multipart/"):
        return _left_out(kind[:60])
    try:
        if kind == "application/x-www-form-urlencoded":
            return _masked_form(body, paths)
        return _encode(_masked(_decode(body), paths))
    except (ValueError, RecursionError):  # no JSON, no UTF-8, too many fields
        return _left_out("what is neither JSON nor a form")


def _masked(value: object, paths: Iterable[Path]) -> object:
    match value:
        case dict():
            masked = {}
            for key, item in value.items():
                hit, below = _step(paths, key.lower())
                masked[key] = MASK if hit else _masked(item, below) if below else item
            return masked
        case list():
            return [_masked(item, paths) for item in value]
        case _:
            return value


def _masked_form(body: bytes, paths: frozenset[Path]) -> bytes:
    pairs = parse_qsl(
        body.decode(), keep_blank_values=True, errors="strict", max_num_fields=_MAX_FIELDS
    )
    masked = [(name, MASK if _names(paths, name) else value) for name, value in pairs]
    return urlencode(masked, safe="*[]").encode()


def _names(paths: Iterable[Path], name: str) -> bool:
    """Tell whether a path names the form's field *name*, ``card[number]``, or what is around it."""
    for key in re.split(r"[\[\].]+", name.lower()):
        if key:
            hit, paths = _step(paths, key)
            if hit:
                return True
    return False


def _step(paths: Iterable[Path], key: str) -> tuple[bool, set[Path]]:
    """Return whether a path ends at the field *key*, and what is left of those that go on there."""
    below: set[Path] = set()
    for path in paths:
        rest = path
        if path[0] == "*":
            if len(path) == 1:
                return True, below
            below.add(path)
            rest = path[1:]
        if rest[0] == key:
            if len(rest) == 1:
                return True, below
            below.add(rest[1:])
    return False, below


def _left_out(what: str) -> bytes:
    return f"<left out: redact cannot look into {what}>".encode()
