"""What one node hears from a vendor, all nodes heed; what one finds of it, all know."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from gateway import sharing
from gateway.config.model import Breaker
from gateway.queue.lane import Lane
from gateway.queue.ready import ReadyQueue
from gateway.sharing import VendorNews
from gateway.store import steering
from gateway.store.database import Database
from gateway.vendors.breaker import BreakerState, CircuitBreaker, Transition

SETTINGS = Breaker(failures=2, window_seconds=60.0, cooldown_seconds=30.0)


class WatchedLane(Lane):
    """Tells when it is parked."""

    def __init__(self, *given: Any, **more: Any) -> None:
        super().__init__(*given, **more)
        self.parked = asyncio.Event()

    def park(self, seconds: float) -> None:
        super().park(seconds)
        self.parked.set()


class Node:
    """A lane, its breaker, and the news; the service's wiring without the service."""

    def __init__(self, db: Database, name: str) -> None:
        self.ready = ReadyQueue(inline_body_bytes=0)
        self.news = VendorNews(db, self.ready, node=name)
        self.changes: list[Transition] = []
        self.changed = asyncio.Event()
        self.now = 0.0  # ahead of real time
        self.breaker = CircuitBreaker(
            SETTINGS, clock=lambda: time.monotonic() + self.now, on_change=self._moved
        )
        self.news.breakers = {"crm": self.breaker}
        self.lane = self.ready.lanes["crm"] = WatchedLane(
            "crm",
            concurrency=1,
            capacity=8,
            limiter=None,
            breaker=self.breaker,
            execute=lambda job: asyncio.sleep(0),
            spawn=asyncio.ensure_future,
        )

    def _moved(self, change: Transition) -> None:
        self.changes.append(change)
        self.news.moved("crm", change)

    async def exchange(self) -> None:
        await self.news.tell()
        await self.news.refresh()

    def fail(self) -> None:
        for _ in range(SETTINGS.failures):
            self.breaker.record(False)


@asynccontextmanager
async def running(*nodes: Node) -> AsyncIterator[None]:
    tasks = [asyncio.ensure_future(node.news.run()) for node in nodes]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def test_a_vendors_wish_parks_its_lane_on_every_node(db: Database) -> None:
    one, two = Node(db, "one"), Node(db, "two")
    async with running(one, two):
        one.news.park("crm", 40.0)
        assert one.lane.idle_seconds() > 39.0
        async with asyncio.timeout(10.0):
            await two.lane.parked.wait()
        assert 38.0 < two.lane.idle_seconds() <= 40.0
    rows = await db.fetch_sql("SELECT parked_until > now() AS parked FROM gateway.vendor_state")
    assert [row["parked"] for row in rows] == [True]


async def test_a_wish_is_told_again_only_when_it_grew_by_a_second(db: Database) -> None:
    one = Node(db, "one")
    one.news.park("crm", 40.0)
    await one.exchange()
    version = await versions(db)
    for seconds in (39.0, 40.0, 40.5):
        one.news.park("crm", seconds)
        await one.exchange()
    assert await versions(db) == version
    one.news.park("crm", 42.0)
    await one.exchange()
    assert await versions(db) != version


async def versions(db: Database) -> list[str]:
    rows = await db.fetch_sql("SELECT xmin::text AS version FROM gateway.vendor_state")
    return [row["version"] for row in rows]


async def test_a_vendor_that_is_resumed_is_called_at_once_by_all_nodes(db: Database) -> None:
    one, two, three = Node(db, "one"), Node(db, "two"), Node(db, "three")
    await three.exchange()  # hears nothing yet
    one.fail()
    one.news.park("crm", 3600.0)
    await one.exchange()
    await two.exchange()
    assert min(one.lane.idle_seconds(), two.lane.idle_seconds()) > 3500.0
    assert two.breaker.state is BreakerState.OPEN
    # Words from before it was resumed that are still on their way.
    three.fail()
    three.news.park("crm", 7200.0)

    await steering.resume_vendor(db, "crm", who="tester")
    for node in (three, two, one, three):
        await node.exchange()
    for node in (one, two, three):
        assert node.lane.idle_seconds() == 0.0
        assert node.breaker.state is BreakerState.CLOSED
        assert node.lane.room() == 8
        assert node.ready.promote
    rows = await db.fetch_sql("SELECT parked_until, breaker FROM gateway.vendor_state")
    assert [tuple(row) for row in rows] == [(None, "closed")]
    # What the vendor says from then on counts again.
    one.news.park("crm", 60.0)
    await one.exchange()
    await two.exchange()
    assert two.lane.idle_seconds() > 58.0


async def test_a_node_that_starts_after_a_resume_heeds_what_came_after_it(db: Database) -> None:
    await steering.resume_vendor(db, "crm", who="tester")
    one = Node(db, "one")
    await one.exchange()
    one.news.park("crm", 60.0)
    await one.exchange()
    late = Node(db, "late")
    await late.news.refresh()
    assert late.lane.idle_seconds() > 58.0


async def test_a_shorter_wish_does_not_shorten_another_nodes(db: Database) -> None:
    one, two = Node(db, "one"), Node(db, "two")
    one.news.park("crm", 60.0)
    await one.exchange()
    two.news.park("crm", 5.0)
    await two.exchange()
    assert two.lane.idle_seconds() > 58.0


async def test_a_breaker_that_opens_on_one_node_is_open_on_all_and_its_opener_probes_first(
    db: Database,
) -> None:
    one, two = Node(db, "one"), Node(db, "two")
    one.fail()
    await one.exchange()
    await two.exchange()
    assert two.breaker.state is BreakerState.OPEN
    assert two.lane.idle_seconds() > 29.0
    assert two.lane.room() == 0
    assert two.breaker.delay() == pytest.approx(
        one.breaker.delay() + sharing.PROBE_SECONDS, abs=0.5
    )
    # Its probe succeeds: all close.
    one.now += SETTINGS.cooldown_seconds
    assert one.breaker.allow()
    await one.exchange()
    one.breaker.record(True)
    await one.exchange()
    await two.exchange()
    assert two.breaker.state is BreakerState.CLOSED
    assert [change.told for change in two.changes] == [True, True]
    assert [change.after for change in one.changes] == ["open", "half-open", "closed"]


async def test_while_one_node_probes_another_does_not(db: Database) -> None:
    one, two = Node(db, "one"), Node(db, "two")
    one.fail()
    await one.exchange()
    await two.exchange()
    one.now += SETTINGS.cooldown_seconds
    assert one.breaker.allow()
    await one.exchange()
    two.now += SETTINGS.cooldown_seconds
    await two.exchange()
    assert not two.breaker.allow()


async def test_a_node_that_starts_finds_the_breaker_open(db: Database) -> None:
    one = Node(db, "one/a")
    one.fail()
    await one.exchange()
    again = Node(db, "one/b")
    await again.exchange()
    assert not again.breaker.allow()


async def test_should_the_opener_be_gone_another_probes_and_speaks_for_the_vendor(
    db: Database,
) -> None:
    one, two = Node(db, "one"), Node(db, "two")
    one.fail()
    await one.exchange()
    await two.exchange()
    # Time passes for the survivor, and for the row.
    two.now += SETTINGS.cooldown_seconds + sharing.PROBE_SECONDS
    await db.fetch_sql("UPDATE gateway.vendor_state SET breaker_until = now() - interval '1 s'")
    await two.exchange()
    assert two.breaker.allow()
    await two.exchange()
    two.breaker.record(True)
    await two.exchange()
    rows = await db.fetch_sql("SELECT breaker, breaker_node FROM gateway.vendor_state")
    assert [(row["breaker"], row["breaker_node"]) for row in rows] == [("closed", "two")]


async def test_news_of_a_vendor_that_is_not_configured_here_are_passed_over(db: Database) -> None:
    one, two = Node(db, "one"), Node(db, "two")
    one.ready.lanes["erp"] = one.lane
    one.news.park("erp", 40.0)
    await one.exchange()
    await two.exchange()
    assert two.lane.idle_seconds() == 0


async def test_a_lane_whose_breaker_is_not_closed_holds_one_job_to_probe_with(db: Database) -> None:
    one = Node(db, "one")
    one.lane.backlog = False
    assert one.lane.room() == 8
    one.fail()
    one.now += SETTINGS.cooldown_seconds
    assert one.breaker.state is BreakerState.HALF_OPEN
    assert one.lane.room() == 1
    assert one.lane.takes(5)
    one.lane.held = 1
    assert one.lane.room() == 0
    assert not one.lane.takes(5)
    assert one.breaker.allow()
    one.breaker.record(True)
    assert one.lane.room() == 7
