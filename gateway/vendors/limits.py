"""Never more than n calls in any window of t, as the vendor counts them.

Two devices, each doing what it is good at:

- One exact sliding log per window is the law. It keeps the start times of the last n calls; the
  next may start when the oldest of them is a whole (slightly stretched) window old. Nothing else
  about this module needs to be right for the law to hold.
- One ``aiolimiter.AsyncLimiter`` is the pacer of the shortest window: it spreads the calls that
  the log would let through at once, so that they do not arrive as a herd at a window's edge. By
  itself a leaky bucket of n lets up to 2n through in one window, so it is never asked for more.

The vendor counts arrivals, we count starts. Small differences (scheduling, the network's jitter)
are covered by stretching each window by 5 %, at most 250 ms. A large one, a connection that had
to be opened first, is covered by :meth:`StrictLimiter.confirm`, which the client calls when the
request can be written: a turn that has gone stale is exchanged for one that begins now.
"""

from __future__ import annotations

import asyncio
from array import array
from bisect import bisect_right
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar
from typing import TYPE_CHECKING

import msgspec
from aiolimiter import AsyncLimiter

from gateway.vendors.shares import Share

if TYPE_CHECKING:
    from gateway.config.model import Rate

_STRETCH = 0.05
_MAX_STRETCH_SECONDS = 0.25
_MAX_STAMPS = 1 << 16  # per window: 512 KiB
_PACER_BURST = 0.02  # share of a window that may start at the same instant
_STALE_SECONDS = 0.01  # a turn this old has lost too much of the 50 ms a window is stretched by
_NEVER = float("-inf")

# The turn that this task took and has not used yet: whose, and when.
_turn: ContextVar[tuple[StrictLimiter, float] | None] = ContextVar("turn", default=None)


class WindowUse(msgspec.Struct, frozen=True):
    """How full one window is: *used* of *count* calls in the last *period_seconds*."""

    count: int
    period_seconds: float
    used: int


class StrictLimiter:
    """The limits of one vendor on this node; all windows hold at once.

    *clock* is monotonic, in seconds, and must not be a cached time of the event loop: a start
    that is stamped too early would open its window too early.
    """

    def __init__(
        self, rates: Sequence[Rate], *, clock: Callable[[], float], shared: bool = False
    ) -> None:
        self._clock = clock
        self._windows = tuple(_Window(rate.count, rate.period_seconds) for rate in rates)
        self._pacer = _pacer_of(rates)
        self._pace_seconds = self._pacer.time_period / self._pacer.max_rate if self._pacer else 0.0
        self.share = (
            Share(rates, pace_seconds=self._pace_seconds, clock=clock) if shared and rates else None
        )
        self._line = asyncio.Lock()  # first come, first served
        self._front = asyncio.Lock()  # the first in line, and whose stale turns were for nothing
        self._last = _NEVER

    async def acquire(self) -> None:
        """Wait for a turn and take it: one call of this task may be sent, now."""
        if not self._windows:
            return
        if not (self._line.locked() or self._front.locked()) and self.delay() <= 0.0:
            await self._take()
            return
        with self._waits():
            async with self._line, self._front:
                while (wait := self.delay()) > 0.0:
                    await self._rest(wait)
                await self._take()

    async def confirm(self) -> None:
        """Use the turn of this task, immediately before its request is written.

        A stale turn is exchanged for one that begins now. Who has none waits for one, so that no
        way of calling, not even a repetition that somebody forgot about, gets past the limits.
        """
        if not self._windows:
            return
        turn = _turn.get()
        if turn is None or turn[0] is not self:
            await self.acquire()
        elif self._clock() - turn[1] > _STALE_SECONDS:
            await self._exchange(turn[1])
        _turn.set(None)

    def delay(self) -> float:
        """Return the seconds until the next call may start; 0 is now. Takes nothing.

        Needs a running event loop when there are rates: the pacer reads its time.
        """
        now = self._clock()
        free_at = _NEVER
        for window in self._windows:
            free_at = max(free_at, window.free_at())
        if self.share is not None:
            free_at = max(free_at, self.share.free_at(now))
        if self._pacer is not None and not self._pacer.has_capacity():
            # Within one drip of the truth, never early, and exact where the burst is one call.
            free_at = max(free_at, self._last + self._pace_seconds)
        return max(0.0, free_at - now)

    def use(self) -> list[WindowUse]:
        """Say how full each window is, for display."""
        now = self._clock()
        return [
            WindowUse(window.count, window.period_seconds, window.used(now))
            for window in self._windows
        ]

    async def _exchange(self, taken_at: float) -> None:
        for window in self._windows:
            window.forget(taken_at)
        if self.share is not None:
            self.share.give_back(taken_at)
        # Ahead of the line, and of the pacer: it has been through both. At the end of the line its
        # call would be out of time, with a vendor that takes one a minute, and so would the next.
        if self._log_delay() <= 0.0:
            self._stamp()
            return
        # Its old turn counts as used already: in a stride, or in the books.
        with self._waits():
            async with self._front:
                await self._until_free()
                self._stamp()

    async def _take(self) -> None:
        if self._pacer is not None:
            # Normally without waiting: delay() looked. Where the two clocks differ by a hair it
            # waits that hair, and the log below is asked once more.
            await self._pacer.acquire()
            await self._until_free()
        self._stamp()

    def _stamp(self) -> None:
        now = self._last = self._clock()
        for window in self._windows:
            window.stamp(now)
        if self.share is not None:
            self.share.take(now)
        _turn.set((self, now))

    async def _until_free(self) -> None:
        """Wait until the windows and the share let one more call start, whatever the pacer says."""
        while (wait := self._log_delay()) > 0.0:
            await self._rest(wait)

    def _log_delay(self) -> float:
        now = self._clock()
        free_at = max((window.free_at() for window in self._windows), default=_NEVER)
        if self.share is not None:
            free_at = max(free_at, self.share.free_at(now))
        return free_at - now

    def _waits(self) -> AbstractContextManager[None]:
        return self.share.waits() if self.share is not None else nullcontext()

    async def _rest(self, seconds: float) -> None:
        if self.share is not None:
            await self.share.news(seconds)
        else:
            await asyncio.sleep(seconds)


def _pacer_of(rates: Sequence[Rate]) -> AsyncLimiter | None:
    """Return the pacer of the shortest window, or None where there is nothing to spread.

    It spreads a window's calls over the first second of it, or a sixtieth where that is longer,
    but not to fewer than ten a second: ``10/s`` is one call each 100 ms, ``600/m`` may be used up
    within a second, ``5000/h`` within a minute, ``10/h`` within a second. So a long quota stays
    usable for a burst, and still never goes out in one instant.
    """
    if not rates:
        return None
    shortest = min(rates, key=lambda rate: (rate.period_seconds, rate.count))
    period_seconds = shortest.period_seconds
    over_seconds = min(period_seconds, max(1.0, min(period_seconds / 60.0, shortest.count / 10.0)))
    burst = max(1.0, shortest.count * _PACER_BURST)
    return AsyncLimiter(burst, over_seconds * burst / shortest.count)


class _Window:
    """The start times of the last calls, as a ring of doubles.

    Above ``_MAX_STAMPS`` calls, only the last call of every *stride* is kept. A group of *stride*
    calls then begins only when all but ``slots - 1`` earlier groups are out of the window, so the
    law still holds, at a loss of at most one group.
    """

    __slots__ = ("_in_group", "_next", "_ring", "_stretched", "_stride", "count", "period_seconds")

    def __init__(self, count: int, period_seconds: float) -> None:
        self.count = count
        self.period_seconds = period_seconds
        self._stretched = period_seconds + min(_STRETCH * period_seconds, _MAX_STRETCH_SECONDS)
        self._stride = -(-count // _MAX_STAMPS)
        self._ring = array("d", [_NEVER]) * (count // self._stride)
        self._next = 0  # the oldest stamp, to be overwritten next
        self._in_group = 0  # calls of the newest group, whose stamp moves with each of them

    def free_at(self) -> float:
        """Return when the next call may start, as far as this window is concerned."""
        if 0 < self._in_group < self._stride:
            return _NEVER
        return self._ring[self._next] + self._stretched

    def stamp(self, now: float) -> None:
        """Count a call that starts *now*; times never run backwards."""
        ring = self._ring
        if 0 < self._in_group < self._stride:
            ring[self._next - 1] = now
            self._in_group += 1
            return
        ring[self._next] = now
        self._next = (self._next + 1) % len(ring)
        self._in_group = 1

    def forget(self, stamp: float) -> None:
        """Take one call back. One that cannot be found stays counted, which is safe."""
        if self._stride > 1:
            return
        ring, size = self._ring, len(self._ring)
        place = self._next - 1
        while ring[place % size] > stamp and place > self._next - size:
            place -= 1
        if ring[place % size] != stamp:
            return
        # Calls since then move up: only those made while a connection was being opened. The call
        # whose stamp this one had overwritten was out of the window by then, so it is forgotten.
        for later in range(place, self._next - 1):
            ring[later % size] = ring[(later + 1) % size]
        self._next = (self._next - 1) % size
        ring[self._next] = _NEVER

    def used(self, now: float) -> int:
        times = self._in_order()
        return min(
            self.count,
            (len(times) - bisect_right(times, now - self.period_seconds)) * self._stride,
        )

    def _in_order(self) -> array[float]:
        return self._ring[self._next :] + self._ring[: self._next]
