"""``gateway migrate``: the database at this version's tables. ``serve`` does the same by itself."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

import click

from gateway.cli.options import config_option, load_or_exit
from gateway.cli.output import complain
from gateway.config.model import Config
from gateway.store.database import Database
from gateway.store.embedded import EmbeddedPostgres, running_dsn
from gateway.telemetry.logs import configure_logging


@click.command()
@config_option
def migrate(config_path: Path) -> None:
    """Bring the database up to this version; print what was applied.

    An embedded PostgreSQL that does not run is started for it, and stopped again.
    """
    config = load_or_exit(config_path)
    configure_logging(level="warning")
    applied = asyncio.run(_migrate(config))
    for name in applied:
        click.echo(name)
    if not applied:
        complain("nothing to do: the database is at this version")


async def _migrate(config: Config) -> list[str]:
    async with AsyncExitStack() as stack:
        if config.database.embedded:
            state_dir = config.gateway.state_dir
            dsn = running_dsn(state_dir)
            if dsn is None:
                dsn = await stack.enter_async_context(EmbeddedPostgres(state_dir))
        else:
            dsn = config.database.url.value
        db = Database(dsn, pool=1)
        stack.push_async_callback(db.close)
        await db.open()
        return await db.migrate()
