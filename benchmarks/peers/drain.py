"""The drain: no-op jobs are queued ahead, then let go, and timed until the last is recorded.

From the first execution to when the store says that nothing is unfinished, so that a program's
start does not count and its last commit does.
"""

from __future__ import annotations

import asyncio
import http.client
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import asyncpg
import msgspec

from benchmarks.load import LoadSpec
from benchmarks.peers.install import Installed
from benchmarks.peers.subjects import (
    celery_worker,
    redis_clients,
    redis_says,
    running_postgres,
    running_redis,
)
from benchmarks.subjects import (
    ROOT,
    SECRET,
    BenchmarkError,
    run_load,
    running,
    running_gateway,
)
from benchmarks.wire import Requests
from gateway.store.embedded import running_dsn

_LIMIT_SECONDS = 180.0
_POLL_SECONDS = 0.005
PREFORK = len(os.sched_getaffinity(0))


class Drained(msgspec.Struct, kw_only=True):
    """One subject in one round."""

    jobs: int
    seconds: float
    per_second: float


class Queue(msgspec.Struct, frozen=True, kw_only=True):
    """A queue library on PostgreSQL: its program, and what says that something is unfinished."""

    program: str
    unfinished: str
    share: float = 1.0  # of the jobs; a slow one gets fewer, its rate does not depend on it


POSTGRES_QUEUES = {
    "graphile-worker": Queue(
        program="drain_graphile.mjs",
        unfinished="SELECT EXISTS (SELECT FROM graphile_worker._private_jobs)",
    ),
    "pg-boss": Queue(
        program="drain_pgboss.mjs",
        unfinished="SELECT EXISTS (SELECT FROM pgboss.job WHERE state < 'completed')",
    ),
    "pgqueuer": Queue(
        program="drain_pgqueuer.py",
        unfinished="SELECT EXISTS (SELECT FROM pgqueuer)",
    ),
    "procrastinate": Queue(
        program="drain_procrastinate.py",
        unfinished="SELECT EXISTS (SELECT FROM procrastinate_jobs"
        " WHERE status IN ('todo', 'doing'))",
        share=0.05,
    ),
}
CELERY_SHARE = 0.05


def drain_gateway(*, jobs: int, stub_port: int) -> Drained:
    """Queue by webhooks while the lane is paused; each job keeps its event and its attempt."""
    with _report() as report:
        env = {"BENCHMARK_JOBS": str(jobs), "BENCHMARK_REPORT": str(report)}
        with running_gateway(stub_port=stub_port, env=env) as gateway:
            _steer(gateway.admin_port, "pause")
            spec = LoadSpec(port=gateway.port, path="/webhooks/drained", secret=SECRET)
            spec.warmup_seconds, spec.seconds, spec.max_requests = 0.0, 600.0, jobs
            run_load(spec)
            _steer(gateway.admin_port, "resume")
            first_ns = _executed(report)
            dsn = running_dsn(gateway.state_dir)
            if dsn is None:
                raise BenchmarkError("the gateway's database is gone")
            drained = asyncio.run(
                _finished(
                    dsn,
                    "SELECT EXISTS (SELECT FROM gateway.jobs WHERE finished_at IS NULL)",
                    first_ns=first_ns,
                    jobs=jobs,
                    history="SELECT count(*) FROM gateway.attempts WHERE outcome = 'completed'",
                )
            )
    return drained


def drain_postgres(installed: Installed, queue: Queue, *, jobs: int) -> Drained:
    """Queue with the library's own bulk insert, then start its worker."""
    jobs = round(jobs * queue.share)
    interpreter = installed.node if queue.program.endswith(".mjs") else installed.python
    command = [interpreter, installed.program(queue.program)]
    with _report() as report, running_postgres() as dsn:
        env = _environment(jobs, report) | {"BENCHMARK_DATABASE": dsn}
        _fill([*command, "fill"], env)
        with running(queue.program, [*command, "drain"], ready=lambda: True, env=env):
            first_ns = _executed(report)
            return asyncio.run(_finished(dsn, queue.unfinished, first_ns=first_ns, jobs=jobs))


def drain_bullmq(installed: Installed, *, jobs: int) -> Drained:
    """Queue with ``addBulk``, then start the worker, which itself says when all is completed."""
    command = [installed.node, installed.program("drain_bullmq.mjs")]
    with _report() as report, running_redis(installed) as redis:
        env = _environment(jobs, report) | {"BENCHMARK_REDIS": str(redis)}
        _fill([*command, "fill"], env)
        with running("bullmq", [*command, "drain"], ready=lambda: True, env=env):
            first_ns = _executed(report)
            last_ns = int(report.read_text().split()[1])
    return _drained(jobs, last_ns - first_ns)


def drain_celery(installed: Installed, *, jobs: int) -> Drained:
    """Let a list of tasks go to a worker that waits, until none is queued or unacknowledged."""
    jobs = round(jobs * CELERY_SHARE)
    with _report() as report, running_redis(installed) as redis:
        env = _environment(jobs, report) | {
            "BENCHMARK_REDIS": str(redis),
            "PYTHONPATH": installed.program(""),
        }
        _fill([installed.python, installed.program("fill_celery.py")], env)
        worker = celery_worker(installed, queue="celery", pool="prefork", concurrency=PREFORK)
        waits: Callable[[], bool] = lambda: "cmd=brpop" in redis_clients(redis)  # noqa: E731
        with running("celery", worker, ready=waits, env=env):
            began_ns = time.monotonic_ns()
            redis_says(redis, "RENAME", "ahead", "celery")
            left = (("LLEN", "celery"), ("HLEN", "unacked"))
            _wait_for(lambda: all(redis_says(redis, *ask) == ":0" for ask in left))
            return _drained(jobs, time.monotonic_ns() - began_ns)


def _fill(command: list[str], env: dict[str, str]) -> None:
    done = subprocess.run(
        command,
        env={**os.environ, **env},
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
        timeout=_LIMIT_SECONDS,
    )
    if done.returncode:
        said = done.stderr.decode(errors="replace")[-2000:]
        raise BenchmarkError(f"{Path(command[1]).name} could not queue its jobs:\n{said}")


def _steer(admin_port: int, verb: str) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", admin_port, timeout=10)
    try:
        connection.request("POST", f"/api/v1/vendors/stub/{verb}")
        answer = connection.getresponse()
        if answer.status != 200:
            raise BenchmarkError(f"cannot {verb} the lane: {answer.status} {answer.read()!r}")
    finally:
        connection.close()


def _executed(report: Path) -> int:
    """Wait until the last job was executed; return when the first was (CLOCK_MONOTONIC, ns)."""
    _wait_for(lambda: report.exists() and report.read_text().endswith("\n"))
    return int(report.read_text().split()[0])


def _wait_for(met: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _LIMIT_SECONDS
    while not met():
        if time.monotonic() > deadline:
            raise BenchmarkError(f"the queue was not drained within {_LIMIT_SECONDS:.0f} s")
        time.sleep(_POLL_SECONDS)


async def _finished(
    dsn: str, unfinished: str, *, first_ns: int, jobs: int, history: str | None = None
) -> Drained:
    connection = await asyncpg.connect(dsn)
    try:
        deadline = time.monotonic() + _LIMIT_SECONDS
        while await connection.fetchval(unfinished):
            if time.monotonic() > deadline:
                raise BenchmarkError("jobs were executed, but their end was never recorded")
            await asyncio.sleep(_POLL_SECONDS)
        ended_ns = time.monotonic_ns()
        if history is not None and (found := await connection.fetchval(history)) != jobs:
            raise BenchmarkError(f"{jobs} jobs were drained, but the history has {found}")
    finally:
        await connection.close()
    return _drained(jobs, ended_ns - first_ns)


def _drained(jobs: int, elapsed_ns: int) -> Drained:
    seconds = elapsed_ns / 1e9
    return Drained(jobs=jobs, seconds=seconds, per_second=jobs / seconds)


@contextmanager
def _report() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="gateway-bench-") as folder:
        yield Path(folder) / "report"


def _environment(jobs: int, report: Path) -> dict[str, str]:
    """Return the order for a peer's program; its payload is a webhook's body."""
    requests = Requests(path="/", secret=SECRET)
    requests.prepare(1)
    return {
        "BENCHMARK_JOBS": str(jobs),
        "BENCHMARK_REPORT": str(report),
        "BENCHMARK_PAYLOAD": requests.request(0).split(b"\r\n\r\n", 1)[1].decode(),
    }
