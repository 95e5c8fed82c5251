"""Whoever floods us with what is refused cannot fill the log with it."""

import pytest

from gateway.web import sparing
from gateway.web.sparing import LINES_AT_ONCE, LINES_PER_SECOND, LineBudget


class Clock:
    now = 100.0

    def monotonic(self) -> float:
        return self.now


def test_lines_beyond_the_rate_are_counted_on_the_next_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock()
    monkeypatch.setattr(sparing, "time", clock)
    flooded, other = LineBudget(), LineBudget()
    turns = [flooded.turn() for _ in range(2000)]
    assert turns == [{}] * LINES_AT_ONCE + [None] * (2000 - LINES_AT_ONCE)
    assert other.turn() == {}
    clock.now += 1
    turns = [flooded.turn() for _ in range(2000)]
    first = {"unlogged": 2000 - LINES_AT_ONCE}
    allowed = int(LINES_PER_SECOND)
    assert turns == [first] + [{}] * (allowed - 1) + [None] * (2000 - allowed)
