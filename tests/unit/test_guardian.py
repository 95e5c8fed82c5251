"""The guardian opens and closes the lanes as the database comes and goes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import pytest

from gateway import maintenance
from gateway.errors import DatabaseUnavailable
from gateway.maintenance import Guardian
from gateway.queue.ready import ReadyQueue
from gateway.telemetry.metrics import Metrics


class Lane:
    """What the guardian needs of a lane."""

    is_open = False

    def open(self) -> None:
        self.is_open = True

    def close(self) -> None:
        self.is_open = False


class Comings:
    """A database that comes and goes as the test says, whatever a probe finds."""

    def __init__(self) -> None:
        self._up, self._down = asyncio.Event(), asyncio.Event()
        self.probes = 0
        self.set(True)

    def set(self, up: bool) -> None:
        (self._up if up else self._down).set()
        (self._down if up else self._up).clear()

    @property
    def up(self) -> bool:
        return self._up.is_set()

    async def wait_up(self) -> None:
        await self._up.wait()

    async def wait_down(self) -> None:
        await self._down.wait()

    async def probe(self) -> None:
        self.probes += 1
        raise DatabaseUnavailable("not yet")


@pytest.fixture
async def guarded() -> AsyncIterator[tuple[Any, Lane]]:
    db: Any = Comings()
    lane: Any = Lane()
    ready = ReadyQueue(inline_body_bytes=1)
    ready.lanes["crm"] = lane
    guardian = asyncio.create_task(Guardian(db, ready, metrics=Metrics(version="0")).run())
    try:
        await _turns()
        yield db, lane
    finally:
        guardian.cancel()
        with suppress(asyncio.CancelledError):
            await guardian


async def _turns() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_lanes_open_as_soon_as_anybody_finds_the_database_back(
    guarded: tuple[Any, Lane], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(maintenance, "PROBE_SECONDS", 3600.0)
    db, lane = guarded
    assert lane.is_open
    db.set(False)
    await _turns()
    assert not lane.is_open
    assert db.probes == 1
    db.set(True)  # a webhook was committed
    await _turns()
    assert lane.is_open


async def test_the_database_is_probed_again_and_again_while_nobody_else_asks(
    guarded: tuple[Any, Lane], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(maintenance, "PROBE_SECONDS", 0.0)
    db, lane = guarded
    db.set(False)
    for _ in range(5):
        await _turns()
    assert db.probes >= 5
    assert not lane.is_open
