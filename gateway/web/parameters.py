"""What operators write into URLs, read strictly: a fault names the parameter and what it takes."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from datetime import datetime
from typing import Any, TypeVar
from uuid import UUID

import msgspec
from multidict import MultiMapping

from gateway.config.model import Rate
from gateway.config.values import duration_seconds
from gateway.config.values import rate as parse_rate
from gateway.errors import GatewayError
from gateway.model import FINAL_STATES, JobState
from gateway.store.cursors import decode_cursor, parse_moment, parse_time
from gateway.store.listing import MAX_LIMIT
from gateway.store.records import ActFilter, JobFilter, ManyFilter, Selection
from gateway.store.replays import check_rate
from gateway.store.steering import WAITING_STATES

DEFAULT_LIMIT = 50
DEFAULT_RATE = "50/s"
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
    wanted = JobFilter(state=_read(given, "state", _state), **_filters(given, now))
    return wanted, *_page(given)


def read_acts(query: MultiMapping[str], *, now: datetime) -> tuple[ActFilter, int, str | None]:
    """Return which acts, the limit and the cursor."""
    given = _single(query, ("who", "act", "target", "since", "until", "limit", "cursor"))
    wanted = ActFilter(
        who=_read(given, "who", _text),
        act=_read(given, "act", _text),
        target=_read(given, "target", _text),
        since=_read(given, "since", lambda text: parse_moment(text, now=now)),
        until=_read(given, "until", lambda text: parse_moment(text, now=now)),
    )
    return wanted, *_page(given)


class ReplayWish(msgspec.Struct, frozen=True):
    """What a replay is asked for with."""

    wanted: Selection
    rate: Rate
    new_key: bool
    dry_run: bool


def read_replay(body: bytes, *, now: datetime) -> ReplayWish:
    """Return what the JSON of a request for a replay says. A null is as good as none."""
    given = _object(body, (*FILTERS, "error", "rate", "new_key", "again", "dry_run"))
    flags = _flags(given, "new_key", "again", "dry_run")
    texts = _texts(given)
    wanted = Selection(
        state=_read(texts, "state", _one_of(FINAL_STATES)) or JobState.DEAD,
        **_filters(texts, now),
        error=_read(texts, "error", _text),
        again=flags["again"],
    )
    rate = _read(texts | {"rate": texts.get("rate") or DEFAULT_RATE}, "rate", _rate)
    assert rate is not None  # noqa: S101  # a text was given
    return ReplayWish(wanted, rate, flags["new_key"], flags["dry_run"])


def read_cancel(body: bytes, *, now: datetime) -> tuple[ManyFilter, bool]:
    """Return which waiting jobs to cancel, and whether only to count them; all of them is no wish
    that an empty body may stand for.
    """
    given = _object(body, (*FILTERS, "error", "dry_run"))
    flags = _flags(given, "dry_run")
    texts = _texts(given)
    wanted = ManyFilter(
        state=_read(texts, "state", _one_of(WAITING_STATES)),
        **_filters(texts, now),
        error=_read(texts, "error", _text),
    )
    if wanted == ManyFilter():
        raise BadParameter("body", f"give at least one of {', '.join((*FILTERS, 'error'))}")
    return wanted, flags["dry_run"]


def read_moment(body: bytes) -> datetime | float:
    """Return the time ``at``, or the seconds from now on ``in``, of which one is given."""
    texts = _texts(_object(body, ("at", "in")))
    if ("at" in texts) == ("in" in texts):
        raise BadParameter("at", 'give either "at", a time, or "in", a duration such as "10m"')
    found: datetime | float | None
    if "in" in texts:
        found = _read(texts, "in", duration_seconds)
    else:
        found = _read(texts, "at", parse_time)
    if found is None:
        raise BadParameter("at", "is empty")
    return found


def read_key(body: bytes) -> tuple[str, str]:
    """Return the route and the key of a held ordering key."""
    texts = _texts(_object(body, ("route", "key")))
    for name in ("route", "key"):
        if name not in texts:
            raise BadParameter(name, "is missing")
    return texts["route"], texts["key"]


def read_dead(query: MultiMapping[str], *, now: datetime) -> JobFilter:
    """Return which dead letters to group."""
    return JobFilter(**_filters(_single(query, ("vendor", "route", "since", "until")), now))


def read_new_key_flag(query: MultiMapping[str]) -> bool:
    """Return whether ``new_key=true`` was given."""
    return _read(_single(query, ("new_key",)), "new_key", _flag) or False


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


def _object(body: bytes, known: Collection[str]) -> dict[str, Any]:
    """Return the fields of a JSON object; no body is an empty one."""
    try:
        given = msgspec.json.decode(body) if body.strip() else {}
    except (msgspec.DecodeError, UnicodeDecodeError):
        given = None
    if not isinstance(given, dict):
        raise BadParameter("body", "expected a JSON object")
    for name in given:
        if name not in known:
            raise BadParameter(name[:100], f"no such field here; it takes {', '.join(known)}")
    return {name: value for name, value in given.items() if value is not None}


def _flags(given: dict[str, Any], *names: str) -> dict[str, bool]:
    """Take the flags out of a JSON object; what is not given is false."""
    flags = {name: given.pop(name, False) for name in names}
    for name, value in flags.items():
        if not isinstance(value, bool):
            raise BadParameter(name, "expected true or false")
    return flags


def _filters(given: dict[str, str], now: datetime) -> dict[str, Any]:
    """Return the filters by jobs but for the state, as fields of a ``JobFilter``."""
    return {
        "vendor": _read(given, "vendor", _text),
        "route": _read(given, "route", _text),
        "correlation_id": _read(given, "correlation_id", _text),
        "event_id": _read(given, "event_id", _uuid),
        "since": _read(given, "since", lambda text: parse_moment(text, now=now)),
        "until": _read(given, "until", lambda text: parse_moment(text, now=now)),
    }


def _page(given: dict[str, str]) -> tuple[int, str | None]:
    """Return the limit and the cursor of a listing."""
    cursor = given.get("cursor") or None
    if cursor is not None:
        _read(given, "cursor", decode_cursor)
    return _read(given, "limit", _limit) or DEFAULT_LIMIT, cursor


def _texts(given: dict[str, Any]) -> dict[str, str]:
    for name, value in given.items():
        if not isinstance(value, str):
            raise BadParameter(name, "expected a string")
    return given


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


def _one_of(states: Collection[JobState]) -> Callable[[str], JobState]:
    def read(text: str) -> JobState:
        if text not in states:
            raise ValueError(f"expected one of {', '.join(sorted(states))}")
        return JobState(text)

    return read


def _rate(text: str) -> Rate:
    return check_rate(parse_rate(text))


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
