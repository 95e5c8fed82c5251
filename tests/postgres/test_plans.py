"""The hot statements keep to their indexes, however full or empty the tables are.

Statements are explained as the pool runs them: with a plan of their own for each execution. On a
large table two ways of filling it count: never analysed, as in the minutes after a burst, and
analysed. Rows are read from EXPLAIN ANALYZE, so that a plan is judged by what it touched.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from store_samples import NODE
from uuid_utils.compat import uuid7

from gateway.store.sql import query

DAYS = 4  # of history besides today
BIG = 200_000

# Finished jobs over $3 days up to the moment $4, evenly; of the last ones $2 wait in the backlog of
# three lanes, as many are scheduled, and some are held.
_FILL = """
WITH numbers AS (
    SELECT n, gateway.uuid7_floor(
               $4::timestamptz - make_interval(secs => n * 86400.0 * $3 / $1)) AS low
    FROM generate_series(1, $1) AS n
)
INSERT INTO gateway.jobs (id, event_id, route, vendor, kind, state, priority, max_attempts,
                          correlation_id, node, run_at)
SELECT id, id, 'orders', 'lane' || n % 3, 'call',
       (CASE WHEN n > $2 * 3 THEN 'running' WHEN n % 3 = 0 THEN 'available'
        WHEN n % 3 = 1 THEN 'scheduled' ELSE 'running' END)::gateway.job_state,
       n % 10, 3, id::text, CASE WHEN n > $2 * 3 THEN 'old/1' ELSE 'one/1' END,
       now() - make_interval(secs => n % 100)
FROM (SELECT n, (substr(low::text, 1, 14) || '7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid AS id
      FROM numbers) made
"""


async def todays_noon(connection: Any) -> datetime:
    """Return the moment as of which ids are made, whatever the hour is.

    So today's partition has the same share of the rows at every hour: what a scan of the whole of
    it costs decides about plans.
    """
    noon: datetime = await connection.fetchval(
        "SELECT date_trunc('day', now(), 'UTC') + interval '12 hours'"
    )
    return noon


async def fill(connection: Any, rows: int, *, waiting: int, analyse: bool) -> None:
    noon = await todays_noon(connection)
    await connection.execute("SET statement_timeout = 0")  # of filling nothing is promised
    await connection.execute(
        """SELECT gateway.make_partitions((now() AT TIME ZONE 'UTC')::date - ago)
           FROM generate_series(1, $1) AS ago""",
        DAYS,
    )
    await connection.execute(
        """INSERT INTO gateway.nodes (node, lease, version, oldest_held)
           VALUES ($1, '15s', 'test', gateway.uuid7_floor($2::timestamptz - interval '1 hour'))""",
        NODE,
        noon,
    )
    if rows:
        await connection.execute(_FILL, rows, waiting, DAYS, noon)
        await connection.execute(
            "UPDATE gateway.jobs SET state = 'completed', finished_at = now() WHERE node = 'old/1'"
        )
        await connection.execute(
            """INSERT INTO gateway.events (id, vendor, correlation_id, headers, body, received_at)
               SELECT id, 'shop', id::text, '{}', '{}', now() FROM gateway.jobs"""
        )
        await connection.execute(
            """INSERT INTO gateway.dedupe_keys (vendor, key, event_id, expires_at)
               SELECT 'shop', id::text, id, run_at + interval '50s'
               FROM gateway.jobs"""
        )
    if analyse:
        await connection.execute("ANALYZE")
    await connection.execute("RESET statement_timeout")


async def statements(connection: Any) -> dict[str, list[Any]]:
    """Return the hot statements with arguments as they come from a busy node."""
    now = datetime.now(UTC)
    size = 100
    events, jobs = [uuid7() for _ in range(size)], [uuid7() for _ in range(size)]
    held = await connection.fetch(
        "SELECT id FROM gateway.jobs WHERE state = 'running' AND node = $1 LIMIT $2", NODE, size
    )
    ours = [found["id"] for found in held] or jobs
    count = len(ours)
    # The floor as upkeep would raise it: yesterday's midnight.
    floor = await connection.fetchval(
        "SELECT gateway.uuid7_floor((now() AT TIME ZONE 'UTC')::date - interval '1 day')"
    )
    minute = await connection.fetchval(
        "SELECT gateway.uuid7_floor($1::timestamptz - interval '1 minute')",
        await todays_noon(connection),
    )
    lanes = ["lane0", "lane1", "lane2", "idle"]
    return {
        "events.accept": [
            *(["shop"], [60.0], events, [1] * size, ["t"] * size, [str(id_) for id_ in events]),
            *(None, None, ["{}"] * size, None, [b"{}"] * size, [now.timestamp()] * size),
            *(["orders"], ["lane0"], ["call"], [5], [0.0], [3], [False], [True]),
            *(jobs, list(range(1, size + 1)), [1] * size, None, NODE),
        ],
        "jobs.claim": [lanes, [7, 50, 400, 10], [1, 8, 58, 2], NODE, floor, [0] * 4, [floor] * 4],
        "events.of_jobs": [ours, 32768],
        "jobs.settle": [
            *(["completed"], [1], [0], [200], ["completed"], ours, [1] * count),
            *([now.timestamp()] * count, [1.0] * count, None, None),
            *(["{}"] * count, ["{}"] * count, NODE, *([[]] * 14), min(ours), max(ours)),
        ],
        "jobs.look": [lanes, floor],
        "jobs.promote": [100, floor],
        "jobs.release": [ours, NODE],
        "jobs.mark_started": [ours, [0] * count, [now] * count],
        "jobs.backlog": [floor, 1_000_000],
        "nodes.renew": [NODE, floor],
        "nodes.bury": [],
        "nodes.rescue": ["nobody", minute],
        "events.fetch": [ours[0]],
        "events.duplicates": ["shop", str(ours[0]), ours[0]],
        "upkeep.prune_dedupe_keys": [0, 20],
    }


def literal(value: Any) -> str:
    """Return *value* as a constant without a type: the statement's parameter has one."""
    return "NULL" if value is None else "'" + plain(value).replace("'", "''") + "'"


def plain(value: Any) -> str:
    match value:
        case list():
            return "{" + ",".join("NULL" if v is None else f'"{escaped(v)}"' for v in value) + "}"
        case bytes():
            return "\\x" + value.hex()
        case datetime():
            return value.isoformat()
        case bool() | int() | float() | str() | UUID():
            return str(value)
        case _:
            return str(value)


def escaped(value: Any) -> str:
    return plain(value).replace("\\", "\\\\").replace('"', '\\"')


def nodes_of(plan: Any) -> Iterator[Any]:
    yield plan
    for child in plan.get("Plans", ()):
        yield from nodes_of(child)


async def explain(connection: Any, name: str, args: list[Any]) -> tuple[list[Any], float]:
    """Run the statement, undo it, and return its plan's nodes and the planning time in ms."""
    transaction = connection.transaction()
    await transaction.start()
    try:
        text = await connection.fetchval(
            f"EXPLAIN (ANALYZE, SUMMARY, TIMING OFF, FORMAT JSON) {query(name)}", *args
        )
    finally:
        await transaction.rollback()
    (found,) = json.loads(text)
    return list(nodes_of(found["Plan"])), found["Planning Time"]


def rows_touched(node: Any) -> float:
    """Return how many rows a scan has read, those included that it passed over."""
    loops = node["Actual Loops"]
    read = node["Actual Rows"] + node.get("Rows Removed by Filter", 0)
    read += node.get("Rows Removed by Index Recheck", 0)
    return float(read * loops)


@pytest.mark.parametrize("analyse", [False, True], ids=["unanalysed", "analysed"])
@pytest.mark.parametrize("rows", [0, 1000, BIG])
async def test_hot_statements_read_little_of_a_large_history(
    connection: Any, rows: int, analyse: bool
) -> None:
    waiting = min(3000, rows // 10)
    await fill(connection, rows, waiting=waiting, analyse=analyse)
    for name, args in (await statements(connection)).items():
        plan, planning_ms = await explain(connection, name, args)
        scans = [node for node in plan if "Relation Name" in node and "Scan" in node["Node Type"]]
        # The count of the backlog and the promotion of what is due read what waits, no more; a
        # claim locks what it takes. None of them may read a part of the history.
        allowed = {"jobs.backlog": waiting, "jobs.promote": waiting}.get(name, 0) + 2000
        for scan in scans:
            assert rows_touched(scan) <= allowed, (name, scan)
        sorts = [node for node in plan if node["Node Type"] == "Sort"]
        for sort in sorts:
            assert sort["Actual Rows"] * sort["Actual Loops"] <= 1200, (name, sort)
        assert planning_ms < 100, name


@pytest.mark.parametrize("analyse", [False, True], ids=["unanalysed", "analysed"])
async def test_a_claim_stops_early_in_a_large_backlog(connection: Any, analyse: bool) -> None:
    """All of the history waits: the vendor was down for days."""
    await fill(connection, 100_000, waiting=33_333, analyse=analyse)
    await connection.execute("UPDATE gateway.jobs SET state = 'available' WHERE due_at IS NOT NULL")
    if analyse:
        await connection.execute("VACUUM ANALYZE gateway.jobs")
    args = (await statements(connection))["jobs.claim"]
    args[4], args[6] = UUID(int=0), [UUID(int=0)] * 4
    plan, _ = await explain(connection, "jobs.claim", args)
    for node in plan:
        if "Relation Name" in node and "Scan" in node["Node Type"]:
            assert rows_touched(node) <= 2000, node


@pytest.mark.parametrize("analyse", [False, True], ids=["unanalysed", "analysed"])
async def test_what_a_node_holds_is_looked_for_at_the_young_end_of_a_day(
    connection: Any, analyse: bool
) -> None:
    """After each lost connection, when nothing is claimed; at the end of a node, or by others."""
    await fill(connection, 100_000, waiting=0, analyse=analyse)
    bound = await connection.fetchval(
        """UPDATE gateway.nodes SET oldest_held =
               (SELECT id FROM gateway.jobs ORDER BY id DESC OFFSET 100 LIMIT 1)
           RETURNING oldest_held"""
    )
    for name, args in {
        "jobs.strays": [UUID(int=0), NODE, []],
        "jobs.release_all": [bound, NODE],
        "nodes.rescue": [NODE, bound],
    }.items():
        plan, _ = await explain(connection, name, args)
        scans = [node for node in plan if node.get("Relation Name", "").startswith("jobs_")]
        assert sum(map(rows_touched, scans)) <= 200, name


@pytest.mark.parametrize(
    ("name", "state"),
    [("jobs.claim", "available"), ("jobs.promote", "scheduled"),
     ("jobs.look", "available"), ("jobs.look", "scheduled")],
)  # fmt: skip
async def test_what_came_since_the_day_was_analysed_is_not_sorted(
    connection: Any, name: str, state: str
) -> None:
    """By its statistics nothing waits: the planner expects a row of any index, and may sort it."""
    await fill(connection, 100_000, waiting=0, analyse=True)
    await connection.execute(
        """INSERT INTO gateway.jobs (id, route, vendor, kind, state, priority, max_attempts,
                                     correlation_id, run_at)
           SELECT gateway.uuid7(), 'orders', 'lane' || n % 3, 'call', $1::gateway.job_state, n % 10,
                  3, n::text, now() - interval '1 minute'
           FROM generate_series(1, 30000) AS n""",
        state,
    )
    plan, _ = await explain(connection, name, (await statements(connection))[name])
    for node in plan:
        if "Relation Name" in node and "Scan" in node["Node Type"]:
            assert rows_touched(node) <= 2000, node


@pytest.mark.parametrize("of_a_day", [False, True], ids=["whole", "of a day"])
@pytest.mark.parametrize("analyse", [False, True], ids=["unanalysed", "analysed"])
async def test_a_settlement_planned_on_empty_tables_is_right_on_full_ones(
    planned: Any, connection: Any, analyse: bool, of_a_day: bool
) -> None:
    """As a process does it that is started on the first day, and lives long."""
    today = f"jobs_{await todays_noon(connection):%Y%m%d}"
    sql = query("jobs.settle", today if of_a_day else None)
    await planned.execute(f"PREPARE settle AS {sql}")

    async def explained() -> list[Any]:
        args = (await statements(connection))["jobs.settle"]
        transaction = planned.transaction()
        await transaction.start()
        try:
            text = await planned.fetchval(
                "EXPLAIN (ANALYZE, TIMING OFF, FORMAT JSON)"
                f" EXECUTE settle({', '.join(literal(arg) for arg in args)})"
            )
        finally:
            await transaction.rollback()
        return list(nodes_of(json.loads(text)[0]["Plan"]))

    await explained()
    await fill(connection, 20_000, waiting=300, analyse=analyse)
    plan = await explained()
    (found,) = [
        node
        for node in plan
        if node.get("Relation Name", "").startswith("jobs_") and "Scan" in node["Node Type"]
    ]
    assert (found["Node Type"], found["Actual Rows"]) == ("Index Scan", 100)
    # Each job meets its outcome by a hash: compared with each, it would be the square of the batch.
    assert not [node for node in plan if node.get("Rows Removed by Join Filter")]
    (joined,) = [
        node for node in plan if node.get("Join Type") == "Inner" and "Hash" in node["Node Type"]
    ]
    assert joined["Actual Rows"] == 100


async def test_days_below_the_floor_are_not_even_planned(connection: Any) -> None:
    await fill(connection, 1000, waiting=10, analyse=True)
    today = await connection.fetchval("SELECT (now() AT TIME ZONE 'UTC')::date")
    old = {f"jobs_{today - timedelta(days=ago):%Y%m%d}" for ago in range(2, DAYS + 1)}
    arguments = await statements(connection)
    for name in ("jobs.claim", "jobs.look", "jobs.promote", "jobs.backlog", "nodes.rescue"):
        plan, _ = await explain(connection, name, arguments[name])
        assert not old & {node.get("Relation Name") for node in plan}, name
    for name in ("jobs.settle", "jobs.release", "jobs.mark_started", "events.of_jobs"):
        args = list(arguments[name])
        ids = next(arg for arg in args if isinstance(arg, list) and isinstance(arg[0], UUID))
        args[args.index(ids)] = [young := uuid7()] * len(ids)
        if name == "jobs.settle":
            args[-2:] = young, young
        plan, _ = await explain(connection, name, args)
        tables = {node.get("Relation Name") or "" for node in plan}
        assert len([table for table in tables if table.startswith(("jobs_", "events_"))]) <= 1, name


async def test_a_hundred_days_of_history_cost_the_planner_nothing(connection: Any) -> None:
    """The median of a few runs; the first one fills the session's caches."""
    await fill(connection, 1000, waiting=10, analyse=True)
    arguments = await statements(connection)
    names = ("events.accept", "jobs.claim", "events.of_jobs", "jobs.settle", "jobs.release")

    async def relations(name: str) -> int:
        plan, _ = await explain(connection, name, arguments[name])
        return len({node.get("Relation Name") for node in plan})

    before = {name: await relations(name) for name in names}
    await connection.execute(
        """SELECT gateway.make_partitions((now() AT TIME ZONE 'UTC')::date - ago)
           FROM generate_series($1, 100) AS ago""",
        DAYS + 1,
    )
    assert {name: await relations(name) for name in names} == before
    # Told with -s; not asserted, since a busy machine plans slowly too.
    for name in names:
        times = sorted([(await explain(connection, name, arguments[name]))[1] for _ in range(5)])
        print(f"{name}: planned in {times[2]:.2f} ms with 100 days of history")
