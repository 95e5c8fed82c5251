"""What operators ask of the records: right answers, from an index, in bounded time."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import msgspec
import pytest

from gateway.errors import NotFound, Refused, TooWide
from gateway.model import JobState
from gateway.store import cursors, listing, operators, upkeep
from gateway.store.cursors import first_id
from gateway.store.database import _SETTINGS, _SORTING, Database
from gateway.store.records import JobFilter, Page
from gateway.store.sql import query

NOW = datetime.now(UTC)
MIDNIGHT = NOW.replace(hour=0, minute=0, second=0, microsecond=0)
DAYS = 3  # of history, in partitions of their own


def id_at(moment: datetime, number: int = 0) -> UUID:
    return UUID(int=first_id(moment).int | 7 << 76 | 2 << 62 | number)


async def add_event(connection: Any, *, correlation_id: str | None = None, **given: Any) -> UUID:
    event_id = id_at(NOW, uuid4().int & 0xFFFFFF)
    fields = {
        "vendor": "shop",
        "event_type": "order.paid",
        "dedupe_key": None,
        "headers": "{}",
        "body": b'{"n": 1}',
        "received_at": NOW,
    } | given
    await connection.execute(
        """INSERT INTO gateway.events (id, correlation_id, vendor, event_type, dedupe_key, headers,
                                       body, received_at)
           VALUES ($1, $2, $3, $4, $5, $6::jsonb, $7, $8)""",
        event_id,
        correlation_id or str(event_id),
        *fields.values(),
    )
    return event_id


async def add_job(
    connection: Any,
    *,
    at: datetime = NOW,
    state: str = "available",
    event_id: UUID | None = None,
    correlation_id: str | None = None,
    vendor: str = "crm",
    route: str = "orders",
) -> UUID:
    job_id = id_at(at, uuid4().int & 0xFFFFFF)
    begin = state if state in ("available", "scheduled", "blocked") else "running"
    await connection.execute(
        """INSERT INTO gateway.jobs (id, event_id, route, vendor, kind, state, max_attempts,
                                     correlation_id, created_at)
           VALUES ($1, $2, $3, $4, 'call', $5, 3, $6, $7)""",
        job_id,
        event_id,
        route,
        vendor,
        begin,
        correlation_id or str(event_id or job_id),
        at,
    )
    if state != begin:
        await connection.execute("UPDATE gateway.jobs SET state = $2 WHERE id = $1", job_id, state)
    return job_id


async def add_history(connection: Any, *, per_day: int = 3000) -> None:
    """Completed jobs on several days, a few dead ones among them, and statistics about them."""
    for days_ago in range(DAYS):
        day = MIDNIGHT - timedelta(days=days_ago)
        await connection.execute("SELECT gateway.make_partitions($1::date)", day.date())
        await connection.execute(
            """INSERT INTO gateway.jobs (id, event_id, route, vendor, kind, state, max_attempts,
                                         correlation_id, created_at)
               SELECT overlay(gateway.uuid7()::text PLACING left(x.low, 13) FROM 1 FOR 13)::uuid,
                      e, 'route-' || n % 20, 'vendor-' || n % 10, 'call', 'running', 3,
                      CASE n % 50 WHEN 0 THEN 'own-' || n ELSE e::text END,
                      made
               FROM generate_series(1, $2) n,
                    LATERAL (SELECT $1::timestamptz + n * interval '1 ms' AS made) m,
                    LATERAL (SELECT gateway.uuid7_floor(made)::text AS low,
                                    md5($1::text || n)::uuid AS e) x""",
            day,
            per_day,
        )
    await connection.execute(
        "UPDATE gateway.jobs SET state = CASE WHEN event_id::text LIKE '00%' THEN 'dead'"
        " ELSE 'completed' END::gateway.job_state"
    )
    await connection.execute(
        """INSERT INTO gateway.attempts (job_id, attempt, node, started_at, duration_ms, outcome)
           SELECT id, 1, 'n', created_at, 1, 'completed' FROM gateway.jobs"""
    )
    await connection.execute("VACUUM ANALYZE")


@pytest.fixture(scope="module")
def history_url(databases: Any) -> Iterator[str]:
    """One database with a history for all plans; asking for them changes nothing."""
    with databases.filled(add_history) as url:
        yield url


@pytest.fixture
async def history(history_url: str) -> AsyncIterator[Any]:
    opened = await asyncpg.connect(history_url, server_settings=_SETTINGS)
    yield opened
    await opened.close()


def ids(page: Page) -> list[UUID]:
    return [job.id for job in page.jobs]


# Listing ----------------------------------------------------------------------------------------


async def test_pages_hold_every_job_once_newest_first(db: Database, connection: Any) -> None:
    await connection.execute("SELECT gateway.make_partitions($1::date)", NOW - timedelta(days=2))
    added = [
        await add_job(connection, at=NOW - timedelta(minutes=minutes))
        for minutes in (0, 1, 700, 1500, 1501, 2900, 100_000)  # the last: no partition of its own
    ]
    seen: list[UUID] = []
    cursor = None
    for _ in range(20):
        page = await listing.list_jobs(db, JobFilter(), limit=2, cursor=cursor)
        assert len(page.jobs) <= 2
        seen += ids(page)
        cursor = page.cursor
        if cursor is None:
            break
    assert seen == sorted(added, reverse=True)


async def test_every_filter_leaves_only_what_it_names(db: Database, connection: Any) -> None:
    event_id = await add_event(connection)
    await connection.execute(
        "INSERT INTO gateway.nodes (node, lease, version, oldest_held) VALUES ('n', '1h', '1', $1)",
        UUID(int=0),
    )
    for state in JobState:
        await add_job(connection, state=state)
    mine = await add_job(
        connection, event_id=event_id, vendor="erp", route="stock", at=NOW - timedelta(hours=3)
    )
    for state in JobState:
        page = await listing.list_jobs(db, JobFilter(state=state))
        assert {job.state for job in page.jobs} == {state}
        assert len(page.jobs) == (2 if state == "available" else 1)
    for wanted in (
        JobFilter(vendor="erp"),
        JobFilter(route="stock"),
        JobFilter(event_id=event_id),
        JobFilter(correlation_id=str(event_id)),
        JobFilter(until=NOW - timedelta(hours=2)),
        JobFilter(since=NOW - timedelta(hours=4), until=NOW - timedelta(hours=2)),
        JobFilter(state=JobState.AVAILABLE, vendor="erp", event_id=event_id, route="stock"),
    ):
        page = await listing.list_jobs(db, wanted)
        assert ids(page) == [mine], wanted
        assert page.cursor is None
    for wanted in (
        JobFilter(vendor="er"),
        JobFilter(event_id=uuid4()),
        JobFilter(event_id=event_id, correlation_id="another"),
        JobFilter(event_id=event_id, state=JobState.DEAD),
        JobFilter(event_id=event_id, since=NOW - timedelta(hours=2)),
    ):
        assert ids(await listing.list_jobs(db, wanted)) == [], wanted


async def test_a_correlation_id_finds_jobs_with_and_without_an_event(
    db: Database, connection: Any
) -> None:
    own = await add_event(connection)
    usual = await add_job(connection, event_id=own)
    given = await add_event(connection, correlation_id="order-7")
    with_event = await add_job(connection, event_id=given, correlation_id="order-7")
    without_event = await add_job(connection, correlation_id="order-7")
    # A caller may name its correlation id after an event that is another's.
    borrowed = await add_job(connection, event_id=given, correlation_id=str(own))

    found = await listing.list_jobs(db, JobFilter(correlation_id="order-7"))
    assert set(ids(found)) == {with_event, without_event}
    found = await listing.list_jobs(db, JobFilter(correlation_id=str(own)))
    assert set(ids(found)) == {usual, borrowed}


async def test_more_related_jobs_than_one_batch_are_all_found(
    db: Database, connection: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "_RELATED_IDS", 2)
    event_id = await add_event(connection)
    added = [
        await add_job(connection, event_id=event_id, at=NOW - timedelta(minutes=minutes))
        for minutes in range(5)
    ]
    page = await listing.list_jobs(db, JobFilter(event_id=event_id, state=JobState.AVAILABLE))
    assert ids(page) == added
    assert page.cursor is None


async def test_a_search_out_of_time_goes_on_at_its_cursor(
    db: Database, connection: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for days_ago in range(DAYS):
        await connection.execute(
            "SELECT gateway.make_partitions($1::date)", NOW - timedelta(days=days_ago)
        )
    old = await add_job(connection, at=NOW - timedelta(days=DAYS - 1), route="rare")
    clock = iter(range(1000))
    monkeypatch.setattr(listing, "monotonic", lambda: next(clock) * 100.0)
    page = await listing.list_jobs(db, JobFilter(route="rare"))
    assert page.jobs == []
    pages = 1
    while page.cursor is not None:
        page = await listing.list_jobs(db, JobFilter(route="rare"), cursor=page.cursor)
        pages += 1
        if page.jobs:
            break
    assert ids(page) == [old]
    assert pages >= DAYS


async def test_a_search_passes_over_sealed_days_that_hold_nothing_of_it(
    db: Database, connection: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for days_ago in range(6):
        await connection.execute(
            "SELECT gateway.make_partitions($1::date)", NOW - timedelta(days=days_ago)
        )
    added = {
        days_ago: await add_job(
            connection,
            at=NOW - timedelta(days=days_ago),
            state=JobState.DEAD if days_ago == 4 else JobState.COMPLETED,
            route="rare" if days_ago in (4, 30) else "orders",
        )
        for days_ago in (2, 3, 4, 5, 30)  # the last: no partition of its own
    }
    looked_at: list[UUID] = []
    look = listing._Search._look

    async def told(self: Any, connection: Any, low: UUID, high: UUID, **given: Any) -> None:
        looked_at.append(low)
        await look(self, connection, low, high, **given)

    monkeypatch.setattr(listing._Search, "_look", told)

    async def search(**wanted: Any) -> list[UUID]:
        looked_at.clear()
        return ids(await listing.list_jobs(db, JobFilter(**wanted)))

    assert await search(route="rare") == [added[4], added[30]]
    assert len(looked_at) == 7  # six days and what is before them
    await upkeep.seal_finished_days(db)
    assert await search(route="rare") == [added[4], added[30]]
    began = [first_id(MIDNIGHT - timedelta(days=days_ago)) for days_ago in (0, 1, 4)]
    assert looked_at == [*began, UUID(int=0)]
    assert await search(route="rare", state=JobState.COMPLETED) == [added[30]]
    assert looked_at == [*began[:2], UUID(int=0)]
    assert await search(route="orders", vendor="another") == []
    assert looked_at == [*began[:2], UUID(int=0)]
    assert await search() == [added[days_ago] for days_ago in sorted(added)]
    # A day that is open again is looked at again.
    await connection.execute("DELETE FROM gateway.sealed_days")
    await search(route="none")
    assert len(looked_at) == 7


async def test_a_day_that_is_too_much_for_one_statement_is_read_in_parts(
    db: Database, connection: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    added = [await add_job(connection, at=NOW - timedelta(minutes=n)) for n in range(1, 301)]
    look, cut = listing._Search._look, []

    async def laboriously(self: Any, on: Any, low: UUID, high: UUID, **given: Any) -> None:
        among = "FROM gateway.jobs WHERE id >= $1 AND id < $2"
        try:
            await on.fetch(f"SELECT pg_sleep(count(*) * 0.005) {among}", low, high)
        except asyncpg.QueryCanceledError:
            cut.append((low, high))
            raise
        await look(self, on, low, high, **given)

    monkeypatch.setattr(listing._Search, "_look", laboriously)
    monkeypatch.setattr(listing, "PART_SECONDS", 0.2)  # 40 jobs, of 300
    found, cursor = [], None
    while True:
        page = await listing.list_jobs(db, JobFilter(route="orders"), limit=1000, cursor=cursor)
        found += ids(page)
        cursor = page.cursor
        if cursor is None:
            break
    assert found == added
    assert cut
    assert db.up


async def test_a_question_that_takes_too_long_leaves_the_database_up(db: Database) -> None:
    with pytest.raises(TooWide, match="ask for less"):
        async with db.reading(seconds=0.05) as connection:
            await connection.fetch("SELECT pg_sleep(20)")
    assert db.up
    assert await db.fetch_sql("SHOW statement_timeout") != [("50ms",)]


async def test_reading_cannot_write(db: Database) -> None:
    async with db.reading(seconds=5) as connection:
        assert await connection.fetchval("SHOW transaction_read_only") == "on"


@pytest.mark.parametrize("cursor", ["", "x", "é", "A" * 22 + "=", "A" * 21 + "B", "A" * 23, "%"])
def test_a_forged_cursor_is_refused(cursor: str) -> None:
    with pytest.raises(ValueError, match="not the cursor"):
        cursors.decode_cursor(cursor)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2h", NOW - timedelta(hours=2)),
        ("2026-01-31T08:30:00Z", datetime(2026, 1, 31, 8, 30, tzinfo=UTC)),
        ("2026-01-31T08:30:00+02:00", datetime(2026, 1, 31, 6, 30, tzinfo=UTC)),
        ("2026-01-31 08:30", datetime(2026, 1, 31, 8, 30, tzinfo=UTC)),
        ("2026-01-31", datetime(2026, 1, 31, tzinfo=UTC)),
    ],
)
def test_a_moment_is_a_time_or_so_long_ago(text: str, moment: datetime) -> None:
    assert cursors.parse_moment(text, now=NOW) == moment


@pytest.mark.parametrize("text", ["", "2", "-2h", "yesterday", "2026-13-01", "0001-01-01T00+14:00"])
def test_no_moment_is_told_what_to_write(text: str) -> None:
    with pytest.raises(ValueError, match="write a time"):
        cursors.parse_moment(text, now=NOW)


def test_a_cursor_names_its_position() -> None:
    position = uuid4()
    assert cursors.decode_cursor(cursors.encode_cursor(position)) == position


# Plans ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "arguments", "index"),
    [
        ("list", {"state": "dead", "vendor": "vendor-1"}, "vendor_id_idx"),
        ("list", {"state": "dead"}, ""),
        ("list", {"state": "available", "vendor": "vendor-1"}, "vendor_id_idx"),
        ("list", {"state": "scheduled"}, ""),
        ("list", {"vendor": "vendor-2"}, "pkey"),
        ("list", {"ids": [id_at(MIDNIGHT, 5), id_at(MIDNIGHT, 6)]}, "pkey"),
        ("list", {}, "pkey"),
        ("jobs_of_event", {}, "event_id_idx"),
        ("jobs_of_correlation", {}, "correlation_id_idx"),
        ("dead", {}, "id_idx"),
        ("scheduled", {}, "due_at_idx"),
        ("recent_states", {}, ""),
        ("job", {}, "pkey"),
        ("replays", {}, "replay_of_idx"),
        ("attempts", {}, "pkey"),
    ],
)
async def test_no_question_reads_a_table_from_end_to_end(
    history: Any, name: str, arguments: dict[str, Any], index: str
) -> None:
    today = first_id(MIDNIGHT)
    low, high = UUID(int=0), UUID(int=(1 << 128) - 1)
    values: tuple[Any, ...] = {
        "list": lambda: (
            arguments.get("state"),
            arguments.get("vendor"),
            arguments.get("route"),
            None,
            arguments.get("ids"),
            low if "ids" in arguments else today,
            high,
            51,
        ),
        "jobs_of_event": lambda: (UUID(int=1), low, high, 1000),
        "jobs_of_correlation": lambda: ("own-50", low, high, 1000, UUID(int=0)),
        "dead": lambda: (100_000,),
        "scheduled": lambda: (today, 100_000),
        "recent_states": lambda: (first_id(NOW - timedelta(seconds=1)), 100_000),
        "job": lambda: (id_at(NOW),),
        "replays": lambda: (id_at(NOW), UUID(int=1), 1000),
        "attempts": lambda: (id_at(NOW), 200),
    }[name]()
    state = JobState(arguments["state"]) if "state" in arguments else None
    event_id = UUID(int=1) if "ids" in arguments else None
    wanted = JobFilter(state=state, event_id=event_id)
    planner = _SORTING | (listing.paging(wanted) if name == "list" else {})
    for setting, to in planner.items():
        await history.execute(f"SET {setting} = {to}")
    plan = await plan_of(history, "list_jobs" if name == "list" else name, values)
    scans = [node for node in walk(plan) if "Relation Name" in node]
    filled = {
        f"{table}_{NOW - timedelta(days=days):%Y%m%d}"
        for table in ("jobs", "attempts")
        for days in range(DAYS)
    }
    assert scans
    for node in scans:
        if node["Relation Name"] in filled:
            assert node["Node Type"] != "Seq Scan", node
    used = [node["Index Name"] for node in walk(plan) if "Index Name" in node]
    assert any(index in found for found in used), used


@pytest.mark.parametrize("analysed", ["never", "before"])
@pytest.mark.parametrize("wanted", [("completed", None), (None, "crm"), ("dead", None)])
async def test_a_day_is_read_from_its_end_whatever_its_statistics_say(
    db: Database, connection: Any, wanted: tuple[str | None, str | None], analysed: str
) -> None:
    await connection.execute(
        f"ALTER TABLE gateway.jobs_{NOW:%Y%m%d} SET (autovacuum_enabled = off)"
    )
    if analysed == "before":
        await add_job(connection, state="completed", vendor="other")
        await connection.execute("VACUUM ANALYZE gateway.jobs")
    await connection.execute(
        """INSERT INTO gateway.jobs (id, route, vendor, kind, state, max_attempts, correlation_id)
           SELECT gateway.uuid7(), 'orders', 'crm', 'call', 'running', 3, n::text
           FROM generate_series(1, 5000) AS n"""
    )
    await connection.execute(
        "UPDATE gateway.jobs SET state = $1 WHERE vendor = 'crm'", wanted[0] or "completed"
    )
    bounds = first_id(MIDNIGHT), UUID(int=(1 << 128) - 1)
    state = JobState(wanted[0]) if wanted[0] else None
    async with db.reading(seconds=5, planner=listing.paging(JobFilter(state=state))) as reading:
        plan = await plan_of(reading, "list_jobs", (*wanted, None, None, None, *bounds, 51))
    kinds = {node["Node Type"] for node in walk(plan)}
    assert kinds <= {"Limit", "Append", "Merge Append", "Index Scan"}, kinds


async def test_a_time_filter_opens_no_partition_outside_it(connection: Any) -> None:
    await add_history(connection, per_day=10)
    yesterday = MIDNIGHT - timedelta(days=1)
    bounds = first_id(yesterday), first_id(MIDNIGHT)
    plan = await plan_of(connection, "list_jobs", (None, None, None, None, None, *bounds, 51))
    opened = {node["Relation Name"] for node in walk(plan) if "Relation Name" in node}
    assert opened == {f"jobs_{yesterday:%Y%m%d}"}


async def plan_of(connection: Any, name: str, values: tuple[Any, ...]) -> dict[str, Any]:
    # EXPLAIN itself takes no parameters; EXECUTE plans with them as the driver's Bind does.
    statement = await connection.prepare(query(f"operators.{name}"))
    literals = [await connection.fetchval("SELECT quote_nullable($1)", _text(v)) for v in values]
    declared = [
        f"{p.schema}.{p.name[:-2]}[]" if p.name.endswith("[]") else f"{p.schema}.{p.name}"
        for p in statement.get_parameters()
    ]
    await connection.execute(
        f"PREPARE asked ({', '.join(declared)}) AS {query(f'operators.{name}')}"
    )
    shown = await connection.fetchval(
        f"EXPLAIN (FORMAT JSON) EXECUTE asked ({', '.join(literals)})"
    )
    plan: dict[str, Any] = json.loads(shown)[0]["Plan"]
    return plan


def _text(value: Any) -> str | None:
    if isinstance(value, list):
        return "{" + ",".join(map(str, value)) + "}"
    return None if value is None else str(value)


def walk(plan: dict[str, Any]) -> list[dict[str, Any]]:
    return [plan, *(node for child in plan.get("Plans", ()) for node in walk(child))]


# Showing and acting -----------------------------------------------------------------------------


async def test_a_job_is_shown_with_its_event_and_attempts(db: Database, connection: Any) -> None:
    event_id = await add_event(connection, body=b'{"n": 1}')
    job_id = await add_job(connection, event_id=event_id, state="dead")
    for attempt in (2, 1):
        await connection.execute(
            """INSERT INTO gateway.attempts VALUES ($1, $2, 'n', now(), 1.5, 'retry', 500, 'no',
                                                    '{"method": "POST"}', NULL)""",
            job_id,
            attempt,
        )
    fresh = await operators.replay(db, job_id)

    detail = await operators.show_job(db, job_id)
    shown = json.loads(msgspec.json.encode(detail))
    assert shown["id"] == str(job_id)
    assert shown["event"]["body_bytes"] == 8
    assert "body" not in shown["event"]
    assert [a["attempt"] for a in shown["attempts"]] == [1, 2]
    assert shown["attempts"][0]["request"] == {"method": "POST"}
    assert shown["replays"] == [str(fresh)]
    with_body = await operators.show_job(db, job_id, body=True)
    assert json.loads(msgspec.json.encode(with_body))["event"]["body"] == {"n": 1}


async def test_an_event_is_shown_with_its_jobs_and_repetitions(
    db: Database, connection: Any
) -> None:
    event_id = await add_event(connection, dedupe_key="evt_1", body=b"\xff\x00")
    await connection.execute(
        "INSERT INTO gateway.dedupe_keys VALUES ('shop', 'evt_1', $1, now() + '1h', 3)", event_id
    )
    job_id = await add_job(connection, event_id=event_id)
    detail = await operators.show_event(db, event_id, body=True)
    assert detail.duplicates == 3
    assert [job.id for job in detail.jobs] == [job_id]
    assert json.loads(msgspec.json.encode(detail))["body"] == {"base64": "/wA="}
    assert await operators.raw_body(db, event_id) == b"\xff\x00"


async def test_replay_makes_a_new_job_and_leaves_the_old_one(db: Database, connection: Any) -> None:
    job_id = await add_job(connection, state="dead", correlation_id="c")
    fresh = await operators.show_job(db, await operators.replay(db, job_id))
    assert (fresh.replay_of, fresh.state) == (job_id, "available")
    assert (await operators.show_job(db, job_id)).state == "dead"


async def test_cancel_tells_the_state_before(db: Database, connection: Any) -> None:
    job_id = await add_job(connection, state="scheduled")
    assert await operators.cancel(db, job_id) is JobState.SCHEDULED
    assert (await operators.show_job(db, job_id)).state == "cancelled"


async def test_an_act_out_of_place_is_refused_with_a_hint(db: Database, connection: Any) -> None:
    running = await add_job(connection, state="running")
    with pytest.raises(Refused, match=r"is running.*cancel it first"):
        await operators.replay(db, running)
    with pytest.raises(Refused, match=r"is running.*try again then"):
        await operators.cancel(db, running)
    dead = await add_job(connection, state="dead")
    with pytest.raises(Refused, match="finished already"):
        await operators.cancel(db, dead)


async def test_what_does_not_exist_is_not_found(db: Database) -> None:
    missing = uuid4()
    for act in (
        operators.replay(db, missing),
        operators.cancel(db, missing),
        operators.show_job(db, missing),
        operators.show_event(db, missing),
        operators.raw_body(db, missing),
    ):
        with pytest.raises(NotFound, match=str(missing)):
            await act


async def test_two_who_cancel_at_once_are_told_apart(db: Database, connection: Any) -> None:
    job_id = await add_job(connection)
    results = await asyncio.gather(
        *(operators.cancel(db, job_id) for _ in range(2)), return_exceptions=True
    )
    assert sorted(type(result).__name__ for result in results) == ["JobState", "Refused"]


# Counting ---------------------------------------------------------------------------------------


async def test_stats_count_by_state_and_lane(db: Database, connection: Any) -> None:
    await add_job(connection, state="available")
    await add_job(connection, state="scheduled", vendor="erp")
    await add_job(connection, state="dead", vendor="erp")
    await add_job(connection, state="completed", at=NOW - timedelta(hours=3))
    await connection.execute("INSERT INTO gateway.vendor_state (vendor, paused) VALUES ('x', true)")

    stats = await operators.stats(db, now=NOW)
    assert (stats.backlog, stats.scheduled, stats.dead) == (1, 1, 1)
    hour, day = stats.recent
    assert hour.states == {"available": 1, "scheduled": 1, "dead": 1}
    assert day.states == {"available": 1, "scheduled": 1, "dead": 1, "completed": 1}
    assert hour.complete
    assert day.complete
    assert {size.table.rpartition(".")[2] for size in stats.tables} == {
        "events",
        "jobs",
        "attempts",
    }

    figures = await operators.vendor_figures(db)
    assert figures["erp"].scheduled == figures["erp"].dead == figures["crm"].backlog == 1
    assert figures["x"].paused


async def test_a_count_stops_at_its_bound_and_says_so(
    db: Database, connection: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(operators, "COUNT_LIMIT", 2)
    for minutes in range(4):
        await add_job(connection, state="dead", at=NOW - timedelta(minutes=minutes))
    stats = await operators.stats(db, now=NOW)
    assert stats.dead == stats.count_limit == 2
    assert [recent.complete for recent in stats.recent] == [False, False]
    assert stats.recent[1].seconds == 86400.0
    assert sum(stats.recent[1].states.values()) == 2
    assert stats.recent[0].counted_since == NOW - timedelta(minutes=1)
