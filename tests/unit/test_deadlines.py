"""One timer for all calls ends each of them as a timer of its own would."""

from __future__ import annotations

import asyncio

import pytest
from virtual_time import VirtualTime, in_virtual_time

from gateway.deadlines import Deadlines


def ends_of(*plans: tuple[float, float, float]) -> list[tuple[str, float]]:
    """Return how and when each block ended that begins, may take, and takes so many seconds."""

    async def main(loop: VirtualTime) -> list[tuple[str, float]]:
        deadlines = Deadlines()
        start = loop.time()

        async def block(begins: float, within: float, takes: float) -> tuple[str, float]:
            await asyncio.sleep(begins)
            try:
                with deadlines.within(within):
                    await asyncio.sleep(takes)
            except TimeoutError:
                return "timeout", round(loop.time() - start, 2)
            return "done", round(loop.time() - start, 2)

        return list(await asyncio.gather(*(block(*plan) for plan in plans)))

    return in_virtual_time(main)


def test_each_block_ends_at_its_own_time() -> None:
    assert ends_of((0, 20, 30), (1, 20, 2), (2, 1, 9), (2, 1, 0.5), (25, 20, 30), (26, 5, 9)) == [
        ("timeout", 20),
        ("done", 3),
        ("timeout", 3),  # though the timer was set for a later one
        ("done", 2.5),
        ("timeout", 45),  # though nobody was left when it began
        ("timeout", 31),
    ]


def test_a_pause_does_not_count() -> None:
    async def main(loop: VirtualTime) -> None:
        deadlines = Deadlines()
        start = loop.time()
        deadline = deadlines.within(10)
        with deadline:
            await asyncio.sleep(6)
            for _ in range(2):
                with deadline.paused():
                    await asyncio.sleep(100)
            await asyncio.sleep(3)  # 9 of 10
        assert not deadline.expired

        deadline = deadlines.within(10)
        with pytest.raises(TimeoutError), deadline:  # noqa: PT012
            with deadline.paused():
                await asyncio.sleep(100)
            await asyncio.sleep(60)
        assert deadline.expired
        assert loop.time() - start == pytest.approx(209 + 110, abs=0.1)

    in_virtual_time(main)


def test_while_any_of_several_pauses_no_time_counts() -> None:
    async def main(loop: VirtualTime) -> float:
        deadlines = Deadlines()
        start = loop.time()
        deadline = deadlines.within(10)

        async def pauses(begins: float, takes: float) -> None:
            await asyncio.sleep(begins)
            with deadline.paused():
                await asyncio.sleep(takes)

        with pytest.raises(TimeoutError), deadline:  # noqa: PT012
            await asyncio.gather(pauses(1, 50), pauses(31, 100), pauses(5, 1))
            await asyncio.sleep(60)
        return loop.time() - start

    assert in_virtual_time(main) == pytest.approx(1 + 130 + 9, abs=0.1)


def test_a_pause_that_outlives_its_block_breaks_nothing_off() -> None:
    async def main(_loop: VirtualTime) -> None:
        deadline = Deadlines().within(10)

        async def pauses() -> None:
            with deadline.paused():
                await asyncio.sleep(20)

        with deadline:
            left = asyncio.ensure_future(pauses())
            await asyncio.sleep(1)
        await asyncio.sleep(60)  # what this task does next
        await left

    in_virtual_time(main)


def test_a_pause_after_the_end_does_not_end_it_twice() -> None:
    async def main(_loop: VirtualTime) -> None:
        deadline = Deadlines().within(10)

        async def works() -> None:
            try:
                await asyncio.sleep(60)
            finally:
                with deadline.paused():
                    await asyncio.sleep(20)
                await asyncio.sleep(20)

        with pytest.raises(TimeoutError), deadline:
            await works()

    in_virtual_time(main)


def test_who_is_cancelled_in_a_pause_is_cancelled() -> None:
    async def main(_loop: VirtualTime) -> None:
        deadlines = Deadlines()

        async def waits() -> None:
            deadline = deadlines.within(10)
            with deadline, deadline.paused():
                await asyncio.sleep(60)

        cancelled = asyncio.ensure_future(waits())
        await asyncio.sleep(20)
        cancelled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelled

    in_virtual_time(main)


def test_only_its_own_cancelling_is_a_timeout() -> None:
    async def main(loop: VirtualTime) -> None:
        deadlines = Deadlines()

        async def waits() -> None:
            with deadlines.within(10):
                await asyncio.sleep(60)

        cancelled = asyncio.ensure_future(waits())
        await asyncio.sleep(1)
        cancelled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        both = asyncio.ensure_future(waits())
        loop.call_later(10, both.cancel)  # in the same turn of the loop
        with pytest.raises(asyncio.CancelledError):
            await both
        with pytest.raises(KeyError), deadlines.within(1):
            raise KeyError

    in_virtual_time(main)


def test_an_outer_block_may_end_first() -> None:
    async def main(loop: VirtualTime) -> float:
        deadlines = Deadlines()
        start = loop.time()
        with pytest.raises(TimeoutError), deadlines.within(2), deadlines.within(5):
            await asyncio.sleep(60)
        return loop.time() - start

    assert round(in_virtual_time(main), 2) == 2
