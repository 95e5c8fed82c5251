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


class GroupCommit(Generic[Item, Result]):
    """Collects items and flushes them in batches, one batch at a time and in order of arrival.

    *flush* is given a list of items and returns, in order, a result for each or the exception that
    its submitter shall see; what it raises, all of them see. *weigh* gives an
    item's size in bytes, so that a batch stays bounded in memory as well as in rows.
    """

    def __init__(
        self,
        flush: Callable[[list[Item]], Awaitable[Sequence[Result | Exception]]],
        *,
        max_rows: int = 256,
        max_bytes: int = 8 << 20,
        weigh: Callable[[Item], int] | None = None,
    ) -> None:
        self._flush = flush
        self._max_rows = max_rows
        self._max_bytes = max_bytes
        self._weigh = weigh
        self._waiting: list[tuple[Item, asyncio.Future[Result]]] = []
        self._wake = asyncio.Event()
        self._closed = False

    def __len__(self) -> int:
        return len(self._waiting)

    def submit(self, item: Item) -> asyncio.Future[Result]:
        """Queue *item*; the future resolves when its batch is committed, or raises what it raised."""
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        self._wake.set()
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
            await self._flush_one(self._next_batch())

    def finish(self) -> None:
        """Let :meth:`run` return once everything submitted has been flushed."""
        self._closed = True
        self._wake.set()

    def _next_batch(self) -> list[tuple[Item, asyncio.Future[Result]]]:
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

    async def _flush_one(self, batch: list[tuple[Item, asyncio.Future[Result]]]) -> None:
        try:
            results = await self._flush([item for item, _ in batch])
        except asyncio.CancelledError:
            for _, future in batch:
                future.cancel()
            raise
        except Exception as error:  # noqa: BLE001  # handed to whoever waits for the item
            for _, future in batch:
                if not future.done():
                    future.set_exception(error)
            return
        for (_, future), result in zip(batch, results, strict=True):
            if future.done():
                continue
            if isinstance(result, Exception):
                future.set_exception(result)
            else:
                future.set_result(result)
