"""What a vendor's answer, or its silence, means for the job: pure.

The vendor's rules judge it, some of which a route may replace by its own.
"""

from __future__ import annotations

import re
from datetime import UTC
from email.utils import parsedate_to_datetime
from functools import lru_cache
from http import HTTPStatus
from typing import Any, assert_never

import msgspec

from gateway.config.model import Api, Route
from gateway.expressions import MISSING, RESPONSE_NAMES, Expression, HeaderView
from gateway.model import Completed, Dead, Retry
from gateway.vendors.calls import CallFailed, Reply
from gateway.webhooks.decompress import decode_received
from gateway.webhooks.extract import UNDECODED

MAX_RETRY_AFTER_SECONDS = 24 * 3600.0
_COMPLETED = Completed()
_SECONDS = re.compile(r"[0-9]{1,300}(?:\.[0-9]{1,300})?")

# As RFC 9110 has them, which Python follows from 3.13 on: dead letters are grouped by these texts.
_RENAMED = {
    413: "Content Too Large",
    414: "URI Too Long",
    416: "Range Not Satisfiable",
    422: "Unprocessable Content",
}

Verdict = Completed | Retry | Dead


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    """By what answers are judged, ready to be applied."""

    success: frozenset[int]
    retry: frozenset[int]
    retry_timeout: bool
    retry_connect: bool
    fail_when: Expression | None = None
    retry_when: Expression | None = None
    reads_answer: bool = False
    redirects: int = 0  # that the client has followed


def rules_of(api: Api, route: Route | None = None) -> Rules:
    """Return the rules of *api*, with those of its *route* in their place where it has some.

    Raises :class:`ExpressionInvalid`, though the configuration has compiled them before.
    """
    success, retry_on = api.success, api.retry_on
    fail_when, retry_when = api.fail_when, api.retry_when
    if route is not None:
        success = route.success if route.success is not None else success
        retry_on = route.retry_on if route.retry_on is not None else retry_on
        fail_when = route.fail_when if route.fail_when is not None else fail_when
        retry_when = route.retry_when if route.retry_when is not None else retry_when
    return Rules(
        success=_statuses(success),
        retry=_statuses(retry_on),
        retry_timeout="timeout" in retry_on,
        retry_connect="connect" in retry_on,
        fail_when=_compiled(fail_when),
        retry_when=_compiled(retry_when),
        reads_answer=bool(fail_when or retry_when),
        redirects=api.redirects,
    )


def classify(rules: Rules, result: Reply | CallFailed) -> Verdict:
    """Judge *result*; what the rules name neither a success nor worth a retry is dead.

    What ``retry_when`` holds for is tried again, whatever its status. Of the rest, a status in
    ``success`` completes unless ``fail_when`` holds, and success wins over retry. In ``retry_on``,
    ``"timeout"`` stands for no whole answer in time and ``"connect"`` for every other way of
    having no answer: DNS, TCP, TLS, a reset, garbage. That no access token could be had is always
    worth another try: it is not the job's fault.
    """
    if isinstance(result, CallFailed):
        return _judge_failure(rules, result)
    if rules.reads_answer and (verdict := _judge_content(rules, result)) is not None:
        return verdict
    if result.status in rules.success:
        return _COMPLETED
    reason = _reason(result, rules.redirects)
    if result.status in rules.retry:
        return Retry(reason, result.retry_after_seconds)
    return Dead(reason)


def health(result: Reply | CallFailed) -> bool | None:
    """Return whether the vendor seems well, for its breaker; None where *result* does not tell.

    A 4xx is an answer of a vendor in good health; a 5xx and silence are not. What our own checks
    stopped, before it was sent or on its way to where it was redirected, is no word about it.
    """
    if not isinstance(result, CallFailed):
        return result.status < 500
    match result.kind:
        case "timeout" | "dns" | "connect" | "tls" | "reset" | "protocol" | "auth":
            return False
        case "redirect" | "refused-address" | "request":
            return None
        case _:
            assert_never(result.kind)


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


def _judge_content(rules: Rules, reply: Reply) -> Verdict | None:
    """Return what the answer's content makes of it; None where its status decides."""
    reason = _reason(reply, rules.redirects)
    success = reply.status in rules.success
    context: dict[str, Any] = {
        "response": MISSING,
        "status": reply.status,
        "headers": HeaderView(reply.headers),
    }
    read = [rule for rule in (rules.retry_when, rules.fail_when) if rule is not None]
    if reply.body and any("response" in rule.names for rule in read):
        if not reply.body_complete:
            # Nobody can tell whether it failed, so it is no success.
            problem = f"{reason}, but the answer is longer than max_reply and cannot be judged"
            return Dead(problem) if success else None
        decoded = decode_received(reply.body, reply.headers)
        if decoded is not UNDECODED:
            context["response"] = decoded
    if rules.retry_when is not None and rules.retry_when.truth(context):
        return Retry(
            f"{reason}, and retry_when: {rules.retry_when.text}", reply.retry_after_seconds
        )
    if success and rules.fail_when is not None and rules.fail_when.truth(context):
        return Dead(f"{reason}, but fail_when: {rules.fail_when.text}")
    return None


def _judge_failure(rules: Rules, failure: CallFailed) -> Verdict:
    reason = str(failure)
    match failure.kind:
        case "timeout":
            again = rules.retry_timeout
        case "dns" | "connect" | "tls" | "reset" | "protocol":
            again = rules.retry_connect
        case "auth":
            again = True
        case "redirect" | "refused-address" | "request":
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


def _compiled(text: str | None) -> Expression | None:
    return Expression.compile(text, names=RESPONSE_NAMES) if text else None


def _reason(reply: Reply, redirects: int) -> str:
    reason = f"HTTP {reply.status}{_phrases().get(reply.status, '')}"
    if 300 <= reply.status < 400 and (location := reply.headers.get("location")):
        # Without the query: it may carry what is nobody's business.
        target = location.partition("?")[0].partition("#")[0][:200]
        what = f"only {redirects} redirects" if redirects else "redirects"
        verb = "are followed" if redirects else "are not followed"
        reason += f" to {target}: {what} {verb}; put the final address into base_url"
    return reason


@lru_cache(maxsize=1)
def _phrases() -> dict[int, str]:
    known = {status.value: status.phrase for status in HTTPStatus} | _RENAMED
    return {status: f" {phrase}" for status, phrase in known.items()}


def _unix(http_date: str) -> float | None:
    try:
        moment = parsedate_to_datetime(http_date)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, OverflowError, IndexError):
        return None
