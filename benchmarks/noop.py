"""The no-op job of the drain: a handler of the gateway that returns at once.

The process that executes the last of ``BENCHMARK_JOBS`` jobs writes when the first and the last
of them ran (CLOCK_MONOTONIC, ns) to the file ``BENCHMARK_REPORT``.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from gateway.handlers import JobContext

_JOBS = int(os.environ.get("BENCHMARK_JOBS", "0"))
_REPORT = os.environ.get("BENCHMARK_REPORT", "")


class _Progress:
    executed = 0
    first_ns = 0


async def run(_: JobContext) -> None:
    """Do nothing, and count it."""
    if not _Progress.executed:
        _Progress.first_ns = time.monotonic_ns()
    _Progress.executed += 1
    if _Progress.executed == _JOBS:
        _report()


def _report() -> None:
    Path(_REPORT).write_text(f"{_Progress.first_ns} {time.monotonic_ns()}\n")
