"""Of each turn of the loop what comes in has a slice; nobody overtakes, and nobody is forgotten."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.web.turnstile import MOST_REST_TURNS, REST_TURNS, Turnstile

SLICE = 0.005


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Guest:
    """Takes its time when it is let in, and notes that it was."""

    def __init__(self, scene: Scene, name: int, seconds: float) -> None:
        self.scene, self.name, self.seconds = scene, name, seconds

    def enter(self, waited_seconds: float) -> None:
        scene = self.scene
        scene.entered.append((self.name, waited_seconds))
        scene.spent[-1].append(self.seconds)
        scene.clock.now += self.seconds

    def arrive(self) -> None:
        if self.scene.turnstile.lets_in():
            self.enter(0.0)
        else:
            self.scene.turnstile.wait(self)


class Scene:
    def __init__(self) -> None:
        self.clock = Clock()
        self.behind = False
        self.turnstile = Turnstile(
            slice_seconds=SLICE, clock=self.clock, behind=lambda: self.behind
        )
        self.entered: list[tuple[int, float]] = []  # who, after how many seconds
        self.spent: list[list[float]] = [[]]  # by turn of the loop

    async def turns(self, arrivals: list[list[float]]) -> None:
        """Let guests arrive turn by turn, then go on until nobody waits."""
        number = 0
        while arrivals or len(self.turnstile):
            for seconds in arrivals.pop(0) if arrivals else []:
                Guest(self, number, seconds).arrive()
                number += 1
            await asyncio.sleep(0)
            self.spent.append([])


costs = st.floats(0.0, 0.02)


@given(st.lists(st.lists(costs, max_size=30), max_size=12), st.booleans())
def test_all_are_let_in_once_and_in_their_order_and_no_turn_takes_longer_than_its_slice(
    arrivals: list[list[float]], behind: bool
) -> None:
    scene, count = Scene(), sum(map(len, arrivals))
    scene.behind = behind
    asyncio.run(scene.turns(arrivals))
    assert [name for name, _ in scene.entered] == list(range(count))
    for spent in scene.spent:
        # The last one may begin just before the slice ends; and a turn may see the end of one
        # slice and, its line gone, those who come while it lasts.
        assert sum(spent[:-1]) <= 2 * SLICE + max(spent, default=0.0)


async def test_the_rest_of_the_loop_has_its_turns_between_two_slices() -> None:
    scene, others = Scene(), 0

    async def other() -> None:
        nonlocal others
        while len(scene.turnstile):
            others += 1
            await asyncio.sleep(0)

    for number in range(1000):
        Guest(scene, number, SLICE / 5).arrive()
    await other()
    slices = 1000 / 6  # five or six in each
    assert others >= REST_TURNS * (slices - 1)


@pytest.mark.parametrize(
    ("behind_turns", "rest"),
    [(0, REST_TURNS), (REST_TURNS - 1, REST_TURNS), (REST_TURNS, REST_TURNS + 1),
     (10, 11), (1000, MOST_REST_TURNS)],
)  # fmt: skip
async def test_jobs_that_are_behind_have_more_turns_and_not_any_number(
    behind_turns: int, rest: int
) -> None:
    """They catch up after so many turns of each rest."""
    scene, turns = Scene(), []
    for number in range(10):
        Guest(scene, number, SLICE).arrive()
    since, entered = 0, len(scene.entered)
    while len(scene.turnstile):
        since += 1
        scene.behind = since <= behind_turns
        await asyncio.sleep(0)
        if len(scene.entered) > entered:
            turns.append(since)
            since, entered = 0, len(scene.entered)
    assert turns == [rest] * 9


async def test_each_is_told_how_long_it_has_waited() -> None:
    scene = Scene()
    for number in range(3):
        Guest(scene, number, SLICE).arrive()
    scene.clock.now += 1.0
    Guest(scene, 3, 0.0).arrive()
    await scene.turns([])
    assert [name for name, _ in scene.entered] == [0, 1, 2, 3]
    waited = [seconds for _, seconds in scene.entered]
    assert waited == pytest.approx([0.0, 1.0, 1.0 + SLICE, 2 * SLICE])


async def test_when_nobody_comes_nothing_turns() -> None:
    scene = Scene()
    Guest(scene, 0, 0.0).arrive()
    for _ in range(3):
        await asyncio.sleep(0)
    assert not scene.turnstile._turning
