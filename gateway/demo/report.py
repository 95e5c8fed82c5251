"""What happened in a run of the demo: counted in the database, told in a few lines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import ceil
from typing import Any
from uuid import UUID

import msgspec

from gateway.demo.sending import Sending
from gateway.demo.standin import StandIn
from gateway.model import FINAL_STATES, JobState
from gateway.store.database import Database

DEAD_SHOWN = 10

# $1 is the lowest id that anything of this run can have.
_COUNTS = """
SELECT (SELECT count(*) FROM gateway.events WHERE id >= $1) AS events,
       (SELECT coalesce(sum(duplicates), 0)
        FROM gateway.dedupe_keys WHERE event_id >= $1) AS duplicates,
       (SELECT count(*) FROM gateway.attempts WHERE job_id >= $1) AS attempts,
       (SELECT count(*) FROM gateway.attempts WHERE job_id >= $1 AND attempt > 1) AS retries
"""
_STATES = "SELECT state::text, count(*) AS jobs FROM gateway.jobs WHERE id >= $1 GROUP BY state"
_DEAD = """
SELECT id, route, attempt, last_error FROM gateway.jobs
WHERE id >= $1 AND state = 'dead' ORDER BY id LIMIT $2
"""
_FAILURES = """
SELECT error, count(*) AS attempts FROM gateway.attempts
WHERE job_id >= $1 AND error IS NOT NULL GROUP BY error ORDER BY attempts DESC, error LIMIT $2
"""
_DELIVERY = """
SELECT percentile_cont(ARRAY[0.5, 0.99]) WITHIN GROUP (
           ORDER BY extract(epoch FROM j.finished_at - e.received_at)::float8) AS seconds
FROM gateway.jobs j JOIN gateway.events e ON e.id = j.event_id
WHERE j.id >= $1 AND e.id >= $1 AND j.state = 'completed'
"""


class DeadLetter(msgspec.Struct, frozen=True):
    """A job that cannot succeed, and why."""

    id: UUID
    route: str
    attempts: int
    error: str


class Findings(msgspec.Struct, frozen=True, kw_only=True):
    """What the database says about one run."""

    events: int
    duplicates: int
    states: dict[str, int]
    attempts: int
    retries: int
    dead: list[DeadLetter]
    failures: list[tuple[str, int]]  # errors of attempts, and how often
    delivery_seconds: list[float]  # p50 and p99; empty when nothing was delivered

    @property
    def jobs(self) -> int:
        """Return how many jobs there are."""
        return sum(self.states.values())


async def job_states(db: Database, since: UUID) -> dict[str, int]:
    """Return how many jobs with an id from *since* on are in each state."""
    return {row["state"]: row["jobs"] for row in await db.fetch_sql(_STATES, since)}


def finished(states: dict[str, int]) -> int:
    """Return how many of the jobs are in a final state."""
    return sum(count for state, count in states.items() if JobState(state) in FINAL_STATES)


async def find(db: Database, since: UUID) -> Findings:
    """Count everything with an id from *since* on."""
    counts: Any = (await db.fetch_sql(_COUNTS, since))[0]
    dead = await db.fetch_sql(_DEAD, since, DEAD_SHOWN)
    failures = await db.fetch_sql(_FAILURES, since, DEAD_SHOWN)
    return Findings(
        events=counts["events"],
        duplicates=counts["duplicates"],
        states=await job_states(db, since),
        attempts=counts["attempts"],
        retries=counts["retries"],
        dead=[DeadLetter(r["id"], r["route"], r["attempt"], r["last_error"]) for r in dead],
        failures=[(row["error"], row["attempts"]) for row in failures],
        delivery_seconds=(await db.fetch_sql(_DELIVERY, since))[0]["seconds"] or [],
    )


def render(findings: Findings, sending: Sending, stand_in: StandIn) -> Iterator[str]:
    """Yield the report's lines."""
    yield "What happened"
    yield from _table(_webhooks(findings, sending) + _jobs(findings) + _vendor(stand_in))
    if findings.failures:
        yield ""
        yield "Why attempts failed"
        yield from _table([(f"{count:,}", error) for error, count in findings.failures])
    if findings.dead:
        yield ""
        yield "Dead letters: parked, never lost; to be looked at, mended and replayed"
        for letter in findings.dead:
            tries = "1 attempt" if letter.attempts == 1 else f"{letter.attempts} attempts"
            yield f"  {letter.id}  {letter.route}, {tries}: {letter.error}"
        if (more := findings.states.get("dead", 0) - len(findings.dead)) > 0:
            yield f"  … and {more:,} more"


def _webhooks(findings: Findings, sending: Sending) -> list[tuple[str, str]]:
    refused = sum(count for (_, status), count in sending.answers.items() if status == 401)
    lines = [
        ("webhooks sent", f"{sending.sent:,} in {sending.seconds:.1f} s, paced"),
        ("events stored", f"{findings.events:,}"),
        ("duplicates refused", f"{findings.duplicates:,} (answered 200 with the first one's id)"),
        ("forgeries refused", f"{refused:,} (answered 401)"),
    ]
    if sending.tries_again:
        lines.append(("sent again", f"{sending.tries_again:,} (after a 429, a 503 or no answer)"))
    if sending.accept_seconds:
        p50, p99 = _percentiles(sending.accept_seconds)
        lines.append(("until the 202", f"p50 {p50}, p99 {p99}, COMMIT included"))
    return lines


def _jobs(findings: Findings) -> list[tuple[str, str]]:
    states = [f"{findings.states[s]:,} {s}" for s in JobState if s in findings.states]
    lines = [
        ("jobs", f"{findings.jobs:,}: {', '.join(states) or 'none'}"),
        ("attempts", f"{findings.attempts:,}, of which {findings.retries:,} retries"),
    ]
    if findings.delivery_seconds:
        p50, p99 = (_duration(seconds) for seconds in findings.delivery_seconds)
        lines.append(("until delivered", f"p50 {p50}, p99 {p99}, rate limits and retries included"))
    return lines


def _vendor(stand_in: StandIn) -> list[tuple[str, str]]:
    tally = stand_in.tally
    answers = [f"{status}: {tally[status]:,}" for status in sorted(tally) if status.isdecimal()]
    lines = [("the vendor answered", ",  ".join(answers))]
    if tally["recognised"]:
        text = f"{tally['recognised']:,} repeated after a lost answer, known by Idempotency-Key"
        lines.append(("… and recognised", text))
    return lines


def _table(rows: Sequence[tuple[str, str]]) -> Iterator[str]:
    width = max((len(name) for name, _ in rows), default=0)
    for name, text in rows:
        yield f"  {name:<{width}}  {text}"


def _percentiles(seconds: list[float]) -> tuple[str, str]:
    ordered = sorted(seconds)
    return tuple(_duration(ordered[ceil(len(ordered) * share) - 1]) for share in (0.5, 0.99))  # type: ignore[return-value]


def _duration(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms" if seconds < 1 else f"{seconds:.2f} s"
