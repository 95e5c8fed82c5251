"""What a dead vendor's queue costs another vendor: the same gateway three times, taking turns.

Each has taken the same webhooks for another vendor beforehand. That one answers, refuses
connections, or takes them and says nothing; so its jobs were delivered, or they wait, and all else,
the size of the tables too, is the same. All three run from the beginning to the end, so that turns
are short and follow each other closely; but for the one whose turn it is they are stopped
(SIGSTOP), with their PostgreSQL: what a dead vendor costs is paid in its own turn alone, and no
checkpoint of one falls into another's.

A shared machine moves the figures of single turns by more than a tenth, of the control's, too, and
holds up a turn now and then for a quarter of a second, which is more than one in a hundred of all
its latencies. So the p99 that is judged is the median of the turns'; that of all latencies together
is told beside it. Each share has an interval: how it moves when the turns are drawn again with
replacement, the same ones for both, since a bad moment hits neighbours alike (bootstrap). A target
is met or missed by the whole interval; else the run has not decided it.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from itertools import chain
from random import Random
from statistics import median
from typing import TextIO

import asyncpg
import msgspec

from benchmarks import measure
from benchmarks.load import LoadSpec, percentile_ms
from benchmarks.measure import Options
from benchmarks.subjects import (
    SECRET,
    BenchmarkError,
    StubControl,
    Subject,
    dead_vendor,
    running_gateway,
)

CONTROL, *DEAD = "answers", "refuses", "hangs"
CHANGE = 0.10  # by how much a dead vendor's queue may change another vendor's figures

_TURNS_PER_ROUND = 5
_FULL_SECONDS, _FIXED_SECONDS, _WARMUP_SECONDS = 1.0, 2.0, 0.4
_DRAWS = 500
_LEASE = "1h"  # a node that is stopped must not be taken for dead


class Turn(msgspec.Struct, frozen=True, kw_only=True):
    """One subject's figures of one turn: at full load, and the latencies at the fixed rate."""

    arrived: int
    seconds: float
    delivered: int  # with the warm-up's, as the CPU time is
    cpu_seconds: float  # of the gateway and its PostgreSQL
    latencies_ns: list[int]  # in order


class Share(msgspec.Struct, frozen=True, kw_only=True):
    """A dead vendor's neighbour against the control, and what is promised of it."""

    beside: str
    figure: str
    value: float
    low: float
    high: float
    limit: float
    at_most: bool

    @property
    def verdict(self) -> str:
        """Say whether the whole interval keeps the limit, or breaks it."""
        worst, best = (self.high, self.low) if self.at_most else (self.low, self.high)
        if self._keeps(worst):
            return "met"
        return "undecided" if self._keeps(best) else "missed"

    def _keeps(self, value: float) -> bool:
        return value <= self.limit if self.at_most else value >= self.limit


class Isolation(msgspec.Struct, kw_only=True):
    """What was found: each subject's turns, and what follows from them."""

    turns: dict[str, list[Turn]]

    def shares(self) -> list[Share]:
        """Return every promise with its share and interval."""
        figures = (
            ("throughput", _per_second, 1.0 - CHANGE, False),
            ("delivered p99", _usual_p99_ms, 1.0 + CHANGE, True),
            ("CPU per webhook", _cpu_us, 1.0 + CHANGE, True),
        )
        found = []
        for beside in DEAD:
            ours, theirs = self.turns[beside], self.turns[CONTROL]
            for figure, read, limit, at_most in figures:
                low, high = _interval(ours, theirs, read)
                found.append(
                    Share(
                        beside=beside,
                        figure=figure,
                        value=read(ours) / read(theirs),
                        low=low,
                        high=high,
                        limit=limit,
                        at_most=at_most,
                    )
                )
        return found


def measure_isolation(
    stub: StubControl, options: Options, *, say: Callable[[str], None]
) -> Isolation:
    """Fill three gateways, and let them take turns."""
    with ExitStack() as stack:
        subjects: dict[str, Subject] = {}
        for name in (CONTROL, *DEAD):
            say(f"isolation: {options.other_jobs} jobs of a vendor that {name} …")
            subject = stack.enter_context(_filled(name, stub, options))
            stack.enter_context(_stopped(subject))
            subjects[name] = subject

        turns: dict[str, list[Turn]] = {name: [] for name in subjects}
        order = list(subjects)
        for number in range(1, options.rounds * _TURNS_PER_ROUND + 1):
            say(f"isolation: turn {number} of {options.rounds * _TURNS_PER_ROUND} …")
            for name in order:
                with _going(subjects[name]):
                    turns[name].append(_turn(subjects[name], stub, options))
            order.append(order.pop(0))  # nobody always follows the same one

        for name, subject in subjects.items():
            with _going(subject):
                # Else nothing was measured. All were accepted, so what has not ended waits.
                expected = options.other_jobs if name == CONTROL else 0
                if (ended := subject.finished("other")) != expected:
                    raise BenchmarkError(
                        f"a vendor that {name}: {ended} jobs ended, not {expected}"
                    )
    return Isolation(turns=turns)


def print_isolation(found: Isolation, *, file: TextIO) -> None:
    """Print each subject's figures, each share with its interval, and the verdict on all."""
    shares = found.shares()
    file.writelines(_figures(name, turns) for name, turns in found.turns.items())
    file.writelines(_judged(share) for share in shares)
    verdicts = {share.verdict for share in shares}
    verdict = next(word for word in ("missed", "undecided", "met") if word in verdicts)
    advice = "; more --rounds narrow the intervals" if verdict == "undecided" else ""
    file.write(f"isolation: {verdict}{advice}\n")


def _figures(name: str, turns: Sequence[Turn]) -> str:
    count = sum(len(turn.latencies_ns) for turn in turns)
    return (
        f"beside a vendor that {name + ':':<9} {_per_second(turns):>6,.0f}/s, delivered p50 "
        f"{_p50_ms(turns):.1f} ms, p99 {_usual_p99_ms(turns):.1f} ms "
        f"({_p99_ms(turns):.1f} ms of all {count:,}), CPU {_cpu_us(turns):.0f} us "
        f"({len(turns)} turns)\n"
    )


def _judged(share: Share) -> str:
    bound = "at most" if share.at_most else "at least"
    return (
        f"  {share.beside}, {share.figure + ':':<16} {share.value:.2f} of the control's, 95 % "
        f"between {share.low:.2f} and {share.high:.2f}, "
        f"{bound} {share.limit:.2f}: {share.verdict}\n"
    )


@contextmanager
def _filled(name: str, stub: StubControl, options: Options) -> Iterator[Subject]:
    """Start a gateway and send it all webhooks for its other vendor; its tables are tidy then."""
    with ExitStack() as stack:
        other_port = (
            stub.port
            if name == CONTROL
            else stack.enter_context(dead_vendor(hangs=name == "hangs"))
        )
        subject = stack.enter_context(
            running_gateway(stub_port=stub.port, other_port=other_port, lease=_LEASE)
        )
        stub.reset()
        accepted = measure.send(subject, options, "others", options.other_jobs)
        if name == CONTROL:
            stub.wait_for(accepted)
        # What PostgreSQL would else do in the background, at anybody's cost.
        asyncio.run(_tidy(subject.dsn))
        yield subject


async def _tidy(dsn: str) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute("VACUUM (ANALYZE)")
    finally:
        await connection.close()


def _turn(subject: Subject, stub: StubControl, options: Options) -> Turn:
    before = subject.cpu_seconds()
    spec = _spec(subject, options, _FULL_SECONDS)
    spec.watch_port, spec.in_flight = stub.port, options.in_flight
    full = measure.deliver(spec, stub)
    cpu_seconds = subject.cpu_seconds() - before
    spec = _spec(subject, options, _FIXED_SECONDS)
    spec.rate = options.fixed_rate
    return Turn(
        arrived=full.arrived_in_window,
        seconds=_FULL_SECONDS,
        delivered=full.unique,
        cpu_seconds=cpu_seconds,
        latencies_ns=measure.deliver(spec, stub).latencies_ns,
    )


def _spec(subject: Subject, options: Options, seconds: float) -> LoadSpec:
    return LoadSpec(
        port=subject.port,
        path="/webhooks/delivered",
        secret=SECRET,
        connections=options.connections,
        warmup_seconds=_WARMUP_SECONDS,
        seconds=seconds,
    )


@contextmanager
def _stopped(subject: Subject) -> Iterator[None]:
    _signal(subject, signal.SIGSTOP)
    try:
        yield
    finally:
        _signal(subject, signal.SIGCONT)


@contextmanager
def _going(subject: Subject) -> Iterator[None]:
    _signal(subject, signal.SIGCONT)
    try:
        # A statement that was under way when it was stopped looks as if it had hung.
        subject.wait_until_ready()
        yield
    finally:
        _signal(subject, signal.SIGSTOP)


def _signal(subject: Subject, number: signal.Signals) -> None:
    for pid in subject.family():
        with suppress(ProcessLookupError):
            os.kill(pid, number)


# Figures of several turns as one ----------------------------------------------------------------

Read = Callable[[Sequence[Turn]], float]


def _per_second(turns: Sequence[Turn]) -> float:
    return sum(turn.arrived for turn in turns) / sum(turn.seconds for turn in turns)


def _cpu_us(turns: Sequence[Turn]) -> float:
    return 1e6 * sum(turn.cpu_seconds for turn in turns) / sum(turn.delivered for turn in turns)


def _p50_ms(turns: Sequence[Turn]) -> float:
    return percentile_ms(sorted(chain.from_iterable(turn.latencies_ns for turn in turns)), 0.50)


def _p99_ms(turns: Sequence[Turn]) -> float:
    """Return the nearest-rank p99 of all turns' latencies together."""
    count = sum(len(turn.latencies_ns) for turn in turns)
    above = count - int(count * 0.99)  # it and all above it: no turn has more of them
    tail = sorted(chain.from_iterable(turn.latencies_ns[-above:] for turn in turns))
    return tail[-above] / 1e6


def _usual_p99_ms(turns: Sequence[Turn]) -> float:
    """Return the median of the turns' own p99."""
    return median(percentile_ms(turn.latencies_ns, 0.99) for turn in turns)


def _interval(ours: Sequence[Turn], theirs: Sequence[Turn], read: Read) -> tuple[float, float]:
    """Return between what values 95 % of the shares lie when the turns are drawn again."""
    random = Random(1)  # the same turns give the same interval
    shares = []
    for _ in range(_DRAWS):
        drawn = random.choices(range(len(ours)), k=len(ours))
        shares.append(read([ours[at] for at in drawn]) / read([theirs[at] for at in drawn]))
    shares.sort()
    return shares[_DRAWS // 40], shares[-_DRAWS // 40]
