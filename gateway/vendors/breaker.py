"""The circuit breaker of one vendor: stop calling what does not answer. Pure; the clock is given.

closed → open after ``failures`` in a row within ``window_seconds``, or when of at least ``minimum``
calls in that window a ``ratio`` failed; open → half-open after ``cooldown_seconds``, where one call
at a time probes; a probe that succeeds closes, one that fails opens again, and one that says
nothing is given back, so that the next call probes. What counts as a failure is the caller's
matter: see :func:`gateway.vendors.classify.health`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from enum import StrEnum
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from gateway.config import model as config

NO_PROBE = -1  # the permit of a call that is made as if there were no breaker

_NEVER = float("-inf")
_SPANS = 20  # the parts in which the window moves on, for the ratio


class BreakerState(StrEnum):
    """The states of a breaker, as metrics and operators see them."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"


class Transition(msgspec.Struct, frozen=True):
    """A change of state, to be logged, counted and shared with other nodes."""

    before: BreakerState
    after: BreakerState
    opened_until: float  # by the breaker's clock; -inf unless it opened
    told: bool = False  # by another node, which found out by itself


class CircuitBreaker:
    """Decides whether a vendor is called. *clock* is monotonic, in seconds."""

    def __init__(
        self,
        settings: config.Breaker,
        *,
        clock: Callable[[], float],
        on_change: Callable[[Transition], None] = lambda _: None,
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._on_change = on_change
        self._state = BreakerState.CLOSED
        self._failures: deque[float] = deque(maxlen=settings.failures)  # in a row, the last ones
        self._calls: deque[_Span] = deque()  # of the window, for the ratio
        self._opened_until = _NEVER
        self._probe_until = _NEVER  # a probe is under way, or was lost, until then
        self._probes = 0  # the number of the latest one

    @property
    def state(self) -> BreakerState:
        """The state now; half-open from the moment the cool-down is over."""
        if self._state is BreakerState.OPEN and self._clock() >= self._opened_until:
            return BreakerState.HALF_OPEN
        return self._state

    @property
    def closed(self) -> bool:
        """Whether calls are made as if there were no breaker."""
        return self._state is BreakerState.CLOSED

    @property
    def opened_until(self) -> float:
        """When probing may begin, by the breaker's clock; -inf unless it is open."""
        return self._opened_until if self.state is BreakerState.OPEN else _NEVER

    def delay(self) -> float:
        """Return the seconds until a call may be allowed; 0 is now. Takes nothing.

        While a probe is under way this is when it counts as lost; its result comes earlier.
        """
        now = self._clock()
        match self.state:
            case BreakerState.CLOSED:
                return 0.0
            case BreakerState.OPEN:
                return self._opened_until - now
            case BreakerState.HALF_OPEN:
                return max(0.0, self._probe_until - now)

    def allow(self) -> int | None:
        """Return a permit if one call may be made now, else None.

        Half-open, that call is the probe. Whoever has a permit gives it back in the end; a probe of
        which nothing is heard any more is given up after a cool-down's time.
        """
        if self._state is BreakerState.CLOSED:
            return NO_PROBE
        if self.delay() > 0.0:
            return None
        self._move(BreakerState.HALF_OPEN)
        self._probe_until = self._clock() + self._settings.cooldown_seconds
        self._probes += 1
        return self._probes

    def give_back(self, permit: int) -> bool:
        """Let another call probe if *permit* is that of one without result: not sent, or cut short.

        Returns whether it is. Any other permit is done with.
        """
        if permit != self._probes or self._probe_until == _NEVER:
            return False
        self._probe_until = _NEVER
        return True

    def record(self, success: bool) -> None:
        """Count the result of a call that was allowed."""
        now = self._clock()
        match self._state:
            case BreakerState.OPEN:
                pass  # of a call that began before it opened: says nothing new
            case BreakerState.HALF_OPEN if success:
                self._close()
            case BreakerState.HALF_OPEN:
                self._open(now + self._settings.cooldown_seconds)
            case BreakerState.CLOSED:
                too_many = self._settings.ratio is not None and self._counts_up(now, success)
                if success:
                    self._failures.clear()
                    return
                self._failures.append(now)
                if too_many or (
                    len(self._failures) == self._settings.failures
                    and now - self._failures[0] <= self._settings.window_seconds
                ):
                    self._open(now + self._settings.cooldown_seconds)

    def open_for(self, seconds: float) -> None:
        """Open because another node found the vendor down, for the rest of its cool-down."""
        until = self._clock() + seconds
        if seconds > 0 and until > self._opened_until:
            self._open(until, told=True)

    def reset(self) -> None:
        """Close, by another node's successful probe or an operator's wish."""
        if self._state is not BreakerState.CLOSED:
            self._close(told=True)

    def _counts_up(self, now: float, success: bool) -> bool:
        """Count a call; return whether too large a part of the window's calls failed."""
        window_seconds, calls = self._settings.window_seconds, self._calls
        if not calls or now >= calls[-1].began + window_seconds / _SPANS:
            calls.append(_Span(now))
        calls[-1].made += 1
        calls[-1].failed += not success
        while calls[0].began <= now - window_seconds:
            calls.popleft()
        made = sum(span.made for span in calls)
        failed = sum(span.failed for span in calls)
        return made >= self._settings.minimum and failed >= (self._settings.ratio or 0.0) * made

    def _open(self, until: float, *, told: bool = False) -> None:
        self._failures.clear()
        self._calls.clear()
        self._opened_until = until
        self._probe_until = _NEVER
        self._move(BreakerState.OPEN, told=told)

    def _close(self, *, told: bool = False) -> None:
        self._failures.clear()
        self._calls.clear()
        self._opened_until = self._probe_until = _NEVER
        self._move(BreakerState.CLOSED, told=told)

    def _move(self, after: BreakerState, *, told: bool = False) -> None:
        before, self._state = self._state, after
        if before is not after:
            until = self._opened_until if after is BreakerState.OPEN else _NEVER
            self._on_change(Transition(before, after, until, told))


class _Span(msgspec.Struct):
    """Calls of one part of the window, which leave it together."""

    began: float
    made: int = 0
    failed: int = 0
