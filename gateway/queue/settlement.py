"""The way out: how attempts ended is committed in groups, and never lost while we live."""

from __future__ import annotations

import asyncio
from time import perf_counter
from uuid import UUID

import msgspec

from gateway.errors import DatabaseUnavailable
from gateway.queue.ready import ReadyQueue
from gateway.store import jobs
from gateway.store.batch import GroupCommit
from gateway.store.database import Database
from gateway.store.partitions import JobPartitions
from gateway.store.writes import Settled
from gateway.telemetry.logs import get_logger
from gateway.telemetry.metrics import Metrics

log = get_logger("gateway.settlement")

# Nobody waits for a settlement but the next job of an ordering key.
LINGER_SECONDS = 0.02


class SettlementDesk:
    """Takes outcomes and writes them, fenced. While the database is away they wait here."""

    def __init__(self, db: Database, ready: ReadyQueue, *, node: str, metrics: Metrics) -> None:
        self._db = db
        self._partitions = JobPartitions(db)
        self._ready = ready
        self.node = node
        self._metrics = metrics
        self._batches: GroupCommit[Settled, None] = GroupCommit(
            self._flush, max_rows=512, weigh=_excerpt_bytes, linger_seconds=LINGER_SECONDS
        )
        self.run = self._batches.run
        self.finish = self._batches.finish

    def record(self, item: Settled) -> None:
        """Settle an attempt; its slot is free for the next at once."""
        self._batches.post(item, urgent=item.job.ordering_key is not None)

    async def _flush(self, batch: list[Settled]) -> list[None]:
        parts = await self._partitions.split(self._without_outdated(batch))
        for partition, part in parts.items():
            await self._settle(part, partition)
        return [None] * len(batch)

    def _without_outdated(self, batch: list[Settled]) -> list[Settled]:
        """Return *batch* with one outcome of each job: that of its latest claim.

        A job that this node lost and claimed again may end twice at the same time. The statement
        tells outcomes apart by their job, and the history has room for one.
        """
        latest: dict[UUID, Settled] = {}
        for item in batch:
            known = latest.setdefault(item.job.id, item)
            if known.job.claim_no < item.job.claim_no:
                latest[item.job.id] = item
        if len(latest) < len(batch):
            for item in batch:
                if latest[item.job.id] is not item:
                    self._lost(item)
        return list(latest.values())

    async def _settle(self, batch: list[Settled], partition: str | None) -> None:
        doubtful = False  # an earlier try may have been committed: a mismatch proves nothing then
        plain = False
        while True:
            try:
                began = perf_counter()
                settled = await jobs.settle(self._db, batch, node=self.node, partition=partition)
                self._metrics.group_commit_rows["settle"].observe(len(batch))
                self._metrics.group_commit_seconds["settle"].observe(perf_counter() - began)
                break
            except DatabaseUnavailable as error:
                log.warning("settle_postponed", jobs=len(batch), error=str(error))
                doubtful = True
                # Up or not, never spin: a conflict also comes here while the database is up.
                await asyncio.sleep(0.2)
                await self._db.wait_up()
            except Exception:
                if len(batch) == 1:
                    log.exception("settle_refused", job_id=str(batch[0].job.id))
                    if plain:
                        # Others wait. The job stays held, and running, until this node ends.
                        return
                    batch, plain = [_plain(batch[0])], True
                    continue
                log.exception("batch_split", rows=len(batch))
                for item in batch:
                    await self._settle([item], partition)
                return
        for item in batch:
            if item.job.id in settled:
                self._ready.forget(item.job)
                self._metrics.jobs_settled_total[item.job.vendor, item.job.route, item.state].inc()
                self._after(item)
            elif doubtful:
                self._ready.forget(item.job)
            else:
                self._lost(item)

    def _lost(self, item: Settled) -> None:
        self._ready.forget(item.job)
        self._metrics.lost_leases_total.inc()
        log.warning("lease_lost", job_id=str(item.job.id), claim_no=item.job.claim_no)

    def _after(self, item: Settled) -> None:
        if item.state == "scheduled":
            self._ready.expect_due(item.delay_seconds)
        elif item.job.ordering_key is not None:
            # The next of its line is in the backlog now.
            self._ready.lanes[item.job.vendor].expect_older()
            self._ready.wake.set()
        for follow_up in item.follow_ups:
            lane = self._ready.lanes.get(follow_up.vendor)
            if follow_up.delay_seconds > 0:
                self._ready.expect_due(follow_up.delay_seconds)
            elif lane is not None:
                lane.backlog = True
                self._ready.wake.set()


def _plain(item: Settled) -> Settled:
    """Return *item* without the texts that PostgreSQL might have refused."""
    return msgspec.structs.replace(
        item,
        error="the details of this attempt could not be stored; see the log",
        request=None,
        response=None,
    )


def _excerpt_bytes(item: Settled) -> int:
    return 500 + len(item.request or "") + len(item.response or "")
