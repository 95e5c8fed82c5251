"""This node's share of a vendor's rate limit: the calls it has bought, and when to buy more.

Calls are bought from the books that all nodes share (``gateway.buy_calls``, where the law is kept
and proved); a call that was not bought is not made. What happens here decides only how well the
limit is used, and how few orders that takes:

- Windows shorter than a minute are kept by this node alone while no other calls the vendor. Then
  an order a second reports and renews, and the local limiter does the rest.
- Otherwise calls are bought in small lots, a moment before they are needed, and those of a lot
  have their starts spread at the limit's pace. Each order reports what was called, and when, so a
  lot weighs on the limit for as short as it can.
- What is not needed any more is given back; so is a call whose connection took long to open, while
  it is not reported (with long windows a second: of one call an hour none is to spare).

Times are those of the limiter's clock. An answer's times count from the moment at which it was
given, which lies between the order's sending and its receipt: a start counts from the later of
these, an end from the earlier.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import msgspec

from gateway.model import RateGrant, RateOrder, RateTerms

if TYPE_CHECKING:
    from gateway.config.model import Rate

SHORT_BELOW_SECONDS = 60.0  # windows that a node may keep by itself, as gateway.buy_calls has it
EXCLUSIVE_SECONDS = 3.0
_RENEW_SECONDS = 1.0
_REPORTED_SPANS = 16  # a report is no finer than this
_RETRY_SECONDS = (0.01, 5.0)  # at least and at most, until an order in vain is repeated
_ASK_SECONDS = 0.25  # others may report and give back meanwhile: ask after a fourth of the wait
_FAILED_SECONDS = 0.2
_NEVER = float("-inf")
_EVER = float("inf")


class _Manner(msgspec.Struct, frozen=True):
    """How calls are bought: what the vendor's shortest shared window makes of it."""

    lead_seconds: float  # how far ahead of need
    report_seconds: float  # how soon calls are reported
    idle_seconds: float  # how soon what is not needed is given back
    lot: int  # bought at once, and held, at most


class _Lot(msgspec.Struct):
    """Calls bought together: the next may start at *start*, the others at the pace after it."""

    start: float
    pace_seconds: float
    until: float
    left: int


class Share:
    """The calls that this node may make of one vendor.

    The limiter asks (:meth:`free_at`, :meth:`take`), a buyer orders (:meth:`plan`, then
    :meth:`settle` or :meth:`fail`; one order at a time).
    """

    def __init__(
        self, rates: Sequence[Rate], *, pace_seconds: float, clock: Callable[[], float]
    ) -> None:
        self._clock = clock
        windows: dict[float, int] = {}
        for rate in rates:
            windows[rate.period_seconds] = min(
                rate.count, windows.get(rate.period_seconds, rate.count)
            )
        short = [period for period in windows if period < SHORT_BELOW_SECONDS]
        long_lot = min((max(1, n // 20) for p, n in windows.items() if p not in short), default=0)
        relaxed = _Manner(1.0, 1.0, 5.0, max(1, long_lot))
        if short:
            unit = min(1.0, *short)
            lots = [max(1, windows[period] // 4) for period in short]
            lots += [long_lot] if long_lot else []
            self._shared = _Manner(0.2 * unit, 0.2 * unit, 0.3 * unit, min(lots))
        else:
            unit = 2.0
            self._shared = relaxed
        self._alone = relaxed
        self._unsure_seconds = 0.0 if short else relaxed.report_seconds  # it may yet be given back
        self._unlimited_alone = not long_lot
        self.terms = RateTerms(
            counts=tuple(windows.values()),
            periods_seconds=tuple(windows),
            pace_seconds=pace_seconds,
            ahead_seconds=0.5 * unit,
            valid_seconds=0.3 * unit if short else 5.0,
            exclusive_seconds=EXCLUSIVE_SECONDS if short else 0.0,
        )
        self.waiting = 0  # callers that wait for their turn
        self.exclusive = False
        self._contended = False  # alone, but another node wants to call
        self._lots: deque[_Lot] = deque()
        self._unlimited_until = _NEVER
        self._bought_until = _NEVER
        self._recent: deque[float] = deque()  # calls of the last lead_seconds
        self._unreported: list[float] = []
        self._reporting = 0  # the first so many of them are in the last order, answered or not
        self._number = 0
        self._appetite = 0  # how many are bought at least; grows while calls are waited for
        self._fresh = False  # a lot was bought since it grew
        self._waited_at = _NEVER
        self._needed_at = _NEVER  # when a call was last made or waited for
        self._answered_at = _NEVER
        self._retry_at = _NEVER
        self._pause_until = _NEVER
        self._free_at = _NEVER  # when there may be a call to buy, as far as the books know
        self._bell = asyncio.Event()  # rings the buyer
        self._news = asyncio.Event()  # wakes who waits for a call

    # The limiter's side -------------------------------------------------------------------------

    def free_at(self, now: float) -> float:
        """Return when the next call may start; a guess where none is bought yet."""
        if now < self._unlimited_until:
            return _NEVER
        lots = self._lots
        while lots and lots[0].until <= now:
            lots.popleft()
        if lots:
            return lots[0].start
        return max(self._free_at, self._retry_at, now + _RETRY_SECONDS[0])

    def take(self, now: float) -> None:
        """Make one call, which :meth:`free_at` allowed."""
        self._unreported.append(now)
        self._needed_at = now
        if now < self._unlimited_until or not self._lots:
            return  # alone, even if that ended since it was asked: the books give it longer
        self._recent.append(now)
        lot = self._lots[0]
        lot.left -= 1
        lot.start += lot.pace_seconds
        if not lot.left:
            self._lots.popleft()
        self._bell.set()

    def give_back(self, taken_at: float) -> None:
        """Undo the :meth:`take` of a call that was not made, unless it may be reported already."""
        with suppress(ValueError):
            del self._unreported[self._unreported.index(taken_at, self._reporting)]
            now = self._clock()
            if now >= self._unlimited_until and now < self._bought_until:
                self._lots.appendleft(_Lot(now, 0.0, self._bought_until, 1))

    @contextmanager
    def waits(self) -> Iterator[None]:
        """Have the buyer know that somebody waits to call."""
        self.waiting += 1
        self._bell.set()
        try:
            yield
        finally:
            self.waiting -= 1

    async def news(self, seconds: float) -> None:
        """Wait until calls were bought, no longer than *seconds*."""
        self._news.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._news.wait()

    # The buyer's side ---------------------------------------------------------------------------

    def plan(self) -> RateOrder | float:
        """Return the order that is due, or the seconds until one is; infinity: when the bell rings.

        An order returned must be settled, or have failed, before the next is planned.
        """
        now = self._clock()
        if self.waiting:
            self._needed_at = now
        if now < self._pause_until:
            return self._pause_until - now
        manner = self._alone if self.exclusive else self._shared
        lead_from = now - manner.lead_seconds
        while self._recent and self._recent[0] < lead_from:
            self._recent.popleft()
        have = self._have(now)
        if now > self._waited_at + manner.lead_seconds:
            self._appetite, self._fresh = 0, False
        if self.waiting:
            self._waited_at = now
        needed = min(manner.lot, max(self.waiting, self._appetite, len(self._recent) - 1))
        if self.waiting and self._fresh and 2 * have < needed:
            # A lot was not enough. Whoever has work for long comes to ask for as much.
            needed = self._appetite = min(2 * needed, manner.lot)
            self._fresh = False
        wanted = needed - have if 2 * have < needed else 0
        wants = now < self._needed_at + manner.idle_seconds
        if self._contended:
            return self._order(now, wanted=needed, wants=wants, releases=True)
        due = _EVER
        if wanted:
            due = self._retry_at
        if self._unreported:
            due = min(due, self._unreported[0] + manner.report_seconds)
        if self.exclusive:
            due = min(due, self._answered_at + _RENEW_SECONDS)
        if self.exclusive or have:
            if not wants:
                return self._order(now, wanted=0, wants=False, releases=True)
            due = min(due, self._needed_at + manner.idle_seconds)
        if due > now:
            return due - now
        return self._order(now, wanted=wanted if now >= self._retry_at else 0, wants=wants)

    def settle(self, order: RateOrder, grant: RateGrant | None) -> None:
        """Take over what an order brought; None: the books had a later order already."""
        now = self._answered_at = self._clock()
        del self._unreported[: self._reporting]
        self._reporting = 0
        if grant is None:
            return
        self.exclusive = grant.exclusive
        self._contended = grant.exclusive and grant.contended
        if self._contended:
            return
        until = order.sent_at + grant.until_seconds
        if grant.exclusive and self._unlimited_alone:
            self._lots.clear()
            self._unlimited_until = until
        elif grant.granted:
            pace = 0.0 if grant.exclusive else self.terms.pace_seconds
            self._lots.append(_Lot(now + grant.from_seconds, pace, until, grant.granted))
            self._bought_until = max(self._bought_until, until)
            self._fresh = True
        self._free_at = self._retry_at = _NEVER
        if order.wanted and not grant.granted:
            least, most = _RETRY_SECONDS
            wait = min(grant.retry_seconds, max(_ASK_SECONDS, grant.retry_seconds / 4))
            self._retry_at = now + min(max(wait, least), most)
            self._free_at = now + grant.retry_seconds
        self._news.set()

    def fail(self) -> None:
        """Note that an order was not answered; it may have been carried out all the same."""
        self._pause_until = self._clock() + _FAILED_SECONDS

    def farewell(self) -> RateOrder:
        """Return the last order: all is reported and given back."""
        return self._order(self._clock(), wanted=0, wants=False, releases=True)

    async def rung(self, seconds: float) -> None:
        """Wait until the bell rings, no longer than *seconds*."""
        with suppress(TimeoutError):
            async with asyncio.timeout(None if seconds == _EVER else seconds):
                await self._bell.wait()
        self._bell.clear()

    def _order(self, now: float, *, wanted: int, wants: bool, releases: bool = False) -> RateOrder:
        if releases:
            # From here on nothing is called that this order does not report.
            self._lots.clear()
            self._unlimited_until = self._bought_until = _NEVER
            self.exclusive = False
        self._number += 1
        sure_from = now if releases else now - self._unsure_seconds
        self._reporting = bisect_right(self._unreported, sure_from)
        unsure = len(self._unreported) - self._reporting  # counts as bought, not as called
        return RateOrder(
            number=self._number,
            sent_at=now,
            used=self._report(now),
            kept=self._have(now) + unsure if now >= self._unlimited_until else 0,
            wanted=wanted,
            wants=wants,
            releases=releases,
        )

    def _have(self, now: float) -> int:
        """Return how many calls are left; as many as are asked for while there is no limit."""
        if now < self._unlimited_until:
            return self._alone.lot
        return sum(lot.left for lot in self._lots if lot.until > now)

    def _report(self, now: float) -> tuple[tuple[float, int], ...]:
        """Return (age, calls) of spans of time; a span is as young as its youngest call."""
        stamps = self._unreported[: self._reporting]
        if not stamps:
            return ()
        first, last = stamps[0], stamps[-1]
        span_seconds = max((last - first) / _REPORTED_SPANS, 1e-3)
        spans: dict[int, tuple[float, int]] = {}
        for stamp in stamps:
            place = int((stamp - first) / span_seconds)
            spans[place] = (max(0.0, now - stamp), spans.get(place, (0.0, 0))[1] + 1)
        return tuple(spans.values())
