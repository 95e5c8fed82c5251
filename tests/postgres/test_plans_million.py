"""Plans that cannot flip: every statement of the hot path, as a custom and as a generic plan, on
empty tables, on small ones and on a million rows.

Our pool plans each execution anew (plan_cache_mode). A generic plan is what a session without that
setting comes to use; made while the tables are large it must be as good. One made on tables that
are empty, or were never analysed, may be anything: PostgreSQL then thinks a scan of the whole the
cheapest. What it touches is asserted where it was made.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import asyncpg
import pytest
from store_samples import NODE
from test_plans import fill, literal, nodes_of, rows_touched, statements

from gateway.store.database import _SETTINGS
from gateway.store.sql import names, query

MILLION = 1_000_000
DAYS = 10
WAITING = 30_000

# Run by people, once in the life of a process, or every few minutes; or all in a function, which
# has tests of its own.
NOT_HOT = {
    *(name for name in names() if name.startswith(("acts.", "operators.", "vitals.", "shares."))),
    *(name for name in names() if name.startswith("upkeep.") and "prune_dedupe" not in name),
    *(name for name in names() if name.startswith("replays.") and name != "replays.take"),
    *(name for name in names() if name.startswith("steering.") and "paused" not in name),
    "nodes.register",
    "nodes.resign",
    # After a lost connection: they read what is young, since "running" is in no index, so that a
    # job completes without a change to one (HOT).
    "jobs.strays",
    "jobs.release_all",
}

# How many rows of one table a statement may look at, beyond what it is asked to count.
ALLOWED = 2000
COUNTS = {"jobs.backlog": WAITING, "jobs.promote": WAITING}

# They are planned once, on connections of their own: see Database.fetch_planned.
PLANNED = {"events.accept", "jobs.settle"}

# Without the values of its bounds the count of the backlog walks a whole day by its primary key. It
# is asked every two seconds at most, and by the pool, with a custom plan.
KNOWN = {("jobs.backlog", "force_generic_plan")}

_MILLION = """
INSERT INTO gateway.{name} (id, event_id, route, vendor, kind, state, priority, max_attempts,
                            correlation_id, node, run_at)
SELECT id, id, 'orders', 'lane' || n % 3, 'call',
       (CASE WHEN n > {waiting} THEN 'completed' WHEN n % 3 = 0 THEN 'available'
        WHEN n % 3 = 1 THEN 'scheduled' ELSE 'running' END)::gateway.job_state,
       n % 10, 3, id::text, CASE WHEN n > {waiting} THEN 'old/1' WHEN n % 3 = 2 THEN 'one/1' END,
       now()
FROM (SELECT n, (left({low}::text, 24) || lpad(to_hex(n), 12, '0'))::uuid AS id
      FROM generate_series(1, {rows}) n) made
"""


async def fill_million(connection: Any) -> None:
    """A day's partition is filled first and attached then: its indexes are built at once."""
    await connection.execute("DROP TABLE IF EXISTS gateway.jobs_new")
    for ago in range(DAYS, -1, -1):
        name, low, high = await connection.fetchrow(
            """SELECT to_char(day, 'YYYYMMDD'), quote_literal(gateway.uuid7_floor(day::timestamp
                      AT TIME ZONE 'UTC')) || '::uuid',
                      quote_literal(gateway.uuid7_floor((day + 1)::timestamp AT TIME ZONE 'UTC'))
                      || '::uuid'
               FROM (SELECT (now() AT TIME ZONE 'UTC')::date - $1::int AS day) d""",
            ago,
        )
        rows = MILLION // (DAYS + 1)
        leaf = f"jobs_{name}"
        await connection.execute(f"DROP TABLE IF EXISTS gateway.{leaf}")
        await connection.execute(
            f"""CREATE TABLE gateway.{leaf} (LIKE gateway.jobs INCLUDING DEFAULTS
                INCLUDING CONSTRAINTS INCLUDING GENERATED) WITH (fillfactor = 50)"""
        )
        await connection.execute(
            _MILLION.format(name=leaf, low=low, rows=rows, waiting=WAITING if ago == 0 else 0)
        )
        await connection.execute(
            f"""ALTER TABLE gateway.jobs ATTACH PARTITION gateway.{leaf}
                FOR VALUES FROM ({low}) TO ({high})"""
        )
    await connection.execute(
        """INSERT INTO gateway.nodes (node, lease, version, oldest_held)
           SELECT $1, '15s', 'test', id FROM gateway.jobs WHERE node = $1 ORDER BY id LIMIT 1""",
        NODE,
    )
    await connection.execute(
        """INSERT INTO gateway.events (id, vendor, correlation_id, headers, body, received_at)
           SELECT id, 'shop', id::text, '{}', '', now()
           FROM gateway.jobs WHERE state <> 'completed'"""
    )
    await connection.execute(
        """INSERT INTO gateway.dedupe_keys (vendor, key, event_id, expires_at)
           SELECT 'shop', n::text, gateway.uuid7(), now() + interval '1 day'
           FROM generate_series(1, 200000) n"""
    )
    await connection.execute("ANALYZE")


@pytest.fixture(scope="session")
def million_url(databases: Any) -> Iterator[str]:
    """One database with a million jobs for all the tests here, none of which changes it."""
    with databases.filled(fill_million) as url:
        yield url


@pytest.fixture
async def million(million_url: str) -> AsyncIterator[Any]:
    opened = await asyncpg.connect(million_url, server_settings=_SETTINGS)
    yield opened
    await opened.close()


async def hot(connection: Any) -> dict[str, list[Any]]:
    """Return all statements of the hot path with arguments."""
    found = await statements(connection)
    ours = found["jobs.release"][0]
    seen = await connection.fetch("SELECT key FROM gateway.dedupe_keys ORDER BY key LIMIT 100")
    return found | {
        "events.count_repeats": [["shop"] * len(seen), [s["key"] for s in seen], [1] * len(seen)],
        "jobs.release_claims": [ours, [0] * len(ours), NODE],
        "vendors.park": [["crm"], [1.0], [0]],
        "vendors.move_breakers": [["crm"], ["open"], [1.0], [NODE], [0]],
        "vendors.states": [],
        "steering.paused": [],
        "replays.take": [NODE, 15.0, 4],
    }


async def explain(
    connection: Any, name: str, args: list[Any], *, mode: str, partition: str | None = None
) -> list[Any]:
    """Run the statement as a session with this plan_cache_mode does, undo it; return the plan."""
    given = f"({', '.join(literal(arg) for arg in args)})" if args else ""
    transaction = connection.transaction()
    await transaction.start()
    try:
        await connection.execute(f"SET LOCAL plan_cache_mode = {mode}")
        if name in PLANNED:
            await connection.execute("SET LOCAL enable_seqscan = off")
        await connection.execute(f"PREPARE hot AS {query(name, partition)}")
        text = await connection.fetchval(
            f"EXPLAIN (ANALYZE, TIMING OFF, FORMAT JSON) EXECUTE hot{given}"
        )
        await connection.execute("DEALLOCATE hot")
    finally:
        await transaction.rollback()
    return list(nodes_of(json.loads(text)[0]["Plan"]))


GROWING = ("jobs", "events", "attempts", "dedupe_keys")


def faults(name: str, plan: list[Any]) -> list[str]:
    """Return what is wrong with a plan: a scan of a whole table, or of much; a sort of much."""
    found = []
    for node in plan:
        table = node.get("Relation Name", "")
        if node["Node Type"] == "Seq Scan" and table.startswith(GROWING):
            # A scan of what is empty, such as the default partitions, is none.
            if rows_touched(node) > 100:
                found.append(f"{name}: sequential scan of {table}, {rows_touched(node):.0f} rows")
        elif "Scan" in node["Node Type"] and table:
            allowed = COUNTS.get(name, 0) + ALLOWED
            if rows_touched(node) > allowed:
                found.append(f"{name}: {node['Node Type']} of {table}, {rows_touched(node):.0f}")
        elif node["Node Type"] == "Sort" and node["Actual Rows"] * node["Actual Loops"] > 1200:
            found.append(f"{name}: sort of {node['Actual Rows'] * node['Actual Loops']:.0f} rows")
    return found


async def test_no_statement_is_forgotten(connection: Any) -> None:
    """A new one gets arguments above, and its plans are judged; or it is named as not hot."""
    await fill(connection, 0, waiting=0, analyse=False)
    judged = set(await hot(connection))
    assert judged | NOT_HOT == set(names())
    assert not judged & NOT_HOT


@pytest.mark.parametrize("mode", ["force_generic_plan", "force_custom_plan"])
@pytest.mark.parametrize("rows", [0, 1000])
async def test_hot_plans_on_small_tables(connection: Any, rows: int, mode: str) -> None:
    await fill(connection, rows, waiting=rows // 10, analyse=True)
    for name, args in (await hot(connection)).items():
        # Some hundred rows are one page or two: a scan of them is right.
        wrong = [
            fault
            for fault in faults(name, await explain(connection, name, args, mode=mode))
            if "sequential" not in fault or rows == 0
        ]
        assert wrong == []


@pytest.mark.parametrize("mode", ["force_generic_plan", "force_custom_plan"])
async def test_hot_plans_on_a_million_rows(million: Any, mode: str) -> None:
    wrong = []
    for name, args in (await hot(million)).items():
        if (name, mode) not in KNOWN:
            wrong += faults(name, await explain(million, name, args, mode=mode))
    assert wrong == []


@pytest.mark.parametrize("mode", ["force_generic_plan", "force_custom_plan"])
async def test_the_settlement_of_a_day_among_a_million_rows(million: Any, mode: str) -> None:
    arguments = await hot(million)
    ours = arguments["jobs.release"][0]
    (name,) = await million.fetch(
        """SELECT DISTINCT c.relname FROM gateway.jobs j JOIN pg_class c ON c.oid = j.tableoid
           WHERE j.id = ANY ($1)""",
        ours,
    )
    partition = name["relname"]
    plan = await explain(
        million, "jobs.settle", arguments["jobs.settle"], mode=mode, partition=partition
    )
    assert faults("jobs.settle", plan) == []
    (written,) = [
        node
        for node in plan
        if node.get("Relation Name") == partition and node["Node Type"] == "ModifyTable"
    ]
    assert written["Actual Rows"] == len(ours)


async def test_no_statement_costs_more_with_more_nodes(million: Any) -> None:
    """Rows that a statement touches must not grow with the number of nodes times jobs."""
    names_ = ("jobs.claim", "jobs.settle", "events.accept", "nodes.renew", "nodes.bury")

    async def touched() -> dict[str, float]:
        arguments = await hot(million)
        return {
            name: sum(
                rows_touched(node)
                for node in await explain(million, name, arguments[name], mode="force_custom_plan")
                if node.get("Relation Name", "").startswith("jobs")
            )
            for name in names_
        }

    before = await touched()
    transaction = million.transaction()
    await transaction.start()
    try:
        await million.execute(
            """INSERT INTO gateway.nodes (node, lease, version, oldest_held)
               SELECT 'many/' || n, '15s', 'test', oldest_held
               FROM gateway.nodes, generate_series(1, 200) n WHERE node = 'one/1'"""
        )
        after = await touched()
    finally:
        await transaction.rollback()
    assert after == before
