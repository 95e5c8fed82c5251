"""Buying calls: the books of all vendors' rates, which all nodes share."""

from __future__ import annotations

from gateway.model import RateGrant, RateOrder, RateTerms
from gateway.store.database import Database


async def buy(
    db: Database, vendor: str, node: str, *, terms: RateTerms, order: RateOrder
) -> RateGrant | None:
    """Report *node*'s calls of *vendor* and buy more; None: a later order of it came first."""
    rows = await db.fetch(
        "shares.buy",
        vendor,
        node,
        order.number,
        terms.counts,
        terms.periods_seconds,
        [age for age, _ in order.used],
        [calls for _, calls in order.used],
        order.kept,
        order.wanted,
        order.wants,
        order.releases,
        terms.pace_seconds,
        terms.ahead_seconds,
        terms.valid_seconds,
        terms.exclusive_seconds,
    )
    return RateGrant(**dict(rows[0])) if rows else None
