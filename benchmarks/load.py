"""The load generator, a process of its own: ``python -m benchmarks.load`` (a spec on stdin).

Closed loop: each connection sends its next webhook when the last one is answered, as long as no
more than ``in_flight`` are undelivered. Open loop: webhooks are due at a fixed rate whatever the
answers do, each is sent, and latency counts from when it was *due*, so a stall is not hidden
by the requests that it kept from being sent (coordinated omission).
"""

from __future__ import annotations

import asyncio
import gc
import math
import sys
import time
from array import array
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import cast

import msgspec
import uvloop

from benchmarks.wire import Requests, message_bytes

# Signatures are made ahead, so that no run makes them while it measures: as many as the fastest
# subject could take, within what memory and patience allow.
FASTEST = 40_000  # per second
MOST_PREPARED = 400_000
_ANSWER_DEADLINE_SECONDS = 30.0


class LoadSpec(msgspec.Struct, kw_only=True):
    """What to send. Ends after ``seconds`` or ``max_requests``, whichever comes first."""

    port: int
    path: str
    secret: str
    connections: int = 64
    rate: float | None = None  # per second; None: closed loop
    warmup_seconds: float = 2.0
    seconds: float = 5.0  # measured, after the warm-up
    max_requests: int = 1 << 40
    watch_port: int | None = None  # the stub's, which tells how many were delivered
    in_flight: int = 1 << 40  # accepted and not yet delivered

    def prepared(self) -> int:
        """Return how many signatures to make before the start."""
        most = (self.rate or FASTEST) * (self.warmup_seconds + self.seconds)
        return min(MOST_PREPARED, self.max_requests, math.ceil(most))


class LoadResult(msgspec.Struct, kw_only=True):
    """What came back. Latencies in ms, from sent (or due) to answered, after the warm-up."""

    statuses: dict[str, int]  # all answers, the warm-up's too
    per_second: float
    p50_ms: float
    p99_ms: float
    max_ms: float
    window_start_ns: int  # CLOCK_MONOTONIC
    window_end_ns: int
    cpu_us_per_request: float
    sent_ns: list[int] = []  # by number; 0: not accepted. Filled in by the reader.


class Load:
    """One run: owns the connections, the numbering and the clock."""

    def __init__(self, spec: LoadSpec) -> None:
        self.spec = spec
        self.requests = Requests(path=spec.path, secret=spec.secret)
        self.sent_ns = array("q")
        self.latencies_ns = array("q")
        self.statuses: dict[str, int] = {}
        self.answered_in_window = 0
        self.accepted = 0
        self.delivered = 0
        self.idle: deque[Connection] = deque()
        self.due_ns: deque[int] = deque()  # open loop: due, and no connection was free
        self.outstanding = 0
        self.sending = False
        self.window_start_ns = self.window_end_ns = 0
        self.failure: Exception | None = None
        self.finished = asyncio.Event()
        self.cpu_started = 0.0

    async def run(self) -> None:
        """Connect, send until the end, and wait for the last answers."""
        spec, loop = self.spec, asyncio.get_running_loop()
        self.requests.prepare(spec.prepared())
        gc.collect()
        gc.freeze()
        gc.disable()
        self.cpu_started = time.process_time()
        if spec.watch_port is not None:
            await loop.create_connection(lambda: Watch(self), "127.0.0.1", spec.watch_port)
        for _ in range(spec.connections):
            _, connection = await loop.create_connection(
                lambda: Connection(self), "127.0.0.1", spec.port
            )
            self.idle.append(connection)
        start_ns = time.monotonic_ns()
        self.window_start_ns = start_ns + round(spec.warmup_seconds * 1e9)
        self.window_end_ns = self.window_start_ns + round(spec.seconds * 1e9)
        self.sending = True
        loop.call_later(spec.warmup_seconds + spec.seconds, self.stop)
        if spec.rate is None:
            self.fill()
        else:
            self.tick(start_ns, 0)
        await self.finished.wait()

    def stop(self) -> None:
        self.sending = False
        if not self.outstanding:  # else what is due goes out as answers come
            self.finished.set()
        else:
            asyncio.get_running_loop().call_later(
                _ANSWER_DEADLINE_SECONDS,
                self.fail,
                TimeoutError(f"{self.outstanding} webhooks were not answered"),
            )

    def fail(self, error: Exception) -> None:
        if not self.finished.is_set():
            self.failure = self.failure or error
            self.finished.set()

    def fill(self) -> None:
        """Closed loop: let idle connections send while the bound allows."""
        while self.idle and self.may_send():
            self.idle.popleft().send(time.monotonic_ns())

    def may_send(self) -> bool:
        if len(self.sent_ns) >= self.spec.max_requests:
            if self.sending:
                self.stop()
            return False
        undelivered = self.accepted - self.delivered + self.outstanding
        return self.sending and undelivered < self.spec.in_flight

    def tick(self, start_ns: int, done: int) -> None:
        """Open loop: send what is due by now; *done* webhooks were due before."""
        if not self.sending:
            return
        rate = self.spec.rate or 1.0
        due = int((time.monotonic_ns() - start_ns) * rate / 1e9) + 1
        for number in range(done, due):
            self.due_ns.append(start_ns + round(number * 1e9 / rate))
        while self.idle and self.due_ns:
            self.idle.popleft().send(self.due_ns.popleft())
        asyncio.get_running_loop().call_later(0.001, self.tick, start_ns, due)

    def answered(self, connection: Connection, status: str) -> None:
        now_ns = time.monotonic_ns()
        self.outstanding -= 1
        self.statuses[status] = self.statuses.get(status, 0) + 1
        if status == "202":
            self.accepted += 1
        else:
            self.sent_ns[connection.seq] = 0
        if self.window_start_ns <= now_ns < self.window_end_ns:
            self.answered_in_window += 1
        if self.window_start_ns <= connection.from_ns < self.window_end_ns:
            self.latencies_ns.append(now_ns - connection.from_ns)
        if self.due_ns:
            connection.send(self.due_ns.popleft())
        elif self.spec.rate is None and self.may_send():
            connection.send(now_ns)
        else:
            self.idle.append(connection)
            if not self.sending and not self.outstanding:
                self.finished.set()

    def result(self) -> msgspec.Struct:
        latencies = sorted(self.latencies_ns)
        return LoadResult(
            statuses=self.statuses,
            per_second=self.answered_in_window / self.spec.seconds,
            p50_ms=percentile_ms(latencies, 0.50),
            p99_ms=percentile_ms(latencies, 0.99),
            max_ms=percentile_ms(latencies, 1.0),
            window_start_ns=self.window_start_ns,
            window_end_ns=self.window_end_ns,
            cpu_us_per_request=(time.process_time() - self.cpu_started)
            * 1e6
            / max(1, len(self.sent_ns)),
        )


class Connection(asyncio.Protocol):
    """One keep-alive connection with at most one request on it."""

    def __init__(self, load: Load) -> None:
        self.load = load
        self.seq = -1
        self.from_ns = 0
        self.pending = b""
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass

    def send(self, from_ns: int) -> None:
        load = self.load
        self.seq, self.from_ns = len(load.sent_ns), from_ns
        load.sent_ns.append(from_ns)
        load.outstanding += 1
        self.transport.write(load.requests.request(self.seq))

    def data_received(self, data: bytes) -> None:
        if self.pending:
            data = self.pending + data
        end = message_bytes(data)
        if end is None:
            self.pending = data
            return
        self.pending = b""
        if end != len(data) or self.seq < 0:
            self.load.fail(ValueError(f"an answer that nobody asked for: {data[:200]!r}"))
            return
        self.load.answered(self, data[9:12].decode())

    def connection_lost(self, exc: Exception | None) -> None:
        self.load.fail(exc or ConnectionError("the subject closed a connection"))


class Watch(asyncio.Protocol):
    """Hears from the stub how many webhooks it has got; lets idle connections go on."""

    def __init__(self, load: Load) -> None:
        self.load = load
        self.pending = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast(asyncio.Transport, transport).write(b"GET /_watch HTTP/1.1\r\n\r\n")

    def data_received(self, data: bytes) -> None:
        *counts, self.pending = (self.pending + data).split(b"\n")
        if counts:
            self.load.delivered = int(counts[-1])
            if self.load.sending and self.load.spec.rate is None:
                self.load.fill()

    def connection_lost(self, exc: Exception | None) -> None:
        self.load.fail(exc or ConnectionError("the stub closed the connection"))


def percentile_ms(ordered_ns: list[int], share: float) -> float:
    """Return the nearest-rank percentile of what is already in order, in ms; 0 of nothing."""
    if not ordered_ns:
        return 0.0
    return ordered_ns[min(len(ordered_ns) - 1, int(len(ordered_ns) * share))] / 1e6


def generate(load_of: Callable[[bytes], Load]) -> None:
    """Run the load of the spec on stdin; write its result in JSON, then the raw times sent."""
    spec = sys.stdin.buffer.read()

    async def measure() -> Load:
        load = load_of(spec)
        await load.run()
        return load

    load = uvloop.run(measure())
    if load.failure is not None:
        program = Path(sys.argv[0]).name
        sys.exit(f"{program}: {load.failure!r}; answers so far: {load.statuses}")
    sys.stdout.buffer.write(msgspec.json.encode(load.result()) + b"\n")
    sys.stdout.buffer.write(load.sent_ns.tobytes())


if __name__ == "__main__":
    generate(lambda spec: Load(msgspec.json.decode(spec, type=LoadSpec)))
