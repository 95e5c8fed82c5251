"""The measurements: each returns plain numbers of one round."""

from __future__ import annotations

import time
from collections.abc import Callable

import msgspec

from benchmarks.load import LoadResult, LoadSpec, percentile_ms
from benchmarks.subjects import (
    SECRET,
    BenchmarkError,
    StubControl,
    Subject,
    run_load,
    running_gateway,
)


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """How long and how hard; the defaults are what the README's numbers are made with."""

    rounds: int = 3
    seconds: float = 5.0
    warmup_seconds: float = 2.0
    connections: int = 64
    in_flight: int = 256  # webhooks accepted and not yet delivered, when delivery is measured
    fixed_rate: float = 1000.0
    quiet_rate: float = 200.0  # of the sender that is measured beside a flood
    held_jobs: int = 10_000
    other_jobs: int = 100_000  # of another vendor, dead or not, when isolation is measured
    soak_jobs: int = 0


class Sample(msgspec.Struct, kw_only=True):
    """One subject in one round. Latencies in ms; see README.md for what each one spans."""

    per_second: float
    p50_ms: float
    p99_ms: float
    max_ms: float
    delivered_p50_ms: float | None = None
    delivered_p99_ms: float | None = None
    duplicates: int | None = None
    load_cpu_us: float  # what one request cost the load generator


class Delivered(msgspec.Struct, kw_only=True):
    """What one load brought to the stub. Latencies from sent (or due) to the first arrival."""

    result: LoadResult
    unique: int  # with the warm-up's
    duplicates: int
    arrived_in_window: int
    latencies_ns: list[int]  # of what was sent in the window, in order


class Memory(msgspec.Struct, kw_only=True):
    """The gateway's resident memory in MiB."""

    idle_mib: float
    held_jobs: int
    held_mib: float  # the highest seen while the vendor hung
    after_mib: float  # when all were delivered


class Soak(msgspec.Struct, kw_only=True):
    """Memory over a long run. ``growth_mib``: last tenth of it against its second tenth."""

    jobs: int
    seconds: float
    per_second: float
    rss_mib: list[tuple[int, float]]  # delivered so far, MiB
    growth_mib: float


def intake(subject: Subject, options: Options) -> Sample:
    """Closed loop, answers per second: for the gateway, each one follows its COMMIT."""
    return _sample(run_load(_spec(subject, options, path="/webhooks/scheduled")))


def delivery(subject: Subject, stub: StubControl, options: Options) -> Sample:
    """Closed loop with a bound on the undelivered: what arrives at the stub per second."""
    spec = _spec(subject, options, path="/webhooks/delivered")
    spec.watch_port, spec.in_flight = stub.port, options.in_flight
    return _delivered(spec, stub)


def fixed_rate(subject: Subject, stub: StubControl, options: Options) -> Sample:
    """Open loop at a rate well below the limit: the latency that a sender sees."""
    spec = _spec(subject, options, path="/webhooks/delivered")
    spec.rate = options.fixed_rate
    return _delivered(spec, stub)


def send(subject: Subject, options: Options, sender: str, webhooks: int) -> int:
    """Send so many webhooks as fast as they are taken; return how many were."""
    spec = _spec(subject, options, path=f"/webhooks/{sender}")
    spec.warmup_seconds, spec.seconds, spec.max_requests = 0.0, 600.0, webhooks
    return sum(run_load(spec).statuses.values())


def quiet(subject: Subject, options: Options) -> Sample:
    """Open loop at a low rate: what a sender waits for its answer while others do as they do."""
    spec = _spec(subject, options, path="/webhooks/scheduled")
    spec.rate, spec.connections = options.quiet_rate, min(16, options.connections)
    return _sample(run_load(spec))


def memory(stub: StubControl, options: Options) -> Memory:
    """A vendor that hangs while webhooks keep coming, and then answers again."""
    stub.reset()
    with running_gateway(stub_port=stub.port) as gateway:
        idle = gateway.rss_mib()
        stub.hang()
        try:
            accepted = send(gateway, options, "delivered", options.held_jobs)
            held = _highest(gateway.rss_mib, seconds=3.0)
        finally:
            stub.answer()
        stub.wait_for(accepted)
        after = _highest(gateway.rss_mib, seconds=1.0)
    return Memory(idle_mib=idle, held_jobs=accepted, held_mib=held, after_mib=after)


def soak(stub: StubControl, options: Options, *, progress: Callable[[int], None]) -> Soak:
    """Deliver many jobs in slices, and look at the memory after each."""
    stub.reset()
    slices = 50
    rss: list[tuple[int, float]] = []
    started = time.monotonic()
    done = 0
    with running_gateway(stub_port=stub.port) as gateway:
        for _ in range(slices):
            stub.reset()
            spec = _spec(gateway, options, path="/webhooks/delivered")
            spec.watch_port, spec.in_flight = stub.port, options.in_flight
            spec.warmup_seconds, spec.seconds = 0.0, 600.0
            spec.max_requests = max(1, options.soak_jobs // slices)
            accepted = sum(run_load(spec).statuses.values())
            stub.wait_for(accepted)
            done += accepted
            rss.append((done, gateway.rss_mib()))
            progress(done)
    seconds = time.monotonic() - started
    early = [mib for _, mib in rss[slices // 10 : slices // 5]]
    late = [mib for _, mib in rss[-slices // 10 :]]
    return Soak(
        jobs=done,
        seconds=seconds,
        per_second=done / seconds,
        rss_mib=rss,
        growth_mib=max(late) - max(early),
    )


def deliver(spec: LoadSpec, stub: StubControl) -> Delivered:
    """Run a load to its end and until all of it has arrived; raise when some never does."""
    stub.reset()
    result = run_load(spec)
    count = stub.wait_for(sum(result.statuses.values()))
    arrivals_ns = stub.arrivals_ns()
    latencies_ns: list[int] = []
    arrived_in_window = 0
    for seq, sent_ns in enumerate(result.sent_ns):
        arrived_ns = arrivals_ns[seq]
        if not arrived_ns:
            raise BenchmarkError(f"webhook {seq} was answered with 202 and never delivered")
        if result.window_start_ns <= arrived_ns < result.window_end_ns:
            arrived_in_window += 1
        if result.window_start_ns <= sent_ns < result.window_end_ns:
            latencies_ns.append(arrived_ns - sent_ns)
    return Delivered(
        result=result,
        unique=count.unique,
        duplicates=count.duplicates,
        arrived_in_window=arrived_in_window,
        latencies_ns=sorted(latencies_ns),
    )


def _spec(subject: Subject, options: Options, *, path: str) -> LoadSpec:
    return LoadSpec(
        port=subject.port,
        path=path,
        secret=SECRET,
        connections=options.connections,
        warmup_seconds=options.warmup_seconds,
        seconds=options.seconds,
    )


def _delivered(spec: LoadSpec, stub: StubControl) -> Sample:
    delivered = deliver(spec, stub)
    sample = _sample(delivered.result)
    sample.per_second = delivered.arrived_in_window / spec.seconds
    sample.delivered_p50_ms = percentile_ms(delivered.latencies_ns, 0.50)
    sample.delivered_p99_ms = percentile_ms(delivered.latencies_ns, 0.99)
    sample.duplicates = delivered.duplicates
    return sample


def _sample(result: LoadResult) -> Sample:
    return Sample(
        per_second=result.per_second,
        p50_ms=result.p50_ms,
        p99_ms=result.p99_ms,
        max_ms=result.max_ms,
        load_cpu_us=result.cpu_us_per_request,
    )


def _highest(read: Callable[[], float], *, seconds: float) -> float:
    deadline = time.monotonic() + seconds
    highest = read()
    while time.monotonic() < deadline:
        time.sleep(0.1)
        highest = max(highest, read())
    return highest
