"""A settlement goes to its day's own partition, and to the whole table where there is none."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from store_samples import NODE, held_job, id_at, partition_of, put_job, put_node, row, settled
from uuid_utils.compat import uuid7

from gateway.errors import DatabaseUnavailable
from gateway.queue.ready import ReadyQueue
from gateway.queue.settlement import SettlementDesk
from gateway.store import jobs, partitions
from gateway.store.database import Database
from gateway.store.partitions import JobPartitions, day_number
from gateway.store.writes import Settled
from gateway.telemetry.metrics import Metrics

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
FAR = timedelta(days=500)

LOCKED = """SELECT c.relname FROM pg_locks l JOIN pg_class c ON c.oid = l.relation
            WHERE l.pid = pg_backend_pid() AND c.relkind = 'r' AND c.relname ~ '^jobs_'"""


async def running(connection: Any, *ids: UUID) -> list[Settled]:
    """Put running jobs of these ids; return how their attempts ended."""
    for id_ in ids:
        await put_job(connection, job_id=id_, state="running", node=NODE, claim_no=1)
    return [settled(await held_job(connection, id_), http_status=200) for id_ in ids]


# Which it is -------------------------------------------------------------------------------------


@given(st.datetimes(EPOCH.replace(tzinfo=None)), st.integers(0, (1 << 62) - 1))
def test_the_day_of_an_id_is_the_date_of_its_moment(moment: datetime, rest: int) -> None:
    moment = moment.replace(tzinfo=UTC)
    day = EPOCH.date() + timedelta(days=day_number(id_at(moment, rest)))
    assert day == moment.date()


async def test_it_is_where_postgresql_has_put_the_job(db: Database, connection: Any) -> None:
    """To the millisecond, and the last of the ids in it."""
    midnight = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    ids = [
        id_at(midnight + timedelta(days=days, milliseconds=milliseconds), rest)
        for days in (0, 1)
        for milliseconds in (-1, 0)
        for rest in (0, (1 << 62) - 1)
    ]
    batch = await running(connection, *ids, id_at(midnight + FAR), id_at(midnight - FAR))
    parts = await JobPartitions(db).split(batch)
    assert [len(part) for part in parts.values()] == [2, 4, 2, 2]
    for name, part in parts.items():
        for item in part:
            assert await partition_of(connection, "jobs", item.job.id) == (name or "jobs_default")


async def test_a_partition_that_is_none_of_the_jobs_is_not_taken_for_one(
    db: Database, connection: Any
) -> None:
    """Made and not attached yet, or archived."""
    (item,) = await running(connection, id_at(datetime.now(UTC) - FAR))
    await connection.execute(
        f"CREATE TABLE gateway.jobs_{datetime.now(UTC) - FAR:%Y%m%d} (LIKE gateway.jobs)"
    )
    assert list(await JobPartitions(db).split([item])) == [None]


async def test_a_day_that_is_unknown_is_looked_for_once_a_minute(
    db: Database, connection: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = 0

    async def fetch(name: str, *args: Any) -> Any:
        nonlocal looks
        looks += 1
        return await Database.fetch(db, name, *args)

    monkeypatch.setattr(db, "fetch", fetch)
    today, far = await running(connection, uuid7(), id_at(datetime.now(UTC) - FAR))
    known = JobPartitions(db)
    await known.split([today])
    for _ in range(3):
        assert None not in await known.split([today])
        assert list(await known.split([far])) == [None]
    assert looks == 1
    await connection.execute(
        "SELECT gateway.make_partition('jobs', $1)", (datetime.now(UTC) - FAR).date()
    )
    monkeypatch.setattr(partitions, "LOOK_SECONDS", 0.0)  # they are over
    await known.split([today])
    assert looks == 1
    assert None not in await known.split([far, today])
    assert looks == 2


async def test_who_cannot_look_writes_to_the_whole_and_looks_again(
    db: Database, connection: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fetch(name: str, *args: Any) -> Any:
        raise DatabaseUnavailable(f"PostgreSQL: not there for {name} {args}")

    batch = await running(connection, uuid7())
    known = JobPartitions(db)
    with monkeypatch.context() as away:
        away.setattr(db, "fetch", fetch)
        assert await known.split(batch) == {None: batch}
    assert None not in await known.split(batch)


# What is written ---------------------------------------------------------------------------------


async def test_a_batch_of_several_days_is_settled_day_by_day(
    db: Database, connection: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = []

    async def fetch_planned(name: str, *args: Any, partition: str | None = None) -> Any:
        written.append((partition, len(rows := await plain(name, *args, partition=partition))))
        return rows

    plain = db.fetch_planned
    monkeypatch.setattr(db, "fetch_planned", fetch_planned)
    await put_node(connection)
    now = datetime.now(UTC)
    ids = [id_at(now, 1), id_at(now - FAR), id_at(now - timedelta(days=1)), id_at(now, 2)]
    batch = await running(connection, *ids)
    metrics = Metrics(version="test", vendors=["crm"], routes=["orders"])
    desk = SettlementDesk(db, ReadyQueue(inline_body_bytes=0), node=NODE, metrics=metrics)
    for item in batch:
        desk.record(item)
    desk.finish()
    await desk.run()
    assert [(await row(connection, id_))["state"] for id_ in ids] == ["completed"] * 4
    today, yesterday = (f"jobs_{now - timedelta(days=ago):%Y%m%d}" for ago in (0, 1))
    assert written == [(today, 2), (None, 1), (yesterday, 1)]


async def test_a_partition_that_was_dropped_meanwhile_is_not_missed(
    db: Database, connection: Any
) -> None:
    """Known by its name, and to PostgreSQL by a plan that it has kept."""
    await put_node(connection)
    before, after = uuid7(), uuid7()
    name = f"jobs_{datetime.now(UTC):%Y%m%d}"
    assert await jobs.settle(db, await running(connection, before), node=NODE, partition=name) == {
        before
    }
    await connection.execute(f"DROP TABLE gateway.{name}")
    batch = await running(connection, after)
    assert await jobs.settle(db, batch, node=NODE, partition=name) == {after}
    assert await partition_of(connection, "jobs", after) == "jobs_default"


@pytest.mark.parametrize("of_a_day", [False, True], ids=["whole", "of a day"])
async def test_what_is_of_one_day_locks_no_other(
    db: Database, connection: Any, monkeypatch: pytest.MonkeyPatch, of_a_day: bool
) -> None:
    """The statement on the whole table does, and shows that the test sees it."""
    await put_node(connection)
    batch = await running(connection, uuid7())
    (name,) = await JobPartitions(db).split(batch)
    opened = await db._planned_pool.acquire()
    db._kept.append(opened)
    transaction = opened.transaction()
    await transaction.start()
    # As a connection does it that has its plan; planning locks what it looks at, too.
    for _ in range(2):
        await jobs.settle(db, batch, node=NODE, partition=name if of_a_day else None)
    locked = {record["relname"] for record in await opened.fetch(LOCKED)}
    await transaction.rollback()
    if of_a_day:
        assert locked == {name}
    else:
        assert {"jobs_default", name} < locked
