"""History is dropped only while clocks can be trusted: it cannot be brought back."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from store_samples import put_job, put_node
from test_partitions import days, id_of, make

from gateway.maintenance import CLOCK_SECONDS, Upkeep
from gateway.queue.feeder import Feeder
from gateway.queue.ready import ReadyQueue
from gateway.store import upkeep
from gateway.store.database import Database
from gateway.telemetry.metrics import Metrics
from gateway.vitals import Vitals


@pytest.fixture
def acts(db: Database) -> Upkeep:
    ready, metrics = ReadyQueue(inline_body_bytes=1), Metrics(version="test")
    return Upkeep(
        db,
        ready,
        Feeder(db, ready, node="one/1", metrics=metrics),
        retention_seconds=86400.0,
        vitals=Vitals(db, node="one/1", metrics=metrics),
    )


async def test_nothing_is_dropped_after_the_databases_clock_jumped(
    acts: Upkeep, connection: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    await put_node(connection)
    today = datetime.now(UTC).date()
    old = today - timedelta(days=9)
    off = timedelta(0)

    async def now(_: Database) -> datetime:
        return datetime.now(UTC) + off

    monkeypatch.setattr(upkeep, "database_now", now)
    await acts.keep_partitions()

    off = timedelta(days=400)
    await make(connection, old)
    await put_job(connection, job_id=id_of(old), state="completed")
    await acts.keep_partitions()
    assert old in await days(connection)

    off = timedelta(0)  # mended: which of the two was the jump, nobody can tell
    await acts.keep_partitions()
    assert old in await days(connection)
    acts._distrusted_until = 0.0  # a day later
    await acts.keep_partitions()
    assert old not in await days(connection)


@pytest.mark.parametrize("seconds", [-2 * CLOCK_SECONDS, 2 * CLOCK_SECONDS])
async def test_nothing_is_dropped_while_the_clocks_differ(
    acts: Upkeep, connection: Any, monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    await put_node(connection)
    old = datetime.now(UTC).date() - timedelta(days=9)
    await make(connection, old)

    async def now(_: Database) -> datetime:
        return datetime.now(UTC) + timedelta(seconds=seconds)

    monkeypatch.setattr(upkeep, "database_now", now)
    await acts.keep_partitions()
    assert old in await days(connection)
