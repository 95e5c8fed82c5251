from __future__ import annotations

from datetime import UTC, datetime
from email.utils import format_datetime
from gzip import compress
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config.model import Api, Route
from gateway.model import Completed, Dead, Retry
from gateway.vendors.calls import CallFailed, FailureKind, Reply
from gateway.vendors.classify import (
    MAX_RETRY_AFTER_SECONDS,
    Rules,
    classify,
    health,
    retry_after_seconds,
    rules_of,
)

NOW = 1_700_000_000.0


def rules(**changes: Any) -> Rules:
    return rules_of(Api(vendor="stub", base_url="https://stub.example", **changes))


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
    assert isinstance(classify(rules(), reply(status)), verdict)


def test_success_wins_over_retry_and_both_are_the_vendors() -> None:
    special = rules(success=("2xx", "404", "503"), retry_on=("409", "4XX", "5xx"))
    assert classify(special, reply(404)) == Completed()
    assert classify(special, reply(503)) == Completed()
    assert isinstance(classify(special, reply(409)), Retry)
    assert isinstance(classify(special, reply(418)), Retry)
    assert isinstance(classify(rules(success=("204",)), reply(200)), Dead)


@pytest.mark.parametrize("pattern", ["", "abc", "²xx", "5x", "timeout", "²00", "٣٠٠", "5xxx"])
def test_a_pattern_that_is_no_status_matches_none(pattern: str) -> None:
    for status in range(100, 600, 50):
        assert isinstance(classify(rules(success=(pattern,), retry_on=()), reply(status)), Dead)


@pytest.mark.parametrize("kind", get_args(FailureKind))
def test_silence_is_tried_again_where_the_vendor_says_so(kind: FailureKind) -> None:
    failure = CallFailed(kind, "text")
    retried = isinstance(classify(rules(), failure), Retry)
    never = isinstance(classify(rules(retry_on=("5xx",)), failure), Retry)
    assert retried == (kind not in ("redirect", "refused-address", "request"))
    assert never == (kind == "auth")
    only_timeout = isinstance(classify(rules(retry_on=("timeout",)), failure), Retry)
    assert only_timeout == (kind in ("timeout", "auth"))


@pytest.mark.parametrize("kind", get_args(FailureKind))
def test_only_what_the_vendor_is_to_blame_for_counts_for_its_breaker(kind: FailureKind) -> None:
    ours = kind in ("redirect", "refused-address", "request")
    assert health(CallFailed(kind, "text")) is (None if ours else False)


@pytest.mark.parametrize(("status", "well"), [(200, True), (302, True), (429, True), (500, False)])
def test_an_answer_tells_whether_the_vendor_is_well(status: int, well: bool) -> None:
    assert health(reply(status)) is well


def test_the_vendors_wish_goes_with_the_retry() -> None:
    assert classify(rules(), reply(429, retry_after_seconds=7.0)) == Retry(
        "HTTP 429 Too Many Requests", 7.0
    )
    assert classify(rules(), reply(503)) == Retry("HTTP 503 Service Unavailable", None)


def test_a_status_is_called_the_same_whatever_python_calls_it() -> None:
    """3.13 has other names than 3.11; dead letters of one kind are one group in both."""
    for status, said in {
        413: "HTTP 413 Content Too Large",
        414: "HTTP 414 URI Too Long",
        416: "HTTP 416 Range Not Satisfiable",
        422: "HTTP 422 Unprocessable Content",
        499: "HTTP 499",
    }.items():
        assert classify(rules(), reply(status)) == Dead(said)


def test_a_redirect_is_dead_and_says_why_without_its_query() -> None:
    verdict = classify(
        rules(), reply(301, headers={"location": "https://new.example/v2?token=s3cr3t"})
    )
    assert isinstance(verdict, Dead)
    assert "https://new.example/v2:" in verdict.reason
    assert "base_url" in verdict.reason
    assert "s3cr3t" not in verdict.reason


def route(**changes: Any) -> Route:
    return Route(name="r", source="s", call="POST stub:/", **changes)


def test_a_routes_rules_replace_the_vendors_one_by_one() -> None:
    vendor = Api(vendor="stub", base_url="https://x", success=("204",), retry_on=("timeout", "409"))
    own = rules_of(vendor, route(success=("2xx",)))
    assert classify(own, reply(200)) == Completed()
    assert isinstance(classify(own, reply(409)), Retry)
    own = rules_of(vendor, route(retry_on=("404",)))
    assert isinstance(classify(own, reply(200)), Dead)
    assert isinstance(classify(own, reply(409)), Dead)
    assert isinstance(classify(own, reply(404)), Retry)
    assert isinstance(classify(own, CallFailed("timeout", "")), Dead)
    assert rules_of(vendor, route()) == rules_of(vendor)
    slack = msgspec.structs.replace(vendor, fail_when="status == 200", success=("2xx",))
    assert isinstance(classify(rules_of(slack, route()), reply(200)), Dead)
    assert classify(rules_of(slack, route(fail_when="false")), reply(200)) == Completed()


SLACK = {"fail_when": "response.ok == false", "retry_when": "response.error == 'ratelimited'"}


@pytest.mark.parametrize(
    ("status", "body", "verdict"),
    [
        (200, b'{"ok": true}', Completed),
        (200, b'{"ok": false, "error": "invalid_auth"}', Dead),
        (200, b'{"ok": false, "error": "ratelimited"}', Retry),
        (200, b'{"ok": true, "error": "ratelimited"}', Retry),
        (404, b'{"error": "ratelimited"}', Retry),
        (503, b'{"ok": false}', Retry),
        (404, b'{"ok": true}', Dead),
        (200, b"{}", Completed),
        (200, b"ok", Completed),
        (200, b"", Completed),
        (200, b'["ok", false]', Completed),
        (200, b"\xff\xfe", Completed),
        (200, b"[" * 5000, Completed),
    ],
)
def test_a_body_may_say_what_the_status_does_not(status: int, body: bytes, verdict: type) -> None:
    assert isinstance(classify(rules(**SLACK), reply(status, body=body)), verdict)


def test_the_verdict_names_the_condition_and_takes_the_vendors_wish() -> None:
    failed = classify(rules(**SLACK), reply(200, body=b'{"ok": false}'))
    assert failed == Dead("HTTP 200 OK, but fail_when: response.ok == false")
    body = b'{"error": "ratelimited"}'
    again = classify(rules(**SLACK), reply(200, body=body, retry_after_seconds=9.0))
    assert again == Retry("HTTP 200 OK, and retry_when: response.error == 'ratelimited'", 9.0)


def test_conditions_read_the_status_and_headers_too() -> None:
    strict = rules(fail_when="headers['X-Result'] != 'done' or status == 202")
    assert classify(strict, reply(200, headers={"x-result": "done"})) == Completed()
    assert isinstance(classify(strict, reply(200, headers={"x-result": "error"})), Dead)
    assert isinstance(classify(strict, reply(202, headers={"x-result": "done"})), Dead)
    gzip = {"content-encoding": "gzip", "content-type": "application/json"}
    packed = reply(200, headers=gzip, body=compress(b'{"ok": false}'))
    assert isinstance(classify(rules(**SLACK), packed), Dead)


def test_an_answer_too_long_to_be_judged_is_no_success() -> None:
    cut = {"body": b'{"ok": true, "items": [', "body_complete": False}
    verdict = classify(rules(**SLACK), reply(200, **cut))
    assert isinstance(verdict, Dead)
    assert "max_reply" in verdict.reason
    assert isinstance(classify(rules(**SLACK), reply(500, **cut)), Retry)
    assert classify(rules(fail_when="status == 202"), reply(200, **cut)) == Completed()
    assert classify(rules(), reply(200, **cut)) == Completed()


@given(st.binary(max_size=200), st.integers(100, 599))
def test_no_body_makes_judging_fail(body: bytes, status: int) -> None:
    classify(
        rules(fail_when="response.a > 1", retry_when="response.b[0].c"), reply(status, body=body)
    )


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
