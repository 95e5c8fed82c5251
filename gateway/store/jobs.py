"""Jobs in the database: claim, settle, promote, release. Every write about a job is fenced."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from gateway.model import Event, Job
from gateway.store import events
from gateway.store.arrays import columns, given
from gateway.store.database import Database
from gateway.store.writes import Position, Settled

# A larger body is read when its attempt begins, so that memory stays bounded.
INLINE_BODY_BYTES = 32 << 10


async def claim(
    db: Database,
    rooms: Sequence[tuple[str, int, int]],
    *,
    node: str,
    floor: UUID,
    reached: dict[str, Position] | None = None,
) -> list[Job]:
    """Take jobs of the backlog; *rooms* are (lane, room for the urgent, room for the oldest).

    *reached* tells how far claims came in a lane before, and then how far this one came: a lane is
    not in it, then, if it has nothing more from there on. It is read from the start if it was not.

    When it raises :class:`DatabaseUnavailable` jobs may have been claimed all the same.
    """
    reached = {} if reached is None else reached
    begins = [reached.get(room[0], Position(0, floor)) for room in rooms]
    rows = await db.fetch(
        "jobs.claim",
        *columns(rooms, 3),
        node,
        min((begin.id for begin in begins), default=floor),
        [begin.priority for begin in begins],
        [begin.id for begin in begins],
    )
    reached.clear()
    claimed = defaultdict(list)
    for row in rows:
        claimed[row["vendor"]].append(row)
    for room, begin in zip(rooms, begins, strict=True):
        if (position := _position(claimed[room[0]], room, begin)) is not None:
            reached[room[0]] = position
    known = await events.fetch_many(
        db, {row["event_id"] for row in rows}, max_body_bytes=INLINE_BODY_BYTES
    )
    return [_job(row, known.get(row["event_id"])) for row in rows]


def _position(rows: list[Any], room: tuple[str, int, int], begin: Position) -> Position | None:
    """Return how far a lane was read that was begun at *begin*; None: to its end."""
    _, urgent, oldest = room
    among_urgent = [row["priority"] for row in rows if row["urgent"]]
    among_oldest = [row["id"] for row in rows if row["oldest"]]
    if not among_urgent or len(among_urgent) < urgent:
        return None
    # Some of the oldest may have been another node's at that moment, which may give them back.
    all_there = oldest and len(among_oldest) == oldest
    return Position(max(among_urgent), max(among_oldest) if all_there else begin.id)


async def settle(
    db: Database, batch: Sequence[Settled], *, node: str, partition: str | None = None
) -> set[UUID]:
    """Record outcomes, histories and follow-up jobs; return the ids that were still ours.

    *partition*: the one that has all of these jobs, see :class:`.partitions.JobPartitions`.
    """
    follow_ups = [(item.job.id, job) for item in batch for job in item.follow_ups]
    endings: dict[tuple[str, int, int, int | None, str], int] = {}
    ending_nos = [
        endings.setdefault(
            (s.state, s.attempt, s.job.claim_no, s.http_status, s.outcome), len(endings) + 1
        )
        for s in batch
    ]
    rows = await db.fetch_planned(
        "jobs.settle",
        *columns(endings, 5),
        [s.job.id for s in batch],
        ending_nos,
        [s.started_at.timestamp() for s in batch],
        [s.duration_ms for s in batch],
        given([s.delay_seconds or None for s in batch]),
        given([s.error for s in batch]),
        given([s.request for s in batch]),
        given([s.response for s in batch]),
        node,
        [parent for parent, _ in follow_ups],
        [f.id for _, f in follow_ups],
        [f.event_id for _, f in follow_ups],
        [f.route for _, f in follow_ups],
        [f.vendor for _, f in follow_ups],
        [f.kind for _, f in follow_ups],
        [f.priority for _, f in follow_ups],
        [f.ordering_key for _, f in follow_ups],
        [f.delay_seconds for _, f in follow_ups],
        [f.max_attempts for _, f in follow_ups],
        [f.correlation_id for _, f in follow_ups],
        [None if f.payload is None else f.payload.decode() for _, f in follow_ups],
        [s.job.route for s in batch if s.job.ordering_key is not None],
        [s.job.ordering_key for s in batch if s.job.ordering_key is not None],
        min(s.job.id for s in batch),
        max(s.job.id for s in batch),
        partition=partition,
    )
    return {row[0] for row in rows}


async def look(db: Database, lanes: Sequence[str], *, floor: UUID) -> tuple[set[str], bool]:
    """Return which of these lanes have a backlog, and whether a scheduled job is due."""
    rows = await db.fetch("jobs.look", lanes, floor)
    found = {row["lane"] for row in rows}
    return found - {None}, None in found


async def promote(db: Database, *, limit: int, floor: UUID) -> dict[str, int]:
    """Make due jobs claimable; return how many in which lane."""
    rows = await db.fetch("jobs.promote", limit, floor)
    return {row["vendor"]: row["jobs"] for row in rows}


async def release(db: Database, ids: Iterable[UUID], *, node: str) -> int:
    """Give held jobs back to the backlog, uncounted; return how many were still ours."""
    return len(await db.fetch("jobs.release", list(ids), node))


async def release_strays(db: Database, held: Collection[UUID], *, node: str, floor: UUID) -> int:
    """Give back what the database says *node* holds and *held* does not name.

    *held* is looked at twice: a job that was handed off while the database was asked is named by
    then, since it is named before it is committed.
    """
    rows = await db.fetch("jobs.strays", floor, node, list(held))
    strays = [(row["id"], row["claim_no"]) for row in rows if row["id"] not in held]
    if not strays:
        return 0
    ids, claim_nos = zip(*strays, strict=True)
    return len(await db.fetch("jobs.release_claims", ids, claim_nos, node))


async def mark_started(db: Database, started: Sequence[tuple[Job, datetime]]) -> set[UUID]:
    """Write when each job's execution began; return the ids that are still ours."""
    said = [(job.id, job.claim_no, at) for job, at in started]
    rows = await db.fetch("jobs.mark_started", *columns(said, 3))
    return {row[0] for row in rows}


async def backlog(db: Database, *, floor: UUID, limit: int) -> dict[str, int]:
    """Return how many jobs wait in each lane, counting no further than *limit*."""
    rows = await db.fetch("jobs.backlog", floor, limit)
    return {row["vendor"]: row["jobs"] for row in rows}


def _job(row: Any, event: Event | None) -> Job:
    payload = row["payload"]
    return Job(
        id=row["id"],
        event_id=row["event_id"],
        route=row["route"],
        vendor=row["vendor"],
        kind=row["kind"],
        priority=row["priority"],
        attempt=row["attempt"],
        max_attempts=row["max_attempts"],
        claim_no=row["claim_no"],
        correlation_id=row["correlation_id"],
        created_at=row["created_at"],
        ordering_key=row["ordering_key"],
        idempotency_key=row["idempotency_key"],
        rescues=row["rescues"],
        payload=None if payload is None else payload.encode(),
        event=event,
    )
