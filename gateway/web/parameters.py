"""What operators write into URLs, read strictly: a fault names the parameter and what it takes."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from datetime import datetime
from typing import TypeVar
from uuid import UUID

from multidict import MultiMapping

from gateway.errors import GatewayError
from gateway.model import JobState
from gateway.store.operators import MAX_LIMIT, decode_cursor, parse_moment
from gateway.store.records import JobFilter

DEFAULT_LIMIT = 50
MAX_TEXT_CHARS = 255
FILTERS = ("state", "vendor", "route", "correlation_id", "event_id", "since", "until")

_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.IGNORECASE)
_LIMIT = re.compile(r"[0-9]{1,4}")

Value = TypeVar("Value")


class BadParameter(GatewayError):
    """A parameter of the request cannot be used."""

    def __init__(self, name: str, problem: str, value: str | None = None) -> None:
        self.name = name
        got = "" if value is None else f', got "{value[:100]}"'
        super().__init__(f"{name}: {problem}{got}")


def read_listing(query: MultiMapping[str], *, now: datetime) -> tuple[JobFilter, int, str | None]:
    """Return the filter, the limit and the cursor. An empty value is as good as none."""
    given = _single(query, (*FILTERS, "limit", "cursor"))
    wanted = JobFilter(
        state=_read(given, "state", _state),
        vendor=_read(given, "vendor", _text),
        route=_read(given, "route", _text),
        correlation_id=_read(given, "correlation_id", _text),
        event_id=_read(given, "event_id", _uuid),
        since=_read(given, "since", lambda text: parse_moment(text, now=now)),
        until=_read(given, "until", lambda text: parse_moment(text, now=now)),
    )
    cursor = given.get("cursor") or None
    if cursor is not None:
        _read(given, "cursor", decode_cursor)
    return wanted, _read(given, "limit", _limit) or DEFAULT_LIMIT, cursor


def read_body_flag(query: MultiMapping[str]) -> bool:
    """Return whether ``body=true`` was given."""
    return _read(_single(query, ("body",)), "body", _flag) or False


def read_nothing(query: MultiMapping[str]) -> None:
    """Refuse any parameter."""
    _single(query, ())


def read_id(text: str) -> UUID:
    """Return the id of a path."""
    found = _read({"id": text}, "id", _uuid)
    if found is None:
        raise BadParameter("id", "is missing")
    return found


def _single(query: MultiMapping[str], known: Collection[str]) -> dict[str, str]:
    for name in query:
        if name not in known:
            remedy = f"it takes {', '.join(known)}" if known else "it takes none"
            raise BadParameter(name[:100], f"no such parameter here; {remedy}")
        if len(query.getall(name)) > 1:
            raise BadParameter(name, "is given more than once")
    return dict(query)


def _read(given: dict[str, str], name: str, reader: Callable[[str], Value]) -> Value | None:
    text = given.get(name)
    if not text:
        return None
    try:
        return reader(text)
    except ValueError as error:
        raise BadParameter(name, str(error), text) from None


def _state(text: str) -> JobState:
    try:
        return JobState(text)
    except ValueError:
        raise ValueError(f"expected one of {', '.join(JobState)}") from None


def _text(text: str) -> str:
    if len(text) > MAX_TEXT_CHARS or not text.isprintable():
        raise ValueError(f"expected at most {MAX_TEXT_CHARS} printable characters")
    return text


def _uuid(text: str) -> UUID:
    if not _UUID.fullmatch(text):
        raise ValueError("expected an id such as 01890a5d-ac96-774b-bcce-b302099a8057")
    return UUID(text)


def _limit(text: str) -> int:
    if not _LIMIT.fullmatch(text) or not 1 <= int(text) <= MAX_LIMIT:
        raise ValueError(f"expected a whole number from 1 to {MAX_LIMIT}")
    return int(text)


def _flag(text: str) -> bool:
    if text not in ("true", "false"):
        raise ValueError("expected true or false")
    return text == "true"
