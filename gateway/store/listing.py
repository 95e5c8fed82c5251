"""Pages of jobs for operators: a search through the days, newest first.

It may not cost more the longer the history grows, so it walks back day by day and stops at a time
limit with a cursor that goes on from there. A day that is too much for one statement, since no
index has what is asked for and hardly a job is like that, is read in parts.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import UTC, date, datetime, time, timedelta
from itertools import chain, repeat
from time import monotonic
from typing import Any
from uuid import UUID

from gateway.errors import TooWide
from gateway.model import JobState
from gateway.store.cursors import decode_cursor, encode_cursor, first_id
from gateway.store.database import SEARCH_SECONDS, Database
from gateway.store.records import JobFilter, JobRecord, Page
from gateway.store.sql import query

MAX_LIMIT = 1000
PART_SECONDS = 1.0  # for one statement that can be made smaller: it is tried again with a part

_PARTS = 16  # of what was too much
_LEAST_MILLISECONDS = 1000  # of the history; less would not be faster either
_RELATED_IDS = 1000
_NAMES_AT_FIRST = (100, 1000)  # of partitions and their indexes; a day has a dozen
_NAMES_LATER = 10_000
_LOWEST = UUID(int=0)
_BEYOND = UUID(int=(1 << 128) - 1)


async def list_jobs(
    db: Database, wanted: JobFilter, *, limit: int = 50, cursor: str | None = None
) -> Page:
    """Return jobs, newest first; *cursor* is that of the page before.

    ``ValueError`` for a cursor that is none. Raises :class:`TooWide` only if not even a small part
    of the history could be searched in time.
    """
    search = _Search(wanted, limit=limit, cursor=cursor)
    begin = search.reached
    while True:
        try:
            seconds = SEARCH_SECONDS if search.related else PART_SECONDS
            async with db.reading(seconds=seconds, planner=paging(wanted)) as connection:
                await search.run(connection)
            return search.page()
        except TooWide:
            if search.narrow():
                continue
            if search.reached == begin:
                raise
            return search.page()


def paging(wanted: JobFilter) -> dict[str, str]:
    """Return the planner's settings for a page of *wanted* jobs: it is the end of an index by id.

    Of a day that was never analysed, or of dead jobs that came since, the planner expects so few
    that it would collect and sort them all. That is right only for what has an index in another
    order: jobs that wait, and those of an event or of a correlation id.
    """
    collected = wanted.state in (JobState.AVAILABLE, JobState.SCHEDULED) or _is_related(wanted)
    return {"enable_bitmapscan": "off", "enable_sort": "on" if collected else "off"}


class _Search:
    """Walks back from the newest job that is wanted; ``reached`` is where it goes on.

    Having been cut off it may be run again.
    """

    def __init__(self, wanted: JobFilter, *, limit: int, cursor: str | None) -> None:
        self._wanted = wanted
        self.related = _is_related(wanted)
        self._limit = limit
        self._since = first_id(wanted.since) if wanted.since else _LOWEST
        self.reached = first_id(wanted.until) if wanted.until else _BEYOND
        if cursor is not None:
            self.reached = min(self.reached, decode_cursor(cursor))
        self._found: list[JobRecord] = []
        self._deadline = monotonic() + SEARCH_SECONDS
        # How much of the history one statement reads, as a distance of ids; and the last one did.
        self._step = self._span = _BEYOND.int

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

    def narrow(self) -> bool:
        """Have the next statement read but a part of what was too much; False: it cannot be."""
        step = self._span // _PARTS
        if self.related or step < _LEAST_MILLISECONDS << 80 or monotonic() > self._deadline:
            return False
        self._step = step
        return True

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
                await self._look_in_parts(connection, low, high)
                if self.reached == self._since or self._enough():
                    return
        self.reached = min(self.reached, self._since)

    async def _look_in_parts(self, connection: Any, low: UUID, high: UUID) -> None:
        """Look from *high* down to *low*, in larger parts again as long as they are quick."""
        newest = first_id(datetime.now(UTC) + timedelta(minutes=1))  # nothing much is above it
        while True:
            top = min(high, newest).int
            part = UUID(int=max(low.int, top - self._step))
            self._span = top - part.int
            began = monotonic()
            await self._look(connection, part, high, ids=None)
            self.reached = high = part
            if part == low or self._enough():
                return
            if monotonic() - began < PART_SECONDS / _PARTS:
                self._step = min(4 * self._step, _BEYOND.int)

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
        self._found += [JobRecord(**dict(row)) for row in rows]

    def _enough(self) -> bool:
        return len(self._found) > self._limit or monotonic() > self._deadline


def _is_related(wanted: JobFilter) -> bool:
    """Return whether jobs of one event or correlation id are wanted, which have an index."""
    return wanted.event_id is not None or wanted.correlation_id is not None


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
