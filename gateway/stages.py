"""Stages of coroutines: many tasks take the same step, and then the next step together.

To tasks it is what a cohort is to callbacks; see :mod:`gateway.cohorts`. It stands apart because
mypyc, which compiles those, does not know coroutines that are made of generators.
"""

from __future__ import annotations

from collections.abc import Generator
from types import coroutine


@coroutine
def next_stage() -> Generator[None, None, None]:
    """Let the other tasks come as far as this one, before it goes on; to be awaited."""
    yield  # what asyncio.sleep(0) comes down to, without its two coroutines
