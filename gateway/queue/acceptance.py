"""The way in: webhooks are committed in groups, and their jobs handed off to free lanes."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from time import perf_counter
from uuid import UUID

from gateway.errors import DatabaseUnavailable
from gateway.model import Job, Receipt
from gateway.queue.ready import ReadyQueue
from gateway.store import events
from gateway.store.batch import GroupCommit
from gateway.store.database import Database
from gateway.store.writes import Acceptance
from gateway.telemetry.logs import get_logger
from gateway.telemetry.metrics import Metrics

log = get_logger("gateway.acceptance")

# While one batch is on the disk, the next is decoded, verified and sent off; but where the disk is
# fast, one larger statement is worth more than two. Measured with 64 senders on two cores: where a
# commit took 0.1 ms one flight took in 6% more, with 1 ms 9%; where it took 2, 3 and 5 ms, two took
# in 18%, 33% and 40% more. Besides, a batch of one row takes about 0.8 ms.
FLIGHTS = 2
SLOW_COMMIT_SECONDS = 0.0025


class AcceptanceDesk:
    """Takes verified webhooks and returns receipts once they are committed."""

    def __init__(
        self,
        db: Database,
        ready: ReadyQueue,
        *,
        node: str,
        metrics: Metrics,
        max_waiting: int = 5000,
        patience_seconds: float = 10.0,
    ) -> None:
        self._db = db
        self._ready = ready
        self.node = node
        self._metrics = metrics
        self._max_waiting = max_waiting
        self._batches: GroupCommit[Acceptance, Receipt] = GroupCommit(
            self._flush,
            max_rows=256,
            weigh=_body_bytes,
            patience_seconds=patience_seconds,
            impatience=lambda: DatabaseUnavailable("not committed in time"),
            flights=FLIGHTS,
            slow_seconds=SLOW_COMMIT_SECONDS,
        )
        self.run = self._batches.run
        self.finish = self._batches.finish

    def post(
        self,
        item: Acceptance,
        tell: Callable[[Receipt | BaseException], None],
        *,
        patience_seconds: float = math.inf,
    ) -> None:
        """Have one webhook committed; *tell* is then called, with :class:`DatabaseUnavailable`,
        which this may also raise, where that is not certain.

        The wait is bounded, by *patience_seconds* too: a sender that is told 503 in time tries
        again, one that gives up first may not.
        """
        self._make_sure_of_room()
        # After an impatient answer it may still be committed; the next try finds a duplicate.
        self._batches.post(item, tell, in_order=_has_line(item), patience_seconds=patience_seconds)

    async def accept(self, item: Acceptance, *, patience_seconds: float = math.inf) -> Receipt:
        """Commit one webhook, as :meth:`post` does, and wait for its receipt."""
        self._make_sure_of_room()
        return await self._batches.submit(
            item, in_order=_has_line(item), patience_seconds=patience_seconds
        )

    def _make_sure_of_room(self) -> None:
        if not self._db.up:
            raise DatabaseUnavailable("PostgreSQL is away")
        if len(self._batches) >= self._max_waiting:
            raise DatabaseUnavailable(f"{self._max_waiting} webhooks wait to be committed already")

    async def _flush(self, batch: list[Acceptance]) -> Sequence[Receipt | Exception]:
        leaders, followers = _split(batch)
        handed_off = self._reserve(leaders)
        try:
            began = perf_counter()
            accepted = await events.accept(self._db, leaders, node=self.node)
            self._metrics.group_commit_rows["accept"].observe(len(leaders))
            self._metrics.group_commit_seconds["accept"].observe(perf_counter() - began)
        except DatabaseUnavailable:
            # Should it have been committed after all, the sweep for strays gives the jobs back.
            self._forget(handed_off)
            self._ready.suspect_strays()
            raise
        except Exception:
            self._forget(handed_off)
            if len(batch) == 1:
                raise
            # One item that PostgreSQL cannot store must not refuse its neighbours.
            log.exception("batch_split", rows=len(batch))
            return await self._flush_singly(batch)

        duplicates = accepted.duplicates
        for job in handed_off:
            if (
                accepted.node_lives
                and job.event_id not in duplicates
                and job.id not in accepted.blocked
            ):
                self._ready.start(job)
                self._metrics.handed_off_total[job.vendor].inc()
            else:
                self._ready.forget(job)
        self._note_backlog(leaders, node_lives=accepted.node_lives)

        receipts: dict[UUID, Receipt] = {}
        for item in leaders:
            original = duplicates.get(item.event.id)
            receipts[item.event.id] = (
                Receipt(item.event.id, len(item.jobs), False)
                if original is None
                else Receipt(original, 0, True)
            )
        for follower, leader in followers.items():
            receipts[follower] = Receipt(receipts[leader].event_id, 0, True)
        if followers:
            await self._count_repeats(batch, followers)
        return [receipts[item.event.id] for item in batch]

    async def _count_repeats(self, batch: list[Acceptance], followers: dict[UUID, UUID]) -> None:
        """Count what came again in the same batch. All of it is committed; a count may be lost."""
        again = [i.event for i in batch if i.event.id in followers]
        repeats = Counter((e.vendor, e.dedupe_key) for e in again if e.dedupe_key is not None)
        try:
            await events.count_repeats(self._db, repeats)
        except DatabaseUnavailable as error:
            log.warning("repeats_uncounted", repeats=repeats.total(), error=str(error))

    async def _flush_singly(self, batch: list[Acceptance]) -> list[Receipt | Exception]:
        results: list[Receipt | Exception] = []
        for item in batch:
            try:
                results += await self._flush([item])
            except DatabaseUnavailable:
                raise
            except Exception as error:  # noqa: BLE001  # its own sender is told
                results.append(error)
        return results

    def _reserve(self, leaders: list[Acceptance]) -> list[Job]:
        handed_off = []
        for item in leaders:
            for new in item.jobs:
                if new.delay_seconds > 0:
                    new.state = "scheduled"
                elif (job := self._ready.reserve(new, item.event)) is not None:
                    new.state = "running"
                    handed_off.append(job)
                else:
                    new.state = "available"
        return handed_off

    def _forget(self, jobs: list[Job]) -> None:
        for job in jobs:
            self._ready.forget(job)

    def _note_backlog(self, leaders: list[Acceptance], *, node_lives: bool) -> None:
        for item in leaders:
            for new in item.jobs:
                if new.route in self._ready.paused_routes:
                    continue  # set aside at the next look; others may well overtake it
                if new.state == "available" or (new.state == "running" and not node_lives):
                    lane = self._ready.lanes.get(new.vendor)
                    if lane is not None:
                        lane.backlog = True
                elif new.state == "scheduled":
                    self._ready.expect_due(new.delay_seconds)


def _has_line(item: Acceptance) -> bool:
    """Return whether a job of *item* must not overtake another of its ordering key."""
    return any(job.ordering_key is not None for job in item.jobs)


def _split(batch: list[Acceptance]) -> tuple[list[Acceptance], dict[UUID, UUID]]:
    """Return the items to write, in key order, and those that repeat one of them (id → its id)."""
    first: dict[tuple[str, str], Acceptance] = {}
    followers: dict[UUID, UUID] = {}
    unkeyed = []
    for item in batch:
        event = item.event
        if event.dedupe_key is None:
            unkeyed.append(item)
            continue
        leader = first.setdefault((event.vendor, event.dedupe_key), item)
        if leader is not item:
            followers[event.id] = leader.event.id
    return [first[key] for key in sorted(first)] + unkeyed, followers


def _body_bytes(item: Acceptance) -> int:
    return len(item.event.body or b"") + 500
