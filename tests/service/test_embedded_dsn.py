"""Other processes find the embedded server while it runs, and only then."""

from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest

from gateway.errors import GatewayError
from gateway.store.database import Database
from gateway.store.embedded import EmbeddedPostgres, running_dsn


async def test_a_running_server_is_found_and_a_stopped_one_is_not(state_dir: Path) -> None:
    assert running_dsn(state_dir) is None
    server = EmbeddedPostgres(state_dir, settings={"fsync": "off"})
    async with server as dsn:
        found = running_dsn(state_dir)
        assert found == dsn
        connection = await asyncpg.connect(found)
        await connection.close()
        lock_file = server.place.data / "postmaster.pid"
        left_by_a_crash = lock_file.read_text().splitlines()
    assert running_dsn(state_dir) is None
    for nobody in ("0", "-1", "x", str((1 << 31) - 1)):
        lock_file.write_text("\n".join([nobody, *left_by_a_crash[1:]]))
        assert running_dsn(state_dir) is None


@pytest.mark.parametrize("part", ["user", "database"])
async def test_who_is_turned_away_is_told_what_to_check(database_url: str, part: str) -> None:
    parts = urlsplit(database_url)
    place = parts.netloc.rpartition("@")[2]
    if part == "user":
        parts = parts._replace(netloc=f"nobody:wrong@{place}")
    else:
        parts = parts._replace(path=f"{parts.path}_missing")
    database = Database(parts.geturl(), pool=1)
    with pytest.raises(GatewayError, match=r"database\.url: PostgreSQL turns us away"):
        await database.open()
