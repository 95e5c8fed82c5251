"""What commands about many jobs share: the filters, and a question before they act."""

from __future__ import annotations

import os
import pwd
import socket
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, TypeVar

import click

from gateway.store.cursors import parse_moment
from gateway.store.records import Count
from gateway.texts import storable

_Command = TypeVar("_Command", bound=Callable[..., Any])

error_option = click.option(
    "--error", help="Their last error, as in a group of `gateway jobs dead`."
)
dry_run_option = click.option("--dry-run", is_flag=True, help="Only count.")
yes_option = click.option("--yes", is_flag=True, help="Do not ask.")


def moment(_ctx: click.Context, _param: click.Parameter, value: str | None) -> datetime | None:
    """Read a time, or a duration for so long ago."""
    try:
        return None if value is None else parse_moment(value, now=datetime.now(UTC))
    except ValueError as error:
        raise click.BadParameter(f"{value!r}: {error}") from None


def filter_options(command: _Command) -> _Command:
    """Add the filters besides ``--state``, named as the fields of a ``JobFilter``."""
    since = 'Made then or later: "2026-01-31T08:30Z", or "2h" ago.'
    for option in reversed(
        (
            click.option("--vendor", help="The called vendor: the lane."),
            click.option("--route"),
            click.option("--correlation-id"),
            click.option("--event-id", type=click.UUID),
            click.option("--since", callback=moment, help=since),
            click.option("--until", callback=moment, help="Made before then."),
        )
    ):
        command = option(command)
    return command


def counted(count: Count) -> str:
    """Return a count as people read it."""
    number = f"{count.jobs} job" if count.jobs == 1 else f"{count.jobs} jobs"
    return number if count.complete else f"at least {number}"


def confirm_or_exit(question: str, *, yes: bool) -> None:
    """Ask on a terminal; elsewhere ``--yes`` must have been given."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise click.UsageError("nobody can be asked here: give --yes, or --dry-run to only count")
    click.confirm(question, abort=True, err=True)


def operator() -> str:
    """Return who runs this command, as it goes into the book of acts.

    The system's own word counts, not that of the environment, which anybody may set; of root we
    are told who became it, if by sudo.
    """
    try:
        user = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # no name for the user's number, as in some containers
        user = str(os.getuid())
    if os.getuid() == 0 and (sudoer := os.environ.get("SUDO_USER", "")):
        user = f"{storable(sudoer, 64)} as {user}"
    return f"{user}@{socket.gethostname()}"
