"""Expressions and templates of the configuration, compiled once and run on each event.

A condition is lenient: a missing field is false. A template is strict: a missing field fails,
with a text that tells which. What may stand in either is told in ``sandbox``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, NamedTuple
from urllib.parse import parse_qsl, quote, unquote

import msgspec
from jinja2 import TemplateError, TemplateSyntaxError
from jinja2.runtime import Undefined
from jinja2.utils import missing

from gateway.errors import ExpressionInvalid, RenderFailed
from gateway.sandbox import CONDITIONS, VALUES, Compiled, cut, shown, syntax_problem

EVENT_NAMES: Final = frozenset(
    {"event", "headers", "query", "vendor", "event_type", "event_id", "correlation_id"}
    | {"received_at"}
)
"""Known once an event is accepted, and so in ``where`` and ``ordering_key``."""

JOB_NAMES: Final = EVENT_NAMES | {"job_id", "attempt"}
"""Known while a job runs, and so in ``call``, ``headers`` and ``body``."""

RESPONSE_NAMES: Final = frozenset({"response", "status", "headers"})
"""Known once a vendor has answered, and so in ``fail_when`` and ``retry_when``."""

MISSING: Final = missing
"""A context's value for a name that has none, such as the event of a body that is no JSON."""

Context = Mapping[str, Any]  # name → value

MAX_LINE_CHARS: Final = 8000  # of a rendered path or header: what servers commonly take

METHODS: Final = ("GET", "POST", "PUT", "PATCH", "DELETE")

_VENDOR: Final = re.compile(r"[^\s:/{}]+")
_UNFIT_FOR_URL: Final = re.compile(r"[^!-~]|[#\"<>\\^`{|}]|%(?![0-9A-Fa-f]{2})")
UNFIT_FOR_HEADERS: Final = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\ud800-\udfff]")


class Expression:
    """A condition over an event. What is missing is false, and so is what cannot be computed."""

    __slots__ = ("_compiled", "names", "text")

    def __init__(self, text: str, compiled: Compiled) -> None:
        self.text = text
        self.names = compiled.names
        self._compiled = compiled

    @classmethod
    def compile(cls, text: str, *, names: frozenset[str] = EVENT_NAMES) -> Expression:
        """Raise :class:`ExpressionInvalid`, which tells what in *text* is wrong."""
        if text.lstrip().startswith("{{"):
            raise ExpressionInvalid(f"{shown(text)}: write the condition without {{{{ }}}}")
        return cls(text, Compiled(CONDITIONS, text, names))

    def truth(self, context: Context) -> bool:
        """Tell whether the condition holds; never raises."""
        try:
            value = self._compiled.value(context)
            return bool(list(value) if isinstance(value, Iterator) else value)
        except Exception:  # noqa: BLE001 - whatever a vendor's data provokes: no match
            return False


class Template:
    """A TOML value whose strings, at any depth, may hold ``{{ … }}``. Keys are taken as they are.

    A string that is exactly one ``{{ … }}`` keeps the type of its value; text around it makes a
    string, in which true, false, tables and lists are written as in JSON and null is refused.
    """

    __slots__ = ("_fill", "_parts", "_value", "constant", "names")

    def __init__(
        self,
        value: object,
        *,
        parts: tuple[str | _Hole, ...] = (),
        fill: Callable[[Context], object] | None = None,
        names: frozenset[str] = frozenset(),
    ) -> None:
        self.constant = fill is None
        self.names = names
        self._value = value
        self._parts = parts
        self._fill = fill

    @classmethod
    def compile(cls, value: object, *, names: frozenset[str] = JOB_NAMES) -> Template:
        """Raise :class:`ExpressionInvalid`, which tells what in *value* is wrong."""
        match value:
            case str():
                return cls._of_text(value, names)
            case dict():
                table = {key: cls.compile(item, names=names) for key, item in value.items()}
                return cls._of_items(
                    value,
                    list(table.values()),
                    lambda context: {key: item._filled(context) for key, item in table.items()},
                )
            case list() | tuple():
                items = [cls.compile(item, names=names) for item in value]
                return cls._of_items(
                    value, items, lambda context: [item._filled(context) for item in items]
                )
            case _:
                return cls(value)

    def render(self, context: Context) -> Any:
        """Return the value for *context*, or raise :class:`RenderFailed`; nothing else is raised.

        What is constant is the same object each time: it must not be changed.
        """
        return self._value if self._fill is None else self._fill(context)

    def render_text(self, context: Context) -> str:
        """Return the text for *context*, also where :meth:`render` would keep a type."""
        return "".join(
            part if isinstance(part, str) else part.text(context) for part in self._parts
        )

    def render_header(self, context: Context) -> str | None:
        """Return the text of a header, or None to leave it out: its one ``{{ … }}`` is null.

        What could end the header or start another is refused.
        """
        if self._one_hole and self.render(context) is None:
            return None
        text = self.render_text(context)
        if UNFIT_FOR_HEADERS.search(text):
            raise RenderFailed(
                f"{shown(str(self._value))}: the value holds a control character "
                "(such as a line break), which a header cannot carry"
            )
        return self._bounded(text.strip(" \t"))

    def render_url(self, context: Context) -> str:
        """Return a path and query in which each substituted value is one segment or query value.

        The text around the substitutions is kept as it is, and is taken to be percent-encoded.
        Refused is a value that would make another path of it: an empty one, ``.`` and ``..``.
        """
        url, in_query = "", False
        for part in self._parts:
            if isinstance(part, str):
                url += part
                in_query = in_query or "?" in part
                continue
            text = part.text(context)
            if not text and not in_query:
                raise part.failed("the value is empty, which leaves a hole in the path")
            try:
                url += quote(text, safe="")
            except UnicodeEncodeError:
                raise part.failed("the value is no valid Unicode text") from None
        if has_dot_segment(url):
            raise RenderFailed(f"{shown(str(self._value))}: the path would hold '.' or '..'")
        return self._bounded(url)

    @classmethod
    def _of_text(cls, text: str, names: frozenset[str]) -> Template:
        parts = tuple(_split(text, names))
        holes = [part for part in parts if isinstance(part, _Hole)]
        if not holes:
            return cls("".join(map(str, parts)), parts=parts)
        used = frozenset[str]().union(*(hole.names for hole in holes))
        if len(parts) == 1:
            return cls(text, parts=parts, fill=holes[0].value, names=used)

        def fill(context: Context) -> str:
            return "".join(part if isinstance(part, str) else part.text(context) for part in parts)

        return cls(text, parts=parts, fill=fill, names=used)

    @classmethod
    def _of_items(
        cls, value: object, items: list[Template], fill: Callable[[Context], object]
    ) -> Template:
        if all(item.constant for item in items):
            return cls(value)
        return cls(value, fill=fill, names=frozenset[str]().union(*(item.names for item in items)))

    @property
    def _one_hole(self) -> bool:
        return len(self._parts) == 1 and not self.constant

    def _bounded(self, line: str) -> str:
        if len(line) > MAX_LINE_CHARS:
            raise RenderFailed(
                f"{shown(str(self._value))}: the result has {len(line)} characters; "
                f"a path or header may have {MAX_LINE_CHARS}"
            )
        return line

    def _filled(self, context: Context) -> object:
        return self._value if self._fill is None else self._fill(context)


class CallTarget(NamedTuple):
    """A route's ``call``, taken apart; *path* has the query, and may hold templates."""

    method: str
    vendor: str
    path: str


def parse_call(text: str) -> tuple[str, str, Template]:
    """Split ``"METHOD vendor:/path"`` into the method, the vendor and the path with its query.

    Raises :class:`ExpressionInvalid`, which tells what to write instead.
    """
    method, vendor, path = split_call(text)
    template = Template.compile(path)
    for part in template._parts:
        if isinstance(part, str) and (unfit := _UNFIT_FOR_URL.search(part)):
            raise ExpressionInvalid(
                f"{shown(text)}: {unfit[0]!r} cannot stand in a URL; "
                f"write it percent-encoded: {quote(unfit[0], safe='')}"
            )
    if template.constant and has_dot_segment(path):
        raise ExpressionInvalid(f"{shown(text)}: the path cannot hold '.' or '..' segments")
    return method, vendor, template


def split_call(text: str) -> CallTarget:
    """Do the same without a look at the path's templates; raises :class:`ExpressionInvalid`."""
    shape = 'write "METHOD vendor:/path", such as "POST crm:/deals"'
    method, _, target = text.strip().partition(" ")
    if method not in METHODS:
        raise ExpressionInvalid(
            f"{shown(text)}: {method!r} is no method; {shape}, with one of {', '.join(METHODS)}"
        )
    vendor, colon, path = target.strip().partition(":")
    if not colon or not _VENDOR.fullmatch(vendor):
        raise ExpressionInvalid(f"{shown(text)}: the vendor is missing; {shape}")
    if path.startswith("//"):
        raise ExpressionInvalid(
            f"{shown(text)}: a whole URL belongs into the vendor's base_url; {shape}"
        )
    if not path.startswith("/"):
        raise ExpressionInvalid(f"{shown(text)}: the path must begin with '/'; {shape}")
    return CallTarget(method, vendor, path)


def has_dot_segment(url: str) -> bool:
    """Tell whether a server could take a part of *url*'s path for ``.`` or ``..``."""
    if "." not in url and "%2" not in url:
        return False
    path = url.partition("?")[0]
    return any(piece in (".", "..") for piece in re.split(r"[/\\]", unquote(path)))


def parse_query(raw: str) -> dict[str, str]:
    """Return the first value of each name in the query string *raw*."""
    values: dict[str, str] = {}
    for name, value in parse_qsl(raw, keep_blank_values=True):
        values.setdefault(name, value)
    return values


def to_json(value: object) -> bytes:
    """Return *value* as JSON; what JSON cannot say is :class:`RenderFailed`."""
    try:
        return msgspec.json.encode(value)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise RenderFailed(f"the value cannot be written as JSON: {error}") from None


class HeaderView(Mapping[str, str]):
    """Headers by name, in any case; *headers* has its names in lower case."""

    __slots__ = ("_headers",)

    def __init__(self, headers: Mapping[str, str]) -> None:
        self._headers = headers

    def __getitem__(self, name: str) -> str:
        return self._headers[name.lower()]

    def __iter__(self) -> Iterator[str]:
        return iter(self._headers)

    def __len__(self) -> int:
        return len(self._headers)


class _Unfit(Exception):  # never leaves this module
    """A value has no place where the template puts it."""


class _Hole:
    """One ``{{ … }}`` of a text."""

    __slots__ = ("_compiled", "names", "source")

    def __init__(self, source: str, names: frozenset[str]) -> None:
        self.source = source.strip()
        self._compiled = Compiled(VALUES, self.source, names)
        self.names = self._compiled.names

    def value(self, context: Context) -> object:
        try:
            value = self._compiled.value(context)
            if self._compiled.only_reads and type(value) in (dict, list):
                return value  # as it was decoded, and perhaps large
            return value if type(value) is str or type(value) is int else _plain(value)
        except Exception as error:  # noqa: BLE001 - an operator's expression over a vendor's data
            raise self.failed(_reason(error)) from None

    def text(self, context: Context) -> str:
        value = self.value(context)
        if type(value) is str:
            return value
        try:
            return _text(value)
        except (_Unfit, RenderFailed) as error:
            raise self.failed(str(error)) from None

    def failed(self, reason: str) -> RenderFailed:
        return RenderFailed(f"{{{{ {cut(self.source)} }}}}: {reason}")


def _reason(error: Exception) -> str:
    match error:
        case TemplateError() | _Unfit() | RenderFailed():
            return str(error)
        case _:
            return f"{type(error).__name__}: {error}"


def _plain(value: object) -> object:
    """Return *value* as JSON knows it: lists for what a filter only streams, nothing missing."""
    match value:
        case None | str() | bool() | int():
            return value
        case float():
            if not math.isfinite(value):
                raise _Unfit("the number is infinite or not a number")
            return value
        case Undefined():
            raise _Unfit(str(value._undefined_message))
        case Mapping():
            return {_key(key): _plain(item) for key, item in value.items()}
        case list() | tuple() | Iterator():
            return [_plain(item) for item in value]
        case _:
            raise _Unfit(f"a {type(value).__name__} is no JSON value")


def _key(key: object) -> str:
    if isinstance(key, str):
        return key
    raise _Unfit(f"a key must be text, not {type(key).__name__}")


def _text(value: object) -> str:
    match value:
        case str():
            return value
        case None:
            raise _Unfit("the value is null; if that is fine, add: | default('', true)")
        case _:
            return to_json(value).decode()


def _split(text: str, names: frozenset[str]) -> Iterator[str | _Hole]:
    """Cut *text* into what stands as it is and what is computed."""
    source: list[str] | None = None  # of the {{ … }} that we are in
    try:
        for _line, token, value in VALUES.lexer.tokeniter(text, None):
            match token:
                case "variable_begin":
                    source = []
                case "variable_end":
                    yield _Hole("".join(source or ()), names)
                    source = None
                case "block_begin":
                    raise ExpressionInvalid(
                        f"{shown(text)}: statements ({{% … %}}) are not supported; write "
                        "{{ a if condition else b }}, or use a handler in Python"
                    )
                case "data" if value:
                    yield value
                case _ if source is not None:
                    source.append(value)
    except TemplateSyntaxError as error:
        raise ExpressionInvalid(f"{shown(text)}: {syntax_problem(error)}") from None
    if source is not None:
        raise ExpressionInvalid(f"{shown(text)}: '{{{{' has no matching '}}}}'")
