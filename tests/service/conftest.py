"""The real process on a database of the test's own."""

from collections.abc import AsyncIterator

import pytest
from harness import Records, records_of


@pytest.fixture
async def records(database_url: str) -> AsyncIterator[Records]:
    """What the database of ``database_url`` holds."""
    async with records_of(database_url) as found:
        yield found
