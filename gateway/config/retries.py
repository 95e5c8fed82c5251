"""Retry policies as they are written: which keys go together, and what follows from the others.

A route's policy is its vendor's with some keys changed, so both are checked and completed as one.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import Any

import msgspec

from gateway.backoff import RetryPolicy
from gateway.config.values import duration_text
from gateway.config.walker import Values

_UNUSED = {
    "exponential": frozenset({"delays"}),
    "fixed": frozenset({"delays", "factor"}),
    "list": frozenset({"base", "factor"}),
}


def unused_keys(kind: str) -> Set[str]:
    """Return the keys that say nothing to a policy of this *kind*."""
    return _UNUSED[kind]


def check_retry(retry: Values, inherited: Mapping[str, Any]) -> None:
    """Report what does not go together in *retry*, which changes what is *inherited*."""
    place, given = retry.place, retry.given
    if "kind" in given and "kind" not in retry:
        return  # it is bad, so nothing can be said about the others
    values = {**inherited, **retry}
    kind = values.get("kind", "exponential")
    for name in sorted(given & _UNUSED[kind]):
        remedy = 'write kind = "list" beside it' if name == "delays" else "leave it out"
        place.at(name).fault(f'has no effect with kind = "{kind}"', remedy)
    if kind == "list":
        if "delays" not in values and "delays" not in given:
            place.at("delays").fault("is missing", 'a list needs them: delays = ["1s", "10s"]')
        what, longest = "a delay of", max(values.get("delays", ()), default=None)
    else:
        what, longest = "base", values.get("base")
    cap = values.get("cap")
    if kind != "exponential" and "cap" not in given:
        return  # it will be as long as it must
    if longest is not None and cap is not None and cap < longest:
        place.at("cap").fault(
            f'"{duration_text(cap)}" is shorter than {what} "{duration_text(longest)}"',
            "the longest wait is at least the first",
        )


def completed(policy: RetryPolicy, given: Set[str]) -> RetryPolicy:
    """Return *policy* with what follows for a fixed wait and a list where it is not *given*."""
    if policy.kind == "exponential":
        return policy
    longest, attempts = policy.base_seconds, policy.attempts
    if policy.kind == "list":
        longest = max(policy.delays_seconds)
        if "delays" in given and "attempts" not in given:
            attempts = len(policy.delays_seconds) + 1
    cap = policy.cap_seconds if "cap" in given else max(policy.cap_seconds, longest)
    return msgspec.structs.replace(policy, attempts=attempts, cap_seconds=cap)
