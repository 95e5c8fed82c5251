"""When to try again."""

from __future__ import annotations

from random import Random
from typing import Final, Literal, assert_never

import msgspec

_MAX_EXPONENT: Final = 1000  # far beyond any cap, and as far as factors up to 2 can be raised


class RetryPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """How often and how long to try, and what grows between the tries.

    Waits are ``base · factor^n`` (exponential), ``base`` each time (fixed), or one by one from
    ``delays_seconds``, whose last stands for all that follow (list); none exceeds the cap.
    """

    kind: Literal["exponential", "fixed", "list"] = "exponential"
    delays_seconds: tuple[float, ...] = ()  # of a list; else unused
    attempts: int = 8
    base_seconds: float = 1.0
    factor: float = 2.0
    cap_seconds: float = 600.0
    jitter: Literal["full", "equal", "none"] = "full"
    max_age_seconds: float = 86400.0


def delay_seconds(
    policy: RetryPolicy, attempt: int, *, random: Random, retry_after: float | None = None
) -> float:
    """Return how long to wait after *attempt* (from 1) failed.

    *retry_after*, the vendor's own wish in seconds, is a floor: jitter is only ever added on top
    of it, so that nobody calls early and a herd still spreads. Full and equal jitter are those of
    Brooker, "Exponential Backoff And Jitter" (AWS Architecture Blog, 2015).
    """
    ceiling = min(policy.cap_seconds, _grown_seconds(policy, max(attempt, 1) - 1))
    match policy.jitter:
        case "full":
            delay = random.uniform(0.0, ceiling)
        case "equal":
            delay = ceiling / 2 + random.uniform(0.0, ceiling / 2)
        case "none":
            delay = ceiling
    if retry_after is None or not retry_after > 0:
        return delay
    return max(delay, retry_after + random.uniform(0.0, min(ceiling, 0.1 * retry_after + 1.0)))


def _grown_seconds(policy: RetryPolicy, retries: int) -> float:
    """Return the wait after so many *retries* (from 0), before cap and jitter."""
    match policy.kind:
        case "exponential":
            try:
                return policy.base_seconds * policy.factor ** min(retries, _MAX_EXPONENT)
            except OverflowError:
                return policy.cap_seconds
        case "fixed":
            return policy.base_seconds
        case "list":
            delays = policy.delays_seconds
            return delays[min(retries, len(delays) - 1)] if delays else policy.base_seconds
        case _:
            assert_never(policy.kind)
