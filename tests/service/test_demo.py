"""The demo as newcomers meet it: the real command, its report held against the database."""

from __future__ import annotations

import asyncio
import os
import pty
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import asyncpg
import pytest
from click.testing import CliRunner

from gateway.cli.demo import demo
from gateway.demo.standin import StandIn
from gateway.store.embedded import EmbeddedPostgres
from gateway.store.embedded_place import known_homes

ROOT = Path(__file__).parents[2]
PATIENCE_SECONDS = 120
COMMAND = [sys.executable, "-m", "gateway", "demo"]


class Runs(NamedTuple):
    """What two runs on the same data printed: the first into a pipe, the second on a terminal."""

    piped: str
    progress: str
    terminal: str
    place: Path


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    # A short path that root's server account can pass, which pytest's own is not.
    path = Path("/tmp").resolve() / f"gateway-demo-{os.getpid()}"  # noqa: S108
    path.mkdir(mode=0o711)
    write_config(path, stand_in_port=free_port())
    try:
        yield path
    finally:
        for home in known_homes(path / "var"):
            shutil.rmtree(home, ignore_errors=True)
        shutil.rmtree(path)


@pytest.fixture(scope="module")
def runs(place: Path) -> Runs:
    piped = subprocess.run(
        COMMAND,
        cwd=place,
        env={**os.environ, "DEMO_SECONDS": "1"},
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
    )
    assert piped.returncode == 0, piped.stderr
    code, terminal = run_on_terminal(place, until="until Ctrl-C")
    assert code == 0, terminal
    return Runs(piped.stdout, piped.stderr, terminal, place)


def test_the_report_agrees_with_the_database(runs: Runs) -> None:
    told = figures(runs.piped)
    again = figures(runs.terminal)
    total = {name: told[name] + again[name] for name in told}
    counted = asyncio.run(count(runs.place / "var"))
    assert {name: total[name] for name in counted} == counted


def test_every_run_has_dead_letters_retries_duplicates_and_forgeries(runs: Runs) -> None:
    for output in (runs.piped, runs.terminal):
        told = figures(output)
        assert told["dead"] == 3
        assert told["retries"] >= 10
        assert told["duplicates refused"] == told["forgeries refused"] + 8 == 13
        assert told["dead"] + told["completed"] == told["jobs"]
        assert "HTTP 500 Internal Server Error (attempt 5 of 5)" in output
        assert "HTTP 422 Unprocessable Content" in output


def test_a_second_run_is_no_run_of_duplicates(runs: Runs) -> None:
    first, second = figures(runs.piped), figures(runs.terminal)
    for name in ("events stored", "duplicates refused", "jobs", "dead"):
        assert first[name] == second[name], name


def test_the_log_does_not_drown_the_report(runs: Runs) -> None:
    log = runs.place / "var" / "demo.log"
    assert "job_died" in log.read_text()
    assert log.stat().st_mode & 0o077 == 0
    for output in (runs.piped, runs.progress, runs.terminal):
        assert "job_died" not in output
        assert "job_postponed" not in output
    assert "its log is in var/demo.log" in runs.progress


def test_a_pipe_gets_lines_and_a_terminal_bars(runs: Runs) -> None:
    assert re.search(
        r"^  329 of 329 webhooks sent, 509 of 509 jobs finished$", runs.progress, re.MULTILINE
    )
    assert "\x1b" not in runs.progress + runs.piped
    assert "\x1b" in runs.terminal


def test_a_taken_port_is_told_and_fails(place: Path, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        write_config(tmp_path, stand_in_port=port)
        ran = CliRunner().invoke(demo, ["--config", str(tmp_path / "config.toml")])
    assert ran.exit_code == 1
    assert f"cannot listen on 127.0.0.1:{port}: Address already in use" in ran.stderr


def test_vendors_elsewhere_are_never_called(tmp_path: Path) -> None:
    write_config(tmp_path, stand_in_port=1)
    file = tmp_path / "config.toml"
    file.write_text(file.read_text().replace("http://127.0.0.1:1/crm", "https://crm.example/v1"))
    ran = CliRunner().invoke(demo, ["--config", str(file)])
    assert ran.exit_code == 1
    assert "vendors.crm.api.base_url" in ran.stderr
    assert not (tmp_path / "var").exists()


async def test_the_stand_in_does_work_once_per_idempotency_key() -> None:
    async with StandIn([]) as stand_in:
        assert stand_in.answer("/archive/shop", "key-1").status == 200
        assert stand_in.answer("/archive/shop", "key-1").body == {"ok": True, "repeated": True}
    assert (stand_in.tally["200"], stand_in.tally["recognised"]) == (1, 1)


# Helpers ------------------------------------------------------------------------------------------


def write_config(path: Path, *, stand_in_port: int) -> None:
    """Put the shipped configuration into *path*, with ports of its own."""
    text = (ROOT / "config.toml").read_text()
    for port, own in (("8080", "0"), ("8081", "0"), ("8099", str(stand_in_port))):
        assert f"127.0.0.1:{port}" in text
        text = text.replace(f"127.0.0.1:{port}", f"127.0.0.1:{own}")
    (path / "config.toml").write_text(text)
    shutil.copytree(ROOT / "docs" / "demo", path / "docs" / "demo")


def free_port() -> int:
    """Return a port below those that the system lends: nobody is given it before we listen.

    Looked for in an order of this process's own, for another suite may run beside this one.
    """
    for port in random.Random(os.getpid()).sample(range(20_000, 32_768), 1000):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("none of a thousand ports below 32768 is free")


def run_on_terminal(place: Path, *, until: str) -> tuple[int, str]:
    """Run the demo on a terminal, press Ctrl-C once it says *until*; return code and output."""
    ours, theirs = pty.openpty()
    environ = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
    process = subprocess.Popen(
        COMMAND,
        cwd=place,
        env={**environ, "TERM": "xterm-256color"},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    output = ""
    told = False
    try:
        while True:
            try:
                data = os.read(ours, 65536)
            except OSError:  # the last one has closed the terminal
                break
            output += data.decode(errors="replace").replace("\r\n", "\n")
            if until in output and not told:
                told = True
                assert process.poll() is None
                process.send_signal(signal.SIGINT)
        return process.wait(PATIENCE_SECONDS), output
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def figures(output: str) -> dict[str, int]:
    """Return the numbers of a report by their names."""
    report = output.partition("What happened\n")[2].partition("\n\n")[0]
    rows = dict(re.findall(r"^  (\w[\w ]*?)  +(.*)$", report, re.MULTILINE))
    found = {
        name: int(rows[name].split(" ")[0].rstrip(":,").replace(",", ""))
        for name in ("events stored", "duplicates refused", "forgeries refused", "attempts")
    }
    jobs, _, states = rows["jobs"].partition(": ")
    found |= {"jobs": int(jobs)}
    found |= {state: int(number) for number, state in re.findall(r"(\d+) (\w+)", states)}
    retries = re.search(r"of which (\d+) retries", rows["attempts"])
    assert retries is not None
    return found | {"retries": int(retries[1])}


async def count(state_dir: Path) -> dict[str, int]:
    """Return the same numbers as the database has them."""
    async with served(state_dir) as connection:
        row = await connection.fetchrow(
            """SELECT (SELECT count(*) FROM gateway.events) AS "events stored",
                      (SELECT sum(duplicates) FROM gateway.dedupe_keys) AS "duplicates refused",
                      (SELECT count(*) FROM gateway.jobs) AS jobs,
                      (SELECT count(*) FROM gateway.jobs WHERE state = 'dead') AS dead,
                      (SELECT count(*) FROM gateway.jobs WHERE state = 'completed') AS completed,
                      (SELECT count(*) FROM gateway.attempts) AS attempts,
                      (SELECT count(*) FROM gateway.attempts WHERE attempt > 1) AS retries"""
        )
    return dict(row)


@asynccontextmanager
async def served(state_dir: Path) -> AsyncIterator[asyncpg.Connection]:
    async with EmbeddedPostgres(state_dir) as url:
        connection = await asyncpg.connect(url)
        try:
            yield connection
        finally:
            await connection.close()
