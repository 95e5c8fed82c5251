"""Group commit: in order, in bounded batches, and everybody learns what became of his item."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.store.batch import CommitTime, GroupCommit


class Disk:
    """A flush that the test lets through, batch by batch; item "bad" fails alone, "worse" all."""

    def __init__(self, *, open_: bool = True) -> None:
        self.batches: list[list[Any]] = []
        self.began = asyncio.Event()
        self.gate = asyncio.Event()
        if open_:
            self.gate.set()

    async def flush(self, batch: list[Any]) -> list[Any]:
        self.batches.append(batch)
        self.began.set()
        await self.gate.wait()
        if "worse" in batch:
            raise OSError("no space left")
        return [ValueError(item) if item == "bad" else f"{item}!" for item in batch]


@asynccontextmanager
async def running(commit: GroupCommit[Any, Any]) -> AsyncIterator[None]:
    task = asyncio.ensure_future(commit.run())
    yield
    commit.finish()
    await task


async def test_what_arrives_during_a_flush_forms_the_next_batch_in_order() -> None:
    disk = Disk(open_=False)
    commit: GroupCommit[Any, Any] = GroupCommit(disk.flush)
    async with running(commit):
        first = commit.submit("a")
        await disk.began.wait()
        rest = [commit.submit(item) for item in "bcd"]
        assert len(commit) == 3
        disk.gate.set()
        assert await asyncio.gather(first, *rest) == ["a!", "b!", "c!", "d!"]
    assert disk.batches == [["a"], ["b", "c", "d"]]


async def test_one_batch_is_in_flight_at_a_time() -> None:
    under_way = most = 0

    async def flush(batch: list[int]) -> list[int]:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0)
        under_way -= 1
        return batch

    commit: GroupCommit[int, int] = GroupCommit(flush, max_rows=2)
    async with running(commit):
        waiting = [commit.submit(number) for number in range(20)]
        assert await asyncio.gather(*waiting) == list(range(20))
    assert most == 1


@settings(max_examples=60)
@given(
    sizes=st.lists(st.integers(min_value=0, max_value=50), max_size=40),
    max_rows=st.integers(min_value=1, max_value=9),
    max_bytes=st.integers(min_value=1, max_value=60),
)
def test_batches_are_bounded_in_rows_and_bytes(
    sizes: list[int], max_rows: int, max_bytes: int
) -> None:
    async def run() -> list[list[int]]:
        disk = Disk()
        commit: GroupCommit[int, str] = GroupCommit(
            disk.flush, max_rows=max_rows, max_bytes=max_bytes, weigh=lambda size: size
        )
        for size in sizes:
            commit.submit(size)
        commit.finish()
        await commit.run()
        return disk.batches

    batches = asyncio.run(run())
    assert [size for batch in batches for size in batch] == sizes
    for batch in batches:
        assert 1 <= len(batch) <= max_rows
        assert sum(batch) <= max_bytes or len(batch) == 1


async def test_an_error_goes_to_its_own_submitter() -> None:
    disk = Disk()
    commit: GroupCommit[Any, Any] = GroupCommit(disk.flush)
    waiting = [commit.submit(item) for item in ("a", "bad", "c")]
    async with running(commit):
        results = await asyncio.gather(*waiting, return_exceptions=True)
    assert [results[0], results[2]] == ["a!", "c!"]
    assert isinstance(results[1], ValueError)
    assert len(disk.batches) == 1


async def test_a_flush_that_fails_fails_for_its_batch_and_for_no_other() -> None:
    disk = Disk()
    commit: GroupCommit[Any, Any] = GroupCommit(disk.flush, max_rows=2)
    waiting = [commit.submit(item) for item in ("a", "worse", "c")]
    async with running(commit):
        results = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(result) for result in results] == [OSError, OSError, str]


async def test_a_submitter_who_left_disturbs_nobody() -> None:
    disk = Disk(open_=False)
    commit: GroupCommit[Any, Any] = GroupCommit(disk.flush)
    gone, stays = commit.submit("a"), commit.submit("b")
    async with running(commit):
        await disk.began.wait()
        gone.cancel()
        disk.gate.set()
        assert await stays == "b!"


async def test_finish_flushes_everything_that_was_submitted() -> None:
    disk = Disk()
    commit: GroupCommit[Any, Any] = GroupCommit(disk.flush, max_rows=3, linger_seconds=3600.0)
    waiting = [commit.submit(item) for item in range(10)]
    commit.finish()
    await commit.run()
    assert all(future.done() for future in waiting)
    assert [len(batch) for batch in disk.batches] == [3, 3, 3, 1]


async def test_a_cancelled_run_leaves_nobody_waiting() -> None:
    disk = Disk(open_=False)
    commit: GroupCommit[Any, Any] = GroupCommit(disk.flush, max_rows=1)
    waiting = [commit.submit(item) for item in "abc"]
    task = asyncio.ensure_future(commit.run())
    await disk.began.wait()
    task.cancel()
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert all(isinstance(result, asyncio.CancelledError) for result in results)


# Patience and lingering --------------------------------------------------------------------------


async def test_who_waits_too_long_is_told_and_his_item_is_dropped() -> None:
    disk = Disk(open_=False)
    commit: GroupCommit[Any, Any] = GroupCommit(
        disk.flush, max_rows=1, patience_seconds=0.02, impatience=lambda: KeyError("too long")
    )
    async with running(commit):
        waiting = [commit.submit(item) for item in "ab"]
        results = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(result) for result in results] == [KeyError, KeyError]
        disk.gate.set()
    # The first was on its way and may be committed; the second must not be any more.
    assert disk.batches == [["a"]]


async def test_while_lingering_a_quarter_of_a_batch_is_flushed_at_once() -> None:
    disk = Disk()
    commit: GroupCommit[Any, Any] = GroupCommit(disk.flush, max_rows=8, linger_seconds=3600.0)
    async with running(commit):
        assert await commit.submit("first, after a pause") == "first, after a pause!"
        one = commit.submit("one")
        for _ in range(5):
            await asyncio.sleep(0)
        assert not one.done()
        two = commit.submit("two")
        assert await asyncio.gather(one, two) == ["one!", "two!"]
    assert [len(batch) for batch in disk.batches] == [1, 2]


async def test_lingering_ends_by_itself() -> None:
    disk = Disk()
    commit: GroupCommit[Any, Any] = GroupCommit(disk.flush, linger_seconds=0.01)
    async with running(commit):
        await commit.submit("a")
        assert await commit.submit("b") == "b!"


async def test_results_must_match_their_items() -> None:
    async def flush(batch: list[Any]) -> list[Any]:
        return []

    commit: GroupCommit[Any, Any] = GroupCommit(flush)
    commit.submit("a")
    commit.finish()
    with pytest.RaisesGroup(pytest.RaisesExc(ValueError, match="zip")):
        await commit.run()


# Several flights ---------------------------------------------------------------------------------


class Runway:
    """A flush whose batches the test lets through one by one, in any order, or has crash."""

    def __init__(self) -> None:
        self.flying: dict[Any, asyncio.Event] = {}  # by the batch's first item
        self.batches: list[list[Any]] = []
        self.most = 0
        self.crashing: set[Any] = set()

    async def flush(self, batch: list[Any]) -> list[Any]:
        self.batches.append(batch)
        gate = self.flying[batch[0]] = asyncio.Event()
        self.most = max(self.most, len(self.flying))
        await gate.wait()
        del self.flying[batch[0]]
        if batch[0] in self.crashing:
            raise OSError("no space left")
        return batch

    def land(self, first: Any) -> None:
        self.flying[first].set()

    def crash(self, first: Any) -> None:
        self.crashing.add(first)
        self.land(first)


async def settle_down() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def flies_alone(
    commit: GroupCommit[int, int], runway: Runway, number: int, *, seconds: float = 0.0
) -> None:
    """Have one item flushed, with nothing beside it, in about so many seconds."""
    lone = commit.submit(number)
    await settle_down()
    await asyncio.sleep(seconds)
    runway.land(number)
    await lone


async def test_a_second_flight_takes_off_when_it_is_worth_it_and_may_land_first() -> None:
    runway = Runway()
    commit: GroupCommit[int, int] = GroupCommit(runway.flush, flights=2)
    async with running(commit):
        first = [commit.submit(number) for number in range(40)]
        await settle_down()
        later = [commit.submit(number) for number in range(100, 139)]
        await settle_down()
        assert list(runway.flying) == [0], "39 are fewer than the 40 that fly"
        later.append(commit.submit(139))
        await settle_down()
        assert list(runway.flying) == [0, 100]
        third = [commit.submit(number) for number in range(200, 300)]
        await settle_down()
        assert list(runway.flying) == [0, 100], "two at a time, whoever waits"
        runway.land(100)
        assert await asyncio.gather(*later) == list(range(100, 140))
        assert not any(future.done() for future in first)
        await settle_down()
        assert list(runway.flying) == [0, 200]
        runway.land(0)
        runway.land(200)
        assert len(await asyncio.gather(*first, *third)) == 140
    assert runway.most == 2


async def test_a_lone_flight_that_ends_takes_what_waits_however_few() -> None:
    runway = Runway()
    commit: GroupCommit[int, int] = GroupCommit(runway.flush, flights=2)
    async with running(commit):
        first = [commit.submit(number) for number in range(40)]
        await settle_down()
        last = commit.submit(100)
        await settle_down()
        assert list(runway.flying) == [0]
        runway.land(0)
        await asyncio.gather(*first)
        await settle_down()
        runway.land(100)
        assert await last == 100


async def test_of_two_flights_only_one_has_items_that_must_stay_in_order() -> None:
    runway = Runway()
    commit: GroupCommit[int, int] = GroupCommit(runway.flush, flights=2)
    async with running(commit):
        first = [commit.submit(number, in_order=number == 7) for number in range(10)]
        await settle_down()
        second = [commit.submit(number, in_order=number == 120) for number in range(100, 130)]
        await settle_down()
        assert runway.batches[1] == list(range(100, 120)), "as far as the next one in order"
        runway.land(100)
        await settle_down()
        assert list(runway.flying) == [0], "120 must not overtake 7"
        runway.land(0)
        await asyncio.gather(*first)
        await settle_down()
        assert runway.batches[2] == list(range(120, 130))
        runway.land(120)
        await asyncio.gather(*second)


async def test_where_a_commit_is_quick_only_a_full_batch_flies_beside_another() -> None:
    runway = Runway()
    commit: GroupCommit[int, int] = GroupCommit(
        runway.flush, flights=2, max_rows=50, slow_seconds=60.0
    )
    async with running(commit):
        waiting = [commit.submit(0)]
        await settle_down()
        waiting += [commit.submit(number) for number in range(100, 149)]
        await settle_down()
        assert list(runway.flying) == [0], "49 go with the next"
        waiting.append(commit.submit(149))
        await settle_down()
        assert list(runway.flying) == [0, 100]
        runway.land(0)
        runway.land(100)
        await asyncio.gather(*waiting)


async def test_where_a_commit_is_slow_any_batch_does_that_is_worth_it() -> None:
    runway = Runway()
    commit: GroupCommit[int, int] = GroupCommit(runway.flush, flights=2, slow_seconds=0.001)
    async with running(commit):
        await flies_alone(commit, runway, 0, seconds=0.05)

        waiting = [commit.submit(1)]
        await settle_down()
        waiting += [commit.submit(number) for number in range(100, 108)]
        await settle_down()
        assert list(runway.flying) == [1, 100]
        runway.land(100)
        await settle_down()
        waiting += [commit.submit(number) for number in range(200, 208)]
        await settle_down()
        assert list(runway.flying) == [1, 200], "what flew beside another tells nothing"
        runway.land(200)
        await settle_down()
        runway.land(1)
        await asyncio.gather(*waiting)

        for number in range(300, 303):  # what flies alone does
            await flies_alone(commit, runway, number)
        waiting = [commit.submit(400)]
        await settle_down()
        waiting += [commit.submit(number) for number in range(500, 520)]
        await settle_down()
        assert list(runway.flying) == [400]
        runway.land(400)
        await settle_down()
        runway.land(500)
        await asyncio.gather(*waiting)


async def test_a_batch_that_fails_tells_nothing_of_the_time_of_a_commit() -> None:
    runway = Runway()
    commit: GroupCommit[int, int] = GroupCommit(runway.flush, flights=2, slow_seconds=0.001)
    async with running(commit):
        await flies_alone(commit, runway, 0, seconds=0.05)

        lone = commit.submit(1)
        await settle_down()
        runway.crash(1)
        with pytest.raises(OSError, match="no space left"):
            await lone

        waiting = [commit.submit(2)]
        await settle_down()
        waiting += [commit.submit(number) for number in range(100, 108)]
        await settle_down()
        assert list(runway.flying) == [2, 100], "a commit is still slow"
        runway.land(2)
        runway.land(100)
        await asyncio.gather(*waiting)


def test_the_time_of_a_commit_falls_at_once_and_rises_slowly() -> None:
    commit = CommitTime()
    for _ in range(100):
        commit.note(1, 0.010)
    assert 0.0095 < commit.seconds < 0.010
    commit.note(1, 0.002)
    assert 0.0015 < commit.seconds < 0.002
    commit.note(1, 0.010)
    assert commit.seconds < 0.003
    commit.note(250, 0.0105)
    assert commit.seconds < 0.0006, "most of it were its rows"
    commit.note(250, 0.001)
    assert commit.seconds == 0.0


@settings(max_examples=100)
@given(
    arrivals=st.lists(
        st.tuples(st.booleans(), st.sampled_from([0] * 9 + [1, 2])), min_size=20, max_size=120
    ),
    flights=st.integers(min_value=1, max_value=3),
    max_rows=st.integers(min_value=1, max_value=20),
    slow_seconds=st.sampled_from([0.0, 60.0]),
    lands_last=st.booleans(),
)
def test_everything_is_flushed_once_and_in_order_where_it_must_be(
    arrivals: list[tuple[bool, int]],
    flights: int,
    max_rows: int,
    slow_seconds: float,
    *,
    lands_last: bool,
) -> None:
    """Each arrival: whether it is in order, and how many flights the test then lets land."""

    async def run() -> None:
        runway = Runway()
        landed: list[int] = []
        commit: GroupCommit[int, int] = GroupCommit(
            runway.flush, flights=flights, max_rows=max_rows, slow_seconds=slow_seconds
        )

        async def land_one() -> None:
            await settle_down()
            if runway.flying:
                first = list(runway.flying)[-1 if lands_last else 0]
                landed.extend(next(b for b in runway.batches if b[0] == first))
                runway.land(first)
                await settle_down()

        async with running(commit):
            waiting = []
            for number, (in_order, lands) in enumerate(arrivals):
                waiting.append(commit.submit(number, in_order=in_order))
                for _ in range(lands):
                    await land_one()
            commit.finish()
            while not all(future.done() for future in waiting):
                await land_one()
        assert sorted(landed) == list(range(len(arrivals)))
        assert runway.most <= flights
        ordered = [number for number in landed if arrivals[number][0]]
        assert ordered == sorted(ordered)

    asyncio.run(run())


async def test_who_is_more_impatient_is_told_sooner() -> None:
    disk = Disk(open_=False)
    commit: GroupCommit[Any, Any] = GroupCommit(
        disk.flush, max_rows=1, patience_seconds=60.0, impatience=lambda: KeyError("too long")
    )
    async with running(commit):
        first, hasty, calm = (
            commit.submit(item, patience_seconds=seconds)
            for item, seconds in (("first", 60.0), ("hasty", 0.01), ("calm", 3600.0))
        )
        with pytest.raises(KeyError):
            await hasty
        assert not first.done()
        assert not calm.done()
        disk.gate.set()
        assert await asyncio.gather(first, calm) == ["first!", "calm!"]
    assert disk.batches == [["first"], ["calm"]]
