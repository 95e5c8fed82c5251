"""Replays of many jobs: counted, requested, made step by step, cancelled; dead letters in groups.

A step is one transaction: it makes some replays and writes how far it came. Whoever comes after a
crash goes on from there, and no job is replayed twice.
"""

from __future__ import annotations

from time import monotonic
from typing import Any
from uuid import UUID

import msgspec
from uuid_utils.compat import uuid7

from gateway.config.model import Rate
from gateway.config.values import rate_text
from gateway.errors import NotFound, Refused, TooWide
from gateway.model import FINAL_STATES
from gateway.store.database import SEARCH_SECONDS, Database
from gateway.store.operators import COUNT_LIMIT
from gateway.store.records import (
    Count,
    DeadGroup,
    DeadGroups,
    JobFilter,
    ReplayDetail,
    ReplayRecord,
    Selection,
)
from gateway.store.sql import query

MAX_RUNNING = 20  # replays at once
MAX_RATE_PER_SECOND = 1000.0
MAX_STEP = 500  # jobs made in one transaction
STEP_SECONDS = 0.5  # … and no more than this time's worth of the rate
LOOK_ROWS = 5000
LISTED = 100
GROUPS_SHOWN = 200

_encode = msgspec.json.Encoder().encode
_decode_selection = msgspec.json.Decoder(Selection).decode


class Taken(msgspec.Struct, frozen=True, kw_only=True):
    """A replay in this node's hands, as long as ``fence`` is that of its row."""

    id: UUID
    fence: int
    step: int  # jobs to make at a time
    due_seconds: float  # until the rate allows the next ones


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """What one step did: how many it made, for which lanes, and when the next one is due."""

    made: int
    lanes: frozenset[str]
    made_in_all: int
    done: bool
    due_seconds: float


# Asking -----------------------------------------------------------------------------------------


async def count(db: Database, wanted: Selection) -> Count:
    """Count the jobs that a replay would make now, for at most SEARCH_SECONDS."""
    _check(wanted)
    deadline = monotonic() + SEARCH_SECONDS
    found = 0
    async with db.reading(seconds=SEARCH_SECONDS) as connection:
        low, high = await _bounds(connection, wanted)
        reached = low
        while True:
            try:
                seen = await _look(connection, wanted, reached, high, finished_before=None)
            except TooWide:
                return Count(found, False)
            found += len(seen["ids"])
            if seen["looked_at"] < LOOK_ROWS:
                return Count(found, True)
            if found >= COUNT_LIMIT or monotonic() > deadline:
                return Count(found, False)
            reached = seen["reached"]


async def request(
    db: Database, wanted: Selection, *, rate: Rate, new_key: bool, counted: Count, who: str
) -> UUID:
    """Have the jobs replayed by whichever node takes it up; return the replay's id.

    Raises :class:`Refused` when too many replays run already.
    """
    _check(wanted)
    running = (await db.fetch("replays.running"))[0]["running"]
    if running >= MAX_RUNNING:
        raise Refused(f"{running} replays run already; wait for one, or cancel it")
    async with db.transaction() as connection:
        low, high = await _bounds(connection, wanted)
        replay_id = uuid7()
        await connection.fetch(
            query("replays.request"),
            replay_id,
            who,
            _encode(wanted).decode(),
            rate_text(rate),
            rate.period_seconds / rate.count,
            new_key,
            counted.jobs,
            counted.complete,
            low,
            high,
        )
    return replay_id


def check_rate(rate: Rate) -> Rate:
    """Return *rate* if a replay can have it; ``ValueError`` otherwise."""
    if rate.count / rate.period_seconds > MAX_RATE_PER_SECOND:
        raise ValueError(f"a replay makes at most {MAX_RATE_PER_SECOND:g}/s")
    return rate


async def list_replays(db: Database) -> list[ReplayRecord]:
    """Return the newest replays, those first."""
    return [_record(row) for row in await db.fetch("replays.list", LISTED)]


async def show_replay(db: Database, replay_id: UUID) -> ReplayDetail:
    """Return one replay and what became of its jobs; raises :class:`NotFound`."""
    async with db.reading(seconds=SEARCH_SECONDS) as connection:
        row = await connection.fetchrow(query("replays.show"), replay_id)
        if row is None:
            raise NotFound(f"replay {replay_id}: not found")
        states = await connection.fetch(query("replays.jobs_by_state"), replay_id, COUNT_LIMIT)
    return ReplayDetail(**_fields(row), jobs={state["state"]: state["jobs"] for state in states})


async def cancel_replay(db: Database, replay_id: UUID, *, who: str) -> int:
    """End a replay and cancel what waits of it; return how many jobs those were.

    Raises NotFound or Refused.
    """
    async with db.transaction() as connection:
        # It waits for a step under way, whose jobs are then seen.
        if not await connection.fetch(query("replays.cancel"), replay_id):
            row = await connection.fetchrow(query("replays.show"), replay_id)
            if row is None:
                raise NotFound(f"replay {replay_id}: not found")
            raise Refused(f"replay {replay_id}: is {row['state']} already")
        cancelled: int = await connection.fetchval(query("replays.cancel_jobs"), replay_id, who)
    return cancelled


async def dead_groups(db: Database, wanted: JobFilter) -> DeadGroups:
    """Return the dead letters in groups; of *wanted*, vendor, route, since and until count."""
    async with db.reading(seconds=SEARCH_SECONDS) as connection:
        bounds = await connection.fetchrow(query("replays.bounds"), wanted.since, wanted.until)
        rows = await connection.fetch(
            query("replays.dead_groups"),
            wanted.vendor,
            wanted.route,
            bounds["low"],
            bounds["high"],
            COUNT_LIMIT,
            GROUPS_SHOWN,
        )
    looked_at = rows[0]["looked_at"] if rows else 0
    names = DeadGroup.__struct_fields__
    return DeadGroups(
        groups=[DeadGroup(**{name: row[name] for name in names}) for row in rows],
        looked_at=looked_at,
        complete=looked_at < COUNT_LIMIT,
    )


# Making -----------------------------------------------------------------------------------------


async def take(db: Database, *, node: str, lease_seconds: float) -> list[Taken]:
    """Take up the replays that nobody has, and keep those that *node* has."""
    rows = await db.fetch("replays.take", node, lease_seconds, MAX_RUNNING)
    return [
        Taken(
            id=row["id"],
            fence=row["fence"],
            step=max(1, min(MAX_STEP, int(STEP_SECONDS / row["pause_seconds"]))),
            due_seconds=row["due_seconds"],
        )
        for row in rows
    ]


async def give_back(db: Database, *, node: str) -> None:
    """Let another node go on at once."""
    await db.fetch("replays.give_back", node)


async def unfinished(db: Database, replay_id: UUID, *, limit: int) -> int:
    """Return how many jobs of a replay are not finished, counting no further than *limit*."""
    jobs: int = (await db.fetch("replays.unfinished", replay_id, limit))[0]["jobs"]
    return jobs


async def step(
    db: Database, taken: Taken, *, node: str, limit: int, lease_seconds: float
) -> Step | None:
    """Make up to *limit* replays and write how far that came; None: the replay is not ours now."""
    async with db.transaction() as connection:
        rows = await connection.fetch(query("replays.lock"))
        row = next((row for row in rows if row["id"] == taken.id), None)
        if row is None or (row["node"], row["fence"]) != (node, taken.fence):
            return None
        seen = await _look(
            connection,
            _decode_selection(row["wanted"]),
            row["reached"],
            row["high"],
            finished_before=row["requested_at"],
            limit=limit,
        )
        ids = seen["ids"]
        lanes: list[Any] = []
        if ids:
            # In the order of the originals: within a key the oldest goes first again.
            fresh = sorted(uuid7() for _ in ids)
            await connection.fetch(query("replays.take_places"), ids, fresh)
            lanes = await connection.fetch(
                query("replays.make"), ids, fresh, taken.id, row["new_key"]
            )
        full = len(ids) == limit
        done = not full and seen["looked_at"] < LOOK_ROWS
        advanced = await connection.fetchrow(
            query("replays.advance"),
            taken.id,
            len(ids),
            ids[-1] if full else seen["reached"] or row["reached"],
            done,
            lease_seconds,
        )
    return Step(
        made=len(ids),
        lanes=frozenset(lane["vendor"] for lane in lanes),
        made_in_all=advanced["made"],
        done=done,
        due_seconds=advanced["due_seconds"],
    )


def _check(wanted: Selection) -> None:
    if wanted.state not in FINAL_STATES:
        states = ", ".join(sorted(FINAL_STATES))
        raise Refused(f"only finished jobs can be replayed: state is one of {states}")


async def _bounds(connection: Any, wanted: JobFilter) -> tuple[UUID, UUID]:
    """Return the id after which the walk begins and the one before which it ends."""
    row = await connection.fetchrow(query("replays.bounds"), wanted.since, wanted.until)
    return UUID(int=max(row["low"].int - 1, 0)), row["high"]


async def _look(
    connection: Any,
    wanted: Selection,
    reached: UUID,
    high: UUID,
    *,
    finished_before: Any,
    limit: int = LOOK_ROWS,
) -> Any:
    return await connection.fetchrow(
        query("replays.look"),
        wanted.state,
        reached,
        high,
        wanted.vendor,
        wanted.route,
        wanted.correlation_id,
        _uuid_or_none(wanted.correlation_id),
        wanted.event_id,
        wanted.error,
        wanted.again,
        finished_before,
        LOOK_ROWS,
        limit,
    )


def _uuid_or_none(text: str | None) -> UUID | None:
    try:
        return None if text is None else UUID(text)
    except ValueError:
        return None


def _record(row: Any) -> ReplayRecord:
    return ReplayRecord(**_fields(row))


def _fields(row: Any) -> dict[str, Any]:
    return dict(row) | {"filter": msgspec.Raw(row["filter"])}
