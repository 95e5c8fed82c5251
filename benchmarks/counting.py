"""A gateway whose statements are counted: ``python -m benchmarks.counting serve …``.

Each SIGUSR1 appends a line of JSON to the file ``BENCHMARK_STATEMENTS``: by the name of the query,
how often it ran and how many seconds its callers waited for it, the pool included.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from time import perf_counter
from typing import Any

import msgspec

from gateway.cli import main
from gateway.store.database import Database

_statements: dict[str, list[float]] = {}  # calls, seconds


def _counted(fetch: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    async def counting(db: Database, name: str, *args: Any, **options: Any) -> Any:
        began = perf_counter()
        try:
            return await fetch(db, name, *args, **options)
        finally:
            entry = _statements.setdefault(" ".join(name.split())[:60], [0, 0.0])
            entry[0] += 1
            entry[1] += perf_counter() - began

    return counting


def _write(*_: object) -> None:
    with Path(os.environ["BENCHMARK_STATEMENTS"]).open("ab") as file:
        file.write(msgspec.json.encode(_statements) + b"\n")


if __name__ == "__main__":
    for method in ("fetch", "fetch_planned", "fetch_sql"):
        setattr(Database, method, _counted(getattr(Database, method)))
    signal.signal(signal.SIGUSR1, _write)
    main()
