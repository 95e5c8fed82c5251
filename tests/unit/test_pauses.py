"""A paused route in one process: its jobs stay out of the lanes, and in nobody's way there."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from datetime import UTC, datetime
from typing import Any, cast

from uuid_utils.compat import uuid7

from gateway.model import Event, Job, NewJob
from gateway.queue.acceptance import AcceptanceDesk
from gateway.queue.lane import Lane
from gateway.queue.ready import ReadyQueue
from gateway.store.database import Database
from gateway.store.writes import Acceptance
from gateway.telemetry.metrics import Metrics


class Accepting:
    """A database that takes everything."""

    up = True

    async def fetch(self, name: str, *args: Any) -> list[Any]:
        assert name == "events.accept"
        return []

    fetch_planned = fetch


class Executions:
    """Ends no job before it is told to."""

    def __init__(self) -> None:
        self.routes: asyncio.Queue[str] = asyncio.Queue()
        self.end = asyncio.Event()

    async def execute(self, job: Job) -> None:
        self.routes.put_nowait(job.route)
        await self.end.wait()


def spawn(slot: Coroutine[Any, Any, bool]) -> asyncio.Task[bool]:
    return asyncio.get_running_loop().create_task(slot)


def world() -> tuple[ReadyQueue, Lane, Executions]:
    ready, executions = ReadyQueue(inline_body_bytes=1000), Executions()
    lane = Lane(
        "crm",
        concurrency=1,
        capacity=100,
        limiter=None,
        execute=executions.execute,
        spawn=spawn,
    )
    lane.backlog = False
    ready.lanes["crm"] = lane
    return ready, lane, executions


def webhook(route: str) -> Acceptance:
    event = Event(
        id=uuid7(),
        vendor="shop",
        correlation_id="c",
        headers={},
        body=b"{}",
        received_at=datetime.now(UTC),
    )
    job = NewJob(
        id=uuid7(),
        event_id=event.id,
        route=route,
        vendor="crm",
        kind="call",
        correlation_id="c",
    )
    return Acceptance(event, "{}", [job], 60.0)


async def test_new_jobs_of_a_paused_route_neither_enter_a_lane_nor_close_it_to_others() -> None:
    ready, lane, executions = world()
    metrics = Metrics(version="1", vendors=["crm"], routes=["orders", "refunds"])
    desk = AcceptanceDesk(cast(Database, Accepting()), ready, node="n", metrics=metrics)
    ready.pause_routes(frozenset({"orders"}))
    running = asyncio.create_task(desk.run())
    try:
        for route in ("orders", "refunds", "orders", "refunds"):
            assert (await desk.accept(webhook(route))).jobs == 1
        assert (lane.held, lane.backlog) == (2, False)
        executions.end.set()
        assert [await executions.routes.get() for _ in range(2)] == ["refunds", "refunds"]
        assert executions.routes.empty()
    finally:
        desk.finish()
        await running


async def test_a_lane_gives_up_what_waits_of_a_route_and_runs_the_rest_in_order() -> None:
    ready, lane, executions = world()
    jobs = []
    for route in ("first", "orders", "refunds", "orders", "refunds"):
        item = webhook(route)
        job = ready.reserve(item.jobs[0], item.event)
        assert job is not None
        ready.start(job)
        jobs.append(job)
    await asyncio.sleep(0)
    dropped = lane.drop_routes({"orders", "first"})
    assert [job.id for job in dropped] == [jobs[1].id, jobs[3].id]  # the first executes
    assert lane.waiting == 2
    executions.end.set()
    assert [await executions.routes.get() for _ in range(3)] == ["first", "refunds", "refunds"]
    assert executions.routes.empty()


async def test_a_pause_is_told_to_the_feeder_and_its_end_is_not() -> None:
    ready, _, _ = world()
    ready.pause_routes(frozenset({"orders"}))
    assert ready.routes_paused
    assert ready.wake.is_set()
    ready.routes_paused = False
    ready.pause_routes(frozenset())
    assert not ready.routes_paused
