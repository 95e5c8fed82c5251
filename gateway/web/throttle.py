"""Limits at the door: how many requests come in a time, and how many are under way at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

REFUSALS_PER_SECOND = 100.0  # of one path, answered without delay
REFUSALS_AT_ONCE = 200
HELD_SECONDS = 0.1  # the delay of all others
MAX_HELD = 256


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


class Brake:
    """Holds back the answers of refusals once they are a flood.

    Whoever waits for an answer before it sends again is slowed down, and what it would have sent
    costs nobody anything: a request is dearest where it is read, whatever it is answered. The
    answer is held and not the connection, since a proxy sends another sender's webhooks over the
    same one as soon as it is free. Beyond MAX_HELD nobody waits: a flood must not make us keep its
    connections.
    """

    __slots__ = ("_bucket", "held")

    def __init__(self) -> None:
        self._bucket = TokenBucket(REFUSALS_PER_SECOND, REFUSALS_AT_ONCE, now=0.0)
        self.held = 0

    def let(self, answer: Callable[[], None]) -> None:
        """Call *answer* for one more refusal: at once, or in a moment."""
        loop = asyncio.get_running_loop()
        if self.held >= MAX_HELD or self._bucket.take(loop.time()) == 0.0:
            answer()
            return
        self.held += 1
        loop.call_later(HELD_SECONDS, self._release, answer)

    async def wait(self) -> None:
        """Return when one more refusal may be answered."""
        released = asyncio.get_running_loop().create_future()
        self.let(lambda: None if released.done() else released.set_result(None))
        await released

    def _release(self, answer: Callable[[], None]) -> None:
        self.held -= 1
        answer()
