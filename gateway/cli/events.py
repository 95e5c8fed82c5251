"""``gateway events``: what vendors sent, and once more through today's routes."""

from __future__ import annotations

import sys
from pathlib import Path
from uuid import UUID

import click

from gateway.cli.choosing import operator
from gateway.cli.jobs import json_option, print_event, print_jobs
from gateway.cli.options import config_option, load_or_exit
from gateway.cli.output import complain, print_json, print_table, print_title
from gateway.cli.session import ask
from gateway.errors import NotFound
from gateway.routing import Router
from gateway.store import events as stored
from gateway.store import operators, steering
from gateway.store.database import Database
from gateway.store.records import ReroutedJob
from gateway.webhooks.decompress import decode_received


@click.group()
def events() -> None:
    """Show and reroute what vendors sent."""


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


@events.command("reroute")
@config_option
@click.argument("event_id", metavar="ID", type=click.UUID)
@json_option
def reroute_command(config_path: Path, event_id: UUID, *, as_json: bool) -> None:
    """Send a stored event through the routes of the configuration as it is now.

    Each route that takes it makes a new job, whether or not one was made of it before.
    """
    config = load_or_exit(config_path)
    apis = {name: vendor.api for name, vendor in config.vendors.items() if vendor.api}
    router = Router(config.routes, apis)

    async def reroute(db: Database) -> list[ReroutedJob]:
        event = await stored.fetch(db, event_id)
        if event is None:
            raise NotFound(f"event {event_id}: not found")
        wanted = router.jobs_for(event, decode_received(event.body or b"", event.headers))
        return await steering.reroute(db, event, wanted, who=operator())

    made = ask(config, reroute)
    if as_json:
        print_json({"event_id": event_id, "jobs": made})
    elif made:
        print_table(
            ("id", "route", "vendor", "state"),
            [(job.id, job.route, job.vendor, job.state) for job in made],
        )
    else:
        complain("no route takes this event; no job was made")
