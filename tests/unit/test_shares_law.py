"""Nodes that share a vendor's limit keep it together, whatever befalls them, and use it up."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Sequence
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st
from rate_books import Books
from virtual_time import VirtualTime, in_virtual_time

from gateway.config.model import Rate
from gateway.model import RateGrant, RateOrder
from gateway.vendors.limits import StrictLimiter

HOUR = 3600.0


class Vendor:
    """Who is called: the books of its rates, and when calls arrived. Links are slow and lossy."""

    def __init__(
        self, rates: Sequence[Rate], loop: VirtualTime, *, random: Random, trouble: float = 0.0
    ) -> None:
        self.rates = rates
        self.loop = loop
        self.random = random
        self.trouble = trouble  # share of the orders that are late or lost
        self.books = Books()
        self.calls: list[float] = []
        self.orders = 0
        self.names = itertools.count(1)

    async def buy(self, node: Node, order: RateOrder) -> RateGrant | None:
        self.orders += 1
        share = node.limiter.share
        assert share is not None
        troubled = self.random.random() < self.trouble
        await asyncio.sleep(self.random.uniform(0.0, 4.0 if troubled else 0.004))
        if troubled and self.random.random() < 0.3:
            raise ConnectionError("lost on the way there")
        # The database's clock has nothing to do with ours.
        grant = self.books.buy(
            node.name, terms=share.terms, order=order, now=self.loop.time() + 777.7
        )
        if troubled and self.random.random() < 0.5:
            raise ConnectionError("lost on the way back")
        await asyncio.sleep(self.random.uniform(0.0, 1.0 if troubled else 0.004))
        return grant


class Node:
    """One process: a limiter, its buyer, and callers."""

    def __init__(self, vendor: Vendor) -> None:
        self.vendor = vendor
        self.name = f"node/{next(vendor.names)}"
        self.limiter = StrictLimiter(vendor.rates, clock=vendor.loop.time, shared=True)
        self.tasks: set[asyncio.Task[None]] = {asyncio.ensure_future(self._buy())}
        self.made = 0

    async def _buy(self) -> None:
        share = self.limiter.share
        assert share is not None
        while True:
            plan = share.plan()
            if isinstance(plan, float):
                await share.rung(min(plan, 1e6))
                continue
            try:
                share.settle(plan, await self.vendor.buy(self, plan))
            except ConnectionError:
                share.fail()

    def load(self, *, callers: int, pauses: Sequence[float] = (0.0,), until: float = 1e9) -> None:
        for number in range(callers):
            self.tasks.add(asyncio.ensure_future(self._call(pauses[number::callers], until)))

    async def _call(self, pauses: Sequence[float], until: float) -> None:
        for pause in itertools.cycle(pauses or (1.0,)):
            if self.vendor.loop.time() > until:
                return
            await asyncio.sleep(pause)
            await self.limiter.acquire()
            await self.limiter.confirm()
            self.made += 1
            self.vendor.calls.append(self.vendor.loop.time())
            await asyncio.sleep(0.001)

    async def farewell(self) -> None:
        await self.kill()
        share = self.limiter.share
        assert share is not None
        with contextlib.suppress(ConnectionError):
            share.settle(order := share.farewell(), await self.vendor.buy(self, order))

    async def kill(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.wait(self.tasks)


def assert_law(calls: Sequence[float], rates: Sequence[Rate]) -> None:
    calls = sorted(calls)
    for rate in rates:
        for first, last in zip(calls, calls[rate.count :], strict=False):
            assert last - first > rate.period_seconds, f"{rate} broken at {last}: {last - first}"


def used(vendor: Vendor, *, since: float, until: float) -> int:
    return sum(1 for call in vendor.calls if since <= call < until)


rates_lists = st.lists(
    st.builds(Rate, st.integers(1, 60), st.sampled_from([1.0, 60.0, HOUR])), min_size=1, max_size=3
)


@settings(max_examples=60, deadline=None)
@given(
    rates_lists,
    st.lists(
        st.tuples(
            st.integers(0, 2),
            st.sampled_from(["load", "trickle", "kill", "restart", "wait", "idle"]),
            st.floats(0.1, 20.0),
        ),
        min_size=1,
        max_size=12,
    ),
    st.sampled_from([0.0, 0.2]),
    st.integers(),
)
def test_no_window_holds_more_than_its_count_whatever_befalls_the_nodes(
    rates: list[Rate], acts: list[tuple[int, str, float]], trouble: float, seed: int
) -> None:
    async def main(loop: VirtualTime) -> Vendor:
        vendor = Vendor(rates, loop, random=Random(seed), trouble=trouble)
        nodes = [Node(vendor) for _ in range(3)]
        nodes[0].load(callers=3, until=loop.time() + 3.0)
        for number, act, seconds in acts:
            now = loop.time()
            match act:
                case "load":
                    nodes[number].load(callers=4, until=now + seconds)
                case "trickle":
                    nodes[number].load(callers=1, pauses=(0.7, 3.0), until=now + seconds)
                case "kill":
                    await nodes[number].kill()
                    nodes[number] = Node(vendor)
                case "restart":
                    await nodes[number].farewell()
                    nodes[number] = Node(vendor)
                case "wait":
                    await asyncio.sleep(seconds)
                case _:
                    await asyncio.sleep(seconds * 10)
        await asyncio.sleep(5.0)
        for node in nodes:
            await node.kill()
        return vendor

    vendor = in_virtual_time(main)
    assert_law(vendor.calls, rates)


def saturate(
    rates: list[Rate], loads: Sequence[float], *, seconds: float, warm_up: float = 0.0
) -> tuple[Vendor, list[Node], float]:
    """Run nodes at full load (0: as fast as may be) or with pauses; return the share used."""

    async def main(loop: VirtualTime) -> tuple[Vendor, list[Node], float]:
        vendor = Vendor(rates, loop, random=Random(1))
        nodes = [Node(vendor) for _ in loads]
        for node, pause in zip(nodes, loads, strict=True):
            if pause < HOUR:
                node.load(callers=8 if pause == 0.0 else 1, pauses=(pause,))
        await asyncio.sleep(warm_up)
        vendor.orders, began = 0, loop.time()
        await asyncio.sleep(seconds)
        for node in nodes:
            await node.kill()
        tightest = min(rate.count / rate.period_seconds for rate in rates)
        share = used(vendor, since=began, until=began + seconds) / (tightest * seconds)
        return vendor, nodes, share

    vendor, nodes, share = in_virtual_time(main)
    assert_law(vendor.calls, rates)
    return vendor, nodes, share
