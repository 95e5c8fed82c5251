"""Limits at the door: how many requests come in a time, and how many are under way at once."""

from __future__ import annotations


class TokenBucket:
    """Lets *burst* requests in at once and *rate_per_second* in the long run.

    Not strict in the sense of the limits that we keep towards vendors: it shields us, and a
    sender that is told 429 comes again.
    """

    def __init__(self, rate_per_second: float, burst: int, *, now: float) -> None:
        self._rate = rate_per_second
        self._burst = float(max(1, burst))
        self._tokens = self._burst
        self._filled_at = now

    def take(self, now: float) -> float:
        """Take a token and return 0, or return the seconds until there is one; *now* only grows."""
        elapsed = max(0.0, now - self._filled_at)
        self._filled_at = now
        self._tokens = min(self._burst, self._tokens + elapsed * self._rate)
        if self._tokens >= 1.0:
            self._tokens -= 1.0
            return 0.0
        return (1.0 - self._tokens) / self._rate


class Places:
    """Room for *limit* requests at once. Who finds none is told to come again."""

    __slots__ = ("limit", "taken")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.taken = 0

    @property
    def full(self) -> bool:
        """Whether nobody else gets in."""
        return self.taken >= self.limit
