"""The commands' way to the records: straight to the database, whether or not the gateway runs."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from gateway.config.model import Config
from gateway.errors import GatewayError
from gateway.store.database import Database
from gateway.store.embedded import running_dsn
from gateway.store.operators import check_schema
from gateway.telemetry.logs import configure_logging

Result = TypeVar("Result")

POOL = 2
PATIENCE_SECONDS = 10.0


def ask(config: Config, question: Callable[[Database], Awaitable[Result]]) -> Result:
    """Run *question* on the configured database; raises :class:`GatewayError` if it is not there,
    or not at this version.
    """

    configure_logging(level="warning")

    async def run() -> Result:
        db = Database(database_dsn(config), pool=POOL)
        await db.open()
        try:
            await check_schema(db, seconds=PATIENCE_SECONDS)
            return await question(db)
        finally:
            await db.close()

    return asyncio.run(run())


def database_dsn(config: Config) -> str:
    """Return where the database is: the configured URL, or the embedded server that runs now."""
    if not config.database.embedded:
        return config.database.url.value
    dsn = running_dsn(config.gateway.state_dir)
    if dsn is None:
        raise GatewayError(
            f"the embedded PostgreSQL of {config.gateway.state_dir} does not run;"
            " start `gateway serve` first"
        )
    return dsn
