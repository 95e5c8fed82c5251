"""Bodies of calls: what a route or handler says, as bytes and their content type. Pure.

JSON needs no more than an encoder. A form follows the WHATWG's URL standard (5.2), a multipart body
RFC 7578 and, for names, the WHATWG's HTML standard.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator, Mapping
from hashlib import sha256
from typing import Any, Final, Literal
from urllib.parse import urlencode

from gateway.errors import RenderFailed
from gateway.expressions import to_json

BodyFormat = Literal["json", "form", "multipart", "raw"]

FILE_KEYS: Final = frozenset({"content", "base64", "filename", "content_type"})
"""Of a table that stands for a file in a multipart body: its content is one of the first two."""

_MEDIA_TYPE = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+/[!#$%&'*+.^_`|~0-9A-Za-z-]+(?:;[ -~]*)?")
_MAX_DEPTH = 16


def encode_body(value: object, format: BodyFormat) -> tuple[bytes, str]:  # noqa: A002
    """Return *value* in *format* and its content type, or raise :class:`RenderFailed`."""
    match format:
        case "json":
            return to_json(value), "application/json"
        case "form":
            return encode_form(value), "application/x-www-form-urlencoded"
        case "multipart":
            return encode_multipart(value)
        case "raw":
            text = value if isinstance(value, str) else to_json(value).decode()
            return _utf8(text), "text/plain; charset=utf-8"


def encode_form(value: object) -> bytes:
    """Return the table *value* as a form: lists repeat their name, tables write ``a[b]``.

    What is null is left out.
    """
    pairs = list(_pairs("", _table(value, "a form"), 0))
    try:
        return urlencode(pairs).encode()
    except UnicodeEncodeError:
        raise RenderFailed("the form holds a text that is no valid Unicode") from None


def encode_multipart(value: object) -> tuple[bytes, str]:
    """Return the table *value* as ``multipart/form-data``; lists repeat their name.

    A table in it is a file: ``{ content = …, filename = …, content_type = … }``, where ``base64``
    may stand for ``content``. The boundary is made of the parts, so that the same value gives the
    same bytes in every attempt, and nobody can write a part that contains it.
    """
    parts: list[tuple[bytes, bytes]] = []
    for name, item in _table(value, "a multipart body").items():
        several = item if isinstance(item, list | tuple) else (item,)
        parts += [_part(name, one) for one in several if one is not None]
    if not parts:
        raise RenderFailed("a multipart body has at least one part, and all of its are null")
    digest = sha256()
    for head, content in parts:
        digest.update(b"%d %d " % (len(head), len(content)))
        digest.update(head)
        digest.update(content)
    boundary = digest.hexdigest()[:40].encode()
    body = b"".join(b"--%b\r\n%b\r\n\r\n%b\r\n" % (boundary, *part) for part in parts)
    return body + b"--%b--\r\n" % boundary, f"multipart/form-data; boundary={boundary.decode()}"


def _pairs(name: str, value: object, depth: int) -> Iterator[tuple[str, str]]:
    if depth > _MAX_DEPTH:
        raise RenderFailed(f"the form is nested deeper than {_MAX_DEPTH} tables")
    match value:
        case None:
            return
        case Mapping():
            for key, item in value.items():
                yield from _pairs(f"{name}[{key}]" if name else str(key), item, depth + 1)
        case list() | tuple():
            for item in value:
                yield from _pairs(name, item, depth + 1)
        case _:
            yield name, _text(value)


def _part(name: str, value: object) -> tuple[bytes, bytes]:
    """Return the head and the content of one part."""
    disposition = f'Content-Disposition: form-data; name="{_quoted(name)}"'
    if not isinstance(value, Mapping):
        return _utf8(disposition), _utf8(_text(value))
    if unknown := sorted(map(str, set(value) - FILE_KEYS)):
        raise RenderFailed(f"the file {name!r} has unknown keys: {', '.join(unknown)}")
    if ("content" in value) == ("base64" in value):
        raise RenderFailed(f"the file {name!r} needs either content or base64")
    kind = _text(value.get("content_type") or "application/octet-stream")
    if not _MEDIA_TYPE.fullmatch(kind):
        raise RenderFailed(f"the file {name!r} has {kind[:60]!r} for its content_type")
    filename = _quoted(_text(value.get("filename") or name))
    head = f'{disposition}; filename="{filename}"\r\nContent-Type: {kind}'
    if value.get("content", value.get("base64")) is None:
        raise RenderFailed(f"the content of the file {name!r} is null")
    if "base64" not in value:
        return _utf8(head), _utf8(_text(value["content"]))
    try:
        content = base64.b64decode(_text(value["base64"]), validate=True)
    except (binascii.Error, ValueError):
        raise RenderFailed(f"the content of the file {name!r} is no base64") from None
    return _utf8(head), content


def _table(value: object, what: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise RenderFailed(f"{what} is made of a table, not of a {type(value).__name__}")
    return value


def _text(value: object) -> str:
    return value if isinstance(value, str) else to_json(value).decode()


def _quoted(text: str) -> str:
    return text.replace("\r", "%0D").replace("\n", "%0A").replace('"', "%22").replace("\0", "%00")


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise RenderFailed("the body is no valid Unicode text") from None
