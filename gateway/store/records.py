"""What operators are shown of the records. Field names are those of the tables and of the JSON."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

import msgspec

from gateway.model import JobState


class JobFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which jobs; None filters nothing. ``since`` is inclusive, ``until`` exclusive."""

    state: JobState | None = None
    vendor: str | None = None  # the lane
    route: str | None = None
    correlation_id: str | None = None
    event_id: UUID | None = None
    since: datetime | None = None  # by the time in the job's id
    until: datetime | None = None


class JobRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A row of ``gateway.jobs``."""

    id: UUID
    event_id: UUID | None
    route: str
    vendor: str
    kind: str
    state: str
    priority: int
    ordering_key: str | None
    run_at: datetime
    attempt: int
    max_attempts: int
    node: str | None
    claim_no: int
    rescues: int
    correlation_id: str
    replay_of: UUID | None
    replay_id: UUID | None  # the replay of many that made it
    idempotency_key: UUID | None  # None: its id
    last_status: int | None
    last_error: str | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None


class Page(msgspec.Struct, frozen=True):
    """Some jobs. With a cursor there may be more, even where the page is not full."""

    jobs: list[JobRecord]
    cursor: str | None


class AttemptRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A row of ``gateway.attempts``; request and response are JSON."""

    attempt: int
    node: str
    started_at: datetime
    duration_ms: float
    outcome: str
    http_status: int | None
    error: str | None
    request: msgspec.Raw | None
    response: msgspec.Raw | None


class EventRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A row of ``gateway.events``; ``body`` (JSON, as by ``gateway.body``) only where asked for."""

    id: UUID
    vendor: str
    event_type: str | None
    dedupe_key: str | None
    correlation_id: str
    traceparent: str | None
    headers: dict[str, str]
    query: str
    body_bytes: int
    received_at: datetime
    body: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class JobDetail(JobRecord, frozen=True, kw_only=True):
    """A job and all that is known of it; ``event`` is None too where retention has dropped it."""

    payload: msgspec.Raw | None
    event: EventRecord | None
    attempts: list[AttemptRecord]
    replays: list[UUID]  # jobs made from this one


class EventDetail(EventRecord, frozen=True, kw_only=True):
    """An event, the newest of its jobs, and how often its sender repeated it."""

    duplicates: int
    jobs: list[JobRecord]


class RecentCounts(msgspec.Struct, frozen=True, kw_only=True):
    """Jobs made in the last ``seconds`` by their present state.

    Not ``complete``: there are more, and only those made since ``counted_since`` were counted.
    """

    seconds: float
    states: dict[str, int]
    complete: bool
    counted_since: datetime | None


class TableSize(msgspec.Struct, frozen=True, kw_only=True):
    """How large a growing table is: rows by the planner's estimate, bytes with its indexes."""

    table: str
    rows: int
    bytes: int
    partitions: int


class NodeRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A process that holds, or held, a lease."""

    node: str
    version: str
    started_at: datetime
    seen_at: datetime
    seen_seconds: float  # since its last heartbeat, by the database's clock
    alive: bool


class VendorFigures(msgspec.Struct, frozen=True, kw_only=True):
    """The database's view of one lane; each count stops at COUNT_LIMIT over all lanes."""

    backlog: int = 0
    scheduled: int = 0
    dead: int = 0
    paused: bool = False
    parked_until: datetime | None = None  # None, too, once it is over
    breaker: str = "closed"  # as the node that opened it told


class Stats(msgspec.Struct, frozen=True, kw_only=True):
    """The gateway at a glance. A count that has reached ``count_limit`` means "at least"."""

    backlog: int
    scheduled: int
    dead: int
    count_limit: int
    recent: list[RecentCounts]
    tables: list[TableSize]
    nodes: list[NodeRecord]


class ManyFilter(JobFilter, frozen=True, kw_only=True, omit_defaults=True):
    """Which jobs to act on at once. ``error`` is a fingerprint, as dead letters are grouped by."""

    error: str | None = None


class Selection(ManyFilter, frozen=True, kw_only=True, omit_defaults=True):
    """Which finished jobs to replay."""

    again: bool = False  # those, too, of which there is a replay already


class Count(msgspec.Struct, frozen=True):
    """How many; not ``complete``: at least so many."""

    jobs: int
    complete: bool


class Cancelled(msgspec.Struct, frozen=True):
    """How many jobs were cancelled; not ``done``: the time was up, and more of them wait."""

    jobs: int
    done: bool


class ReplayRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A row of ``gateway.replays``. ``counted`` are the jobs that matched at first, ``made`` those
    that were made so far; not ``counted_all``: at least so many matched.
    """

    id: UUID
    state: str  # running, completed, cancelled
    requested_at: datetime
    requested_by: str
    filter: msgspec.Raw
    rate: str
    new_key: bool
    counted: int
    counted_all: bool
    made: int
    node: str | None  # which makes them at the moment
    finished_at: datetime | None


class ReplayDetail(ReplayRecord, frozen=True, kw_only=True):
    """A replay and the present states of the jobs that it has made, at most COUNT_LIMIT of them."""

    jobs: dict[str, int]


class DeadGroup(msgspec.Struct, frozen=True, kw_only=True):
    """Dead letters with the same route, vendor, HTTP status and kind of error.

    ``error`` is a fingerprint: numbers, ids and the like are ``#`` in it. ``first`` and ``last``
    are when such a job died, ``example`` is the newest of them.
    """

    route: str
    vendor: str
    status: int | None
    error: str
    jobs: int
    first: datetime | None
    last: datetime | None
    example: UUID


class DeadGroups(msgspec.Struct, frozen=True, kw_only=True):
    """The largest groups; not ``complete``: only the newest dead letters were looked at."""

    groups: list[DeadGroup]
    looked_at: int
    complete: bool


class HeldKey(msgspec.Struct, frozen=True, kw_only=True):
    """An ordering key that waits for a decision about its dead job."""

    route: str
    key: str
    job_id: UUID
    last_status: int | None
    last_error: str | None
    since: datetime | None
    waiting: int  # jobs in line, counted up to 1000


class RouteFigures(msgspec.Struct, frozen=True, kw_only=True):
    """The database's view of one route; ``aside`` are jobs that wait for its pause to end."""

    paused: bool = False
    aside: int = 0


class ReroutedJob(msgspec.Struct, frozen=True, kw_only=True):
    """A job that today's routes made of a stored event."""

    id: UUID
    route: str
    vendor: str
    state: str


class ActFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which acts; None filters nothing. ``since`` is inclusive, ``until`` exclusive."""

    who: str | None = None  # a part of it, in any case
    act: str | None = None  # "vendor.pause", or "vendor" for all about vendors
    target: str | None = None  # a name or an id that the target holds
    since: datetime | None = None
    until: datetime | None = None


class ActRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A row of ``gateway.acts``: what an operator did, to what, and what came of it."""

    id: UUID
    at: datetime
    who: str
    act: str
    target: msgspec.Raw
    result: msgspec.Raw


class ActPage(msgspec.Struct, frozen=True):
    """Some acts, newest first. With a cursor there may be more."""

    acts: list[ActRecord]
    cursor: str | None
