"""A lane: the queue of one called vendor, with its own slots, limits and breaker.

Nothing that happens in one lane delays another: each has its own share of the memory, its own
slots, and waits for its own limiter.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Coroutine
from typing import Any, Protocol

from gateway.model import Job
from gateway.queue.bookmark import Bookmark

PRIORITIES = 10

# Every eighth start takes the oldest job instead of the most urgent: low priorities are never
# starved, and urgent ones keep seven eighths.
AGEING_SHARE = 8

# A lane that cannot run for longer than this gives what it holds back to the backlog.
LONG_WAIT_SECONDS = 10.0

# Between two starts while the vendor fails call after call. One that refuses at once would else be
# called as fast as the process can, at the cost of all others, for as long as no breaker opens.
FAILING_GAP_SECONDS = 0.01


class Limiter(Protocol):
    """What a lane needs of a rate limiter."""

    async def acquire(self) -> None:
        """Wait until one more call may start, and count it."""

    def delay(self) -> float:
        """Return the seconds until one more call may start."""


class Breaker(Protocol):
    """What a lane needs of a circuit breaker."""

    @property
    def closed(self) -> bool:
        """Whether any number of calls may be made."""

    def allow(self) -> int | None:
        """Return a permit if one call may be made now; half-open, that call is the probe."""

    def give_back(self, permit: int) -> bool:
        """Let another call probe if that of *permit* had no result; return whether it may."""

    def delay(self) -> float:
        """Return the seconds until a call may be allowed."""


class Lane:
    """Jobs of one vendor that this node holds, and the slots that execute them.

    *capacity* bounds the jobs held, waiting and executing. *execute* never raises. *on_low_water*
    is called when half of them are left and the backlog has more.
    """

    def __init__(
        self,
        name: str,
        *,
        concurrency: int,
        capacity: int,
        limiter: Limiter | None,
        breaker: Breaker | None = None,
        execute: Callable[[Job], Awaitable[None]],
        spawn: Callable[[Coroutine[Any, Any, bool]], asyncio.Task[bool]],
        on_low_water: Callable[[], None] = lambda: None,
    ) -> None:
        self.name = name
        self.concurrency = concurrency
        self.capacity = capacity
        self.limiter = limiter
        self.breaker = breaker
        # True until a claim has found nothing more: new jobs must not overtake older ones.
        self.backlog = True
        self.bookmark = Bookmark()
        self._left_some = True  # the last claim, as far as is known
        # New jobs that start after what the claim under way finds; None: there is no claim.
        self._after_claim: list[Job] | None = None
        self.held = 0  # handed off or claimed, and not yet settled or released
        self.waiting = 0
        self.running = 0
        self.paused = False
        self.failing = False  # the vendor has not answered well for many calls: start them singly
        self._parked_until = 0.0
        self._next_start = 0.0  # while it fails, in loop time
        self._open = True  # False: the node drains, or its database is away
        self._queues: tuple[deque[Job], ...] = tuple(deque() for _ in range(PRIORITIES))
        self._slots = 0
        self._in_line: set[asyncio.Task[Any]] = set()  # slots that wait for the limiter
        self._starts = 0
        self._execute = execute
        self._spawn = spawn
        self._on_low_water = on_low_water
        self._timer: asyncio.TimerHandle | None = None

    # Filling ------------------------------------------------------------------------------------

    def takes(self, priority: int) -> bool:
        """Return whether a new job may skip the backlog: there is room and nobody to overtake."""
        if self.backlog or not self._open or self.stalled():
            return False
        if self._after_claim is not None and self._left_some:
            return False  # nor does it start before what the claim under way will leave
        if self.breaker is not None and not self.breaker.closed:
            return self.held == 0  # one to probe with
        if self.held < self.capacity:
            return True
        # Full; a little more room for what is more urgent than everything that waits.
        return self.held < self.capacity + self.capacity // 4 and not any(
            self._queues[: priority + 1]
        )

    def expect_older(self) -> None:
        """Note that jobs may have come into the backlog that are older than others in it."""
        self.backlog = True
        self.bookmark.lose()

    def begin_claim(self) -> None:
        """Note that the backlog is being claimed from.

        While claims leave some of it, new jobs go behind the rest. After one that left none, a new
        job is only held until the next has ended: were it to join the backlog too, a lane to which
        something comes during each claim would claim for ever.
        """
        self._after_claim = []
        self.backlog = False  # what is added from here on sets it again

    def end_claim(self, *, left_some: bool) -> None:
        """Start what came during the claim; what it found was pushed before."""
        self._left_some = left_some
        self.backlog = self.backlog or left_some
        jobs, self._after_claim = self._after_claim, None
        for job in jobs or ():
            self.push(job)

    def room(self) -> int:
        """Return how many jobs of the backlog the lane would take now; 0 above low water."""
        if not self._open or self.waiting > self.capacity // 2 or self.stalled():
            return 0
        if self.breaker is not None and not self.breaker.closed:
            return 1 if self.held == 0 and self.idle_seconds() <= 0 else 0  # one to probe with
        return max(0, self.capacity - self.held) if self.idle_seconds() <= 0 else 0

    def stalled(self) -> bool:
        """Return whether the lane cannot run for long: its jobs are better held elsewhere."""
        if self.idle_seconds() > LONG_WAIT_SECONDS:
            return True
        return self.limiter is not None and self.limiter.delay() > LONG_WAIT_SECONDS

    def behind(self) -> bool:
        """Return whether more jobs wait than have slots, though nothing but slots is missing."""
        return (
            self.waiting > self.concurrency
            and self._startable()
            and (self.limiter is None or self.limiter.delay() <= 0.0)
        )

    def hand_off(self, job: Job) -> None:
        """Queue the new *job*, which is counted as held already, behind a claim under way."""
        if self._after_claim is None:
            self.push(job)
        else:
            self._after_claim.append(job)

    def push(self, job: Job) -> None:
        """Queue *job*, which is counted as held already, and start it as soon as a slot is free."""
        self._queues[job.priority].append(job)
        self.waiting += 1
        self._fill_slots()

    # Steering -----------------------------------------------------------------------------------

    def idle_seconds(self) -> float:
        """Return how long the lane will start nothing; infinite while paused."""
        if self.paused:
            return float("inf")
        if not self._parked_until:
            return 0.0
        seconds = self._parked_until - asyncio.get_running_loop().time()
        if seconds <= 0:
            self._parked_until = 0.0  # over: the hot path need not read the clock any more
        return max(0.0, seconds)

    def park(self, seconds: float) -> None:
        """Start nothing for *seconds*: the vendor asked for it. A longer wish wins."""
        until = asyncio.get_running_loop().time() + seconds
        if until > self._parked_until:
            self._parked_until = until
            self._look_again_at(until)

    def resume(self) -> None:
        """End the parking early: the vendor answers again, or an operator said so."""
        self._parked_until = 0.0
        self._fill_slots()

    def look_again(self) -> None:
        """Start what may start now: a probe that was under way elsewhere has come to nothing."""
        self._fill_slots()

    def open(self) -> None:
        """Let slots start jobs."""
        self._open = True
        self._fill_slots()

    def close(self) -> None:
        """Start nothing more; what executes goes on."""
        self._open = False

    def pause(self, paused: bool) -> None:
        """Hold the lane, or let it go on."""
        self.paused = paused
        self._fill_slots()

    def drop_waiting(self) -> list[Job]:
        """Take everything that waits out of the lane; the caller gives it back or forgets it."""
        dropped = [job for queue in self._queues for job in queue]
        for queue in self._queues:
            queue.clear()
        self.waiting = 0
        if self._after_claim is not None:
            dropped += self._after_claim
            self._after_claim = []
        for slot in self._in_line:  # for a job that is gone; with a small rate that may be long
            slot.cancel()
        return dropped

    def drop_routes(self, routes: Collection[str]) -> list[Job]:
        """Take what waits of *routes* out of the lane, as :meth:`drop_waiting` does of all."""
        dropped = []
        for queue in self._queues:
            gone = [job for job in queue if job.route in routes]
            if gone:
                dropped += gone
                kept = [job for job in queue if job.route not in routes]
                queue.clear()
                queue.extend(kept)
        if dropped:
            self.waiting -= len(dropped)
            for slot in self._in_line:  # there are as many again as there is work left for
                slot.cancel()
        return dropped

    # Slots --------------------------------------------------------------------------------------

    def _startable(self) -> bool:
        if not self.waiting or not self._open or self.paused:
            return False
        return not self._parked_until or self.idle_seconds() <= 0

    def _fill_slots(self) -> None:
        """Have as many slots as there is work for, up to the concurrency."""
        if not self._startable():
            return
        wanted = min(self.concurrency, self.running + self.waiting)
        if self.failing:
            wanted = min(wanted, self._slots + 1)
        while self._slots < wanted:
            self._slots += 1
            # Not in a finally of the slot: one that is cancelled before its first step has none.
            self._spawn(self._slot()).add_done_callback(self._slot_ended)

    def _slot_ended(self, slot: asyncio.Task[bool]) -> None:
        self._slots -= 1
        if slot.cancelled() or slot.exception() is not None or slot.result():
            self._fill_slots()  # for what came since the slot found nothing more

    async def _slot(self) -> bool:
        """Execute one job after the other until there is none that may start.

        Returns False when breaker or gap were in the way: then there may be, but not yet.
        """
        while self._startable():
            if self.failing and not self._gap_is_over():
                return False
            permit: int | None = None
            if self.breaker is not None and not self.breaker.closed:
                if (wait := self.breaker.delay()) > 0.0:
                    # Another slot probes; look again when its answer ought to be there.
                    self._look_again_at(asyncio.get_running_loop().time() + wait)
                    return False
                if self._next().kind == "call":
                    permit = self.breaker.allow()
            try:
                # A handler asks limiter and breaker for each call that it makes; a call is asked
                # for here.
                if self.limiter is not None and self._next().kind == "call":
                    if self.waiting <= len(self._in_line):
                        break  # each job has a slot in line already; one more would waste a turn
                    await self._take_turn(self.limiter)
                    if not self._startable():
                        break
                job = self._pop()
                self.running += 1
                try:
                    await self._execute(job)
                finally:
                    self.running -= 1
            finally:
                if permit is not None and self.breaker is not None:
                    self.breaker.give_back(permit)  # should the call not have been made
        return True

    def _gap_is_over(self) -> bool:
        """Return whether a failing lane may start one more job, and begin the next gap if so."""
        now = asyncio.get_running_loop().time()
        if over := now >= self._next_start:
            self._next_start = now + FAILING_GAP_SECONDS
        self._look_again_at(self._next_start)
        return over

    async def _take_turn(self, limiter: Limiter) -> None:
        slot = asyncio.current_task()
        assert slot is not None  # noqa: S101  # a slot is a task
        self._in_line.add(slot)
        try:
            await limiter.acquire()
        finally:
            self._in_line.discard(slot)

    def _look_again_at(self, when: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        # uvloop rounds to milliseconds: a look that comes too early would have been the last one.
        self._timer = asyncio.get_running_loop().call_at(when + 0.001, self._fill_slots)

    def _next(self) -> Job:
        """Return the most urgent job; the lane must not be empty."""
        return next(queue[0] for queue in self._queues if queue)

    def _pop(self) -> Job:
        """Take the most urgent job out; every so often the oldest."""
        self._starts += 1
        filled = [queue for queue in self._queues if queue]
        queue = filled[0]
        if len(filled) > 1 and self._starts % AGEING_SHARE == 0:
            queue = min(filled, key=lambda queue: queue[0].created_at)
        self.waiting -= 1
        if self.backlog and self.waiting == self.capacity // 2:
            self._on_low_water()
        return queue.popleft()
