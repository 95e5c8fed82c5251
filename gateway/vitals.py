"""Watches the database for what makes it slow in the long run: bloat, and who causes it."""

from __future__ import annotations

import time
from collections.abc import Callable

from gateway.store import vitals
from gateway.store.database import Database
from gateway.store.vitals import XminHolder
from gateway.telemetry.logs import get_logger
from gateway.telemetry.metrics import Metrics

log = get_logger("gateway.vitals")

# No statement of the gateway takes longer than two minutes; whatever holds on for longer than this
# makes every table grow, and every claim step over what is dead.
HELD_SECONDS = 300.0
REPEAT_SECONDS = 1800.0  # between warnings about the same holder


class Vitals:
    """Reads the vital signs; the eldest of the living nodes does it for all."""

    def __init__(
        self,
        db: Database,
        *,
        node: str,
        metrics: Metrics,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._db = db
        self._node = node
        self._metrics = metrics
        self._clock = clock
        self._seen: dict[tuple[str, str], float] = {}  # holders without a time, since when
        self._warned: dict[tuple[str, str], float] = {}

    async def read(self) -> None:
        """Set the gauges, and warn of whoever holds an old snapshot for long."""
        found = await vitals.tables(self._db, node=self._node)
        if not found:
            self._forget()  # another node tells
            return
        present = await vitals.xmin_holders(self._db)
        self._forget()
        metrics = self._metrics
        dead: dict[str, int] = {}
        for part in found:
            metrics.partitions[part.table, part.age].set(part.partitions)
            metrics.table_bytes[part.table, part.age].set(part.bytes)
            dead[part.table] = dead.get(part.table, 0) + part.dead_rows
        for table, rows in dead.items():
            metrics.dead_rows[table].set(rows)
        holders = [(holder, self._held_seconds(holder)) for holder in present]
        metrics.oldest_xmin_seconds.set(max((seconds for _, seconds in holders), default=0.0))
        metrics.oldest_xmin_transactions.set(max((h.transactions for h, _ in holders), default=0))
        self._warn({(holder.kind, holder.name): (holder, held) for holder, held in holders})

    def _forget(self) -> None:
        """Empty the gauges: ages move on, and another node may tell from now on."""
        for family in (self._metrics.partitions, self._metrics.table_bytes):
            for child in family.values():
                child.set(0)
        for child in self._metrics.dead_rows.values():
            child.set(0)
        self._metrics.oldest_xmin_seconds.set(0)
        self._metrics.oldest_xmin_transactions.set(0)

    def _held_seconds(self, holder: XminHolder) -> float:
        """Return how long it has held on; where only we can know, since we first saw it."""
        if holder.seconds is not None:
            return max(holder.seconds, 0.0)
        return self._clock() - self._seen.setdefault((holder.kind, holder.name), self._clock())

    def _warn(self, holders: dict[tuple[str, str], tuple[XminHolder, float]]) -> None:
        now = self._clock()
        for key in self._warned.keys() - holders.keys():
            del self._warned[key]
            log.info("xmin_released", holder=key[0], name=key[1])
        for key in self._seen.keys() - holders.keys():
            del self._seen[key]
        for key, (holder, seconds) in holders.items():
            if seconds < HELD_SECONDS or now - self._warned.get(key, -1e9) < REPEAT_SECONDS:
                continue
            self._warned[key] = now
            log.warning(
                "xmin_held",
                holder=holder.kind,
                name=holder.name,
                application=holder.application,
                role=holder.role,
                state=holder.state,
                since=holder.since.isoformat() if holder.since else None,
                seconds=round(seconds),
                transactions=holder.transactions,
                query=holder.query,
            )
