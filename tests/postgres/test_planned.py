"""What every webhook asks is planned before anybody needs it; what else a connection is told."""

from __future__ import annotations

from typing import Any

from gateway.store.database import Database
from gateway.store.sql import query

PLANS = "SELECT statement, generic_plans, custom_plans FROM pg_prepared_statements"


async def test_a_connection_comes_with_its_plan(db: Database) -> None:
    await db.plan()
    assert len(db._kept) == db._planned
    for connection in db._kept:
        (plan,) = [
            row
            for row in await connection.fetch(PLANS)
            if row["statement"] == query("events.accept")
        ]
        assert (plan["generic_plans"], plan["custom_plans"]) == (1, 0)


async def test_it_is_used_and_no_other_is_opened(db: Database) -> None:
    await db.plan()
    before = list(db._kept)
    await db.plan()
    rows = await db.fetch_planned("events.accept", *[None] * 25)
    assert [tuple(row) for row in rows] == [(None, None)]  # no node of that name lives
    assert set(db._kept) == set(before)


async def test_planning_writes_nothing(db: Database, connection: Any) -> None:
    counts = """SELECT (SELECT count(*) FROM gateway.events), (SELECT count(*) FROM gateway.jobs),
                       (SELECT count(*) FROM gateway.attempts),
                       (SELECT count(*) FROM gateway.dedupe_keys)"""
    before = await connection.fetchrow(counts)
    await db.plan()
    assert await connection.fetchrow(counts) == before


async def test_only_where_it_is_said_does_a_transaction_not_sort(db: Database) -> None:
    found = []
    for given in ({}, {"sorting": False}):
        async with db.transaction(**given) as connection:
            found.append(await connection.fetchval("SHOW enable_sort"))
    assert found == ["on", "off"]
