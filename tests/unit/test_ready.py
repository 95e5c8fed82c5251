"""The register of held jobs: whatever happens in whatever order, it the sums agree."""

from __future__ import annotations

import asyncio
import itertools
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from gateway.model import Event, Job, NewJob
from gateway.queue import ready as module
from gateway.queue.lane import Lane
from gateway.queue.ready import STRAY_SWEEP_SECONDS, ReadyQueue

INLINE = 100
_numbers = itertools.count(1 << 80)


def new_event(size: int = 10) -> Event:
    return Event(
        id=UUID(int=next(_numbers)),
        vendor="shop",
        correlation_id="c",
        headers={"a": "b"},
        query="q=1",
        body=b"x" * size,
        received_at=datetime(2026, 1, 1, tzinfo=UTC),
    )


def new_job(event: Event, *, vendor: str = "crm", priority: int = 5) -> NewJob:
    return NewJob(
        id=UUID(int=next(_numbers)),
        event_id=event.id,
        route="r",
        vendor=vendor,
        kind="call",
        priority=priority,
        correlation_id="c",
    )


def claimed(job_id: UUID, *, claim_no: int = 1, size: int = 10) -> Job:
    event = new_event(size)
    return Job(
        id=job_id,
        event_id=event.id,
        route="r",
        vendor="crm",
        kind="call",
        priority=5,
        attempt=0,
        max_attempts=3,
        claim_no=claim_no,
        correlation_id="c",
        created_at=event.received_at,
        event=event,
    )


async def _never(job: Job) -> None:
    raise AssertionError("nothing is executed here")


def new_queue(*, capacity: int = 8) -> ReadyQueue:
    """A queue with one lane that holds jobs and starts none."""
    queue = ReadyQueue(inline_body_bytes=INLINE)
    queue.lanes["crm"] = Lane(
        "crm",
        concurrency=0,
        capacity=capacity,
        limiter=None,
        execute=_never,
        spawn=asyncio.ensure_future,
    )
    queue.lanes["crm"].backlog = False
    return queue


def reserve(queue: ReadyQueue, *, size: int = 10) -> Job:
    event = new_event(size)
    job = queue.reserve(new_job(event), event)
    assert job is not None
    return job


# Reserving ---------------------------------------------------------------------------------------


async def test_a_reserved_job_is_held_and_does_not_wait_before_it_is_started() -> None:
    queue = new_queue()
    job = reserve(queue)
    lane = queue.lanes["crm"]
    assert queue.held == {job.id: job}
    assert (lane.held, lane.waiting) == (1, 0)
    assert (job.claim_no, job.attempt) == (1, 0)
    queue.start(job)
    assert (lane.held, lane.waiting) == (1, 1)


async def test_nothing_is_reserved_for_an_unknown_lane_or_one_that_refuses() -> None:
    queue = new_queue()
    event = new_event()
    assert queue.reserve(new_job(event, vendor="nobody"), event) is None
    queue.lanes["crm"].backlog = True
    assert queue.reserve(new_job(event), event) is None
    assert queue.held == {}


async def test_an_id_below_the_floor_is_not_handed_off() -> None:
    queue = new_queue()
    event = new_event()
    job = new_job(event)
    queue.floor = UUID(int=job.id.int + 1)
    assert queue.reserve(job, event) is None
    queue.floor = job.id
    assert queue.reserve(job, event) is not None


async def test_the_oldest_held_is_told() -> None:
    queue = new_queue()
    assert queue.oldest_held() is None
    first, second = reserve(queue), reserve(queue)
    assert queue.oldest_held() == first.id
    queue.forget(first)
    assert queue.oldest_held() == second.id


# Bodies ------------------------------------------------------------------------------------------


async def test_a_large_body_is_left_to_the_database() -> None:
    queue = new_queue()
    event = new_event(INLINE + 1)
    job = queue.reserve(new_job(event), event)
    assert job is not None
    assert job.event is not None
    assert job.event.body is None
    assert (job.event.headers, job.event.query) == (event.headers, event.query)
    assert event.body is not None, "the event itself is still on its way into the database"
    assert queue._body_bytes == 0


async def test_the_bodies_held_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_HELD_BODY_BYTES", 25)
    queue = new_queue()
    jobs = [reserve(queue, size=10) for _ in range(3)]
    assert [job.event is not None and job.event.body is not None for job in jobs] == [
        True,
        True,
        False,
    ]
    queue.forget(jobs[0])
    assert reserve(queue, size=10).event is not None
    assert queue._body_bytes == 20


# Forgetting --------------------------------------------------------------------------------------


async def test_forgetting_twice_counts_once() -> None:
    queue = new_queue()
    job = reserve(queue)
    queue.forget(job)
    queue.forget(job)
    assert (queue.held, queue.lanes["crm"].held, queue._body_bytes) == ({}, 0, 0)


async def test_a_later_claim_of_the_same_job_replaces_the_earlier() -> None:
    """Rescued from us and claimed by us again, while its first outcome is not yet recorded."""
    queue = new_queue()
    first = reserve(queue)
    again = claimed(first.id, claim_no=3)
    queue.take([again])
    assert queue.held == {first.id: again}
    assert queue.lanes["crm"].held == 1
    queue.forget(first)
    assert queue.held == {first.id: again}
    queue.forget(again)
    assert (queue.held, queue.lanes["crm"].held, queue._body_bytes) == ({}, 0, 0)


# Timers ------------------------------------------------------------------------------------------


async def test_strays_are_looked_for_more_than_once() -> None:
    queue = new_queue()
    now = asyncio.get_running_loop().time()
    queue.suspect_strays()
    delays = [at - now for at in queue.stray_sweeps]
    assert len(delays) == len(STRAY_SWEEP_SECONDS) > 1
    assert delays == sorted(delays)


async def test_a_job_that_is_due_soon_wakes_the_feeder_the_earliest_first() -> None:
    queue = new_queue()
    queue.promote = False
    queue.expect_due(3600.0)
    assert queue._due is None
    queue.expect_due(4.0)
    queue.expect_due(0.0)
    queue.expect_due(3.0)
    async with asyncio.timeout(10):
        await queue.wake.wait()
    assert queue.promote


# Any interleaving --------------------------------------------------------------------------------


class Holding(RuleBasedStateMachine):
    """Reserve, start, claim, drop, abandon and forget in any order: the sums always agree."""

    def __init__(self) -> None:
        super().__init__()
        # A loop of its own: idle_seconds() and call_later want a running one.
        self.runner = asyncio.Runner()
        self.queue = new_queue(capacity=6)
        self.reserved: list[Job] = []  # not committed yet
        self.ours: list[Job] = []  # started, claimed or dropped, and not forgotten
        self.past: list[Job] = []  # forgotten, or replaced by a later claim

    def _do(self, act: Any, *args: Any) -> Any:
        async def run() -> Any:
            return act(*args)

        return self.runner.run(run())

    @rule(size=st.sampled_from([0, 10, INLINE, INLINE + 1]), priority=st.integers(0, 9))
    def reserve(self, size: int, priority: int) -> None:
        event = new_event(size)
        job = self._do(self.queue.reserve, new_job(event, priority=priority), event)
        if job is not None:
            self.reserved.append(job)

    @precondition(lambda self: self.reserved)
    @rule(data=st.data())
    def commit(self, data: Any) -> None:
        job = self.reserved.pop(data.draw(st.integers(0, len(self.reserved) - 1)))
        self._do(self.queue.start, job)
        self.ours.append(job)

    @precondition(lambda self: self.reserved)
    @rule()
    def commit_failed(self) -> None:
        job = self.reserved.pop()
        self._do(self.queue.forget, job)
        self.past.append(job)

    @rule(count=st.integers(0, 3))
    def claim(self, count: int) -> None:
        taken = [claimed(UUID(int=next(_numbers))) for _ in range(count)]
        self._do(self.queue.take, taken)
        self.ours += taken

    @precondition(lambda self: self.ours)
    @rule(data=st.data())
    def claim_again(self, data: Any) -> None:
        """Somebody rescued the job from us, released it, and we got it back."""
        position = data.draw(st.integers(0, len(self.ours) - 1))
        before = self.ours.pop(position)
        self._do(self.queue.lanes["crm"].drop_waiting)
        again = claimed(before.id, claim_no=before.claim_no + 2)
        self._do(self.queue.take, [again])
        self.past.append(before)
        self.ours.append(again)

    @rule()
    def hand_back(self) -> None:
        for job in self._do(self.queue.lanes["crm"].drop_waiting):
            if job in self.ours:
                self.ours.remove(job)
                self.past.append(job)
            self._do(self.queue.forget, job)

    @precondition(lambda self: self.ours)
    @rule(data=st.data())
    def settle(self, data: Any) -> None:
        job = self.ours.pop(data.draw(st.integers(0, len(self.ours) - 1)))
        self._do(self.queue.forget, job)
        self.past.append(job)

    @precondition(lambda self: self.past)
    @rule(data=st.data())
    def settle_late(self, data: Any) -> None:
        """The outcome of an earlier holding is recorded: lost, and nothing to let go of."""
        self._do(self.queue.forget, data.draw(st.sampled_from(self.past)))

    @invariant()
    def sums_agree(self) -> None:
        held = self.reserved + self.ours
        assert set(self.queue.held) == {job.id for job in held}
        assert self.queue.lanes["crm"].held == len(held)
        assert self.queue._body_bytes == sum(
            len(job.event.body) for job in held if job.event and job.event.body is not None
        )

    def teardown(self) -> None:
        for job in self.reserved + self.ours:
            self._do(self.queue.forget, job)
        self.runner.close()
        assert self.queue.held == {}
        assert self.queue.lanes["crm"].held == 0
        assert self.queue._body_bytes == 0


Holding.TestCase.settings = settings(max_examples=40, stateful_step_count=30)
TestHolding = Holding.TestCase
