"""The nouns: events, jobs, and the outcomes of an attempt. Pure data, no behaviour of its own."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

import msgspec


class JobState(StrEnum):
    """The states of a job; who moves a job on from each is told in the comment beside it."""

    SCHEDULED = "scheduled"  # waits for run_at; the feeder promotes it when due
    AVAILABLE = "available"  # in the backlog; a feeder claims it
    RUNNING = "running"  # held by a node, in memory or executing; its worker settles it
    BLOCKED = "blocked"  # waits for an older job of its ordering key; that job's settle frees it
    COMPLETED = "completed"  # final
    DEAD = "dead"  # final: the dead letter; replay makes a new job from it
    CANCELLED = "cancelled"  # final


FINAL_STATES = frozenset({JobState.COMPLETED, JobState.DEAD, JobState.CANCELLED})


class Event(msgspec.Struct, gc=False, kw_only=True):
    """What a vendor told us: one accepted webhook. ``body`` holds the raw bytes as received.

    ``body`` is None where the bytes were left in the database to spare memory.
    """

    id: UUID
    vendor: str
    event_type: str | None = None
    dedupe_key: str | None = None
    correlation_id: str
    traceparent: str | None = None
    headers: dict[str, str]  # names in lower case
    query: str = ""  # raw query string
    body: bytes | None
    received_at: datetime


class Job(msgspec.Struct, gc=False, kw_only=True, eq=False):
    """One unit of work as its worker sees it. ``claim_no`` fences every write about it."""

    id: UUID
    event_id: UUID | None
    route: str
    vendor: str  # the lane: whose limits it runs under
    kind: str  # names the handler: "call" or "handler"
    priority: int  # 0 most urgent … 9
    attempt: int  # executions counted so far; the next one is attempt + 1
    max_attempts: int
    claim_no: int
    correlation_id: str
    created_at: datetime
    ordering_key: str | None = None
    idempotency_key: UUID | None = None  # None: its id; a replay may have its original's
    rescues: int = 0  # how often a node died while holding it
    payload: bytes | None = None  # JSON, for jobs that have no event
    event: Event | None = None


class NewJob(msgspec.Struct, gc=False, kw_only=True):
    """A job to be inserted: by the intake, by a settle as a follow-up, or by a replay."""

    id: UUID
    event_id: UUID | None
    route: str
    vendor: str
    kind: str
    state: str = "available"  # or "scheduled", or "running" when it is handed off
    priority: int = 5
    max_attempts: int = 1
    correlation_id: str
    delay_seconds: float = 0.0
    ordering_key: str | None = None
    holds_key: bool = False  # should it die, its key waits until somebody decides
    payload: bytes | None = None


class Completed(msgspec.Struct, frozen=True):
    """The work is done."""


class Retry(msgspec.Struct, frozen=True):
    """The attempt failed; try again later. *after_seconds* is the vendor's own wish, if any.

    Not *counted* is what failed while the vendor's breaker was not closed: it says nothing about
    the job, which could otherwise die of being the one that probes.
    """

    reason: str
    after_seconds: float | None = None
    counted: bool = True


class Snooze(msgspec.Struct, frozen=True):
    """Not now: try again in *seconds*, without counting this attempt."""

    seconds: float
    reason: str = ""


class Cancel(msgspec.Struct, frozen=True):
    """The work is no longer wanted."""

    reason: str


class Dead(msgspec.Struct, frozen=True):
    """The work cannot succeed as it is: park it in the dead letters."""

    reason: str


Outcome = Completed | Retry | Snooze | Cancel | Dead


class Exchange(msgspec.Struct, kw_only=True):
    """What was sent to a vendor and what came back, redacted and cut, as kept with the attempt."""

    request: dict[str, Any]
    response: dict[str, Any] | None = None
    http_status: int | None = None


class RateTerms(msgspec.Struct, frozen=True, kw_only=True):
    """How calls of one vendor are bought, all windows at once; the same in every order."""

    counts: tuple[int, ...]
    periods_seconds: tuple[float, ...]
    pace_seconds: float  # between the starts of calls bought together
    ahead_seconds: float  # calls that start later than this are not sold yet
    valid_seconds: float  # how late after its start a call may still be made
    exclusive_seconds: float  # how long one that calls alone keeps short windows itself; 0: never


class RateOrder(msgspec.Struct, frozen=True, kw_only=True):
    """What a node reports of its calls of one vendor, and what it wants."""

    number: int  # rises from order to order of a node
    sent_at: float  # by the node's monotonic clock; ages count from here
    used: tuple[tuple[float, int], ...]  # calls not yet reported: (age in seconds, how many)
    kept: int  # bought before and still to be made
    wanted: int  # to buy now
    wants: bool  # it calls this vendor, or waits to
    releases: bool  # it has made an end of calling alone


class RateGrant(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to an order; times in seconds from when it was given."""

    granted: int
    from_seconds: float  # when the first call may start; the others follow at the terms' pace
    until_seconds: float  # and when the last of them must have started
    exclusive: bool  # short windows are the node's alone until then, for any number of calls
    contended: bool  # another node wants to call
    retry_seconds: float  # when another order may have more luck


class Receipt(msgspec.Struct, gc=False):
    """What the sender is told: the event's id, how many jobs it became, whether it came before."""

    event_id: UUID
    jobs: int
    duplicate: bool


class Execution(msgspec.Struct, gc=False):
    """One attempt under way; ``began`` is loop time."""

    job: Job
    started_at: datetime
    began: float


class CallSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One call to make: all but the vendor's own base URL, headers and authentication."""

    method: str
    path: str  # with its query; percent-encoded, begins with "/"
    headers: dict[str, str]
    body: bytes | None
    content_type: str | None
