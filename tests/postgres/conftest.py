"""An open store on a migrated database of the test's own."""

from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from gateway.store.database import _SETTINGS, Database


@pytest.fixture
async def db(database_url: str) -> AsyncIterator[Database]:
    database = Database(database_url, pool=8)
    await database.open()
    yield database
    await database.close()


@pytest.fixture
async def connection(database_url: str) -> AsyncIterator[Any]:
    """One connection apart from the pool, with the pool's settings."""
    opened = await asyncpg.connect(database_url, server_settings=_SETTINGS)
    yield opened
    await opened.close()


@pytest.fixture
async def second(database_url: str) -> AsyncIterator[Any]:
    """Another one, to interleave transactions with."""
    opened = await asyncpg.connect(database_url, server_settings=_SETTINGS)
    yield opened
    await opened.close()
