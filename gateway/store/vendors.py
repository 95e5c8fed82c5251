"""What must be remembered of a vendor across a restart."""

from __future__ import annotations

from collections.abc import Mapping

from gateway.store.database import Database


async def save_limits(db: Database, limits: Mapping[str, str]) -> None:
    """Keep each vendor's used rate windows, as JSON."""
    await db.fetch("vendors.save_limits", list(limits), list(limits.values()))


async def load_limits(db: Database) -> dict[str, tuple[str, float]]:
    """Return what was kept, by vendor: the JSON, and its age in seconds."""
    rows = await db.fetch("vendors.load_limits")
    return {row["vendor"]: (row["limiter"], row["age_seconds"]) for row in rows}
