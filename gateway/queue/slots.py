"""The tasks in which all lanes execute their jobs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from gateway.queue.ready import ReadyQueue
from gateway.telemetry.logs import get_logger

log = get_logger("gateway.slots")


class Slots:
    """The tasks of all lanes' slots, so that a drain can wait for them and cut them short."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[bool]] = set()

    def spawn(self, slot: Coroutine[Any, Any, bool]) -> asyncio.Task[bool]:
        """Run a slot of a lane."""
        task = asyncio.get_running_loop().create_task(slot)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[bool]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            # run_attempt never raises: this is a fault of ours, and its job waits for a rescue.
            log.error("slot_failed", exc_info=error)

    async def finish(self, seconds: float) -> int:
        """Wait for all slots; after *seconds* cancel the rest and return how many those were."""
        if not self._tasks:
            return 0
        _, pending = await asyncio.wait(self._tasks, timeout=seconds)
        self.cancel()
        if pending:
            await asyncio.wait(pending)
        return len(pending)

    def cancel(self) -> None:
        """Cut every attempt short."""
        for task in self._tasks:
            task.cancel()


@asynccontextmanager
async def open_slots() -> AsyncIterator[Slots]:
    """Hold slots that do not outlive the block."""
    slots = Slots()
    try:
        yield slots
    finally:
        slots.cancel()


def abandon(ready: ReadyQueue, slots: Slots) -> None:
    """Drop everything that was not attempted to its end: others may be running it already.

    Outcomes that are known but not yet recorded stay; the fence decides about them.
    """
    dropped = [job for lane in ready.lanes.values() for job in lane.drop_waiting()]
    dropped += [execution.job for execution in ready.executing.values()]
    slots.cancel()
    for job in dropped:
        ready.forget(job)
    ready.suspect_strays()
