"""Order within a key: one job in flight, the oldest next, nobody left behind, whatever the race."""

from __future__ import annotations

import asyncio
import random
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from uuid_utils.compat import uuid7

from gateway.model import Event, Job, NewJob
from gateway.store import events, jobs, nodes
from gateway.store.database import Database
from gateway.store.writes import Acceptance, Settled

NODE = "test/1"
ZERO = UUID(int=0)


@pytest.fixture
async def db(db: Database) -> Database:
    await nodes.register(db, NODE, lease_seconds=600, version="test", oldest_held=ZERO)
    return db


def acceptance(*keys: str | None, state: str = "available", holds: bool = False) -> Acceptance:
    event_id = uuid7()
    event = Event(
        id=event_id,
        vendor="shop",
        correlation_id=str(event_id),
        headers={},
        body=b"{}",
        received_at=datetime.now(UTC),
    )
    return Acceptance(event, "{}", [new_job(event_id, key, state, holds) for key in keys], 60.0)


def new_job(event_id: UUID, key: str | None, state: str, holds: bool) -> NewJob:
    return NewJob(
        id=uuid7(),
        event_id=event_id,
        route="r",
        vendor="crm",
        kind="call",
        state=state,
        max_attempts=3,
        correlation_id=str(event_id),
        ordering_key=key,
        holds_key=holds,
    )


async def accept(db: Database, *items: Acceptance) -> set[UUID]:
    return (await events.accept(db, items, node=NODE)).blocked


async def claim(db: Database, room: int = 100) -> list[Job]:
    return await jobs.claim(db, [("crm", room, 1)], node=NODE, floor=ZERO)


async def settle(db: Database, job: Job, state: str = "completed", delay: float = 0.0) -> None:
    outcome = {"completed": "completed", "dead": "dead", "scheduled": "retry"}[state]
    item = Settled(
        job=job,
        state=state,
        attempt=job.attempt + 1,
        delay_seconds=delay,
        outcome=outcome,
        started_at=datetime.now(UTC),
        duration_ms=1.0,
    )
    assert job.id in await jobs.settle(db, [item], node=NODE)


async def states(db: Database) -> list[str]:
    return [row[0] for row in await db.fetch_sql("SELECT state FROM gateway.jobs ORDER BY id")]


async def lines(db: Database) -> list[tuple[str, bool]]:
    rows = await db.fetch_sql("SELECT key, held FROM gateway.ordering_keys ORDER BY key")
    return [(row[0], row[1]) for row in rows]


async def test_only_the_front_of_a_key_is_claimable(db: Database) -> None:
    first, second, other = acceptance("a"), acceptance("a"), acceptance("b")
    assert await accept(db, first, second, other) == {second.jobs[0].id}
    assert {job.id for job in await claim(db)} == {first.jobs[0].id, other.jobs[0].id}


async def test_a_hand_off_behind_an_older_job_is_blocked_and_unheld(db: Database) -> None:
    await accept(db, acceptance("a"))
    late = acceptance("a", state="running")
    assert await accept(db, late) == {late.jobs[0].id}
    row = (await db.fetch_sql("SELECT * FROM gateway.jobs WHERE id = $1", late.jobs[0].id))[0]
    assert (row["state"], row["node"], row["claim_no"]) == ("blocked", None, 0)


async def test_jobs_of_a_key_run_one_by_one_in_order(db: Database) -> None:
    items = [acceptance("a") for _ in range(5)]
    await accept(db, *items)
    seen = []
    for _ in items:
        (job,) = await claim(db)
        seen.append(job.id)
        await settle(db, job)
    assert seen == [item.jobs[0].id for item in items]
    assert await lines(db) == []


async def test_a_retry_keeps_its_place_at_the_front(db: Database) -> None:
    await accept(db, acceptance("a"), acceptance("a"))
    (job,) = await claim(db)
    await settle(db, job, "scheduled", delay=3600.0)
    assert await claim(db) == []
    assert await states(db) == ["scheduled", "blocked"]


async def test_a_dead_job_lets_the_next_one_go(db: Database) -> None:
    await accept(db, acceptance("a"), acceptance("a"))
    (job,) = await claim(db)
    await settle(db, job, "dead")
    assert await states(db) == ["dead", "available"]


async def test_a_dead_job_that_holds_its_key_stops_the_line_until_it_is_released(
    db: Database,
) -> None:
    await accept(db, acceptance("a", holds=True), acceptance("a", holds=True), acceptance("b"))
    for job in await claim(db):
        await settle(db, job, "dead" if job.ordering_key == "a" else "completed")
    assert await states(db) == ["dead", "blocked", "completed"]
    assert await lines(db) == [("a", True)]
    await db.fetch_sql("SELECT gateway.release_key('r', 'a')")
    assert await states(db) == ["dead", "available", "completed"]


async def test_the_replay_of_a_job_that_holds_its_key_goes_first(db: Database) -> None:
    await accept(db, acceptance("a", holds=True), acceptance("a", holds=True))
    (job,) = await claim(db)
    await settle(db, job, "dead")
    replay = (await db.fetch_sql("SELECT gateway.replay($1)", job.id))[0][0]
    (again,) = await claim(db)
    assert again.id == replay
    await settle(db, again)
    assert await states(db) == ["dead", "available", "completed"]


async def test_the_replay_of_a_job_that_holds_nothing_waits_in_line(db: Database) -> None:
    await accept(db, acceptance("a"), acceptance("a"))
    (job,) = await claim(db)
    await settle(db, job, "dead")
    await db.fetch_sql("SELECT gateway.replay($1)", job.id)
    assert await states(db) == ["dead", "available", "blocked"]


async def test_cancelling_the_front_frees_the_next_and_cancelling_in_line_frees_nobody(
    db: Database,
) -> None:
    items = [acceptance("a") for _ in range(3)]
    await accept(db, *items)
    await db.fetch_sql("SELECT gateway.cancel($1)", items[1].jobs[0].id)
    assert await states(db) == ["available", "cancelled", "blocked"]
    await db.fetch_sql("SELECT gateway.cancel($1)", items[0].jobs[0].id)
    assert await states(db) == ["cancelled", "cancelled", "available"]


async def test_a_rescue_keeps_the_order(db: Database) -> None:
    await accept(db, acceptance("a"), acceptance("a"))
    (job,) = await claim(db)
    await db.fetch_sql("UPDATE gateway.nodes SET seen_at = now() - interval '1 hour'")
    await nodes.rescue(db)
    assert await states(db) == ["available", "blocked"]
    assert job.claim_no == 1


async def test_who_came_while_the_front_was_leaving_goes_at_once(
    db: Database, connection: Any
) -> None:
    """It is younger than the settlement that lets it go, yet nothing of it lies ahead."""
    await accept(db, acceptance("a"))
    (job,) = await claim(db)
    async with connection.transaction():
        await connection.fetch("SELECT now()")
        await accept(db, acceptance("a"))
        done = "UPDATE gateway.jobs SET state = 'completed' WHERE id = $1"
        await connection.execute(done, job.id)
    assert await states(db) == ["completed", "available"]


async def test_a_follower_whose_time_has_not_come_is_scheduled(db: Database) -> None:
    await accept(db, acceptance("a"), acceptance("a"))
    (job,) = await claim(db)
    await db.fetch_sql(
        "UPDATE gateway.jobs SET run_at = now() + interval '1 hour' WHERE state = 'blocked'"
    )
    await settle(db, job)
    assert await states(db) == ["completed", "scheduled"]


async def test_no_race_breaks_the_order_or_leaves_a_job_behind(db: Database) -> None:
    """Four intakes and three workers at once over few keys: one in flight per key, all finish."""
    rng = random.Random(7)
    batches = [
        [acceptance(rng.choice("abc"), rng.choice(["d", "e", None])) for _ in range(5)]
        for _ in range(24)
    ]
    total = sum(len(item.jobs) for batch in batches for item in batch)
    finished: dict[str, list[UUID]] = {}
    flying: set[str] = set()
    done = asyncio.Event()
    count = 0

    async def take_in(mine: list[list[Acceptance]]) -> None:
        for batch in mine:
            await accept(db, *batch)

    async def work() -> None:
        nonlocal count
        while not done.is_set():
            for job in await claim(db, room=3):
                if job.ordering_key is not None:
                    assert job.ordering_key not in flying, "two of one key in flight"
                    flying.add(job.ordering_key)
                await asyncio.sleep(0)
                if job.ordering_key is not None:
                    flying.discard(job.ordering_key)
                    finished.setdefault(job.ordering_key, []).append(job.id)
                await settle(db, job)
                count += 1
            if count == total:
                done.set()

    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        for start in range(4):
            group.create_task(take_in(batches[start::4]))
        for _ in range(3):
            group.create_task(work())
    assert await lines(db) == []
    assert set(await states(db)) == {"completed"}
    assert sum(len(ids) for ids in finished.values()) == sum(
        job.ordering_key is not None for batch in batches for item in batch for job in item.jobs
    )
