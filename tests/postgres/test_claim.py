"""Claims: the most urgent first, the oldest too, each job to one node, and only to a living one."""

from __future__ import annotations

import asyncio
import json
from typing import Any
from uuid import UUID

import pytest
from store_samples import (
    NODE,
    OTHER,
    ZERO,
    new_event,
    put_job,
    put_node,
    row,
    waits_for_lock,
    webhook,
)
from uuid_utils.compat import uuid7

from gateway.store import events, jobs, nodes
from gateway.store.database import Database
from gateway.store.jobs import INLINE_BODY_BYTES
from gateway.store.sql import query
from gateway.store.writes import Position


@pytest.fixture
async def alive(connection: Any) -> None:
    await put_node(connection)


async def backlog(connection: Any, priorities: str, **given: Any) -> list[UUID]:
    """Put one job for each digit, oldest first."""
    return [await put_job(connection, priority=int(digit), **given) for digit in priorities]


async def claim(db: Database, *rooms: tuple[str, int, int], node: str = NODE) -> list[UUID]:
    return [job.id for job in await jobs.claim(db, rooms, node=node, floor=ZERO)]


# Order -------------------------------------------------------------------------------------------


async def test_the_most_urgent_come_first_then_the_oldest(
    db: Database, connection: Any, alive: None
) -> None:
    ids = await backlog(connection, "535190")
    assert await claim(db, ("crm", 4, 0)) == [ids[5], ids[3], ids[1], ids[0]]
    assert await claim(db, ("crm", 4, 0)) == [ids[2], ids[4]]
    assert await claim(db, ("crm", 4, 0)) == []


async def test_a_share_goes_to_the_oldest_whatever_their_priority(
    db: Database, connection: Any, alive: None
) -> None:
    ids = await backlog(connection, "990000")
    assert set(await claim(db, ("crm", 2, 1))) == {ids[0], ids[2], ids[3]}


async def test_a_job_that_is_both_urgent_and_old_is_claimed_once(
    db: Database, connection: Any, alive: None
) -> None:
    ids = await backlog(connection, "05")
    assert await claim(db, ("crm", 1, 1)) == [ids[0]]
    assert (await row(connection, ids[0]))["claim_no"] == 1


async def test_low_priorities_are_claimed_while_urgent_ones_keep_coming(
    db: Database, connection: Any, alive: None
) -> None:
    patient = set(await backlog(connection, "9999"))
    for left in (3, 2, 1, 0):
        await backlog(connection, "0" * 10)
        patient -= set(await claim(db, ("crm", 7, 1)))
        assert len(patient) == left


# Rooms -------------------------------------------------------------------------------------------


async def test_each_lane_gets_its_room_and_no_more(
    db: Database, connection: Any, alive: None
) -> None:
    for lane in ("crm", "erp", "zoo"):
        await backlog(connection, "55555", vendor=lane)
    claimed = await jobs.claim(db, [("crm", 2, 0), ("erp", 3, 1)], node=NODE, floor=ZERO)
    lanes = [job.vendor for job in claimed]
    assert (lanes.count("crm"), lanes.count("erp"), lanes.count("zoo")) == (2, 3, 0)


async def test_a_lane_whose_name_begins_anothers_is_told_apart(
    db: Database, connection: Any, alive: None
) -> None:
    await backlog(connection, "55", vendor="crm2")
    (ours,) = await backlog(connection, "5", vendor="crm")
    assert await claim(db, ("crm", 5, 5)) == [ours]


async def test_only_the_backlog_is_claimed(db: Database, connection: Any, alive: None) -> None:
    for state in ("scheduled", "running", "completed", "dead", "cancelled"):
        await put_job(connection, state=state)
    assert await claim(db, ("crm", 10, 10)) == []


async def test_the_floor_is_respected(db: Database, connection: Any, alive: None) -> None:
    below, above = await backlog(connection, "05")
    claimed = await jobs.claim(db, [("crm", 5, 5)], node=NODE, floor=above)
    assert [job.id for job in claimed] == [above]
    assert (await row(connection, below))["state"] == "available"


# Reading on --------------------------------------------------------------------------------------


async def test_claims_that_read_on_take_every_job_and_the_most_urgent_first(
    db: Database, connection: Any, alive: None
) -> None:
    ids = set(await backlog(connection, "5539055935" * 12))
    (urgent,) = await backlog(connection, "0", vendor="erp")
    reached: dict[str, Position] = {}
    rooms = [("crm", 7, 2), ("erp", 3, 1)]
    late: list[UUID] = []
    while claimed := await jobs.claim(db, rooms, node=NODE, floor=ZERO, reached=reached):
        ids -= {job.id for job in claimed}
        assert "erp" not in reached
        assert {job.id for job in claimed if job.vendor == "erp"} <= {urgent}
        if ids:
            assert reached["crm"].id > ZERO
        if not late and len(ids) < 60:
            # However far it was read, what is more urgent comes first.
            late = await backlog(connection, "12")
            found = await jobs.claim(db, rooms, node=NODE, floor=ZERO, reached=reached)
            assert [job.id for job in found][:2] == late
            ids -= {job.id for job in found}
    assert late
    assert ids == set()
    assert reached == {}


async def test_what_is_given_back_behind_is_found_from_the_start(
    db: Database, connection: Any, alive: None
) -> None:
    ids = await backlog(connection, "5" * 12)
    reached: dict[str, Position] = {}
    first = await jobs.claim(db, [("crm", 4, 4)], node=NODE, floor=ZERO, reached=reached)
    assert reached == {"crm": Position(5, ids[3])}
    await jobs.release(db, [first[0].id], node=NODE)
    next_ = await jobs.claim(db, [("crm", 4, 4)], node=NODE, floor=ZERO, reached=reached)
    assert [job.id for job in next_] == ids[4:8]
    assert (await claim(db, ("crm", 4, 4)))[0] == ids[0]


async def test_jobs_that_another_node_takes_are_not_passed_for_good(
    db: Database, connection: Any, alive: None
) -> None:
    """It may give them back: where the oldest could not be had, none below them counts as read."""
    ids = await backlog(connection, "5555")
    reached: dict[str, Position] = {}
    async with connection.transaction():
        await connection.execute("SELECT FROM gateway.jobs WHERE id = ANY ($1) FOR UPDATE", ids[:2])
        taken = await jobs.claim(db, [("crm", 2, 3)], node=NODE, floor=ZERO, reached=reached)
        assert [job.id for job in taken] == ids[2:]
    assert reached == {"crm": Position(5, ZERO)}
    assert await claim(db, ("crm", 2, 3)) == ids[:2]


async def test_a_held_transaction_makes_no_claim_pass_what_was_claimed_before(
    db: Database, connection: Any, second: Any, alive: None
) -> None:
    """What was claimed stays in the index then, and no vacuum can help it."""
    await connection.execute(
        """INSERT INTO gateway.jobs (id, route, vendor, kind, state, max_attempts, correlation_id)
           SELECT gateway.uuid7(), 'orders', 'crm', 'call', 'available', 3, 'c'
           FROM generate_series(1, 6000)"""
    )
    holder = second.transaction(isolation="repeatable_read")
    await holder.start()
    await second.fetchval("SELECT count(*) FROM gateway.nodes")
    reached: dict[str, Position] = {}
    for _ in range(12):
        await jobs.claim(db, [("crm", 400, 50)], node=NODE, floor=ZERO, reached=reached)

    async def blocks_read(begin: Position) -> int:
        args = (["crm"], [10], [1], NODE, begin.id, [begin.priority], [begin.id])
        undone = connection.transaction()
        await undone.start()
        text = await connection.fetchval(
            f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {query('jobs.claim')}", *args
        )
        await undone.rollback()
        plan = json.loads(text)[0]["Plan"]
        return int(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"])

    from_start, on = await blocks_read(Position(0, ZERO)), await blocks_read(reached["crm"])
    await holder.rollback()
    assert on * 4 < from_start, (on, from_start)


# Whose job it is ---------------------------------------------------------------------------------


async def test_a_claim_writes_who_holds_the_job(db: Database, connection: Any, alive: None) -> None:
    (job_id,) = await backlog(connection, "5")
    (job,) = await jobs.claim(db, [("crm", 1, 0)], node=NODE, floor=ZERO)
    held = await row(connection, job_id)
    assert (held["state"], held["node"], held["claim_no"]) == ("running", NODE, 1)
    assert (job.claim_no, job.attempt, job.max_attempts) == (1, 0, 3)
    assert held["started_at"] is None


async def test_many_claimers_never_get_the_same_job(db: Database, connection: Any) -> None:
    for number in range(4):
        await put_node(connection, f"node/{number}")
    ids = await backlog(connection, "01234567890123456789" * 10)
    taken: list[UUID] = []

    async def claimer(node: str) -> None:
        while claimed := await claim(db, ("crm", 5, 2), node=node):
            taken.extend(claimed)

    await asyncio.gather(*(claimer(f"node/{number % 4}") for number in range(8)))
    assert sorted(taken) == sorted(ids)
    assert await connection.fetchval("SELECT max(claim_no) FROM gateway.jobs") == 1


async def test_a_claim_passes_by_what_another_has_locked(
    db: Database, connection: Any, alive: None
) -> None:
    ids = await backlog(connection, "0555")
    async with connection.transaction():
        await connection.execute("SELECT FROM gateway.jobs WHERE id = $1 FOR UPDATE", ids[0])
        assert await claim(db, ("crm", 1, 1)) == [ids[1]]


async def test_a_dead_node_claims_nothing(db: Database, connection: Any) -> None:
    await backlog(connection, "55")
    assert await claim(db, ("crm", 5, 5)) == []


async def test_a_node_that_is_being_buried_claims_nothing(
    db: Database, connection: Any, second: Any
) -> None:
    await put_node(connection, expired=True)
    (job_id,) = await backlog(connection, "5")
    transaction = connection.transaction()
    await transaction.start()
    await connection.fetch(query("nodes.bury"))
    claiming = asyncio.ensure_future(claim(db, ("crm", 5, 5)))
    await waits_for_lock(second)
    await transaction.commit()
    assert await claiming == []
    assert (await row(connection, job_id))["state"] == "available"


async def test_claiming_lowers_the_nodes_bound(db: Database, connection: Any) -> None:
    ids = await backlog(connection, "505")
    await put_node(connection, oldest_held=uuid7())
    await put_node(connection, OTHER, oldest_held=uuid7())
    bounds = dict(await connection.fetch("SELECT node, oldest_held FROM gateway.nodes"))
    assert await claim(db, ("crm", 1, 0)) == [ids[1]]
    assert dict(await connection.fetch("SELECT node, oldest_held FROM gateway.nodes")) == {
        **bounds,
        NODE: ids[1],
    }
    assert await claim(db, ("crm", 0, 1)) == [ids[0]]
    assert await claim(db, ("crm", 1, 1)) == [ids[2]]
    assert (
        dict(await connection.fetch("SELECT node, oldest_held FROM gateway.nodes"))[NODE] == ids[0]
    )
    await connection.execute("UPDATE gateway.nodes SET seen_at = now() - interval '1h'")
    assert await nodes.rescue(db) == {NODE: {"crm": 3}, OTHER: {}}


# What comes along --------------------------------------------------------------------------------


async def test_the_event_comes_along_without_a_large_body(
    db: Database, connection: Any, alive: None
) -> None:
    small, large = webhook("s", jobs=2), webhook("l")
    small.event.body = b"x" * INLINE_BODY_BYTES
    large.event.body = b"x" * (INLINE_BODY_BYTES + 1)
    large.event.query = "a=b"
    await events.accept(db, [small, large], node=NODE)
    orphan = await put_job(connection, event_id=new_event().id, payload='{"n": 1}')
    claimed = {job.id: job for job in await jobs.claim(db, [("crm", 9, 9)], node=NODE, floor=ZERO)}
    assert [claimed[new.id].event for new in small.jobs] == [small.event, small.event]
    without = claimed[large.jobs[0].id].event
    assert without is not None
    assert without.body is None
    assert (without.query, without.headers) == ("a=b", large.event.headers)
    assert (claimed[orphan].event, claimed[orphan].payload) == (None, b'{"n": 1}')
