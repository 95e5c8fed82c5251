"""What a vendor's answer, or its silence, means for the job: pure."""

from __future__ import annotations

import re
from datetime import UTC
from email.utils import parsedate_to_datetime
from functools import lru_cache
from http import HTTPStatus
from typing import assert_never

from gateway.config.model import Api
from gateway.model import Completed, Dead, Retry
from gateway.vendors.calls import CallFailed, Reply

MAX_RETRY_AFTER_SECONDS = 24 * 3600.0
_COMPLETED = Completed()
_SECONDS = re.compile(r"[0-9]{1,300}(?:\.[0-9]{1,300})?")

Verdict = Completed | Retry | Dead


def classify(api: Api, result: Reply | CallFailed) -> Verdict:
    """Judge *result* by the vendor's ``success`` and ``retry_on``; what neither names is dead.

    Success wins over retry. In ``retry_on``, ``"timeout"`` stands for no whole answer in time and
    ``"connect"`` for every other way of having no answer: DNS, TCP, TLS, a reset, garbage. That
    no access token could be had is always worth another try: it is not the job's fault.
    """
    if isinstance(result, CallFailed):
        return _judge_failure(api, result)
    if result.status in _statuses(api.success):
        return _COMPLETED
    reason = _reason(result)
    if result.status in _statuses(api.retry_on):
        return Retry(reason, result.retry_after_seconds)
    return Dead(reason)


def retry_after_seconds(value: str, *, now: float, date: str | None = None) -> float | None:
    """Return how long a ``Retry-After`` asks to wait, or None when it makes no sense.

    *value* is a number of seconds or an HTTP-date (RFC 9110, 10.2.3); the answer's own *date*
    is what an HTTP-date is counted from, so that the vendor's clock may be wrong; *now* (Unix
    time) is used without it. More than a day is taken as a day; a time in the past is no wish.
    """
    value = value.strip()
    if _SECONDS.fullmatch(value):
        seconds = float(value)
    else:
        moment = _unix(value)
        if moment is None:
            return None
        said_at = _unix(date) if date else None
        seconds = moment - (now if said_at is None else said_at)
    return min(seconds, MAX_RETRY_AFTER_SECONDS) if seconds >= 0 else None


def _judge_failure(api: Api, failure: CallFailed) -> Verdict:
    reason = str(failure)
    match failure.kind:
        case "timeout":
            again = "timeout" in api.retry_on
        case "dns" | "connect" | "tls" | "reset" | "protocol":
            again = "connect" in api.retry_on
        case "auth":
            again = True
        case "refused-address" | "request":
            again = False
        case _:
            assert_never(failure.kind)
    return Retry(reason) if again else Dead(reason)


@lru_cache(maxsize=256)
def _statuses(patterns: tuple[str, ...]) -> frozenset[int]:
    """Return the statuses that *patterns* name: ``"429"``, ``"5xx"``; words are not statuses."""
    found: set[int] = set()
    for pattern in patterns:
        if pattern.isascii() and pattern.isdecimal():
            found.add(int(pattern))
        elif len(pattern) == 3 and pattern[0].isdecimal() and pattern[1:].lower() == "xx":
            found.update(range(int(pattern[0]) * 100, int(pattern[0]) * 100 + 100))
    return frozenset(found)


def _reason(reply: Reply) -> str:
    reason = f"HTTP {reply.status}{_phrases().get(reply.status, '')}"
    if 300 <= reply.status < 400 and (location := reply.headers.get("location")):
        # Without the query: it may carry what is nobody's business.
        target = location.partition("?")[0].partition("#")[0][:200]
        reason += f" to {target}: redirects are not followed; put the final address into base_url"
    return reason


@lru_cache(maxsize=1)
def _phrases() -> dict[int, str]:
    return {status.value: f" {status.phrase}" for status in HTTPStatus}


def _unix(http_date: str) -> float | None:
    try:
        moment = parsedate_to_datetime(http_date)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, OverflowError, IndexError):
        return None
