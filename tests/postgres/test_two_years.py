"""Two years of days go by: what upkeep makes, seals and drops, told what time it is."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from typing import Any
from uuid import UUID

import pytest
from store_samples import NODE, id_at, put_job, put_node, row

from gateway.store import jobs, upkeep
from gateway.store.database import Database
from gateway.store.migrations import DAYS_AHEAD

DAYS = 730
RETENTION_DAYS = 7  # few: every statement of a day costs by the partitions there are
STRAGGLES = 45  # every so many days a job stays …
STAYS = timedelta(days=60)  # … and is finished so much later
TABLES = ("events", "jobs", "attempts")


def noon(day: date) -> datetime:
    return datetime.combine(day, time(12), UTC)


async def days_of(connection: Any, table: str) -> set[date]:
    names = await connection.fetch(
        """SELECT substr(c.relname, length($1) + 2) AS day
           FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
           WHERE i.inhparent = ('gateway.' || $1)::regclass AND c.relname !~ 'default'""",
        table,
    )
    return {datetime.strptime(name["day"], "%Y%m%d").replace(tzinfo=UTC).date() for name in names}


async def defaults(connection: Any) -> int:
    found: int = await connection.fetchval(
        """SELECT (SELECT count(*) FROM gateway.events_default)
                + (SELECT count(*) FROM gateway.jobs_default)
                + (SELECT count(*) FROM gateway.attempts_default)"""
    )
    return found


async def drop_secondary_indexes(connection: Any) -> None:
    """Leave the primary keys: a day has a few rows here, and making its indexes takes longest."""
    names = await connection.fetch(
        """SELECT i.indexrelid::regclass::text AS name FROM pg_index i
           WHERE i.indrelid = ANY ($1::regclass[]) AND NOT i.indisprimary""",
        [f"gateway.{table}" for table in TABLES],
    )
    await connection.execute(f"DROP INDEX {', '.join(found['name'] for found in names)}")


async def traffic(connection: Any, moment: datetime, *, state: str) -> UUID:
    """Put an event, its job and an attempt of it into the day of *moment*."""
    event_id, job_id = id_at(moment, 1), id_at(moment, 2)
    await connection.execute(
        """INSERT INTO gateway.events (id, vendor, correlation_id, headers, body, received_at)
           VALUES ($1, 'shop', 'c', '{}', '{}', $2)""",
        event_id,
        moment,
    )
    await put_job(
        connection, job_id=job_id, state=state, event_id=event_id, run_at=moment, created_at=moment
    )
    await connection.execute(
        """INSERT INTO gateway.attempts (job_id, attempt, node, started_at, duration_ms, outcome)
           VALUES ($1, 1, 'one/1', $2, 1, 'completed')""",
        job_id,
        moment,
    )
    return job_id


async def test_two_years_of_days_keep_their_number_and_lose_nothing_unfinished(
    db: Database, connection: Any
) -> None:
    today: date = await connection.fetchval("SELECT (now() AT TIME ZONE 'UTC')::date")
    first = today + timedelta(days=1)
    stragglers: dict[UUID, date] = {}
    finished_late = 0
    await put_node(connection)
    await drop_secondary_indexes(connection)
    for passed in range(DAYS):
        day = first + timedelta(days=passed)
        now = noon(day)
        await upkeep.make_partitions(db, now=now)
        floor = await upkeep.seal_finished_days(db, now=now)
        await upkeep.prune_default(db, retention_seconds=RETENTION_DAYS * 86400.0, now=now)
        await upkeep.drop_expired_days(db, retention_seconds=RETENTION_DAYS * 86400.0, now=now)

        stays = passed % STRAGGLES == 0
        job_id = await traffic(connection, now, state="available" if stays else "completed")
        if stays:
            stragglers[job_id] = day

        # An unfinished job is there whatever its age, its history with it, and can be claimed.
        for straggler, since in list(stragglers.items()):
            assert (await row(connection, straggler))["state"] == "available"
            assert floor <= straggler
            if day - since >= STAYS:
                claimed = await jobs.claim(db, [("crm", 1, 1)], node=NODE, floor=floor)
                assert [job.id for job in claimed] == [straggler]
                assert claimed[0].event is not None
                await connection.execute(
                    "UPDATE gateway.jobs SET state = 'completed', finished_at = $2 WHERE id = $1",
                    straggler,
                    now,
                )
                del stragglers[straggler]
                finished_late += 1

        assert await defaults(connection) == 0
        kept = await days_of(connection, "jobs")
        assert {day + timedelta(days=ahead) for ahead in range(-1, DAYS_AHEAD + 1)} <= kept
        # The days of the retention, those ahead, and the days that a straggler keeps.
        assert len(kept) <= RETENTION_DAYS + DAYS_AHEAD + 4 + len(stragglers) + (passed < 3) * 5
        if passed % 100 == 0:
            for table in TABLES:
                assert await days_of(connection, table) == kept
    assert finished_late == (DAYS - STAYS.days - 1) // STRAGGLES + 1


@pytest.mark.parametrize("off", [timedelta(days=40), timedelta(days=-400)], ids=["fast", "slow"])
async def test_ids_of_a_clock_that_was_off_move_into_their_day_or_go(
    db: Database, connection: Any, off: timedelta
) -> None:
    now: datetime = await connection.fetchval("SELECT now()")
    wrong = now + off
    open_job = await traffic(connection, wrong, state="available")
    done_job = await traffic(connection, wrong + timedelta(seconds=1), state="completed")
    await connection.execute(
        "UPDATE gateway.jobs SET finished_at = $1 WHERE id = $2", now, done_job
    )
    assert await defaults(connection) == 6
    before = await row(connection, open_job)

    if off > timedelta(
        0
    ):  # its day comes: the whole day gets a partition, and the strays are in it
        await upkeep.make_partitions(db, now=wrong)
        assert await defaults(connection) == 0
        assert await row(connection, open_job) == before
        assert await row(connection, done_job) is not None
        assert wrong.astimezone(UTC).date() in await days_of(connection, "jobs")
        await traffic(connection, wrong + timedelta(seconds=2), state="completed")
        assert await defaults(connection) == 0
        return
    # Its day is long gone. What is finished leaves after the retention by the database's clock.
    assert await upkeep.prune_default(db, retention_seconds=86400.0, now=now) == 0
    later = now + timedelta(days=2)
    assert await upkeep.prune_default(db, retention_seconds=86400.0, now=later) == 1
    assert await row(connection, done_job) is None
    assert (await row(connection, open_job))["state"] == "available"
    assert await defaults(connection) == 3
    assert await upkeep.seal_finished_days(db, now=now) == open_job


async def test_a_day_with_too_many_strays_stays_in_the_default_partition(
    connection: Any,
) -> None:
    """Moving them would hold the lock for long."""
    wrong = await connection.fetchval("SELECT (now() AT TIME ZONE 'UTC')::date + 40")
    await connection.execute(
        """INSERT INTO gateway.events (id, vendor, correlation_id, headers, body, received_at)
           SELECT (left(gateway.uuid7_floor($1::timestamp + interval '1 h')::text, 24)
                   || lpad(to_hex(n), 12, '0'))::uuid, 'shop', 'c', '{}', '', now()
           FROM generate_series(1, 10001) n""",
        wrong,
    )
    assert not await connection.fetchval("SELECT gateway.make_partition('events', $1)", wrong)
    assert await defaults(connection) == 10001
