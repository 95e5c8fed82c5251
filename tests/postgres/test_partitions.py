"""Days: made ahead, filled by the time in the ids, sealed when finished, dropped when old."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, date, datetime, time, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from store_samples import (
    NODE,
    ZERO,
    count,
    id_at,
    many,
    partition_of,
    put_job,
    put_node,
    row,
    waits_for_lock,
    webhook,
)
from uuid_utils.compat import uuid7

from gateway.errors import DatabaseUnavailable
from gateway.store import events, jobs, migrations, upkeep
from gateway.store.database import Database
from gateway.store.migrations import DAYS_AHEAD

TABLES = ("events", "jobs", "attempts")


@pytest.fixture
async def today(connection: Any) -> date:
    day: date = await connection.fetchval("SELECT (now() AT TIME ZONE 'UTC')::date")
    return day


def id_of(day: date, number: int = 0) -> UUID:
    """Return an id made at noon of *day*."""
    return id_at(datetime.combine(day, time(12), UTC), number)


def first_id(day: date) -> UUID:
    midnight = datetime.combine(day, time(0), UTC)
    return UUID(int=int(midnight.timestamp() * 1000) << 80)


async def days(connection: Any, table: str = "jobs") -> set[date]:
    """Return the days that *table* has a partition for."""
    names = await connection.fetch(
        """SELECT substr(relname, length($1) + 2) AS day FROM pg_class
           WHERE relkind = 'r' AND relispartition AND relname ~ ('^' || $1 || '_\\d{8}$')""",
        table,
    )
    return {datetime.strptime(name["day"], "%Y%m%d").replace(tzinfo=UTC).date() for name in names}


async def make(connection: Any, *wanted: date) -> None:
    for day in wanted:
        await connection.execute("SELECT gateway.make_partitions($1)", day)


async def sealed(connection: Any) -> set[date]:
    return {found["day"] for found in await connection.fetch("SELECT day FROM gateway.sealed_days")}


# Ids ---------------------------------------------------------------------------------------------


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(milliseconds=st.integers(min_value=0, max_value=4_102_444_799_999))
def test_the_floor_of_a_moment_is_the_smallest_id_made_then(
    database_url: str, milliseconds: int
) -> None:
    async def ask() -> tuple[UUID, datetime]:
        connection = await asyncpg.connect(database_url)
        moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=milliseconds)
        try:
            floor = await connection.fetchval("SELECT gateway.uuid7_floor($1)", moment)
            made_at = await connection.fetchval("SELECT gateway.uuid7_time($1)", floor)
            return floor, made_at - moment
        finally:
            await connection.close()

    assert asyncio.run(ask()) == (UUID(int=milliseconds << 80), timedelta(0))


async def test_a_moment_before_the_first_id_has_the_lowest_floor(connection: Any) -> None:
    assert await connection.fetchval("SELECT gateway.uuid7_floor('1969-12-31')") == ZERO


async def test_ids_made_by_the_database_are_uuid7_as_pythons_are(connection: Any) -> None:
    before = uuid7()
    ids = await connection.fetchval(
        "SELECT array_agg(gateway.uuid7()) FROM generate_series(1, 500)"
    )
    after = uuid7()
    assert len(set(ids)) == 500
    for made in ids:
        assert (made.version, made.variant) == (before.version, before.variant)
        # The same machine and clock; a millisecond of rounding is allowed.
        assert (before.int >> 80) - 1 <= made.int >> 80 <= (after.int >> 80) + 1
    made_at = await connection.fetchval("SELECT gateway.uuid7_time($1)", before)
    assert abs((made_at - datetime.now(UTC)).total_seconds()) < 60


# Making ------------------------------------------------------------------------------------------


async def test_days_are_made_ahead(db: Database, connection: Any, today: date) -> None:
    wanted = {today + timedelta(days=ahead) for ahead in range(-1, DAYS_AHEAD + 1)}
    for table in TABLES:
        assert wanted <= await days(connection, table)
    for table in TABLES:
        await connection.execute(f"DROP TABLE gateway.{table}_{max(wanted):%Y%m%d}")
    await upkeep.make_partitions(db)
    for table in TABLES:
        assert wanted <= await days(connection, table)


async def test_many_makers_at_once_make_each_day_once(
    db: Database, connection: Any, today: date
) -> None:
    last = today + timedelta(days=DAYS_AHEAD)
    for table in TABLES:
        await connection.execute(f"DROP TABLE gateway.{table}_{last:%Y%m%d}")
    await many(db, 4, lambda: upkeep.make_partitions(db))
    assert last in await days(connection)


async def test_rows_go_where_their_ids_say(db: Database, connection: Any, today: date) -> None:
    await put_node(connection)
    item = webhook("k", state="running")
    await events.accept(db, [item], node=NODE)
    (job,) = item.jobs
    await put_job(connection, job_id=id_of(today - timedelta(days=1)))
    for table, moved in (("events", 1), ("jobs", 2)):
        assert await count(connection, table) == moved
        assert await count(connection, f"{table}_default") == 0
    made = datetime.fromtimestamp((item.event.id.int >> 80) / 1000, UTC)
    assert await partition_of(connection, "events", item.event.id) == f"events_{made:%Y%m%d}"
    assert job.id > item.event.id


@pytest.mark.parametrize("off", [timedelta(0), timedelta(days=1)])
async def test_midnight_belongs_to_the_day_that_begins(
    connection: Any, today: date, off: timedelta
) -> None:
    edge = first_id(today + off)
    before, after = UUID(int=edge.int - 1), edge
    for job_id in (before, after):
        await put_job(connection, job_id=job_id)
    day_before = today + off - timedelta(days=1)
    assert await partition_of(connection, "jobs", before) == f"jobs_{day_before:%Y%m%d}"
    assert await partition_of(connection, "jobs", after) == f"jobs_{today + off:%Y%m%d}"


async def test_ids_in_the_default_partition_move_when_their_day_is_made(
    db: Database, connection: Any, today: date
) -> None:
    past = today - timedelta(days=20)
    job_id = await put_job(connection, job_id=id_of(past))
    assert await connection.fetchval("SELECT gateway.make_partition('jobs', $1)", past)
    assert (await row(connection, job_id))["state"] == "available"
    assert await partition_of(connection, "jobs", job_id) == f"jobs_{past:%Y%m%d}"


async def test_every_partition_of_jobs_leaves_room_for_updates(connection: Any) -> None:
    options = await connection.fetch(
        """SELECT c.reloptions FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
           WHERE i.inhparent = 'gateway.jobs'::regclass"""
    )
    assert len(options) >= DAYS_AHEAD + 3
    assert all("fillfactor=50" in found["reloptions"] for found in options)


# Sealing and the floor ---------------------------------------------------------------------------


async def test_a_finished_day_is_sealed_once_two_days_old(
    db: Database, connection: Any, today: date
) -> None:
    old = [today - timedelta(days=ago) for ago in range(4, 1, -1)]
    await make(connection, *old)
    for number, state in enumerate(("completed", "dead", "cancelled")):
        await put_job(connection, job_id=id_of(old[0], number), state=state)
    assert await upkeep.seal_finished_days(db) == first_id(today - timedelta(days=1))
    assert await sealed(connection) == set(old)


@pytest.mark.parametrize("state", ["scheduled", "available", "running", "blocked"])
async def test_a_day_with_an_unfinished_job_is_never_sealed_nor_dropped(
    db: Database, connection: Any, today: date, state: str
) -> None:
    await put_node(connection)
    old = today - timedelta(days=5)
    await make(connection, old, old + timedelta(days=1))
    job_id = await put_job(connection, job_id=id_of(old), state=state, node=NODE)
    assert await upkeep.seal_finished_days(db) == first_id(old)
    assert await upkeep.drop_expired_days(db, retention_seconds=1.0) == [old + timedelta(days=1)]
    assert (await row(connection, job_id))["state"] == state
    assert old in await days(connection)


async def test_a_late_job_in_a_sealed_day_is_found_and_its_day_kept(
    db: Database, connection: Any, today: date
) -> None:
    """A node whose clock was days behind wrote it there."""
    await put_node(connection)
    old = today - timedelta(days=5)
    await make(connection, old)
    await upkeep.seal_finished_days(db)
    assert old in await sealed(connection)
    job_id = await put_job(connection, job_id=id_of(old))
    floor = await upkeep.seal_finished_days(db)
    assert floor == first_id(old)
    claimed = await jobs.claim(db, [("crm", 1, 1)], node=NODE, floor=floor)
    assert [job.id for job in claimed] == [job_id]


async def test_a_day_is_looked_at_once_more_before_it_is_dropped(
    db: Database, connection: Any, today: date
) -> None:
    await put_node(connection)
    old = today - timedelta(days=5)
    await make(connection, old)
    await upkeep.seal_finished_days(db)
    job_id = await put_job(connection, job_id=id_of(old), state="running", node=NODE)
    assert await upkeep.drop_expired_days(db, retention_seconds=1.0) == []
    assert (await row(connection, job_id))["state"] == "running"
    assert await upkeep.seal_finished_days(db) == first_id(old)


async def test_an_unfinished_job_of_the_default_partition_lowers_the_floor(
    db: Database, connection: Any, today: date
) -> None:
    done = await put_job(connection, job_id=id_of(today - timedelta(days=30)), state="completed")
    assert await upkeep.seal_finished_days(db) == first_id(today - timedelta(days=1))
    late = await put_job(connection, job_id=id_of(today - timedelta(days=20)))
    assert late > done
    assert await upkeep.seal_finished_days(db) == late


async def test_jobs_of_a_node_that_nobody_remembers_are_freed(
    db: Database, connection: Any, today: date
) -> None:
    await put_node(connection)
    old = today - timedelta(days=3)
    await make(connection, old)
    orphan = await put_job(connection, job_id=id_of(old, 1), state="running", node="gone/1")
    ours = await put_job(connection, job_id=id_of(old, 2), state="running", node=NODE)
    await upkeep.seal_finished_days(db)
    assert (await row(connection, orphan))["state"] == "available"
    assert (await row(connection, ours))["state"] == "running"
    assert old not in await sealed(connection)


# Dropping ----------------------------------------------------------------------------------------


async def test_sealed_days_past_the_retention_are_dropped_whole(
    db: Database, connection: Any, today: date
) -> None:
    old, kept = today - timedelta(days=6), today - timedelta(days=3)
    await make(connection, old, kept)
    for day in (old, kept):
        await put_job(connection, job_id=id_of(day), state="completed")
    await upkeep.seal_finished_days(db)
    retention = timedelta(days=4).total_seconds()
    assert await upkeep.drop_expired_days(db, retention_seconds=retention) == [old]
    for table in TABLES:
        assert old not in await days(connection, table)
        assert kept in await days(connection, table)
    assert await sealed(connection) == {kept}
    assert await count(connection, "jobs") == 1
    assert await upkeep.drop_expired_days(db, retention_seconds=retention) == []


async def test_upkeep_on_many_nodes_at_once_does_it_once(
    db: Database, connection: Any, today: date
) -> None:
    await make(connection, *(today - timedelta(days=ago) for ago in range(3, 7)))

    async def keep() -> None:
        await upkeep.make_partitions(db)
        await upkeep.seal_finished_days(db)
        await upkeep.drop_expired_days(db, retention_seconds=1.0)

    await many(db, 4, keep)
    assert min(await days(connection)) == today - timedelta(days=1)
    assert await sealed(connection) == set()


async def test_expired_keys_are_pruned_page_by_page(
    db: Database, connection: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep, "PRUNE_PAGES", 1)
    await put_node(connection)
    await events.accept(db, [webhook(f"k{number:03}") for number in range(200)], node=NODE)
    await connection.execute("UPDATE gateway.dedupe_keys SET expires_at = now() - interval '1h'")
    await events.accept(db, [webhook("k200")], node=NODE)

    async def left() -> list[tuple[int, str]]:
        rows = await connection.fetch(
            "SELECT (ctid::text::point)[0]::int AS page, key FROM gateway.dedupe_keys ORDER BY key"
        )
        return [(row["page"], row["key"]) for row in rows]

    page, seen, rest = 0, set(), await left()
    while True:
        seen.add(page)
        page, pages = await upkeep.prune_dedupe_keys(db, page)
        assert {key for _, key in await left()} == {
            key for at, key in rest if at not in seen or key == "k200"
        }
        if page == 0:
            break
    assert seen == set(range(pages))
    assert pages > 2
    assert [key for _, key in await left()] == ["k200"]


async def test_a_sweep_that_begins_beyond_the_last_page_begins_within(
    db: Database, connection: Any
) -> None:
    await put_node(connection)
    await events.accept(db, [webhook("k")], node=NODE)
    await connection.execute("UPDATE gateway.dedupe_keys SET expires_at = now() - interval '1h'")
    assert await upkeep.prune_dedupe_keys(db, 2**31 - 1) == (0, 1)
    assert await count(connection, "dedupe_keys") == 0
    assert await upkeep.prune_dedupe_keys(db, 7) == (0, 1)


# Beside a long transaction -----------------------------------------------------------------------


@asynccontextmanager
async def dump(connection: Any) -> AsyncIterator[None]:
    """Hold every table for as long as the block lasts, as pg_dump does."""
    async with connection.transaction():
        for table in TABLES:
            await connection.execute(f"SELECT FROM gateway.{table} LIMIT 1")
        yield


async def test_a_new_day_does_not_hold_up_webhooks(
    db: Database, connection: Any, second: Any, today: date, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It locks its own and the default partition; an intake touches neither."""
    last = today + timedelta(days=DAYS_AHEAD)
    await put_node(connection)
    for table in TABLES:
        await connection.execute(f"DROP TABLE gateway.{table}_{last:%Y%m%d}")
    monkeypatch.setattr(upkeep, "LOCK_TIMEOUT_MS", 60_000)
    async with dump(connection):
        making = asyncio.ensure_future(upkeep.make_partitions(db))
        await waits_for_lock(second)
        await events.accept(db, [webhook("k", state="running")], node=NODE)
        assert not making.done()
    await making
    assert last in await days(connection)


@pytest.mark.parametrize("act", ["make", "drop"])
async def test_upkeep_gives_up_on_a_table_that_is_held(
    db: Database, connection: Any, today: date, monkeypatch: pytest.MonkeyPatch, act: str
) -> None:
    last, old = today + timedelta(days=DAYS_AHEAD), today - timedelta(days=5)
    await put_node(connection)
    await make(connection, old)
    await upkeep.seal_finished_days(db)
    for table in TABLES:
        await connection.execute(f"DROP TABLE gateway.{table}_{last:%Y%m%d}")
    monkeypatch.setattr(upkeep, "LOCK_TIMEOUT_MS", 50)

    async def keep() -> None:
        if act == "make":
            await upkeep.make_partitions(db)
        else:
            await upkeep.drop_expired_days(db, retention_seconds=1.0)

    async with dump(connection):
        refusal, accepted = await asyncio.gather(
            keep(),
            events.accept(db, [webhook("k", state="running")], node=NODE),
            return_exceptions=True,
        )
        assert isinstance(refusal, DatabaseUnavailable)
        assert "lock timeout" in str(refusal)
        assert not isinstance(accepted, BaseException)
        assert db.up
        await jobs.claim(db, [("crm", 1, 1)], node=NODE, floor=ZERO)
    await keep()
    assert (last in await days(connection)) == (act == "make")
    assert (old in await days(connection)) == (act == "make")


async def test_the_lock_timeout_is_short() -> None:
    assert upkeep.LOCK_TIMEOUT_MS <= 1000


async def test_a_start_makes_no_partitions_where_others_may_be_at_work(
    connection: Any, database_url: str, today: date
) -> None:
    """Waiting for a lock without a bound would stop the nodes that serve."""
    last = today + timedelta(days=DAYS_AHEAD)
    await connection.execute(f"DROP TABLE gateway.jobs_{last:%Y%m%d}")
    async with connection.transaction():
        await connection.execute("SELECT FROM gateway.jobs LIMIT 1")
        assert await migrations.migrate(database_url) == []
