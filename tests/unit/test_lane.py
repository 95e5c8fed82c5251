"""A lane: bounded slots, urgent first, the old not starved, still when told to be."""

from __future__ import annotations

import asyncio
import itertools
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from virtual_time import VirtualTime, in_virtual_time

from gateway.model import Job
from gateway.queue.lane import AGEING_SHARE, FAILING_GAP_SECONDS, LONG_WAIT_SECONDS, Lane
from gateway.queue.ready import ReadyQueue

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
_numbers = itertools.count(1)


def new_job(priority: int = 5, *, age: int | None = None, kind: str = "call") -> Job:
    """A job; those made later are younger unless *age* says otherwise."""
    number = next(_numbers)
    return Job(
        id=UUID(int=number),
        event_id=None,
        route="r",
        vendor="crm",
        kind=kind,
        priority=priority,
        attempt=0,
        max_attempts=1,
        claim_no=1,
        correlation_id="c",
        created_at=BEGIN + timedelta(seconds=number if age is None else -age),
    )


class Workshop:
    """Executes jobs until the test lets them end; remembers their order and how many at once."""

    def __init__(self, *, patient: bool = False, **given: Any) -> None:
        self.started: list[Job] = []
        self.most = 0
        self.begun = asyncio.Event()
        self.gate = asyncio.Event()
        if not patient:
            self.gate.set()
        self.tasks: set[asyncio.Task[None]] = set()
        fields = {"concurrency": 2, "capacity": 8, "limiter": None} | given
        self.lane = Lane("crm", execute=self.execute, spawn=self.spawn, **fields)
        self.lane.backlog = False

    async def execute(self, job: Job) -> None:
        self.started.append(job)
        self.begun.set()
        self.most = max(self.most, self.lane.running)
        await self.gate.wait()
        self.lane.held -= 1

    def spawn(self, slot: Any) -> asyncio.Task[None]:
        task = asyncio.ensure_future(slot)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return task

    def push(self, *jobs: Job) -> None:
        for job in jobs:
            self.lane.held += 1
            self.lane.push(job)

    async def done(self) -> None:
        """Wait until no slot is left."""
        async with asyncio.timeout(10):
            while self.tasks:
                await asyncio.wait(self.tasks)
                await asyncio.sleep(0)

    async def end(self) -> None:
        """Cut short whatever still waits."""
        self.lane.close()
        for task in self.tasks:
            task.cancel()
        await self.done()


async def turns(number: int = 10) -> None:
    for _ in range(number):
        await asyncio.sleep(0)


# Slots -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("concurrency", [1, 3])
async def test_no_more_jobs_execute_at_once_than_the_concurrency(concurrency: int) -> None:
    shop = Workshop(patient=True, concurrency=concurrency)
    shop.push(*(new_job() for _ in range(10)))
    await turns()
    assert len(shop.started) == shop.lane.running == concurrency
    assert shop.lane.waiting == 10 - concurrency
    shop.gate.set()
    await shop.done()
    assert len(shop.started) == 10
    assert shop.most == concurrency
    assert (shop.lane.running, shop.lane.waiting, shop.lane.held) == (0, 0, 0)


async def test_a_job_that_comes_as_the_last_slot_ends_is_started() -> None:
    shop = Workshop(concurrency=1)
    for _ in range(20):
        shop.push(new_job())
        await turns(2)
    await shop.done()
    assert len(shop.started) == 20


async def test_a_cancelled_slot_is_replaced() -> None:
    shop = Workshop(patient=True, concurrency=1)
    shop.push(new_job())
    await turns()
    (slot,) = shop.tasks
    slot.cancel()
    await asyncio.wait((slot,))
    assert shop.lane.running == 0
    shop.gate.set()
    shop.push(new_job())
    await shop.done()
    assert len(shop.started) == 2


@settings(max_examples=50)
@given(
    priorities=st.lists(st.integers(min_value=0, max_value=9), max_size=40),
    concurrency=st.integers(min_value=1, max_value=4),
)
def test_every_job_is_started_once(priorities: list[int], concurrency: int) -> None:
    async def run() -> None:
        shop = Workshop(concurrency=concurrency)
        jobs = [new_job(priority) for priority in priorities]
        shop.push(*jobs)
        await shop.done()
        assert sorted(job.id for job in shop.started) == [job.id for job in jobs]
        assert shop.most <= concurrency

    asyncio.run(run())


# Order -------------------------------------------------------------------------------------------


async def test_the_urgent_start_first_and_equals_in_order() -> None:
    shop = Workshop(concurrency=1)
    jobs = [new_job(priority) for priority in (5, 9, 0, 5, 0)]
    shop.push(*jobs)
    await shop.done()
    assert shop.started == [jobs[2], jobs[4], jobs[0], jobs[3], jobs[1]]


async def test_the_oldest_gets_its_share_while_urgent_ones_keep_coming() -> None:
    shop = Workshop(concurrency=1)
    patient = [new_job(9, age=age) for age in (200, 100)]
    shop.lane.pause(True)
    shop.push(*patient, *(new_job(0) for _ in range(3 * AGEING_SHARE)))
    shop.lane.pause(False)
    await shop.done()
    assert [shop.started.index(job) for job in patient] == [AGEING_SHARE - 1, 2 * AGEING_SHARE - 1]


# What it takes -----------------------------------------------------------------------------------


async def test_a_lane_with_a_backlog_takes_nothing_past_it() -> None:
    lane = Workshop().lane
    assert lane.takes(5)
    lane.backlog = True
    assert not lane.takes(0)
    assert lane.room() == 8


async def test_a_full_lane_takes_only_what_is_more_urgent_and_not_for_ever() -> None:
    shop = Workshop(patient=True, concurrency=0, capacity=8)
    shop.push(*(new_job(5) for _ in range(8)))
    assert [shop.lane.takes(priority) for priority in (9, 6, 5, 4, 0)] == [
        False,
        False,
        False,
        True,
        True,
    ]
    shop.push(new_job(4), new_job(3))
    assert not shop.lane.takes(0)


async def test_there_is_room_below_low_water_only() -> None:
    shop = Workshop(concurrency=0, capacity=8)
    assert shop.lane.room() == 8
    shop.push(*(new_job() for _ in range(4)))
    assert shop.lane.room() == 4
    shop.push(new_job())
    assert shop.lane.room() == 0


async def test_what_executes_takes_room_too() -> None:
    shop = Workshop(patient=True, concurrency=6, capacity=8)
    shop.push(*(new_job() for _ in range(6)))
    await turns()
    assert shop.lane.room() == 2
    shop.gate.set()
    await shop.done()
    assert shop.lane.room() == 8


async def test_a_lane_that_cannot_run_has_no_room() -> None:
    for stop in (
        lambda lane: lane.close(),
        lambda lane: lane.pause(True),
        lambda lane: lane.park(LONG_WAIT_SECONDS + 1),
    ):
        lane = Workshop().lane
        stop(lane)
        assert lane.room() == 0
        assert not lane.takes(0)


async def test_a_short_parking_still_takes_new_jobs_but_claims_none() -> None:
    lane = Workshop().lane
    lane.park(LONG_WAIT_SECONDS / 2)
    assert lane.takes(5)
    assert lane.room() == 0


# Stopping and going on ---------------------------------------------------------------------------


async def test_nothing_starts_while_closed_paused_or_parked() -> None:
    shop = Workshop()
    lane = shop.lane
    lane.close()
    shop.push(new_job())
    await turns()
    lane.pause(True)
    lane.open()
    await turns()
    lane.park(60.0)
    lane.pause(False)
    await turns()
    assert shop.started == []
    assert 0 < lane.idle_seconds() <= 60
    lane.resume()
    await shop.done()
    assert len(shop.started) == 1


async def test_a_parking_ends_by_itself() -> None:
    shop = Workshop()
    shop.lane.park(0.005)
    job = new_job()
    shop.push(job)
    assert shop.started == []
    async with asyncio.timeout(10):
        await shop.begun.wait()
    await shop.done()
    assert shop.lane.idle_seconds() == 0.0


async def test_the_longer_of_two_parkings_wins() -> None:
    lane = Workshop().lane
    lane.park(60.0)
    lane.park(1.0)
    assert lane.idle_seconds() > 50
    lane.pause(True)
    assert lane.idle_seconds() == float("inf")


async def test_closing_lets_what_executes_end_and_starts_no_other() -> None:
    shop = Workshop(patient=True, concurrency=1)
    shop.push(new_job(), new_job())
    await turns()
    shop.lane.close()
    shop.gate.set()
    await shop.done()
    assert len(shop.started) == 1
    assert shop.lane.waiting == 1


async def test_drop_waiting_hands_over_what_waits_and_only_that() -> None:
    shop = Workshop(patient=True, concurrency=1)
    jobs = [new_job(priority) for priority in (5, 9, 0)]
    shop.push(*jobs)
    await turns()
    assert shop.lane.drop_waiting() == [jobs[0], jobs[1]]
    assert shop.started == [jobs[2]]
    assert (shop.lane.waiting, shop.lane.running) == (0, 1)
    shop.gate.set()
    await shop.done()
    assert len(shop.started) == 1


# The limiter -------------------------------------------------------------------------------------


class Gate:
    """A limiter that lets through as many as the test says."""

    def __init__(self) -> None:
        self.permits = asyncio.Semaphore(0)
        self.asked = 0
        self.seconds = 0.0  # until it lets one through

    async def acquire(self) -> None:
        self.asked += 1
        await self.permits.acquire()

    def delay(self) -> float:
        return self.seconds


async def test_a_call_starts_once_the_limiter_lets_it() -> None:
    gate = Gate()
    shop = Workshop(limiter=gate)
    shop.push(new_job(), new_job(), new_job())
    await turns()
    assert shop.started == []
    gate.permits.release()
    await turns()
    assert len(shop.started) == 1
    gate.permits.release()
    gate.permits.release()
    await turns()
    assert len(shop.started) == 3
    await shop.end()


async def test_the_most_urgent_at_that_moment_goes() -> None:
    gate = Gate()
    shop = Workshop(limiter=gate, concurrency=1)
    shop.push(new_job(5))
    await turns()
    urgent = new_job(0)
    shop.push(urgent)
    gate.permits.release()
    await turns()
    assert shop.started == [urgent]
    await shop.end()


async def test_a_lane_is_behind_when_nothing_but_slots_is_missing() -> None:
    shop = Workshop(patient=True, capacity=100)
    ready = ReadyQueue(inline_body_bytes=0)
    ready.lanes = {"idle": Workshop().lane, "crm": shop.lane}
    shop.push(*[new_job() for _ in range(4)])
    await asyncio.sleep(0)
    assert (shop.lane.running, shop.lane.waiting) == (2, 2)
    assert not ready.behind(), "as many wait as will start next"
    shop.push(new_job())
    assert ready.behind()
    shop.lane.pause(True)
    assert not ready.behind()
    shop.lane.pause(False)
    shop.lane.park(1.0)
    assert not ready.behind()
    shop.lane.resume()
    assert ready.behind()
    shop.lane.limiter = gate = Gate()
    gate.seconds = 0.5
    assert not ready.behind(), "its vendor takes no more"
    gate.seconds = 0.0
    assert ready.behind()
    shop.lane.limiter = None
    await shop.end()
    assert not ready.behind()


async def test_a_handler_is_not_held_up_by_the_limiter() -> None:
    gate = Gate()
    shop = Workshop(limiter=gate)
    shop.push(new_job(kind="handler"))
    await shop.done()
    assert len(shop.started) == 1
    assert gate.asked == 0


async def test_nobody_stands_in_line_for_jobs_that_were_dropped() -> None:
    gate = Gate()
    shop = Workshop(limiter=gate)
    shop.push(new_job(), new_job())
    await turns()
    assert len(shop.lane.drop_waiting()) == 2
    await shop.done()
    assert shop.started == []
    shop.push(new_job())
    gate.permits.release()
    await shop.done()
    assert len(shop.started) == 1


# A vendor that fails -----------------------------------------------------------------------------


@pytest.mark.parametrize("answers", [True, False], ids=["refuses", "hangs"])
def test_a_lane_whose_vendor_fails_starts_one_job_each_gap(answers: bool) -> None:
    async def main(loop: VirtualTime) -> list[float]:
        shop = Workshop(concurrency=8, capacity=50, patient=not answers)
        shop.lane.failing = True
        shop.push(*(new_job() for _ in range(50)))
        starts = []
        while len(starts) < 8:
            await shop.begun.wait()
            shop.begun.clear()
            starts.append(loop.time())
        assert len(shop.started) == 8
        await shop.end()
        return starts

    starts = in_virtual_time(main)
    # Looked for a millisecond late, so that it is due.
    gaps = [later - sooner for sooner, later in itertools.pairwise(starts)]
    assert gaps == pytest.approx([FAILING_GAP_SECONDS + 0.001] * 7, abs=1e-4)


def test_once_its_vendor_answers_a_lane_fills_its_slots_again() -> None:
    async def main(loop: VirtualTime) -> tuple[int, int]:
        shop = Workshop(concurrency=8, capacity=50, patient=True)
        shop.lane.failing = True
        shop.push(*(new_job() for _ in range(50)))
        await asyncio.sleep(0)
        before = shop.lane.running
        shop.lane.failing = False
        await asyncio.sleep(2 * FAILING_GAP_SECONDS)
        after = shop.lane.running
        await shop.end()
        return before, after

    assert in_virtual_time(main) == (1, 8)


# The breaker -------------------------------------------------------------------------------------


class Probing:
    """A half-open breaker: one call is under way, others must wait."""

    closed = False

    def __init__(self, *, lets_through: bool = False) -> None:
        self.asked = 0
        self.open = lets_through
        self.given_back: list[int] = []

    def allow(self) -> int | None:
        return 7 if self.open else None

    def give_back(self, permit: int) -> bool:
        self.given_back.append(permit)
        return True

    def delay(self) -> float:
        self.asked += 1
        return 0.0 if self.open else 60.0


async def test_a_breaker_that_says_no_is_not_asked_again_and_again() -> None:
    breaker = Probing()
    shop = Workshop(breaker=breaker, concurrency=1)
    shop.push(new_job())
    await turns(100)
    assert shop.started == []
    assert breaker.asked <= 3
    breaker.open = True
    shop.lane.resume()
    await shop.done()
    assert len(shop.started) == 1


async def test_a_call_gives_its_permit_back_when_it_is_through() -> None:
    breaker = Probing(lets_through=True)
    shop = Workshop(breaker=breaker, concurrency=1, patient=True)
    shop.push(new_job())
    await shop.begun.wait()
    assert breaker.given_back == []
    shop.gate.set()
    await shop.done()
    assert breaker.given_back == [7]


@pytest.mark.parametrize("waits_for", ["limiter", "answer"])
async def test_a_call_that_is_cancelled_gives_its_permit_back(waits_for: str) -> None:
    breaker, gate = Probing(lets_through=True), Gate()
    limiter = gate if waits_for == "limiter" else None
    shop = Workshop(breaker=breaker, concurrency=1, patient=True, limiter=limiter)
    shop.push(new_job())
    await (turns(20) if limiter else shop.begun.wait())
    (slot,) = shop.tasks
    shop.lane.close()
    slot.cancel()
    await turns(20)
    assert breaker.given_back == [7]


async def test_a_handler_leaves_the_permit_to_the_calls_that_it_makes() -> None:
    """Its own call would be refused otherwise, and nobody would ever probe."""
    breaker = Probing(lets_through=True)
    shop = Workshop(breaker=breaker, concurrency=1)
    shop.push(new_job(kind="handler"))
    await shop.done()
    assert len(shop.started) == 1
    assert breaker.given_back == []
    breaker.open = False
    shop.push(new_job(kind="handler"))
    await turns(20)
    assert len(shop.started) == 1  # open is open, for handlers, too


async def test_a_lane_asks_for_more_when_half_is_left_of_what_a_longer_backlog_filled_it_with() -> (
    None
):
    asked: list[int] = []
    shop = Workshop(patient=True, concurrency=1, on_low_water=lambda: asked.append(1))
    for backlog in (True, False):
        shop.lane.backlog = backlog
        shop.gate.clear()
        for _ in range(8):
            shop.lane.held += 1
            shop.lane.push(new_job())
        shop.gate.set()
        await asyncio.gather(*shop.tasks)
        assert asked == [1]


async def test_a_lane_whose_limit_is_used_up_for_long_holds_nothing() -> None:
    class UsedUp:
        async def acquire(self) -> None:
            await asyncio.Event().wait()

        def delay(self) -> float:
            return 3600.0

    lane = Workshop(limiter=UsedUp()).lane
    assert lane.stalled()
    assert lane.room() == 0
    assert not lane.takes(0)
