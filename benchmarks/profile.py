"""``python -m benchmarks.profile``: what one webhook and one job cost, and where it goes.

CPU of each process, statements, rows and WAL for each webhook (accepted, its job not due) and for
each webhook that is delivered; the gateway's own share by stage, if ``py-spy`` can be run; and what
an idle gateway costs. The same load as ``make bench``.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import TextIO

import asyncpg
import msgspec

from benchmarks.load import LoadSpec
from benchmarks.processes import children, cpu_seconds, title
from benchmarks.report import print_columns
from benchmarks.stages import stages_of
from benchmarks.subjects import (
    SECRET,
    BenchmarkError,
    StubControl,
    Subject,
    run_load,
    running_bare,
    running_gateway,
    running_stub,
)
from gateway.store.embedded import running_dsn

IN_FLIGHT = 256
_SETTLE_SECONDS = 0.5  # for the last settlements
_STATISTICS_SECONDS = 10.5  # within which an idle backend of PostgreSQL reports what it did
_SAMPLES_PER_SECOND = 250
_BACKENDS, _BACKGROUND = "PostgreSQL backends", "PostgreSQL background"


class Statement(msgspec.Struct, kw_only=True):
    """A named query in one measurement."""

    name: str
    per_event: float
    events_each: float  # how many webhooks one execution served
    milliseconds: float  # mean, as its caller waited for it


class Cost(msgspec.Struct, kw_only=True):
    """What one webhook cost on average."""

    events: int
    per_second: float
    cpu_us: dict[str, float]  # by process
    statements: float  # each is one round trip: Bind, Execute, Sync, of a prepared statement
    commits: float
    rows_inserted: float
    rows_updated: float
    rows_updated_hot: float
    rows_deleted: float
    wal_bytes: float
    wal_full_pages: float  # of them whole pages, after a checkpoint
    by_name: list[Statement]


class Idle(msgspec.Struct, kw_only=True):
    """What a gateway without work costs."""

    seconds: float
    cpu_share: float  # of a core, the gateway's process
    postgres_cpu_share: float
    statements_per_second: float
    by_name: dict[str, float]  # statements per second


class Profile(msgspec.Struct, kw_only=True):
    """Everything measured in one run."""

    started_at: float
    cpus: int
    webhook: Cost | None = None
    delivered: Cost | None = None
    bare_us: dict[str, float] = {}  # CPU of the bare handler and forwarder, the least there is
    stages: dict[str, float] = {}  # µs of the gateway's CPU for each webhook delivered
    idle: Idle | None = None


class _Reading(msgspec.Struct, kw_only=True):
    cpu: dict[str, float]
    database: dict[str, int]
    statements: dict[str, tuple[int, float]]


def main() -> None:
    """Measure, print the tables, write the JSON."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what runs is ended too
    arguments = _arguments()
    profile = Profile(started_at=time.time(), cpus=len(os.sched_getaffinity(0)))
    try:
        with running_stub() as stub:
            profile.webhook = measure(stub, "scheduled", arguments.seconds)
            profile.delivered = measure(stub, "delivered", arguments.seconds)
            for name, vendor in (("handler", "scheduled"), ("forwarder", "delivered")):
                profile.bare_us[name] = bare(stub, name, vendor, arguments.seconds)
            if arguments.py_spy:
                total = profile.delivered.cpu_us["gateway"]
                profile.stages = sample(stub, arguments.py_spy, arguments.seconds, total)
            if arguments.idle:
                profile.idle = idle(stub, arguments.idle)
    except BenchmarkError as failure:
        sys.exit(f"benchmarks: {failure}")
    print_tables(profile, file=sys.stdout)
    if arguments.json:
        text = msgspec.json.format(msgspec.json.encode(profile), indent=2) + b"\n"
        arguments.json.write_bytes(text)


def measure(stub: StubControl, vendor: str, seconds: float) -> Cost:
    """Send webhooks of *vendor* as fast as they are taken, and divide what that cost."""
    _say(f"profile: {vendor} …")
    with tempfile.TemporaryDirectory(prefix="gateway-bench-") as folder:
        counts = Path(folder) / "statements"
        env = {"BENCHMARK_STATEMENTS": str(counts)}
        with running_gateway(stub_port=stub.port, module="benchmarks.counting", env=env) as gateway:
            _load(gateway, stub, vendor, 2.0)  # plans, pages and caches are warm from here on
            before = _read(gateway, stub, counts)
            events, load_us, elapsed = _load(gateway, stub, vendor, seconds)
            after = _read(gateway, stub, counts)
    cpu = {name: (after.cpu[name] - before.cpu[name]) * 1e6 / events for name in before.cpu}
    database = {
        name: (after.database[name] - before.database[name]) / events for name in before.database
    }
    by_name = []
    for name, (calls, waited) in after.statements.items():
        calls_before, waited_before = before.statements.get(name, (0, 0.0))
        if calls > calls_before:
            count = calls - calls_before
            by_name.append(
                Statement(
                    name=name,
                    per_event=count / events,
                    events_each=events / count,
                    milliseconds=(waited - waited_before) * 1e3 / count,
                )
            )
    by_name.sort(key=lambda statement: -statement.per_event)
    counted = sum(statement.per_event for statement in by_name)
    commits = database["xact_commit"]
    if counted < commits * 0.9:  # each commits by itself
        raise BenchmarkError(
            f"counted {counted:.4f} statements for each webhook, but PostgreSQL {commits:.4f}"
            " commits: benchmarks.counting misses some of Database's methods"
        )
    return Cost(
        events=events,
        per_second=events / elapsed,
        cpu_us=cpu | {"load generator": load_us},
        statements=counted,
        commits=commits,
        rows_inserted=database["inserted"],
        rows_updated=database["updated"],
        rows_updated_hot=database["updated_hot"],
        rows_deleted=database["deleted"],
        wal_bytes=database["wal_bytes"],
        wal_full_pages=database["wal_fpi"],
        by_name=by_name,
    )


def bare(stub: StubControl, name: str, vendor: str, seconds: float) -> float:
    """Return the CPU in µs that the bare *name* spends on one webhook."""
    _say(f"profile: bare {name} …")
    with running_bare(name, stub_port=stub.port) as subject:
        _load(subject, stub, vendor, 1.0)
        before = cpu_seconds(subject.pid)
        events, _, _ = _load(subject, stub, vendor, seconds)
        return (cpu_seconds(subject.pid) - before) * 1e6 / events


def sample(stub: StubControl, py_spy: str, seconds: float, total_us: float) -> dict[str, float]:
    """Sample the gateway's stacks under load; return µs for each webhook by stage."""
    _say("profile: sampling …")
    with tempfile.TemporaryDirectory(prefix="gateway-bench-") as folder:
        stacks = Path(folder) / "stacks"
        with running_gateway(stub_port=stub.port) as gateway:
            _load(gateway, stub, "delivered", 2.0)
            command = [
                py_spy, "record", "--pid", str(gateway.pid), "--format", "raw", "--full-filenames",
                "--rate", str(_SAMPLES_PER_SECOND), "--duration", str(round(seconds)),
                "--output", str(stacks),
            ]  # fmt: skip
            recorder = subprocess.Popen(
                command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
            )
            _load(gateway, stub, "delivered", seconds)
            _, said = recorder.communicate(timeout=60)
        if recorder.returncode or not stacks.exists():
            _say(f"profile: no stages, since py-spy failed: {said.strip()[-300:]}")
            return {}
        counted = stages_of(stacks.read_text())
    whole = sum(counted.values())
    return {stage: total_us * count / whole for stage, count in counted.most_common()}


def idle(stub: StubControl, seconds: float) -> Idle:
    """Leave a gateway alone and look at what it does."""
    _say(f"profile: idle for {seconds:.0f} s …")
    with tempfile.TemporaryDirectory(prefix="gateway-bench-") as folder:
        counts = Path(folder) / "statements"
        env = {"BENCHMARK_STATEMENTS": str(counts)}
        with running_gateway(stub_port=stub.port, module="benchmarks.counting", env=env) as gateway:
            time.sleep(5.0)  # what follows the start
            before = _read(gateway, stub, counts, database=False)
            began = time.monotonic()
            time.sleep(seconds)
            elapsed = time.monotonic() - began + _SETTLE_SECONDS
            after = _read(gateway, stub, counts, database=False)
    rates = Counter(
        {
            name: (calls - before.statements.get(name, (0, 0.0))[0]) / elapsed
            for name, (calls, _) in after.statements.items()
        }
    )
    busy = {name: (after.cpu[name] - before.cpu[name]) / elapsed for name in before.cpu}
    return Idle(
        seconds=elapsed,
        cpu_share=busy["gateway"],
        postgres_cpu_share=busy[_BACKENDS] + busy[_BACKGROUND],
        statements_per_second=sum(rates.values()),
        by_name={name: rate for name, rate in rates.most_common() if rate},
    )


def print_tables(profile: Profile, *, file: TextIO) -> None:
    """Print what :func:`tables` returns."""
    for heading, columns, lines in tables(profile):
        print_columns(heading, columns, lines, file=file)


def tables(profile: Profile) -> list[tuple[str, list[str], list[list[str]]]]:
    """Return the tables: a heading, the columns and the rows."""
    found = []
    if profile.webhook and profile.delivered:
        accepted, delivered = profile.webhook, profile.delivered

        def line(name: str, one: float, two: float, form: str) -> list[str]:
            return [name, f"{one:{form}}", f"{two:{form}}", f"{two - one:{form}}"]

        lines = [
            line(f"CPU of {name}, µs", accepted.cpu_us[name], delivered.cpu_us[name], ",.1f")
            for name in delivered.cpu_us
        ]
        if profile.bare_us:
            least = profile.bare_us
            name = "CPU of bare aiohttp instead, µs"
            lines.insert(1, line(name, least["handler"], least["forwarder"], ",.1f"))
        lines += [
            line("statements (= round trips)", accepted.statements, delivered.statements, ".4f"),
            line("commits", accepted.commits, delivered.commits, ".4f"),
            line("rows inserted", accepted.rows_inserted, delivered.rows_inserted, ".2f"),
            line("rows updated", accepted.rows_updated, delivered.rows_updated, ".2f"),
            line("of them HOT", accepted.rows_updated_hot, delivered.rows_updated_hot, ".2f"),
            line("rows deleted", accepted.rows_deleted, delivered.rows_deleted, ".2f"),
            line("WAL bytes", accepted.wal_bytes, delivered.wal_bytes, ",.0f"),
            line("whole pages in WAL", accepted.wal_full_pages, delivered.wal_full_pages, ".4f"),
        ]
        columns = ["", "accepted", "delivered", "its job"]
        found.append(("For each webhook", columns, lines))
        columns = ["statement", "for each webhook", "webhooks in one", "mean ms"]
        lines = [
            [s.name, f"{s.per_event:.4f}", f"{s.events_each:,.0f}", f"{s.milliseconds:.2f}"]
            for s in delivered.by_name
        ]
        found.append(("Statements while webhooks are delivered", columns, lines))
    if profile.stages:
        whole = sum(profile.stages.values())
        lines = [[stage, f"{us:.1f}", f"{us / whole:.0%}"] for stage, us in profile.stages.items()]
        columns = ["stage", "µs", "share"]
        found.append(("The gateway's CPU for each webhook delivered", columns, lines))
    if profile.idle:
        lines = [
            ["CPU of the gateway, share of a core", f"{profile.idle.cpu_share:.2%}"],
            ["CPU of PostgreSQL, share of a core", f"{profile.idle.postgres_cpu_share:.2%}"],
            ["statements per second", f"{profile.idle.statements_per_second:.2f}"],
        ]
        lines += [[f"  {name}", f"{rate:.2f}"] for name, rate in profile.idle.by_name.items()]
        found.append((f"Idle for {profile.idle.seconds:.0f} s", ["", "measured"], lines))
    return found


def _load(
    subject: Subject, stub: StubControl, vendor: str, seconds: float
) -> tuple[int, float, float]:
    """Return how many webhooks were taken, µs of the load generator for each, and the seconds."""
    stub.reset()
    spec = LoadSpec(port=subject.port, path=f"/webhooks/{vendor}", secret=SECRET)
    spec.warmup_seconds, spec.seconds = 0.0, seconds
    if vendor == "delivered":
        spec.watch_port, spec.in_flight = stub.port, IN_FLIGHT
    result = run_load(spec)
    events = sum(result.statuses.values())
    if vendor == "delivered":
        stub.wait_for(events)
    return events, result.cpu_us_per_request, seconds


def _read(gateway: Subject, stub: StubControl, counts: Path, *, database: bool = True) -> _Reading:
    time.sleep(_SETTLE_SECONDS)
    cpu = {
        "gateway": cpu_seconds(gateway.pid),
        _BACKENDS: 0.0,
        _BACKGROUND: 0.0,
        "stub": cpu_seconds(stub.pid),
    }
    postmaster = next((pid for pid in children(gateway.pid) if "postgres" in title(pid)), None)
    if postmaster is None:
        raise BenchmarkError("the gateway has no PostgreSQL of its own")
    cpu[_BACKGROUND] += cpu_seconds(postmaster, reaped=True)
    for pid in children(postmaster):
        group = _BACKENDS if "gateway gateway " in title(pid) else _BACKGROUND
        cpu[group] += cpu_seconds(pid)
    statements = _statements(gateway, counts)
    dsn = running_dsn(gateway.state_dir)
    if dsn is None:
        raise BenchmarkError("the gateway's database is gone")
    time.sleep(_STATISTICS_SECONDS if database else 0.0)
    return _Reading(
        cpu=cpu,
        database=asyncio.run(_database(dsn)) if database else {},
        statements=statements,
    )


async def _database(dsn: str) -> dict[str, int]:
    connection = await asyncpg.connect(dsn)
    try:
        row = await connection.fetchrow(
            """
            SELECT d.xact_commit, t.*, w.wal_fpi,
                   pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::bigint AS wal_bytes
            FROM pg_stat_database d, pg_stat_wal w, (
                SELECT sum(n_tup_ins)::bigint AS inserted, sum(n_tup_upd)::bigint AS updated,
                       sum(n_tup_hot_upd)::bigint AS updated_hot, sum(n_tup_del)::bigint AS deleted
                FROM pg_stat_user_tables WHERE schemaname = 'gateway') t
            WHERE d.datname = current_database()
            """
        )
    finally:
        await connection.close()
    return {name: value or 0 for name, value in row.items()}


def _statements(gateway: Subject, counts: Path) -> dict[str, tuple[int, float]]:
    lines = counts.read_bytes().count(b"\n") if counts.exists() else 0
    os.kill(gateway.pid, signal.SIGUSR1)
    deadline = time.monotonic() + 10.0
    while not counts.exists() or counts.read_bytes().count(b"\n") == lines:
        if time.monotonic() > deadline:
            raise BenchmarkError("the gateway did not say what it has asked its database")
        time.sleep(0.01)
    last = counts.read_bytes().splitlines()[-1]
    return msgspec.json.decode(last, type=dict[str, tuple[int, float]])


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.profile", description=__doc__)
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--idle", type=float, default=60.0, metavar="SECONDS", help="0: not at all")
    parser.add_argument("--py-spy", metavar="PATH", help="py-spy's program; without it, no stages")
    parser.add_argument("--json", type=Path, metavar="FILE")
    return parser.parse_args()


if __name__ == "__main__":
    main()
