"""Load in phases, a process of its own: ``python -m benchmarks.surge`` (a spec on stdin).

An open loop whose rate changes from phase to phase, and that takes any answer: it is for what a
gateway does when more comes than it can take. Latency counts from when a webhook was *due*, and
once more from when it was *sent*: in between it waits for a connection that is free.
"""

from __future__ import annotations

import asyncio
import gc
import time
from array import array

import msgspec

from benchmarks.load import Connection, Load, LoadSpec, generate, percentile_ms


class Phase(msgspec.Struct, frozen=True):
    """So many webhooks per second for so long."""

    name: str
    rate: float
    seconds: float


class SurgeSpec(msgspec.Struct, kw_only=True):
    """What to send."""

    port: int
    path: str
    secret: str
    connections: int
    phases: list[Phase]


class Answers(msgspec.Struct, kw_only=True):
    """Answers of one kind within one phase or second. Latencies in ms."""

    count: int
    p50_ms: float  # from due to answered
    p99_ms: float
    max_ms: float
    sent_p50_ms: float  # from sent to answered
    sent_p99_ms: float


class PhaseResult(msgspec.Struct, kw_only=True):
    """What came back of what was due in one phase."""

    name: str
    rate: float
    seconds: float
    start_ns: int  # CLOCK_MONOTONIC
    answers: dict[str, Answers]  # by status
    every_second: list[dict[str, Answers]]
    unsent: int  # due, but no connection became free in time


class SurgeResult(msgspec.Struct, kw_only=True):
    """The whole run; the raw times sent follow it, by number, 0 for what was not accepted."""

    phases: list[PhaseResult]
    closed: int  # connections that the subject closed and that were made again


class SurgeConnection(Connection):
    """A connection whose end is measured, and no failure."""

    load: Surge
    asked_ns = 0

    def send(self, from_ns: int) -> None:
        self.asked_ns = time.monotonic_ns()
        super().send(from_ns)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        if not self.load.finished.is_set():
            self.load.lost(self)


class Surge(Load):
    """One run through all phases."""

    def __init__(self, surge: SurgeSpec) -> None:
        seconds = sum(phase.seconds for phase in surge.phases)
        webhooks = sum(phase.rate * phase.seconds for phase in surge.phases)
        super().__init__(
            LoadSpec(
                port=surge.port,
                path=surge.path,
                secret=surge.secret,
                connections=surge.connections,
                rate=webhooks / seconds,
                warmup_seconds=0.0,
                seconds=seconds,
            )
        )
        self.phases = surge.phases
        self.phase = 0
        self.starts_ns: list[int] = []
        self.unsent = [0] * len(surge.phases)
        self.closed = 0
        # (phase, second of it, status) → latencies from due, from sent
        self.seen: dict[tuple[int, int, str], tuple[array[int], array[int]]] = {}

    async def run(self) -> None:
        """Connect, go through the phases, and wait for the last answers."""
        self.requests.prepare(self.spec.prepared())
        gc.collect()
        gc.freeze()
        gc.disable()
        for _ in range(self.spec.connections):
            await self.connect()
        self.sending = True
        self.tick(time.monotonic_ns(), 0)
        await self.finished.wait()

    def tick(self, start_ns: int, done: int) -> None:
        """Send what is due by now; *done* webhooks of the phase were due before."""
        if not self.sending:
            return
        loop = asyncio.get_running_loop()
        if not self.starts_ns:
            self.starts_ns.append(start_ns)
        now_ns = time.monotonic_ns()
        phase = self.phases[self.phase]
        end_ns = start_ns + round(phase.seconds * 1e9)
        due = int((min(now_ns, end_ns) - start_ns) * phase.rate / 1e9) + 1
        for number in range(done, due):
            self.due_ns.append(start_ns + round(number * 1e9 / phase.rate))
        while self.idle and self.due_ns:
            self.idle.popleft().send(self.due_ns.popleft())
        if now_ns >= end_ns:
            self.unsent[self.phase] = len(self.due_ns)
            self.due_ns.clear()
            if self.phase + 1 == len(self.phases):
                self.stop()
                return
            self.phase += 1
            self.starts_ns.append(end_ns)
            start_ns, due = end_ns, 0
        loop.call_later(0.001, self.tick, start_ns, due)

    def answered(self, connection: Connection, status: str) -> None:
        assert isinstance(connection, SurgeConnection)
        now_ns = time.monotonic_ns()
        phase = self.phase
        while connection.from_ns < self.starts_ns[phase]:
            phase -= 1
        second = int((connection.from_ns - self.starts_ns[phase]) / 1e9)
        since_due, since_sent = self.seen.setdefault(
            (phase, second, status), (array("q"), array("q"))
        )
        since_due.append(now_ns - connection.from_ns)
        since_sent.append(now_ns - connection.asked_ns)
        if status == "closed":
            self.outstanding -= 1
            self.sent_ns[connection.seq] = 0
            if not self.sending and not self.outstanding:
                self.finished.set()
        else:
            super().answered(connection, status)

    async def connect(self) -> None:
        """Open one more connection; it is idle, and sends when something is due."""
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(
            lambda: SurgeConnection(self), "127.0.0.1", self.spec.port
        )
        if self.due_ns and self.sending:
            connection.send(self.due_ns.popleft())
        else:
            self.idle.append(connection)

    def lost(self, connection: Connection) -> None:
        """Note a connection that the subject closed, and make another."""
        self.closed += 1
        if connection in self.idle:
            self.idle.remove(connection)
        else:
            self.answered(connection, "closed")
        if self.sending:
            task = asyncio.ensure_future(self.connect())
            task.add_done_callback(lambda done: done.exception() and self.fail(done.exception()))

    def result(self) -> SurgeResult:
        return SurgeResult(
            phases=[self._phase(number) for number in range(len(self.phases))], closed=self.closed
        )

    def _phase(self, number: int) -> PhaseResult:
        phase = self.phases[number]
        whole: dict[str, tuple[array[int], array[int]]] = {}
        seconds: list[dict[str, Answers]] = [{} for _ in range(int(phase.seconds) + 1)]
        for (found, second, status), latencies in sorted(self.seen.items()):
            if found == number:
                for all_of, these in zip(
                    whole.setdefault(status, (array("q"), array("q"))), latencies, strict=True
                ):
                    all_of.extend(these)
                seconds[second][status] = _answers(*latencies)
        return PhaseResult(
            name=phase.name,
            rate=phase.rate,
            seconds=phase.seconds,
            start_ns=self.starts_ns[number],
            answers={status: _answers(*latencies) for status, latencies in whole.items()},
            every_second=seconds,
            unsent=self.unsent[number],
        )


def _answers(since_due: array[int], since_sent: array[int]) -> Answers:
    ordered, sent = sorted(since_due), sorted(since_sent)
    return Answers(
        count=len(ordered),
        p50_ms=percentile_ms(ordered, 0.50),
        p99_ms=percentile_ms(ordered, 0.99),
        max_ms=percentile_ms(ordered, 1.0),
        sent_p50_ms=percentile_ms(sent, 0.50),
        sent_p99_ms=percentile_ms(sent, 0.99),
    )


if __name__ == "__main__":
    generate(lambda spec: Surge(msgspec.json.decode(spec, type=SurgeSpec)))
