"""What pausing and resuming a vendor or a route have in common."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import click

from gateway.cli.choosing import operator
from gateway.cli.jobs import json_option
from gateway.cli.options import config_option, load_or_exit
from gateway.cli.output import print_json
from gateway.cli.session import ask
from gateway.config.model import Config
from gateway.store.database import Database


class Act(Protocol):
    """One of the acts of ``store.steering`` that pause or resume."""

    async def __call__(self, db: Database, name: str, *, who: str) -> bool:
        """Carry it out; return whether it changed anything."""


def add_switches(
    group: click.Group,
    *,
    what: str,
    check: Callable[[Config, str], None],
    pause: tuple[Act, str],
    resume: tuple[Act, str],
) -> None:
    """Add the commands ``pause`` and ``resume``: each an act, and what ``--help`` says of it.

    *check* raises where there is no such *what*.
    """
    for verb, (act, summary) in (("pause", pause), ("resume", resume)):
        command = functools.partial(_switch, what=what, check=check, act=act, to=_STATES[verb])
        for option in (json_option, click.argument("name"), config_option):
            command = option(command)
        group.command(verb, help=summary)(command)


_STATES = {"pause": "paused", "resume": "running"}


def _switch(
    config_path: Path,
    name: str,
    *,
    as_json: bool,
    what: str,
    check: Callable[[Config, str], None],
    act: Act,
    to: str,
) -> None:
    config = load_or_exit(config_path)
    check(config, name)
    changed = ask(config, lambda db: act(db, name, who=operator()))
    if as_json:
        print_json({"name": name, "paused": to == "paused", "changed": changed})
    else:
        click.echo(f"{what} {name} is {to}" if changed else f"{what} {name} was {to} already")
