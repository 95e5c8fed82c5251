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

from benchmarks import isolation, measure, overload, several, year
from benchmarks.flood import FLOODS, beside
from benchmarks.measure import Options, Sample
from benchmarks.report import Report, print_columns, print_table
from benchmarks.subjects import (
    BenchmarkError,
    StubControl,
    Subject,
    running_bare,
    running_gateway,
    running_stub,
)
from benchmarks.targets import Target, print_targets

ALONE = ("isolation", "overload", "year", "processes")

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
        if arguments.only[0] in ALONE:
            run_alone(arguments, options)
            return
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
                {
                    "alone": gateway,
                    **{kind: partial(beside, gateway, kind, elsewhere=handler) for kind in FLOODS},
                },
            ),
        }
        for name, (measured, subjects) in rounds.items():
            if name in only:
                report.rounds[name] = _take_turns(name, measured, subjects, options.rounds)
        if "memory" in only:
            _say("memory: a vendor that hangs …")
            report.memory = measure.memory(stub, options)
        if options.soak_jobs:
            report.soak = measure.soak(
                stub, options, progress=lambda done: _say(f"soak: {done} jobs …")
            )
    return report


def run_alone(arguments: argparse.Namespace, options: Options) -> None:
    """Run the measurements that take long and have tables of their own."""
    found: dict[str, object] = {
        "machine": _machine(),
        "started_at": time.time(),
        "options": options,
    }
    promised: list[Target] = []
    unmet: list[str] = []
    with running_stub() as stub:
        for name in arguments.only:
            if name == "isolation":
                beside_dead = isolation.measure_isolation(stub, options, say=_say)
                isolation.print_isolation(beside_dead, file=sys.stdout)
                shares = beside_dead.shares()
                unmet += [
                    f"{s.beside}, {s.figure} ({s.verdict})" for s in shares if s.verdict != "met"
                ]
                found[name] = shares
            elif name == "overload":
                rounds = []
                for number in range(1, options.rounds + 1):
                    _say(f"overload: round {number} of {options.rounds} …")
                    rounds.append(
                        overload.measure_round(stub, options, seconds=arguments.duration or 30.0)
                    )
                print_columns("overload", *overload.table(rounds), file=sys.stdout)
                promised += overload.targets(rounds)
                found[name] = rounds
            elif name == "year":
                measured = year.measure_year(
                    stub,
                    options,
                    finished=arguments.finished,
                    waiting=arguments.waiting,
                    held_seconds=arguments.duration or 120.0,
                    keep=Path(arguments.keep) if arguments.keep else None,
                )
                title = f"year: {year.told(measured)}"
                print_columns(title, *year.table(measured), file=sys.stdout)
                promised += year.targets(measured)
                found[name] = measured
            elif name == "processes":
                counted = several.measure_processes(stub, options)
                title = f"processes, on {len(os.sched_getaffinity(0))} cores"
                print_columns(title, *several.table(counted), file=sys.stdout)
                found[name] = counted
            else:
                sys.exit(f"benchmarks: {name} cannot run together with {arguments.only[0]}")
    print_targets(promised, file=sys.stdout)
    if arguments.json:
        text = msgspec.json.format(msgspec.json.encode(found), indent=2)
        Path(arguments.json).write_bytes(text + b"\n")
    unmet += [target.name for target in promised if not target.met]
    if arguments.check and unmet:
        sys.exit(f"benchmarks: missed: {', '.join(unmet)}")


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
    choices = [*usual, "flood", *ALONE]
    parser.add_argument("--only", nargs="+", choices=choices, default=usual)
    parser.add_argument("--rounds", type=int, default=default.rounds)
    parser.add_argument("--seconds", type=float, default=default.seconds)
    parser.add_argument("--warmup", type=float, default=default.warmup_seconds)
    parser.add_argument("--connections", type=int, default=default.connections)
    parser.add_argument("--in-flight", type=int, default=default.in_flight)
    parser.add_argument("--other-jobs", type=int, default=default.other_jobs)
    parser.add_argument("--soak", type=int, default=0, metavar="N", help="also deliver N jobs")
    parser.add_argument("--duration", type=float, metavar="S", help="of overload or held snapshot")
    parser.add_argument("--finished", type=int, default=10_000_000, help="jobs of the year")
    parser.add_argument("--waiting", type=int, default=1_000_000, help="jobs, beside them")
    parser.add_argument("--keep", metavar="DIR", help="where the year's data are, or are to stay")
    parser.add_argument("--json", metavar="FILE", help="write the JSON there, not after the table")
    parser.add_argument("--check", action="store_true", help="fail when a target is missed")
    return parser.parse_args()


if __name__ == "__main__":
    main()
