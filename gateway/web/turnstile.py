"""The turnstile: how much of the event loop's time goes to what comes in.

Everything runs on one loop. Were all that has come since its last turn looked at in the next, then
with a thousand senders a turn would take as long as a thousand webhooks, and a job, whose call and
record take several turns, would take seconds: the more came, the less would be done. So what comes
in has a slice of time, and the rest waits in line, in order of arrival and not yet parsed, until
what is under way has gone on for some turns: they take as long as there is anything else to do. How
much of the one makes for how much of the other differs from machine to machine: where jobs fall
behind all the same, they have more turns.

While more comes than can be taken in, the line is as long as there are connections, and each of
them waits its turn: that slows down whoever waits for answers, at no cost. Only who has waited too
long is turned away, since that is dear: a webhook that is read and refused costs a fifth of one
that is delivered.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from time import perf_counter
from typing import Protocol

# Dozens of webhooks, and no more than a commit takes.
SLICE_SECONDS = 0.005

# Between two slices: about as many as a job takes from one call's answer to the next call. With one
# only, 64 slots delivered half as much from a long line.
REST_TURNS = 4

# And no more than so many while jobs are behind. Should their vendor be what is slow, and not the
# loop, such turns are nearly empty, and take a tenth of a slice together.
MOST_REST_TURNS = 16

# Whose turn comes later than this is told to come again: most senders give up after five to thirty
# seconds, the most impatient after three. The longer it is, the fewer are turned away: with 4,096
# connections and three times too much, one second left 56 % of the throughput.
LATE_SECONDS = 2.0


class Entrant(Protocol):
    """Who waits in line."""

    def enter(self, waited_seconds: float) -> None:
        """Look at what came so long ago."""


class Turnstile:
    """Lets entrants in for *slice_seconds* at a time, at least one; the others wait in line.

    While there is a line, the loop takes REST_TURNS turns from one slice to the next, or as many as
    MOST_REST_TURNS while jobs are *behind*. Who has waited for longer than *late_seconds* should be
    turned away.
    """

    __slots__ = (
        *("_behind", "_clock", "_line", "_rested", "_slice_seconds", "_turning", "_until"),
        "late_seconds",
    )

    def __init__(
        self,
        *,
        slice_seconds: float = SLICE_SECONDS,
        late_seconds: float = LATE_SECONDS,
        behind: Callable[[], bool] = lambda: False,
        clock: Callable[[], float] = perf_counter,
    ) -> None:
        self.late_seconds = late_seconds
        self._slice_seconds = slice_seconds
        self._behind = behind
        self._clock = clock
        self._line: deque[tuple[float, Entrant]] = deque()
        self._until = 0.0  # when this slice ends
        self._turning = False  # whether the next turn will be noticed
        self._rested = 0  # turns since the last slice

    def __len__(self) -> int:
        return len(self._line)

    def lets_in(self) -> bool:
        """Return whether one more may enter now; one that may not has to :meth:`wait`."""
        if self._line:
            return False
        now = self._clock()
        if not self._turning:
            self._turning = True
            self._until = now + self._slice_seconds
            self._rested = 0
            asyncio.get_running_loop().call_soon(self._turn)
        return now < self._until

    def wait(self, entrant: Entrant) -> None:
        """Put *entrant* at the end of the line; its :meth:`Entrant.enter` is then called once."""
        self._line.append((self._clock(), entrant))

    def _turn(self) -> None:
        if not self._line:
            self._turning = False
            return
        asyncio.get_running_loop().call_soon(self._turn)
        self._rested += 1
        if self._rested < REST_TURNS or (self._rested < MOST_REST_TURNS and self._behind()):
            return
        self._rested = 0
        now = self._clock()
        self._until = now + self._slice_seconds
        while self._line:
            since, entrant = self._line.popleft()
            entrant.enter(now - since)
            now = self._clock()
            if now >= self._until:
                return
