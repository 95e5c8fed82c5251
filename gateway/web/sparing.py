"""Log lines about what strangers send: enough to see what goes on, never as many as they like."""

from __future__ import annotations

import time

from gateway.web.throttle import TokenBucket

LINES_PER_SECOND = 10.0
LINES_AT_ONCE = 50


class LineBudget:
    """Tells whether one more line about one sender's requests may be logged; counts the others."""

    __slots__ = ("_bucket", "_unlogged")

    def __init__(self) -> None:
        self._bucket = TokenBucket(LINES_PER_SECOND, LINES_AT_ONCE, now=time.monotonic())
        self._unlogged = 0

    def turn(self) -> dict[str, int] | None:
        """Return the fields to put on the line, or None where there were too many of late.

        ``unlogged`` is how many were left out since the last line.
        """
        if self._bucket.take(time.monotonic()) > 0:
            self._unlogged += 1
            return None
        unlogged, self._unlogged = self._unlogged, 0
        return {"unlogged": unlogged} if unlogged else {}
