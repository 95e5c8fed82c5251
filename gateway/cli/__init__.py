"""The ``gateway`` command. A subcommand's module is imported only when it is run."""

from __future__ import annotations

import importlib
from typing import Any

import click

from gateway import __version__
from gateway.errors import GatewayError, NotFound

EXIT_FAILED = 1
EXIT_NOT_FOUND = 3

# name: (where it is, what --help says of it)
_COMMANDS = {
    "serve": ("gateway.cli.serve:serve", "Serve webhooks and run jobs until SIGTERM."),
    "demo": ("gateway.cli.demo:demo", "See it work: everything at once, on this machine."),
    "config": ("gateway.cli.config:config", "Check and show the configuration."),
    "jobs": ("gateway.cli.jobs:jobs", "List, show, replay, cancel and reschedule jobs."),
    "replay": ("gateway.cli.replay:replay", "Replay many finished jobs in the background."),
    "replays": ("gateway.cli.replay:replays", "List, show and cancel such replays."),
    "events": ("gateway.cli.events:events", "Show and reroute what vendors sent."),
    "vendors": ("gateway.cli.vendors:vendors", "List, pause and resume vendors."),
    "routes": ("gateway.cli.routes:routes", "List, pause and resume routes."),
    "acts": ("gateway.cli.acts:acts", "List what operators did: who, what and when."),
    "send": ("gateway.cli.send:send", "Send a signed webhook to the running gateway."),
    "webhooks": ("gateway.cli.webhooks:webhooks", "Explain refused webhooks, list known senders."),
    "migrate": ("gateway.cli.migrate:migrate", "Bring the database up to this version."),
    "psql": ("gateway.cli.psql:psql", "Open psql on the gateway's database."),
    "version": ("gateway.cli:version", "Print the version."),
}


class _Commands(click.Group):
    """Knows its commands by name only, and turns our errors into messages and exit codes."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in _COMMANDS:
            return None
        module, _, attribute = _COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in _COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except NotFound as error:
            _complain(error)
            ctx.exit(EXIT_NOT_FOUND)
        except GatewayError as error:
            _complain(error)
            ctx.exit(EXIT_FAILED)


@click.group(cls=_Commands)
@click.version_option(__version__, message="%(version)s")
def main() -> None:
    """Webhooks in, durable jobs, calls out: one process and one PostgreSQL.

    Exit codes: 0 done, 1 failed, 2 wrong usage, 3 not found, 78 bad configuration.
    """


@click.command()
def version() -> None:
    """Print the version."""
    click.echo(__version__)


def _complain(error: GatewayError) -> None:
    from gateway.cli.output import complain  # here, so that --help need not import it

    complain(f"error: {error}")
