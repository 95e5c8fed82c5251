"""A key that was held for long: those who waited are still found, the oldest first."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from store_samples import NODE, ZERO, id_at, put_job, put_node, row, settled

from gateway.store import jobs
from gateway.store.database import Database

LONG_AGO = datetime.now(UTC) - timedelta(days=30)


@pytest.fixture
async def line(connection: Any) -> list[UUID]:
    """A dead job that holds its key since a month ago, and two that have waited behind it."""
    await put_node(connection)
    ids = [id_at(LONG_AGO + timedelta(days=day)) for day in (0, 1, 25)]
    for job_id in ids:
        await put_job(
            connection,
            job_id=job_id,
            ordering_key="k",
            holds_key=True,
            state="dead" if job_id == ids[0] else "available",
        )
    assert [(await row(connection, job_id))["state"] for job_id in ids] == [
        "dead",
        "blocked",
        "blocked",
    ]
    return ids


async def run_next(db: Database) -> UUID:
    (job,) = await jobs.claim(db, [("crm", 9, 9)], node=NODE, floor=ZERO)
    assert await jobs.settle(db, [settled(job)], node=NODE) == {job.id}
    return job.id


async def test_a_replay_is_followed_by_the_oldest_however_long_it_waited(
    db: Database, connection: Any, line: list[UUID]
) -> None:
    replay = await connection.fetchval("SELECT gateway.replay($1)", line[0])
    assert [await run_next(db) for _ in range(3)] == [replay, line[1], line[2]]
    assert await connection.fetchval("SELECT count(*) FROM gateway.ordering_keys") == 0


async def test_a_released_key_goes_on_with_the_oldest(
    db: Database, connection: Any, line: list[UUID]
) -> None:
    assert await connection.fetchval("SELECT gateway.release_key('orders', 'k')") == line[1]
    assert [await run_next(db) for _ in range(2)] == [line[1], line[2]]
