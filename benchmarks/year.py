"""Is it still fast after a year: a fresh gateway against one with a year of history, in turns.

The filled one has ten million finished jobs with their events and attempts, spread over a year of
days, and a million jobs that wait for a vendor that has been paused for a week. Then, on the filled
one, a transaction is held open while traffic goes on, and everything is measured once more.
"""

from __future__ import annotations

import asyncio
import http.client
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import asyncpg
import msgspec

from benchmarks import wire
from benchmarks.load import LoadSpec
from benchmarks.measure import Options, intake
from benchmarks.report import spread
from benchmarks.subjects import (
    SECRET,
    BenchmarkError,
    StubControl,
    Subject,
    run_load,
    running_gateway,
)
from benchmarks.targets import Target
from gateway.store import upkeep
from gateway.store.database import Database
from gateway.store.embedded import EmbeddedPostgres
from gateway.store.migrations import migrate

Start = Callable[[], AbstractContextManager[Subject]]

DAYS = 365
WAITING_DAYS = range(2, 9)  # ago
FLAT = 0.80  # of the fresh figure
KEPT_KEY_DAYS = 7
DRAINED = 20_000
# The last one finds nothing, or late, and so looks at every day: told, and promised nothing.
SEARCH = "?route=later&state=completed"
LISTINGS = ("", "?state=dead", "?state=available", "?vendor=stub", SEARCH)
TIMES_LISTED = 5  # in a row
LISTING_TURNS = 20

# For filling only; the measured gateway starts the same data with its own settings.
_HASTY = {
    "fsync": "off",
    "full_page_writes": "off",
    "synchronous_commit": "off",
    "autovacuum": "off",
    "max_wal_size": "4GB",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "maintenance_work_mem": "256MB",
    "shared_buffers": "512MB",
}

_LEAF = """CREATE TABLE gateway.{name} (LIKE gateway.{parent} INCLUDING DEFAULTS
           INCLUDING CONSTRAINTS INCLUDING GENERATED INCLUDING STORAGE) {options}"""
_ATTACH = """ALTER TABLE gateway.{parent} ATTACH PARTITION gateway.{name}
             FOR VALUES FROM ({low}) TO ({high})"""
_OPTIONS = {
    "jobs": "WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.05, "
    "autovacuum_vacuum_cost_delay = 1)"
}

# Ids of the day, evenly over it. $1 the day, $2 how many, $3 tells events from jobs.
_IDS = """SELECT n,
             (lpad(to_hex(floor(extract(epoch FROM {day}::timestamp AT TIME ZONE 'UTC') * 1000
                                + n * 86400000.0 / {rows})::bigint), 12, '0')
              || '7' || substr(m, 1, 3) || '8' || substr(m, 4, 15))::uuid AS id
          FROM (SELECT n, md5('{salt}' || n) AS m FROM generate_series(0, {rows} - 1) AS n) made"""
_EVENTS = """INSERT INTO gateway.{name} (id, vendor, event_type, dedupe_key, correlation_id,
                                         headers, body, received_at)
    SELECT id, 'delivered', 'invoice.paid', id::text, id::text,
           '{{"content-type": "application/json", "user-agent": "benchmark"}}',
           convert_to(repeat('{{"amount_due":1999,"customer":"cus_NeZwdN"}}', 8), 'UTF8'),
           {day}::timestamptz
    FROM ({ids}) ids"""
_JOBS = """INSERT INTO gateway.{name} (id, event_id, route, vendor, kind, state, max_attempts,
                                       attempt, run_at, node, claim_no, correlation_id,
                                       last_status, last_error, created_at, started_at,
                                       finished_at)
    SELECT j.id, e.id, 'pass-on', CASE WHEN waits THEN 'paused' ELSE 'stub' END, 'call',
           CASE WHEN waits THEN 'available' WHEN j.n % 50 = 0 THEN 'dead' ELSE 'completed'
           END::gateway.job_state, 8, (NOT waits)::int, {day}::timestamptz,
           CASE WHEN NOT waits THEN 'benchmark/1' END, (NOT waits)::int, e.id::text,
           CASE WHEN NOT waits THEN CASE WHEN j.n % 50 = 0 THEN 500 ELSE 200 END END,
           CASE WHEN j.n % 50 = 0 AND NOT waits THEN 'HTTP 500: try again' END, {day}::timestamptz,
           CASE WHEN NOT waits THEN {day}::timestamptz END,
           CASE WHEN NOT waits THEN {day}::timestamptz END
    FROM (SELECT *, n >= {finished} AS waits FROM ({jobs}) ids) j JOIN ({events}) e USING (n)"""
_ATTEMPTS = """INSERT INTO gateway.{name} (job_id, attempt, node, started_at, duration_ms, outcome,
                                           http_status, request, response)
    SELECT id, 1, 'benchmark/1', {day}::timestamptz, 1.5,
           CASE WHEN n % 50 = 0 THEN 'dead' ELSE 'completed' END,
           CASE WHEN n % 50 = 0 THEN 500 ELSE 200 END,
           '{{"method": "POST", "url": "http://127.0.0.1/events", "headers": {{"X": "y"}}}}',
           '{{"status": 200, "body": "{{\\"ok\\":true}}"}}'
    FROM ({jobs}) ids WHERE n < {finished}"""

# What a dedupe window of a week has kept.
_KEYS = """
INSERT INTO gateway.dedupe_keys (vendor, key, event_id, expires_at)
SELECT 'delivered', md5(n::text), gateway.uuid7(), now() + n * interval '7 days' / $1
FROM generate_series(1, $1::bigint) AS n
ON CONFLICT DO NOTHING
"""

# So that a listing has as much to show on a fresh gateway as on the filled one.
_LISTED = """
INSERT INTO gateway.jobs (id, route, vendor, kind, state, max_attempts, correlation_id)
SELECT gateway.uuid7(), 'pass-on', 'paused', 'call', state::gateway.job_state, 8, n::text
FROM generate_series(1, 60) AS n, unnest(ARRAY['available', 'running']) AS state
"""
_LISTED_DEAD = """
UPDATE gateway.jobs SET state = 'dead', last_error = 'HTTP 500: try again', finished_at = now()
WHERE vendor = 'paused' AND state = 'running' AND node IS NULL
  AND id >= gateway.uuid7_floor(now() - interval '1 minute')
"""

_DRAIN = """
WITH made AS (
    SELECT n, gateway.uuid7() AS event_id, gateway.uuid7() AS id
    FROM generate_series(0, $1 - 1) AS n
), events AS (
    INSERT INTO gateway.events (id, vendor, correlation_id, headers, body, received_at)
    SELECT event_id, 'delivered', event_id::text, '{"content-type": "application/json"}',
           $2::bytea || convert_to(lpad(n::text, 10, '0'), 'UTF8') || $3::bytea, now()
    FROM made
)
INSERT INTO gateway.jobs (id, event_id, route, vendor, kind, state, max_attempts, correlation_id)
SELECT id, event_id, 'pass-on', 'stub', 'call', 'available', 8, event_id::text FROM made
"""


# An earlier run on kept data left jobs that are not due yet. Should they become so in this one, it
# would deliver them while something else is measured.
_CANCEL_LEFT = """
UPDATE gateway.jobs
SET state = 'cancelled', finished_at = now(), last_error = 'left by an earlier run'
WHERE due_at IS NOT NULL AND state = 'scheduled'
"""
_LEFT = "SELECT count(*) FROM gateway.jobs WHERE claimable AND vendor <> 'paused'"


class Figures(msgspec.Struct, kw_only=True):
    """One gateway, once."""

    intake: float  # webhooks answered per second
    drain: float  # jobs of the backlog delivered per second
    list_ms: dict[str, float]  # medians, by the query


class Year(msgspec.Struct, kw_only=True):
    """All rounds. ``gib``: of the database on disk."""

    finished: int
    waiting: int
    days: int
    gib: float
    fill_seconds: float
    held_seconds: float
    fresh: list[Figures]
    filled: list[Figures]
    held: list[Figures]
    fresh_meanwhile: list[Figures]  # in turns with the held ones
    dead_rows: int  # at the end of the held transaction


def measure_year(
    stub: StubControl,
    options: Options,
    *,
    finished: int,
    waiting: int,
    held_seconds: float,
    keep: Path | None = None,
) -> Year:
    """Fill, and measure in turns; *keep*: where the filled data are, or are to stay."""
    with _folder(keep) as folder:
        marker = folder / "filled"
        if not marker.exists():
            _say(f"year: filling {finished:,} finished and {waiting:,} waiting jobs …")
            began = time.monotonic()
            asyncio.run(fill(folder / "state", finished=finished, waiting=waiting))
            marker.write_text(f"{time.monotonic() - began:.0f}")
        # What was kept from another day has that day to seal; and what a gateway uses all year is
        # in memory, where here all of it may have to come from the disk once.
        _say("year: a round on the filled one that does not count …")
        with running_gateway(stub_port=stub.port, folder=folder) as gateway:
            asyncio.run(_execute(gateway, _CANCEL_LEFT))
            asyncio.run(_wait_until_none(gateway, _LEFT))
            _rates(gateway, stub, options)
            _list_ms([gateway])
        start = partial(running_gateway, stub_port=stub.port, folder=folder)
        fresh, filled = _pairs(start, stub, options)
        _say(f"year: a transaction is held for {held_seconds:g} s; then in turns with fresh ones …")
        with running_gateway(stub_port=stub.port, folder=folder) as gateway:
            meanwhile, held, dead, gib = _under_held(gateway, stub, options, held_seconds)
        return Year(
            finished=finished,
            waiting=waiting,
            days=DAYS,
            gib=gib,
            fill_seconds=float(marker.read_text()),
            held_seconds=held_seconds,
            fresh=fresh,
            filled=filled,
            held=held,
            fresh_meanwhile=meanwhile,
            dead_rows=dead,
        )


def _pairs(
    other: Start, stub: StubControl, options: Options
) -> tuple[list[Figures], list[Figures]]:
    """Measure a fresh gateway and the *other* in each round; return what was found of each.

    Now the one and now the other is first, so that it is no advantage; and both are up when jobs
    are listed, which takes so short that they can take turns.
    """
    starts = (partial(running_gateway, stub_port=stub.port), other)
    found: tuple[list[Figures], list[Figures]] = ([], [])
    for number in range(1, options.rounds + 1):
        _say(f"year: round {number} of {options.rounds} …")
        order = (0, 1) if number % 2 else (1, 0)
        with ExitStack() as stack:
            gateways, rates = [], []
            for place in order:
                gateways.append(stack.enter_context(starts[place]()))
                rates.append(_rates(gateways[-1], stub, options))
            listed = _list_ms(gateways)
        for place, (answered, drained), list_ms in zip(order, rates, listed, strict=True):
            found[place].append(Figures(intake=answered, drain=drained, list_ms=list_ms))
    return found


def _rates(gateway: Subject, stub: StubControl, options: Options) -> tuple[float, float]:
    """Return webhooks answered and jobs drained per second."""
    asyncio.run(_execute(gateway, _LISTED))
    asyncio.run(_execute(gateway, _LISTED_DEAD))
    return intake(gateway, options).per_second, _drain(gateway, stub)


def _drain(gateway: Subject, stub: StubControl) -> float:
    """Put jobs into the backlog, and return how many arrive per second once the first has."""
    stub.reset()
    asyncio.run(_execute(gateway, _DRAIN, DRAINED, wire._BODY_BEFORE, wire._BODY_AFTER))
    stub.wait_for(DRAINED)
    arrived = sorted(at for at in stub.arrivals_ns() if at)
    # Not the very last ones: they come with a half-empty pipeline.
    return (0.95 * DRAINED) / ((arrived[int(0.95 * DRAINED)] - arrived[0]) / 1e9)


def _list_ms(gateways: Sequence[Subject]) -> list[dict[str, float]]:
    """List jobs of the *gateways* in turns; return how long each took, medians, by the query."""
    found: list[dict[str, float]] = [{} for _ in gateways]
    for query in LISTINGS:
        took: list[list[float]] = [[] for _ in gateways]
        for _ in range(1 if query == SEARCH else LISTING_TURNS):
            for place, gateway in enumerate(gateways):
                took[place] += _listings(gateway, query)
        for place, times in enumerate(took):
            found[place][query or "all"] = statistics.median(times)
    return found


def _listings(gateway: Subject, query: str) -> list[float]:
    """Ask a few times in a row; return how many ms each took."""
    connection = http.client.HTTPConnection("127.0.0.1", gateway.admin_port, timeout=30)
    took = []
    try:
        for _ in range(TIMES_LISTED):
            began = time.perf_counter()
            connection.request("GET", f"/api/v1/jobs{query}")
            answer = connection.getresponse()
            answer.read()
            # 422: not even a small part of the history could be searched in time.
            if answer.status != 200 and (query, answer.status) != (SEARCH, 422):
                raise BenchmarkError(f"jobs{query}: {answer.status}")
            took.append((time.perf_counter() - began) * 1000)
    finally:
        connection.close()
    return took


def _under_held(
    gateway: Subject, stub: StubControl, options: Options, seconds: float
) -> tuple[list[Figures], list[Figures], int, float]:
    """Hold a transaction with traffic for so long, then measure, in turns with fresh gateways;
    return dead rows and GiB, too.
    """

    async def begin() -> Any:
        connection = await asyncpg.connect(
            gateway.dsn, server_settings={"application_name": "held"}
        )
        await connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        await connection.fetchval("SELECT count(*) FROM gateway.nodes")
        return connection

    with asyncio.Runner() as runner:
        holder = runner.run(begin())
        try:
            stub.reset()
            spec = LoadSpec(
                port=gateway.port,
                path="/webhooks/delivered",
                secret=SECRET,
                connections=options.connections,
                rate=options.fixed_rate,
                warmup_seconds=0.0,
                seconds=seconds,
            )
            stub.wait_for(sum(run_load(spec).statuses.values()))
            meanwhile, found = _pairs(partial(nullcontext, gateway), stub, options)
            dead = runner.run(
                holder.fetchval("SELECT sum(n_dead_tup)::bigint FROM pg_stat_user_tables")
            )
            size = runner.run(holder.fetchval("SELECT pg_database_size(current_database())"))
        finally:
            runner.run(holder.close())
    return meanwhile, found, dead or 0, size / (1 << 30)


# Filling ----------------------------------------------------------------------------------------


async def fill(state_dir: Path, *, finished: int, waiting: int) -> None:
    """Make the database and fill it, a day at a time, indexes after the rows."""
    server = EmbeddedPostgres(state_dir, settings=_HASTY)
    dsn = await server.start()
    try:
        await migrate(dsn)
        days = asyncio.Queue[int]()
        for ago in range(DAYS + 1, 1, -1):
            days.put_nowait(ago)

        async def work() -> None:
            connection: Any = await asyncpg.connect(dsn)
            while not days.empty():
                ago = days.get_nowait()
                waits = waiting // len(WAITING_DAYS) if ago in WAITING_DAYS else 0
                await _fill_day(connection, ago, finished // DAYS, waits)
            await connection.close()

        async with asyncio.TaskGroup() as group:
            for _ in range(2):
                group.create_task(work())
        await _finish(dsn, finished)
    finally:
        await server.stop()


async def _finish(dsn: str, finished: int) -> None:
    """Bring the data to where a gateway that had been running all the time would have them."""
    connection: Any = await asyncpg.connect(dsn)
    await connection.execute(
        "INSERT INTO gateway.vendor_state (vendor, paused) VALUES ('paused', true)"
        " ON CONFLICT DO NOTHING"
    )
    await connection.execute(_KEYS, finished * KEPT_KEY_DAYS // DAYS)
    await connection.execute("VACUUM (FREEZE, ANALYZE) gateway.dedupe_keys")
    await connection.close()
    db = Database(dsn, pool=2)
    await db.open()
    await upkeep.seal_finished_days(db)
    await db.close()


async def _fill_day(connection: Any, ago: int, finished: int, waiting: int) -> None:
    day, name, low, high = await connection.fetchrow(
        """SELECT quote_literal(day), to_char(day, 'YYYYMMDD'),
                  quote_literal(gateway.uuid7_floor(day::timestamp AT TIME ZONE 'UTC')),
                  quote_literal(gateway.uuid7_floor((day + 1)::timestamp AT TIME ZONE 'UTC'))
           FROM (SELECT (now() AT TIME ZONE 'UTC')::date - $1::int AS day) d""",
        ago,
    )
    if await connection.fetchval("SELECT to_regclass($1)", f"gateway.attempts_{name}"):
        return  # filled before
    rows = finished + waiting
    ids = {salt: _IDS.format(day=day, rows=rows, salt=salt) for salt in ("event", "job")}
    texts = {
        "events": _EVENTS.format(name=f"events_{name}", ids=ids["event"], day=day),
        "jobs": _JOBS.format(
            name=f"jobs_{name}", jobs=ids["job"], events=ids["event"], day=day, finished=finished
        ),
        "attempts": _ATTEMPTS.format(
            name=f"attempts_{name}", jobs=ids["job"], day=day, finished=finished
        ),
    }
    async with connection.transaction():
        for parent, text in texts.items():
            leaf = f"{parent}_{name}"
            await connection.execute(
                _LEAF.format(name=leaf, parent=parent, options=_OPTIONS.get(parent, ""))
            )
            await connection.execute(text)
            await connection.execute(_ATTACH.format(parent=parent, name=leaf, low=low, high=high))
    # As autovacuum would have left it; otherwise it would be at work while others are measured.
    leaves = ", ".join(f"gateway.{parent}_{name}" for parent in texts)
    await connection.execute(f"VACUUM (FREEZE, ANALYZE) {leaves}")


async def _execute(gateway: Subject, sql: str, *args: Any) -> None:
    connection: Any = await asyncpg.connect(gateway.dsn)
    try:
        await connection.execute(sql, *args)
    finally:
        await connection.close()


async def _wait_until_none(gateway: Subject, sql: str) -> None:
    """Wait until the count is 0: what was due already is delivered by then."""
    connection: Any = await asyncpg.connect(gateway.dsn)
    try:
        while await connection.fetchval(sql):  # noqa: ASYNC110  # another process does it
            await asyncio.sleep(1.0)
    finally:
        await connection.close()


@contextmanager
def _folder(keep: Path | None) -> Iterator[Path]:
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=True)
        keep.chmod(0o711)
        yield keep.resolve()
        return
    folder = Path(tempfile.mkdtemp(prefix="gateway-year-"))
    folder.chmod(0o711)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


# Telling -----------------------------------------------------------------------------------------


def targets(year: Year) -> list[Target]:
    """Return what was promised: shares of the fresh figures, medians of the rounds' pairs.

    A machine that is faster in one minute than in another is so for both of a pair.
    """
    found = []
    for name, subject, fresh in (
        ("filled", year.filled, year.fresh),
        ("held transaction", year.held, year.fresh_meanwhile),
    ):
        pairs = list(zip(subject, fresh, strict=True))
        shares = {
            "intake": [ours.intake / theirs.intake for ours, theirs in pairs],
            "drain": [ours.drain / theirs.drain for ours, theirs in pairs],
        } | {
            f"jobs list {query}": [
                theirs.list_ms[query] / ours.list_ms[query] for ours, theirs in pairs
            ]
            for query in sorted(fresh[0].list_ms.keys() - {SEARCH})
        }
        for what, of_pairs in shares.items():
            share = statistics.median(of_pairs)
            found.append(Target(f"year, {name}: {what}, share of fresh", share, FLAT, ".0%"))
    return found


def told(year: Year) -> str:
    """Return in a sentence what was measured."""
    return (
        f"{year.finished:,} finished jobs over {year.days} days, {year.waiting:,} waiting, "
        f"{year.gib:.1f} GiB, filled in {year.fill_seconds:.0f} s; a transaction held for "
        f"{year.held_seconds:,.0f} s left {year.dead_rows:,} dead rows"
    )


def table(year: Year) -> tuple[list[str], list[list[str]]]:
    """Return columns and rows: medians with (lowest-highest)."""
    measured = {
        "fresh": year.fresh,
        "filled": year.filled,
        "fresh, meanwhile": year.fresh_meanwhile,
        "filled, transaction held": year.held,
    }
    subjects = list(measured.values())
    rows = [
        [f"{what}, per second", *(spread([getattr(f, what) for f in s], ",.0f") for s in subjects)]
        for what in ("intake", "drain")
    ]
    rows += [
        [
            f"jobs list {query}, ms",
            *(spread([f.list_ms[query] for f in s], ".1f") for s in subjects),
        ]
        for query in year.fresh[0].list_ms
    ]
    return ["", *measured], rows


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def main(argv: list[str]) -> None:
    """Only fill: ``python -m benchmarks.year DIR FINISHED WAITING``; days that are there stay."""
    keep, finished, waiting = Path(argv[0]), int(argv[1]), int(argv[2])
    with _folder(keep) as folder:
        began = time.monotonic()
        asyncio.run(fill(folder / "state", finished=finished, waiting=waiting))
        (folder / "filled").write_text(f"{time.monotonic() - began:.0f}")


if __name__ == "__main__":
    main(sys.argv[1:])
