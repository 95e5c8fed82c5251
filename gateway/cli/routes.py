"""``gateway routes``: what becomes of events, and a pause for one of them."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from gateway.cli.jobs import json_option
from gateway.cli.options import config_option, load_or_exit
from gateway.cli.output import print_json, print_table
from gateway.cli.session import ask
from gateway.cli.switching import add_switches
from gateway.config.model import Config, Route
from gateway.errors import NotFound
from gateway.store import steering
from gateway.store.records import RouteFigures


class RouteRow(msgspec.Struct, frozen=True, kw_only=True):
    """One route as configured, and its pause; ``aside`` are jobs that wait for the pause to end."""

    name: str
    source: str = msgspec.field(name="from")
    events: tuple[str, ...]
    act: str
    priority: int
    paused: bool
    aside: int


@click.group()
def routes() -> None:
    """List, pause and resume routes."""


@routes.command("list")
@config_option
@json_option
def list_command(config_path: Path, *, as_json: bool) -> None:
    """List routes in the order of the configuration."""
    config = load_or_exit(config_path)
    figures = ask(config, steering.route_figures)
    rows = [_row(route, figures.get(route.name, RouteFigures())) for route in config.routes]
    if as_json:
        for row in rows:
            print_json(row)
        return
    print_table(
        ("route", "from", "events", "priority", "paused", "aside", "act"),
        [
            (
                row.name,
                row.source,
                row.events or "all",
                row.priority,
                row.paused,
                row.aside,
                row.act,
            )
            for row in rows
        ],
    )


def _check(config: Config, name: str) -> None:
    if all(route.name != name for route in config.routes):
        raise NotFound(f"route {name}: not in the configuration; `gateway routes list` names them")


add_switches(
    routes,
    what="route",
    check=_check,
    pause=(
        steering.pause_route,
        "Have no node run a route's jobs; they wait, and other routes go on.",
    ),
    resume=(steering.resume_route, "Let the nodes run a route's jobs again."),
)


def _row(route: Route, figures: RouteFigures) -> RouteRow:
    return RouteRow(
        name=route.name,
        source=route.source,
        events=route.events,
        act=route.call or route.handler or "",
        priority=route.priority,
        paused=figures.paused,
        aside=figures.aside,
    )
