"""What operators ask of the records: list, show, count; and the two acts replay and cancel.

Nothing here may cost more the longer the history grows. Listings walk back day by day and stop at
a time limit with a cursor that goes on from there; counts stop at a bound and say so.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import UTC, date, datetime, time, timedelta
from itertools import chain, repeat
from time import monotonic
from typing import Any
from uuid import UUID

import asyncpg
import msgspec

from gateway.config.values import duration_seconds
from gateway.errors import NotFound, Refused, TooWide
from gateway.model import JobState
from gateway.store import migrations
from gateway.store.database import Database
from gateway.store.records import (
    AttemptRecord,
    EventDetail,
    EventRecord,
    JobDetail,
    JobFilter,
    JobRecord,
    NodeRecord,
    Page,
    RecentCounts,
    Stats,
    TableSize,
    VendorFigures,
)
from gateway.store.sql import query

MAX_LIMIT = 1000
COUNT_LIMIT = 100_000
ATTEMPTS_SHOWN = 200
SEARCH_SECONDS = 5.0  # for one statement, and before another is begun
RECENT_SECONDS = (3600.0, 86400.0)

_RELATED_IDS = 1000
_NAMES_AT_FIRST = (100, 1000)  # of partitions and their indexes; a day has a dozen
_NAMES_LATER = 10_000
_LOWEST = UUID(int=0)
_BEYOND = UUID(int=(1 << 128) - 1)


# Listing ----------------------------------------------------------------------------------------


async def list_jobs(
    db: Database, wanted: JobFilter, *, limit: int = 50, cursor: str | None = None
) -> Page:
    """Return jobs, newest first; *cursor* is that of the page before.

    ``ValueError`` for a cursor that is none. Raises :class:`TooWide` only if not even the first
    stretch of the search could be finished in time.
    """
    search = _Search(wanted, limit=limit, cursor=cursor)
    begin = search.reached
    try:
        async with db.reading(seconds=SEARCH_SECONDS, planner=paging(wanted)) as connection:
            await search.run(connection)
    except TooWide:
        if search.reached == begin:
            raise
    return search.page()


def paging(wanted: JobFilter) -> dict[str, str]:
    """Return the planner's settings for a page of *wanted* jobs: it is the end of an index by id.

    Of a day that was never analysed, or of dead jobs that came since, the planner expects so few
    that it would collect and sort them all. That is right only for what has an index in another
    order: jobs that wait, and those of an event or of a correlation id.
    """
    collected = (
        wanted.state in (JobState.AVAILABLE, JobState.SCHEDULED)
        or wanted.event_id is not None
        or wanted.correlation_id is not None
    )
    return {"enable_bitmapscan": "off", "enable_sort": "on" if collected else "off"}


class _Search:
    """Walks back from the newest job that is wanted; ``reached`` is where it goes on."""

    def __init__(self, wanted: JobFilter, *, limit: int, cursor: str | None) -> None:
        self._wanted = wanted
        self._limit = limit
        self._since = first_id(wanted.since) if wanted.since else _LOWEST
        self.reached = first_id(wanted.until) if wanted.until else _BEYOND
        if cursor is not None:
            self.reached = min(self.reached, decode_cursor(cursor))
        self._found: list[JobRecord] = []
        self._deadline = monotonic() + SEARCH_SECONDS

    async def run(self, connection: Any) -> None:
        """Search until the page is full, the history is at its end, or the time is up."""
        wanted = self._wanted
        if wanted.event_id is not None:
            await self._walk_ids(connection, "operators.jobs_of_event", wanted.event_id)
        elif wanted.correlation_id is not None:
            await self._walk_ids(
                connection,
                "operators.jobs_of_correlation",
                wanted.correlation_id,
                _uuid_or_nil(wanted.correlation_id),
            )
        else:
            await self._walk_days(connection)

    def page(self) -> Page:
        """Return what was found, one more than fits telling that there is more."""
        if len(self._found) > self._limit:
            shown = self._found[: self._limit]
            return Page(shown, encode_cursor(shown[-1].id))
        done = self.reached <= self._since
        return Page(self._found, None if done else encode_cursor(self.reached))

    async def _walk_days(self, connection: Any) -> None:
        """Look day by day: each statement reads one partition, newest first.

        One statement over all would first look for a match in every partition, however old.
        """
        if self._wanted.state is JobState.RUNNING:
            held = await connection.fetchval(query("operators.running_floor"))
            self._since = max(self._since, _BEYOND if held is None else held)
        async with aclosing(self._stretches(connection)) as stretches:
            async for low, high in stretches:
                low, high = max(low, self._since), min(high, self.reached)
                if low >= high:
                    continue
                await self._look(connection, low, high, ids=None)
                self.reached = low
                if low == self._since or self._enough():
                    return
        self.reached = min(self.reached, self._since)

    async def _stretches(self, connection: Any) -> AsyncGenerator[tuple[UUID, UUID]]:
        """Yield the days that may hold what is wanted, newest first, with what is around them.

        Most searches end today; which days there were before is asked only then, a few at first.
        """
        today = datetime.now(UTC).date()
        yield _first_id_of(today), _BEYOND
        before = min(today, _day_after(self.reached))
        high = _first_id_of(before)
        for count in chain(_NAMES_AT_FIRST, repeat(_NAMES_LATER)):
            days = await connection.fetch(
                query("operators.days"),
                before,
                count,
                self._wanted.state,
                self._wanted.vendor,
                self._wanted.route,
            )
            for day in days:
                if day["worth_a_look"]:
                    yield day["low"], high
                elif day["high"] < high:  # what has no day of its own is in the default partition
                    yield day["high"], high
                before, high = day["day"], day["low"]
            if not days:
                break
        yield _LOWEST, high

    async def _walk_ids(self, connection: Any, name: str, key: object, *more: object) -> None:
        while self.reached > self._since:
            rows = await connection.fetch(
                query(name), key, self._since, self.reached, _RELATED_IDS, *more
            )
            ids = [row["id"] for row in rows]
            if ids:
                await self._look(connection, self._since, self.reached, ids=ids)
            self.reached = ids[-1] if len(ids) == _RELATED_IDS else self._since
            if self._enough():
                return

    async def _look(
        self, connection: Any, low: UUID, high: UUID, *, ids: list[UUID] | None
    ) -> None:
        rows = await connection.fetch(
            query("operators.list_jobs"),
            self._wanted.state,
            self._wanted.vendor,
            self._wanted.route,
            self._wanted.correlation_id,
            ids,
            low,
            high,
            self._limit + 1 - len(self._found),
        )
        self._found += [_job(row) for row in rows]

    def _enough(self) -> bool:
        return len(self._found) > self._limit or monotonic() > self._deadline


def parse_moment(text: str, *, now: datetime) -> datetime:
    """Read an ISO 8601 time (UTC where it names no zone), or a duration: so long before *now*."""
    try:
        return now - timedelta(seconds=duration_seconds(text))
    except (ValueError, OverflowError):
        pass
    try:
        return parse_time(text)
    except ValueError as error:
        raise ValueError(f'{error}, or a duration such as "2h"') from None


def parse_time(text: str) -> datetime:
    """Read an ISO 8601 time (UTC where it names no zone)."""
    try:
        moment = datetime.fromisoformat(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        raise ValueError('write a time such as "2026-01-31T08:30:00Z"') from None


def first_id(moment: datetime) -> UUID:
    """Return the lowest UUIDv7 of *moment*'s millisecond (RFC 9562, section 5.7)."""
    milliseconds = (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)
    return UUID(int=min(max(milliseconds, 0), (1 << 48) - 1) << 80)


def encode_cursor(position: UUID) -> str:
    """Return the text that lets a listing go on below *position*."""
    return base64.urlsafe_b64encode(position.bytes).rstrip(b"=").decode()


def decode_cursor(cursor: str) -> UUID:
    """Return the position; ``ValueError`` for anything that :func:`encode_cursor` did not make."""
    try:
        position = UUID(bytes=base64.urlsafe_b64decode(cursor.encode("ascii") + b"=="))
    except (binascii.Error, ValueError):
        position = None
    if position is None or encode_cursor(position) != cursor:
        raise ValueError("this is not the cursor of an earlier page")
    return position


def _first_id_of(day: date) -> UUID:
    return first_id(datetime.combine(day, time.min, UTC))


def _day_after(position: UUID) -> date:
    """Return the day after the one in which an id was made."""
    try:
        made = datetime.fromtimestamp((position.int >> 80) / 1000, UTC)
        return made.date() + timedelta(days=1)
    except (ValueError, OverflowError):  # the id of no time that there is
        return date.max


def _uuid_or_nil(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        return _LOWEST


# Showing ----------------------------------------------------------------------------------------


async def show_job(db: Database, job_id: UUID, *, body: bool = False) -> JobDetail:
    """Return one job with its event and its attempts; raises :class:`NotFound`."""
    async with db.reading(seconds=SEARCH_SECONDS) as connection:
        row = await connection.fetchrow(query("operators.job"), job_id)
        if row is None:
            raise NotFound(f"job {job_id}: not found")
        event = None
        replays = []
        if row["event_id"] is not None:
            found = await _event(connection, row["event_id"], body=body)
            event = EventRecord(**found) if found is not None else None
            replays = await connection.fetch(
                query("operators.replays"), job_id, row["event_id"], MAX_LIMIT
            )
        attempts = await connection.fetch(query("operators.attempts"), job_id, ATTEMPTS_SHOWN)
    return JobDetail(
        **dict(row) | {"payload": _raw(row["payload"])},
        event=event,
        attempts=[_attempt(attempt) for attempt in attempts],
        replays=[replay["id"] for replay in replays],
    )


async def show_event(db: Database, event_id: UUID, *, body: bool = False) -> EventDetail:
    """Return one event with its jobs; raises :class:`NotFound`."""
    async with db.reading(seconds=SEARCH_SECONDS) as connection:
        fields = await _event(connection, event_id, body=body)
        if fields is None:
            raise NotFound(f"event {event_id}: not found")
        repeated = await connection.fetchval(
            query("events.duplicates"), fields["vendor"], fields["dedupe_key"], event_id
        )
    page = await list_jobs(db, JobFilter(event_id=event_id), limit=MAX_LIMIT)
    return EventDetail(**fields, duplicates=repeated or 0, jobs=page.jobs)


async def raw_body(db: Database, event_id: UUID) -> bytes:
    """Return an event's body as it was received; raises :class:`NotFound`."""
    rows = await db.fetch("operators.raw_body", event_id)
    if not rows:
        raise NotFound(f"event {event_id}: not found")
    body: bytes = rows[0]["body"]
    return body


async def _event(connection: Any, event_id: UUID, *, body: bool) -> dict[str, Any] | None:
    row = await connection.fetchrow(query("operators.event"), event_id)
    if row is None:
        return None
    fields = dict(row)
    fields["headers"] = msgspec.json.decode(fields["headers"], type=dict[str, str])
    if body:
        fields["body"] = _raw(await connection.fetchval(query("operators.body"), event_id))
    return fields


def _job(row: Any) -> JobRecord:
    return JobRecord(**dict(row))


def _attempt(row: Any) -> AttemptRecord:
    fields = dict(row)
    return AttemptRecord(
        **fields | {"request": _raw(fields["request"]), "response": _raw(fields["response"])}
    )


def _raw(json: str | None) -> msgspec.Raw | None:
    return None if json is None else msgspec.Raw(json)


# Acting -----------------------------------------------------------------------------------------


async def replay(
    db: Database, job_id: UUID, *, new_key: bool = False, who: str | None = None
) -> UUID:
    """Make a new job from a finished one and return its id; raises NotFound or Refused.

    The vendor is shown the original's idempotency key unless a *new_key* is wanted.
    """
    fresh: UUID = await _act(db, "operators.replay", job_id, who, new_key)
    return fresh


async def cancel(db: Database, job_id: UUID, *, who: str | None = None) -> JobState:
    """Cancel a job that waits and return the state it was in; raises NotFound or Refused."""
    return JobState(await _act(db, "operators.cancel", job_id, who))


async def _act(db: Database, name: str, *args: object) -> Any:
    try:
        return (await db.fetch(name, *args))[0][0]
    except asyncpg.NoDataFoundError as error:
        raise NotFound(words(error)) from None
    except asyncpg.ObjectNotInPrerequisiteStateError as error:
        raise Refused(words(error)) from None


def words(error: asyncpg.PostgresError) -> str:
    """Return what our SQL function said, with its hint."""
    said = error.as_dict()
    return f"{said['message']}. {said['hint']}" if "hint" in said else str(said["message"])


# Counting ---------------------------------------------------------------------------------------


async def stats(db: Database, *, now: datetime) -> Stats:
    """Return the figures of the whole gateway, all nodes together, as of *now*."""
    async with db.reading(seconds=SEARCH_SECONDS) as connection:
        figures = await _vendor_figures(connection)
        recent: list[RecentCounts] = []
        for seconds in RECENT_SECONDS:
            if recent and not recent[-1].complete:  # the longer time would count the same jobs
                recent.append(msgspec.structs.replace(recent[-1], seconds=seconds))
            else:
                recent.append(await _recent(connection, seconds, now))
        sizes = await connection.fetch(query("operators.sizes"))
        nodes = await connection.fetch(query("operators.nodes"))
    return Stats(
        backlog=sum(figure.backlog for figure in figures.values()),
        scheduled=sum(figure.scheduled for figure in figures.values()),
        dead=sum(figure.dead for figure in figures.values()),
        count_limit=COUNT_LIMIT,
        recent=recent,
        tables=[TableSize(**dict(row)) for row in sizes],
        nodes=[NodeRecord(**dict(row)) for row in nodes],
    )


async def vendor_figures(db: Database) -> dict[str, VendorFigures]:
    """Return the figures of every lane that has any."""
    async with db.reading(seconds=SEARCH_SECONDS) as connection:
        return await _vendor_figures(connection)


async def _vendor_figures(connection: Any) -> dict[str, VendorFigures]:
    floor = await connection.fetchval(query("upkeep.oldest_unsealed"), None)
    fields: dict[str, dict[str, Any]] = {}
    for name, rows in (
        ("backlog", await connection.fetch(query("jobs.backlog"), floor, COUNT_LIMIT)),
        ("scheduled", await connection.fetch(query("operators.scheduled"), floor, COUNT_LIMIT)),
        ("dead", await connection.fetch(query("operators.dead"), COUNT_LIMIT)),
    ):
        for row in rows:
            fields.setdefault(row["vendor"], {})[name] = row["jobs"]
    for row in await connection.fetch(query("operators.vendor_state")):
        fields.setdefault(row["vendor"], {}).update(
            paused=row["paused"], parked_until=row["parked_until"], breaker=row["breaker"]
        )
    return {vendor: VendorFigures(**given) for vendor, given in sorted(fields.items())}


async def _recent(connection: Any, seconds: float, now: datetime) -> RecentCounts:
    rows = await connection.fetch(
        query("operators.recent_states"), first_id(now - timedelta(seconds=seconds)), COUNT_LIMIT
    )
    return RecentCounts(
        seconds=seconds,
        states={row["state"]: row["jobs"] for row in rows},
        complete=sum(row["jobs"] for row in rows) < COUNT_LIMIT,
        counted_since=min((row["since"] for row in rows), default=None),
    )


async def check_schema(db: Database, *, seconds: float) -> None:
    """Raise DatabaseUnavailable, TooWide or NotMigrated unless the database can be worked with."""
    async with db.reading(seconds=seconds) as connection:
        await migrations.require(connection)
