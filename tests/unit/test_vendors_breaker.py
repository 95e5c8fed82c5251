from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from gateway.config.model import Breaker
from gateway.vendors.breaker import NO_PROBE, BreakerState, CircuitBreaker, Transition

SETTINGS = Breaker(failures=3, window_seconds=10.0, cooldown_seconds=5.0)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def breaker() -> tuple[CircuitBreaker, Clock, list[Transition]]:
    clock, changes = Clock(), list[Transition]()
    return CircuitBreaker(SETTINGS, clock=clock, on_change=changes.append), clock, changes


def opened() -> tuple[CircuitBreaker, Clock, list[Transition]]:
    made = breaker()
    for _ in range(3):
        assert made[0].allow()
        made[0].record(False)
    return made


def test_failures_in_a_row_open_it_until_the_cooldown_is_over() -> None:
    subject, clock, changes = opened()
    assert subject.state is BreakerState.OPEN
    assert subject.opened_until == 105.0
    assert subject.delay() == 5.0
    assert not subject.allow()
    clock.now += 5.0
    assert subject.state is BreakerState.HALF_OPEN
    assert subject.delay() == 0.0
    assert changes == [Transition(BreakerState.CLOSED, BreakerState.OPEN, 105.0)]


def test_a_success_in_between_starts_the_count_again() -> None:
    subject, _, changes = breaker()
    for success in (False, False, True, False, False):
        subject.record(success)
    assert subject.state is BreakerState.CLOSED
    assert changes == []


def test_failures_farther_apart_than_the_window_do_not_open_it() -> None:
    subject, clock, _ = breaker()
    for _ in range(20):
        subject.record(False)
        clock.now += 5.1
    assert subject.state is BreakerState.CLOSED


def test_half_open_lets_one_probe_through_whose_success_closes() -> None:
    subject, clock, changes = opened()
    clock.now += 5.0
    assert subject.allow()
    assert not subject.allow()
    assert subject.delay() > 0
    subject.record(True)
    assert subject.allow()
    assert subject.allow()
    assert [change.after for change in changes] == ["open", "half-open", "closed"]


def test_a_probe_that_fails_opens_it_again() -> None:
    subject, clock, changes = opened()
    clock.now += 6.0
    assert subject.allow()
    subject.record(False)
    assert subject.opened_until == 111.0
    assert [change.after for change in changes] == ["open", "half-open", "open"]


def test_a_lost_probe_blocks_only_for_a_cooldown() -> None:
    subject, clock, _ = opened()
    clock.now += 5.0
    assert subject.allow()
    clock.now += 4.9
    assert not subject.allow()
    clock.now += 0.2
    assert subject.allow()


def test_a_probe_that_was_never_sent_is_given_back_and_the_next_call_probes() -> None:
    subject, clock, changes = opened()
    clock.now += 5.0
    first = subject.allow()
    assert first is not None
    assert subject.allow() is None
    assert subject.give_back(first)
    assert not subject.give_back(first)
    second = subject.allow()
    assert second is not None
    assert not subject.give_back(first)  # a late word of the first does not free the second's place
    assert subject.allow() is None
    subject.record(True)
    assert not subject.give_back(second)
    assert [change.after for change in changes] == ["open", "half-open", "closed"]


def test_late_results_of_earlier_calls_do_not_move_an_open_breaker() -> None:
    subject, _, _ = opened()
    subject.record(True)
    subject.record(False)
    assert subject.opened_until == 105.0


def test_another_nodes_news_open_and_close_it() -> None:
    subject, _, changes = breaker()
    subject.open_for(3.0)
    subject.open_for(1.0)
    assert subject.opened_until == 103.0
    subject.reset()
    subject.reset()
    assert subject.allow()
    assert [change.after for change in changes] == ["open", "closed"]


class BreakerMachine(RuleBasedStateMachine):
    """Whatever happens: no call while open, one probe per cool-down, and never stuck."""

    def __init__(self) -> None:
        super().__init__()
        self.changes: list[Transition] = []
        self.clock = Clock()
        self.subject = CircuitBreaker(SETTINGS, clock=self.clock, on_change=self.changes.append)
        self.permits: list[int] = []  # of calls under way
        self.probe = 0  # the permit of the latest probe
        self.last_probe = float("-inf")
        self.failures_in_a_row: list[float] = []

    @rule(quarters=st.integers(0, 48))
    def time_passes(self, quarters: int) -> None:
        self.clock.now += quarters / 4  # exact in binary, so that limits may be met exactly

    @rule()
    def ask(self) -> None:
        before, delay = self.subject.state, self.subject.delay()
        permit = self.subject.allow()
        assert (permit is not None) == (delay == 0.0)
        if before is BreakerState.OPEN:
            assert permit is None
        if permit is None:
            return
        assert (permit == NO_PROBE) == (before is BreakerState.CLOSED)
        if before is BreakerState.HALF_OPEN:
            assert self.clock.now - self.last_probe >= SETTINGS.cooldown_seconds
            assert permit > self.probe
            self.last_probe, self.probe = self.clock.now, permit
        self.permits.append(permit)

    @precondition(lambda self: self.permits)
    @rule(success=st.booleans(), which=st.integers(0, 99))
    def finish(self, success: bool, which: int) -> None:
        permit = self.permits.pop(which % len(self.permits))
        self.record(success)
        assert not self.subject.give_back(permit) or permit == self.probe

    def record(self, success: bool) -> None:
        before, changes = self.subject._state, len(self.changes)
        self.subject.record(success)
        if before is BreakerState.HALF_OPEN:
            self.last_probe = float("-inf")
        if before is BreakerState.CLOSED:
            self.failures_in_a_row = (
                [] if success else [*self.failures_in_a_row[-2:], self.clock.now]
            )
            due = (
                len(self.failures_in_a_row) == SETTINGS.failures
                and self.clock.now - self.failures_in_a_row[0] <= SETTINGS.window_seconds
            )
            assert (len(self.changes) > changes) == due
        if len(self.changes) > changes:
            self.failures_in_a_row = []

    @precondition(lambda self: self.permits)
    @rule(which=st.integers(0, 99))
    def give_back(self, which: int) -> None:
        """A call was cut short, or never sent: if it was the probe, the next may probe at once."""
        permit = self.permits.pop(which % len(self.permits))
        before, delay = self.subject.state, self.subject.delay()
        waits = self.last_probe > float("-inf")
        given = self.subject.give_back(permit)
        assert given == (permit == self.probe and before is BreakerState.HALF_OPEN and waits)
        assert self.subject.state is before
        assert self.subject.delay() == (0.0 if given else delay)
        if given:
            self.last_probe = float("-inf")

    @precondition(lambda self: self.permits)
    @rule()
    def lose(self) -> None:
        self.permits.pop()

    @rule(seconds=st.integers(1, 4))
    def another_node_opens(self, seconds: int) -> None:
        self.subject.open_for(float(seconds))
        assert self.subject.state is BreakerState.OPEN
        self.last_probe = float("-inf")
        self.failures_in_a_row = []

    @rule()
    def an_operator_resumes(self) -> None:
        self.subject.reset()
        assert self.subject.allow() == NO_PROBE
        self.last_probe = float("-inf")

    @invariant()
    def never_stuck(self) -> None:
        assert 0.0 <= self.subject.delay() <= SETTINGS.cooldown_seconds

    @invariant()
    def changes_join(self) -> None:
        for before, after in zip(self.changes, self.changes[1:], strict=False):
            assert before.after is after.before
        for change in self.changes:
            assert change.before is not change.after
            assert (change.opened_until > 0) == (change.after is BreakerState.OPEN)


BreakerMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40)
TestBreaker = BreakerMachine.TestCase


def rated(**given: float) -> tuple[CircuitBreaker, Clock]:
    clock = Clock()
    fields: dict[str, object] = {
        "failures": 1000,
        "ratio": 0.5,
        "minimum": 20,
        "window_seconds": 60,
    }
    return CircuitBreaker(Breaker(**(fields | given)), clock=clock), clock  # type: ignore[arg-type]


def test_a_ratio_of_failures_in_the_window_opens_it_though_others_succeed() -> None:
    subject, clock = rated()
    for number in range(19):
        subject.record(number % 2 == 0)
        clock.now += 1.0
    assert subject.closed  # 9 of 19: too few calls to say
    subject.record(False)
    assert subject.state is BreakerState.OPEN  # 10 of 20


def test_a_success_never_opens_it() -> None:
    subject, _ = rated(ratio=0.1, minimum=10)
    for success in [False] * 9 + [True]:
        subject.record(success)
    assert subject.closed
    subject.record(False)
    assert not subject.closed


def test_calls_that_left_the_window_have_no_part_in_the_ratio() -> None:
    subject, clock = rated()
    for _ in range(15):
        subject.record(False)
    clock.now += 60.0
    for number in range(40):
        subject.record(number % 3 != 0)
    assert subject.closed
    assert len(subject._calls) <= 2


def test_the_ratio_starts_anew_after_it_was_open() -> None:
    subject, clock = rated()
    for _ in range(20):
        subject.record(False)
    clock.now += 30.0
    assert subject.allow()
    subject.record(True)
    assert subject.closed
    subject.record(False)
    assert subject.closed


def test_what_another_node_told_is_marked_so_that_it_is_not_told_on() -> None:
    subject, _, changes = breaker()
    subject.open_for(3.0)
    subject.reset()
    for _ in range(3):
        subject.record(False)
    assert [change.told for change in changes] == [True, True, False]
