"""Group commit: what arrives while a flush is in flight forms the next batch.

There is no timer, so the batch size follows the disk: one row at a time when it is idle, hundreds
when it is busy.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from itertools import chain
from typing import Generic, TypeVar

import msgspec

Item = TypeVar("Item")
Result = TypeVar("Result")

_LOOK_SECONDS = 0.25  # how often it is looked for who has waited too long

# A further flight costs a statement of its own, which is as dear as ten rows: not for fewer rows
# than this, and not for fewer than fly already, whose end is near.
_WORTH_A_FLIGHT = 8

_ROW_SECONDS = 40e-6  # what a row takes PostgreSQL, on a core of 2026
_RISE = 0.05  # how much a longer commit counts against the shortest of late


class _Entry(msgspec.Struct, Generic[Item, Result], gc=False):
    """An item, whom to tell of it, until when (loop time), and whether it must not be overtaken."""

    item: Item
    tell: Callable[[Result | BaseException], None] | None  # None: nobody, or told already
    until: float
    in_order: bool


class GroupCommit(Generic[Item, Result]):
    """Collects items and flushes them in batches, in order of arrival.

    *flush* is given a list of items and returns, in order, a result for each or the exception that
    its submitter shall see; what it raises, all of them see. *weigh* gives an
    item's size in bytes, so that a batch stays bounded in memory as well as in rows. With a
    *patience*, a submitter waits no longer than about that many seconds, or than it said itself:
    it is then told what *impatience* returns, and the item is dropped unless its flush has begun.

    Up to *flights* batches are flushed at a time, so that one is collected and answered while the
    other is on the disk. Of two in flight either may be committed first, but never of two that
    both have items which were submitted *in order*. Where a commit takes no longer than
    *slow_seconds*, another is worth its statement only to a full batch.

    With a *linger*, flushes begin at least that many seconds apart unless a quarter of a full batch
    waits: for what nobody waits for, fewer and larger batches cost less. The first item after a
    pause is still flushed at once.
    """

    def __init__(
        self,
        flush: Callable[[list[Item]], Awaitable[Sequence[Result | Exception]]],
        *,
        max_rows: int = 256,
        max_bytes: int = 8 << 20,
        weigh: Callable[[Item], int] | None = None,
        patience_seconds: float | None = None,
        impatience: Callable[[], Exception] = TimeoutError,
        linger_seconds: float = 0.0,
        flights: int = 1,
        slow_seconds: float = 0.0,
    ) -> None:
        self._flush = flush
        self._max_rows = max_rows
        self._max_bytes = max_bytes
        self._weigh = weigh
        self._patience_seconds = patience_seconds or math.inf
        self._look_seconds = min(_LOOK_SECONDS, self._patience_seconds / 4)
        self._impatience = impatience
        self._linger_seconds = linger_seconds
        self._flights = flights
        self._slow_seconds = slow_seconds
        self._commit = CommitTime()
        self._alone = True  # whether what has taken off last had nothing beside it
        self._waiting: list[_Entry[Item, Result]] = []
        self._flying: list[list[_Entry[Item, Result]]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._wake = asyncio.Event()
        self._wake_at = 1  # how many must wait for another batch to take off
        self._closed = False

    def __len__(self) -> int:
        return len(self._waiting)

    def submit(
        self,
        item: Item,
        *,
        urgent: bool = False,
        in_order: bool = False,
        patience_seconds: float = math.inf,
    ) -> asyncio.Future[Result]:
        """Queue *item* as :meth:`post` does; the future resolves as *tell* would be called."""
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self.post(
            item,
            partial(resolve, future),
            urgent=urgent,
            in_order=in_order,
            patience_seconds=patience_seconds,
        )
        return future

    def post(
        self,
        item: Item,
        tell: Callable[[Result | BaseException], None] | None = None,
        *,
        urgent: bool = False,
        in_order: bool = False,
        patience_seconds: float = math.inf,
    ) -> None:
        """Queue *item*; once its batch is committed *tell* is called with its result, or its error.

        An *urgent* item ends the linger. One that is *in order* is committed after all such items
        that were submitted before it. Its own *patience* can only be shorter than that of all.
        """
        until = math.inf
        if tell is not None:
            loop = asyncio.get_running_loop()
            until = loop.time() + min(patience_seconds, self._patience_seconds)
            # One timer for all who wait, not one for each: this is the hottest path there is.
            if self._timer is None and self._patience_seconds < math.inf:
                self._timer = loop.call_later(self._look_seconds, self._expire)
        self._waiting.append(_Entry(item, tell, until, in_order))
        if urgent or len(self._waiting) >= self._wake_at:
            self._wake.set()

    async def run(self) -> None:
        """Flush batches until :meth:`finish` is called and nothing waits any more."""
        async with asyncio.TaskGroup() as group:
            for _ in range(self._flights):
                group.create_task(self._fly())

    def finish(self) -> None:
        """Let :meth:`run` return once everything submitted has been flushed."""
        self._closed = True
        self._wake.set()

    async def _fly(self) -> None:
        """Flush one batch after the other; there are as many of these as flights."""
        while True:
            batch = self._next_batch()
            if not batch:
                if self._closed and not self._waiting:
                    return
                self._wake.clear()
                await self._wake.wait()
                continue
            loop, began = asyncio.get_running_loop(), time.perf_counter()
            until = loop.time() + self._linger_seconds
            self._flying.append(batch)
            self._alone = len(self._flying) == 1
            self._note_flights()
            try:
                # A failure tells nothing of the disk; what flew beside may have made our commit.
                if await self._flush_one(batch) and self._alone:
                    self._commit.note(len(batch), time.perf_counter() - began)
            finally:
                self._flying.remove(batch)
                self._note_flights()
            if self._linger_seconds:
                await self._linger(until)

    async def _linger(self, until: float) -> None:
        """Sleep until then, or until enough waits, or nothing more will come."""
        loop = asyncio.get_running_loop()
        rest = until - loop.time()
        self._wake_at = self._max_rows // 4
        if rest > 0 and not self._closed and len(self._waiting) < self._wake_at:
            self._wake.clear()
            timer = loop.call_later(rest, self._wake.set)
            await self._wake.wait()
            timer.cancel()
        self._note_flights()

    def _note_flights(self) -> None:
        """Say how many must wait for another batch; wake whoever could take them already."""
        rows = sum(map(len, self._flying))
        if not rows:
            self._wake_at = 1
        elif self._commit.seconds < self._slow_seconds:
            self._wake_at = self._max_rows
        else:
            self._wake_at = max(_WORTH_A_FLIGHT, rows)
        if self._closed or len(self._waiting) >= self._wake_at:
            self._wake.set()

    def _next_batch(self) -> list[_Entry[Item, Result]]:
        """Take what may take off now; nothing when it is better to wait for more."""
        waiting = self._waiting
        if len(waiting) < self._wake_at and not self._closed:
            return []
        end = min(len(waiting), self._max_rows)
        if self._weigh is not None:
            size = 0
            for position in range(end):
                size += self._weigh(waiting[position].item)
                if size > self._max_bytes and position:
                    end = position
                    break
        if self._flying and any(entry.in_order for batch in self._flying for entry in batch):
            end = next((at for at in range(end) if waiting[at].in_order), end)
        batch = waiting[:end]
        del waiting[:end]
        return batch

    async def _flush_one(self, batch: list[_Entry[Item, Result]]) -> bool:
        """Flush *batch* and have its submitters told; return whether it went through."""
        results: Sequence[Result | BaseException]
        flushed = True
        try:
            results = await self._flush([entry.item for entry in batch])
        except asyncio.CancelledError as cancelled:
            _tell([(entry, cancelled) for entry in batch + self._waiting])
            raise
        except Exception as error:  # noqa: BLE001  # handed to whoever waits for the item
            flushed, results = False, [error] * len(batch)
        # In a moment: the next batch takes off before those of this one are answered.
        told = list(zip(batch, results, strict=True))
        asyncio.get_running_loop().call_soon(_tell, told)
        return flushed

    def _expire(self) -> None:
        """Tell those who have waited too long; keep looking while anybody waits."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        late = [one for one in chain(*self._flying, self._waiting) if one.until < now]
        # Still in the order of arrival; what was told so must not be committed after all.
        self._waiting = [one for one in self._waiting if one.until >= now]
        _tell([(one, self._impatience()) for one in late])
        self._timer = None
        if self._flying or self._waiting:
            self._timer = loop.call_later(self._look_seconds, self._expire)


class CommitTime:
    """How long a commit takes by itself: the disk, and the way there, but not the rows.

    ``seconds`` falls at once, since nothing makes a commit faster than it is, and rises slowly; it
    begins at 0.
    """

    def __init__(self) -> None:
        self.seconds = 0.0

    def note(self, rows: int, seconds: float) -> None:
        """Note that a batch of so many rows, beside which no other flew, took so long."""
        alone = max(0.0, seconds - rows * _ROW_SECONDS)
        self.seconds = min(alone, self.seconds + _RISE * (alone - self.seconds))


def _tell(told: Sequence[tuple[_Entry[Item, Result], Result | BaseException]]) -> None:
    """Tell each who has not been told yet."""
    for entry, result in told:
        if entry.tell is not None:
            tell, entry.tell = entry.tell, None
            try:
                tell(result)
            except Exception as error:  # noqa: BLE001  # as the loop has it: the others are told
                context = {"message": "a submitter could not be told", "exception": error}
                asyncio.get_running_loop().call_exception_handler(context)


def resolve(future: asyncio.Future[Result], result: Result | BaseException) -> None:
    """Let whoever awaits *future* have the result, or the error."""
    if future.done():
        return  # its submitter has left
    if isinstance(result, asyncio.CancelledError):
        future.cancel()
    elif isinstance(result, BaseException):
        future.set_exception(result)
    else:
        future.set_result(result)
