"""The door's token bucket and the brake on floods of refusals, on clocks of their own."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st
from virtual_time import VirtualTime, in_virtual_time

from gateway.web.throttle import (
    HELD_SECONDS,
    MAX_HELD,
    REFUSALS_AT_ONCE,
    REFUSALS_PER_SECOND,
    Brake,
    TokenBucket,
)


def test_a_full_bucket_lets_its_burst_in_and_no_more() -> None:
    bucket = TokenBucket(10.0, 5, now=0.0)
    assert [bucket.take(0.0) == 0.0 for _ in range(6)] == [True] * 5 + [False]


@given(
    st.floats(0.1, 1000),
    st.integers(1, 50),
    st.lists(st.floats(0, 5), min_size=1, max_size=200),
)
def test_no_span_lets_in_more_than_burst_plus_rate(
    rate: float, burst: int, gaps: list[float]
) -> None:
    bucket, now, taken = TokenBucket(rate, burst, now=0.0), 0.0, 0
    for gap in gaps:
        now += gap
        taken += bucket.take(now) == 0.0
        assert taken <= burst + rate * now + 1e-6


def test_who_waits_as_told_gets_in() -> None:
    bucket = TokenBucket(3.0, 1, now=0.0)
    assert bucket.take(0.0) == 0.0
    wait = bucket.take(0.0)
    assert wait == pytest.approx(1 / 3)
    assert bucket.take(wait + 1e-9) == 0.0


def test_a_clock_that_stands_still_or_jumps_back_gives_nothing() -> None:
    bucket = TokenBucket(10.0, 1, now=100.0)
    assert bucket.take(100.0) == 0.0
    assert bucket.take(50.0) > 0.0


def test_few_refusals_are_not_held_back() -> None:
    async def main(loop: VirtualTime) -> None:
        brake, began = Brake(), loop.now
        for _ in range(REFUSALS_AT_ONCE):
            await brake.wait()
        assert loop.now == began
        for _ in range(50):  # and then as many as come in time
            await asyncio.sleep(1.01 / REFUSALS_PER_SECOND)
            before = loop.now
            await brake.wait()
            assert loop.now == before

    in_virtual_time(main)


@pytest.mark.parametrize("connections", [1, 32, MAX_HELD])
def test_who_floods_and_waits_for_answers_gets_few_of_them(connections: int) -> None:
    seconds = 10.0

    async def main(loop: VirtualTime) -> int:
        brake, end, answers = Brake(), loop.now + seconds, 0

        async def flood() -> None:
            nonlocal answers
            while loop.now < end and answers < 100_000:  # which no brake at all would reach
                await brake.wait()
                answers += 1

        await asyncio.gather(*(flood() for _ in range(connections)))
        assert brake.held == 0
        return answers

    at_once = REFUSALS_AT_ONCE + REFUSALS_PER_SECOND * seconds
    answers = in_virtual_time(main)
    assert at_once <= answers <= at_once + connections * (seconds / HELD_SECONDS + 1)


def test_a_flood_keeps_no_more_answers_waiting_than_is_said() -> None:
    async def main(_: VirtualTime) -> None:
        brake = Brake()
        calls = [asyncio.create_task(brake.wait()) for _ in range(REFUSALS_AT_ONCE + MAX_HELD + 50)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert brake.held == MAX_HELD
        assert sum(call.done() for call in calls) == REFUSALS_AT_ONCE + 50
        for call in calls:
            call.cancel()  # their senders went away
        await asyncio.gather(*calls, return_exceptions=True)
        await asyncio.sleep(2 * HELD_SECONDS)
        assert brake.held == 0

    in_virtual_time(main)
