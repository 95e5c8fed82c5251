"""``python -m benchmarks`` (``make bench``): measure side by side, print a table and JSON."""

from __future__ import annotations

import argparse
import os
import platform
import signal
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

import msgspec

from benchmarks import isolation, measure
from benchmarks.flood import FLOODS, beside
from benchmarks.measure import Options, Sample
from benchmarks.report import Report, print_table
from benchmarks.subjects import (
    BenchmarkError,
    StubControl,
    Subject,
    running_bare,
    running_gateway,
    running_stub,
)

Start = Callable[[], AbstractContextManager[Subject]]
Measure = Callable[[Subject], Sample]


def main() -> None:
    """Measure as the command line says; exit 1 when a measurement or a target fails."""
    arguments = _arguments()
    # The processes that are measured end with this one, however it ends.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("benchmarks: terminated"))
    options = Options(
        rounds=arguments.rounds,
        seconds=arguments.seconds,
        warmup_seconds=arguments.warmup,
        connections=arguments.connections,
        in_flight=arguments.in_flight,
        soak_jobs=arguments.soak,
        other_jobs=arguments.other_jobs,
    )
    try:
        report = run(options, only=set(arguments.only))
    except BenchmarkError as failure:
        sys.exit(f"benchmarks: {failure}")
    print_table(report, file=sys.stdout)
    text = msgspec.json.encode(report)
    if arguments.json:
        Path(arguments.json).write_bytes(msgspec.json.format(text, indent=2) + b"\n")
    else:
        sys.stdout.write(text.decode() + "\n")
    if arguments.check and (missed := [t.name for t in report.targets() if not t.met]):
        sys.exit(f"benchmarks: missed: {', '.join(missed)}")


def run(options: Options, *, only: set[str]) -> Report:
    """Run every wanted measurement, the subjects of each taking turns."""
    report = Report(machine=_machine(), started_at=time.time(), options=options)
    with running_stub() as stub:
        gateway = partial(running_gateway, stub_port=stub.port)
        handler = partial(running_bare, "handler", stub_port=stub.port)
        forwarder = partial(running_bare, "forwarder", stub_port=stub.port)
        rounds: dict[str, tuple[Measure, dict[str, Start]]] = {
            "intake": (
                partial(_intake, options),
                {"bare": handler, "gateway": gateway},
            ),
            "delivery": (
                partial(_delivery, stub, options),
                {"bare": forwarder, "gateway": gateway},
            ),
            "fixed_rate": (
                partial(_fixed_rate, stub, options),
                {"bare": forwarder, "gateway": gateway},
            ),
            "flood": (
                partial(_quiet, options),
                {"alone": gateway, **{kind: partial(beside, gateway, kind) for kind in FLOODS}},
            ),
        }
        for name, (measured, subjects) in rounds.items():
            if name in only:
                report.rounds[name] = _take_turns(name, measured, subjects, options.rounds)
        if "isolation" in only:
            report.rounds["isolation"] = isolation.rounds(stub, options, say=_say)
        if "memory" in only:
            _say("memory: a vendor that hangs …")
            report.memory = measure.memory(stub, options)
        if options.soak_jobs:
            report.soak = measure.soak(
                stub, options, progress=lambda done: _say(f"soak: {done} jobs …")
            )
    return report


def _take_turns(
    name: str, measured: Measure, subjects: dict[str, Start], rounds: int
) -> dict[str, list[Sample]]:
    """A B A B …: what slows the machine for a while slows both."""
    samples: dict[str, list[Sample]] = {subject: [] for subject in subjects}
    for number in range(1, rounds + 1):
        for subject, start in subjects.items():
            _say(f"{name}: round {number} of {rounds}, {subject} …")
            with start() as running:
                samples[subject].append(measured(running))
    return samples


def _intake(options: Options, subject: Subject) -> Sample:
    return measure.intake(subject, options)


def _delivery(stub: StubControl, options: Options, subject: Subject) -> Sample:
    return measure.delivery(subject, stub, options)


def _fixed_rate(stub: StubControl, options: Options, subject: Subject) -> Sample:
    return measure.fixed_rate(subject, stub, options)


def _quiet(options: Options, subject: Subject) -> Sample:
    return measure.quiet(subject, options)


def _machine() -> dict[str, str | int]:
    return {
        "cpus": len(os.sched_getaffinity(0)),
        "system": platform.platform(),
        "python": platform.python_version(),
        "load_before": f"{os.getloadavg()[0]:.2f}",
    }


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def _arguments() -> argparse.Namespace:
    default = Options()
    usual = ["intake", "delivery", "fixed_rate", "memory"]
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=[*usual, "isolation", "flood"], default=usual)
    parser.add_argument("--rounds", type=int, default=default.rounds)
    parser.add_argument("--seconds", type=float, default=default.seconds)
    parser.add_argument("--warmup", type=float, default=default.warmup_seconds)
    parser.add_argument("--connections", type=int, default=default.connections)
    parser.add_argument("--in-flight", type=int, default=default.in_flight)
    parser.add_argument("--other-jobs", type=int, default=default.other_jobs)
    parser.add_argument("--soak", type=int, default=0, metavar="N", help="also deliver N jobs")
    parser.add_argument("--json", metavar="FILE", help="write the JSON there, not after the table")
    parser.add_argument("--check", action="store_true", help="fail when a target is missed")
    return parser.parse_args()


if __name__ == "__main__":
    main()
