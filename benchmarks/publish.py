"""``python -m benchmarks.publish [--peers FILE] [--profile FILE] [--alone FILE …]``: to the docs.

The JSON of ``benchmarks.peers``, of ``benchmarks.profile``, and of ``benchmarks --only`` year,
processes or overload goes to ``docs/benchmarks/``, plots are drawn beside it, and the marked parts
of ``docs/benchmarks.md`` are written anew from what is there. The text around the marks stays.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from benchmarks import overload, several, year
from benchmarks import profile as profiling
from benchmarks.peers import report as peers
from benchmarks.plots import bars
from benchmarks.profile import Profile
from benchmarks.report import spread
from benchmarks.targets import Target

DOCS = Path(__file__).parents[1] / "docs"
FIGURES = DOCS / "benchmarks"
IDLE_CPU_SHARE = 0.01
IDLE_STATEMENTS = 5.0
FILES = ("year", "processes", "overload")  # of measurements that run alone

_NAMED = (
    "graphile-worker", "pg-boss", "pgqueuer", "procrastinate", "bullmq", "celery", "express",
    "fastapi", "node-red", "node", "redis",
)  # fmt: skip


def main() -> None:
    """Take over what is given, and write the docs from what is there."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.publish", description=__doc__)
    parser.add_argument("--peers", type=Path, metavar="FILE")
    parser.add_argument("--profile", type=Path, metavar="FILE")
    parser.add_argument("--alone", type=Path, nargs="+", default=[], metavar="FILE")
    arguments = parser.parse_args()
    FIGURES.mkdir(exist_ok=True)
    for name in ("peers", "profile"):
        if (given := getattr(arguments, name)) is not None:
            (FIGURES / f"{name}.json").write_bytes(given.read_bytes())
    for given in arguments.alone:
        take_over(msgspec.json.decode(given.read_bytes(), type=Alone))
    report, profile, alone = kept()
    for name, drawing in (draw(report) | draw_alone(alone)).items():
        (FIGURES / f"{name}.svg").write_text(drawing)
    page = DOCS / "benchmarks.md"
    page.write_text(rendered(page.read_text(), report, profile, alone))


def kept() -> tuple[peers.Report, Profile, dict[str, Alone]]:
    """Return the figures that are published."""
    report = msgspec.json.decode((FIGURES / "peers.json").read_bytes(), type=peers.Report)
    profile = msgspec.json.decode((FIGURES / "profile.json").read_bytes(), type=Profile)
    alone = {
        name: msgspec.json.decode((FIGURES / f"{name}.json").read_bytes(), type=Alone)
        for name in FILES
    }
    return report, profile, alone


class Alone(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What measurements that run alone have written: one or several of them."""

    started_at: float
    machine: dict[str, str | int]
    year: year.Year | None = None
    processes: list[several.Processes] = []
    overload: list[overload.Overload] = []


def take_over(found: Alone) -> None:
    """Keep each measurement in a file of its own, without the overload's single seconds."""
    for measured in found.overload:
        measured.phases = []
    for name in FILES:
        if measured := getattr(found, name):
            one = Alone(started_at=found.started_at, machine=found.machine, **{name: measured})
            text = msgspec.json.format(msgspec.json.encode(one), indent=2)
            (FIGURES / f"{name}.json").write_bytes(text + b"\n")


def rendered(page: str, report: peers.Report, profile: Profile, alone: Mapping[str, Alone]) -> str:
    """Return *page* with its marked parts written anew."""
    parts = {
        "targets": _targets(report, profile, alone),
        "peers": _peers(report),
        "profile": _profile(profile),
        **{name: _alone(found) for name, found in alone.items()},
    }
    for mark, part in parts.items():
        page = replaced(page, mark, part)
    return page


def draw(report: peers.Report) -> dict[str, str]:
    """Return the plots by the name of their file."""
    plots = {}
    for name, title, unit, measured in (
        ("drain", "Drain of no-op jobs", "jobs per second", report.drain),
        ("intake", "Webhooks answered", "per second", report.intake),
        ("delivered", "Webhook → delivered", "per second", report.delivered),
    ):
        if measured:
            rates = {
                subject: [sample.per_second for sample in samples]
                for subject, samples in measured.items()
            }
            plots[name] = bars(title, unit, rates, ours=peers.GATEWAY)
    return plots


def draw_alone(alone: Mapping[str, Alone]) -> dict[str, str]:
    """Return the plots of what runs alone."""
    plots = {}
    if (found := alone.get("processes")) is not None:
        rates = {
            f"{what}, {count} process{'es' if count > 1 else ''}": [
                getattr(one, what) for one in found.processes if one.count == count
            ]
            for what in ("intake", "delivered")
            for count in several.COUNTS
        }
        plots["processes"] = bars("Several processes", "per second", rates, largest_first=False)
    if (found := alone.get("year")) is not None and found.year is not None:
        rates = {
            f"{what}, {name}": [getattr(figures, what) for figures in rounds]
            for what in ("intake", "drain")
            for name, rounds in (
                ("fresh", found.year.fresh),
                ("after a year", found.year.filled),
                ("and a held transaction", found.year.held),
            )
        }
        plots["year"] = bars("After a year", "per second", rates, largest_first=False)
    return plots


def replaced(text: str, mark: str, part: str) -> str:
    """Return *text* with what is between the two comments of *mark* replaced by *part*."""
    begin, end = f"<!-- {mark} -->", f"<!-- /{mark} -->"
    before, found, rest = text.partition(begin)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        sys.exit(f"docs/benchmarks.md: expected {begin} … {end}; put them back")
    return f"{before}{begin}\n{part.strip()}\n{end}{after}"


def _targets(report: peers.Report, profile: Profile, alone: Mapping[str, Alone]) -> str:
    targets = report.targets()
    if profile.idle:
        idle = profile.idle
        targets += [
            Target("idle: share of a core", idle.cpu_share, IDLE_CPU_SHARE, ".2%", True),
            Target(
                "idle: statements per second", idle.statements_per_second, IDLE_STATEMENTS, ".2f",
                True,
            ),
        ]  # fmt: skip
    if (found := alone.get("year")) is not None and found.year is not None:
        targets += year.targets(found.year)
    if (found := alone.get("overload")) is not None:
        targets += overload.targets(found.overload)
    lines = [
        [
            target.name,
            target.bound,
            f"{target.value:{target.form}}",
            "met" if target.met else "**missed**",
        ]
        for target in targets
    ]
    return _table(["", "target", "measured", ""], lines)


def _peers(report: peers.Report) -> str:
    options, machine = report.options, report.machine
    versions = ", ".join(f"{name} {report.versions[name]}" for name in _NAMED)
    parts = [
        (
            f"Measured on {_day(report.started_at)}: {machine['cpus']} cores of {machine['cpu']}, "
            f"{machine['memory_gib']} GiB, {machine['system']}, Python {machine['python']}. "
            f"{options.rounds} alternating rounds of {options.seconds:g} s after "
            f"{options.warmup_seconds:g} s; {options.connections} connections, 64 calls at a time, "
            f"at most {options.in_flight} undelivered. Median (lowest-highest). "
            f"Versions: {versions}."
        )
    ]
    names = {"Drain of no-op jobs": "drain", "Webhooks answered": "intake"}
    for title, columns, lines in peers.rows(report):
        plot = names.get(title, "delivered")
        parts.append(f"### {title}\n\n![{title}](benchmarks/{plot}.svg)")
        parts.append(_table(columns, lines))
    if report.half_load:
        sample = report.half_load
        parts.append(
            f"At half of its maximum, {report.half_load_per_second:,.0f} webhooks per second each "
            "delivered at once, the gateway answers within "
            f"{spread([s.p50_ms for s in sample], '.1f')} ms (p50) and "
            f"{spread([s.p99_ms for s in sample], '.1f')} ms (p99), and delivers within "
            f"{spread([s.delivered_p50_ms or 0.0 for s in sample], '.1f')} ms and "
            f"{spread([s.delivered_p99_ms or 0.0 for s in sample], '.1f')} ms."
        )
    if report.skipped:
        parts.append("Left out: " + "; ".join(f"{k} ({v})" for k, v in report.skipped.items()))
    return "\n\n".join(parts)


def _profile(profile: Profile) -> str:
    parts = [f"Measured on {_day(profile.started_at)}, {profile.cpus} cores."]
    for title, columns, lines in profiling.tables(profile):
        parts.append(f"### {title}")
        parts.append(_table(columns, lines))
    return "\n\n".join(parts)


def _alone(found: Alone) -> str:
    day, cores = _day(found.started_at), found.machine["cpus"]
    if found.year is not None:
        return (
            f"Measured on {day}, {cores} cores, {len(found.year.fresh)} rounds in turns: "
            f"{year.told(found.year)}.\n\n![After a year](benchmarks/year.svg)\n\n"
            + _table(*year.table(found.year))
        )
    if found.processes:
        return (
            f"Measured on {day}; everything, load, vendor and PostgreSQL included, shares {cores} "
            "cores.\n\n![Several processes](benchmarks/processes.svg)\n\n"
            + _table(*several.table(found.processes))
        )
    rounds, seconds = len(found.overload), found.overload[0].seconds
    return (
        f"Measured on {day}, {cores} cores; {rounds} × {seconds:,.0f} s of it.\n\n"  # noqa: RUF001
        + _table(*overload.table(found.overload))
    )


def _day(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d}"


def _table(columns: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    text = ("", "queue", "durability", "statement", "stage")
    rule = ["---" if column in text else "---:" for column in columns]
    rows = [columns, rule, *lines]
    return "\n".join("| " + " | ".join(cell.strip() for cell in row) + " |" for row in rows)


if __name__ == "__main__":
    main()
