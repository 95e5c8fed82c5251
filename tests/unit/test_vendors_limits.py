from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from virtual_time import VirtualTime, in_virtual_time

from gateway.config.model import Rate
from gateway.vendors import limits
from gateway.vendors.limits import StrictLimiter

HOUR = 3600.0


def starts_of(
    rates: list[Rate], pauses: list[float], *, callers: int = 1, until: float = 1e9
) -> list[float]:
    """Return when each call started; each caller waits for its pauses in between, in turn."""

    async def main(loop: VirtualTime) -> list[float]:
        limiter = StrictLimiter(rates, clock=loop.time)
        end = loop.time() + until
        starts: list[float] = []

        async def call(number: int) -> None:
            for pause in pauses[number::callers]:
                if loop.time() >= end:
                    return
                if pause:
                    await asyncio.sleep(pause)
                await limiter.acquire()
                starts.append(loop.time())

        await asyncio.gather(*(call(number) for number in range(callers)))
        return starts

    return in_virtual_time(main)


def assert_law(starts: list[float], rates: list[Rate]) -> None:
    assert starts == sorted(starts)
    for rate in rates:
        for first, last in zip(starts, starts[rate.count :], strict=False):
            assert last - first > rate.period_seconds, f"{rate} broken at {last}"


rates_lists = st.lists(
    st.builds(Rate, st.integers(1, 40), st.sampled_from([1.0, 5.0, 60.0, HOUR])),
    min_size=1,
    max_size=3,
)
pauses_lists = st.lists(
    st.one_of(st.just(0.0), st.floats(0.001, 0.2), st.floats(0.2, 70.0)), max_size=150
)


@settings(max_examples=150)
@given(rates_lists, pauses_lists, st.integers(1, 5))
def test_no_window_ever_holds_more_than_its_count(
    rates: list[Rate], pauses: list[float], callers: int
) -> None:
    starts = starts_of(rates, pauses, callers=callers)
    assert len(starts) == len(pauses)
    assert_law(starts, rates)


@settings(max_examples=60)
@given(
    st.lists(
        st.builds(Rate, st.integers(1, 60), st.sampled_from([1.0, 5.0, 60.0])),
        min_size=1,
        max_size=3,
    ),
    st.integers(1, 4),
)
def test_under_saturation_nine_tenths_of_the_tightest_rate_are_used(
    rates: list[Rate], callers: int
) -> None:
    duration = 20 * max(rate.period_seconds for rate in rates)
    tightest = min(rate.count / rate.period_seconds for rate in rates)
    starts = starts_of(rates, [0.0] * int(tightest * duration * 1.2), callers=callers)
    assert_law(starts, rates)
    within = [start for start in starts if start < starts[0] + duration]
    assert len(within) >= 0.9 * tightest * duration


def test_a_long_quota_is_usable_at_the_speed_of_the_short_window() -> None:
    rates = [Rate(10, 1.0), Rate(5000, HOUR)]
    starts = starts_of(rates, [0.0] * 5001)
    assert starts[4999] - starts[0] < 5000 / 10 * 1.1
    assert starts[5000] - starts[0] > HOUR
    assert_law(starts, rates)


def test_calls_of_a_short_window_spread_instead_of_arriving_as_a_herd() -> None:
    starts = starts_of([Rate(100, 1.0)], [0.0] * 1000, callers=50)
    busiest = max(sum(1 for start in starts if 0 <= start - first < 0.1) for first in starts)
    assert busiest <= 14


def test_a_quota_of_a_minute_may_be_used_within_seconds() -> None:
    for count, period, seconds in ((600, 60.0, 1.1), (5000, HOUR, 61.0), (10, HOUR, 1.1)):
        starts = starts_of([Rate(count, period)], [0.0] * count, callers=8)
        assert starts[-1] - starts[0] < seconds


def test_waiters_are_served_first_come_first_served() -> None:
    async def main(loop: VirtualTime) -> list[int]:
        limiter = StrictLimiter([Rate(2, 1.0)], clock=loop.time)
        served: list[int] = []

        async def call(number: int) -> None:
            await limiter.acquire()
            served.append(number)

        await asyncio.gather(*(call(number) for number in range(12)))
        return served

    assert in_virtual_time(main) == list(range(12))


def test_a_cancelled_waiter_costs_no_turn() -> None:
    async def main(loop: VirtualTime) -> int:
        limiter = StrictLimiter([Rate(1, HOUR)], clock=loop.time)
        await limiter.acquire()
        waiter = asyncio.ensure_future(limiter.acquire())
        await asyncio.sleep(1)
        waiter.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiter
        await limiter.acquire()
        return limiter.use()[0].used

    assert in_virtual_time(main) == 1


def test_delay_takes_nothing_and_tells_when_the_next_turn_comes() -> None:
    async def main(loop: VirtualTime) -> None:
        limiter = StrictLimiter([Rate(1, 1.0)], clock=loop.time)
        assert limiter.delay() == limiter.delay() == 0.0
        await limiter.acquire()
        assert limiter.delay() == pytest.approx(1.05, abs=1e-3)
        loop.now += limiter.delay()
        assert limiter.delay() == 0.0

    in_virtual_time(main)


def test_a_limiter_without_rates_never_waits() -> None:
    async def main(loop: VirtualTime) -> None:
        limiter = StrictLimiter([], clock=loop.time)
        before = loop.time()
        for _ in range(1000):
            await limiter.acquire()
            await limiter.confirm()
        assert loop.time() == before
        assert limiter.delay() == 0.0

    in_virtual_time(main)


@settings(max_examples=100)
@given(
    rates_lists,
    st.lists(st.tuples(st.floats(0.0, 3.0), st.floats(0.0, 3.0)), max_size=60),
    st.integers(1, 8),
)
def test_calls_that_wait_for_a_connection_are_counted_when_they_are_written(
    rates: list[Rate], steps: list[tuple[float, float]], callers: int
) -> None:
    """Arrivals obey the law although starts and arrivals differ by more than any margin."""

    async def main(loop: VirtualTime) -> list[float]:
        limiter = StrictLimiter(rates, clock=loop.time)
        written: list[float] = []

        async def call(number: int) -> None:
            for pause, connecting in steps[number::callers]:
                await asyncio.sleep(pause)
                await limiter.acquire()
                if connecting > limits._STALE_SECONDS:
                    await asyncio.sleep(connecting)
                await limiter.confirm()
                written.append(loop.time())

        await asyncio.gather(*(call(number) for number in range(callers)))
        assert limiter.use()[0].used <= rates[0].count
        return written

    written = in_virtual_time(main)
    assert len(written) == len(steps)
    assert_law(written, rates)


def test_a_turn_that_went_stale_is_given_back() -> None:
    async def main(loop: VirtualTime) -> None:
        limiter = StrictLimiter([Rate(5, 60.0)], clock=loop.time)
        for _ in range(2):
            await limiter.acquire()
            loop.now += 1.0
            await limiter.confirm()
        assert limiter.use()[0].used == 2

    in_virtual_time(main)


def test_a_stale_turn_is_exchanged_at_once_however_many_wait_in_line() -> None:
    """A vendor of one call a minute, whose connections take long to open and are closed in between:
    whoever went to the end of the line with an open connection would be out of time there.
    """
    rates = [Rate(1, 60.0)]

    async def main(loop: VirtualTime) -> list[float]:
        limiter = StrictLimiter(rates, clock=loop.time)
        written: list[float] = []

        async def call() -> None:
            await limiter.acquire()
            async with asyncio.timeout(1.0):
                await asyncio.sleep(0.2)  # the handshake
                await limiter.confirm()
            written.append(loop.time())

        await asyncio.gather(*(call() for _ in range(8)))
        return written

    written = in_virtual_time(main)
    assert_law(written, rates)
    assert written[-1] - written[0] < 7 * 61.0, "a turn was given back and nobody took it"


def test_who_comes_in_the_right_moment_does_not_overtake_whose_turn_was_for_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "_MAX_STAMPS", 1)

    async def main(loop: VirtualTime) -> list[str]:
        limiter = StrictLimiter([Rate(2, 60.0)], clock=loop.time)
        order: list[str] = []

        async def opens_a_connection() -> None:
            await limiter.acquire()
            await asyncio.sleep(0.2)
            await limiter.confirm()
            order.append("whose turn was for nothing")

        async def comes_later() -> None:
            await asyncio.sleep(0.5)
            await asyncio.sleep(limiter.delay() - 0.5e-6)
            await limiter.acquire()
            order.append("who comes")

        await limiter.acquire()
        await asyncio.gather(opens_a_connection(), comes_later())
        return order

    assert in_virtual_time(main) == ["whose turn was for nothing", "who comes"]


def test_a_second_sending_without_a_turn_takes_one() -> None:
    async def main(loop: VirtualTime) -> None:
        limiter = StrictLimiter([Rate(5, 60.0)], clock=loop.time)
        await limiter.acquire()
        await limiter.confirm()
        await limiter.confirm()
        assert limiter.use()[0].used == 2

    in_virtual_time(main)


def test_a_huge_window_is_kept_in_strides_and_still_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "_MAX_STAMPS", 32)
    rates = [Rate(1000, 60.0)]
    starts = starts_of(rates, [0.0] * 5000, callers=3)
    assert_law(starts, rates)
    within = [start for start in starts if start < starts[0] + 240.0]
    assert len(within) >= 0.9 * 4000


def test_a_stale_turn_that_cannot_be_given_back_waits_for_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A stride forgets no single call: the turn counts, and so does the one that follows it."""
    monkeypatch.setattr(limits, "_MAX_STAMPS", 32)
    rates = [Rate(64, 60.0)]

    async def main(loop: VirtualTime) -> list[float]:
        limiter = StrictLimiter(rates, clock=loop.time)
        written: list[float] = []
        for _ in range(2 * 64):
            await limiter.acquire()
            await asyncio.sleep(0.2)
            await limiter.confirm()
            written.append(loop.time())
        return written

    written = in_virtual_time(main)
    assert_law(written, rates)
    assert written[-1] - written[0] > 3 * 60.0, "each takes two"
