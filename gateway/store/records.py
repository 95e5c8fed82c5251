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
    parked_until: datetime | None = None


class Stats(msgspec.Struct, frozen=True, kw_only=True):
    """The gateway at a glance. A count that has reached ``count_limit`` means "at least"."""

    backlog: int
    scheduled: int
    dead: int
    count_limit: int
    recent: list[RecentCounts]
    tables: list[TableSize]
    nodes: list[NodeRecord]
