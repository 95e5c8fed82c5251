"""A lane is fed in order: what comes while a claim is under way does not overtake what it finds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from store_samples import NODE, ZERO, put_job, put_node, webhook

from gateway.errors import DatabaseUnavailable
from gateway.model import Job
from gateway.queue.acceptance import AcceptanceDesk
from gateway.queue.feeder import Feeder
from gateway.queue.lane import Lane
from gateway.queue.ready import ReadyQueue
from gateway.store import jobs
from gateway.store.database import Database
from gateway.telemetry.metrics import Metrics

CAPACITY = 8


class Shop:
    """One lane of a node, its feeder, its way in; and claims that end when the test says so."""

    def __init__(self, db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
        self.executed: list[UUID] = []
        self.news = asyncio.Event()  # something was executed
        self.arrived: list[UUID] = []
        self.held_up = asyncio.Event()  # a claim has been answered, and is kept from its caller
        self.let_on = asyncio.Event()
        self.fault: Exception | None = None
        self.ready = ReadyQueue(inline_body_bytes=1000)
        self.lane = Lane(
            "crm",
            concurrency=1,
            capacity=CAPACITY,
            limiter=None,
            execute=self._execute,
            spawn=asyncio.ensure_future,
        )
        self.ready.lanes["crm"] = self.lane
        metrics = Metrics(version="test", vendors=["shop", "crm"], routes=["orders"])
        self.desk = AcceptanceDesk(db, self.ready, node=NODE, metrics=metrics)
        self.feeder = Feeder(db, self.ready, node=NODE, metrics=metrics)
        self._claim = jobs.claim
        monkeypatch.setattr(jobs, "claim", self._claim_slowly)

    async def _execute(self, job: Job) -> None:
        self.executed.append(job.id)
        self.news.set()
        self.ready.forget(job)

    async def _claim_slowly(self, *args: Any, **given: Any) -> list[Job]:
        claimed = await self._claim(*args, **given)
        self.held_up.set()
        await self.let_on.wait()
        if self.fault is not None:
            raise self.fault
        return claimed

    async def arrive(self) -> None:
        item = webhook(None)
        self.arrived += [job.id for job in item.jobs]
        await self.desk.accept(item)
        await self.rest()

    @asynccontextmanager
    async def claiming(self) -> AsyncIterator[None]:
        """Claims, and learns what it has claimed at the end of the block only."""
        self.held_up.clear()
        self.let_on.clear()
        feeding = asyncio.ensure_future(self.feeder._claim())
        await self.held_up.wait()
        yield
        self.let_on.set()
        await feeding
        await self.rest()

    async def claim(self, *, meanwhile: int) -> None:
        async with self.claiming():
            for _ in range(meanwhile):
                await self.arrive()

    async def rest(self) -> None:
        """Let the slots do what they can."""
        for _ in range(3 * CAPACITY):
            await asyncio.sleep(0)


@pytest.fixture
async def shop(
    db: Database, connection: Any, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Shop]:
    await put_node(connection)
    shop = Shop(db, monkeypatch)
    committing = asyncio.ensure_future(shop.desk.run())
    yield shop
    shop.desk.finish()
    await committing


async def test_what_comes_during_the_first_claim_waits_for_its_turn(shop: Shop) -> None:
    await shop.arrive()
    await shop.claim(meanwhile=2)
    assert shop.executed == shop.arrived[:1], "the others are behind what the claim may have left"
    await shop.claim(meanwhile=2)
    assert shop.executed == shop.arrived
    assert not shop.lane.backlog


async def test_nothing_overtakes_a_backlog_of_many_claims(shop: Shop) -> None:
    for _ in range(3 * CAPACITY):
        await shop.arrive()
    assert shop.executed == []
    claims = 0
    while shop.lane.backlog:
        await shop.claim(meanwhile=2)
        claims += 1
        assert claims < 20, "a lane to which something comes in each claim leaves its backlog too"
    assert claims > 3
    assert shop.executed == shop.arrived
    await shop.arrive()
    assert shop.executed == shop.arrived, "with nothing to overtake, it starts at once"


@pytest.mark.parametrize("state", ["scheduled", "available"])
async def test_what_others_left_is_found_however_busy_the_feeder_is(
    shop: Shop, connection: Any, state: str
) -> None:
    """It is woken again and again, as by a long backlog or by jobs in line; who left it is gone."""
    loop = asyncio.get_running_loop()

    def wake() -> None:
        nonlocal timer
        shop.ready.wake.set()
        timer = loop.call_later(0.01, wake)

    timer = loop.call_soon(wake)
    shop.let_on.set()
    feeding = asyncio.ensure_future(shop.feeder.run())
    try:
        await shop.held_up.wait()
        left = await put_job(connection, state=state)
        async with asyncio.timeout(20):
            while left not in shop.executed:
                await shop.news.wait()
                shop.news.clear()
    finally:
        timer.cancel()
        shop.feeder.stop()
        await feeding


async def test_a_look_whether_others_left_something_delays_nothing(
    shop: Shop, connection: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    await shop.claim(meanwhile=0)
    assert not shop.lane.backlog
    look, found = jobs.look, []

    async def look_slowly(*args: Any, **given: Any) -> Any:
        found.append(await look(*args, **given))
        await shop.arrive()
        assert shop.executed == shop.arrived
        return found[-1]

    monkeypatch.setattr(jobs, "look", look_slowly)
    await shop.feeder._look()
    assert found == [(set(), False)]
    left = await put_job(connection)
    await shop.feeder._look()
    assert found[1:] == [({"crm"}, False)]
    assert shop.lane.backlog
    await shop.claim(meanwhile=1)
    assert shop.executed == [*shop.arrived[:2], left, shop.arrived[2]]


async def test_a_look_finds_what_is_there_to_claim_or_to_promote(
    db: Database, connection: Any
) -> None:
    now = await connection.fetchval("SELECT now()")
    assert await jobs.look(db, ["crm"], floor=ZERO) == (set(), False)
    later = now + timedelta(hours=1)
    waiting = await put_job(connection, vendor="mail")
    for state, vendor, run_at in (
        ("available", "crm2", now),
        ("running", "crm", now),
        ("blocked", "crm", now),
        ("dead", "crm", now),
        ("scheduled", "crm", later),
    ):
        await put_job(connection, state=state, vendor=vendor, run_at=run_at)
    assert await jobs.look(db, ["cr", "crm", "mai", "mail"], floor=ZERO) == ({"mail"}, False)
    above = UUID(int=waiting.int + 1)
    assert await jobs.look(db, ["crm", "mail"], floor=above) == (set(), False)
    due = await put_job(connection, state="scheduled", vendor="none", run_at=now)
    assert await jobs.look(db, ["crm2", "mail"], floor=ZERO) == ({"crm2", "mail"}, True)
    assert await jobs.look(db, [], floor=due) == (set(), True)
    assert await jobs.look(db, [], floor=UUID(int=due.int + 1)) == (set(), False)


async def test_who_has_no_room_or_a_backlog_is_not_looked_after(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    async def look(_db: Database, lanes: Any, **_given: Any) -> Any:
        asked.append(list(lanes))
        return set(), True

    monkeypatch.setattr(jobs, "look", look)
    await shop.feeder._look()
    shop.lane.backlog = False
    shop.lane.pause(True)
    await shop.feeder._look()
    shop.lane.pause(False)
    shop.ready.promote = False
    await shop.feeder._look()
    assert asked == [[], [], ["crm"]]
    assert shop.ready.promote


async def test_what_is_told_during_a_look_is_not_forgotten(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def look(*_args: Any, **_given: Any) -> Any:
        shop.lane.expect_older()
        shop.ready.promote = True
        return set(), False

    monkeypatch.setattr(jobs, "look", look)
    shop.lane.backlog = shop.ready.promote = False
    await shop.feeder._look()
    assert shop.lane.backlog
    assert shop.ready.promote


async def test_what_waits_for_a_claim_starts_though_it_fails(shop: Shop) -> None:
    await shop.claim(meanwhile=0)
    shop.lane.backlog = True
    shop.fault = DatabaseUnavailable("cut")
    with pytest.raises(DatabaseUnavailable):
        await shop.claim(meanwhile=2)
    await shop.rest()
    assert shop.executed == shop.arrived
    assert shop.lane.backlog


async def test_what_waits_for_a_claim_is_dropped_with_the_rest(shop: Shop) -> None:
    await shop.claim(meanwhile=0)
    shop.lane.backlog = True
    async with shop.claiming():
        await shop.arrive()
        dropped = shop.lane.drop_waiting()
    assert [job.id for job in dropped] == shop.arrived
    assert shop.executed == []
