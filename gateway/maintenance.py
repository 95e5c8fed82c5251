"""What a node does besides work: it lives visibly, rescues, counts, and keeps the tables young."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime
from uuid import UUID

import uuid_utils.compat

from gateway.errors import DatabaseUnavailable
from gateway.queue.feeder import Feeder
from gateway.queue.ready import ReadyQueue
from gateway.store import jobs, nodes, upkeep
from gateway.store.database import Database
from gateway.telemetry.logs import get_logger
from gateway.telemetry.metrics import Metrics
from gateway.vitals import Vitals

log = get_logger("gateway.maintenance")

PROBE_SECONDS = 0.5  # between tries while the database is away
LONG_EXECUTION_SECONDS = 2.0  # from here on started_at is written while the attempt still runs
COUNT_SECONDS = 2.0  # between counts of the backlog, at least
COUNT_SHARE = 0.02  # … and counting takes no more of the time than this
UPKEEP_SECONDS = 600.0
PRUNE_SECONDS = 30.0
PRUNE_ROUNDS = 120  # for the whole table
VITALS_SECONDS = 30.0

# A clock that is off by more drops no history; one that jumped is watched for so long first.
CLOCK_SECONDS = 3600.0
DISTRUST_SECONDS = 86400.0

# Ids are made a moment before their job is reserved: the floor stays this far behind the clock.
FLOOR_MARGIN_MS = 120_000


def node_name(name: str) -> str:
    """Return a name that no process had before, for one run of the node called *name*."""
    return f"{name}/{os.urandom(4).hex()}"


class Heartbeat:
    """Keeps the node's lease, and has it stop before the lease ends when that fails."""

    def __init__(
        self,
        db: Database,
        ready: ReadyQueue,
        feeder: Feeder,
        *,
        node: str,
        lease_seconds: float,
        version: str,
        metrics: Metrics,
        abandon: Callable[[], None],
    ) -> None:
        self._db = db
        self._ready = ready
        self._feeder = feeder
        self._node = node
        self._lease_seconds = lease_seconds
        self._version = version
        self._metrics = metrics
        self._abandon = abandon
        self._renewed_at = 0.0
        self._others_expired = asyncio.Event()
        self.lost = False

    async def register(self) -> None:
        """Announce the node; from here on it may hold jobs."""
        self._renewed_at = asyncio.get_running_loop().time()
        floor = _floor_now()
        await nodes.register(
            self._db,
            self._node,
            lease_seconds=self._lease_seconds,
            version=self._version,
            oldest_held=floor,
        )
        self._ready.floor = floor

    async def run(self) -> None:
        """Renew three times a lease; rescue whoever did not."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                began = loop.time()
                # A beat that hangs must not keep us from noticing that the lease ends.
                async with asyncio.timeout(self._lease_seconds / 4):
                    await self._beat()
                self._renewed_at = began
                pause = self._lease_seconds / 3
            except (DatabaseUnavailable, TimeoutError) as error:
                log.warning("heartbeat_failed", error=str(error) or "no answer in time")
                pause = PROBE_SECONDS
            if not self.lost and loop.time() - self._renewed_at > self._lease_seconds * 0.8:
                self._lose("the lease could not be renewed in time")
            await asyncio.sleep(pause)

    async def rescue(self) -> None:
        """Bury dead nodes when a beat has seen one; beside the beats, since it may take long."""
        while True:
            await self._others_expired.wait()
            self._others_expired.clear()
            try:
                await self._rescue()
            except DatabaseUnavailable as error:
                log.warning("rescue_postponed", error=str(error))  # the next beat sees them again

    async def _beat(self) -> None:
        if self._feeder.claiming.locked() or self._ready.stray_sweeps:
            # A claim of jobs below the floor may be under way, or have been committed unawares.
            lives, others_expired = await nodes.renew(self._db, self._node, oldest_held=None)
        else:
            async with self._feeder.claiming:
                floor = _floor_now()
                if (oldest := self._ready.oldest_held()) is not None:
                    floor = min(floor, oldest)
                lives, others_expired = await nodes.renew(self._db, self._node, oldest_held=floor)
                if lives:
                    self._ready.floor = floor
        if not lives:
            self._lose("another node took this one for dead")
            await self.register()
            # What was committed in our name before we knew goes back to everybody.
            self._ready.suspect_strays()
        self.lost = False
        if others_expired or not lives:
            self._others_expired.set()

    async def _rescue(self) -> None:
        for node, lanes in (await nodes.rescue(self._db)).items():
            count = sum(lanes.values())
            log.warning("node_buried", node=node, jobs=count)
            self._metrics.rescued_total.inc(count)
            for name in lanes:
                if lane := self._ready.lanes.get(name):
                    lane.expect_older()
        self._ready.wake.set()

    def _lose(self, reason: str) -> None:
        log.error("lease_given_up", node=self._node, reason=reason, held=len(self._ready.held))
        self.lost = True
        self._abandon()


class Backlog:
    """What waits in the database, counted now and then; the intake refuses beyond a bound."""

    def __init__(self, db: Database, feeder: Feeder, *, max_backlog: int, metrics: Metrics) -> None:
        self._db = db
        self._feeder = feeder
        self._max_backlog = max_backlog
        self._metrics = metrics
        self.by_lane: dict[str, int] = {}
        self.full = False

    async def run(self) -> None:
        """Count for ever, the less often the longer it takes."""
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            try:
                await self.count()
            except DatabaseUnavailable as error:
                log.warning("backlog_count_failed", error=str(error))
                await self._db.wait_up()
            await asyncio.sleep(max(COUNT_SECONDS, (loop.time() - began) / COUNT_SHARE))

    async def count(self) -> None:
        """Count once."""
        found = await jobs.backlog(
            self._db, floor=self._feeder.oldest_unfinished, limit=self._max_backlog
        )
        for name in self.by_lane.keys() - found.keys():
            self._metrics.backlog[name, "available"].set(0)
        for name, count in found.items():
            self._metrics.backlog[name, "available"].set(count)
        self.by_lane = found
        full = sum(found.values()) >= self._max_backlog
        if full != self.full:
            log.warning("backlog_full" if full else "backlog_receded", limit=self._max_backlog)
        self.full = full


class Upkeep:
    """The slow, regular acts: partitions, retention, dedupe keys, started_at of long attempts."""

    def __init__(
        self,
        db: Database,
        ready: ReadyQueue,
        feeder: Feeder,
        *,
        retention_seconds: float,
        vitals: Vitals,
    ) -> None:
        self._db = db
        self._ready = ready
        self._feeder = feeder
        self._vitals = vitals
        self._retention_seconds = retention_seconds
        self._told: set[UUID] = set()
        # Of the dedupe keys. The sweep begins anywhere, so that it comes to the end of the table
        # even where no process lives long.
        self._page = random.getrandbits(31)
        self._clock: tuple[datetime, float] | None = None  # the database's, and loop time
        self._distrusted_until = 0.0  # loop time

    async def run(self) -> None:
        """Run every act at its own pace."""
        async with asyncio.TaskGroup() as group:
            group.create_task(every(UPKEEP_SECONDS, self.keep_partitions))
            group.create_task(every(PRUNE_SECONDS, self._prune))
            group.create_task(every(VITALS_SECONDS, self._vitals.read))
            group.create_task(every(LONG_EXECUTION_SECONDS, self._tell_long_executions))

    async def keep_partitions(self) -> None:
        """Make days ahead, seal finished ones, drop those past the retention."""
        await upkeep.make_partitions(self._db)
        self._feeder.oldest_unfinished = await upkeep.seal_finished_days(self._db)
        if not await self._clock_is_steady():
            return
        await upkeep.prune_default(self._db, retention_seconds=self._retention_seconds)
        for day in await upkeep.drop_expired_days(
            self._db, retention_seconds=self._retention_seconds
        ):
            log.info("day_dropped", day=day.isoformat())

    async def _clock_is_steady(self) -> bool:
        """Return whether the clocks may be trusted with what cannot be undone: dropping history.

        The database's must agree with ours, and must not have jumped while we run.
        """
        now = await upkeep.database_now(self._db)
        loop_now = asyncio.get_running_loop().time()
        before, self._clock = self._clock, (now, loop_now)
        if before is not None:
            jump = (now - before[0]).total_seconds() - (loop_now - before[1])
            if abs(jump) > CLOCK_SECONDS:
                log.warning(
                    "clock_jumped", seconds=round(jump), distrusted_seconds=DISTRUST_SECONDS
                )
                self._distrusted_until = loop_now + DISTRUST_SECONDS
        if abs(apart := (now - datetime.now(UTC)).total_seconds()) > CLOCK_SECONDS:
            log.warning("clocks_differ", seconds=round(apart))
            return False
        return loop_now >= self._distrusted_until

    async def _prune(self) -> None:
        """Go on with the sweep of the dedupe keys, so that it is through every hour or two."""
        done, pages = 0, 0
        while done <= pages // PRUNE_ROUNDS:
            self._page, pages = await upkeep.prune_dedupe_keys(self._db, self._page)
            done += upkeep.PRUNE_PAGES
            if self._page == 0:
                return

    async def _tell_long_executions(self) -> None:
        executing = self._ready.executing
        self._told &= executing.keys()
        now = asyncio.get_running_loop().time()
        untold = [
            (execution.job, execution.started_at)
            for id_, execution in executing.items()
            if now - execution.began > LONG_EXECUTION_SECONDS and id_ not in self._told
        ]
        if untold:
            await jobs.mark_started(self._db, untold)
            self._told.update(job.id for job, _ in untold)


class Guardian:
    """Closes the lanes while the database is away: nothing starts that could not be recorded."""

    def __init__(self, db: Database, ready: ReadyQueue, *, metrics: Metrics) -> None:
        self._db = db
        self._ready = ready
        self._metrics = metrics
        self.draining = False

    async def run(self) -> None:
        """Follow the database's ups and downs."""
        while True:
            self._metrics.database_up.set(1)
            if not self.draining:
                for lane in self._ready.lanes.values():
                    lane.open()
            await self._db.wait_down()
            self._metrics.database_up.set(0)
            log.error("database_lost")
            for lane in self._ready.lanes.values():
                lane.close()
            # A statement may have been committed without its answer reaching us.
            self._ready.suspect_strays()
            while not self._db.up:
                try:
                    await self._db.probe()
                except DatabaseUnavailable:
                    with suppress(TimeoutError):
                        async with asyncio.timeout(PROBE_SECONDS):
                            await self._db.wait_up()  # others may find it back before we do
            # Once more from here: a backend that lost us may commit until its statement times out.
            self._ready.suspect_strays()
            log.info("database_back")


async def every(seconds: float, act: Callable[[], Awaitable[None]]) -> None:
    """Repeat *act* with a pause; what goes wrong is logged, and tried again the next time."""
    while True:
        try:
            await act()
        except DatabaseUnavailable as error:
            log.warning("upkeep_postponed", act=act.__name__, error=str(error))
        except Exception:
            log.exception("upkeep_failed", act=act.__name__)
        await asyncio.sleep(seconds)


def _floor_now() -> UUID:
    """Return the smallest id that a job reserved from now on can have, by this node's own clock."""
    now = uuid_utils.compat.uuid7()
    milliseconds = (now.int >> 80) - FLOOR_MARGIN_MS
    return UUID(int=milliseconds << 80)
