"""``gateway events``: what vendors sent."""

from __future__ import annotations

import sys
from pathlib import Path
from uuid import UUID

import click

from gateway.cli.jobs import json_option, print_event, print_jobs
from gateway.cli.options import config_option, load_or_exit
from gateway.cli.output import print_json, print_title
from gateway.cli.session import ask
from gateway.store import operators


@click.group()
def events() -> None:
    """Show what vendors sent."""


@events.command("show")
@config_option
@click.argument("event_id", metavar="ID", type=click.UUID)
@click.option("--body", is_flag=True, help="The body, too.")
@click.option("--raw", is_flag=True, help="Nothing but the body, byte for byte as it was received.")
@json_option
def show_command(
    config_path: Path, event_id: UUID, *, body: bool, raw: bool, as_json: bool
) -> None:
    """Show one event with its jobs."""
    config = load_or_exit(config_path)
    if raw:
        if as_json or body:
            raise click.UsageError("--raw goes with neither --body nor --json")
        sys.stdout.buffer.write(ask(config, lambda db: operators.raw_body(db, event_id)))
        sys.stdout.flush()
        return
    detail = ask(config, lambda db: operators.show_event(db, event_id, body=body))
    if as_json:
        print_json(detail)
        return
    print_event(detail, duplicates=detail.duplicates)
    print_title("jobs")
    print_jobs(detail.jobs)
