"""``gateway jobs``: list and show them; replay, cancel, reschedule; dead letters, held keys."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Iterable
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

import click

from gateway.cli import EXIT_FAILED, EXIT_NOT_FOUND
from gateway.cli.choosing import (
    confirm_or_exit,
    counted,
    dry_run_option,
    error_option,
    filter_options,
    moment,
    operator,
    yes_option,
)
from gateway.cli.options import config_option, load_or_exit
from gateway.cli.output import (
    complain,
    cut,
    one_line,
    pretty_json,
    print_json,
    print_record,
    print_table,
    print_text,
    print_title,
)
from gateway.cli.session import ask
from gateway.config.model import Config
from gateway.config.values import duration_seconds
from gateway.errors import NotFound, Refused
from gateway.model import JobState
from gateway.store import cursors, listing, operators, replays, steering
from gateway.store.database import Database
from gateway.store.records import (
    AttemptRecord,
    EventRecord,
    JobDetail,
    JobFilter,
    JobRecord,
    ManyFilter,
    Page,
)

ERROR_CHARS = 60

Result = TypeVar("Result")

json_option = click.option("--json", "as_json", is_flag=True, help="One JSON document per line.")


def _time(_ctx: click.Context, _param: click.Parameter, value: str | None) -> datetime | None:
    try:
        return None if value is None else cursors.parse_time(value)
    except ValueError as error:
        raise click.BadParameter(f"{value!r}: {error}") from None


@click.group()
def jobs() -> None:
    """List, show, replay, cancel and reschedule jobs."""


@jobs.command("list")
@config_option
@click.option("--state", type=click.Choice([state.value for state in JobState]))
@filter_options
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
            page: Page = await listing.list_jobs(
                db, JobFilter(**filters), limit=min(left, listing.MAX_LIMIT), cursor=cursor
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
@click.option("--new-key", is_flag=True, help="A new idempotency key instead of the old one.")
@json_option
def replay_command(
    config_path: Path, job_ids: tuple[UUID, ...], *, new_key: bool, as_json: bool
) -> None:
    """Make a new job from each finished one; print the new ids."""
    config = load_or_exit(config_path)

    async def replay(db: Database, job_id: UUID) -> None:
        fresh = await operators.replay(db, job_id, new_key=new_key, who=operator())
        if as_json:
            print_json({"id": fresh, "replay_of": job_id})
        else:
            click.echo(str(fresh))

    sys.exit(ask(config, lambda db: _each(db, job_ids, replay)))


@jobs.command("cancel")
@config_option
@click.argument("job_ids", metavar="[ID]...", type=click.UUID, nargs=-1)
@click.option(
    "--state", type=click.Choice(sorted(state.value for state in steering.WAITING_STATES))
)
@filter_options
@error_option
@dry_run_option
@yes_option
@json_option
def cancel_command(
    config_path: Path,
    job_ids: tuple[UUID, ...],
    *,
    dry_run: bool,
    yes: bool,
    as_json: bool,
    **filters: Any,
) -> None:
    """Cancel jobs that wait, by their ids or by filters; one that runs ends by itself."""
    config = load_or_exit(config_path)
    filtered = any(value is not None for value in filters.values())
    if bool(job_ids) == filtered or (job_ids and dry_run):
        raise click.UsageError("give either ids, or filters such as --route; --dry-run with these")
    if filtered:
        _cancel_many(config, filters, dry_run=dry_run, yes=yes, as_json=as_json)
        return

    async def cancel(db: Database, job_id: UUID) -> None:
        before = await operators.cancel(db, job_id, who=operator())
        if as_json:
            print_json({"id": job_id, "state": "cancelled", "before": before})
        else:
            click.echo(f"{job_id} was {before.value}, is cancelled")

    sys.exit(ask(config, lambda db: _each(db, job_ids, cancel)))


@jobs.command("reschedule")
@config_option
@click.argument("job_id", metavar="ID", type=click.UUID)
@click.option("--at", callback=_time, help='A time: "2026-01-31T08:30Z".')
@click.option("--in", "delay", metavar="DURATION", help='So long from now: "10m".')
@json_option
def reschedule_command(
    config_path: Path, job_id: UUID, *, at: datetime | None, delay: str | None, as_json: bool
) -> None:
    """Change when a scheduled job runs."""
    config = load_or_exit(config_path)
    if (at is None) == (delay is None):
        raise click.UsageError("give either --at or --in")
    try:
        wish = at if at is not None else duration_seconds(delay or "")
    except ValueError as error:
        raise click.BadParameter(f"--in {delay!r}: {error}") from None
    run_at, before = ask(config, lambda db: steering.reschedule(db, job_id, wish, who=operator()))
    if as_json:
        print_json({"id": job_id, "run_at": run_at, "before": before})
    else:
        click.echo(f"{job_id} runs at {one_line(run_at)}, not at {one_line(before)}")


@jobs.command("dead")
@config_option
@click.option("--vendor", help="The called vendor: the lane.")
@click.option("--route")
@click.option("--since", callback=moment, help='Made then or later: a time, or "2h" ago.')
@click.option("--until", callback=moment, help="Made before then.")
@json_option
def dead_command(config_path: Path, *, as_json: bool, **filters: Any) -> None:
    """Show dead letters in groups: by route, vendor, status and kind of error."""
    config = load_or_exit(config_path)
    found = ask(config, lambda db: replays.dead_groups(db, JobFilter(**filters)))
    if as_json:
        for group in found.groups:
            print_json(group)
    else:
        print_table(
            ("jobs", "route", "vendor", "status", "first", "last", "example", "error"),
            [
                (group.jobs, group.route, group.vendor, group.status, group.first, group.last,
                 group.example, group.error)
                for group in found.groups
            ],
        )  # fmt: skip
    if not found.complete:
        complain(f"only the {found.looked_at} newest were looked at; narrow the search")


@jobs.command("held")
@config_option
@json_option
def held_command(config_path: Path, *, as_json: bool) -> None:
    """List ordering keys whose dead job waits for a decision."""
    found = ask(load_or_exit(config_path), steering.held_keys)
    if as_json:
        for held in found:
            print_json(held)
        return
    print_table(
        ("route", "key", "since", "waiting", "dead job", "error"),
        [
            (held.route, held.key, held.since, held.waiting, held.job_id,
             cut(held.last_error, ERROR_CHARS))
            for held in found
        ],
    )  # fmt: skip


@jobs.command("release-key")
@config_option
@click.argument("route")
@click.argument("key")
@json_option
def release_key_command(config_path: Path, route: str, key: str, *, as_json: bool) -> None:
    """Let a held key go on without its dead job."""
    config = load_or_exit(config_path)
    following = ask(config, lambda db: steering.release_key(db, route, key, who=operator()))
    if as_json:
        print_json({"route": route, "key": key, "next": following})
    else:
        click.echo(f"released; next is {following}" if following else "released; nobody waits")


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


def _cancel_many(
    config: Config, filters: dict[str, Any], *, dry_run: bool, yes: bool, as_json: bool
) -> None:
    if filters["state"] is not None:
        filters["state"] = JobState(filters["state"])
    count, wanted = ask(config, lambda db: steering.count_waiting(db, ManyFilter(**filters)))
    if dry_run:
        if as_json:
            print_json({"dry_run": True, "count": count.jobs, "complete": count.complete})
        else:
            click.echo(f"{counted(count)} would be cancelled")
        return
    if count.jobs:
        confirm_or_exit(f"Cancel {counted(count)}?", yes=yes)

    total = 0
    if count.jobs:
        total = ask(config, lambda db: steering.cancel_waiting(db, wanted, who=operator())).jobs
    if as_json:
        print_json({"cancelled": total})
    else:
        click.echo(f"{total} cancelled")


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
