"""What the draining programs in Python share: their order, and the report of the last job."""

import os
import time
from pathlib import Path

JOBS = int(os.environ["BENCHMARK_JOBS"])
PAYLOAD = os.environ["BENCHMARK_PAYLOAD"]
REPORT = Path(os.environ["BENCHMARK_REPORT"])
URL = os.environ.get("BENCHMARK_DATABASE", "")

_first_ns = 0
_executed = 0


def executed() -> None:
    """Count a job; after the last one write when the first and the last ran."""
    global _first_ns, _executed
    if not _executed:
        _first_ns = time.monotonic_ns()
    _executed += 1
    if _executed == JOBS:
        REPORT.write_text(f"{_first_ns} {time.monotonic_ns()}\n")
