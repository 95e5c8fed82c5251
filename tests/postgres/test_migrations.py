"""A database is brought up to date once, by one node, and never by a version that differs."""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg
import pytest

from gateway.errors import DatabaseUnavailable, NotMigrated
from gateway.store import migrations
from gateway.store.database import Database
from gateway.store.migrations import Migration

NAMES = [f"{migration.number:04d}_{migration.name}" for migration in migrations.known()]


def test_migrations_are_numbered_without_a_gap() -> None:
    assert [m.number for m in migrations.known()] == list(range(1, len(NAMES) + 1))


async def test_an_empty_database_is_migrated_once(empty_database_url: str) -> None:
    assert await migrations.migrate(empty_database_url) == NAMES
    assert await migrations.migrate(empty_database_url) == []


async def test_of_many_nodes_that_start_at_once_one_migrates(empty_database_url: str) -> None:
    results = await asyncio.gather(*(migrations.migrate(empty_database_url) for _ in range(5)))
    assert sorted(results, key=len) == [[], [], [], [], NAMES]


async def test_a_migration_that_fails_leaves_nothing(
    empty_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = Migration(len(NAMES) + 1, "broken", "SELECT 1/0")
    ours = [*migrations.known(), broken]
    monkeypatch.setattr(migrations, "known", lambda: ours)
    with pytest.raises(asyncpg.DivisionByZeroError):
        await migrations.migrate(empty_database_url)
    connection = await asyncpg.connect(empty_database_url)
    assert await connection.fetchval("SELECT to_regnamespace('gateway')") is None
    await connection.close()


async def test_what_is_missing_is_applied_and_required(
    connection: Any, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await migrations.require(connection)
    more = Migration(len(NAMES) + 1, "more", "CREATE TABLE gateway.more ()")
    ours = [*migrations.known(), more]
    monkeypatch.setattr(migrations, "known", lambda: ours)
    with pytest.raises(NotMigrated, match=f"lacks migration {more.number:04d}_more"):
        await migrations.require(connection)
    assert await migrations.migrate(database_url) == [f"{more.number:04d}_more"]
    await migrations.require(connection)


async def test_an_unmigrated_database_says_what_to_do(empty_database_url: str) -> None:
    connection = await asyncpg.connect(empty_database_url)
    with pytest.raises(NotMigrated, match="gateway migrate"):
        await migrations.require(connection)
    await connection.close()


async def test_a_newer_database_is_refused(connection: Any, database_url: str) -> None:
    await connection.execute(
        "INSERT INTO gateway.migrations (number, name, digest) VALUES (9999, 'future', 'x')"
    )
    for act in (migrations.migrate(database_url), migrations.require(connection)):
        with pytest.raises(NotMigrated, match=r"9999_future.*newer"):
            await act


async def test_an_edited_migration_is_refused(connection: Any, database_url: str) -> None:
    await connection.execute("UPDATE gateway.migrations SET digest = 'x' WHERE number = 1")
    for act in (migrations.migrate(database_url), migrations.require(connection)):
        with pytest.raises(NotMigrated, match=f"{NAMES[0]} was applied with other content"):
            await act


async def test_a_migrated_database_needs_no_right_to_create(
    connection: Any, database_url: str, db: Database
) -> None:
    """The gateway may run under a role that owns nothing once somebody else has migrated."""
    assert await db.migrate() == []
    async with connection.transaction():
        await connection.execute("SET LOCAL default_transaction_read_only = on")
        await connection.execute("SET LOCAL transaction_read_only = on")
        assert await migrations.apply(connection) == []


async def test_a_server_that_is_away_is_told_apart_from_a_mistake(database_url: str) -> None:
    nowhere = Database("postgresql://gateway@127.0.0.1:1/nothing", pool=1)
    with pytest.raises(DatabaseUnavailable):
        await nowhere.open()
    assert not nowhere.up
