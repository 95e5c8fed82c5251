"""``gateway acts``: what operators did, by whichever way."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import click

from gateway.cli.choosing import moment
from gateway.cli.jobs import json_option
from gateway.cli.options import config_option, load_or_exit
from gateway.cli.output import complain, print_json, print_table
from gateway.cli.session import ask
from gateway.store.acts import list_acts
from gateway.store.listing import MAX_LIMIT
from gateway.store.records import ActFilter


@click.group()
def acts() -> None:
    """List what operators did: who, what and when."""


@acts.command("list")
@config_option
@click.option("--who", help="A part of the name or the address.")
@click.option("--act", help='"vendor.pause", or "vendor" for all about vendors.')
@click.option("--target", help="A vendor, a route, a key or an id that it was about.")
@click.option("--since", callback=moment, help='Done then or later: a time, or "2h" ago.')
@click.option("--until", callback=moment, help="Done before then.")
@click.option("--limit", type=click.IntRange(1, MAX_LIMIT), default=50, show_default=True)
@json_option
def list_command(
    config_path: Path,
    *,
    who: str | None,
    act: str | None,
    target: str | None,
    since: datetime | None,
    until: datetime | None,
    limit: int,
    as_json: bool,
) -> None:
    """List acts, newest first: by command, over HTTP, and by function in psql."""
    wanted = ActFilter(who=who, act=act, target=target, since=since, until=until)
    page = ask(load_or_exit(config_path), lambda db: list_acts(db, wanted, limit=limit))
    if as_json:
        for one in page.acts:
            print_json(one)
    else:
        print_table(
            ("at", "who", "act", "target", "result"),
            [(one.at, one.who, one.act, one.target, one.result) for one in page.acts],
        )
    if page.cursor is not None:
        complain(f"there are more than these {limit}; raise --limit, or narrow the search")
