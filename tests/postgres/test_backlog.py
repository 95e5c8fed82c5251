"""Jobs that wait: promoted when due, given back uncounted, marked as begun, and counted."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

from store_samples import NODE, OTHER, ZERO, count, held_job, many, put_job, put_node, row
from uuid_utils.compat import uuid7

from gateway.store import jobs
from gateway.store.database import Database

AN_HOUR = timedelta(hours=1)


def now() -> datetime:
    return datetime.now(UTC)


# Promoting ---------------------------------------------------------------------------------------


async def test_due_jobs_are_promoted_and_others_wait(db: Database, connection: Any) -> None:
    due = await put_job(connection, state="scheduled", run_at=now() - AN_HOUR)
    later = await put_job(connection, state="scheduled", run_at=now() + AN_HOUR)
    elsewhere = await put_job(connection, state="scheduled", vendor="erp", run_at=now() - AN_HOUR)
    assert await jobs.promote(db, limit=10, floor=ZERO) == {"crm": 1, "erp": 1}
    for job_id in (due, elsewhere):
        promoted = await row(connection, job_id)
        assert (promoted["state"], promoted["due_at"]) == ("available", None)
    assert (await row(connection, later))["state"] == "scheduled"


async def test_the_longest_due_are_promoted_first(db: Database, connection: Any) -> None:
    ids = [
        await put_job(connection, state="scheduled", run_at=now() - minutes * timedelta(minutes=1))
        for minutes in (1, 3, 2)
    ]
    assert await jobs.promote(db, limit=2, floor=ZERO) == {"crm": 2}
    assert (await row(connection, ids[0]))["state"] == "scheduled"


async def test_promoting_at_once_promotes_each_job_once(db: Database, connection: Any) -> None:
    for _ in range(40):
        await put_job(connection, state="scheduled", run_at=now() - AN_HOUR)
    results = await many(db, 4, lambda: jobs.promote(db, limit=40, floor=ZERO))
    assert sum(result.get("crm", 0) for result in results) == 40


async def test_a_promoted_job_may_be_claimed_at_once(db: Database, connection: Any) -> None:
    await put_node(connection)
    job_id = await put_job(connection, state="scheduled", run_at=now() - AN_HOUR)
    await jobs.promote(db, limit=10, floor=ZERO)
    claimed = await jobs.claim(db, [("crm", 1, 1)], node=NODE, floor=ZERO)
    assert [job.id for job in claimed] == [job_id]


# Giving back -------------------------------------------------------------------------------------


async def test_released_jobs_wait_again_uncounted(db: Database, connection: Any) -> None:
    ours = await put_job(connection, state="running", node=NODE, claim_no=1, started_at=now())
    theirs = await put_job(connection, state="running", node=OTHER, claim_no=1)
    done = await put_job(connection, state="completed", node=NODE, claim_no=1)
    assert await jobs.release(db, [ours, theirs, done], node=NODE) == 1
    released = await row(connection, ours)
    assert (released["state"], released["node"], released["started_at"]) == (
        "available",
        None,
        None,
    )
    assert (released["attempt"], released["claim_no"], released["rescues"]) == (0, 2, 0)
    assert (await row(connection, theirs))["node"] == OTHER
    assert (await row(connection, done))["state"] == "completed"
    assert await count(connection, "attempts") == 0


async def test_releasing_nothing_is_no_error(db: Database, connection: Any) -> None:
    assert await jobs.release(db, [], node=NODE) == 0


async def test_strays_are_what_the_database_says_is_ours_and_memory_does_not(
    db: Database, connection: Any
) -> None:
    held = await put_job(connection, state="running", node=NODE, claim_no=1)
    stray = await put_job(connection, state="running", node=NODE, claim_no=1)
    theirs = await put_job(connection, state="running", node=OTHER, claim_no=1)
    assert await jobs.release_strays(db, [held], node=NODE, floor=ZERO) == 1
    assert (await row(connection, stray))["state"] == "available"
    assert (await row(connection, held))["state"] == "running"
    assert (await row(connection, theirs))["state"] == "running"
    assert await jobs.release_strays(db, [], node=NODE, floor=ZERO) == 1


async def test_what_claims_have_brought_below_the_floor_is_swept_too(
    db: Database, connection: Any
) -> None:
    """A claim of old jobs whose answer was lost: it has lowered the node's bound with them."""
    old = await put_job(connection, state="available", vendor="crm")
    await put_node(connection, oldest_held=uuid7())
    assert len(await jobs.claim(db, [("crm", 1, 1)], node=NODE, floor=ZERO)) == 1
    assert await jobs.release_strays(db, [], node=NODE, floor=ZERO) == 1
    assert (await row(connection, old))["state"] == "available"


async def test_releases_and_strays_at_once_free_each_job_once(
    db: Database, connection: Any
) -> None:
    ids = [await put_job(connection, state="running", node=NODE, claim_no=1) for _ in range(40)]
    results = await asyncio.gather(
        jobs.release(db, ids, node=NODE),
        jobs.release_strays(db, [], node=NODE, floor=ZERO),
        jobs.release(db, list(reversed(ids)), node=NODE),
        return_exceptions=True,
    )
    freed = [result for result in results if isinstance(result, int)]
    assert sum(freed) == 40
    assert await connection.fetchval("SELECT max(claim_no) FROM gateway.jobs") == 2


# Beginning ---------------------------------------------------------------------------------------


async def test_started_at_is_written_for_those_that_are_ours(db: Database, connection: Any) -> None:
    ours = await held_job(
        connection, await put_job(connection, state="running", node=NODE, claim_no=1)
    )
    lost = await held_job(
        connection, await put_job(connection, state="running", node=OTHER, claim_no=2)
    )
    lost.claim_no = 1
    done = await held_job(
        connection, await put_job(connection, state="completed", node=NODE, claim_no=1)
    )
    at = now()
    assert await jobs.mark_started(db, [(job, at) for job in (ours, lost, done)]) == {ours.id}
    assert (await row(connection, ours.id))["started_at"] == at
    assert (await row(connection, lost.id))["started_at"] is None


# Counting ----------------------------------------------------------------------------------------


async def test_the_backlog_is_counted_by_lane_up_to_a_limit(db: Database, connection: Any) -> None:
    for lane, state in (
        ("crm", "available"),
        ("crm", "available"),
        ("erp", "available"),
        ("erp", "scheduled"),
        ("erp", "running"),
        ("zoo", "completed"),
    ):
        await put_job(connection, vendor=lane, state=state)
    assert await jobs.backlog(db, floor=ZERO, limit=100) == {"crm": 2, "erp": 1}
    assert sum((await jobs.backlog(db, floor=ZERO, limit=2)).values()) == 2
    assert await jobs.backlog(db, floor=ZERO, limit=0) == {}


async def test_nothing_below_the_floor_is_promoted_or_counted(
    db: Database, connection: Any
) -> None:
    await put_job(connection)
    await put_job(connection, state="scheduled", run_at=now() - AN_HOUR)
    floor = await put_job(connection)
    assert await jobs.backlog(db, floor=floor, limit=9) == {"crm": 1}
    assert await jobs.promote(db, limit=9, floor=floor) == {}
