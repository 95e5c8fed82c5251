"""Starts and stops what is measured, each in a process of its own, on loopback ports."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from benchmarks.bare import CONCURRENCY
from benchmarks.load import LoadResult, LoadSpec
from benchmarks.processes import cpu_seconds
from benchmarks.stub import Count
from gateway.store.embedded import running_dsn

ROOT = Path(__file__).parents[1]
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
_START_SECONDS = 60.0
_STOP_SECONDS = 60.0

# Senders: what `scheduled` sends is committed, event and job, but not due within the run;
# what `delivered` sends is passed on as it came; what `others` sends is for another vendor, which
# may be dead; `noisy` may send little; what `drained` sends becomes no-op jobs in the stub's lane,
# which can be paused. A year of history is neither dropped nor too much. Everything else is as a
# newcomer gets it.
_CONFIG = """\
[gateway]
state_dir = "{state_dir}"
node = "benchmark"
drain = "10s"

[database]
url = "{database}"
retention = "1000d"

[server]
listen = "127.0.0.1:{port}"

[admin]
listen = "127.0.0.1:{admin_port}"

[queue]
lease = "{lease}"
max_backlog = 100000000

[vendors.scheduled.webhook]
verify = "standard-webhooks"
secrets = ["env:BENCHMARK_SECRET"]

[vendors.delivered.webhook]
verify = "standard-webhooks"
secrets = ["env:BENCHMARK_SECRET"]

[vendors.others.webhook]
verify = "standard-webhooks"
secrets = ["env:BENCHMARK_SECRET"]

[vendors.other.api]
base_url = "http://127.0.0.1:{other_port}"
concurrency = {concurrency}
allow_private = true

[vendors.paused.api]
base_url = "http://127.0.0.1:{stub_port}"
allow_private = true

[vendors.noisy.webhook]
verify = "standard-webhooks"
secrets = ["env:BENCHMARK_SECRET"]
rate = "1/s"

[vendors.drained.webhook]
verify = "standard-webhooks"
secrets = ["env:BENCHMARK_SECRET"]

[vendors.stub.api]
base_url = "http://127.0.0.1:{stub_port}"
concurrency = {concurrency}
timeout = "10m"
allow_private = true

[[routes]]
name = "later"
from = "scheduled"
call = "POST stub:/events"
delay = "1d"

[[routes]]
name = "pass-on"
from = "delivered"
call = "POST stub:/events"

[[routes]]
name = "elsewhere"
from = "others"
call = "POST other:/events"

[[routes]]
name = "no-op"
from = "drained"
handler = "benchmarks.noop:run"
lane = "stub"
"""


class BenchmarkError(Exception):
    """A measurement that must not be believed: something was refused, lost or never started."""


class Subject(msgspec.Struct, frozen=True):
    """A running subject. ``port`` takes webhooks; ``pid`` is the process that is measured."""

    name: str
    pid: int
    port: int
    admin_port: int = 0  # a gateway's
    state_dir: Path = ROOT  # a gateway's

    @property
    def dsn(self) -> str:
        """Where the gateway's embedded PostgreSQL answers."""
        dsn = running_dsn(self.state_dir)
        if dsn is None:
            raise BenchmarkError(f"{self.name}: its PostgreSQL does not run")
        return dsn

    def rss_mib(self) -> float:
        """Return the process's resident memory; its children (PostgreSQL) are not in it."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) / 1024
        raise BenchmarkError(f"{self.name}: the process has ended")

    def family(self) -> list[int]:
        """Return the process and all below it: PostgreSQL's belong to it."""
        family = [self.pid]
        for pid in family:
            try:
                for task in Path(f"/proc/{pid}/task").iterdir():
                    family += map(int, (task / "children").read_text().split())
            except FileNotFoundError:
                continue  # a child that ended just now
        return family

    def cpu_seconds(self) -> float:
        """Return the CPU time of the process and of all below it."""
        seconds = 0.0
        for pid in self.family():
            with suppress(FileNotFoundError):  # it ended just now
                seconds += cpu_seconds(pid)
        return seconds

    def wait_until_ready(self) -> None:
        """Wait until a gateway says that it can take webhooks."""
        _wait_until_ready(lambda: None, answers("/readyz", self.admin_port))

    def finished(self, vendor: str) -> int:
        """Return how many jobs of *vendor* a gateway has brought to an end, as its metrics say."""
        ended = 0
        for line in _get("/metrics", self.admin_port)[1].decode().splitlines():
            if (
                line.startswith("gateway_jobs_settled_total{")
                and f'vendor="{vendor}"' in line
                and 'state="scheduled"' not in line
            ):
                ended += round(float(line.rpartition(" ")[2]))
        return ended


@contextmanager
def running_stub() -> Iterator[StubControl]:
    """Start the stub vendor."""
    port = free_port()
    command = [sys.executable, "-m", "benchmarks.stub", str(port)]
    with running("stub", command, ready=answers("/_count", port)) as pid:
        yield StubControl(port, pid)


@contextmanager
def running_bare(name: str, *, stub_port: int) -> Iterator[Subject]:
    """Start the bare ``handler`` or ``forwarder``."""
    port = free_port()
    command = [sys.executable, "-m", "benchmarks.bare", name, str(port), str(stub_port)]
    with running(name, command, ready=answers("/", port)) as pid:
        yield Subject(f"bare {name}", pid, port)


@contextmanager
def running_gateway(
    *,
    stub_port: int,
    concurrency: int = CONCURRENCY,
    other_port: int = 9,
    lease: str = "15s",
    module: str = "gateway",
    env: Mapping[str, str] | None = None,
    folder: Path | None = None,
) -> Iterator[Subject]:
    """Start a gateway under its default durability, on what *folder* has of an earlier one.

    Without a folder, on an empty database of its own. *module* is run in the place of ``gateway``;
    *env* comes on top of the environment.
    """
    with tempfile.TemporaryDirectory(prefix="gateway-bench-") as own:
        folder = folder or Path(own)
        folder.chmod(0o711)  # as root, PostgreSQL runs as another user that must get through
        port, admin_port = free_port(), free_port()
        state_dir = folder / "state"
        config = folder / "config.toml"
        config.write_text(
            gateway_config(
                state_dir=state_dir,
                port=port,
                admin_port=admin_port,
                stub_port=stub_port,
                concurrency=concurrency,
                other_port=other_port,
                lease=lease,
            )
        )
        command = [sys.executable, "-m", module, "serve", "--config", str(config)]
        with running("gateway", command, ready=answers("/readyz", admin_port), env=env) as pid:
            yield Subject("gateway", pid, port, admin_port, state_dir)


def gateway_config(
    *,
    state_dir: Path,
    port: int,
    admin_port: int,
    stub_port: int,
    concurrency: int = CONCURRENCY,
    other_port: int = 9,
    lease: str = "15s",
    database: str = "embedded",
) -> str:
    """Return the TOML of a gateway that is measured."""
    return _CONFIG.format(
        state_dir=state_dir,
        port=port,
        admin_port=admin_port,
        stub_port=stub_port,
        concurrency=concurrency,
        other_port=other_port,
        lease=lease,
        database=database,
    )


@contextmanager
def dead_vendor(*, hangs: bool) -> Iterator[int]:
    """Yield the port of a vendor that refuses connections, or takes them and never says a word."""
    with socket.socket() as dead:
        dead.bind(("127.0.0.1", 0))
        if hangs:
            dead.listen(4096)
        yield int(dead.getsockname()[1])


def run_load(spec: LoadSpec) -> LoadResult:
    """Run the load generator; every webhook must have been accepted."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.load"],
        input=msgspec.json.encode(spec),
        stdout=subprocess.PIPE,
        cwd=ROOT,
        check=False,
    )
    if done.returncode != 0:
        raise BenchmarkError(f"the load generator ended with {done.returncode}")
    line, _, raw = done.stdout.partition(b"\n")
    result = msgspec.json.decode(line, type=LoadResult)
    if set(result.statuses) != {"202"}:
        raise BenchmarkError(f"not everything was accepted: answers {result.statuses}")
    result.sent_ns = array("q", raw).tolist()
    return result


class StubControl:
    """The runner's line to the stub."""

    def __init__(self, port: int, pid: int) -> None:
        self.port = port
        self.pid = pid

    def reset(self) -> None:
        self._get("/_reset")

    def hang(self) -> None:
        self._get("/_hang")

    def answer(self) -> None:
        self._get("/_answer")

    def count(self) -> Count:
        return msgspec.json.decode(self._get("/_count"), type=Count)

    def arrivals_ns(self) -> list[int]:
        return array("q", self._get("/_arrivals")).tolist()

    def wait_for(self, accepted: int, *, seconds: float = 120.0) -> Count:
        """Wait until every accepted event has arrived; raise when some never do."""
        deadline = time.monotonic() + seconds
        while (count := self.count()).unique < accepted:
            if time.monotonic() > deadline:
                raise BenchmarkError(f"accepted {accepted}, delivered only {count.unique}")
            time.sleep(0.05)
        return count

    def _get(self, path: str) -> bytes:
        return _get(path, self.port)[1]


@contextmanager
def running(
    name: str,
    command: Sequence[str],
    *,
    ready: Callable[[], bool],
    env: Mapping[str, str] | None = None,
    pass_fds: Sequence[int] = (),
) -> Iterator[int]:
    """Run *command* until the block ends; its log is shown only if it fails.

    Whatever it has started itself goes with it. *env* comes on top of our own environment.
    """
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, "BENCHMARK_SECRET": SECRET, **(env or {})},
            pass_fds=pass_fds,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            _wait_until_ready(process.poll, ready)
            yield process.pid
            if process.poll() is not None:
                raise BenchmarkError(f"{name} ended with {process.returncode} while measured")
        except BaseException:
            log.seek(0)
            if said := log.read()[-4000:].decode(errors="replace"):
                sys.stderr.write(f"--- {name} said:\n{said}\n")
            raise
        finally:
            process.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                process.wait(_STOP_SECONDS)
            with suppress(ProcessLookupError):  # the session's other processes, if any are left
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def answers(path: str, port: int) -> Callable[[], bool]:
    """Return a question: does a server on *port* answer, and not with 503?"""

    def ask() -> bool:
        try:
            return _get(path, port)[0] != 503
        except OSError:
            return False

    return ask


def _wait_until_ready(ended: Callable[[], int | None], ready: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        if (code := ended()) is not None:
            raise BenchmarkError(f"it ended with {code} at the start")
        if ready():
            return
        time.sleep(0.05)
    raise BenchmarkError(f"not ready within {_START_SECONDS:.0f} s")


def _get(path: str, port: int) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
