"""The stream of replays: low in priority, held to its rate, and never far ahead of its jobs' ends.

Any node may make a replay's jobs, one at a time has it. It keeps its lease with every look; should
it die, another goes on where it stopped.
"""

from __future__ import annotations

import asyncio
from uuid import UUID

from gateway.errors import DatabaseUnavailable
from gateway.queue.ready import ReadyQueue
from gateway.store import replays
from gateway.store.database import Database
from gateway.store.replays import Taken
from gateway.telemetry.logs import get_logger

log = get_logger("gateway.replays")

POLL_SECONDS = 1.0
LEASE_SECONDS = 5.0
MIN_PAUSE_SECONDS = 0.02

# Jobs of one replay that are not finished yet: enough to keep a lane busy, few enough that a vendor
# which is down again does not find all of them before it.
MAX_UNFINISHED = 1000


class ReplayStream:
    """Makes the jobs of the replays that this node has; at rest while *replaying* is not set."""

    def __init__(
        self, db: Database, ready: ReadyQueue, *, node: str, replaying: asyncio.Event
    ) -> None:
        self._db = db
        self._ready = ready
        self._node = node
        self._replaying = replaying
        # By replay: how many may be made before those unfinished are counted again.
        self._room: dict[UUID, int] = {}

    async def run(self) -> None:
        """Make jobs for ever, as fast as each replay's rate and its unfinished jobs allow."""
        while True:
            await self._replaying.wait()
            pause = POLL_SECONDS
            try:
                pause = await self._turn()
            except DatabaseUnavailable as error:
                log.warning("replay_postponed", error=str(error))
                await self._db.wait_up()
            except Exception:
                log.exception("replay_failed")
            await asyncio.sleep(pause)

    async def give_back(self) -> None:
        """Let another node go on at once; before the end."""
        await replays.give_back(self._db, node=self._node)

    async def _turn(self) -> float:
        """Take one step of each replay that is due; return when to look again, in seconds."""
        pause = POLL_SECONDS
        mine = await replays.take(self._db, node=self._node, lease_seconds=LEASE_SECONDS)
        self._room = {taken.id: self._room.get(taken.id, 0) for taken in mine}
        for taken in mine:
            due_seconds = taken.due_seconds
            if due_seconds <= 0:
                due_seconds = await self._step(taken)
            pause = min(pause, max(due_seconds, MIN_PAUSE_SECONDS))
        return pause

    async def _step(self, taken: Taken) -> float:
        """Make some jobs of one replay; return when it is due again, in seconds."""
        if self._room[taken.id] < taken.step:
            open_jobs = await replays.unfinished(self._db, taken.id, limit=MAX_UNFINISHED)
            self._room[taken.id] = MAX_UNFINISHED - open_jobs
        limit = min(taken.step, self._room[taken.id])
        if limit <= 0:
            return POLL_SECONDS
        step = await replays.step(
            self._db, taken, node=self._node, limit=limit, lease_seconds=LEASE_SECONDS
        )
        if step is None:
            return POLL_SECONDS
        self._room[taken.id] -= step.made
        for name in step.lanes:
            if lane := self._ready.lanes.get(name):
                lane.backlog = True
        if step.made:
            self._ready.wake.set()
        if step.done:
            log.info("replay_completed", replay_id=str(taken.id), made=step.made_in_all)
        return step.due_seconds
