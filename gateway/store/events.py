"""Webhooks into the database: a batch of events and their jobs in one statement."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from uuid import UUID

import msgspec

from gateway.model import Event
from gateway.store.arrays import columns, given
from gateway.store.database import Database
from gateway.store.writes import Acceptance, Accepted

_decode_headers = msgspec.json.Decoder(dict[str, str]).decode


async def accept(db: Database, batch: Sequence[Acceptance], *, node: str) -> Accepted:
    """Commit *batch*: dedupe keys, events and jobs in one transaction.

    No two items may share (vendor, dedupe key), and items with keys must come in that order.
    Jobs whose state is ``running`` are handed off to *node*; all have their event's correlation id.
    """
    vendors: dict[tuple[str, float], int] = {}
    kinds: dict[tuple[str, str, str, int, float, int, bool, bool], int] = {}
    ids: list[UUID] = []
    event_nos: list[int] = []
    kind_nos: list[int] = []
    ordering_keys: list[str | None] = []
    vendor_nos: list[int] = []
    for number, item in enumerate(batch, start=1):
        vendor = (item.event.vendor, item.dedupe_window_seconds)
        vendor_nos.append(vendors.setdefault(vendor, len(vendors) + 1))
        for job in item.jobs:
            kind = (
                job.route,
                job.vendor,
                job.kind,
                job.priority,
                job.delay_seconds,
                job.max_attempts,
                job.holds_key,
                job.state == "running",
            )
            ids.append(job.id)
            event_nos.append(number)
            kind_nos.append(kinds.setdefault(kind, len(kinds) + 1))
            ordering_keys.append(job.ordering_key)
    events = [item.event for item in batch]
    rows = await db.fetch_planned(
        "events.accept",
        *columns(vendors, 2),
        [e.id for e in events],
        vendor_nos if len(vendors) > 1 else None,
        given([e.event_type for e in events]),
        given([e.dedupe_key for e in events]),
        given([None if e.correlation_id == str(e.id) else e.correlation_id for e in events]),
        given([e.traceparent for e in events]),
        [item.headers_json for item in batch],
        given([e.query or None for e in events]),
        [e.body for e in events],
        [e.received_at.timestamp() for e in events],
        *columns(kinds, 8),
        ids,
        event_nos if event_nos != list(range(1, len(batch) + 1)) else None,
        kind_nos if len(kinds) > 1 else None,
        given(ordering_keys),
        node,
    )
    duplicates: dict[UUID, UUID] = {}
    blocked: set[UUID] = set()
    node_lives = True
    for id_, original_id in rows:
        if id_ is None:
            node_lives = False
        elif original_id is None:
            blocked.add(id_)
        else:
            duplicates[id_] = original_id
    return Accepted(duplicates, blocked, node_lives)


async def fetch(db: Database, event_id: UUID) -> Event | None:
    """Return the event with its body, or None."""
    rows = await db.fetch("events.fetch", event_id)
    return from_row(rows[0], id=event_id, vendor=rows[0]["vendor"]) if rows else None


async def fetch_many(
    db: Database, ids: Iterable[UUID | None], *, max_body_bytes: int
) -> dict[UUID, Event]:
    """Return those of the events that exist; without their body where it is larger."""
    wanted = [id_ for id_ in ids if id_ is not None]
    if not wanted:
        return {}
    rows = await db.fetch("events.of_jobs", wanted, max_body_bytes)
    return {row["id"]: from_row(row, id=row["id"], vendor=row["vendor"]) for row in rows}


async def count_repeats(db: Database, repeats: Mapping[tuple[str, str], int]) -> None:
    """Count on their originals what came again within one batch: (vendor, dedupe key) → times."""
    if repeats:
        await db.fetch("events.count_repeats", *columns(repeats, 2), list(repeats.values()))


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
