"""What came out: medians, ratios of each round's pair, and the targets beside them."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import TextIO

import msgspec
from rich.console import Console
from rich.table import Table

from benchmarks.measure import Memory, Options, Sample, Soak
from benchmarks.targets import Target, print_targets

INTAKE_SHARE = 0.45  # of the bare handler
DELIVERY_SHARE = 0.55  # of the bare forwarder
ANSWER_P99_MS = 25.0  # at the fixed rate
HELD_MIB = 150.0

_TITLES = {
    "intake": "(a) webhooks answered",
    "delivery": "(b) webhook → delivered",
    "fixed_rate": "(c) at a fixed rate",
    "flood": "(e) beside a flood",
}


class Report(msgspec.Struct, kw_only=True):
    """Everything measured in one run, round by round; what is printed is derived from it."""

    machine: dict[str, str | int]
    started_at: float
    options: Options
    rounds: dict[str, dict[str, list[Sample]]] = {}
    memory: Memory | None = None
    soak: Soak | None = None

    def ratios(
        self,
        name: str,
        subject: str = "gateway",
    ) -> list[float]:
        """Return *subject* : first subject, per second, of each round's pair."""
        rounds = self.rounds[name]
        base = rounds[next(iter(rounds))]
        return [
            ours.per_second / theirs.per_second if theirs.per_second else 0.0
            for ours, theirs in zip(rounds[subject], base, strict=True)
        ]

    def targets(self) -> list[Target]:
        """Return what was promised of that which was measured."""
        found: list[Target] = []
        for name, share in (("intake", INTAKE_SHARE), ("delivery", DELIVERY_SHARE)):
            if name in self.rounds:
                ratio = statistics.median(self.ratios(name))
                found.append(Target(f"{name}: share of bare", ratio, share, ".0%"))
        if "fixed_rate" in self.rounds:
            p99 = statistics.median(s.p99_ms for s in self.rounds["fixed_rate"]["gateway"])
            name = "fixed rate: p99 to the 202, ms"
            found.append(Target(name, p99, ANSWER_P99_MS, ".1f", at_most=True))
        if self.memory is not None:
            name = f"memory: {self.memory.held_jobs} jobs held, MiB"
            found.append(Target(name, self.memory.held_mib, HELD_MIB, ".0f", at_most=True))
        return found


def spread(values: Sequence[float], form: str) -> str:
    """Return the median with (lowest-highest)."""
    median = format(statistics.median(values), form)
    if len(values) == 1:
        return median
    return f"{median} ({min(values):{form}}-{max(values):{form}})"


def print_columns(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], *, file: TextIO
) -> None:
    """Print a table whose first column names what the others measured."""
    console = Console(file=file, width=None if file.isatty() else 132)
    table = Table(title=title)
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left")
    for row in rows:
        table.add_row(*row)
    console.print(table)


def print_table(report: Report, *, file: TextIO) -> None:
    """Print medians with (lowest-highest) of the rounds."""
    console = Console(file=file, width=None if file.isatty() else 132)
    table = Table(title=f"{report.options.rounds} rounds of {report.options.seconds:g} s, medians")
    for column in ("", "subject"):
        table.add_column(column)
    for column in (
        "per second",
        "202 p50 ms",
        "202 p99 ms",
        "delivered p50 ms",
        "delivered p99 ms",
    ):
        table.add_column(column, justify="right")
    table.add_column("per second : first", justify="right")
    for name, pair in report.rounds.items():
        first = next(iter(pair))
        for subject, samples in pair.items():
            table.add_row(
                _TITLES[name] if subject == first else "",
                subject,
                _spread(samples, lambda s: s.per_second, ",.0f"),
                _spread(samples, lambda s: s.p50_ms, ".1f"),
                _spread(samples, lambda s: s.p99_ms, ".1f"),
                _spread(samples, lambda s: s.delivered_p50_ms, ".1f"),
                _spread(samples, lambda s: s.delivered_p99_ms, ".1f"),
                _ratio(report.ratios(name, subject))
                if subject != first and name not in ("fixed_rate", "flood")
                else "",
            )
        table.add_section()
    if report.rounds:
        console.print(table)
    if report.memory is not None:
        memory = report.memory
        console.print(
            f"(d) memory of the process: idle {memory.idle_mib:.0f} MiB, "
            f"{memory.held_jobs:,} jobs in flight {memory.held_mib:.0f} MiB, "
            f"after them {memory.after_mib:.0f} MiB",
            highlight=False,
        )
    if report.soak is not None:
        soak = report.soak
        console.print(
            f"    soak: {soak.jobs:,} jobs at {soak.per_second:,.0f}/s, from "
            f"{soak.rss_mib[0][1]:.0f} to {soak.rss_mib[-1][1]:.0f} MiB, "
            f"growth after the first tenth {soak.growth_mib:+.1f} MiB",
            highlight=False,
        )
    print_targets(report.targets(), file=file)


def _spread(samples: list[Sample], read: Callable[[Sample], float | None], form: str) -> str:
    values = [value for sample in samples if (value := read(sample)) is not None]
    if not values:
        return ""
    median = format(statistics.median(values), form)
    if len(values) == 1:
        return median
    return f"{median}\n({min(values):{form}}-{max(values):{form}})"


def _ratio(ratios: list[float]) -> str:
    median = f"{statistics.median(ratios):.0%}"
    return median if len(ratios) == 1 else f"{median}\n({min(ratios):.0%}-{max(ratios):.0%})"
