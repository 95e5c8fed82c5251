"""Whole nodes in virtual time: everything that ``gateway serve`` builds, but wire and database.

The vendor is a script, the database a few dictionaries that do what the statements say. Lanes,
feeder, desks, worker, backoff, limiters, breakers and what nodes tell each other are the real ones.
"""

from __future__ import annotations

import asyncio
import functools
import heapq
import logging
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import msgspec
import pytest
import structlog
from rate_books import Books
from virtual_time import VirtualTime

from gateway import parts as wiring
from gateway import worker
from gateway.config.loader import load
from gateway.config.model import Api
from gateway.model import Event, RateOrder, RateTerms
from gateway.queue.acceptance import AcceptanceDesk
from gateway.store.ids import new_id
from gateway.store.writes import Acceptance
from gateway.telemetry.metrics import Metrics
from gateway.vendors.calls import Call, Reply
from gateway.vendors.classify import rules_of
from gateway.vendors.limits import StrictLimiter
from gateway.vendors.redact import redaction_for

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
STATEMENT_SECONDS = 0.002

Answer = Callable[[str], Reply]  # of the vendor to a call with this idempotency key; may raise


class Row(msgspec.Struct):
    """One job in the database."""

    id: UUID
    event_id: UUID
    route: str
    vendor: str
    kind: str
    priority: int
    max_attempts: int
    correlation_id: str
    created_at: datetime
    state: str
    node: str | None
    claim_no: int
    attempt: int = 0
    finished: int = 0  # how often its end was recorded


class VirtualDatabase:
    """Does what the named statements do, as far as these tests go, by the loop's clock."""

    up = True

    def __init__(self, loop: VirtualTime) -> None:
        self.loop = loop
        self.jobs: dict[UUID, Row] = {}
        self.events: dict[UUID, dict[str, Any]] = {}
        self._available: dict[str, list[tuple[int, UUID]]] = defaultdict(list)
        self._scheduled: list[tuple[float, UUID]] = []
        self._parked: dict[str, float] = {}
        self._breakers: dict[str, tuple[str, float, str]] = {}
        self._books: dict[str, Books] = defaultdict(Books)
        self._history: set[tuple[UUID, int]] = set()
        self._ended = 0
        self._news = asyncio.Event()

    async def until_finished(self, jobs: int) -> None:
        """Wait until so many jobs have come to an end."""
        while self._ended < jobs:
            self._news.clear()
            await self._news.wait()

    async def wait_up(self) -> None:
        pass

    async def fetch(self, name: str, *args: Any) -> list[Any]:
        await asyncio.sleep(STATEMENT_SECONDS)
        rows: list[Any] = getattr(self, name.replace(".", "_"))(*args) or []
        return rows

    async def fetch_planned(self, name: str, *args: Any, partition: str | None = None) -> list[Any]:
        assert partition is None, "there are none here"
        return await self.fetch(name, *args)

    def upkeep_job_partitions(self) -> None:
        pass

    def now(self) -> datetime:
        return EPOCH + timedelta(seconds=self.loop.time())

    # Webhooks and jobs --------------------------------------------------------------------------

    def events_accept(self, *args: Any) -> None:
        kinds = list(zip(*args[12:20], strict=True))
        ids = args[2]
        for event_id, body in zip(ids, args[10], strict=True):
            self.events[event_id] = {
                "id": event_id,
                "vendor": "shop",
                "event_type": None,
                "dedupe_key": None,
                "correlation_id": "c",
                "traceparent": None,
                "headers": "{}",
                "query": "",
                "body": body,
                "received_at": self.now(),
            }
        job_ids, event_nos, kind_nos = args[20:23]  # positions are null where all are trivial
        event_nos = event_nos or range(1, len(job_ids) + 1)
        kind_nos = kind_nos or [1] * len(job_ids)
        for job_id, event_no, kind_no in zip(job_ids, event_nos, kind_nos, strict=True):
            route, vendor, kind, priority, _, max_attempts, _, handed_off = kinds[kind_no - 1]
            row = self.jobs[job_id] = Row(
                id=job_id,
                event_id=ids[event_no - 1],
                route=route,
                vendor=vendor,
                kind=kind,
                priority=priority,
                max_attempts=max_attempts,
                correlation_id="c",
                created_at=self.now(),
                state="running" if handed_off else "available",
                node=args[24] if handed_off else None,
                claim_no=int(handed_off),
            )
            if not handed_off:
                self._offer(row)

    def events_of_jobs(self, ids: set[UUID], _max_body_bytes: int) -> list[Any]:
        return [self.events[event_id] for event_id in ids]

    def jobs_claim(
        self,
        lanes: list[str],
        urgent: list[int],
        oldest: list[int],
        node: str,
        _floor: UUID,
        _priorities: list[int],
        _lows: list[UUID],
    ) -> list[Any]:
        claimed = []
        for lane, most in zip(lanes, map(sum, zip(urgent, oldest, strict=True)), strict=True):
            waiting = self._available[lane]
            for _ in range(min(most, len(waiting))):
                row = self.jobs[heapq.heappop(waiting)[1]]
                row.state, row.node, row.claim_no = "running", node, row.claim_no + 1
                extra = {
                    "ordering_key": None,
                    "rescues": 0,
                    "idempotency_key": None,
                    "payload": None,
                    "urgent": True,
                    "oldest": False,
                }
                claimed.append(msgspec.structs.asdict(row) | extra)
        return claimed

    def jobs_settle(self, *args: Any) -> list[Any]:
        settled = []
        states, attempts, claim_nos, _, outcomes, ids, ending_nos, *_ = args
        delays = args[9] or [0.0] * len(ids)
        for job_id, ending_no, delay in zip(ids, ending_nos, delays, strict=True):
            row, ending = self.jobs[job_id], ending_no - 1
            if row.claim_no != claim_nos[ending] or row.state != "running":
                continue
            state, attempt, outcome = states[ending], attempts[ending], outcomes[ending]
            if outcome != "snooze":
                assert (job_id, attempt) not in self._history, f"{outcome}: attempt {attempt} twice"
                self._history.add((job_id, attempt))
            row.state, row.attempt = state, attempt
            if state == "scheduled":
                heapq.heappush(self._scheduled, (self.loop.time() + (delay or 0.0), job_id))
            else:
                row.finished += 1
                self._ended += 1
                self._news.set()
            settled.append((job_id,))
        return settled

    def jobs_look(self, lanes: list[str], _floor: UUID) -> list[Any]:
        found: list[str | None] = [lane for lane in lanes if self._available[lane]]
        if self._scheduled and self._scheduled[0][0] <= self.loop.time():
            found.append(None)
        return [{"lane": lane} for lane in found]

    def jobs_promote(self, limit: int, _floor: UUID) -> list[Any]:
        promoted: dict[str, int] = defaultdict(int)
        while self._scheduled and self._scheduled[0][0] <= self.loop.time() and limit:
            row = self.jobs[heapq.heappop(self._scheduled)[1]]
            row.state = "available"
            self._offer(row)
            promoted[row.vendor] += 1
            limit -= 1
        return [{"vendor": vendor, "jobs": jobs} for vendor, jobs in promoted.items()]

    def jobs_release(self, ids: list[UUID], node: str) -> list[Any]:
        released = []
        for job_id in ids:
            row = self.jobs[job_id]
            if row.node == node and row.state == "running":
                row.state, row.claim_no = "available", row.claim_no + 1
                self._offer(row)
                released.append((job_id,))
        return released

    def _offer(self, row: Row) -> None:
        row.node = None
        heapq.heappush(self._available[row.vendor], (row.priority, row.id))

    # What nodes share ---------------------------------------------------------------------------

    def vendors_park(self, vendors: list[str], seconds: list[float], _: list[int]) -> None:
        for vendor, wish in zip(vendors, seconds, strict=True):
            until = self.loop.time() + wish
            self._parked[vendor] = max(until, self._parked.get(vendor, 0.0))

    def vendors_move_breakers(self, *news: Any) -> None:
        now = self.loop.time()
        for vendor, state, seconds, node, _ in zip(*news, strict=True):  # nobody resumes here
            known = self._breakers.get(vendor, ("closed", 0.0, ""))
            if "closed" in (state, known[0]) or known[2] == node or known[1] < now:
                self._breakers[vendor] = (state, now + seconds, node)

    def vendors_states(self) -> list[Any]:
        now = self.loop.time()
        states = []
        for vendor in self._parked.keys() | self._breakers.keys():
            breaker, until, node = self._breakers.get(vendor, ("closed", now, None))
            parked = max(0.0, self._parked.get(vendor, 0.0) - now)
            states.append(
                {
                    "vendor": vendor,
                    "parked_seconds": parked,
                    "breaker": breaker,
                    "breaker_seconds": until - now,
                    "breaker_node": node,
                    "resumes": 0,
                }
            )
        return states

    def shares_buy(self, vendor: str, node: str, number: int, *args: Any) -> list[Any]:
        counts, periods, ages, calls, kept, wanted, wants, releases, pace, ahead, valid, alone = (
            args
        )
        terms = RateTerms(
            counts=counts,
            periods_seconds=periods,
            pace_seconds=pace,
            ahead_seconds=ahead,
            valid_seconds=valid,
            exclusive_seconds=alone,
        )
        order = RateOrder(
            number=number,
            sent_at=0.0,
            used=tuple(zip(ages, calls, strict=True)),
            kept=kept,
            wanted=wanted,
            wants=wants,
            releases=releases,
        )
        grant = self._books[vendor].buy(node, terms=terms, order=order, now=self.loop.time())
        return [] if grant is None else [msgspec.structs.asdict(grant)]


class _Client:
    """In the place of a vendor's client: takes the turn, then the script answers."""

    def __init__(
        self, answer: Answer, api: Api, *, user_agent: str, limiter: StrictLimiter | None = None
    ) -> None:
        self.api = api
        self.rules, self.redaction = rules_of(api), redaction_for(api)
        self._answer = answer
        self._limiter = limiter

    async def start(self) -> None:
        pass

    async def close(self) -> None:
        pass

    async def send(self, call: Call) -> Reply:
        if self._limiter is not None:
            await self._limiter.confirm()
        await asyncio.sleep(0.02)
        return self._answer(call.idempotency_key)


class Node:
    """One running node. ``accept`` takes a webhook; ``breaker`` is that of the vendor *crm*."""

    def __init__(self, parts: Any) -> None:
        self._desk: AcceptanceDesk = parts.desk
        self._router = parts.intake.router
        self.breaker = parts.news.breakers.get("crm")

    async def accept(self) -> None:
        event = Event(
            id=new_id(),
            vendor="shop",
            correlation_id="c",
            headers={},
            body=b"{}",
            received_at=EPOCH,
        )
        await self._desk.accept(Acceptance(event, "{}", self._router.jobs_for(event, None), 60.0))


def _configure(directory: Path, api: str, *, node: str) -> Path:
    path = directory / f"{node}.toml"
    path.write_text(
        f"""
[gateway]
state_dir = "{directory}"
node = "{node}"
[database]
url = "postgresql://nobody@127.0.0.1:1/none"
[vendors.shop.webhook]
verify = "none"
[vendors.crm.api]
base_url = "https://crm.example"
{api}
[[routes]]
name = "order"
from = "shop"
call = "POST crm:/orders"
"""
    )
    return path


def _faults_only() -> Any:
    wrapper = structlog.make_filtering_bound_logger(logging.ERROR)
    return structlog.wrap_logger(structlog.PrintLogger(), wrapper_class=wrapper)


@asynccontextmanager
async def running_nodes(
    loop: VirtualTime,
    db: VirtualDatabase,
    answer: Answer,
    *,
    directory: Path,
    monkeypatch: pytest.MonkeyPatch,
    api: str,
    nodes: int = 2,
) -> AsyncIterator[list[Node]]:
    """Run *nodes* nodes that call ``crm``, configured by *api*, for each webhook of ``shop``."""

    class VirtualDatetime(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            return db.now()

    monkeypatch.setattr(worker, "log", _faults_only())  # it tells of each job that is postponed
    monkeypatch.setattr(worker, "datetime", VirtualDatetime)
    monkeypatch.setattr(wiring, "time", SimpleNamespace(monotonic=loop.time))
    monkeypatch.setattr(wiring, "VendorClient", functools.partial(_Client, answer))
    seeds = iter(range(1, nodes + 1))
    monkeypatch.setattr(wiring, "Random", lambda: Random(next(seeds)))
    async with AsyncExitStack() as stack:
        running: list[asyncio.Task[None]] = []
        built = []
        for number in range(1, nodes + 1):
            config = load(_configure(directory, api, node=f"node-{number}"))
            parts = await wiring.build_parts(
                config,
                stack,
                db,  # type: ignore[arg-type]
                node=f"node-{number}",
                metrics=Metrics(version="0", vendors=config.vendors),
                status=lambda: "serving",
                started_at=db.now(),
            )
            built.append(Node(parts))
            running += [
                asyncio.ensure_future(part.run())
                for part in (
                    parts.desk,
                    parts.settlement,
                    parts.feeder,
                    parts.limits,
                    parts.news,
                )
            ]
        try:
            yield built
        finally:
            for task in running:
                task.cancel()
            ended = await asyncio.gather(*running, return_exceptions=True)
            faults = [end for end in ended if isinstance(end, Exception)]
            assert not faults, faults
