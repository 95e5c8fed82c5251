"""What came out beside the peers: tables, the targets, and what each figure's durability is."""

from __future__ import annotations

import statistics
from typing import TextIO

import msgspec
from rich.console import Console
from rich.table import Table

from benchmarks import measure
from benchmarks.measure import Sample
from benchmarks.peers.drain import Drained
from benchmarks.report import spread
from benchmarks.targets import Target, print_targets

GATEWAY = "gateway"
EVERYSEC = "a crash of the machine loses up to a second of what was answered (appendfsync everysec)"

# What the figure was bought with. A claim about a peer is about it as it is measured here.
DURABILITY = {
    GATEWAY: "fsync before the 202; event, job and each attempt kept as rows",
    "bare handler": "stores nothing, verifies nothing",
    "bare forwarder": "stores nothing, verifies nothing; a crash loses what it holds",
    "Express + BullMQ": f"{EVERYSEC}; no history: finished jobs are removed",
    "Express + BullMQ, fsync always": (
        "fsync before the 202 (appendfsync always, which BullMQ does not recommend); no history"
    ),
    "FastAPI + Celery": (
        f"{EVERYSEC}; dedupe and queue are two steps: a crash in between loses the webhook, whose"
        " retry is then taken for a duplicate; acknowledged before it runs; no history"
    ),
    "Node-RED": (
        "stores nothing: a crash loses what was answered and not yet delivered; dedupe in memory;"
        " no retries; calls are bounded by the load generator only"
    ),
    "graphile-worker": (
        "fsync; no history: a finished job is deleted; what a killed worker held is locked for 4 h"
    ),
    "pg-boss": "fsync; a finished job is kept as one row, without its attempts",
    "pgqueuer": "fsync; a finished job is deleted, its changes of status stay in a log",
    "procrastinate": "fsync; finished jobs and their events kept",
    "BullMQ": f"{EVERYSEC}; no history: finished jobs are removed",
    "Celery": f"{EVERYSEC}; acknowledged before it runs: a killed worker loses it; no history",
}


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """How long and how hard; the defaults make a run of seven or eight minutes."""

    rounds: int = 3
    seconds: float = 4.0
    warmup_seconds: float = 1.0
    connections: int = 64
    in_flight: int = 256
    drained_jobs: int = 50_000

    def of_measure(self) -> measure.Options:
        """Return these for the measurements shared with ``make bench``."""
        return measure.Options(
            rounds=self.rounds,
            seconds=self.seconds,
            warmup_seconds=self.warmup_seconds,
            connections=self.connections,
            in_flight=self.in_flight,
        )


class Report(msgspec.Struct, kw_only=True):
    """Everything measured in one run, round by round; what is printed is derived from it."""

    machine: dict[str, str | int]
    started_at: float
    options: Options
    versions: dict[str, str]
    skipped: dict[str, str] = {}
    drain: dict[str, list[Drained]] = {}
    intake: dict[str, list[Sample]] = {}
    delivered: dict[str, list[Sample]] = {}
    half_load_per_second: float = 0.0
    half_load: list[Sample] = []

    def targets(self) -> list[Target]:
        """Return what was promised of that which was measured."""
        wanted = (
            ("intake", self.intake, "bare handler", 0.60),
            ("intake", self.intake, "Express + BullMQ", 3.0),
            ("delivered", self.delivered, "bare forwarder", 0.75),
            ("delivered", self.delivered, "Express + BullMQ", 2.2),
            ("drain", self.drain, "graphile-worker", 1.0),
            ("drain", self.drain, "pgqueuer", 1.5),
        )
        found = []
        for name, samples, peer, limit in wanted:
            if peer in samples:
                ratio = statistics.median(ratios(samples, peer))
                form = ".0%" if limit < 1 else ".2f"
                found.append(Target(f"{name}: gateway : {peer}", ratio, limit, form))
        if self.half_load:
            p99 = statistics.median(sample.p99_ms for sample in self.half_load)
            name = f"p99 to the 202 at half load ({self.half_load_per_second:,.0f}/s), ms"
            found.append(Target(name, p99, 15.0, ".1f", at_most=True))
        return found


def ratios(samples: dict[str, list[Sample]] | dict[str, list[Drained]], peer: str) -> list[float]:
    """Return gateway : *peer* of each round."""
    return [
        ours.per_second / theirs.per_second
        for ours, theirs in zip(samples[GATEWAY], samples[peer], strict=True)
    ]


def rows(report: Report) -> list[tuple[str, list[str], list[list[str]]]]:
    """Return the tables: a title, the columns, and the rows, fastest first."""
    tables = []
    if report.drain:
        columns = ["queue", "jobs", "jobs per second", "gateway : it", "durability"]
        lines = [
            [
                name,
                f"{samples[0].jobs:,}",
                spread([s.per_second for s in samples], ",.0f"),
                "" if name == GATEWAY else spread(ratios(report.drain, name), ".2f"),
                DURABILITY[name],
            ]
            for name, samples in _fastest_first(report.drain)
        ]
        tables.append(("Drain of no-op jobs", columns, lines))
    titles = (("Webhooks answered", report.intake), ("Webhook → delivered", report.delivered))
    for title, measured in titles:
        if not measured:
            continue
        columns = ["", "per second", "202 p50 ms", "202 p99 ms"]
        if measured is report.delivered:
            columns += ["delivered p50 ms", "delivered p99 ms"]
        columns += ["gateway : it", "durability"]
        lines = []
        for name, samples in _fastest_first(measured):
            line = [
                name,
                spread([s.per_second for s in samples], ",.0f"),
                spread([s.p50_ms for s in samples], ".1f"),
                spread([s.p99_ms for s in samples], ".1f"),
            ]
            if measured is report.delivered:
                line.append(spread([s.delivered_p50_ms or 0.0 for s in samples], ".1f"))
                line.append(spread([s.delivered_p99_ms or 0.0 for s in samples], ".1f"))
            line.append("" if name == GATEWAY else spread(ratios(measured, name), ".2f"))
            lines.append([*line, DURABILITY[name]])
        tables.append((title, columns, lines))
    return tables


def print_tables(report: Report, *, file: TextIO) -> None:
    """Print medians with (lowest-highest) of the rounds, and the targets."""
    console = Console(file=file, width=None if file.isatty() else 160)
    for title, columns, lines in rows(report):
        table = Table(title=title)
        for column in columns:
            text = column in ("", "queue", "durability")
            table.add_column(column, justify="left" if text else "right", ratio=2 if text else 1)
        for line in lines:
            table.add_row(*line)
        console.print(table)
    print_targets(report.targets(), file=file)
    for name, reason in report.skipped.items():
        console.print(f"skipped: {name}: {reason}", highlight=False, markup=False)


def _fastest_first(
    measured: dict[str, list[Sample]] | dict[str, list[Drained]],
) -> list[tuple[str, list[Sample] | list[Drained]]]:
    def rate(item: tuple[str, list[Sample] | list[Drained]]) -> float:
        return -statistics.median(sample.per_second for sample in item[1])

    return sorted(measured.items(), key=rate)
