"""Log lines: JSON for machines, colours for a person at a terminal. Events: ``docs/logs.md``.

Whatever is logged, a line stays one line of bounded length, no control character reaches a
terminal, and a value under a sensitive name is masked. This is the last line of defence; the
first is not to log secrets.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, BinaryIO, Literal, TextIO, cast
from uuid import UUID

import msgspec
import structlog
from structlog.typing import EventDict, FilteringBoundLogger, WrappedLogger

Level = Literal["debug", "info", "warning", "error"]

MAX_VALUE_CHARS = 2048
MAX_EXCEPTION_CHARS = 8192
MAX_LINE_CHARS = 32_768  # of values; what comes after is left out
MAX_DEPTH = 4
MASK = "***"

_SENSITIVE = re.compile(
    "authorization|token|secret|password|passwd|signature|cookie|credential|api[-_]?key",
    re.IGNORECASE,
)
_CREDENTIALS_IN_TEXT = (
    (re.compile(r"(://[^\s/:@]*:)[^\s/@]+@"), rf"\1{MASK}@"),  # scheme://user:password@host
    (re.compile(r"(?i)\b(bearer|basic)\s+[\w.~+/=-]{8,}"), rf"\1 {MASK}"),
)
# JSON escapes what is below a space; these it leaves raw: DEL and C1 (an 8-bit CSI starts an
# escape sequence), line separators, marks that reverse the reading direction, lone surrogates.
_ODD = r"\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff"
_UNFIT_FOR_JSON = re.compile(f"[{_ODD}]")
_UNFIT_FOR_TERMINAL = re.compile(rf"[\x00-\x1f{_ODD}]")
_UNFIT_FOR_TRACEBACK = re.compile(rf"[\x00-\x09\x0b-\x1f{_ODD}]")


def configure_logging(
    *, json: bool | None = None, level: Level = "info", stream: TextIO | None = None
) -> None:
    """Send every log line, the standard library's at WARNING and above included, to *stream*.

    *stream* None: standard error. *json* None: JSON unless *stream* is a terminal, where
    ``NO_COLOR`` is honoured. Loggers that were used before keep the earlier settings.
    """
    stream = sys.stderr if stream is None else stream
    as_json = not stream.isatty() if json is None else json
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.format_exc_info,
            _completer(_UNFIT_FOR_JSON if as_json else _UNFIT_FOR_TERMINAL),
            _render_json if as_json else _console_renderer(colors=_wants_colors(stream)),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.BytesLoggerFactory(cast(BinaryIO, _Output(stream))),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(handlers=[_FromStandardLibrary()], level=logging.WARNING, force=True)
    logging.captureWarnings(True)


def get_logger(name: str) -> FilteringBoundLogger:
    """Return the logger of one module; below the configured level its methods do nothing."""
    return cast(FilteringBoundLogger, structlog.get_logger(name))


def _completer(unfit: re.Pattern[str]) -> Callable[[WrappedLogger, str, EventDict], EventDict]:
    """Return the processor that orders the fields of a line and makes their values harmless."""

    def complete(logger: WrappedLogger, level: str, fields: EventDict) -> EventDict:
        cleaner = _Cleaner(unfit)
        line: dict[str, Any] = {
            "timestamp": datetime.now(UTC).isoformat(timespec="microseconds"),
            "level": level,
            "event": cleaner.value(fields.pop("event", "")),
            "logger": logger.name,
        }
        exception = fields.pop("exception", None)
        line.update(cleaner.items(fields.items(), depth=0))
        if exception is not None:
            line["exception"] = _cut_middle(str(exception), MAX_EXCEPTION_CHARS)
            shape = _UNFIT_FOR_JSON if unfit is _UNFIT_FOR_JSON else _UNFIT_FOR_TRACEBACK
            line["exception"] = shape.sub(_visible, _without_credentials(line["exception"]))
        return line

    return complete


class _Cleaner:
    """Makes the values of one line harmless, within one budget of characters for all of them."""

    __slots__ = ("_room", "_unfit")

    def __init__(self, unfit: re.Pattern[str]) -> None:
        self._unfit = unfit
        self._room = MAX_LINE_CHARS

    def items(self, items: Iterable[tuple[Any, Any]], *, depth: int) -> dict[str, Any]:
        cleaned: dict[str, Any] = {}
        for key, value in items:
            if self._room <= 0:
                cleaned["cut"] = True
                break
            name = key if isinstance(key, str) and key.isidentifier() else self.text(str(key))
            self._room -= len(name)
            masked = value is not None and _is_sensitive(name)
            cleaned[name] = MASK if masked else self.value(value, depth)
        return cleaned

    def value(self, value: object, depth: int = 0) -> Any:
        """Return *value* as text, a number, or a container of such.

        Nothing else passes as it is: msgspec would write out a struct's fields, a secret's too.
        """
        self._room -= 8
        if value is None or isinstance(value, bool | float):
            return value
        if isinstance(value, int):
            return int(value) if -(1 << 63) <= value < 1 << 63 else self.text(hex(value))
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, UUID):
            return str(value)
        if isinstance(value, datetime):
            return value.isoformat()
        if depth < MAX_DEPTH:
            if isinstance(value, Mapping):
                return self.items(value.items(), depth=depth + 1)
            if isinstance(value, list | tuple | set | frozenset):
                return [self.value(item, depth + 1) for item in self._while_room(value)]
        return self.text(_shown(value))

    def text(self, text: str) -> str:
        length = len(text)
        # Masked before the cut, so that a cut cannot hide from the mask where a secret ends.
        text = _without_credentials(text[: 2 * MAX_VALUE_CHARS])
        if len(text) > MAX_VALUE_CHARS:
            text = f"{text[:MAX_VALUE_CHARS]}… (cut, {length} characters)"
        if not text.isprintable():  # all of what is unfit is unprintable, not the reverse
            text = self._unfit.sub(_visible, text)
        self._room -= len(text)
        return text

    def _while_room(self, items: Iterable[object]) -> Iterable[object]:
        for item in items:
            if self._room <= 0:
                return
            yield item


@lru_cache(maxsize=1024)
def _is_sensitive(name: str) -> bool:
    return _SENSITIVE.search(name) is not None


def _without_credentials(text: str) -> str:
    if " " not in text and "://" not in text:  # most values: ids, names, states
        return text
    for pattern, masked in _CREDENTIALS_IN_TEXT:
        text = pattern.sub(masked, text)
    return text


def _visible(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"


def _cut_middle(text: str, limit: int) -> str:
    """Keep both ends: a traceback's first and last lines tell the most."""
    if len(text) <= limit:
        return text
    return f"{text[: limit // 2]}\n… (cut, {len(text)} characters)\n{text[-limit // 2 :]}"


def _shown(value: object) -> str:
    try:
        return str(value) if isinstance(value, BaseException) else repr(value)
    except Exception:  # noqa: BLE001 - a broken __repr__ must not break the work that logs it
        return f"<unprintable {type(value).__name__}>"


def _render_json(_logger: WrappedLogger, _method: str, fields: EventDict) -> bytes:
    return msgspec.json.encode(fields)


def _console_renderer(*, colors: bool) -> Callable[[WrappedLogger, str, EventDict], bytes]:
    # The plain formatter: the default one, rich's, prints local variables, secrets among them.
    render = structlog.dev.ConsoleRenderer(
        colors=colors,
        sort_keys=False,
        pad_event_to=24,
        exception_formatter=structlog.dev.plain_traceback,
    )

    def encode(logger: WrappedLogger, method: str, fields: EventDict) -> bytes:
        if "exception" in fields:  # indented, so that no line of it passes for a line of the log
            fields["exception"] = "  " + fields["exception"].replace("\n", "\n  ")
        return render(logger, method, fields).encode()

    return encode


def _wants_colors(stream: TextIO) -> bool:
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


class _Output:
    """Where lines go, as bytes. A closed pipe or full disk never fails the work that logs."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._buffer: BinaryIO | None = getattr(stream, "buffer", None)

    def write(self, line: bytes) -> None:
        with contextlib.suppress(OSError, ValueError):  # ValueError: the file is closed
            if self._buffer is None:
                self._stream.write(line.decode())
            else:
                self._buffer.write(line)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._stream.flush()


class _FromStandardLibrary(logging.Handler):
    """Hands the records of asyncio, aiohttp and warnings over to our log."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            message = record.getMessage()
        except (TypeError, ValueError, KeyError):  # its arguments do not fit its format
            message = str(record.msg)
        log = get_logger(record.name)
        write = log.error if record.levelno >= logging.ERROR else log.warning
        write("library_logged", message=message, exc_info=record.exc_info)
