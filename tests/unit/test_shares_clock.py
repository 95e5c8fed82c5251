"""How one node's share counts time, reports, and gives back; the law itself is in its own file."""

from __future__ import annotations

import pytest

from gateway.config.model import Rate
from gateway.model import RateGrant, RateOrder
from gateway.vendors.shares import Share

NEVER = float("-inf")


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def share(*rates: Rate) -> tuple[Share, Clock]:
    clock = Clock()
    return Share(rates or (Rate(20, 1.0),), pace_seconds=0.05, clock=clock), clock


def granted(calls: int, **given: float | bool) -> RateGrant:
    plain: dict[str, float | bool] = {
        "from_seconds": 0.2,
        "until_seconds": 0.6,
        "exclusive": False,
        "contended": False,
        "retry_seconds": 0.0,
    }
    return RateGrant(granted=calls, **(plain | given))  # type: ignore[arg-type]


def ordered(subject: Share) -> RateOrder:
    plan = subject.plan()
    assert isinstance(plan, RateOrder), plan
    return plan


def test_a_start_counts_from_the_receipt_and_an_end_from_the_sending() -> None:
    subject, clock = share()
    with subject.waits():
        order = ordered(subject)
        clock.now += 0.3  # on its way, and back
        subject.settle(order, granted(2))
    assert subject.free_at(clock.now) == pytest.approx(100.3 + 0.2)
    subject.take(100.55)
    assert subject.free_at(100.55) == pytest.approx(100.3 + 0.2 + 0.05)
    clock.now = 100.61
    assert subject.free_at(clock.now) > clock.now  # the second one has expired
    assert subject._have(clock.now) == 0


def test_calls_are_reported_by_their_age_at_the_sending_and_once() -> None:
    subject, clock = share()
    with subject.waits():
        subject.settle(ordered(subject), granted(3, from_seconds=0.0, until_seconds=9.0))
    for at in (100.0, 100.2):
        clock.now = at
        subject.take(at)
    clock.now = 100.4
    order = ordered(subject)
    assert order.used == (pytest.approx((0.4, 1)), pytest.approx((0.2, 1)))
    assert order.kept == 1
    subject.settle(order, granted(0))
    clock.now = 101.0
    assert subject.farewell().used == ()


def test_what_an_order_without_an_answer_reported_is_reported_again() -> None:
    subject, clock = share()
    with subject.waits():
        subject.settle(ordered(subject), granted(2, from_seconds=0.0, until_seconds=9.0))
    subject.take(100.0)
    clock.now = 100.5
    first = ordered(subject)
    subject.fail()
    assert isinstance(subject.plan(), float)  # not at once
    clock.now = 101.0
    second = ordered(subject)
    assert sum(calls for _, calls in second.used) == 1
    assert second.number > first.number


def test_a_long_report_is_cut_into_few_spans_as_young_as_their_youngest_call() -> None:
    subject, clock = share(Rate(100_000, 1.0))
    with subject.waits():
        subject.settle(ordered(subject), granted(5000, from_seconds=0.0, until_seconds=9.0))
    for number in range(1000):
        subject.take(100.0 + number / 1000)
    clock.now = 101.0
    used = ordered(subject).used
    assert len(used) <= 17
    assert sum(calls for _, calls in used) == 1000
    seen = 0
    for age, calls in used:
        seen += calls
        assert 101.0 - age == pytest.approx(100.0 + (seen - 1) / 1000)


def test_a_call_that_was_not_made_may_be_made_later_unless_it_is_reported() -> None:
    subject, clock = share()
    with subject.waits():
        subject.settle(ordered(subject), granted(2, from_seconds=0.0, until_seconds=9.0))
    subject.take(100.0)
    subject.give_back(100.0)
    assert subject._have(clock.now) == 2
    subject.take(100.0)
    clock.now = 100.25
    ordered(subject)
    subject.give_back(100.0)  # the order may have arrived, whatever becomes of its answer
    assert subject._have(clock.now) == 1


def test_the_only_call_of_an_hour_is_not_lost_to_a_connection_that_opens_slowly() -> None:
    subject, clock = share(Rate(1, 3600.0))
    with subject.waits(), subject.waits():
        subject.settle(ordered(subject), granted(1, from_seconds=0.0, until_seconds=9.0))
        subject.take(100.0)
        clock.now = 100.1
        early = ordered(subject)  # somebody else waits, too
        assert (early.used, early.kept) == ((), 1)  # bought, and so it weighs on the limit
        subject.settle(early, granted(0, retry_seconds=3600.0))
        subject.give_back(100.0)
        assert subject.free_at(clock.now) <= clock.now
        subject.take(100.2)
        clock.now = 101.5
        assert ordered(subject).used == (pytest.approx((1.3, 1)),)


def test_a_node_alone_that_is_told_of_another_stops_before_it_reports() -> None:
    subject, clock = share()
    with subject.waits():
        subject.settle(ordered(subject), granted(1, exclusive=True, until_seconds=3.0))
    assert subject.free_at(102.9) == NEVER
    for number in range(30):
        subject.take(100.0 + number / 20)
    clock.now = 101.6
    renewal = ordered(subject)
    assert not renewal.releases
    subject.settle(renewal, granted(0, exclusive=True, contended=True, until_seconds=1.4))
    assert subject.free_at(clock.now) == NEVER  # its time is not over
    subject.take(101.6)
    last = ordered(subject)
    assert last.releases
    assert last.kept == 0
    assert sum(calls for _, calls in last.used) == 1
    assert subject.free_at(clock.now) > clock.now


def test_alone_it_calls_no_longer_than_it_may_when_no_answer_comes() -> None:
    subject, clock = share()
    with subject.waits():
        order = ordered(subject)
        clock.now += 0.5
        subject.settle(order, granted(1, exclusive=True, until_seconds=3.0))
    assert subject.free_at(102.99) == NEVER
    clock.now = 103.0
    assert subject.free_at(103.0) > 103.0


def test_a_vendor_with_long_windows_only_is_never_called_alone() -> None:
    assert share(Rate(600, 60.0))[0].terms.exclusive_seconds == 0.0
    assert share(Rate(10, 1.0), Rate(600, 60.0))[0].terms.exclusive_seconds > 0.0


def test_of_two_rates_for_the_same_window_the_lower_holds() -> None:
    terms = share(Rate(10, 1.0), Rate(5, 1.0))[0].terms
    assert (terms.counts, terms.periods_seconds) == ((5,), (1.0,))
