"""How long calls and handlers may take: one timer for all of a kind, set for the first of them.

A timer of its own for each, as ``asyncio.timeout`` has it, costs as much as a good part of a call:
it is made, and nearly always cancelled.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

_ROUNDING_SECONDS = 0.001  # uvloop's timers fire up to this much early


class Deadlines:
    """What is under way of one kind, each with the time by which it must be over."""

    def __init__(self) -> None:
        self._open: set[Deadline] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = math.inf

    def within(self, seconds: float) -> Deadline:
        """Return a block that raises :class:`TimeoutError` in its task when it takes longer."""
        return Deadline(self, seconds)

    def enter(self, deadline: Deadline) -> None:
        """Watch *deadline*."""
        self._open.add(deadline)
        if deadline.until < self._timer_at:
            self._set(deadline.until)

    def leave(self, deadline: Deadline) -> None:
        """Watch it no longer. The timer stays as it is: it would mostly be set for nothing."""
        self._open.discard(deadline)

    def _set(self, when: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = when
        self._timer = (
            asyncio.get_running_loop().call_at(when, self._expire) if when < math.inf else None
        )

    def _expire(self) -> None:
        now = asyncio.get_running_loop().time() + _ROUNDING_SECONDS
        for deadline in [one for one in self._open if one.until <= now]:
            self._open.discard(deadline)
            deadline.expire()
        self._set(min((one.until for one in self._open), default=math.inf))


class Deadline:
    """A block of one task, as :class:`asyncio.Timeout` is: it tells its own cancelling apart.

    ``expired``: it was broken off.
    """

    __slots__ = (
        "_cancelling",
        "_deadlines",
        "_over",
        "_pauses",
        "_seconds",
        "_task",
        "expired",
        "until",
    )

    def __init__(self, deadlines: Deadlines, seconds: float) -> None:
        self._deadlines = deadlines
        self._seconds = seconds
        self._pauses = 0  # that have not ended
        self._over = False
        self.expired = False

    def __enter__(self) -> None:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a deadline is that of a task")
        self._task = task
        self._cancelling = task.cancelling()
        self.until = task.get_loop().time() + self._seconds
        self._deadlines.enter(self)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self._over = True
        self._deadlines.leave(self)
        # Somebody else may have cancelled the task as well: then that is what it ends with.
        if (
            self.expired
            and self._task.uncancel() <= self._cancelling
            and kind is asyncio.CancelledError
        ):
            raise TimeoutError from error

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Within this block, a part of what is under way, let its time stand still.

        Several tasks may be in such blocks at once; one may even outlive what it was a part of.
        """
        loop = asyncio.get_running_loop()
        self._pauses += 1
        if self._pauses == 1:
            self._seconds = self.until - loop.time()  # what is left
            self._deadlines.leave(self)
        try:
            yield
        finally:
            self._pauses -= 1
            if not self._pauses and not self._over:
                self.until = loop.time() + self._seconds
                self._deadlines.enter(self)

    def expire(self) -> None:
        """Break the block off."""
        self.expired = self._over = True
        self._task.cancel()
