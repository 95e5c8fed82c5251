"""What the database is asked about itself, and whom the log names."""

from __future__ import annotations

from typing import Any

import asyncpg
import pytest
from store_samples import NODE, OTHER, put_job, put_node

from gateway.store import vitals as store
from gateway.store.database import Database
from gateway.telemetry.metrics import Metrics
from gateway.vitals import HELD_SECONDS, Vitals


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[str, Any]]]:
    lines: list[tuple[str, dict[str, Any]]] = []

    class Log:
        def warning(self, event: str, **fields: Any) -> None:
            lines.append((event, fields))

        info = warning

    monkeypatch.setattr("gateway.vitals.log", Log())
    return lines


async def test_only_the_eldest_living_node_tells(db: Database, connection: Any) -> None:
    await put_node(connection, NODE)
    await put_node(connection, OTHER)
    await connection.execute(
        "UPDATE gateway.nodes SET started_at = now() - interval '1h' WHERE node = $1", OTHER
    )
    assert await store.tables(db, node=NODE) == []
    assert {part.table for part in await store.tables(db, node=OTHER)} >= {"jobs", "dedupe_keys"}
    await connection.execute(
        "UPDATE gateway.nodes SET seen_at = '2020-01-01' WHERE node = $1", OTHER
    )
    assert await store.tables(db, node=NODE)


async def test_sizes_and_dead_rows_become_gauges(db: Database, connection: Any) -> None:
    await put_node(connection)
    for _ in range(20):
        await put_job(connection, state="completed")  # inserted, then updated: a dead row each
    await connection.execute("SELECT pg_stat_force_next_flush()")
    await connection.execute("SELECT 1")
    metrics = Metrics(version="test")
    await Vitals(db, node=NODE, metrics=metrics).read()
    text = metrics.render().decode()
    assert 'gateway_partitions{age="today",table="jobs"} 1.0' in text
    assert 'gateway_partitions{age="ahead",table="jobs"} 3.0' in text
    assert 'gateway_partitions{age="default",table="events"} 1.0' in text
    assert 'gateway_table_bytes{age="whole",table="dedupe_keys"}' in text
    assert 'gateway_dead_rows{table="jobs"} 20.0' in text


async def test_a_transaction_that_is_held_is_named_once_without_its_values(
    db: Database, database_url: str, connection: Any, told: list[Any]
) -> None:
    await put_node(connection)
    holder: Any = await asyncpg.connect(
        database_url, server_settings={"application_name": "nightly report"}
    )
    now = 1000.0
    metrics = Metrics(version="test")
    watch = Vitals(db, node=NODE, metrics=metrics, clock=lambda: now)
    try:
        await holder.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        await holder.execute("SELECT 'hunter2' FROM gateway.nodes WHERE node <> '4711'")
        pid = holder.get_server_pid()
        (found,) = [h for h in await store.xmin_holders(db) if h.name == str(pid)]
        assert found.state == "idle in transaction"
        assert found.query == "SELECT ? FROM gateway.nodes WHERE node <> ?"

        await watch.read()
        assert told == []  # not for long yet
        for _ in range(2):
            watch._warn({(found.kind, found.name): (found, HELD_SECONDS + 1)})
        ((event, fields),) = told
        assert event == "xmin_held"
        assert fields["application"] == "nightly report"
        assert fields["name"] == str(pid)
        assert fields["since"]
        assert "hunter2" not in str(fields)
        assert "4711" not in str(fields)
    finally:
        await holder.close()
    await watch.read()
    assert told[-1][0] == "xmin_released"


async def test_a_slot_without_a_time_is_timed_by_us(db: Database, connection: Any) -> None:
    now = 1000.0
    watch = Vitals(db, node=NODE, metrics=Metrics(version="test"), clock=lambda: now)
    slot = store.XminHolder(
        kind="replication slot",
        name="standby",
        application="",
        role="",
        state="inactive",
        since=None,
        seconds=None,
        transactions=7,
        query="",
    )
    assert watch._held_seconds(slot) == 0.0
    now += 400.0
    assert watch._held_seconds(slot) == 400.0
