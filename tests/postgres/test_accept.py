"""Webhooks are stored once, with their jobs, whoever sends them again and whoever else accepts."""

from __future__ import annotations

import asyncio
import json
import random
from typing import Any

import asyncpg
import pytest
from store_samples import (
    HEADERS,
    NODE,
    OTHER,
    Acceptance,
    count,
    many,
    new_event,
    new_job,
    put_node,
    row,
    waits_for_lock,
    webhook,
)

from gateway.errors import DatabaseUnavailable
from gateway.model import Receipt
from gateway.queue.acceptance import AcceptanceDesk
from gateway.queue.lane import Lane
from gateway.queue.ready import ReadyQueue
from gateway.store import events, upkeep
from gateway.store.database import Database
from gateway.telemetry.metrics import Metrics


@pytest.fixture
async def alive(connection: Any) -> None:
    await put_node(connection)


@pytest.fixture
async def desk(db: Database, alive: None) -> AcceptanceDesk:
    """A desk whose lane takes four jobs and executes none."""
    ready = ReadyQueue(inline_body_bytes=1000)
    ready.lanes["crm"] = Lane(
        "crm",
        concurrency=1,
        capacity=4,
        limiter=None,
        execute=_never,
        spawn=_refuse,
    )
    ready.lanes["crm"].backlog = False
    metrics = Metrics(version="test", vendors=["shop", "crm"], routes=["orders"])
    return AcceptanceDesk(db, ready, node=NODE, metrics=metrics)


async def _never(job: object) -> None:
    raise AssertionError("nothing is executed here")


def _refuse(slot: Any) -> Any:
    slot.close()
    return asyncio.get_running_loop().create_future()


async def together(desk: AcceptanceDesk, items: list[Acceptance]) -> list[Any]:
    """Have *items* flushed in one batch; return receipts or errors."""
    waiting = [asyncio.ensure_future(desk.accept(item)) for item in items]
    await asyncio.sleep(0)
    desk.finish()
    await desk.run()
    return list(await asyncio.gather(*waiting, return_exceptions=True))


# Once --------------------------------------------------------------------------------------------


async def test_an_event_is_stored_with_all_its_jobs(
    db: Database, connection: Any, alive: None
) -> None:
    item = webhook("k", jobs=3)
    accepted = await events.accept(db, [item], node=NODE)
    assert accepted.duplicates == {}
    assert accepted.node_lives
    stored = await events.fetch(db, item.event.id)
    assert stored == item.event
    assert await count(connection, "jobs") == 3
    for job in item.jobs:
        assert (await row(connection, job.id))["event_id"] == item.event.id


@pytest.mark.parametrize("routes", [["orders"], ["orders", "mails", "crm"]])
@pytest.mark.parametrize("vendors", [["shop"], ["shop", "till"]])
@pytest.mark.parametrize("jobs", [(1, 1, 1), (2, 0, 1), (0, 1, 2), (0, 3, 0), (2, 2, 2)])
async def test_in_a_batch_each_job_has_its_own_event_and_kind(
    db: Database,
    connection: Any,
    alive: None,
    jobs: tuple[int, ...],
    vendors: list[str],
    routes: list[str],
) -> None:
    """What all have in common is left out of the statement's arguments."""
    batch = []
    for number, count_ in enumerate(jobs):
        event = new_event(key=f"k{number}", vendor=vendors[number % len(vendors)])
        new = [new_job(event, route=routes[(number + n) % len(routes)]) for n in range(count_)]
        batch.append(Acceptance(event, json.dumps(HEADERS), new, 60.0 + number % len(vendors)))
    batch.sort(key=lambda item: (item.event.vendor, item.event.dedupe_key))
    await events.accept(db, batch, node=NODE)
    stored = {r["id"]: r for r in await connection.fetch("SELECT * FROM gateway.jobs")}
    expected = {
        job.id: (item.event.id, job.route, job.vendor) for item in batch for job in item.jobs
    }
    got = {id_: (r["event_id"], r["route"], r["vendor"]) for id_, r in stored.items()}
    assert got == expected
    for item in batch:
        assert await events.fetch(db, item.event.id) == item.event


async def test_an_event_without_jobs_is_stored(db: Database, connection: Any, alive: None) -> None:
    await events.accept(db, [webhook("k", jobs=0)], node=NODE)
    assert await count(connection, "events") == 1
    assert await count(connection, "jobs") == 0


async def test_a_key_that_came_before_names_the_first_event_and_adds_no_jobs(
    db: Database, connection: Any, alive: None
) -> None:
    first, again = webhook("k"), webhook("k", jobs=2)
    await events.accept(db, [first], node=NODE)
    for repeat in (1, 2):
        accepted = await events.accept(db, [again], node=NODE)
        assert accepted.duplicates == {again.event.id: first.event.id}
        assert await events.duplicates(db, first.event) == repeat
    assert await count(connection, "events") == 1
    assert await count(connection, "jobs") == 1


async def test_the_same_key_of_another_vendor_is_another_event(
    db: Database, connection: Any, alive: None
) -> None:
    ours, theirs = webhook("k"), webhook("k")
    theirs.event.vendor = "zoo"
    accepted = await events.accept(db, [ours, theirs], node=NODE)
    assert accepted.duplicates == {}
    assert await count(connection, "events") == 2


async def test_events_without_a_key_are_never_duplicates(
    db: Database, connection: Any, alive: None
) -> None:
    await events.accept(db, [webhook(None), webhook(None)], node=NODE)
    assert await count(connection, "events") == 2
    assert await count(connection, "dedupe_keys") == 0


async def test_an_expired_key_begins_a_new_event(
    db: Database, connection: Any, alive: None
) -> None:
    first, later = webhook("k"), webhook("k")
    await events.accept(db, [first], node=NODE)
    await events.accept(db, [webhook("k")], node=NODE)
    await connection.execute("UPDATE gateway.dedupe_keys SET expires_at = now()")
    accepted = await events.accept(db, [later], node=NODE)
    assert accepted.duplicates == {}
    assert await count(connection, "events") == 2
    assert await events.duplicates(db, later.event) == 0
    assert await events.duplicates(db, first.event) == 0


async def test_a_duplicate_does_not_prolong_the_window(
    db: Database, connection: Any, alive: None
) -> None:
    await events.accept(db, [webhook("k")], node=NODE)
    before = await connection.fetchval("SELECT expires_at FROM gateway.dedupe_keys")
    await events.accept(db, [webhook("k", window=9999.0)], node=NODE)
    assert await connection.fetchval("SELECT expires_at FROM gateway.dedupe_keys") == before


async def test_the_same_key_from_many_connections_at_once_is_stored_once(
    db: Database, connection: Any, alive: None
) -> None:
    items = [webhook("k", jobs=2) for _ in range(8)]
    waiting = iter(items)
    results = await many(db, 8, lambda: events.accept(db, [next(waiting)], node=NODE))
    assert await count(connection, "events") == 1
    assert await count(connection, "jobs") == 2
    stored = await connection.fetchval("SELECT id FROM gateway.events")
    duplicates = {id_: first for result in results for id_, first in result.duplicates.items()}
    assert duplicates == {i.event.id: stored for i in items if i.event.id != stored}


async def test_a_key_in_a_transaction_that_rolls_back_is_free_for_who_waited(
    db: Database, connection: Any, second: Any, alive: None
) -> None:
    transaction = connection.transaction()
    await transaction.start()
    await connection.execute(
        """INSERT INTO gateway.dedupe_keys (vendor, key, event_id, expires_at)
           VALUES ('shop', 'k', $1, now() + interval '1h')""",
        new_event().id,
    )
    item = webhook("k")
    accepting = asyncio.ensure_future(events.accept(db, [item], node=NODE))
    await waits_for_lock(second)
    await transaction.rollback()
    assert (await accepting).duplicates == {}
    assert await events.fetch(db, item.event.id) is not None


async def test_overlapping_batches_of_two_nodes_never_deadlock(
    db: Database, connection: Any, alive: None
) -> None:
    await put_node(connection, OTHER)
    chance = random.Random(7)

    async def node(name: str) -> int:
        stored = 0
        for _ in range(25):
            keys = sorted(chance.sample([f"k{number:02}" for number in range(40)], 20))
            batch = [webhook(key) for key in keys]
            stored += len(batch) - len((await events.accept(db, batch, node=name)).duplicates)
        return stored

    before = await connection.fetchval(
        "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
    )
    stored = await asyncio.gather(*(node(name) for name in (NODE, OTHER, NODE, OTHER)))
    assert sum(stored) == await count(connection, "events") == await count(connection, "jobs")
    assert sum(stored) <= 40
    assert before == await connection.fetchval(
        "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
    )


async def test_pruning_keys_while_they_are_used_again_loses_nothing(
    db: Database, connection: Any, alive: None
) -> None:
    keys = [f"k{number:02}" for number in range(30)]
    await events.accept(db, [webhook(key) for key in keys], node=NODE)
    await connection.execute("UPDATE gateway.dedupe_keys SET expires_at = now() - interval '1h'")
    batch = [webhook(key) for key in keys]
    accepted, *_ = await asyncio.gather(
        events.accept(db, batch, node=NODE), *(upkeep.prune_dedupe_keys(db, 0) for _ in range(4))
    )
    assert accepted.duplicates == {}
    assert await count(connection, "dedupe_keys") == 30
    again = await events.accept(db, [webhook(key) for key in keys], node=NODE)
    assert set(again.duplicates.values()) == {item.event.id for item in batch}


# Handing off -------------------------------------------------------------------------------------


async def test_a_living_node_is_handed_its_jobs(db: Database, connection: Any, alive: None) -> None:
    item = webhook("k", state="running")
    assert (await events.accept(db, [item], node=NODE)).node_lives
    job = await row(connection, item.jobs[0].id)
    assert (job["state"], job["node"], job["claim_no"]) == ("running", NODE, 1)
    assert job["started_at"] is None


async def test_a_buried_nodes_jobs_go_to_the_backlog(db: Database, connection: Any) -> None:
    item = webhook("k", state="running")
    assert not (await events.accept(db, [item], node=NODE)).node_lives
    job = await row(connection, item.jobs[0].id)
    assert (job["state"], job["node"], job["claim_no"]) == ("available", None, 0)


async def test_a_delay_makes_a_job_scheduled_from_the_commit_on(
    db: Database, connection: Any, alive: None
) -> None:
    event = new_event()
    soon = new_job(event, state="scheduled", delay_seconds=60.0)
    never = new_job(event, state="scheduled", delay_seconds=float("inf"))
    await events.accept(db, [Acceptance(event, "{}", [soon, never], 1.0)], node=NODE)
    due = await connection.fetchval(
        "SELECT due_at - now() FROM gateway.jobs WHERE id = $1", soon.id
    )
    assert 30 < due.total_seconds() <= 60
    assert (await row(connection, never.id))["run_at"].year > 2100


# The desk ----------------------------------------------------------------------------------------


async def test_repeats_within_one_batch_become_one_event(
    desk: AcceptanceDesk, connection: Any
) -> None:
    items = [webhook("b"), webhook("a"), webhook("b"), webhook(None), webhook("b")]
    receipts = await together(desk, items)
    first = items[0].event.id
    assert receipts[0] == Receipt(first, 1, False)
    assert receipts[2] == receipts[4] == Receipt(first, 0, True)
    assert not receipts[1].duplicate
    assert not receipts[3].duplicate
    assert await count(connection, "events") == 3
    assert await count(connection, "jobs") == 3
    # Those that came in one batch are counted as any others are, on top of them, too.
    await together(desk, [webhook("b"), webhook("b")])
    rows = await connection.fetch("SELECT key, duplicates FROM gateway.dedupe_keys")
    assert {row["key"]: row["duplicates"] for row in rows} == {"a": 0, "b": 4}


async def test_a_poisoned_item_does_not_refuse_its_neighbours(
    desk: AcceptanceDesk, connection: Any
) -> None:
    items = [webhook("a"), webhook("b"), webhook(None), webhook("d"), webhook("e")]
    items[1].event.event_type = "nul\x00"
    items[2].headers_json = '{"x": "nul\\u0000"}'
    items[3].event.correlation_id = "half a pair \ud800"
    receipts = await together(desk, items)
    assert [isinstance(receipt, Receipt) for receipt in receipts] == [
        True,
        False,
        False,
        False,
        True,
    ]
    assert not any(isinstance(receipt, DatabaseUnavailable) for receipt in receipts)
    assert await count(connection, "events") == 2
    assert desk._ready.lanes["crm"].held == 2
    assert desk._db.up


async def test_jobs_beyond_the_lanes_room_wait_in_the_backlog(
    desk: AcceptanceDesk, connection: Any
) -> None:
    await together(desk, [webhook(None, jobs=3), webhook(None, jobs=3)])
    states = await connection.fetch(
        "SELECT state::text, count(*) FROM gateway.jobs GROUP BY 1 ORDER BY 1"
    )
    # Four, and the quarter more that is for what nothing overtakes.
    assert [tuple(found) for found in states] == [("available", 1), ("running", 5)]
    assert desk._ready.lanes["crm"].backlog
    assert desk._ready.lanes["crm"].waiting == 5


async def test_a_duplicates_reservation_is_given_back(
    desk: AcceptanceDesk, db: Database, connection: Any
) -> None:
    first = webhook("k")
    await events.accept(db, [first], node=OTHER)
    receipts = await together(desk, [webhook("k", jobs=3)])
    assert receipts == [Receipt(first.event.id, 0, True)]
    assert desk._ready.lanes["crm"].held == 0
    assert desk._ready.held == {}


async def test_a_node_taken_for_dead_starts_nothing_it_did_not_get(
    desk: AcceptanceDesk, connection: Any
) -> None:
    await connection.execute("DELETE FROM gateway.nodes")
    receipts = await together(desk, [webhook("k")])
    assert not receipts[0].duplicate
    lane = desk._ready.lanes["crm"]
    assert (lane.held, lane.waiting, lane.backlog) == (0, 0, True)


async def test_an_oversized_key_is_refused_alone(desk: AcceptanceDesk, connection: Any) -> None:
    chance = random.Random(1)
    huge = "".join(chr(chance.randrange(0x4E00, 0x9FFF)) for _ in range(4000))
    receipts = await together(desk, [webhook("a"), webhook(huge), webhook("z")])
    assert isinstance(receipts[1], asyncpg.PostgresError)
    assert await count(connection, "events") == 2
