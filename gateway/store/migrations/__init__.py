"""Numbered SQL files, applied in order, once, by whichever node comes first.

All of it happens in one transaction that holds an advisory lock, so several nodes may start at
once: the first applies, the others wait and find nothing to do. The lock ends with the
transaction, which keeps it sound behind a pooler in transaction mode.
"""

from __future__ import annotations

import hashlib
import re
from importlib import resources
from typing import Any

import asyncpg
import msgspec

from gateway.errors import NotMigrated

# Any constant does, as long as every version of the gateway uses the same one.
_LOCK = 0x6761746577617900

_BOOK = """
CREATE SCHEMA IF NOT EXISTS gateway;
CREATE TABLE IF NOT EXISTS gateway.migrations (
    number     integer PRIMARY KEY,
    name       text NOT NULL,
    digest     text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
);
"""

DAYS_AHEAD = 3


class Migration(msgspec.Struct, frozen=True):
    """One SQL file of this version."""

    number: int
    name: str
    sql: str

    @property
    def digest(self) -> str:
        """Return what tells an edited file from the one that was applied."""
        return hashlib.sha256(self.sql.encode()).hexdigest()


def known() -> list[Migration]:
    """Return the migrations of this version in order."""
    found = [
        Migration(int(match[1]), match[2], entry.read_text("utf-8"))
        for entry in resources.files(__name__).iterdir()
        if (match := re.fullmatch(r"(\d{4})_(\w+)\.sql", entry.name))
    ]
    return sorted(found, key=lambda migration: migration.number)


async def migrate(dsn: str) -> list[str]:
    """Bring the database at *dsn* up to this version; return the names of what was applied."""
    connection: Any = await asyncpg.connect(dsn)
    try:
        return await apply(connection)
    finally:
        await connection.close()


async def apply(connection: Any) -> list[str]:
    """Apply what is missing over an open *connection*; return the names of what was applied.

    Raises :class:`NotMigrated` when the database is newer than this version, or was migrated with
    files that differ from ours.
    """
    applied = []
    async with connection.transaction():
        await connection.execute("SELECT pg_advisory_xact_lock($1)", _LOCK)
        # Said only where it is missing: CREATE SCHEMA asks for a right that a migrated database
        # need not grant to the gateway any more.
        if await connection.fetchval("SELECT to_regclass('gateway.migrations')") is None:
            await connection.execute(_BOOK)
        for migration in _missing(known(), await _applied(connection)):
            await connection.execute(migration.sql)
            await connection.execute(
                "INSERT INTO gateway.migrations (number, name, digest) VALUES ($1, $2, $3)",
                migration.number,
                migration.name,
                migration.digest,
            )
            applied.append(f"{migration.number:04d}_{migration.name}")
        if applied:
            # From then on upkeep makes them, step by step, without stopping nodes that work.
            await connection.execute(
                """SELECT gateway.make_partitions((now() AT TIME ZONE 'UTC')::date + day)
                   FROM generate_series(-1, $1) AS day""",
                DAYS_AHEAD,
            )
    return applied


async def require(connection: Any) -> None:
    """Raise :class:`NotMigrated` unless the database is exactly at this version."""
    if await connection.fetchval("SELECT to_regclass('gateway.migrations')") is None:
        raise NotMigrated("the database has no gateway schema yet; run `gateway migrate`")
    missing = _missing(known(), await _applied(connection))
    if missing:
        raise NotMigrated(
            f"the database lacks migration {missing[0].number:04d}_{missing[0].name};"
            " run `gateway migrate`"
        )


async def _applied(connection: Any) -> dict[int, tuple[str, str]]:
    rows = await connection.fetch("SELECT number, name, digest FROM gateway.migrations")
    return {row["number"]: (row["name"], row["digest"]) for row in rows}


def _missing(ours: list[Migration], applied: dict[int, tuple[str, str]]) -> list[Migration]:
    numbers = {migration.number for migration in ours}
    for number, (name, _) in sorted(applied.items()):
        if number not in numbers:
            raise NotMigrated(
                f"the database has migration {number:04d}_{name}, which this version does not"
                " know; run the newer gateway that applied it"
            )
    missing = []
    for migration in ours:
        if migration.number not in applied:
            missing.append(migration)
        elif applied[migration.number][1] != migration.digest:
            raise NotMigrated(
                f"migration {migration.number:04d}_{migration.name} was applied with other content"
                " than this version ships; install the release that the database was made with"
            )
    return missing
