"""A dead node's jobs go on elsewhere, each once, and none is forgotten, whatever was in flight."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from store_samples import (
    NODE,
    OTHER,
    ZERO,
    Within,
    count,
    held_job,
    many,
    put_job,
    put_node,
    row,
    settled,
    snapshot,
    waits_for_lock,
    webhook,
)
from uuid_utils.compat import uuid7

from gateway.maintenance import Heartbeat
from gateway.queue.ready import ReadyQueue
from gateway.store import events, jobs, nodes
from gateway.store.database import Database
from gateway.store.sql import query


async def expire(connection: Any, node: str = NODE) -> None:
    await connection.execute(
        "UPDATE gateway.nodes SET seen_at = now() - lease - interval '1ms' WHERE node = $1", node
    )


# Who is dead -------------------------------------------------------------------------------------


async def test_only_nodes_whose_lease_ran_out_are_buried(db: Database, connection: Any) -> None:
    await put_node(connection)
    await put_node(connection, OTHER, expired=True)
    ours = await put_job(connection, state="running", node=NODE, claim_no=1)
    theirs = await put_job(connection, state="running", node=OTHER, claim_no=1)
    assert await nodes.rescue(db) == {OTHER: {"crm": 1}}
    assert (await row(connection, ours))["state"] == "running"
    freed = await row(connection, theirs)
    assert (freed["state"], freed["node"], freed["rescues"]) == ("available", None, 1)
    assert freed["claim_no"] == 2
    assert await nodes.rescue(db) == {}


async def test_a_renewal_prolongs_the_lease(db: Database, connection: Any) -> None:
    await nodes.register(db, NODE, lease_seconds=15.0, version="test", oldest_held=ZERO)
    await expire(connection)
    assert await nodes.renew(db, NODE, oldest_held=None) == (True, False)
    assert await nodes.rescue(db) == {}


async def test_a_renewal_tells_of_others_that_expired(db: Database, connection: Any) -> None:
    await put_node(connection)
    await put_node(connection, OTHER, expired=True)
    assert await nodes.renew(db, NODE, oldest_held=None) == (True, True)


async def test_a_buried_node_learns_of_it(db: Database, connection: Any) -> None:
    await put_node(connection, expired=True)
    await nodes.rescue(db)
    assert await nodes.renew(db, NODE, oldest_held=uuid7()) == (False, False)
    assert await count(connection, "nodes") == 0


async def test_a_renewal_keeps_the_bound_unless_it_brings_one(
    db: Database, connection: Any
) -> None:
    first, second = uuid7(), uuid7()
    await put_node(connection, oldest_held=first)
    for given, kept in ((None, first), (second, second), (None, second)):
        await nodes.renew(db, NODE, oldest_held=given)
        assert await connection.fetchval("SELECT oldest_held FROM gateway.nodes") == kept


async def test_a_node_renewed_while_it_is_looked_at_lives(
    db: Database, connection: Any, second: Any
) -> None:
    await put_node(connection, expired=True)
    transaction = connection.transaction()
    await transaction.start()
    await connection.execute("UPDATE gateway.nodes SET seen_at = now()")
    assert await nodes.rescue(db) == {}
    await transaction.commit()
    assert await nodes.rescue(db) == {}
    assert await count(connection, "nodes") == 1


async def test_of_many_rescuers_one_gets_the_node(db: Database, connection: Any) -> None:
    await put_node(connection, expired=True)
    for _ in range(20):
        await put_job(connection, state="running", node=NODE, claim_no=1)
    results = await many(db, 6, lambda: nodes.rescue(db))
    assert sorted(results, key=len) == [{}, {}, {}, {}, {}, {NODE: {"crm": 20}}]
    assert await connection.fetchval("SELECT max(rescues) FROM gateway.jobs") == 1


# What was in flight ------------------------------------------------------------------------------


async def test_a_hand_off_in_flight_is_not_lost(db: Database, connection: Any, second: Any) -> None:
    """The dying node's intake is still uncommitted: it is not buried before that ends."""
    await put_node(connection, expired=True)
    item = webhook("k", state="running")
    transaction = connection.transaction()
    await transaction.start()
    within: Any = Within(connection)
    assert (await events.accept(within, [item], node=NODE)).node_lives
    assert await nodes.rescue(db) == {}
    await transaction.commit()
    assert await nodes.rescue(db) == {NODE: {"crm": 1}}
    assert (await row(second, item.jobs[0].id))["state"] == "available"


async def test_a_hand_off_behind_a_burial_goes_to_the_backlog(
    db: Database, connection: Any, second: Any
) -> None:
    await put_node(connection, expired=True)
    transaction = connection.transaction()
    await transaction.start()
    await connection.fetch(query("nodes.bury"))
    item = webhook("k", state="running")
    accepting = asyncio.ensure_future(events.accept(db, [item], node=NODE))
    await waits_for_lock(second)
    await transaction.commit()
    assert not (await accepting).node_lives
    assert (await row(second, item.jobs[0].id))["state"] == "available"


async def test_a_claim_in_flight_is_not_lost(db: Database, connection: Any, second: Any) -> None:
    job_id = await put_job(connection)
    await put_node(connection, expired=True, oldest_held=uuid7())
    transaction = connection.transaction()
    await transaction.start()
    within: Any = Within(connection)
    assert len(await jobs.claim(within, [("crm", 1, 1)], node=NODE, floor=ZERO)) == 1
    assert await nodes.rescue(db) == {}
    await transaction.commit()
    assert await nodes.rescue(db) == {NODE: {"crm": 1}}
    assert (await row(second, job_id))["state"] == "available"


async def test_rescues_and_settles_at_once_settle_each_job_one_way(
    db: Database, connection: Any
) -> None:
    await put_node(connection, expired=True)
    held = [
        await held_job(
            connection, await put_job(connection, state="running", node=NODE, claim_no=1)
        )
        for _ in range(60)
    ]
    batches = [held[start : start + 10] for start in range(0, 60, 10)]
    _, *results = await asyncio.gather(
        nodes.rescue(db),
        *(jobs.settle(db, [settled(job) for job in batch], node=NODE) for batch in batches),
    )
    done = set().union(*results)
    states = {
        found["id"]: found["state"]
        for found in await connection.fetch("SELECT id, state::text AS state FROM gateway.jobs")
    }
    assert {id_ for id_, state in states.items() if state == "completed"} == done
    assert set(states.values()) <= {"completed", "available"}
    assert await count(connection, "attempts") == len(done)


# What is counted ---------------------------------------------------------------------------------


async def test_only_an_execution_that_began_is_counted(db: Database, connection: Any) -> None:
    await put_node(connection, expired=True)
    waiting = await put_job(connection, state="running", node=NODE, claim_no=1)
    begun = await held_job(
        connection, await put_job(connection, state="running", node=NODE, claim_no=1)
    )
    at = datetime.now(UTC) - timedelta(seconds=3)
    assert await jobs.mark_started(db, [(begun, at)]) == {begun.id}
    await nodes.rescue(db)
    assert (await row(connection, waiting))["attempt"] == 0
    freed = await row(connection, begun.id)
    assert (freed["state"], freed["attempt"], freed["started_at"]) == ("available", 1, None)
    (attempt,) = await connection.fetch("SELECT * FROM gateway.attempts")
    assert (attempt["job_id"], attempt["attempt"]) == (begun.id, 1)
    assert (attempt["outcome"], attempt["node"], attempt["started_at"]) == ("lost", NODE, at)
    assert attempt["duration_ms"] >= 3000


async def test_a_clock_ahead_makes_no_negative_duration(db: Database, connection: Any) -> None:
    await put_node(connection, expired=True)
    ahead = datetime.now(UTC) + timedelta(hours=1)
    await put_job(connection, state="running", node=NODE, claim_no=1, started_at=ahead)
    await nodes.rescue(db)
    assert await connection.fetchval("SELECT duration_ms FROM gateway.attempts") == 0


async def test_a_job_that_keeps_killing_its_node_is_dead_in_the_end(
    db: Database, connection: Any
) -> None:
    job_id = await put_job(connection)
    for attempt in (1, 2, 3):
        await put_node(connection)
        (job,) = await jobs.claim(db, [("crm", 1, 1)], node=NODE, floor=ZERO)
        assert job.rescues == attempt - 1
        await jobs.mark_started(db, [(job, datetime.now(UTC))])
        await expire(connection)
        assert await nodes.rescue(db) == {NODE: {"crm": 1}}
    dead = await row(connection, job_id)
    assert (dead["state"], dead["attempt"], dead["rescues"]) == ("dead", 3, 3)
    assert dead["finished_at"] is not None
    assert dead["last_error"] == "its node died during the attempt"
    assert await count(connection, "attempts") == 3


async def test_a_job_that_only_waited_survives_any_number_of_rescues(
    db: Database, connection: Any
) -> None:
    job_id = await put_job(connection, max_attempts=1)
    for _ in range(5):
        await put_node(connection)
        assert len(await jobs.claim(db, [("crm", 1, 1)], node=NODE, floor=ZERO)) == 1
        await expire(connection)
        await nodes.rescue(db)
    freed = await row(connection, job_id)
    assert (freed["state"], freed["attempt"], freed["rescues"]) == ("available", 0, 5)


async def test_the_rescue_reads_nothing_below_the_nodes_bound(
    db: Database, connection: Any
) -> None:
    below = await put_job(connection, state="running", node=NODE)
    above = await put_job(connection, state="running", node=NODE)
    await put_node(connection, expired=True, oldest_held=above)
    assert await nodes.rescue(db) == {NODE: {"crm": 1}}
    assert (await row(connection, below))["state"] == "running"


# Leaving on purpose ------------------------------------------------------------------------------


async def test_resigning_gives_back_what_was_held_unawares(db: Database, connection: Any) -> None:
    await put_node(connection)
    unawares = await put_job(connection, state="running", node=NODE, claim_no=1)
    theirs = await put_job(connection, state="running", node=OTHER, claim_no=1)
    await nodes.resign(db, NODE)
    freed = await row(connection, unawares)
    assert (freed["state"], freed["claim_no"], freed["rescues"]) == ("available", 2, 0)
    assert (await row(connection, theirs))["state"] == "running"
    assert await count(connection, "nodes") == 0


async def test_resigning_waits_for_a_hand_off_in_flight(
    db: Database, connection: Any, second: Any
) -> None:
    await put_node(connection)
    item = webhook("k", state="running")
    transaction = connection.transaction()
    await transaction.start()
    within: Any = Within(connection)
    await events.accept(within, [item], node=NODE)
    resigning = asyncio.ensure_future(nodes.resign(db, NODE))
    await waits_for_lock(second)
    await transaction.commit()
    await resigning
    assert (await row(second, item.jobs[0].id))["state"] == "available"


async def test_a_fresh_node_is_found_by_its_rescuer_though_its_clock_is_behind(
    db: Database, connection: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its bound is by its own clock, as the ids of its jobs are."""
    an_hour_ago = (int((datetime.now(UTC) - timedelta(hours=1)).timestamp() * 1000)) << 80
    job_id = UUID(int=an_hour_ago | 7 << 76 | 2 << 62)
    monkeypatch.setattr("uuid_utils.compat.uuid7", lambda: job_id)
    ready = ReadyQueue(inline_body_bytes=1)
    await heartbeat_of(db, ready).register()
    await put_job(connection, job_id=job_id, state="running", node=NODE, claim_no=1)
    bound = await connection.fetchval("SELECT oldest_held FROM gateway.nodes")
    assert ready.floor == bound
    assert 0 < (job_id.int - bound.int) >> 80 < 300_000, "minutes, of what may be millions a day"
    await expire(connection)
    assert await nodes.rescue(db) == {NODE: {"crm": 1}}


def heartbeat_of(db: Database, ready: ReadyQueue) -> Heartbeat:
    rest: Any = None
    return Heartbeat(
        db,
        ready,
        rest,
        node=NODE,
        lease_seconds=15.0,
        version="test",
        metrics=rest,
        abandon=rest,
    )


async def test_nothing_changes_while_nobody_is_dead(db: Database, connection: Any) -> None:
    await put_node(connection)
    await put_job(connection, state="running", node=NODE, claim_no=1)
    before = await snapshot(connection)
    assert await nodes.rescue(db) == {}
    assert await snapshot(connection) == before
