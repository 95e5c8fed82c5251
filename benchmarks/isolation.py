"""What a dead vendor's queue costs another vendor: the same gateway three times, taking turns.

Each has taken the same webhooks for another vendor beforehand. That one answers, refuses
connections, or takes them and says nothing; so its jobs were delivered, or they wait, and all else,
the size of the tables too, is the same. All three run from the beginning to the end, so that turns
can be short and follow each other closely; but for the one whose turn it is they are stopped
(SIGSTOP), so that what a dead vendor costs is paid in its own turn alone.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from benchmarks import measure
from benchmarks.measure import Options, Sample
from benchmarks.subjects import (
    BenchmarkError,
    StubControl,
    Subject,
    dead_vendor,
    running_gateway,
)

_LEASE = "1h"  # a node that is stopped must not be taken for dead


def rounds(
    stub: StubControl, options: Options, *, say: Callable[[str], None]
) -> dict[str, list[Sample]]:
    """Return the samples of each subject: throughput at full load, latency at the fixed rate."""
    with ExitStack() as stack:
        subjects: dict[str, Subject] = {}
        for name in ("answers", "refuses", "hangs"):
            say(f"isolation: {options.other_jobs} jobs of a vendor that {name} …")
            other_port = (
                stub.port
                if name == "answers"
                else stack.enter_context(dead_vendor(hangs=name == "hangs"))
            )
            subject = stack.enter_context(
                running_gateway(stub_port=stub.port, other_port=other_port, lease=_LEASE)
            )
            stub.reset()
            accepted = measure.send(subject, options, "others", options.other_jobs)
            if name == "answers":
                stub.wait_for(accepted)
            stack.enter_context(_stopped(subject))
            subjects[name] = subject

        samples: dict[str, list[Sample]] = {name: [] for name in subjects}
        for number in range(1, options.rounds + 1):
            for name, subject in subjects.items():
                say(f"isolation: round {number} of {options.rounds}, beside one that {name} …")
                with _going(subject):
                    samples[name].append(_turn(subject, stub, options))
        for name, subject in subjects.items():
            with _going(subject):
                # Else nothing was measured. All were accepted, so what has not ended waits.
                expected = options.other_jobs if name == "answers" else 0
                if (ended := subject.finished("other")) != expected:
                    raise BenchmarkError(
                        f"a vendor that {name}: {ended} jobs ended, not {expected}"
                    )
    return samples


def _turn(subject: Subject, stub: StubControl, options: Options) -> Sample:
    before = subject.cpu_seconds()
    full = measure.delivery(subject, stub, options)
    spent = subject.cpu_seconds() - before
    delivered = stub.count().unique  # in the warm-up, too
    sample = measure.fixed_rate(subject, stub, options)
    sample.per_second, sample.load_cpu_us = full.per_second, full.load_cpu_us
    sample.cpu_us = spent * 1e6 / delivered
    return sample


@contextmanager
def _stopped(subject: Subject) -> Iterator[None]:
    os.kill(subject.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(subject.pid, signal.SIGCONT)


@contextmanager
def _going(subject: Subject) -> Iterator[None]:
    os.kill(subject.pid, signal.SIGCONT)
    try:
        # A statement that was under way when it was stopped looks as if it had hung.
        subject.wait_until_ready()
        yield
    finally:
        os.kill(subject.pid, signal.SIGSTOP)
