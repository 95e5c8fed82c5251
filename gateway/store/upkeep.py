"""Partitions and retention: make them ahead, seal what is finished, drop what is old."""

from __future__ import annotations

from datetime import date
from uuid import UUID

from gateway.store.database import Database
from gateway.store.migrations import DAYS_AHEAD
from gateway.store.sql import query

PRUNE_ROWS = 2000

# A lock that is not had within this time is left for the next round: waiting for it would make
# every query behind it wait too.
_LOCK_TIMEOUT = "SET LOCAL lock_timeout = '2s'"


async def make_partitions(db: Database) -> None:
    """Make the partitions of yesterday to a few days ahead, where they are missing."""
    async with db.transaction() as connection:
        await connection.execute(_LOCK_TIMEOUT)
        await connection.fetch(query("upkeep.make_partitions"), DAYS_AHEAD)


async def seal_finished_days(db: Database) -> UUID:
    """Seal the past days whose jobs are all finished; return the floor under unfinished ids."""
    for row in await db.fetch("upkeep.unsealed_days"):
        bounds = (await db.fetch("upkeep.day_bounds", row["day"]))[0]
        await db.fetch("upkeep.seal_day", row["day"], bounds["low"], bounds["high"])
    floor: UUID = (await db.fetch("upkeep.oldest_unsealed"))[0]["floor"]
    return floor


async def drop_expired_days(db: Database, *, retention_seconds: float) -> list[date]:
    """Drop the partitions of sealed days older than the retention; return those days."""
    dropped = []
    for row in await db.fetch("upkeep.expired_days", retention_seconds):
        day: date = row["day"]
        async with db.transaction() as connection:
            await connection.execute(_LOCK_TIMEOUT)
            for table in ("attempts", "jobs", "events"):
                # The name is made of a date that PostgreSQL itself gave us.
                await connection.execute(f"DROP TABLE IF EXISTS gateway.{table}_{day:%Y%m%d}")
            await connection.execute(query("upkeep.forget_day"), day)
        dropped.append(day)
    return dropped


async def prune_dedupe_keys(db: Database) -> int:
    """Delete dedupe keys whose window is over; return how many (PRUNE_ROWS: there are more)."""
    return len(await db.fetch("upkeep.prune_dedupe_keys", PRUNE_ROWS))
