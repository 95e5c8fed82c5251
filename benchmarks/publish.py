"""``python -m benchmarks.publish [--peers FILE] [--profile FILE]``: results into the docs.

The JSON of ``benchmarks.peers`` and of ``benchmarks.profile`` goes to ``docs/benchmarks/``, plots
are drawn beside it, and the marked parts of ``docs/benchmarks.md`` are written anew from what is
there. The text around the marks stays.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from benchmarks import profile as profiling
from benchmarks.peers import report as peers
from benchmarks.plots import bars
from benchmarks.profile import Profile

DOCS = Path(__file__).parents[1] / "docs"
FIGURES = DOCS / "benchmarks"
IDLE_CPU_SHARE = 0.01
IDLE_STATEMENTS = 5.0

_NAMED = (
    "graphile-worker", "pg-boss", "pgqueuer", "procrastinate", "bullmq", "celery", "express",
    "fastapi", "node-red", "node", "redis",
)  # fmt: skip


def main() -> None:
    """Take over what is given, and write the docs from what is there."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.publish", description=__doc__)
    parser.add_argument("--peers", type=Path, metavar="FILE")
    parser.add_argument("--profile", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    FIGURES.mkdir(exist_ok=True)
    for name in ("peers", "profile"):
        if (given := getattr(arguments, name)) is not None:
            (FIGURES / f"{name}.json").write_bytes(given.read_bytes())
    report = msgspec.json.decode((FIGURES / "peers.json").read_bytes(), type=peers.Report)
    profile = msgspec.json.decode((FIGURES / "profile.json").read_bytes(), type=Profile)
    for name, drawing in draw(report).items():
        (FIGURES / f"{name}.svg").write_text(drawing)
    page = DOCS / "benchmarks.md"
    page.write_text(rendered(page.read_text(), report, profile))


def rendered(page: str, report: peers.Report, profile: Profile) -> str:
    """Return *page* with its marked parts written anew."""
    parts = {
        "targets": _targets(report, profile),
        "peers": _peers(report),
        "profile": _profile(profile),
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


def replaced(text: str, mark: str, part: str) -> str:
    """Return *text* with what is between the two comments of *mark* replaced by *part*."""
    begin, end = f"<!-- {mark} -->", f"<!-- /{mark} -->"
    before, found, rest = text.partition(begin)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        sys.exit(f"docs/benchmarks.md: expected {begin} … {end}; put them back")
    return f"{before}{begin}\n{part.strip()}\n{end}{after}"


def _targets(report: peers.Report, profile: Profile) -> str:
    targets = report.targets()
    if profile.idle:
        idle = profile.idle
        targets += [
            peers.Target("idle: share of a core", idle.cpu_share, IDLE_CPU_SHARE, ".2%", True),
            peers.Target(
                "idle: statements per second", idle.statements_per_second, IDLE_STATEMENTS, ".2f",
                True,
            ),
        ]  # fmt: skip
    lines = [
        [
            target.name,
            f"{'≤' if target.at_most else '≥'} {target.limit:{target.form}}",
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
            f"{peers.spread([s.p50_ms for s in sample], '.1f')} ms (p50) and "
            f"{peers.spread([s.p99_ms for s in sample], '.1f')} ms (p99), and delivers within "
            f"{peers.spread([s.delivered_p50_ms or 0.0 for s in sample], '.1f')} ms and "
            f"{peers.spread([s.delivered_p99_ms or 0.0 for s in sample], '.1f')} ms."
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


def _day(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d}"


def _table(columns: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    text = ("", "queue", "durability", "statement", "stage")
    rule = ["---" if column in text else "---:" for column in columns]
    rows = [columns, rule, *lines]
    return "\n".join("| " + " | ".join(cell.strip() for cell in row) + " |" for row in rows)


if __name__ == "__main__":
    main()
