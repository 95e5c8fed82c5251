"""What is written in batches, webhooks and ends of attempts, and what is said of it."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

import msgspec

from gateway.model import Event, Job, NewJob


class Acceptance(msgspec.Struct, gc=False):
    """One verified webhook on its way into the database."""

    event: Event
    headers_json: str  # the event's headers
    jobs: list[NewJob]
    dedupe_window_seconds: float


class Accepted(msgspec.Struct, gc=False):
    """What became of a batch: ids of duplicates → the event they repeat."""

    duplicates: dict[UUID, UUID]
    blocked: set[UUID]  # jobs that wait for an older one of their ordering key
    node_lives: bool  # False: the jobs marked running went to the backlog instead


class Settled(msgspec.Struct, gc=False, kw_only=True):
    """How one attempt ended, ready to be written."""

    job: Job
    state: str  # the state that the job goes to
    attempt: int  # executions counted, this one included unless it was snoozed
    delay_seconds: float = 0.0  # for scheduled: from the moment of the commit
    outcome: str  # completed, retry, snooze, cancel, dead
    http_status: int | None = None
    error: str | None = None
    started_at: datetime
    duration_ms: float
    request: str | None = None  # JSON
    response: str | None = None  # JSON
    follow_ups: tuple[NewJob, ...] = ()


class Position(msgspec.Struct, frozen=True):
    """A place in a lane's backlog: of its priority and less urgent ones nothing older is left."""

    priority: int
    id: UUID
