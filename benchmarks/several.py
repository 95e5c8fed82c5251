"""How much more do several processes on one machine take in and deliver: 1, 2 and 4, in turns.

They share one PostgreSQL, started as the embedded one is, and one listening socket, as
``gateway@.service`` has it. Everything, load and vendor included, shares the cores of the machine.
"""

from __future__ import annotations

import asyncio
import socket
import statistics
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import msgspec

from benchmarks.measure import Options, delivery, intake
from benchmarks.report import spread
from benchmarks.subjects import (
    StubControl,
    Subject,
    answers,
    free_port,
    gateway_config,
    running,
)
from gateway.store.embedded import EmbeddedPostgres

COUNTS = (1, 2, 4)

# What systemd does for a unit with a socket: descriptor 3, and whom it is meant for.
_INHERIT = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1", "LISTEN_FDNAMES": "public"}
os.execv(sys.executable, [sys.executable, *sys.argv[2:]])
"""


class Processes(msgspec.Struct, kw_only=True):
    """One count of processes in one round, per second."""

    count: int
    intake: float
    delivered: float


def measure_processes(stub: StubControl, options: Options) -> list[Processes]:
    """Measure each count in turns, on a fresh database each time."""
    found = []
    for number in range(1, options.rounds + 1):
        for count in COUNTS:
            sys.stderr.write(f"processes: round {number} of {options.rounds}, {count} …\n")
            with running_processes(count, stub_port=stub.port) as gateway:
                answered = intake(gateway, options).per_second
                delivered = delivery(gateway, stub, options).per_second
            found.append(Processes(count=count, intake=answered, delivered=delivered))
    return found


@contextmanager
def running_processes(count: int, *, stub_port: int) -> Iterator[Subject]:
    """Start so many gateways on one database and one public socket."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gateway-bench-")))
        folder.chmod(0o711)
        runner = stack.enter_context(asyncio.Runner())
        server = EmbeddedPostgres(folder / "state")
        dsn = runner.run(server.start())
        stack.callback(lambda: runner.run(server.stop()))
        shared = stack.enter_context(socket.socket())
        shared.bind(("127.0.0.1", 0))
        shared.listen(1024)
        pid = 0
        for number in range(count):
            admin_port = free_port()
            config = folder / f"{number}.toml"
            config.write_text(
                gateway_config(
                    state_dir=folder / f"{number}",
                    port=0,
                    admin_port=admin_port,
                    stub_port=stub_port,
                    database="env:BENCHMARK_DATABASE",
                )
            )
            command = [sys.executable, "-c", _INHERIT, str(shared.fileno()), "-m", "gateway"]
            pid = stack.enter_context(
                running(
                    f"gateway {number}",
                    [*command, "serve", "--config", str(config)],
                    ready=answers("/readyz", admin_port),
                    pass_fds=(shared.fileno(),),
                    env={"BENCHMARK_DATABASE": dsn},
                )
            )
        yield Subject(f"{count} processes", pid, shared.getsockname()[1])


def table(found: list[Processes]) -> tuple[list[str], list[list[str]]]:
    """Return columns and rows: medians with (lowest-highest), and the ratio to one process."""
    rows = []
    for what in ("intake", "delivered"):
        one = statistics.median(getattr(p, what) for p in found if p.count == 1)
        for count in COUNTS:
            values = [getattr(p, what) for p in found if p.count == count]
            share = statistics.median(values) / one
            rows.append([what, str(count), spread(values, ",.0f"), f"{share:.0%}"])
    return ["", "processes", "per second", "of one"], rows
