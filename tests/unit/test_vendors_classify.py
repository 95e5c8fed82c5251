from __future__ import annotations

from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config.model import Api
from gateway.model import Completed, Dead, Retry
from gateway.vendors.calls import CallFailed, FailureKind, Reply
from gateway.vendors.classify import MAX_RETRY_AFTER_SECONDS, classify, retry_after_seconds

NOW = 1_700_000_000.0


def api(**changes: Any) -> Api:
    return Api(vendor="stub", base_url="https://stub.example", **changes)


def reply(status: int, **changes: Any) -> Reply:
    defaults: dict[str, Any] = {
        "headers": {},
        "body": b"",
        "body_complete": True,
        "duration_seconds": 0.1,
    }
    return Reply(status=status, **(defaults | changes))


def date(seconds: float) -> str:
    return format_datetime(datetime.fromtimestamp(seconds, UTC), usegmt=True)


@pytest.mark.parametrize(
    ("status", "verdict"),
    [
        (200, Completed),
        (204, Completed),
        (299, Completed),
        (302, Dead),
        (400, Dead),
        (401, Dead),
        (404, Dead),
        (422, Dead),
        (429, Retry),
        (500, Retry),
        (503, Retry),
        (599, Retry),
        (600, Dead),
        (101, Dead),
    ],
)
def test_by_default_2xx_is_done_429_and_5xx_are_tried_again(status: int, verdict: type) -> None:
    assert isinstance(classify(api(), reply(status)), verdict)


def test_success_wins_over_retry_and_both_are_the_vendors() -> None:
    special = api(success=("2xx", "404", "503"), retry_on=("409", "4XX", "5xx"))
    assert classify(special, reply(404)) == Completed()
    assert classify(special, reply(503)) == Completed()
    assert isinstance(classify(special, reply(409)), Retry)
    assert isinstance(classify(special, reply(418)), Retry)
    assert isinstance(classify(api(success=("204",)), reply(200)), Dead)


@pytest.mark.parametrize("pattern", ["", "abc", "²xx", "5x", "timeout", "²00", "٣٠٠", "5xxx"])
def test_a_pattern_that_is_no_status_matches_none(pattern: str) -> None:
    for status in range(100, 600, 50):
        assert isinstance(classify(api(success=(pattern,), retry_on=()), reply(status)), Dead)


@pytest.mark.parametrize("kind", get_args(FailureKind))
def test_silence_is_tried_again_where_the_vendor_says_so(kind: FailureKind) -> None:
    failure = CallFailed(kind, "text")
    retried = isinstance(classify(api(), failure), Retry)
    never = isinstance(classify(api(retry_on=("5xx",)), failure), Retry)
    assert retried == (kind not in ("refused-address", "request"))
    assert never == (kind == "auth")
    only_timeout = isinstance(classify(api(retry_on=("timeout",)), failure), Retry)
    assert only_timeout == (kind in ("timeout", "auth"))


def test_the_vendors_wish_goes_with_the_retry() -> None:
    assert classify(api(), reply(429, retry_after_seconds=7.0)) == Retry(
        "HTTP 429 Too Many Requests", 7.0
    )
    assert classify(api(), reply(503)) == Retry("HTTP 503 Service Unavailable", None)


def test_a_redirect_is_dead_and_says_why_without_its_query() -> None:
    verdict = classify(
        api(), reply(301, headers={"location": "https://new.example/v2?token=s3cr3t"})
    )
    assert isinstance(verdict, Dead)
    assert "https://new.example/v2:" in verdict.reason
    assert "base_url" in verdict.reason
    assert "s3cr3t" not in verdict.reason


@given(st.integers(0, 10**9))
def test_seconds_are_taken_up_to_a_day(seconds: int) -> None:
    expected = min(float(seconds), MAX_RETRY_AFTER_SECONDS)
    assert retry_after_seconds(f" {seconds} ", now=NOW) == expected


@given(st.integers(-(10**8), 10**8))
def test_a_date_is_counted_from_the_vendors_own_clock(ahead: int) -> None:
    wish = retry_after_seconds(date(NOW + ahead), now=NOW)
    assert wish == (min(float(ahead), MAX_RETRY_AFTER_SECONDS) if ahead >= 0 else None)
    skewed = retry_after_seconds(date(NOW + 5000 + ahead), now=NOW, date=date(NOW + 5000))
    assert skewed == wish
    assert retry_after_seconds(date(NOW + ahead), now=NOW, date="garbage") == wish


@given(st.text(max_size=60), st.one_of(st.none(), st.text(max_size=60)))
def test_garbage_is_no_wish_and_never_an_error(value: str, said: str | None) -> None:
    wish = retry_after_seconds(value, now=NOW, date=said)
    assert wish is None or 0.0 <= wish <= MAX_RETRY_AFTER_SECONDS


@pytest.mark.parametrize(
    "value",
    ["", "-1", "-0.5", "nan", "inf", "1e3", "1_0", "0x10", "soon", "٣", "Mon, 99 Foo 2024", ","],
)
def test_nonsense_is_ignored(value: str) -> None:
    assert retry_after_seconds(value, now=NOW) is None
