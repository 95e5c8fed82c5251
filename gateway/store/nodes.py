"""Nodes: who lives, who is dead, and what becomes of a dead one's jobs."""

from __future__ import annotations

from uuid import UUID

from gateway.store.database import Database
from gateway.store.sql import query


async def register(
    db: Database, node: str, *, lease_seconds: float, version: str, oldest_held: UUID
) -> None:
    """Announce *node*, which holds nothing: a new name, or one that was buried.

    No job of it will have an id below *oldest_held*, but for those that it claims.
    """
    await db.fetch("nodes.register", node, lease_seconds, version, oldest_held)


async def renew(db: Database, node: str, *, oldest_held: UUID | None) -> tuple[bool, bool]:
    """Prolong the lease; return whether *node* still lives, and whether another's has run out."""
    rows = await db.fetch("nodes.renew", node, oldest_held)
    return (True, bool(rows[0]["others_expired"])) if rows else (False, False)


async def resign(db: Database, node: str) -> None:
    """Say that *node* is gone on purpose. Whatever it holds all the same goes to the backlog.

    That is what committed without its knowing: once its row is gone nobody would look for it.
    """
    async with db.transaction(sorting=False) as connection:
        for grave in await connection.fetch(query("nodes.resign"), node):
            await connection.fetch(query("jobs.release_all"), grave["oldest_held"], node)


async def rescue(db: Database) -> dict[str, dict[str, int]]:
    """Bury the nodes whose lease has run out; return their jobs given back, by node and lane."""
    rescued: dict[str, dict[str, int]] = {}
    async with db.transaction(sorting=False) as connection:
        for grave in await connection.fetch(query("nodes.bury")):
            rows = await connection.fetch(
                query("nodes.rescue"), grave["node"], grave["oldest_held"]
            )
            rescued[grave["node"]] = {row["vendor"]: row["jobs"] for row in rows}
    return rescued
