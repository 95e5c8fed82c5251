"""A vendor is down for an hour of virtual time; then its jobs come back, all of them, no herd."""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from virtual_gateway import VirtualDatabase, running_nodes
from virtual_time import VirtualTime, in_virtual_time

from gateway.queue.lane import FAILING_GAP_SECONDS
from gateway.vendors.breaker import BreakerState
from gateway.vendors.calls import CallFailed, Reply
from gateway.worker import FAILING_AFTER

JOBS = 10_000
DOWN_SECONDS = 3600.0

OK = Reply(status=200, headers={}, body=b"", body_complete=True, duration_seconds=0.02)


class Outage:
    """The vendor: refuses every call for an hour, then answers; remembers when it was called."""

    def __init__(self, loop: VirtualTime) -> None:
        self.loop = loop
        self.back_at = loop.time() + DOWN_SECONDS
        self.refused: list[tuple[float, str]] = []
        self.answered: list[tuple[float, str]] = []

    def answer(self, key: str) -> Reply:
        now = self.loop.time()
        if now < self.back_at:
            self.refused.append((now, key))
            raise CallFailed("connect", "nobody listens")
        self.answered.append((now, key))
        return OK


def outage(
    directory: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    api: str,
    over_seconds: float,
    jobs: int = JOBS,
) -> tuple[Outage, VirtualDatabase, list[BreakerState | None]]:
    """Have two nodes take webhooks in the first *over_seconds* of the hour; run to the end.

    Returns the vendor, the database, and how the nodes' breakers stood after the last webhook.
    """

    async def main(loop: VirtualTime) -> tuple[Outage, VirtualDatabase, list[Any]]:
        vendor, db = Outage(loop), VirtualDatabase(loop)
        began = loop.time()
        async with running_nodes(
            loop, db, vendor.answer, directory=directory, monkeypatch=monkeypatch, api=api
        ) as nodes:
            for number in range(jobs):
                if (wait := began + over_seconds * number / jobs - loop.time()) > 0:
                    await asyncio.sleep(wait)
                await nodes[number % len(nodes)].accept()
            breakers = [node.breaker and node.breaker.state for node in nodes]
            async with asyncio.timeout(2 * DOWN_SECONDS):
                await db.until_finished(jobs)
        return vendor, db, breakers

    found: tuple[Outage, VirtualDatabase, list[BreakerState | None]] = in_virtual_time(main)
    return found


def assert_completed_once(vendor: Outage, db: VirtualDatabase) -> None:
    assert Counter(row.state for row in db.jobs.values()) == {"completed": JOBS}
    assert {row.finished for row in db.jobs.values()} == {1}
    assert Counter(key for _, key in vendor.answered) == {str(job): 1 for job in db.jobs}


def most_within(times: Sequence[float], seconds: float) -> int:
    """Return how many of *times*, which are in order, lie in the busiest span of *seconds*."""
    return max(bisect_left(times, first + seconds, lo=at) - at for at, first in enumerate(times))


@pytest.mark.parametrize(
    ("breaker", "failures"),
    [('breaker = { failures = 10, window = "1m", cooldown = "30s" }', 10), ("", 16)],
    ids=["written", "default"],
)
def test_behind_a_breaker_jobs_wait_unspent_and_come_back_at_the_rate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, breaker: str, failures: int
) -> None:
    rate, concurrency, cooldown = 50, 8, 30.0
    vendor, db, breakers = outage(
        tmp_path,
        monkeypatch,
        api=f'rate = "{rate}/s"\nconcurrency = {concurrency}\n{breaker}',
        over_seconds=DOWN_SECONDS - 1.0,
    )
    assert_completed_once(vendor, db)
    assert None not in breakers
    assert BreakerState.CLOSED not in breakers

    # What was under way when it opened, on both nodes; from then on one probe each cool-down.
    before_open = failures + 2 * concurrency
    assert len(vendor.refused) <= before_open + DOWN_SECONDS / cooldown
    # Attempts were spent before it opened, and by what completed; by no probe.
    assert sum(row.attempt for row in db.jobs.values()) <= JOBS + before_open
    assert max(row.attempt for row in db.jobs.values()) <= 5

    arrivals = [at for at, _ in vendor.answered]
    assert arrivals[0] < vendor.back_at + 1.2 * cooldown
    assert most_within(arrivals, 1.0) <= rate
    assert most_within(arrivals, 0.1) <= 0.14 * rate
    assert arrivals[-1] - arrivals[0] < JOBS / rate / 0.9


def test_a_job_that_only_ever_probes_dies_of_its_age_and_not_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vendor, db, _ = outage(
        tmp_path,
        monkeypatch,
        api='breaker = { failures = 2, cooldown = "10s" }\n'
        'retry = { attempts = 3, max_age = "10m" }',
        over_seconds=1.0,
        jobs=1,
    )
    (row,) = db.jobs.values()
    assert (row.state, row.attempt, row.finished) == ("dead", 3, 1)
    times = [at for at, _ in vendor.refused]
    assert 500 < times[-1] - times[0] < 600
    assert all(later - probe >= 10.0 for probe, later in pairwise(times[1:]))


def test_without_a_breaker_full_jitter_alone_spreads_the_return(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worst case: all of them came at once, and neither a rate nor few slots hold them back."""
    cap = 600.0
    vendor, db, _ = outage(
        tmp_path,
        monkeypatch,
        api="breaker = false\nconcurrency = 64\n"
        'retry = { attempts = 100, base = "1m", cap = "10m" }',
        over_seconds=1.0,
    )
    assert_completed_once(vendor, db)
    # Two nodes: neither spends its time on calls that fail, however many of them are due.
    refused = [at for at, _ in vendor.refused]
    assert most_within(refused[2 * (FAILING_AFTER + 64) :], 1.0) <= 2 * (
        1 / FAILING_GAP_SECONDS + 1
    )
    # A wait is half the cap on average, shorter while it grows.
    assert max(row.attempt for row in db.jobs.values()) <= 3 * DOWN_SECONDS / (cap / 2)

    arrivals = [at for at, _ in vendor.answered]
    assert arrivals[-1] <= vendor.back_at + cap + 2.0
    # Of waits that are equally likely anywhere up to the cap, most end early: at first there are
    # twice as many a second as on average, give or take five times the root of that. Over two
    # seconds: what was due is taken each second, and until the first answer it was started singly.
    first = 2 * (2 * JOBS / cap)
    assert most_within(arrivals, 2.0) <= first + 5 * first**0.5
