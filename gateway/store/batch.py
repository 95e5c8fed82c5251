"""Group commit: what arrives while a flush is in flight forms the next batch.

There is no timer, so the batch size follows the disk: one row at a time when it is idle, hundreds
when it is busy.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

# An item, who waits for it, and since when (loop time).
_Entry = tuple[Item, "asyncio.Future[Result]", float]


class GroupCommit(Generic[Item, Result]):
    """Collects items and flushes them in batches, one batch at a time and in order of arrival.

    *flush* is given a list of items and returns, in order, a result for each or the exception that
    its submitter shall see; what it raises, all of them see. *weigh* gives an
    item's size in bytes, so that a batch stays bounded in memory as well as in rows. With a
    *patience*, a submitter waits no longer than about that many seconds: its future then raises
    what *impatience* returns, and the item is dropped unless its flush has begun.

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
    ) -> None:
        self._flush = flush
        self._max_rows = max_rows
        self._max_bytes = max_bytes
        self._weigh = weigh
        self._patience_seconds = patience_seconds
        self._impatience = impatience
        self._linger_seconds = linger_seconds
        self._waiting: list[_Entry[Item, Result]] = []
        self._flushing: list[_Entry[Item, Result]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._wake = asyncio.Event()
        self._wake_at = 1  # how many must wait for the flusher to be woken
        self._closed = False

    def __len__(self) -> int:
        return len(self._waiting)

    def submit(self, item: Item, *, urgent: bool = False) -> asyncio.Future[Result]:
        """Queue *item*; the future resolves when its batch is committed, or raises its error.

        An *urgent* item ends the linger.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Result] = loop.create_future()
        self._waiting.append((item, future, loop.time()))
        if urgent or len(self._waiting) >= self._wake_at:
            self._wake.set()
        # One timer for all who wait, not one for each: this is the hottest path there is.
        if self._timer is None and self._patience_seconds is not None:
            self._timer = loop.call_later(self._patience_seconds / 4, self._expire)
        return future

    async def run(self) -> None:
        """Flush batches until :meth:`finish` is called and nothing waits any more."""
        while True:
            if not self._waiting:
                if self._closed:
                    return
                self._wake.clear()
                await self._wake.wait()
                continue
            began = asyncio.get_running_loop().time()
            self._flushing = self._next_batch()
            await self._flush_one(self._flushing)
            self._flushing = []
            if self._linger_seconds:
                await self._linger(began + self._linger_seconds)

    def finish(self) -> None:
        """Let :meth:`run` return once everything submitted has been flushed."""
        self._closed = True
        self._wake.set()

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
        self._wake_at = 1

    def _next_batch(self) -> list[_Entry[Item, Result]]:
        end = min(len(self._waiting), self._max_rows)
        if self._weigh is not None:
            size = 0
            for position in range(end):
                size += self._weigh(self._waiting[position][0])
                if size > self._max_bytes and position:
                    end = position
                    break
        batch = self._waiting[:end]
        del self._waiting[:end]
        return batch

    async def _flush_one(self, batch: list[_Entry[Item, Result]]) -> None:
        try:
            results = await self._flush([item for item, _, _ in batch])
        except asyncio.CancelledError:
            for _, future, _ in batch + self._waiting:
                future.cancel()
            raise
        except Exception as error:  # noqa: BLE001  # handed to whoever waits for the item
            for _, future, _ in batch:
                if not future.done():
                    future.set_exception(error)
            return
        for (_, future, _), result in zip(batch, results, strict=True):
            if future.done():
                continue
            if isinstance(result, Exception):
                future.set_exception(result)
            else:
                future.set_result(result)

    def _expire(self) -> None:
        """Tell those who have waited too long; keep looking while anybody waits."""
        assert self._patience_seconds is not None  # noqa: S101  # the timer is set only with it
        loop = asyncio.get_running_loop()
        too_old = loop.time() - self._patience_seconds
        for _, future, since in self._flushing + self._waiting:
            if since < too_old and not future.done():
                future.set_exception(self._impatience())
        # Still in the order of arrival; what was told so must not be committed after all.
        self._waiting = [entry for entry in self._waiting if not entry[1].done()]
        self._timer = None
        if self._flushing or self._waiting:
            self._timer = loop.call_later(self._patience_seconds / 4, self._expire)
