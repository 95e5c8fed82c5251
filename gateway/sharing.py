"""What nodes share about vendors: rate limits, wishes to be left alone, open breakers."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress

from gateway.errors import DatabaseUnavailable
from gateway.queue.lane import Lane
from gateway.queue.ready import ReadyQueue
from gateway.store import shares, vendors
from gateway.store.database import Database
from gateway.store.vendors import BreakerNews, VendorState
from gateway.telemetry.logs import get_logger
from gateway.telemetry.metrics import Metrics
from gateway.vendors.breaker import BreakerState, CircuitBreaker, Transition
from gateway.vendors.limits import StrictLimiter
from gateway.vendors.shares import Share

log = get_logger("gateway.sharing")

POLL_SECONDS = 1.0
TELL_SECONDS = 0.2  # what is to be told is collected for so long
PARK_STEP_SECONDS = 1.0  # a longer wish is worth telling from here on

# The node that opened a breaker probes first. Others follow so much later than it needs for that,
# unless they hear of its result: should it be gone, they find out by themselves.
PROBE_SECONDS = 3.0


class LimitSharing:
    """Buys the calls that this node makes, vendor by vendor."""

    def __init__(
        self,
        db: Database,
        limiters: Mapping[str, StrictLimiter],
        *,
        node: str,
        metrics: Metrics,
    ) -> None:
        self._db = db
        self._node = node
        self._metrics = metrics
        self._shares = {
            vendor: limiter.share
            for vendor, limiter in limiters.items()
            if limiter.share is not None
        }

    async def run(self) -> None:
        """Buy for ever."""
        async with asyncio.TaskGroup() as group:
            for vendor, share in self._shares.items():
                group.create_task(self._buy(vendor, share))

    async def farewell(self) -> None:
        """Report and give back everything, so that others need not wait; after the last call."""
        for vendor, share in self._shares.items():
            order = share.farewell()
            await shares.buy(self._db, vendor, self._node, terms=share.terms, order=order)

    async def _buy(self, vendor: str, share: Share) -> None:
        while True:
            plan = share.plan()
            if isinstance(plan, float):
                await share.rung(plan)
                continue
            try:
                grant = await shares.buy(
                    self._db, vendor, self._node, terms=share.terms, order=plan
                )
            except DatabaseUnavailable as error:
                log.warning("calls_not_bought", vendor=vendor, error=str(error))
                share.fail()
                await self._db.wait_up()
            except Exception:
                # What is not known to be bought is not called: the vendor waits, the others go on.
                log.exception("upkeep_failed", act=f"buying calls of {vendor}")
                share.fail()
            else:
                share.settle(plan, grant)
                self._metrics.rate_orders_total[vendor].inc()


class VendorNews:
    """Tells other nodes how long a vendor wants to be left alone and how its breaker stands.

    And hears it from them. Every node polls; what it has to tell it tells at once. An operator who
    resumes a vendor overrides both, on all nodes: whatever was found before counts no more.
    """

    def __init__(self, db: Database, ready: ReadyQueue, *, node: str) -> None:
        self._db = db
        self._ready = ready
        self._node = node
        self.breakers: Mapping[str, CircuitBreaker] = {}
        self._parked_until: dict[str, float] = {}  # as the database knows it, in loop time
        self._parks: dict[str, float] = {}  # to be told: until when
        self._moves: dict[str, Transition] = {}  # to be told
        self._resumes: dict[str, int] = {}  # how often each vendor was resumed, as heard
        self._hearing = asyncio.Lock()
        self._bell = asyncio.Event()

    def park(self, vendor: str, seconds: float) -> None:
        """Leave *vendor* alone for *seconds*, on all nodes: it asked for that."""
        self._ready.lanes[vendor].park(seconds)
        until = asyncio.get_running_loop().time() + seconds
        if until > self._parked_until.get(vendor, 0.0) + PARK_STEP_SECONDS:
            self._parked_until[vendor] = self._parks[vendor] = until
            self._bell.set()

    def moved(self, vendor: str, change: Transition) -> None:
        """Have other nodes know of a breaker's *change*, unless it came from them."""
        if not change.told:
            self._moves[vendor] = change
            self._bell.set()

    async def run(self) -> None:
        """Tell and hear for ever."""
        loop = asyncio.get_running_loop()
        polled_at = 0.0
        while True:
            try:
                await self.tell()
                if loop.time() >= polled_at + POLL_SECONDS:
                    polled_at = loop.time()
                    await self.refresh()
            except DatabaseUnavailable as error:
                log.warning("upkeep_postponed", act="vendor news", error=str(error))
                await asyncio.sleep(TELL_SECONDS)
                await self._db.wait_up()
                continue
            except Exception:
                log.exception("upkeep_failed", act="vendor news")
            await asyncio.sleep(TELL_SECONDS)
            with suppress(TimeoutError):
                pause = max(0.0, polled_at + POLL_SECONDS - loop.time())
                async with asyncio.timeout(pause):
                    await self._bell.wait()
            self._bell.clear()

    async def tell(self) -> None:
        """Tell now what is to be told."""
        now = asyncio.get_running_loop().time()
        if parks := self._parks:
            self._parks = {}
            try:
                await vendors.park(
                    self._db,
                    {name: until - now for name, until in parks.items()},
                    resumes=self._resumes,
                )
            except BaseException:
                self._parks = parks | self._parks
                raise
        if moves := self._moves:
            self._moves = {}
            try:
                await vendors.move_breakers(
                    self._db,
                    {name: self._breaker_news(name, move) for name, move in moves.items()},
                    resumes=self._resumes,
                )
            except BaseException:
                self._moves = moves | self._moves
                raise

    async def refresh(self) -> None:
        """Hear now: before the first claim, and after an operator's act on this node."""
        async with self._hearing:
            for vendor, state in (await vendors.states(self._db)).items():
                if (lane := self._ready.lanes.get(vendor)) is not None:
                    self._follow(vendor, lane, state)
            for vendor in self._ready.lanes:
                self._resumes.setdefault(vendor, 0)

    def _breaker_news(self, vendor: str, change: Transition) -> BreakerNews:
        breaker = self.breakers[vendor]
        return BreakerNews(change.after.value, breaker.delay(), self._node)

    def _follow(self, vendor: str, lane: Lane, state: VendorState) -> None:
        if state.resumes > self._resumes.setdefault(vendor, state.resumes):
            self._resumes[vendor] = state.resumes
            self._unpark(vendor, lane)
        if state.parked_seconds > 0:
            until = asyncio.get_running_loop().time() + state.parked_seconds
            self._parked_until[vendor] = max(until, self._parked_until.get(vendor, 0.0))
            lane.park(state.parked_seconds)
        breaker = self.breakers.get(vendor)
        if breaker is None or vendor in self._moves or state.breaker.node == self._node:
            return
        news = state.breaker
        if news.state == BreakerState.CLOSED:
            breaker.reset()
        elif news.seconds > 0:
            # Open, or its probe is under way.
            breaker.open_for(news.seconds + PROBE_SECONDS)
            lane.park(breaker.delay())

    def _unpark(self, vendor: str, lane: Lane) -> None:
        """Forget what kept us from calling *vendor*: an operator says that it can be called."""
        for news in (self._parks, self._parked_until, self._moves):
            news.pop(vendor, None)
        if (breaker := self.breakers.get(vendor)) is not None:
            breaker.reset()
        lane.resume()
        lane.expect_older()
        self._ready.promote = True  # its retries are due
        self._ready.wake.set()
        log.info("vendor_unparked", vendor=vendor)
