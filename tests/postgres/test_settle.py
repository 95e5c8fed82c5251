"""Outcomes are recorded by whoever holds the job, wholly or not at all."""

from __future__ import annotations

from collections.abc import Sequence
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
    new_job,
    put_job,
    put_node,
    row,
    settled,
    snapshot,
    webhook,
)

from gateway.model import Job
from gateway.store import events, jobs, nodes
from gateway.store.database import Database
from gateway.store.jobs import settle
from gateway.store.partitions import JobPartitions
from gateway.store.writes import Settled


@pytest.fixture
async def job(connection: Any) -> Job:
    await put_node(connection)
    job_id = await put_job(connection, state="running", node=NODE, claim_no=1)
    return await held_job(connection, job_id)


async def settle_by_day(db: Database, batch: Sequence[Settled], *, node: str) -> set[UUID]:
    parts = await JobPartitions(db).split(batch)
    assert None not in parts
    return set().union(
        *[await settle(db, part, node=node, partition=name) for name, part in parts.items()]
    )


@pytest.fixture(autouse=True, params=[settle, settle_by_day], ids=["whole", "by day"])
def both_ways(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every law holds for the statement on the whole table, and for that on a day's partition."""
    monkeypatch.setattr(jobs, "settle", request.param)


# The fence ---------------------------------------------------------------------------------------


async def test_settle_after_rescue_changes_nothing(db: Database, connection: Any, job: Job) -> None:
    await connection.execute("UPDATE gateway.nodes SET seen_at = now() - interval '1h'")
    assert await nodes.rescue(db) == {NODE: {"crm": 1}}
    before = await snapshot(connection)
    late = settled(job, http_status=200, error="late", follow_ups=(new_job(),))
    assert await jobs.settle(db, [late], node=NODE) == set()
    assert await snapshot(connection) == before


async def test_settle_after_another_claim_changes_nothing(
    db: Database, connection: Any, job: Job
) -> None:
    assert await jobs.release(db, [job.id], node=NODE) == 1
    await put_node(connection, OTHER)
    (successor,) = await jobs.claim(db, [("crm", 1, 1)], node=OTHER, floor=ZERO)
    assert successor.claim_no > job.claim_no
    before = await snapshot(connection)
    assert await jobs.settle(db, [settled(job, follow_ups=(new_job(),))], node=NODE) == set()
    assert await jobs.mark_started(db, [(job, datetime.now(UTC))]) == set()
    assert await jobs.release(db, [job.id], node=NODE) == 0
    assert await snapshot(connection) == before
    assert await jobs.settle(db, [settled(successor)], node=OTHER) == {job.id}


async def test_settling_twice_records_once(db: Database, connection: Any, job: Job) -> None:
    item = settled(job, follow_ups=(new_job(),))
    assert await jobs.settle(db, [item], node=NODE) == {job.id}
    before = await snapshot(connection)
    assert await jobs.settle(db, [item], node=NODE) == set()
    assert await snapshot(connection) == before


async def test_a_batch_settles_what_is_ours_and_nothing_else(
    db: Database, connection: Any, job: Job
) -> None:
    stale = await held_job(
        connection, await put_job(connection, state="running", node=OTHER, claim_no=2)
    )
    stale.claim_no = 1
    follow_ups = new_job(), new_job()
    batch = [settled(job, follow_ups=follow_ups[:1]), settled(stale, follow_ups=follow_ups[1:])]
    assert await jobs.settle(db, batch, node=NODE) == {job.id}
    assert (await row(connection, stale.id))["state"] == "running"
    assert await count(connection, "attempts") == 1
    assert await row(connection, follow_ups[0].id) is not None
    assert await row(connection, follow_ups[1].id) is None


# What each outcome leaves ------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["completed", "dead", "cancelled"])
async def test_a_final_state_ends_the_job_and_says_who_ended_it(
    db: Database, connection: Any, job: Job, state: str
) -> None:
    item = settled(
        job, state, http_status=418, error="why", request='{"a": 1}', response='{"b": 2}'
    )
    assert await jobs.settle(db, [item], node=NODE) == {job.id}
    ended = await row(connection, job.id)
    assert (ended["state"], ended["node"], ended["attempt"]) == (state, NODE, 1)
    assert (ended["last_status"], ended["last_error"]) == (418, "why")
    assert ended["finished_at"] is not None
    (attempt,) = await connection.fetch("SELECT * FROM gateway.attempts")
    assert (attempt["job_id"], attempt["attempt"], attempt["node"]) == (job.id, 1, NODE)
    assert (attempt["started_at"], attempt["duration_ms"]) == (item.started_at, 1.5)
    assert (attempt["http_status"], attempt["error"]) == (418, "why")
    assert (attempt["request"], attempt["response"]) == ('{"a": 1}', '{"b": 2}')


async def test_each_of_a_batch_keeps_its_own_ending(db: Database, connection: Any) -> None:
    """What attempts share is sent once: nobody may get another's."""
    await put_node(connection)
    endings = [
        ("completed", "completed", 200, None, 0.0),
        ("completed", "completed", None, None, 0.0),
        ("completed", "completed", 204, None, 0.0),
        ("scheduled", "retry", 503, "busy", 90.0),
        ("scheduled", "retry", None, "no answer", 0.0),
        ("dead", "dead", 503, "busy", 0.0),
        ("cancelled", "cancel", None, "unwanted", 0.0),
    ]
    batch = []
    for number in range(60):
        state, outcome, status, error, delay = endings[number % len(endings)]
        claim_no = 1 + number % 3
        held = await put_job(connection, state="running", node=NODE, claim_no=claim_no)
        item = settled(await held_job(connection, held), state, outcome=outcome)
        item.attempt, item.http_status, item.error = 1 + number % 2, status, error
        item.delay_seconds, item.response = delay, f'{{"n": {number}}}' if status else None
        batch.append(item)
    assert await jobs.settle(db, batch, node=NODE) == {item.job.id for item in batch}
    for item in batch:
        kept = await row(connection, item.job.id)
        assert (kept["state"], kept["attempt"]) == (item.state, item.attempt)
        assert (kept["last_status"], kept["last_error"]) == (item.http_status, item.error)
        found = await connection.fetchrow(
            """SELECT attempt, outcome, http_status, error, response,
                      (SELECT due_at - now() FROM gateway.jobs WHERE id = job_id) AS due_in
               FROM gateway.attempts WHERE job_id = $1""",
            item.job.id,
        )
        assert (found["attempt"], found["outcome"]) == (item.attempt, item.outcome)
        assert (found["http_status"], found["error"]) == (item.http_status, item.error)
        assert found["response"] == item.response
        if item.state == "scheduled":
            assert (found["due_in"] > timedelta(seconds=30)) == (item.delay_seconds > 0)


async def test_a_retry_is_scheduled_and_counted(db: Database, connection: Any, job: Job) -> None:
    item = settled(job, "scheduled", outcome="retry", delay_seconds=60.0, error="busy")
    await jobs.settle(db, [item], node=NODE)
    waiting = await row(connection, job.id)
    assert (waiting["state"], waiting["node"], waiting["attempt"]) == ("scheduled", None, 1)
    assert waiting["finished_at"] is None
    due = await connection.fetchval("SELECT due_at - now() FROM gateway.jobs")
    assert timedelta(seconds=30) < due <= timedelta(seconds=60)
    assert await connection.fetchval("SELECT outcome FROM gateway.attempts") == "retry"


async def test_a_snooze_leaves_no_attempt(db: Database, connection: Any, job: Job) -> None:
    item = settled(job, "scheduled", attempt=0, outcome="snooze", delay_seconds=1.0)
    assert await jobs.settle(db, [item], node=NODE) == {job.id}
    assert (await row(connection, job.id))["attempt"] == 0
    assert await count(connection, "attempts") == 0


@pytest.mark.parametrize("delay", [float("inf"), float("nan"), 1e300])
async def test_no_delay_is_too_long_to_be_stored(
    db: Database, connection: Any, job: Job, delay: float
) -> None:
    item = settled(
        job,
        "scheduled",
        outcome="retry",
        delay_seconds=delay,
        follow_ups=(new_job(delay_seconds=delay),),
    )
    assert await jobs.settle(db, [item], node=NODE) == {job.id}
    assert (await row(connection, job.id))["run_at"].year > 2100


async def test_a_later_attempt_keeps_what_the_earlier_ones_left(
    db: Database, connection: Any, job: Job
) -> None:
    retry = settled(job, "scheduled", outcome="retry", http_status=503, error="busy")
    await jobs.settle(db, [retry], node=NODE)
    await jobs.promote(db, limit=10, floor=ZERO)
    (again,) = await jobs.claim(db, [("crm", 1, 1)], node=NODE, floor=ZERO)
    assert again.attempt == 1
    await jobs.settle(db, [settled(again)], node=NODE)
    ended = await row(connection, job.id)
    assert (ended["last_status"], ended["last_error"], ended["attempt"]) == (503, None, 2)
    outcomes = await connection.fetch("SELECT outcome FROM gateway.attempts ORDER BY attempt")
    assert [outcome[0] for outcome in outcomes] == ["retry", "completed"]


# Follow-ups --------------------------------------------------------------------------------------


async def test_follow_ups_are_made_with_the_settle(db: Database, connection: Any, job: Job) -> None:
    now = new_job(payload=b'{"step": 2}', priority=1)
    later = new_job(delay_seconds=60.0)
    assert await jobs.settle(db, [settled(job, follow_ups=(now, later))], node=NODE) == {job.id}
    made = await row(connection, now.id)
    assert (made["state"], made["payload"], made["priority"]) == ("available", '{"step": 2}', 1)
    assert (await row(connection, later.id))["state"] == "scheduled"


async def test_a_follow_up_that_cannot_be_stored_leaves_its_parent_unsettled(
    db: Database, connection: Any, job: Job
) -> None:
    before = await snapshot(connection)
    with pytest.raises(Exception, match="priority"):
        await jobs.settle(db, [settled(job, follow_ups=(new_job(priority=10),))], node=NODE)
    assert await snapshot(connection) == before


# Cost --------------------------------------------------------------------------------------------


async def test_completing_jobs_touches_no_index(db: Database, connection: Any) -> None:
    """What arrives together ends together, and still finds room on its own pages: HOT updates."""
    await put_node(connection)
    batch = [webhook(None, state="running") for _ in range(512)]
    async with db.transaction() as one:
        within: Any = Within(one)
        await events.accept(within, batch, node=NODE)
        held = [await held_job(one, new.id) for item in batch for new in item.jobs]
        done = [settled(job, http_status=200) for job in held]
        assert len(await jobs.settle(within, done, node=NODE)) == 512
        updates, hot = await one.fetchrow(
            """SELECT sum(pg_stat_get_xact_tuples_updated(inhrelid))::int,
                      sum(pg_stat_get_xact_tuples_hot_updated(inhrelid))::int
               FROM pg_inherits WHERE inhparent = 'gateway.jobs'::regclass"""
        )
    assert updates == 512
    assert hot > 0.9 * updates
