"""What nodes tell each other about a vendor: its wish to be left alone, and its breaker."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from gateway.store.database import Database


class BreakerNews(msgspec.Struct, frozen=True):
    """How one node's breaker stands."""

    state: str
    seconds: float  # until a call may be tried, or the one that tries counts as lost
    node: str | None


class VendorState(msgspec.Struct, frozen=True):
    """What is known of one vendor."""

    parked_seconds: float  # how much longer it wants to be left alone; 0 when it does not
    breaker: BreakerNews
    resumes: int  # how often operators have resumed it


async def park(db: Database, seconds: Mapping[str, float], *, resumes: Mapping[str, int]) -> None:
    """Have each vendor left alone for so long, on all nodes; a longer wish that is there stays.

    Nothing becomes of a wish from before an operator resumed the vendor: *resumes* tells how many
    times that was when the wish was heard.
    """
    await db.fetch(
        "vendors.park",
        list(seconds),
        list(seconds.values()),
        [resumes.get(vendor, 0) for vendor in seconds],
    )


async def move_breakers(
    db: Database, news: Mapping[str, BreakerNews], *, resumes: Mapping[str, int]
) -> None:
    """Tell how breakers stand; one that another node holds open stays that node's.

    *resumes* as for :func:`park`.
    """
    moves = news.values()
    await db.fetch(
        "vendors.move_breakers",
        list(news),
        [move.state for move in moves],
        [move.seconds for move in moves],
        [move.node for move in moves],
        [resumes.get(vendor, 0) for vendor in news],
    )


async def states(db: Database) -> dict[str, VendorState]:
    """Return what is known, by vendor."""
    return {
        row["vendor"]: VendorState(
            row["parked_seconds"],
            BreakerNews(row["breaker"], row["breaker_seconds"], row["breaker_node"]),
            row["resumes"],
        )
        for row in await db.fetch("vendors.states")
    }
