"""The statement that sells calls: it never sells more than n per window, and knows its model."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from random import Random

import msgspec
import pytest
from rate_books import Books

from gateway.model import RateGrant, RateOrder, RateTerms
from gateway.store.database import Database
from gateway.store.sql import query

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
SHARED = RateTerms(
    counts=(10, 40),
    periods_seconds=(3.2, 64.0),
    pace_seconds=0.25,
    ahead_seconds=1.5,
    valid_seconds=1.0,
    exclusive_seconds=0.0,
)
LONELY = msgspec.structs.replace(SHARED, exclusive_seconds=3.0)


@pytest.fixture
async def db(database_url: str) -> AsyncIterator[Database]:
    database = Database(database_url, pool=4)
    await database.open()
    yield database
    await database.close()


async def buy_at(
    db: Database, vendor: str, node: str, terms: RateTerms, order: RateOrder, now: float
) -> RateGrant | None:
    """What the store does, at a moment of the test's choice."""
    sql = query("shares.buy").replace("$15)", "$15, $16)")
    rows = await db.fetch_sql(
        sql,
        *(vendor, node, order.number, terms.counts, terms.periods_seconds),
        *([age for age, _ in order.used], [calls for _, calls in order.used]),
        *(order.kept, order.wanted, order.wants, order.releases),
        *(terms.pace_seconds, terms.ahead_seconds, terms.valid_seconds, terms.exclusive_seconds),
        EPOCH + timedelta(seconds=now),
    )
    return RateGrant(**dict(rows[0])) if rows else None


def order(number: int, **given: object) -> RateOrder:
    plain: dict[str, object] = {
        "number": number,
        "sent_at": 0.0,
        "used": (),
        "kept": 0,
        "wanted": 1,
        "wants": True,
        "releases": False,
    }
    return RateOrder(**(plain | given))  # type: ignore[arg-type]


@dataclass
class Customer:
    number: int = 0
    kept: int = 0
    until: float = 0.0
    exclusive: bool = False
    contended: bool = False


@pytest.mark.parametrize("terms", [SHARED, LONELY], ids=["shared", "lonely"])
async def test_the_statement_answers_as_its_model(db: Database, terms: RateTerms) -> None:
    for seed in range(8):
        random, books, now = Random(seed), Books(), 1000.0
        customers = {name: Customer() for name in "abc"}
        for _ in range(60):
            # Whole seconds: no two instants share a slot, so the rounding has nothing to round.
            now += random.choice((0, 0, 1, 1, 2, 12 if random.random() < 0.1 else 1))
            name = random.choice("aab" if random.random() < 0.7 else "c")
            customer = customers[name]
            customer.number += 1
            if now > customer.until:
                customer.kept = 0
            spent = random.randint(0, customer.kept)
            customer.kept -= spent
            releases = customer.contended or random.random() < 0.05
            if releases:
                customer.kept = 0
            asked = order(
                customer.number,
                used=((0.0, spent),) if spent else (),
                kept=customer.kept,
                wanted=random.randint(0, 4),
                wants=random.random() < 0.8,
                releases=releases,
            )
            expected = books.buy(name, terms=terms, order=asked, now=now)
            answer = await buy_at(db, f"v{seed}", name, terms, asked, now)
            assert answer is not None
            assert expected is not None
            assert astuple_of(answer) == pytest.approx(astuple_of(expected), abs=1e-5), (seed, now)
            customer.kept += answer.granted
            customer.until = now + answer.until_seconds
            customer.contended = answer.exclusive and answer.contended


def astuple_of(grant: RateGrant) -> tuple[float, ...]:
    return tuple(float(value) for value in msgspec.structs.astuple(grant))


def assert_law(calls: Sequence[float], terms: RateTerms) -> None:
    calls = sorted(calls)
    for count, period in zip(terms.counts, terms.periods_seconds, strict=True):
        for first, last in zip(calls, calls[count:], strict=False):
            assert last - first > period, (count, period, last)
