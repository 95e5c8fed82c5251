"""``gateway jobs``: list, show, replay and cancel."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

import click

from gateway.cli import EXIT_FAILED, EXIT_NOT_FOUND
from gateway.cli.options import config_option, load_or_exit
from gateway.cli.output import (
    complain,
    cut,
    pretty_json,
    print_json,
    print_record,
    print_table,
    print_text,
    print_title,
)
from gateway.cli.session import ask
from gateway.errors import NotFound, Refused
from gateway.model import JobState
from gateway.store import operators
from gateway.store.database import Database
from gateway.store.records import (
    AttemptRecord,
    EventRecord,
    JobDetail,
    JobFilter,
    JobRecord,
    Page,
)

ERROR_CHARS = 60

Result = TypeVar("Result")

json_option = click.option("--json", "as_json", is_flag=True, help="One JSON document per line.")


def _moment(_ctx: click.Context, _param: click.Parameter, value: str | None) -> datetime | None:
    try:
        return None if value is None else operators.parse_moment(value, now=datetime.now(UTC))
    except ValueError as error:
        raise click.BadParameter(f"{value!r}: {error}") from None


@click.group()
def jobs() -> None:
    """List, show, replay and cancel jobs."""


@jobs.command("list")
@config_option
@click.option("--state", type=click.Choice([state.value for state in JobState]))
@click.option("--vendor", help="The called vendor: the lane.")
@click.option("--route")
@click.option("--correlation-id")
@click.option("--event-id", type=click.UUID)
@click.option(
    "--since", callback=_moment, help='Made then or later: "2026-01-31T08:30Z", or "2h" ago.'
)
@click.option("--until", callback=_moment, help="Made before then.")
@click.option("--limit", type=click.IntRange(1, 1_000_000), default=50, show_default=True)
@json_option
def list_command(config_path: Path, *, limit: int, as_json: bool, **filters: Any) -> None:
    """List jobs, newest first."""
    config = load_or_exit(config_path)
    if filters["state"] is not None:
        filters["state"] = JobState(filters["state"])
    found: list[JobRecord] = []

    async def collect(db: Database) -> bool:
        left, cursor = limit, None
        while left:
            page: Page = await operators.list_jobs(
                db, JobFilter(**filters), limit=min(left, operators.MAX_LIMIT), cursor=cursor
            )
            if as_json:
                for job in page.jobs:
                    print_json(job)
            else:
                found.extend(page.jobs)
            left -= len(page.jobs)
            if page.cursor is None:
                return False
            cursor = page.cursor
        return True

    more = ask(config, collect)
    if not as_json:
        print_jobs(found)
    if more:
        complain(f"there may be more than these {limit}; raise --limit, or narrow the search")


@jobs.command("show")
@config_option
@click.argument("job_id", metavar="ID", type=click.UUID)
@click.option("--body", is_flag=True, help="The body of its event, too.")
@json_option
def show_command(config_path: Path, job_id: UUID, *, body: bool, as_json: bool) -> None:
    """Show one job with its event and every attempt."""
    config = load_or_exit(config_path)
    detail = ask(config, lambda db: operators.show_job(db, job_id, body=body))
    if as_json:
        print_json(detail)
    else:
        _print_detail(detail)


@jobs.command("replay")
@config_option
@click.argument("job_ids", metavar="ID...", type=click.UUID, nargs=-1, required=True)
@json_option
def replay_command(config_path: Path, job_ids: tuple[UUID, ...], *, as_json: bool) -> None:
    """Make a new job from each finished one; print the new ids."""
    config = load_or_exit(config_path)

    async def replay(db: Database, job_id: UUID) -> None:
        fresh = await operators.replay(db, job_id)
        if as_json:
            print_json({"id": fresh, "replay_of": job_id})
        else:
            click.echo(str(fresh))

    sys.exit(ask(config, lambda db: _each(db, job_ids, replay)))


@jobs.command("cancel")
@config_option
@click.argument("job_ids", metavar="ID...", type=click.UUID, nargs=-1, required=True)
@json_option
def cancel_command(config_path: Path, job_ids: tuple[UUID, ...], *, as_json: bool) -> None:
    """Cancel jobs that wait; one that runs ends by itself."""
    config = load_or_exit(config_path)

    async def cancel(db: Database, job_id: UUID) -> None:
        before = await operators.cancel(db, job_id)
        if as_json:
            print_json({"id": job_id, "state": "cancelled", "before": before})
        else:
            click.echo(f"{job_id} was {before.value}, is cancelled")

    sys.exit(ask(config, lambda db: _each(db, job_ids, cancel)))


def print_jobs(jobs: Iterable[JobRecord]) -> None:
    """Print a table of jobs."""
    print_table(
        ("id", "state", "route", "vendor", "attempts", "status", "created", "error"),
        [
            (
                job.id,
                job.state,
                job.route,
                job.vendor,
                f"{job.attempt}/{job.max_attempts}",
                job.last_status,
                job.created_at,
                cut(job.last_error, ERROR_CHARS),
            )
            for job in jobs
        ],
    )


def print_event(event: EventRecord, *, title: str = "", **more: object) -> None:
    """Print an event and *more* about it, and its body if it was asked for."""
    fields = {name: getattr(event, name) for name in EventRecord.__struct_fields__}
    body = fields.pop("body")
    print_record({**fields, **more}.items(), title=title)
    if body:
        print_title("body")
        print_text(pretty_json(body))


async def _each(
    db: Database, job_ids: Iterable[UUID], act: Callable[[Database, UUID], Awaitable[None]]
) -> int:
    """Act on every job, whatever becomes of the others; return the exit code."""
    refused = missing = False
    for job_id in job_ids:
        try:
            await act(db, job_id)
        except NotFound as error:
            complain(f"error: {error}")
            missing = True
        except Refused as error:
            complain(f"error: {error}")
            refused = True
    return EXIT_FAILED if refused else EXIT_NOT_FOUND if missing else 0


def _print_detail(detail: JobDetail) -> None:
    print_record((name, getattr(detail, name)) for name in JobRecord.__struct_fields__)
    print_record([("payload", detail.payload), ("replays", detail.replays)])
    if detail.event is not None:
        print_event(detail.event, title="event")
    elif detail.event_id is not None:
        complain("its event is gone: the retention has dropped it")
    if detail.attempts:
        print_title("attempts")
        print_table(
            ("attempt", "outcome", "status", "started", "took", "node", "error"),
            [_attempt_row(attempt) for attempt in detail.attempts],
        )
        last = detail.attempts[-1]
        print_record([("request", last.request), ("response", last.response)], title="last attempt")


def _attempt_row(attempt: AttemptRecord) -> tuple[object, ...]:
    return (
        attempt.attempt,
        attempt.outcome,
        attempt.http_status,
        attempt.started_at,
        f"{attempt.duration_ms:.0f} ms",
        attempt.node,
        attempt.error,
    )
