"""``gateway config``: is the file right, what is in effect, and what may stand in it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click
import msgspec

from gateway.cli.options import (
    EXIT_BAD_CONFIGURATION,
    config_option,
    load_or_exit,
    print_faults,
    print_warnings,
)
from gateway.config import loader, reference, show
from gateway.config.model import Config
from gateway.config.schema import json_schema
from gateway.errors import Fault


@click.group()
def config() -> None:
    """Check and show the configuration."""


@config.command("check")
@config_option
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
def check_command(config_path: Path, as_json: bool) -> None:
    """Report every fault of the file at once; exit 78 if there is any.

    Environment variables, credentials and files that secrets refer to must be there.
    """
    found, faults, warnings = loader.check(config_path)
    if as_json:
        _print_json(config_path, found, faults, warnings)
    else:
        print_warnings(config_path, warnings)
        print_faults(config_path, faults)
        if found is not None:
            click.echo(f"{config_path}: ok, {_summary(found)}")
    if found is None:
        sys.exit(EXIT_BAD_CONFIGURATION)


@config.command("show")
@config_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON in place of TOML.")
def show_command(config_path: Path, as_json: bool) -> None:
    """Print the effective configuration: every default spelled out, secrets as their references."""
    loaded = load_or_exit(config_path, warn=True)
    if as_json:
        click.echo(json.dumps(show.spell(loaded), indent=2, ensure_ascii=False))
    else:
        click.echo(show.render(loaded), nl=False)


@config.command("schema")
@click.option("--markdown", is_flag=True, help="Print the tables of docs/configuration.md instead.")
def schema_command(markdown: bool) -> None:
    """Print the JSON Schema of the file, for editors ("#:schema" in its first line)."""
    if markdown:
        click.echo(reference.markdown(), nl=False)
    else:
        click.echo(json.dumps(json_schema(), indent=2, ensure_ascii=False))


def _summary(found: Config) -> str:
    return f"{_count(len(found.vendors), 'vendor')}, {_count(len(found.routes), 'route')}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _print_json(path: Path, found: Config | None, faults: list[Fault], warnings: list[str]) -> None:
    findings = {
        "file": str(path),
        "ok": found is not None,
        "faults": msgspec.to_builtins(faults),
        "warnings": warnings,
    }
    if found is not None:
        findings |= {"vendors": len(found.vendors), "routes": len(found.routes)}
    click.echo(json.dumps(findings, indent=2, ensure_ascii=False))
