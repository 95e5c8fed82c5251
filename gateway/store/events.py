"""Webhooks into the database: a batch of events and their jobs in one statement."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import msgspec

from gateway.model import Event, NewJob
from gateway.store.database import Database

_decode_headers = msgspec.json.Decoder(dict[str, str]).decode
_encode = msgspec.json.Encoder().encode


class Acceptance(msgspec.Struct, gc=False):
    """One verified webhook on its way into the database."""

    event: Event
    jobs: list[NewJob]
    dedupe_window_seconds: float


class Accepted(msgspec.Struct, gc=False):
    """What became of a batch: ids of duplicates → the event they repeat."""

    duplicates: dict[UUID, UUID]
    node_lives: bool  # False: the jobs marked running went to the backlog instead


async def accept(db: Database, batch: Sequence[Acceptance], *, node: str) -> Accepted:
    """Commit *batch*: dedupe keys, events and jobs in one transaction.

    No two items may share (vendor, dedupe key), and items with keys must come in that order.
    Jobs whose state is ``running`` are handed off to *node*.
    """
    events = [item.event for item in batch]
    jobs = [job for item in batch for job in item.jobs]
    rows = await db.fetch(
        "events.accept",
        [e.id for e in events],
        [e.vendor for e in events],
        [e.event_type for e in events],
        [e.dedupe_key for e in events],
        [e.correlation_id for e in events],
        [e.traceparent for e in events],
        [_encode(e.headers).decode() for e in events],
        [e.query for e in events],
        [e.body for e in events],
        [e.received_at for e in events],
        [item.dedupe_window_seconds for item in batch],
        [j.id for j in jobs],
        [j.event_id for j in jobs],
        [j.route for j in jobs],
        [j.vendor for j in jobs],
        [j.kind for j in jobs],
        [j.state for j in jobs],
        [j.priority for j in jobs],
        [j.ordering_key for j in jobs],
        [j.delay_seconds for j in jobs],
        [j.max_attempts for j in jobs],
        [j.correlation_id for j in jobs],
        node,
    )
    duplicates: dict[UUID, UUID] = {}
    node_lives = True
    for row in rows:
        if row[0] is None:
            node_lives = False
        else:
            duplicates[row[0]] = row[1]
    return Accepted(duplicates, node_lives)


async def fetch(db: Database, event_id: UUID) -> Event | None:
    """Return the event with its body, or None."""
    rows = await db.fetch("events.fetch", event_id)
    return from_row(rows[0], id=event_id, vendor=rows[0]["vendor"]) if rows else None


async def duplicates(db: Database, event: Event) -> int:
    """Return how often *event* came again, as far as its dedupe window remembers."""
    if event.dedupe_key is None:
        return 0
    rows = await db.fetch("events.duplicates", event.vendor, event.dedupe_key, event.id)
    return int(rows[0]["duplicates"]) if rows else 0


def from_row(row: Any, *, id: UUID, vendor: str) -> Event:  # noqa: A002
    """Build an event from a *row* with its columns; *id* and *vendor* may be named otherwise."""
    return Event(
        id=id,
        vendor=vendor,
        event_type=row["event_type"],
        dedupe_key=row["dedupe_key"],
        correlation_id=row["correlation_id"],
        traceparent=row["traceparent"],
        headers=_decode_headers(row["headers"]),
        query=row["query"],
        body=row["body"],
        received_at=row["received_at"],
    )
