"""Everything that this node holds: all lanes, and the register of held jobs."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from uuid import UUID

import msgspec

from gateway.model import Event, Execution, Job, NewJob
from gateway.queue.lane import Lane

# Bodies kept in memory by waiting jobs, in bytes; beyond it a body is read again when its turn
# comes, so that ten thousand large webhooks do not fill the memory.
MAX_HELD_BODY_BYTES = 32 << 20

STRAY_SWEEP_SECONDS = (0.0, 5.0, 30.0)

# Retries that are due sooner than the feeder's next poll or two get a timer of their own.
MAX_TIMER_SECONDS = 5.0


class ReadyQueue:
    """The lanes of this node and the jobs that the database knows to be in this node's hands."""

    def __init__(self, *, inline_body_bytes: int) -> None:
        self.lanes: dict[str, Lane] = {}
        self.held: dict[UUID, Job] = {}
        self.executing: dict[UUID, Execution] = {}
        # No held job has an id below it: the rescuer of this node starts reading here.
        self.floor: UUID | None = None
        self.wake = asyncio.Event()  # the feeder has something to do
        self.stray_sweeps: list[float] = []  # when to sweep, in loop time
        self.promote = True  # a scheduled job may be due
        self.paused_routes: frozenset[str] = frozenset()
        self.routes_paused = False  # since the feeder last took their jobs out of the lanes
        self._due: asyncio.TimerHandle | None = None
        self._due_at = 0.0  # uvloop's handles do not all know when
        self._body_bytes = 0
        self._inline_body_bytes = inline_body_bytes

    # The way in: reserve before the commit, then start, or forget ---------------------------------

    def reserve(self, new: NewJob, event: Event) -> Job | None:
        """Hand *new* off to this node if its lane takes it; it must be committed before it starts.

        The register knows the job from here on, so that no sweep for strays takes it for one.
        """
        lane = self.lanes.get(new.vendor)
        if lane is None or not lane.takes(new.priority) or new.route in self.paused_routes:
            return None
        if self.floor is not None and new.id < self.floor:
            return None  # the clock jumped back: a rescuer would not find the job
        job = Job(
            id=new.id,
            event_id=new.event_id,
            route=new.route,
            vendor=new.vendor,
            kind=new.kind,
            priority=new.priority,
            attempt=0,
            max_attempts=new.max_attempts,
            claim_no=1,
            correlation_id=new.correlation_id,
            created_at=event.received_at,
            ordering_key=new.ordering_key,
            event=event,
        )
        self._hold(job, lane)
        return job

    def take(self, jobs: Iterable[Job]) -> None:
        """Hold jobs that were claimed, and queue them."""
        for job in jobs:
            lane = self.lanes[job.vendor]
            self._hold(job, lane)
            lane.push(job)

    def start(self, job: Job) -> None:
        """Queue a reserved job: it is committed now."""
        self.lanes[job.vendor].hand_off(job)

    def forget(self, job: Job) -> None:
        """Let go of *job*: it is settled, released, or was never committed."""
        if self.held.get(job.id) is not job:
            return  # let go of before; under its id there may be a later claim of it by now
        del self.held[job.id]
        self.lanes[job.vendor].held -= 1
        if job.event is not None and job.event.body is not None:
            self._body_bytes -= len(job.event.body)

    def pause_routes(self, routes: frozenset[str]) -> None:
        """Hold no jobs of these routes: the feeder sets aside what it finds of them."""
        if routes - self.paused_routes:
            self.routes_paused = True
            self.wake.set()
        self.paused_routes = routes

    def suspect_strays(self) -> None:
        """A statement of ours may have committed without our knowing: have its jobs looked for.

        More than once, since a backend that lost its client may commit late.
        """
        now = asyncio.get_running_loop().time()
        self.stray_sweeps = [now + seconds for seconds in STRAY_SWEEP_SECONDS]

    def expect_due(self, seconds: float) -> None:
        """Have the feeder look for due jobs *seconds* from now; far ones are found by its poll."""
        if seconds < MAX_TIMER_SECONDS:
            loop = asyncio.get_running_loop()
            due = loop.time() + seconds
            if self._due is None or due < self._due_at:
                if self._due is not None:
                    self._due.cancel()
                self._due_at = due
                self._due = loop.call_at(due, self._ring)

    def _ring(self) -> None:
        self._due = None
        self.promote = True
        self.wake.set()

    def behind(self) -> bool:
        """Return whether jobs of some lane wait for nothing but those before them."""
        return any(lane.behind() for lane in self.lanes.values())

    # Figures ------------------------------------------------------------------------------------

    def oldest_held(self) -> UUID | None:
        """Return the smallest id held, or None."""
        return min(self.held, default=None)

    def _hold(self, job: Job, lane: Lane) -> None:
        if (before := self.held.get(job.id)) is not None:
            self.forget(before)  # rescued from us, and ours again before we recorded its outcome
        if job.event is not None and job.event.body is not None:
            size = len(job.event.body)
            if size > self._inline_body_bytes or self._body_bytes + size > MAX_HELD_BODY_BYTES:
                # Only this job's view: the event itself may be on its way into the database.
                job.event = msgspec.structs.replace(job.event, body=None)
            else:
                self._body_bytes += size
        self.held[job.id] = job
        lane.held += 1
