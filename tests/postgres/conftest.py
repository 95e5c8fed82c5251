"""Connections to the test's database beside the store's."""

from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from gateway.store.database import _PLANNED_SETTINGS, _SETTINGS


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


@pytest.fixture
async def planned(database_url: str) -> AsyncIterator[Any]:
    """One with the settings of those on which statements are planned once."""
    opened = await asyncpg.connect(database_url, server_settings=_PLANNED_SETTINGS)
    yield opened
    await opened.close()
