"""Pauses, waiting jobs, held keys and reroutes: nothing is lost, and every act is in the book."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from store_samples import NODE, ZERO, held_job, new_event, new_job, put_job, put_node, row, settled

from gateway.errors import NotFound, Refused, TooWide
from gateway.model import Job, JobState
from gateway.store import jobs, operators, steering
from gateway.store.cursors import first_id
from gateway.store.database import Database
from gateway.store.events import accept
from gateway.store.records import Cancelled, Count, ManyFilter
from gateway.store.sql import query
from gateway.store.steering import Pauses
from gateway.store.writes import Acceptance

WHO = "tester"
NONE: frozenset[str] = frozenset()


async def claim(db: Database, room: int = 100) -> list[Job]:
    return await jobs.claim(db, [("crm", room, 1)], node=NODE, floor=ZERO)


async def states(connection: Any) -> list[str]:
    rows = await connection.fetch("SELECT state::text FROM gateway.jobs ORDER BY id")
    return [found["state"] for found in rows]


async def acts(connection: Any) -> list[tuple[str, str, Any, Any]]:
    rows = await connection.fetch("SELECT * FROM gateway.acts ORDER BY at")
    return [
        (one["who"], one["act"], json.loads(one["target"]), json.loads(one["result"]))
        for one in rows
    ]


# Pauses -----------------------------------------------------------------------------------------


async def test_pauses_are_told_until_they_end(db: Database) -> None:
    assert await steering.pauses(db) == Pauses(NONE, NONE, NONE)
    assert await steering.pause_vendor(db, "crm", who=WHO)
    assert not await steering.pause_vendor(db, "crm", who=WHO)
    assert await steering.pause_route(db, "orders", who=WHO)
    assert await steering.pauses(db) == Pauses(frozenset({"crm"}), frozenset({"orders"}), NONE)
    assert await steering.resume_vendor(db, "crm", who=WHO)
    assert not await steering.resume_vendor(db, "crm", who=WHO)
    assert await steering.resume_route(db, "orders", who=WHO)
    assert await steering.pauses(db) == Pauses(NONE, NONE, frozenset({"orders"}))
    assert await steering.bring_back(db, "orders") == NONE
    assert await steering.pauses(db) == Pauses(NONE, NONE, NONE)


async def test_jobs_set_aside_wait_out_of_the_way_and_come_back_in_order(
    db: Database, connection: Any
) -> None:
    await put_node(connection)
    ours = [await put_job(connection) for _ in range(3)]
    other = await put_job(connection, route="other")
    await steering.pause_route(db, "orders", who=WHO)
    held = [job for job in await claim(db) if job.route == "orders"]
    assert await steering.set_aside(db, held, node=NODE) == NONE
    assert await states(connection) == ["scheduled"] * 3 + ["running"]
    assert await jobs.promote(db, limit=100, floor=ZERO) == {}
    assert (await steering.route_figures(db))["orders"].aside == 3

    await steering.resume_route(db, "orders", who=WHO)
    assert await steering.bring_back(db, "orders") == {"crm"}
    assert await steering.bring_back(db, "orders") == NONE
    assert [job.id for job in await claim(db)] == ours
    assert (await row(connection, other))["state"] == "running"
    assert await steering.route_figures(db) == {}


async def test_a_node_that_does_not_know_of_the_end_of_a_pause_loses_no_job(
    db: Database, connection: Any
) -> None:
    await put_node(connection)
    await put_job(connection)
    await steering.pause_route(db, "orders", who=WHO)
    held = await claim(db)
    await steering.resume_route(db, "orders", who=WHO)
    assert await steering.bring_back(db, "orders") == NONE
    assert await steering.set_aside(db, held, node=NODE) == {"orders"}
    assert await states(connection) == ["available"]


async def test_the_end_of_a_pause_waits_for_a_set_aside_under_way(
    db: Database, connection: Any, second: Any
) -> None:
    await put_node(connection)
    await put_job(connection)
    await steering.pause_route(db, "orders", who=WHO)
    (held,) = await claim(db)
    transaction = connection.transaction()
    await transaction.start()
    await connection.fetch(query("steering.set_aside"), [held.id], NODE, ["orders"])
    await second.execute("SET lock_timeout = '50ms'")
    with pytest.raises(asyncpg.LockNotAvailableError):
        await second.fetch(query("steering.resume_route"), "orders", WHO)
    await transaction.commit()
    await steering.resume_route(db, "orders", who=WHO)
    assert await steering.bring_back(db, "orders") == {"crm"}
    assert await states(connection) == ["available"]


async def test_what_another_claimed_meanwhile_is_not_set_aside(
    db: Database, connection: Any
) -> None:
    await put_node(connection)
    job_id = await put_job(connection, state="running", node="other/1", claim_no=7)
    await steering.pause_route(db, "orders", who=WHO)
    stale = await held_job(connection, job_id)
    await steering.set_aside(db, [stale], node=NODE)
    assert (await row(connection, job_id))["state"] == "running"


async def test_pauses_cost_a_claim_and_a_promotion_nothing(connection: Any) -> None:
    """However many jobs were set aside, neither statement meets them."""
    await put_node(connection)
    await connection.execute(
        """INSERT INTO gateway.jobs (id, route, vendor, kind, state, max_attempts, correlation_id,
                                     run_at)
           SELECT gateway.uuid7(), 'orders', 'crm', 'call', 'scheduled', 3, 'c', '9999-12-31 00:00Z'
           FROM generate_series(1, 20000)"""
    )
    for name, args in (
        ("jobs.claim", [["crm"], [100], [10], NODE, ZERO, [0], [ZERO]]),
        ("jobs.promote", [1000, ZERO]),
        ("steering.bring_back", ["other", 1000]),
        ("steering.paused", []),
    ):
        (found,) = json.loads(
            await connection.fetchval(
                f"EXPLAIN (ANALYZE, TIMING OFF, FORMAT JSON) {query(name)}", *args
            )
        )
        for node in _nodes(found["Plan"]):
            if "Relation Name" in node and "Scan" in node["Node Type"]:
                read = node["Actual Rows"] + node.get("Rows Removed by Filter", 0)
                assert read * node["Actual Loops"] < 100, (name, node)


def _nodes(plan: Any) -> list[Any]:
    return [plan, *(node for child in plan.get("Plans", ()) for node in _nodes(child))]


async def test_resuming_a_vendor_ends_its_parking_and_makes_its_retries_due(
    db: Database, connection: Any
) -> None:
    """Whoever resumes it knows that it can be called: neither Retry-After nor breaker keep on."""
    far = datetime.now(UTC) + timedelta(hours=1)
    retry, other, delayed = [
        await put_job(connection, state="scheduled", run_at=far, **given)
        for given in (
            {"attempt": 1, "last_status": 429},
            {"attempt": 1, "last_status": 429, "vendor": "erp"},
            {"attempt": 0},
        )
    ]
    await connection.execute(
        """INSERT INTO gateway.vendor_state (vendor, parked_until, breaker, breaker_until,
                                            breaker_node)
           VALUES ('crm', now() + interval '1 hour', 'open', now() + interval '30 s', 'one')"""
    )
    assert await steering.resume_vendor(db, "crm", who=WHO)
    state = await connection.fetchrow("SELECT * FROM gateway.vendor_state")
    assert (state["parked_until"], state["breaker"], state["breaker_node"], state["resumes"]) == (
        None,
        "closed",
        None,
        1,
    )
    assert await jobs.promote(db, limit=10, floor=ZERO) == {"crm": 1}
    assert (await row(connection, retry))["state"] == "available"
    assert (await row(connection, other))["run_at"] == far
    assert (await row(connection, delayed))["run_at"] == far
    assert not await steering.resume_vendor(db, "crm", who=WHO)
    was = {"paused": False, "parked": True, "breaker": "open"}
    assert [result for *_, result in await acts(connection)] == [
        {"changed": True, "was": was, "retries_due": 1},
        {
            "changed": False,
            "was": {"paused": False, "parked": False, "breaker": "closed"},
            "retries_due": 0,
        },
    ]


# Waiting jobs -----------------------------------------------------------------------------------


async def test_a_scheduled_job_gets_another_time(db: Database, connection: Any) -> None:
    job_id = await put_job(connection, state="scheduled", run_at=datetime(2090, 1, 1, tzinfo=UTC))
    sooner = datetime(2080, 1, 1, tzinfo=UTC)
    assert await steering.reschedule(db, job_id, sooner, who=WHO) == (
        sooner,
        datetime(2090, 1, 1, tzinfo=UTC),
    )
    moment, before = await steering.reschedule(db, job_id, 0.0, who=WHO)
    assert before == sooner
    assert abs(moment - datetime.now(UTC)) < timedelta(minutes=1)
    assert await jobs.promote(db, limit=10, floor=ZERO) == {"crm": 1}


@pytest.mark.parametrize("state", ["available", "running", "completed", "dead"])
async def test_only_a_scheduled_job_has_a_time_to_change(
    db: Database, connection: Any, state: str
) -> None:
    job_id = await put_job(connection, state=state)
    with pytest.raises(Refused, match=f"is {state}"):
        await steering.reschedule(db, job_id, 5.0, who=WHO)
    with pytest.raises(NotFound):
        await steering.reschedule(db, UUID(int=1), 5.0, who=WHO)
    assert await acts(connection) == []


async def test_a_cancel_by_filter_takes_what_waits_and_nothing_else(
    db: Database, connection: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steering, "CANCEL_ROWS", 2)
    for state in ("available", "scheduled", "scheduled", "scheduled", "running", "completed"):
        await put_job(connection, state=state)
    await put_job(connection, state="scheduled", route="other")
    count, wanted = await steering.count_waiting(
        db, ManyFilter(state=JobState.SCHEDULED, route="orders")
    )
    assert count == Count(3, True)
    later = await put_job(connection, state="scheduled", job_id=_later())
    cancelled = []
    while (found := await steering.cancel_some(db, wanted, who=WHO))[0]:
        cancelled.append(found)
    assert cancelled == [(2, 2), (1, 1)]
    assert (await row(connection, later))["state"] == "scheduled"
    assert sorted(await states(connection)) == sorted(
        ["available", "running", "completed", "scheduled", "scheduled"] + ["cancelled"] * 3
    )
    target = {"state": "scheduled", "route": "orders"}
    book = await acts(connection)
    assert [(act, result) for _, act, _, result in book] == [
        ("jobs.cancel", {"cancelled": 2}),
        ("jobs.cancel", {"cancelled": 1}),
    ]
    assert target.items() <= book[0][2].items()


async def test_a_count_has_all_that_was_there_however_young(db: Database, connection: Any) -> None:
    for number in range(1, 51):  # an id tells the millisecond, and a count often falls into it
        await put_job(connection)
        assert (await steering.count_waiting(db, ManyFilter()))[0] == Count(number, True)


async def test_a_cancel_by_the_kind_of_the_last_error_takes_only_those(
    db: Database, connection: Any
) -> None:
    for error in ("HTTP 500: order 17", "HTTP 500: order 4", "timeout", None):
        await put_job(connection, state="scheduled", last_error=error)
    wanted = ManyFilter(error="HTTP 500: order #")
    assert (await steering.count_waiting(db, wanted))[0] == Count(2, True)
    assert await steering.cancel_waiting(db, wanted, who=WHO) == Cancelled(2, True)
    assert sorted(await states(connection)) == ["cancelled", "cancelled", "scheduled", "scheduled"]


async def test_a_cancel_whose_time_is_up_says_so_and_goes_on_when_asked_again(
    db: Database, connection: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steering, "CANCEL_ROWS", 2)
    for _ in range(5):
        await put_job(connection)
    wanted = ManyFilter(vendor="crm")
    assert await steering.cancel_waiting(db, wanted, who=WHO, seconds=0.0) == Cancelled(2, False)
    assert await steering.cancel_waiting(db, wanted, who=WHO) == Cancelled(3, True)
    assert await steering.cancel_waiting(db, wanted, who=WHO) == Cancelled(0, True)
    assert [result for *_, result in await acts(connection)] == [
        {"cancelled": 2},
        {"cancelled": 2},
        {"cancelled": 1},
    ]


async def test_a_cancel_that_takes_too_long_is_too_wide_and_no_outage(
    db: Database, connection: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steering, "SEARCH_SECONDS", 0.05)
    job_id = await put_job(connection)
    transaction = connection.transaction()
    await transaction.start()
    await connection.execute("SELECT FROM gateway.jobs WHERE id = $1 FOR UPDATE", job_id)
    with pytest.raises(TooWide):
        await steering.cancel_waiting(db, ManyFilter(vendor="crm"), who=WHO)
    await transaction.rollback()
    assert db.up
    assert await states(connection) == ["available"]
    assert await acts(connection) == []


async def test_cancelling_a_whole_line_leaves_nobody_behind(db: Database, connection: Any) -> None:
    for _ in range(4):
        await put_job(connection, ordering_key="k")
    assert await steering.cancel_some(db, ManyFilter(route="orders"), who=WHO) == (4, 4)
    assert await states(connection) == ["cancelled"] * 4
    assert await connection.fetchval("SELECT count(*) FROM gateway.ordering_keys") == 0


async def test_only_jobs_that_wait_can_be_cancelled_by_filter(db: Database) -> None:
    with pytest.raises(Refused, match="only jobs that wait"):
        await steering.count_waiting(db, ManyFilter(state=JobState.DEAD))


def _later() -> UUID:
    return UUID(int=first_id(datetime.now(UTC) + timedelta(hours=1)).int | 7 << 76)


# Held keys --------------------------------------------------------------------------------------


async def test_a_held_key_is_listed_and_released(db: Database, connection: Any) -> None:
    dead = await put_job(
        connection, state="running", node=NODE, claim_no=1, ordering_key="k", holds_key=True
    )
    waiting = await put_job(connection, ordering_key="k", holds_key=True)
    await jobs.settle(
        db,
        [settled(await held_job(connection, dead), "dead", outcome="dead", error="no")],
        node=NODE,
    )
    (held,) = await steering.held_keys(db)
    assert (held.route, held.key, held.job_id, held.last_error, held.waiting) == (
        "orders",
        "k",
        dead,
        "no",
        1,
    )
    assert await steering.release_key(db, "orders", "k", who=WHO) == waiting
    assert await steering.held_keys(db) == []
    with pytest.raises(NotFound, match="is not held"):
        await steering.release_key(db, "orders", "k", who=WHO)
    assert await acts(connection) == [
        (WHO, "key.release", {"route": "orders", "key": "k"}, {"next": str(waiting)})
    ]


# Rerouting --------------------------------------------------------------------------------------


async def test_a_rerouted_event_gets_new_jobs(db: Database, connection: Any) -> None:
    event = new_event()
    await accept(db, [Acceptance(event, "{}", [], 60.0)], node=NODE)
    made = [new_job(event), new_job(event, route="late", delay_seconds=60.0)]
    found = await steering.reroute(db, event, made, who=WHO)
    assert [(job.route, job.state) for job in found] == [
        ("late", "scheduled"),
        ("orders", "available"),
    ]
    assert await steering.reroute(db, event, [], who=WHO) == []
    assert await states(connection) == ["available", "scheduled"]
    book = await acts(connection)
    assert [act for _, act, _, _ in book] == ["event.reroute"] * 2
    assert book[0][2] == {"event": str(event.id)}
    assert sorted(book[0][3]["jobs"]) == sorted(str(job.id) for job in made)
    assert book[1][3] == {"jobs": []}


# The book ---------------------------------------------------------------------------------------


async def test_acts_by_every_way_are_in_the_book_and_stay(db: Database, connection: Any) -> None:
    user = await connection.fetchval("SELECT current_user")
    dead, waits = await put_job(connection, state="dead"), await put_job(connection)
    fresh = await operators.replay(db, dead, who=WHO)
    again = await connection.fetchval("SELECT gateway.replay($1)", dead)
    await operators.cancel(db, waits, who=WHO)
    await connection.execute("SELECT gateway.pause_vendor('crm')")
    assert await acts(connection) == [
        (WHO, "job.replay", {"job": str(dead), "new_key": False}, {"job": str(fresh)}),
        (user, "job.replay", {"job": str(dead), "new_key": False}, {"job": str(again)}),
        (WHO, "job.cancel", {"job": str(waits)}, {"before": "available"}),
        (user, "vendor.pause", {"vendor": "crm"}, {"changed": True}),
    ]
    for statement in ("UPDATE gateway.acts SET who = 'x'", "DELETE FROM gateway.acts"):
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match="append-only"):
            await connection.execute(statement)
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await connection.execute("TRUNCATE gateway.acts")
