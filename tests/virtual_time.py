"""An event loop in which hours pass in no time."""

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from typing import Any


class VirtualTime(asyncio.SelectorEventLoop):
    """An event loop whose clock jumps to the next timer instead of waiting for it."""

    def __init__(self) -> None:
        self.now = 1000.0
        super().__init__(_NeverWaits(self))

    def time(self) -> float:
        return self.now


class _NeverWaits(selectors.SelectSelector):
    def __init__(self, loop: VirtualTime) -> None:
        super().__init__()
        self._virtual = loop

    def select(self, timeout: float | None = None) -> Any:
        if timeout is None:
            raise AssertionError("the loop would wait for ever")
        # A hair more, as real timers do: no time is ever exactly the one that was asked for.
        self._virtual.now += timeout + 1e-6 if timeout > 0 else 0.0
        return super().select(0)


def in_virtual_time(main: Callable[[VirtualTime], Coroutine[Any, Any, Any]]) -> Any:
    loop = VirtualTime()
    try:
        return loop.run_until_complete(main(loop))
    finally:
        loop.close()
