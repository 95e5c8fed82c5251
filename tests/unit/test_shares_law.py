"""Nodes that share a vendor's limit keep it together, whatever befalls them, and use it up."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Sequence
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rate_books import Books
from virtual_time import VirtualTime, in_virtual_time

from gateway.config.model import Rate
from gateway.model import RateGrant, RateOrder, RateTerms
from gateway.vendors.limits import StrictLimiter
from gateway.vendors.shares import EXCLUSIVE_SECONDS

HOUR = 3600.0
NONE = HOUR  # no load


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
            if self.vendor.trouble and self.vendor.random.random() < 0.2:
                await asyncio.sleep(self.vendor.random.uniform(0.0, 0.5))  # a connection is opened
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


@settings(max_examples=150)
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
    st.sampled_from([0.0, 0.2, 0.6]),
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


TERMS = RateTerms(
    counts=(10, 30),
    periods_seconds=(1.0, 60.0),
    pace_seconds=0.1,
    ahead_seconds=0.5,
    valid_seconds=0.7,
    exclusive_seconds=0.0,
)


@settings(max_examples=200)
@given(
    st.lists(
        st.tuples(
            st.sampled_from("abc"),
            st.floats(0.0, 0.4) | st.floats(0.0, 20.0),  # until the next order
            st.integers(0, 8),  # calls wanted
            st.sampled_from(["first", "last", "half", "never"]),  # when they are made
            st.booleans(),  # whether it ends without a word after this order
        ),
        max_size=60,
    )
)
def test_whenever_a_bought_call_is_made_the_law_holds(
    steps: list[tuple[str, float, int, str, bool]],
) -> None:
    """No local limiter helps here, and what is bought may be used at its very end."""
    books, now, numbers = Books(), 1000.0, itertools.count(1)
    holds: dict[str, list[float]] = {}  # when each will be made
    calls: list[float] = []
    lives = dict.fromkeys("abc", 0)
    for letter, pause, wanted, when, ends in steps:
        now += pause
        name = f"{letter}/{lives[letter]}"
        made = [due for due in holds.get(name, []) if due <= now]
        kept = [due for due in holds.get(name, []) if due > now]
        order = RateOrder(
            number=next(numbers),
            sent_at=now,
            used=tuple((now - due, 1) for due in made),
            kept=len(kept),
            wanted=wanted,
            wants=True,
            releases=False,
        )
        grant = books.buy(name, terms=TERMS, order=order, now=now)
        assert grant is not None
        assert grant.granted <= wanted
        until = now + grant.until_seconds
        for number in range(grant.granted):
            start = now + grant.from_seconds + number * TERMS.pace_seconds
            assert now <= start <= until
            dues = {"first": start, "last": until, "half": (start + until) / 2}
            if when in dues:
                kept.append(dues[when])
        calls += made
        holds[name] = kept
        lives[letter] += ends
    calls += itertools.chain.from_iterable(holds.values())
    assert_law(calls, [Rate(10, 1.0), Rate(30, 60.0)])


def saturate(
    rates: list[Rate], loads: Sequence[float], *, seconds: float, warm_up: float = 0.0
) -> tuple[Vendor, list[Node], float]:
    """Run nodes at full load (0: as fast as may be) or with pauses; return the share used."""

    async def main(loop: VirtualTime) -> tuple[Vendor, list[Node], float]:
        vendor = Vendor(rates, loop, random=Random(1))
        nodes = [Node(vendor) for _ in loads]
        for node, pause in zip(nodes, loads, strict=True):
            if pause < NONE:
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


@pytest.mark.parametrize(
    "rates",
    [
        [Rate(1, 1.0)],
        [Rate(3, 1.0)],
        [Rate(10, 1.0)],
        [Rate(100, 1.0)],
        [Rate(100, 1.0), Rate(600, 60.0)],
        [Rate(600, 60.0)],
        [Rate(5, 60.0)],
    ],
    ids=str,
)
@pytest.mark.parametrize(
    "loads",
    [[0.0], [0.0, NONE, NONE], [0.0, 3.0, 7.0], [0.0, 0.0, 0.0]],
    ids=["alone", "one of three", "two trickle", "all three"],
)
def test_nine_tenths_of_the_rate_are_used_whoever_has_the_load(
    rates: list[Rate], loads: list[float]
) -> None:
    minutes = rates[-1].period_seconds > 1.0
    _, nodes, share = saturate(
        rates, loads, seconds=300.0 if minutes else 20.0, warm_up=90.0 if minutes else 5.0
    )
    assert share >= 0.9
    # Nobody is left out, and equals get about the same.
    assert all(node.made for node, load in zip(nodes, loads, strict=True) if load < NONE)
    if len(set(loads)) == 1 and len(loads) > 1 and not minutes:
        assert max(node.made for node in nodes) <= 2 * min(node.made for node in nodes) + 2


@pytest.mark.parametrize(
    ("rate", "seconds"),
    [
        (Rate(1, 60.0), 1.0),
        (Rate(5, 60.0), 1.0),
        (Rate(3, HOUR), 1.0),
        # With short windows its turn is in the books by then; the next but one is its own.
        (Rate(1, 1.0), 7.0),
        (Rate(10, 1.0), 2.0),
    ],
    ids=str,
)
def test_who_opens_a_connection_calls_in_its_turn_however_many_wait(
    rate: Rate, seconds: float
) -> None:
    callers = 4 if rate.period_seconds > 1.0 else 20 * rate.count

    async def main(loop: VirtualTime) -> Vendor:
        vendor = Vendor([rate], loop, random=Random(1))
        nodes = [Node(vendor) for _ in range(2)]

        async def call(node: Node) -> None:
            await node.limiter.acquire()
            async with asyncio.timeout(seconds):
                await asyncio.sleep(0.3)
                await node.limiter.confirm()
            vendor.calls.append(loop.time())

        await asyncio.gather(*(call(node) for node in nodes * callers))
        for node in nodes:
            await node.kill()
        return vendor

    vendor = in_virtual_time(main)
    assert_law(vendor.calls, [rate])
    assert len(vendor.calls) == 2 * callers


def test_a_node_that_calls_alone_orders_once_a_second() -> None:
    vendor, _, share = saturate([Rate(500, 1.0)], [0.0, NONE, NONE], seconds=30.0)
    assert share > 0.9
    assert vendor.orders <= 35


def test_lots_grow_with_the_rate_so_that_orders_stay_few() -> None:
    vendor, _, _ = saturate([Rate(500, 1.0)], [0.0, 0.0, 0.0], seconds=20.0, warm_up=5.0)
    assert vendor.orders <= 20 * 40


def test_an_idle_node_orders_nothing() -> None:
    async def main(loop: VirtualTime) -> int:
        vendor = Vendor([Rate(10, 1.0), Rate(100, HOUR)], loop, random=Random(1))
        node = Node(vendor)
        node.load(callers=1, until=loop.time() + 2.0)
        await asyncio.sleep(10.0)
        vendor.orders = 0
        await asyncio.sleep(HOUR)
        await node.kill()
        assert vendor.books.shares[node.name].calls == 0  # all given back
        return vendor.orders

    assert in_virtual_time(main) == 0


def test_a_killed_node_costs_the_others_a_few_seconds_and_no_more_than_a_lot() -> None:
    rates = [Rate(10, 1.0), Rate(200, HOUR)]

    async def main(loop: VirtualTime) -> tuple[Vendor, int]:
        vendor = Vendor(rates, loop, random=Random(1))
        first = Node(vendor)
        first.load(callers=4)
        await asyncio.sleep(5.0)
        await first.kill()
        died_at, made = loop.time(), first.made
        second = Node(vendor)
        second.load(callers=4)
        await asyncio.sleep(60.0)
        await second.kill()
        assert min(call for call in vendor.calls if call > died_at) < died_at + 5.0
        return vendor, made + second.made

    vendor, made = in_virtual_time(main)
    assert_law(vendor.calls, rates)
    assert 190 <= made <= 200  # it held ten when it died, at most


def test_after_a_farewell_a_restart_may_call_at_once() -> None:
    async def main(loop: VirtualTime) -> float:
        vendor = Vendor([Rate(10, 1.0)], loop, random=Random(1))
        first = Node(vendor)
        first.load(callers=2, pauses=(0.5,))
        await asyncio.sleep(3.2)
        await first.farewell()
        left_at = loop.time()
        second = Node(vendor)
        second.load(callers=1)
        await asyncio.sleep(1.0)
        await second.kill()
        return next(call for call in vendor.calls if call >= left_at) - left_at

    assert in_virtual_time(main) < 0.5


def test_without_the_database_nothing_is_called() -> None:
    async def main(loop: VirtualTime) -> None:
        vendor = Vendor([Rate(10, 1.0)], loop, random=Random(1))
        node = Node(vendor)
        node.load(callers=2)
        await asyncio.sleep(5.0)
        lost_at = loop.time()

        async def fails(*_: object) -> RateGrant | None:
            await asyncio.sleep(0.1)
            raise ConnectionError

        vendor.buy = fails  # type: ignore[method-assign]
        await asyncio.sleep(20.0)
        assert max(vendor.calls) <= lost_at + EXCLUSIVE_SECONDS
        del vendor.buy
        await asyncio.sleep(2.0)
        assert max(vendor.calls) > lost_at + 20.0
        await node.kill()
        assert_law(vendor.calls, vendor.rates)

    in_virtual_time(main)
