"""What becomes of a gateway when three times as much comes as it can take.

One round: measure the maximum (closed loop, webhook → delivered); then an open loop in phases on a
fresh gateway: half of the maximum, three times it, half of it again; then the maximum once more,
since machines are not equally fast from minute to minute. See README.md.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from array import array

import msgspec

from benchmarks.measure import Options, delivery
from benchmarks.processes import cpu_seconds
from benchmarks.report import print_columns, spread
from benchmarks.subjects import (
    ROOT,
    SECRET,
    BenchmarkError,
    StubControl,
    Subject,
    running_gateway,
)
from benchmarks.surge import Phase, PhaseResult, SurgeResult, SurgeSpec
from benchmarks.targets import Target, print_targets

TIMES = 3.0
MAXIMUM_SHARE = 0.2  # of the overload's seconds: how long the maximum is measured, before and after
CONNECTIONS = 4096
CALM_SECONDS = 5.0
AFTER_SECONDS = 15.0
KEPT = 0.90  # of the maximum throughput
REFUSAL_P99_MS = 2500.0  # from sent: who waits in line is refused after two seconds
GROWTH_MIB = 150.0
RECOVERY_SECONDS = 5
CALM_P99_MS = 50.0


# CLOCK_MONOTONIC, memory in MiB, CPU seconds of the gateway and of the load generator.
Glance = tuple[int, float, float, float]


class Overload(msgspec.Struct, kw_only=True):
    """One round. Rates per second; latencies in ms, of the overload from sent to answered."""

    seconds: float  # of the overload
    maximum_before: float  # delivered, closed loop
    maximum_after: float
    offered: float
    accepted: float
    delivered: float  # arrivals at the vendor while it was overloaded
    refused: float
    other: dict[str, int]  # answers that are neither 202 nor 429 nor 503
    accepted_p50_ms: float
    accepted_p99_ms: float
    refused_p50_ms: float
    refused_p99_ms: float
    unsent: int
    closed: int
    calm_p99_ms: float  # before
    after_p99_ms: float  # of the usual second from the recovery on
    recovery_seconds: int | None  # None: not within AFTER_SECONDS
    drain_seconds: float  # from the end of the load to the last delivery
    gateway_cores: float  # while it was overloaded; at 1.0 its event loop has no time left
    load_cores: float  # of the load generator
    rss_before_mib: float
    rss_highest_mib: float
    lost: int  # accepted and never delivered
    phases: list[PhaseResult]

    @property
    def maximum(self) -> float:
        """What could be delivered around that time: halfway between before and after."""
        return (self.maximum_before + self.maximum_after) / 2


def measure_round(stub: StubControl, options: Options, *, seconds: float) -> Overload:
    """Run one round; raises :class:`BenchmarkError` when an accepted webhook is lost."""
    maximum_before = _maximum(stub, options, seconds)
    stub.reset()
    with running_gateway(stub_port=stub.port) as gateway:
        before = gateway.rss_mib()
        result, sent_ns, seen, ended = _surge(gateway, maximum_before, seconds)
        accepted = [seq for seq, sent in enumerate(sent_ns) if sent]
        arrivals_ns = _all_arrived(stub, accepted)
        drained = time.monotonic() - ended
    calm, over, after = result.phases
    start_ns, end_ns = over.start_ns, over.start_ns + round(over.seconds * 1e9)
    delivered = sum(1 for arrived in arrivals_ns if start_ns <= arrived < end_ns)
    lost = sum(1 for seq in accepted if seq >= len(arrivals_ns) or not arrivals_ns[seq])
    took = over.answers.get("202")
    refusals = [over.answers[status] for status in ("429", "503") if status in over.answers]
    calm_p99_ms = calm.answers["202"].p99_ms
    recovery_seconds, after_p99_ms = _after(after, calm_p99_ms)
    return Overload(
        seconds=over.seconds,
        maximum_before=maximum_before,
        maximum_after=_maximum(stub, options, seconds),
        offered=over.rate,
        accepted=(took.count if took else 0) / over.seconds,
        delivered=delivered / over.seconds,
        refused=sum(found.count for found in refusals) / over.seconds,
        other={
            status: found.count
            for status, found in over.answers.items()
            if status not in ("202", "429", "503")
        },
        accepted_p50_ms=took.sent_p50_ms if took else 0.0,
        accepted_p99_ms=took.sent_p99_ms if took else 0.0,
        refused_p50_ms=max((found.sent_p50_ms for found in refusals), default=0.0),
        refused_p99_ms=max((found.sent_p99_ms for found in refusals), default=0.0),
        unsent=over.unsent,
        closed=result.closed,
        calm_p99_ms=calm_p99_ms,
        after_p99_ms=after_p99_ms,
        recovery_seconds=recovery_seconds,
        drain_seconds=drained,
        gateway_cores=_cores([(at, own) for at, _, own, _ in seen], start_ns, end_ns),
        load_cores=_cores([(at, load) for at, _, _, load in seen], start_ns, end_ns),
        rss_before_mib=before,
        rss_highest_mib=max(mib for _, mib, _, _ in seen),
        lost=lost,
        phases=result.phases,
    )


def _maximum(stub: StubControl, options: Options, seconds: float) -> float:
    """Return what a gateway delivers per second when no more comes than it answers."""
    longer = msgspec.structs.replace(options, seconds=max(options.seconds, MAXIMUM_SHARE * seconds))
    with running_gateway(stub_port=stub.port) as gateway:
        return delivery(gateway, stub, longer).per_second


def _surge(
    gateway: Subject, maximum: float, seconds: float
) -> tuple[SurgeResult, list[int], list[Glance], float]:
    """Return the result, the times sent, what was seen meanwhile, and when the load ended."""
    spec = SurgeSpec(
        port=gateway.port,
        path="/webhooks/delivered",
        secret=SECRET,
        connections=CONNECTIONS,
        phases=[
            Phase("calm", maximum / 2, CALM_SECONDS),
            Phase("overload", maximum * TIMES, seconds),
            Phase("after", maximum / 2, AFTER_SECONDS),
        ],
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.surge"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=ROOT,
    )
    assert process.stdin is not None
    process.stdin.write(msgspec.json.encode(spec))
    process.stdin.close()
    process.stdin = None
    seen: list[Glance] = []
    while True:
        seen.append(
            (
                time.monotonic_ns(),
                gateway.rss_mib(),
                cpu_seconds(gateway.pid),
                cpu_seconds(process.pid),
            )
        )
        try:
            raw, _ = process.communicate(timeout=0.2)
            break
        except subprocess.TimeoutExpired:
            continue
    ended = time.monotonic()
    if process.returncode != 0:
        raise BenchmarkError(f"the load generator ended with {process.returncode}")
    line, _, times = raw.partition(b"\n")
    result = msgspec.json.decode(line, type=SurgeResult)
    return result, array("q", times).tolist(), seen, ended


def _cores(seen: list[tuple[int, float]], start_ns: int, end_ns: int) -> float:
    """Return the cores used between the two moments, of readings of the CPU time."""
    within = [(at, used) for at, used in seen if start_ns <= at <= end_ns]
    if len(within) < 2:
        return 0.0
    (first_ns, first), (last_ns, last) = within[0], within[-1]
    return (last - first) / ((last_ns - first_ns) / 1e9)


def _all_arrived(stub: StubControl, accepted: list[int]) -> list[int]:
    """Wait until every accepted webhook has arrived, or nothing more does for ten seconds."""
    before, since = -1, time.monotonic()
    while True:
        arrivals_ns = stub.arrivals_ns()
        missing = sum(1 for seq in accepted if seq >= len(arrivals_ns) or not arrivals_ns[seq])
        if not missing:
            return arrivals_ns
        if missing != before:
            before, since = missing, time.monotonic()
        elif time.monotonic() - since > 10.0:
            return arrivals_ns
        time.sleep(0.2)


def _after(phase: PhaseResult, calm_p99_ms: float) -> tuple[int | None, float]:
    """Return the first second in which all was calm again, and the p99 of those from then on.

    Calm is what has no refusal and a p99 like before the overload, *calm_p99_ms*.
    """
    for number, answers in enumerate(phase.every_second[: int(phase.seconds)]):
        if set(answers) == {"202"} and answers["202"].p99_ms <= max(CALM_P99_MS, calm_p99_ms):
            rest = phase.every_second[number : int(phase.seconds)]
            return number, statistics.median(s["202"].p99_ms for s in rest if "202" in s)
    return None, max((s["202"].p99_ms for s in phase.every_second if "202" in s), default=0.0)


def targets(rounds: list[Overload]) -> list[Target]:
    """Return what was promised; medians of the rounds, but for what may never happen."""
    kept = statistics.median(r.accepted / r.maximum for r in rounds)
    delivered = statistics.median(r.delivered / r.maximum for r in rounds)
    refusal = statistics.median(r.refused_p99_ms for r in rounds)
    growth = statistics.median(r.rss_highest_mib - r.rss_before_mib for r in rounds)
    recovery = max(
        AFTER_SECONDS if r.recovery_seconds is None else r.recovery_seconds for r in rounds
    )
    lost = sum(r.lost for r in rounds)
    return [
        Target("overload: accepted, share of the maximum", kept, KEPT, ".0%"),
        Target("overload: delivered, share of the maximum", delivered, KEPT, ".0%"),
        Target("overload: p99 to the 429 or 503, ms", refusal, REFUSAL_P99_MS, ",.0f", True),
        Target("overload: growth of the memory, MiB", growth, GROWTH_MIB, ".0f", True),
        Target("overload: calm again after, s", recovery, RECOVERY_SECONDS, ".0f", True),
        Target("overload: accepted and lost", lost, 0, ".0f", True),
    ]


def _or(value: int | None, otherwise: int) -> int:
    return otherwise if value is None else value


def table(rounds: list[Overload]) -> tuple[list[str], list[list[str]]]:
    """Return columns and rows, each figure as its median (lowest-highest)."""
    figures = [
        ("maximum before, delivered /s", [r.maximum_before for r in rounds], ",.0f"),
        ("maximum after, delivered /s", [r.maximum_after for r in rounds], ",.0f"),
        ("offered /s", [r.offered for r in rounds], ",.0f"),
        ("accepted /s", [r.accepted for r in rounds], ",.0f"),
        ("accepted : maximum", [r.accepted / r.maximum for r in rounds], ".0%"),
        ("delivered /s meanwhile", [r.delivered for r in rounds], ",.0f"),
        ("delivered : maximum", [r.delivered / r.maximum for r in rounds], ".0%"),
        ("refused /s (429, 503)", [r.refused for r in rounds], ",.0f"),
        ("other answers", [sum(r.other.values()) for r in rounds], ",.0f"),
        ("due and never sent", [r.unsent for r in rounds], ",.0f"),
        ("connections closed", [r.closed for r in rounds], ",.0f"),
        ("p50 to the 202, ms", [r.accepted_p50_ms for r in rounds], ",.1f"),
        ("p99 to the 202, ms", [r.accepted_p99_ms for r in rounds], ",.1f"),
        ("p50 to the refusal, ms", [r.refused_p50_ms for r in rounds], ",.1f"),
        ("p99 to the refusal, ms", [r.refused_p99_ms for r in rounds], ",.1f"),
        ("p99 before, at half of the maximum, ms", [r.calm_p99_ms for r in rounds], ",.1f"),
        ("p99 after, from the recovery on, ms", [r.after_p99_ms for r in rounds], ",.1f"),
        ("seconds until calm (-1: never)", [_or(r.recovery_seconds, -1) for r in rounds], ".0f"),
        ("seconds until all was delivered", [r.drain_seconds for r in rounds], ",.1f"),
        ("cores used by the gateway", [r.gateway_cores for r in rounds], ".2f"),
        ("cores used by the load generator", [r.load_cores for r in rounds], ".2f"),
        ("memory before, MiB", [r.rss_before_mib for r in rounds], ".0f"),
        ("memory, highest, MiB", [r.rss_highest_mib for r in rounds], ".0f"),
        ("accepted and lost", [r.lost for r in rounds], ",.0f"),
    ]  # fmt: skip
    return ["", "measured"], [[name, spread(values, form)] for name, values, form in figures]


def main(argv: list[str]) -> None:
    """Run alone, for trying things: ``python -m benchmarks.overload SECONDS``."""
    from benchmarks.subjects import running_stub

    with running_stub() as stub:
        found = measure_round(stub, Options(seconds=4.0), seconds=float(argv[0]) if argv else 30.0)
    print_columns("overload", *table([found]), file=sys.stdout)
    print_targets(targets([found]), file=sys.stdout)
    for phase in found.phases:
        for number, second in enumerate(phase.every_second):
            said = " ".join(
                f"{status}:{a.count} p50={a.p50_ms:.0f} p99={a.p99_ms:.0f}"
                for status, a in sorted(second.items())
            )
            sys.stdout.write(f"{phase.name} {number}: {said}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
