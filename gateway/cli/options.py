"""What the commands share: the ``--config`` option, a configuration or a clean exit."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import click

from gateway.config.loader import check
from gateway.config.model import Config, Webhook
from gateway.errors import Fault, NotFound

EXIT_BAD_CONFIGURATION = 78  # EX_CONFIG of sysexits.h; systemd does not restart after it

_Command = TypeVar("_Command", bound=Callable[..., Any])


def config_option(command: _Command) -> _Command:
    """Add ``--config``, given to the command as ``config_path: Path``."""
    return click.option(
        "--config",
        "config_path",
        type=click.Path(path_type=Path),
        envvar="GATEWAY_CONFIG",
        default=Path("config.toml"),
        show_default=True,
        show_envvar=True,
        help="The TOML file.",
    )(command)


def load_or_exit(path: Path, *, warn: bool = False) -> Config:
    """Return the configuration, or print all faults and exit 78; *warn* prints warnings too."""
    config, faults, warnings = check(path)
    if warn:
        print_warnings(path, warnings)
    if config is None:
        print_faults(path, faults)
        sys.exit(EXIT_BAD_CONFIGURATION)
    return config


def webhook_of(config: Config, name: str) -> Webhook:
    """Return what the vendor *name* sends; raises :class:`NotFound`."""
    vendor = config.vendors.get(name)
    if vendor is None or vendor.webhook is None:
        senders = ", ".join(sorted(n for n, v in config.vendors.items() if v.webhook)) or "none"
        raise NotFound(
            f"no [vendors.{name}.webhook] in {config.source}; vendors that send: {senders}"
        )
    return vendor.webhook


def print_faults(path: Path, faults: Iterable[Fault]) -> None:
    """Print one fault per line on stderr."""
    for fault in faults:
        _print_line(path, str(fault))


def print_warnings(path: Path, warnings: Iterable[str]) -> None:
    """Print one warning per line on stderr."""
    for warning in warnings:
        _print_line(path, f"warning: {warning}")


def _print_line(path: Path, text: str) -> None:
    # A key or a file's name may hold line breaks or terminal escapes: one fault stays one line.
    line = "".join(sign if sign.isprintable() else " " for sign in f"{path}: {text}")
    click.echo(line, err=True)
