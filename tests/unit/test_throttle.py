"""The door's token bucket, on a clock of its own."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.web.throttle import TokenBucket


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
