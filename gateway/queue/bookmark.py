"""A bookmark: how far claims have read a lane's backlog, so that the next one goes on from there.

What was claimed stays in the index until it is vacuumed, and as long as an old transaction is open
it cannot be: each claim would pass all that those before it took, and the longer it goes on the
more. Nor need a claim be planned for the days that the lane has behind it.

But a job may become available behind the bookmark: its retry is due, its turn in line has come,
another node gave it back, an operator wants it. So a backlog is read from its start about once a
second, which is soon enough for a retry, and at once where this node knows of one of the others;
and only if it was, it is taken for empty.
"""

from __future__ import annotations

from gateway.store.writes import Position

# What is behind a bookmark waits about so long; longer where reading from the start is so slow that
# it would take more than this share of the time.
REREAD_SECONDS = 1.0
_REREAD_SHARE = 0.1


class Bookmark:
    """The place in one lane's backlog. Times are loop time, in seconds."""

    __slots__ = ("_at", "_began", "_lost", "_until")

    def __init__(self) -> None:
        self._at: Position | None = None  # None: at the start
        self._until = 0.0
        self._began = 0.0
        self._lost = False  # while a claim was under way

    def open(self, now: float) -> Position | None:
        """Return where the claim that begins *now* reads on; None: at the start."""
        if now >= self._until:
            self._at = None
        self._began = now
        self._lost = False
        return self._at

    def place(self, reached: Position | None, now: float) -> bool:
        """Note how far that claim came; None: to the end of the backlog.

        Return whether the backlog may hold more: not if it was read from its start to its end.
        """
        from_start = self._at is None
        if from_start:
            self._until = now + max(REREAD_SECONDS, (now - self._began) / _REREAD_SHARE)
        self._at = None if self._lost else reached
        return self._lost or reached is not None or not from_start

    def lose(self) -> None:
        """Have the next claim read from the start."""
        self._at = None
        self._lost = True
