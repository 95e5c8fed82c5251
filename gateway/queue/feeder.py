"""The feeder: moves due jobs into the backlog, and the backlog into lanes that can run."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import suppress
from uuid import UUID

from gateway.errors import DatabaseUnavailable
from gateway.model import Job
from gateway.queue.lane import AGEING_SHARE, Lane
from gateway.queue.ready import ReadyQueue
from gateway.store import jobs, steering
from gateway.store.database import Database
from gateway.telemetry.logs import get_logger
from gateway.telemetry.metrics import Metrics

log = get_logger("gateway.feeder")

CLAIM_ROWS = 500  # per lane and statement
PROMOTE_ROWS = 1000


class Feeder:
    """Claims for lanes below their low-water mark. Polling is the truth, a wake-up only a hint.

    A poll is a look whether there is anything: to claim for each lane, or to promote, would be
    several times as dear, and mostly for nothing.
    """

    def __init__(
        self,
        db: Database,
        ready: ReadyQueue,
        *,
        node: str,
        metrics: Metrics,
        poll_seconds: float = 1.0,
    ) -> None:
        self._db = db
        self._ready = ready
        self.node = node
        self._metrics = metrics
        self._poll_seconds = poll_seconds
        # The start of the oldest day that may have unfinished jobs; maintenance raises it.
        self.oldest_unfinished = UUID(int=0)
        # Held while a claim is in flight: the heartbeat must not raise the floor past its jobs.
        self.claiming = asyncio.Lock()
        self._look_at = 0.0  # loop time
        self._stopping = False
        self._stopped = asyncio.Event()

    async def run(self) -> None:
        """Feed until :meth:`stop`."""
        while not self._stopping:
            try:
                again = await self._feed()
            except DatabaseUnavailable as error:
                log.warning("feeder_waits", error=str(error))
                self._ready.suspect_strays()
                await asyncio.sleep(0.2)
                await self._up_or_stopped()
                continue
            if not again:
                await self._sleep()

    def stop(self) -> None:
        """Claim nothing more."""
        self._stopping = True
        self._stopped.set()
        self._ready.wake.set()

    async def _up_or_stopped(self) -> None:
        """Wait for the database, but not in a drain: it may stay away for long."""
        waits = [asyncio.ensure_future(act) for act in (self._db.wait_up(), self._stopped.wait())]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    async def _sleep(self) -> None:
        """Sleep until woken, or until it is time to look."""
        with suppress(TimeoutError):
            async with asyncio.timeout_at(self._look_at):
                await self._ready.wake.wait()
        self._ready.wake.clear()

    async def _feed(self) -> bool:
        """Do one round; return whether another is worth doing at once."""
        sweeps = self._ready.stray_sweeps
        if sweeps and sweeps[0] <= asyncio.get_running_loop().time():
            await self._release_strays()
        await self._give_back_parked()
        await self._set_aside_paused()
        if self._look_at <= asyncio.get_running_loop().time():
            await self._look()
        again = False
        if self._ready.promote:
            again = await self._promote()
        return await self._claim() or again

    async def _look(self) -> None:
        """Look for what nobody has told us of: other nodes leave jobs, and far retries come due."""
        lanes = [
            lane for lane in self._ready.lanes.values() if not lane.backlog and lane.room() > 0
        ]
        left, due = await jobs.look(
            self._db, [lane.name for lane in lanes], floor=self.oldest_unfinished
        )
        self._look_at = asyncio.get_running_loop().time() + self._poll_seconds
        for lane in lanes:
            lane.backlog = lane.backlog or lane.name in left
        self._ready.promote = self._ready.promote or due

    async def _promote(self) -> bool:
        self._ready.promote = False
        promoted = await jobs.promote(self._db, limit=PROMOTE_ROWS, floor=self.oldest_unfinished)
        for name in promoted:
            if lane := self._ready.lanes.get(name):
                lane.backlog = True
        if sum(promoted.values()) >= PROMOTE_ROWS:
            self._ready.promote = True
        return self._ready.promote

    async def _claim(self) -> bool:
        hungry = [lane for lane in self._ready.lanes.values() if lane.backlog and lane.room() > 0]
        if not hungry or self._stopping:
            return False
        rooms = [_portions(lane) for lane in hungry]
        now = asyncio.get_running_loop().time
        async with self.claiming:
            for lane in hungry:
                lane.begin_claim()
            reached = {
                lane.name: at for lane in hungry if (at := lane.bookmark.open(now())) is not None
            }
            try:
                claimed = await jobs.claim(
                    self._db, rooms, node=self.node, floor=self.oldest_unfinished, reached=reached
                )
            except BaseException:
                for lane in hungry:
                    lane.expect_older()
                    lane.end_claim(left_some=True)
                raise
            for name, count in Counter(job.vendor for job in claimed).items():
                self._metrics.claimed_total[name].inc(count)
            paused = [job for job in claimed if job.route in self._ready.paused_routes]
            self._ready.take(job for job in claimed if job.route not in self._ready.paused_routes)
            for lane in hungry:
                more = lane.bookmark.place(reached.get(lane.name), now())
                lane.end_claim(left_some=more)
            if paused:
                await self._set_aside(paused)
        return any(lane.backlog and lane.room() > 0 for lane in hungry)

    async def _give_back_parked(self) -> None:
        """Return the jobs of lanes that will not run for long, so that another node may."""
        for lane in self._ready.lanes.values():
            if lane.waiting and lane.stalled():
                dropped = lane.drop_waiting()
                lane.expect_older()
                try:
                    released = await jobs.release(
                        self._db, [job.id for job in dropped], node=self.node
                    )
                except DatabaseUnavailable:
                    for job in dropped:  # still ours, as far as anybody knows
                        lane.push(job)
                    raise
                for job in dropped:
                    self._ready.forget(job)
                log.info("lane_handed_back", vendor=lane.name, jobs=released)

    async def _set_aside_paused(self) -> None:
        """Take jobs of routes that were paused just now out of the lanes."""
        if not self._ready.routes_paused:
            return
        self._ready.routes_paused = False
        for lane in self._ready.lanes.values():
            dropped = lane.drop_routes(self._ready.paused_routes)
            if not dropped:
                continue
            try:
                await self._set_aside(dropped)
            except DatabaseUnavailable:
                self._ready.routes_paused = True
                for job in dropped:  # still ours, as far as anybody knows
                    lane.push(job)
                raise
            for job in dropped:
                self._ready.forget(job)
            log.info("route_set_aside", vendor=lane.name, jobs=len(dropped))

    async def _set_aside(self, waiting: list[Job]) -> None:
        # A pause may have ended without our knowing: its jobs are claimed again, and kept.
        ended = await steering.set_aside(self._db, waiting, node=self.node)
        self._ready.paused_routes -= ended

    async def _release_strays(self) -> None:
        async with self.claiming:
            released = await jobs.release_strays(
                self._db, self._ready.held, node=self.node, floor=self.oldest_unfinished
            )
        del self._ready.stray_sweeps[:1]
        if released:
            log.warning("strays_released", jobs=released)
            for lane in self._ready.lanes.values():
                lane.expect_older()


def _portions(lane: Lane) -> tuple[str, int, int]:
    """Return how much to claim: mostly the most urgent, a share of the oldest."""
    room = min(lane.room(), CLAIM_ROWS)
    oldest = -(-room // AGEING_SHARE)
    return lane.name, max(room - oldest, 1), oldest
