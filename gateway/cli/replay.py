"""``gateway replay`` and ``gateway replays``: many finished jobs once more, in the background."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from uuid import UUID

import click

from gateway.cli.choosing import (
    confirm_or_exit,
    counted,
    dry_run_option,
    error_option,
    filter_options,
    operator,
    yes_option,
)
from gateway.cli.jobs import json_option
from gateway.cli.options import config_option, load_or_exit
from gateway.cli.output import complain, print_json, print_record, print_table
from gateway.cli.session import ask
from gateway.config.model import Rate
from gateway.config.values import rate as parse_rate
from gateway.model import FINAL_STATES, JobState
from gateway.store import replays as store
from gateway.store.records import ReplayRecord, Selection


def _rate(_ctx: click.Context, _param: click.Parameter, value: str) -> Rate:
    try:
        return store.check_rate(parse_rate(value))
    except ValueError as error:
        raise click.BadParameter(f"{value!r}: {error}") from None


@click.command()
@config_option
@click.option(
    "--state",
    type=click.Choice(sorted(state.value for state in FINAL_STATES)),
    default=JobState.DEAD.value,
    show_default=True,
)
@filter_options
@error_option
@click.option(
    "--rate", callback=_rate, default="50/s", show_default=True, help="At most so many a time."
)
@click.option("--new-key", is_flag=True, help="New idempotency keys instead of the old ones.")
@click.option("--again", is_flag=True, help="Also those of which there is a replay already.")
@dry_run_option
@yes_option
@json_option
def replay(
    config_path: Path,
    *,
    state: str,
    rate: Rate,
    new_key: bool,
    dry_run: bool,
    yes: bool,
    as_json: bool,
    **filters: Any,
) -> None:
    """Replay finished jobs, by default dead letters, in the background.

    The jobs are counted first. The running gateway makes the new ones, as a stream of low priority
    that any node carries on after a restart; `gateway replays show ID` tells how far it is.
    """
    config = load_or_exit(config_path)
    wanted = Selection(state=JobState(state), **filters)
    count = ask(config, lambda db: store.count(db, wanted))
    answer: dict[str, object] = {"count": count.jobs, "complete": count.complete}
    if dry_run:
        if as_json:
            print_json({"dry_run": True, **answer})
        else:
            click.echo(f"{counted(count)} would be replayed")
        return
    if count.complete and not count.jobs:
        complain("no job matches; nothing to replay")
        return
    confirm_or_exit(f"Replay {counted(count)}?", yes=yes)
    replay_id = ask(
        config,
        lambda db: store.request(
            db, wanted, rate=rate, new_key=new_key, counted=count, who=operator()
        ),
    )
    if as_json:
        print_json({"id": replay_id, "state": "running", **answer})
    else:
        click.echo(str(replay_id))
        complain(f"{counted(count)} will be replayed by the running gateway")


@click.group()
def replays() -> None:
    """List, show and cancel replays of many jobs."""


@replays.command("list")
@config_option
@json_option
def list_command(config_path: Path, *, as_json: bool) -> None:
    """List the newest replays."""
    found = ask(load_or_exit(config_path), store.list_replays)
    if as_json:
        for one in found:
            print_json(one)
        return
    print_table(
        ("id", "state", "requested", "by", "made", "of", "rate", "jobs"),
        [
            (one.id, one.state, one.requested_at, one.requested_by, one.made, _of(one),
             one.rate, one.filter)
            for one in found
        ],
    )  # fmt: skip


@replays.command("show")
@config_option
@click.argument("replay_id", metavar="ID", type=click.UUID)
@json_option
def show_command(config_path: Path, replay_id: UUID, *, as_json: bool) -> None:
    """Show one replay, and what became of its jobs."""
    found = ask(load_or_exit(config_path), lambda db: store.show_replay(db, replay_id))
    if as_json:
        print_json(found)
    else:
        print_record((name, getattr(found, name)) for name in found.__struct_fields__)


@replays.command("cancel")
@config_option
@click.argument("replay_id", metavar="ID", type=click.UUID)
@json_option
def cancel_command(config_path: Path, replay_id: UUID, *, as_json: bool) -> None:
    """End a replay, and cancel those of its jobs that wait."""
    cancelled = ask(
        load_or_exit(config_path),
        lambda db: store.cancel_replay(db, replay_id, who=operator()),
    )
    if as_json:
        print_json({"id": replay_id, "state": "cancelled", "jobs_cancelled": cancelled})
    else:
        click.echo(f"{replay_id} is cancelled, and {cancelled} of its jobs that waited")


def _of(one: ReplayRecord) -> str:
    return str(one.counted) if one.counted_all else f"{one.counted}+"
