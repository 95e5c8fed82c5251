"""The partition that each day's jobs have, so that what is written of a day touches no other.

An update of the whole table is planned for the partitions of every day, and locks them all. With a
year of them that is 430 ms, anew whenever PostgreSQL has vacuumed one, and 1.5 ms each time.
On a day's own partition the same statement knows nothing of the others.
"""

from __future__ import annotations

import asyncio
import math
from collections import defaultdict
from collections.abc import Sequence
from uuid import UUID

from gateway.errors import DatabaseUnavailable
from gateway.store.database import Database
from gateway.store.writes import Settled

# Days are made ahead, so one that is not known is far off, and may stay in the default partition.
LOOK_SECONDS = 60.0

_DAY_MS = 86_400_000


class JobPartitions:
    """What each day's partition of ``gateway.jobs`` is called, as far as this node knows."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._names: dict[int, str] = {}  # by the day's number
        self._looked = -math.inf

    async def split(self, batch: Sequence[Settled]) -> dict[str | None, list[Settled]]:
        """Return *batch* by the partition that has it; None: by none that is known."""
        days = [day_number(item.job.id) for item in batch]
        if not self._names.keys() >= set(days):
            await self._look()
        parts: dict[str | None, list[Settled]] = defaultdict(list)
        for day, item in zip(days, batch, strict=True):
            parts[self._names.get(day)].append(item)
        return parts

    async def _look(self) -> None:
        now = asyncio.get_running_loop().time()
        if now < self._looked + LOOK_SECONDS:
            return
        try:
            rows = await self._db.fetch("upkeep.job_partitions")
        except DatabaseUnavailable:
            return  # whoever writes next will wait for it
        self._looked = now
        self._names = {row["day_number"]: row["name"] for row in rows}


def day_number(job_id: UUID) -> int:
    """Return the day (UTC) of a UUIDv7, counted from 1970-01-01."""
    return (job_id.int >> 80) // _DAY_MS
