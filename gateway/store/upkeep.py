"""Partitions and retention: make them ahead, seal what is finished, drop what is old."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import date, datetime
from typing import Any
from uuid import UUID

from gateway.store.database import Database
from gateway.store.migrations import DAYS_AHEAD
from gateway.store.sql import query

PRUNE_ROWS = 2000
PRUNE_PAGES = 100  # some eighty dedupe keys each

# Making and dropping a partition takes locks that everything else waits behind. What is not had
# within this time is left for the next round.
LOCK_TIMEOUT_MS = 500

# For reading a whole day, which nothing waits for.
READ_SECONDS = 120.0


async def database_now(db: Database) -> datetime:
    """Return the time by the database's clock, which decides about days."""
    now: datetime = (await db.fetch("upkeep.now"))[0]["now"]
    return now


async def make_partitions(db: Database, *, now: datetime | None = None) -> None:
    """Make the partitions of yesterday to a few days ahead, where they are missing."""
    for row in await db.fetch("upkeep.missing_partitions", DAYS_AHEAD, now):
        # One at a time, so that no lock is held while another is waited for.
        async with _impatient(db) as connection:
            await connection.fetch(query("upkeep.make_partition"), row["parent"], row["day"])


async def seal_finished_days(db: Database, *, now: datetime | None = None) -> UUID:
    """Seal the past days whose jobs are all finished; return the floor under unfinished ids."""
    for row in await db.fetch("upkeep.unsealed_days", now):
        day: date = row["day"]
        low, high = await _bounds(db, day)
        if not await _read(db, "upkeep.seal_day", day, low, high):
            for orphan in await _read(db, "upkeep.orphans", low, high):
                await _read(db, "nodes.rescue", orphan["node"], low)
    floor = await _floor(db, now)
    if await db.fetch("upkeep.unseal_late_days", floor):
        floor = await _floor(db, now)
    return floor


async def drop_expired_days(
    db: Database, *, retention_seconds: float, now: datetime | None = None
) -> list[date]:
    """Drop the partitions of sealed days older than the retention; return those days."""
    dropped = []
    for row in await db.fetch("upkeep.expired_days", retention_seconds, now):
        day: date = row["day"]
        if await _unfinished(db, day):
            await db.fetch("upkeep.forget_day", day)
            continue
        for table in ("attempts", "jobs", "events"):
            # One at a time, as above. The name is made of a date that PostgreSQL itself gave us.
            async with _impatient(db) as connection:
                await connection.execute(f"DROP TABLE IF EXISTS gateway.{table}_{day:%Y%m%d}")
        await db.fetch("upkeep.forget_day", day)
        dropped.append(day)
    return dropped


async def prune_dedupe_keys(db: Database, page: int) -> tuple[int, int]:
    """Delete keys whose window is over from some pages of their table, *page* and those after it.

    Return the page to go on with, 0 after the last, and how many there are.
    """
    row = (await db.fetch("upkeep.prune_dedupe_keys", page, PRUNE_PAGES))[0]
    return row["next"], row["pages"]


async def prune_default(
    db: Database, *, retention_seconds: float, now: datetime | None = None
) -> int:
    """Delete what is old and finished in the default partitions, which are never dropped.

    Some of it; return how many jobs that was, PRUNE_ROWS says that there are more.
    """
    args = (retention_seconds, now, PRUNE_ROWS)
    async with db.transaction() as connection:
        await connection.execute("SET LOCAL gateway.maintenance = 'on'")  # history is append-only
        ids = [
            row["id"] for row in await connection.fetch(query("upkeep.prune_default_jobs"), *args)
        ]
        await connection.fetch(query("upkeep.prune_default_attempts"), ids)
        await connection.fetch(query("upkeep.prune_default_events"), *args)
    return len(ids)


async def _floor(db: Database, now: datetime | None) -> UUID:
    floor: UUID = (await db.fetch("upkeep.oldest_unsealed", now))[0]["floor"]
    return floor


async def _bounds(db: Database, day: date) -> tuple[UUID, UUID]:
    row = (await db.fetch("upkeep.day_bounds", day))[0]
    return row["low"], row["high"]


async def _unfinished(db: Database, day: date) -> bool:
    """Return whether a job of a sealed *day* is not finished: one that came late, see the SQL."""
    rows = await _read(db, "upkeep.unfinished", *await _bounds(db, day))
    return bool(rows[0]["unfinished"])


async def _read(db: Database, name: str, *args: Any) -> list[Any]:
    """Run a statement that reads a whole day."""
    async with db.transaction() as connection:
        await connection.execute(f"SET LOCAL statement_timeout = {int(READ_SECONDS * 1000)}")
        rows: list[Any] = await connection.fetch(query(name), *args, timeout=READ_SECONDS)
    return rows


@asynccontextmanager
async def _impatient(db: Database) -> AsyncIterator[Any]:
    """Hold a transaction that does not wait long for its locks."""
    async with db.transaction() as connection:
        await connection.execute(f"SET LOCAL lock_timeout = {LOCK_TIMEOUT_MS}")
        yield connection
