"""What operators ask of the records: show, count; and the two acts replay and cancel.

Nothing here may cost more the longer the history grows: counts stop at a bound and say so, and
listings (`listing.py`) at a time limit.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import msgspec

from gateway.errors import NotFound, Refused
from gateway.model import JobState
from gateway.store import migrations
from gateway.store.cursors import first_id
from gateway.store.database import SEARCH_SECONDS, Database
from gateway.store.listing import MAX_LIMIT, list_jobs
from gateway.store.records import (
    AttemptRecord,
    EventDetail,
    EventRecord,
    JobDetail,
    JobFilter,
    NodeRecord,
    RecentCounts,
    Stats,
    TableSize,
    VendorFigures,
)
from gateway.store.sql import query

COUNT_LIMIT = 100_000
ATTEMPTS_SHOWN = 200
RECENT_SECONDS = (3600.0, 86400.0)


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
