"""Each takes every step after all before it, in order; who fails is told once and stays behind."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from gateway.cohorts import MAX_MEMBERS, Cohort, next_stage

STAGES = 3
NEVER = STAGES  # the stage at which a member fails

# By turn of the loop, at which stage each of those who come in it fails.
turns = st.lists(
    st.lists(st.integers(0, NEVER), max_size=2 * MAX_MEMBERS + 3), min_size=1, max_size=4
)


class Members:
    """A cohort whose members are numbers, and what has been done with them."""

    def __init__(self, fails_at: list[int], *, joins_on_failure: bool = False) -> None:
        self.fails_at = fails_at
        self.joins_on_failure = joins_on_failure
        self.steps: list[tuple[int, int]] = []  # (stage, member)
        self.failed: list[tuple[int, str]] = []
        self.depth = self.deepest = 0
        self.cohort: Cohort[int] = Cohort(
            [self.stage(number) for number in range(STAGES)], self.fail
        )

    def stage(self, number: int) -> Callable[[int], None]:
        def take(member: int) -> None:
            self.steps.append((number, member))
            if self.fails_at[member] == number:
                raise ValueError(f"{member} at {number}")

        return take

    def fail(self, member: int, error: Exception) -> None:
        self.failed.append((member, str(error)))
        if self.joins_on_failure and member + MAX_MEMBERS < len(self.fails_at):
            self.depth += 1
            self.deepest = max(self.deepest, self.depth)
            self.cohort.join(member + MAX_MEMBERS)
            self.depth -= 1

    def taken(self, member: int) -> list[int]:
        return [stage for stage, who in self.steps if who == member]


@given(turns)
async def test_each_takes_its_steps_in_order_and_fails_once(turns: list[list[int]]) -> None:
    members = Members([stage for turn in turns for stage in turn])
    joined = 0
    for turn in turns:
        for _ in turn:
            members.cohort.join(joined)
            joined += 1
        await asyncio.sleep(0)
        assert {who for _, who in members.steps} == set(range(joined))
    for member, fails_at in enumerate(members.fails_at):
        assert members.taken(member) == list(range(min(fails_at + 1, STAGES)))
    expected = [(who, f"{who} at {at}") for who, at in enumerate(members.fails_at) if at < NEVER]
    assert sorted(members.failed) == expected
    for stage in range(STAGES):
        came = [who for number, who in members.steps if number == stage]
        assert came == sorted(came), "in order of arrival"


async def test_all_of_a_turn_take_a_step_before_any_takes_the_next() -> None:
    members = Members([NEVER] * 4)
    for member in range(4):
        members.cohort.join(member)
    assert members.steps == []
    await asyncio.sleep(0)
    assert members.steps == [(stage, who) for stage in range(STAGES) for who in range(4)]


async def test_a_full_cohort_does_not_wait_for_the_end_of_the_turn() -> None:
    members = Members([NEVER] * (MAX_MEMBERS + 1))
    for member in range(MAX_MEMBERS):
        members.cohort.join(member)
    assert len(members.steps) == STAGES * MAX_MEMBERS
    members.cohort.join(MAX_MEMBERS)
    assert len(members.steps) == STAGES * MAX_MEMBERS
    await asyncio.sleep(0)
    assert members.taken(MAX_MEMBERS) == list(range(STAGES))


async def test_those_who_come_because_others_failed_go_with_the_next_cohort() -> None:
    """A connection whose request was refused hands over the next one that is here already."""
    members = Members([0] * (MAX_MEMBERS * 50), joins_on_failure=True)
    for member in range(MAX_MEMBERS):
        members.cohort.join(member)
    for _ in range(60):
        await asyncio.sleep(0)
    assert members.failed == [(who, f"{who} at 0") for who in range(MAX_MEMBERS * 50)]
    assert members.deepest == 1, "however many are here, they do not pile up on the stack"


async def test_a_failure_that_cannot_be_told_is_told_to_the_loop_and_the_others_go_on() -> None:
    faults: list[object] = []
    asyncio.get_running_loop().set_exception_handler(
        lambda _loop, context: faults.append(context["exception"])
    )
    steps: list[int] = []

    def stage(member: int) -> None:
        if member == 0:
            raise ValueError("no")
        steps.append(member)

    def fail(_member: int, _error: Exception) -> None:
        raise fault

    fault = RuntimeError("nobody there")
    cohort: Cohort[int] = Cohort([stage], fail)
    for member in range(MAX_MEMBERS):
        cohort.join(member)
    assert steps == list(range(1, MAX_MEMBERS))
    assert faults == [fault]
    for member in range(1, MAX_MEMBERS + 1):
        cohort.join(member)
    assert len(steps) == 2 * MAX_MEMBERS - 1, "the next full cohort does not wait either"


async def test_tasks_come_as_far_as_each_other() -> None:
    steps = []

    async def task(name: str) -> None:
        for stage in range(2):
            steps.append((stage, name))
            await next_stage()

    await asyncio.gather(task("a"), task("b"), task("c"))
    assert steps == [(stage, name) for stage in range(2) for name in "abc"]
