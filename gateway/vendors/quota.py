"""What a vendor says is left of its limit, so that a lane slows down before the 429 comes: pure.

There are three families on the wire: one ``RateLimit`` field (drafts of the IETF's httpapi group,
in two syntaxes), a pair ``RateLimit-Remaining``/``-Reset`` (earlier drafts), and the many
``X-RateLimit-*``, whose reset is a number of seconds here and a Unix time there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from random import Random

import msgspec

from gateway.config.model import QuotaHeaders

_MAX_RESET_SECONDS = 24 * 3600.0
_NUMBER = re.compile(r"[0-9]{1,15}(?:\.[0-9]{1,9})?")
_FIELDS = re.compile(r"\b(r|t|remaining|reset)=([0-9]{1,15})\b")


class Quota(msgspec.Struct, frozen=True):
    """*remaining* more calls are welcome within the next *reset_seconds*."""

    remaining: int
    reset_seconds: float


STANDARD = (
    QuotaHeaders(remaining="ratelimit-remaining", reset="ratelimit-reset"),
    QuotaHeaders(remaining="x-ratelimit-remaining", reset="x-ratelimit-reset"),
    QuotaHeaders(remaining="x-rate-limit-remaining", reset="x-rate-limit-reset"),
)


def quota_of(
    headers: Mapping[str, str], *, now: float, formats: tuple[QuotaHeaders, ...] = STANDARD
) -> Quota | None:
    """Return the scarcest quota that *headers* (names in lower case) speak of; None for none.

    *now* is Unix time. What cannot be understood is passed over: a quota is only a hint.
    """
    found = _from_one_field(headers["ratelimit"]) if "ratelimit" in headers else None
    for form in formats:
        if form.remaining in headers:
            quota = _from_pair(headers, form, now)
            if quota is not None and (found is None or quota.remaining < found.remaining):
                found = quota
    return found


def pause_seconds(quota: Quota, *, in_flight: int, random: Random) -> float:
    """Return how long the lane should start nothing; 0 while more is left than is under way.

    Calls in flight may not have been counted yet, so they are taken as not. Jitter is upward only.
    """
    if quota.remaining > in_flight:
        return 0.0
    return quota.reset_seconds + random.uniform(0.0, min(1.0, 0.1 * quota.reset_seconds))


def _from_one_field(value: str) -> Quota | None:
    """Read ``"name";r=50;t=30, …`` (draft 8 and later) or ``limit=…, remaining=50, reset=30``."""
    quotas: list[Quota] = []
    remaining: int | None = None
    for name, number in _FIELDS.findall(value[:1024]):
        if name in ("r", "remaining"):
            remaining = int(number)
        elif remaining is not None:
            quotas.append(Quota(remaining, min(float(number), _MAX_RESET_SECONDS)))
            remaining = None
    return min(quotas, key=lambda quota: quota.remaining, default=None)


def _from_pair(headers: Mapping[str, str], form: QuotaHeaders, now: float) -> Quota | None:
    remaining = _remaining(headers[form.remaining], form)
    if remaining is None:
        return None
    if not form.reset:
        return Quota(remaining, form.reset_seconds)
    text = headers.get(form.reset, "").strip()
    if not _NUMBER.fullmatch(text):
        return None
    seconds = _seconds(float(text), form.unit, now)
    return Quota(remaining, seconds) if 0 <= seconds <= _MAX_RESET_SECONDS else None


def _remaining(text: str, form: QuotaHeaders) -> int | None:
    numbers = text.strip().split("/")
    if not all(map(_NUMBER.fullmatch, numbers)):
        return None
    match form.meaning, numbers:
        case "remaining", [remaining]:
            return int(float(remaining))
        case "used/limit", [used, limit]:
            return max(0, int(float(limit)) - int(float(used)))
        case _:
            return None


def _seconds(number: float, unit: str, now: float) -> float:
    if unit == "auto":
        unit = "unix_milliseconds" if number >= 1e11 else "unix" if number >= 1e9 else "seconds"
    match unit:
        case "seconds":
            return number
        case "milliseconds":
            return number / 1000.0
        case "unix":
            return max(0.0, number - now)
        case _:
            return max(0.0, number / 1000.0 - now)
