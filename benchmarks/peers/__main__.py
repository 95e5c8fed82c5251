"""``python -m benchmarks.peers`` (``make bench-peers``): the gateway beside what one would pick."""

from __future__ import annotations

import argparse
import os
import platform
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import TypeVar

import msgspec

from benchmarks import measure
from benchmarks.measure import Sample
from benchmarks.peers import drain
from benchmarks.peers.drain import Drained
from benchmarks.peers.install import Installed, install
from benchmarks.peers.report import GATEWAY, Options, Report, print_tables
from benchmarks.peers.subjects import webhook_peers
from benchmarks.subjects import (
    BenchmarkError,
    StubControl,
    Subject,
    running_bare,
    running_gateway,
    running_stub,
)

EVERYTHING = ("drain", "intake", "delivered", "half_load")
FOLDER = Path(tempfile.gettempdir()) / f"gateway-bench-peers-{os.getuid()}"

Start = Callable[[], AbstractContextManager[Subject]]
Result = TypeVar("Result")


def main() -> None:
    """Install, measure, print the tables and the targets, write the JSON."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what runs is ended too
    arguments = _arguments()
    options = Options(
        rounds=arguments.rounds,
        seconds=arguments.seconds,
        warmup_seconds=arguments.warmup,
        drained_jobs=arguments.jobs,
    )
    installed = install(_private(arguments.folder), _say)
    report = Report(
        machine=_machine(),
        started_at=time.time(),
        options=options,
        versions=installed.versions,
    )
    if arguments.into and arguments.into.exists():
        earlier = msgspec.json.decode(arguments.into.read_bytes(), type=Report)
        for name in ("skipped", "drain", "intake", "delivered"):
            setattr(report, name, getattr(earlier, name))
        report.half_load, report.half_load_per_second = (
            earlier.half_load,
            earlier.half_load_per_second,
        )
    only = set(arguments.peers)
    try:
        run(report, installed, set(arguments.only), wanted=lambda name: not only or name in only)
    except BenchmarkError as failure:
        sys.exit(f"benchmarks: {failure}")
    print_tables(report, file=sys.stdout)
    text = msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n"
    target = arguments.into or arguments.json or installed.folder / "peers.json"
    target.write_bytes(text)
    _say(f"peers: {time.time() - report.started_at:.0f} s; the JSON is in {target}")


def run(
    report: Report, installed: Installed, measurements: set[str], wanted: Callable[[str], bool]
) -> None:
    """Take every measurement in turns, and note in the report what was left out and why."""
    with running_stub() as stub:
        if "drain" in measurements:
            report.drain = _take_turns(report, "drain", _drains(report, installed, stub, wanted))
        options = report.options.of_measure()
        for name, bare in (("intake", "handler"), ("delivered", "forwarder")):
            if name not in measurements:
                continue
            starts: dict[str, Start] = {
                f"bare {bare}": partial(running_bare, bare, stub_port=stub.port),
                GATEWAY: partial(running_gateway, stub_port=stub.port),
            }
            for peer, (needs, start) in webhook_peers(installed).items():
                if wanted(peer) and _available(report, installed, peer, needs):
                    starts[peer] = partial(start, stub.port)
            acts = {
                subject: partial(_webhooks, name, start, stub, options)
                for subject, start in starts.items()
            }
            setattr(report, name, _take_turns(report, name, acts))
        if "half_load" in measurements and GATEWAY in report.delivered:
            half = statistics.median(s.per_second for s in report.delivered[GATEWAY]) / 2
            act = partial(_half_load, stub, msgspec.structs.replace(options, fixed_rate=half))
            report.half_load_per_second = half
            report.half_load = _take_turns(report, "half load", {GATEWAY: act})[GATEWAY]


def _drains(
    report: Report, installed: Installed, stub: StubControl, wanted: Callable[[str], bool]
) -> dict[str, Callable[[], Drained]]:
    jobs = report.options.drained_jobs
    acts: dict[str, Callable[[], Drained]] = {
        GATEWAY: partial(drain.drain_gateway, jobs=jobs, stub_port=stub.port)
    }
    peers: dict[str, tuple[tuple[str, ...], Callable[[], Drained]]] = {
        name: (
            ("node",) if queue.program.endswith(".mjs") else ("python",),
            partial(drain.drain_postgres, installed, queue, jobs=jobs),
        )
        for name, queue in drain.POSTGRES_QUEUES.items()
    }
    peers["BullMQ"] = (("node", "redis"), partial(drain.drain_bullmq, installed, jobs=jobs))
    peers["Celery"] = (("python", "redis"), partial(drain.drain_celery, installed, jobs=jobs))
    for name, (needs, act) in peers.items():
        if wanted(name) and _available(report, installed, name, needs):
            acts[name] = act
    return acts


def _available(report: Report, installed: Installed, name: str, needs: tuple[str, ...]) -> bool:
    reasons = [f"{need}: {installed.missing[need]}" for need in needs if need in installed.missing]
    if reasons:
        report.skipped[name] = "; ".join(reasons)
        _say(f"peers: {name} is skipped ({report.skipped[name]})")
    return not reasons


def _take_turns(
    report: Report, what: str, acts: dict[str, Callable[[], Result]]
) -> dict[str, list[Result]]:
    """A B C A B C …; a peer that fails is left out from then on, the gateway may not."""
    results: dict[str, list[Result]] = {}
    for number in range(1, report.options.rounds + 1):
        for name, act in list(acts.items()):
            began = time.monotonic()
            try:
                result = act()
            except BenchmarkError as failure:
                if name == GATEWAY or name.startswith("bare "):
                    raise
                report.skipped[f"{name} ({what})"] = str(failure)
                results.pop(name, None)
                del acts[name]
                _say(f"{what}: {name} failed and is skipped: {failure}")
                continue
            results.setdefault(name, []).append(result)
            per_second: float = result.per_second  # type: ignore[attr-defined]
            _say(
                f"{what}: round {number} of {report.options.rounds}, {name}: "
                f"{per_second:,.0f}/s ({time.monotonic() - began:.0f} s)"
            )
    return results


def _webhooks(name: str, start: Start, stub: StubControl, options: measure.Options) -> Sample:
    with start() as subject:
        if name == "intake":
            return measure.intake(subject, options)
        return measure.delivery(subject, stub, options)


def _half_load(stub: StubControl, options: measure.Options) -> Sample:
    with running_gateway(stub_port=stub.port) as gateway:
        return measure.fixed_rate(gateway, stub, options)


def _private(folder: Path) -> Path:
    """Return *folder*, made if need be. It must be ours, since we run what is in it."""
    folder = folder.absolute()
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if folder.stat().st_uid != os.getuid():
        sys.exit(f"benchmarks: {folder} belongs to somebody else; choose another with --folder")
    return folder


def _machine() -> dict[str, str | int]:
    model = next(
        (
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    return {
        "cpus": len(os.sched_getaffinity(0)),
        "cpu": model,
        "memory_gib": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30),
        "system": platform.platform(),
        "python": platform.python_version(),
        "load_before": f"{os.getloadavg()[0]:.2f}",
    }


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def _arguments() -> argparse.Namespace:
    default = Options()
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=EVERYTHING, default=EVERYTHING)
    parser.add_argument("--peers", nargs="+", default=[], metavar="NAME", help="default: all")
    parser.add_argument("--rounds", type=int, default=default.rounds)
    parser.add_argument("--seconds", type=float, default=default.seconds)
    parser.add_argument("--warmup", type=float, default=default.warmup_seconds)
    parser.add_argument("--jobs", type=int, default=default.drained_jobs, help="queued ahead")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where peers are installed")
    parser.add_argument("--json", type=Path, metavar="FILE", help="default: in the folder")
    parser.add_argument(
        "--into", type=Path, metavar="FILE", help="a JSON whose other measurements are kept"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
