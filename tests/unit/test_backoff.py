"""When to try again: never early, never beyond the cap unless the vendor asks for it."""

from __future__ import annotations

import math
from random import Random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.backoff import RetryPolicy, delay_seconds

policies = st.builds(
    RetryPolicy,
    kind=st.sampled_from(["exponential", "fixed", "list"]),
    delays_seconds=st.lists(st.floats(0.0, 1e7), max_size=5).map(tuple),
    base_seconds=st.floats(0.0, 1e6),
    factor=st.floats(1.0, 1e300),
    cap_seconds=st.floats(0.0, 1e7),
    jitter=st.sampled_from(["full", "equal", "none"]),
)
attempts = st.integers(1, 10**400)
seeds = st.integers(0, 2**32)


@given(policies, attempts, seeds)
def test_any_policy_stays_between_zero_and_its_cap(
    policy: RetryPolicy, attempt: int, seed: int
) -> None:
    delay = delay_seconds(policy, attempt, random=Random(seed))
    assert 0.0 <= delay <= policy.cap_seconds


@given(policies, attempts, seeds, st.floats(0.0, 1e9))
def test_retry_after_is_a_floor_and_jitter_only_goes_upward(
    policy: RetryPolicy, attempt: int, seed: int, retry_after: float
) -> None:
    delay = delay_seconds(policy, attempt, random=Random(seed), retry_after=retry_after)
    assert retry_after <= delay
    assert delay <= max(policy.cap_seconds, retry_after + 0.1 * retry_after + 1.0)


@given(policies, attempts, seeds, st.sampled_from([0.0, -1.0, -math.inf, math.nan]))
def test_a_wish_that_is_no_delay_changes_nothing(
    policy: RetryPolicy, attempt: int, seed: int, retry_after: float
) -> None:
    plain = delay_seconds(policy, attempt, random=Random(seed))
    assert delay_seconds(policy, attempt, random=Random(seed), retry_after=retry_after) == plain


@pytest.mark.parametrize(
    ("attempt", "expected"), [(1, 1.0), (2, 2.0), (3, 4.0), (10, 512.0), (11, 600.0), (99, 600.0)]
)
def test_the_curve_doubles_up_to_the_cap(attempt: int, expected: float) -> None:
    policy = RetryPolicy(base_seconds=1.0, factor=2.0, cap_seconds=600.0, jitter="none")
    assert delay_seconds(policy, attempt, random=Random(1)) == expected


def test_a_fixed_wait_stays_the_same() -> None:
    policy = RetryPolicy(kind="fixed", base_seconds=30.0, jitter="none")
    waits = [delay_seconds(policy, attempt, random=Random(1)) for attempt in (1, 2, 50)]
    assert waits == [30.0, 30.0, 30.0]


def test_a_list_is_followed_and_its_last_wait_stands_for_the_rest() -> None:
    policy = RetryPolicy(kind="list", delays_seconds=(1.0, 10.0, 300.0), jitter="none")
    waits = [delay_seconds(policy, attempt, random=Random(1)) for attempt in (1, 2, 3, 4, 99)]
    assert waits == [1.0, 10.0, 300.0, 300.0, 300.0]
    spread = msgspec.structs.replace(policy, jitter="equal")
    assert all(5.0 <= delay_seconds(spread, 2, random=Random(seed)) <= 10.0 for seed in range(100))


def test_a_slow_factor_reaches_its_cap_too() -> None:
    policy = RetryPolicy(base_seconds=1.0, factor=1.05, cap_seconds=600.0, jitter="none")
    assert delay_seconds(policy, 500, random=Random(1)) == 600.0


def test_full_jitter_spreads_over_the_whole_range_and_equal_over_the_upper_half() -> None:
    random = Random(7)
    full = [delay_seconds(RetryPolicy(jitter="full"), 6, random=random) for _ in range(2000)]
    equal = [delay_seconds(RetryPolicy(jitter="equal"), 6, random=random) for _ in range(2000)]
    assert min(full) < 1.0
    assert max(full) > 31.0
    assert 16.0 <= min(equal) < 16.5
    assert max(equal) > 31.5


def test_a_herd_told_the_same_retry_after_does_not_return_at_once() -> None:
    random = Random(7)
    policy = RetryPolicy()
    delays = {delay_seconds(policy, 1, random=random, retry_after=30.0) for _ in range(100)}
    assert len(delays) > 90
