"""What operators change while it runs: pauses, waiting jobs, held keys, reroutes.

Every act is written into ``gateway.acts`` in its own transaction; *who* is who is named there.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from datetime import datetime
from time import monotonic
from typing import Any
from uuid import UUID

import asyncpg
import msgspec

from gateway.errors import NotFound, Refused
from gateway.model import Event, Job, JobState, NewJob
from gateway.store.cursors import first_id
from gateway.store.database import SEARCH_SECONDS, Database
from gateway.store.operators import COUNT_LIMIT, words
from gateway.store.records import (
    Cancelled,
    Count,
    HeldKey,
    ManyFilter,
    ReroutedJob,
    RouteFigures,
)
from gateway.store.sql import query

WAITING_STATES = frozenset({JobState.SCHEDULED, JobState.AVAILABLE, JobState.BLOCKED})
CANCEL_ROWS = 500
BACK_ROWS = 1000
HELD_KEYS_SHOWN = 1000
LINE_LIMIT = 1000

_BEYOND = UUID(int=(1 << 128) - 1)
_encode = msgspec.json.Encoder().encode


class Pauses(msgspec.Struct, frozen=True):
    """What is paused; ``ended`` are routes whose jobs may wait to be brought back.

    ``replaying`` tells whether a replay runs, on whichever node.
    """

    vendors: frozenset[str]
    routes: frozenset[str]
    ended: frozenset[str]
    replaying: bool = False


# Pauses -----------------------------------------------------------------------------------------


async def pauses(db: Database) -> Pauses:
    """Return what is paused at present."""
    found: dict[str, set[str]] = {"vendor": set(), "route": set(), "aside": set(), "replay": set()}
    for row in await db.fetch("steering.paused"):
        found[row["what"]].add(row["name"])
    vendors, routes, ended, replays = (frozenset(names) for names in found.values())
    return Pauses(vendors, routes, ended, replaying=bool(replays))


async def pause_vendor(db: Database, name: str, *, who: str) -> bool:
    """Have no node call this vendor; return whether it was not paused before."""
    return await _switch(db, "steering.pause_vendor", name, who)


async def resume_vendor(db: Database, name: str, *, who: str) -> bool:
    """Let nodes call this vendor again; return whether it was paused."""
    return await _switch(db, "steering.resume_vendor", name, who)


async def pause_route(db: Database, name: str, *, who: str) -> bool:
    """Have no node run this route's jobs; return whether it was not paused before."""
    return await _switch(db, "steering.pause_route", name, who)


async def resume_route(db: Database, name: str, *, who: str) -> bool:
    """Let nodes run this route's jobs again; return whether it was paused."""
    return await _switch(db, "steering.resume_route", name, who)


async def set_aside(db: Database, jobs: Sequence[Job], *, node: str) -> frozenset[str]:
    """Give back held jobs of paused routes, out of everybody's way until the pause ends.

    Returns those of their routes that are not paused any more; their jobs are in the backlog.
    """
    rows = await db.fetch(
        "steering.set_aside",
        [job.id for job in jobs],
        node,
        sorted({job.route for job in jobs}),
    )
    return frozenset(row["route"] for row in rows)


async def bring_back(db: Database, route: str) -> frozenset[str]:
    """Make some jobs that were set aside claimable; return their lanes; none: there are no more."""
    rows = await db.fetch("steering.bring_back", route, BACK_ROWS)
    if not rows:
        await db.fetch("steering.all_back", route)
    return frozenset(row["vendor"] for row in rows)


async def route_figures(db: Database) -> dict[str, RouteFigures]:
    """Return the routes that are paused, or were and still have jobs set aside."""
    async with db.reading(seconds=SEARCH_SECONDS) as connection:
        rows = await connection.fetch(query("steering.routes"), COUNT_LIMIT)
    return {row["route"]: RouteFigures(paused=row["paused"], aside=row["aside"]) for row in rows}


async def _switch(db: Database, name: str, target: str, who: str) -> bool:
    changed: bool = (await db.fetch(name, target, who))[0]["changed"]
    return changed


# Waiting jobs -----------------------------------------------------------------------------------


async def reschedule(
    db: Database, job_id: UUID, moment: datetime | float, *, who: str
) -> tuple[datetime, datetime]:
    """Have a scheduled job run at *moment*, or so many seconds from now.

    Returns that time and the one before; raises NotFound or Refused.
    """
    try:
        if isinstance(moment, datetime):
            rows = await db.fetch("steering.reschedule", job_id, moment, who)
            return moment, rows[0]["before"]
        rows = await db.fetch("steering.reschedule_in", job_id, moment, who)
        return rows[0]["moment"], rows[0]["before"]
    except asyncpg.NoDataFoundError as error:
        raise NotFound(words(error)) from None
    except asyncpg.ObjectNotInPrerequisiteStateError as error:
        raise Refused(words(error)) from None


async def count_waiting(db: Database, wanted: ManyFilter) -> tuple[Count, ManyFilter]:
    """Count the waiting jobs; also return the filter without those that are made later.

    Raises :class:`Refused` for a filter that none of them can fit.
    """
    if wanted.state is not None and wanted.state not in WAITING_STATES:
        states = ", ".join(sorted(WAITING_STATES))
        raise Refused(f"only jobs that wait can be cancelled: state is one of {states}")
    async with db.reading(seconds=SEARCH_SECONDS) as connection:
        if wanted.until is None:
            from_now = await connection.fetchval(query("steering.from_now"))
            wanted = msgspec.structs.replace(wanted, until=from_now)
        low, high = await _bounds(connection, wanted)
        jobs = await connection.fetchval(
            query("steering.count_waiting"), *_filters(wanted), low, high, COUNT_LIMIT
        )
    return Count(jobs, jobs < COUNT_LIMIT), wanted


async def cancel_waiting(
    db: Database, wanted: ManyFilter, *, who: str, seconds: float = math.inf
) -> Cancelled:
    """Cancel the waiting jobs, some in each transaction, beginning none after *seconds*.

    What was cancelled before an error stays so, and is in the book. Raises :class:`TooWide`.
    """
    deadline = monotonic() + seconds
    total = idle = 0
    while idle < 3:  # a job may be claimed between finding and cancelling it
        found, cancelled = await cancel_some(db, wanted, who=who)
        if not found:
            break
        total += cancelled
        idle = 0 if cancelled else idle + 1
        if monotonic() > deadline:
            return Cancelled(total, False)
    return Cancelled(total, True)


async def cancel_some(db: Database, wanted: ManyFilter, *, who: str) -> tuple[int, int]:
    """Cancel some of the waiting jobs; return how many were found and how many are cancelled.

    None found: there are no more.
    """
    async with db.writing(seconds=SEARCH_SECONDS) as connection:
        low, high = await _bounds(connection, wanted)
        row = await connection.fetchrow(
            query("steering.cancel_waiting"),
            *_filters(wanted),
            low,
            high,
            CANCEL_ROWS,
            who,
            _encode(_given(wanted)).decode(),
        )
    return row["found"], row["cancelled"]


async def _bounds(connection: Any, wanted: ManyFilter) -> tuple[UUID, UUID]:
    low: UUID = await connection.fetchval(query("upkeep.oldest_unsealed"), None)
    if wanted.since is not None:
        low = max(low, first_id(wanted.since))
    return low, first_id(wanted.until) if wanted.until is not None else _BEYOND


def _filters(wanted: ManyFilter) -> tuple[object, ...]:
    return (
        wanted.state,
        wanted.vendor,
        wanted.route,
        wanted.correlation_id,
        wanted.event_id,
        wanted.error,
    )


def _given(wanted: ManyFilter) -> dict[str, object]:
    fields = msgspec.structs.asdict(wanted)
    return {name: value for name, value in fields.items() if value is not None}


# Held keys --------------------------------------------------------------------------------------


async def held_keys(db: Database) -> list[HeldKey]:
    """Return the ordering keys that wait for a decision."""
    async with db.reading(seconds=SEARCH_SECONDS) as connection:
        rows = await connection.fetch(query("steering.held_keys"), HELD_KEYS_SHOWN, LINE_LIMIT)
    return [HeldKey(**dict(row)) for row in rows]


async def release_key(db: Database, route: str, key: str, *, who: str) -> UUID | None:
    """Let a held key go on without its dead job; return the job that is next, if any waits.

    Raises :class:`NotFound` when it is not held.
    """
    try:
        rows = await db.fetch("steering.release_key", route, key, who)
    except asyncpg.NoDataFoundError:
        raise NotFound(f"route {route}, key {key}: is not held") from None
    following: UUID | None = rows[0]["next"]
    return following


# Rerouting --------------------------------------------------------------------------------------


async def reroute(
    db: Database, event: Event, jobs: Iterable[NewJob], *, who: str
) -> list[ReroutedJob]:
    """Insert the jobs that today's routes make of a stored event; return them as they are now."""
    made = list(jobs)
    rows = await db.fetch(
        "steering.reroute",
        event.id,
        who,
        [job.id for job in made],
        [job.route for job in made],
        [job.vendor for job in made],
        [job.kind for job in made],
        [job.priority for job in made],
        [job.ordering_key for job in made],
        [job.holds_key for job in made],
        [job.delay_seconds for job in made],
        [job.max_attempts for job in made],
        [job.correlation_id for job in made],
    )
    return [ReroutedJob(**dict(row)) for row in rows if row["id"] is not None]
