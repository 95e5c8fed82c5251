"""The settlement desk: two outcomes of one job, and jobs handed off while strays are looked for."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any
from uuid import UUID

from store_samples import (
    NODE,
    ZERO,
    count,
    held_job,
    new_job,
    put_job,
    put_node,
    row,
    settled,
)

from gateway.queue.ready import ReadyQueue
from gateway.queue.settlement import SettlementDesk
from gateway.store import jobs
from gateway.store.database import Database
from gateway.telemetry.metrics import Metrics


async def test_of_two_outcomes_in_one_batch_the_latest_claims_is_recorded(
    db: Database, connection: Any
) -> None:
    """A node that lost a job and claimed it again may end both attempts at the same time."""
    await put_node(connection)
    job_id = await put_job(connection, state="running", node=NODE, claim_no=1)
    stale = await held_job(connection, job_id)
    await jobs.release(db, [job_id], node=NODE)
    # As after a rescue that counted the first: the two have different places in the history.
    await connection.execute("UPDATE gateway.jobs SET attempt = 1")
    (current,) = await jobs.claim(db, [("crm", 1, 1)], node=NODE, floor=ZERO)
    metrics = Metrics(version="test", vendors=["crm"], routes=["orders"])
    ready = ReadyQueue(inline_body_bytes=0)
    desk = SettlementDesk(db, ready, node=NODE, metrics=metrics)
    desk.record(settled(stale, state="dead", error="stale", follow_ups=(new_job(),)))
    desk.record(settled(current))
    desk.finish()
    await desk.run()
    assert (await row(connection, job_id))["state"] == "completed"
    assert await count(connection, "attempts") == 1
    assert await count(connection, "jobs") == 1, "a stale outcome has no follow-ups"


class _FilledLater(Collection[UUID]):
    """A register in which *late* stands from the second look on."""

    def __init__(self, late: UUID) -> None:
        self._late = late

    def __iter__(self) -> Iterator[UUID]:
        return iter(())

    def __len__(self) -> int:
        return 0

    def __contains__(self, job_id: object) -> bool:
        return job_id == self._late


async def test_what_is_handed_off_while_strays_are_looked_for_is_none(
    db: Database, connection: Any
) -> None:
    late = await put_job(connection, state="running", node=NODE, claim_no=1)
    stray = await put_job(connection, state="running", node=NODE, claim_no=1)
    assert await jobs.release_strays(db, _FilledLater(late), node=NODE, floor=ZERO) == 1
    assert (await row(connection, late))["state"] == "running"
    assert (await row(connection, stray))["state"] == "available"
