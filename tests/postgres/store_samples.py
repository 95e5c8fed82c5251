"""What the store's tests are made of: events, jobs, outcomes, and a look at the rows."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from uuid_utils.compat import uuid7

from gateway.model import Event, Job, NewJob
from gateway.store.database import Database
from gateway.store.sql import query
from gateway.store.writes import Acceptance, Settled

NODE = "one/1"
OTHER = "two/2"
ZERO = UUID(int=0)
HEADERS = {"content-type": "application/json"}


def new_event(*, key: str | None = None, vendor: str = "shop", body: bytes = b"{}") -> Event:
    event_id = uuid7()
    return Event(
        id=event_id,
        vendor=vendor,
        dedupe_key=key,
        correlation_id=str(event_id),
        headers=HEADERS,
        body=body,
        received_at=datetime.now(UTC),
    )


def new_job(event: Event | None = None, **given: Any) -> NewJob:
    fields: dict[str, Any] = {
        "id": uuid7(),
        "event_id": event.id if event else None,
        "route": "orders",
        "vendor": "crm",
        "kind": "call",
        "max_attempts": 3,
        "correlation_id": "c",
    }
    return NewJob(**fields | given)


def webhook(
    key: str | None = None, *, jobs: int = 1, window: float = 60.0, state: str = "available"
) -> Acceptance:
    event = new_event(key=key)
    new_jobs = [new_job(event, state=state) for _ in range(jobs)]
    return Acceptance(event, json.dumps(HEADERS), new_jobs, window)


async def put_job(
    connection: Any, *, job_id: UUID | None = None, state: str = "available", **given: Any
) -> UUID:
    """Insert one job by hand; a final state is reached by way of running."""
    job_id = job_id or uuid7()
    fields = {
        "route": "orders",
        "vendor": "crm",
        "kind": "call",
        "state": "running" if state in ("completed", "dead", "cancelled") else state,
        "max_attempts": 3,
        "correlation_id": str(job_id),
    } | given
    names = ", ".join(fields)
    places = ", ".join(f"${number}" for number in range(2, len(fields) + 2))
    await connection.execute(
        f"INSERT INTO gateway.jobs (id, {names}) VALUES ($1, {places})",  # noqa: S608  # our names
        job_id,
        *fields.values(),
    )
    if fields["state"] != state:
        await connection.execute(
            "UPDATE gateway.jobs SET state = $2, finished_at = now() WHERE id = $1", job_id, state
        )
    return job_id


def id_at(moment: datetime, number: int = 0) -> UUID:
    """Return the UUIDv7 of *moment*'s millisecond that has this *number*."""
    milliseconds = (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)
    return UUID(int=milliseconds << 80 | 7 << 76 | 2 << 62 | number)


async def partition_of(connection: Any, table: str, id_: UUID) -> str:
    """Return the name of the partition that has this row of *table*."""
    name: str = await connection.fetchval(
        f"""SELECT relname FROM pg_class
            WHERE oid = (SELECT tableoid FROM gateway.{table} WHERE id = $1)""",  # noqa: S608
        id_,
    )
    return name


async def put_node(
    connection: Any, node: str = NODE, *, expired: bool = False, oldest_held: UUID = ZERO
) -> None:
    await connection.execute(
        """INSERT INTO gateway.nodes (node, lease, version, oldest_held, seen_at)
           VALUES ($1, '15s', 'test', $2,
                   now() - CASE WHEN $3 THEN interval '16s' ELSE interval '0s' END)""",
        node,
        oldest_held,
        expired,
    )


async def row(connection: Any, job_id: UUID) -> Any:
    return await connection.fetchrow("SELECT * FROM gateway.jobs WHERE id = $1", job_id)


async def held_job(connection: Any, job_id: UUID) -> Job:
    """Build the job as the worker that holds it sees it."""
    found = await row(connection, job_id)
    names = set(Job.__struct_fields__) & set(found.keys()) - {"payload"}
    return Job(**{name: found[name] for name in names})


def settled(job: Job, state: str = "completed", **given: Any) -> Settled:
    fields: dict[str, Any] = {
        "attempt": job.attempt + 1,
        "outcome": "completed",
        "started_at": datetime.now(UTC),
        "duration_ms": 1.5,
    }
    return Settled(job=job, state=state, **fields | given)


async def count(connection: Any, table: str) -> int:
    return int(await connection.fetchval(f"SELECT count(*) FROM gateway.{table}"))  # noqa: S608


async def snapshot(connection: Any) -> list[Any]:
    """Return everything that jobs and their history consist of, to tell whether it changed."""
    jobs = await connection.fetch("SELECT * FROM gateway.jobs ORDER BY id")
    attempts = await connection.fetch("SELECT * FROM gateway.attempts ORDER BY job_id, attempt")
    return [tuple(record) for record in (*jobs, *attempts)]


async def waits_for_lock(connection: Any) -> None:
    """Return once some session of this database waits for a lock."""
    while not await connection.fetchval(  # noqa: ASYNC110  # only the server knows
        """SELECT count(*) FROM pg_stat_activity
           WHERE datname = current_database() AND wait_event_type = 'Lock'"""
    ):
        await asyncio.sleep(0)


async def many(db: Database, times: int, act: Callable[[], Awaitable[Any]]) -> list[Any]:
    """Run *act* several times at once."""
    return list(await asyncio.gather(*(act() for _ in range(times))))


class Within:
    """Stands in for the database: runs the named queries inside a transaction of the test's."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    async def fetch(self, name: str, *args: Any) -> Any:
        return await self._connection.fetch(query(name), *args)

    async def fetch_planned(self, name: str, *args: Any, partition: str | None = None) -> Any:
        return await self._connection.fetch(query(name, partition), *args)
