"""What pausing and resuming a vendor or a route have in common."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import click

from gateway.cli.choosing import operator
from gateway.cli.options import load_or_exit
from gateway.cli.output import print_json
from gateway.cli.session import ask
from gateway.config.model import Config
from gateway.store.database import Database


class Act(Protocol):
    """One of the acts of ``store.steering`` that pause or resume."""

    async def __call__(self, db: Database, name: str, *, who: str) -> bool:
        """Carry it out; return whether it changed anything."""


def switch(
    config_path: Path,
    name: str,
    act: Act,
    *,
    what: str,
    paused: bool,
    check: Callable[[Config, str], None],
    as_json: bool,
) -> None:
    """Carry *act* out and print what became of it; *check* raises where there is no such *what*."""
    config = load_or_exit(config_path)
    check(config, name)
    changed = ask(config, lambda db: act(db, name, who=operator()))
    if as_json:
        print_json({"name": name, "paused": paused, "changed": changed})
        return
    state = "paused" if paused else "running"
    click.echo(f"{what} {name} is {state}" if changed else f"{what} {name} was {state} already")
