"""The statement that sells calls: it never sells more than n per window, and knows its model."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from random import Random

import msgspec
import pytest
from rate_books import Books

from gateway.model import RateGrant, RateOrder, RateTerms
from gateway.store import shares
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


async def test_a_late_order_is_void(db: Database) -> None:
    assert await buy_at(db, "v", "a", SHARED, order(2, wanted=4), 0.0) is not None
    assert await buy_at(db, "v", "a", SHARED, order(1, kept=0, wanted=0), 0.1) is None
    rows = await db.fetch_sql("SELECT calls FROM gateway.rate_shares")
    assert [row["calls"] for row in rows] == [4]  # what it holds still counts


async def test_calls_made_alone_until_the_end_count_although_their_report_is_on_its_way(
    db: Database,
) -> None:
    alone = await buy_at(db, "v", "a", LONELY, order(1), 0.0)
    assert alone is not None
    assert alone.exclusive
    assert alone.until_seconds == 3.0
    # Another wants to call: not now, it is told, and the first one is told at its next order,
    refused = await buy_at(db, "v", "b", LONELY, order(1), 2.9)
    assert refused is not None
    assert (refused.granted, refused.exclusive) == (0, False)
    # which comes late: meanwhile it may have called until the end of its time.
    late = await buy_at(db, "v", "a", LONELY, order(2), 3.5)
    assert late is not None
    assert (late.exclusive, late.contended, late.granted) == (True, True, 0)
    still = await buy_at(db, "v", "b", LONELY, order(2), 3.6)
    assert still is not None
    assert still.granted == 0  # not within 3.2 s, and a bit, of the last call there may have been
    # It reports what it called; only that counts from then on.
    made = order(3, used=((1.0, 4),), wanted=0, releases=True)
    assert await buy_at(db, "v", "a", LONELY, made, 3.7) is not None
    sold = await buy_at(db, "v", "b", LONELY, order(3, wanted=6), 3.8)
    assert sold is not None
    assert sold.granted == 6


async def test_a_minutes_quota_is_sold_once_however_many_ask_at_once(db: Database) -> None:
    terms = msgspec.structs.replace(SHARED, counts=(100,), periods_seconds=(60.0,))
    terms = msgspec.structs.replace(terms, pace_seconds=0.0, valid_seconds=5.0)
    granted = 0

    async def node(name: str) -> None:
        nonlocal granted
        kept = 0
        for number in range(1, 15):
            grant = await shares.buy(
                db, "v", name, terms=terms, order=order(number, kept=kept, wanted=3)
            )
            assert grant is not None
            granted += grant.granted
            kept += grant.granted

    async with asyncio.TaskGroup() as group:
        for name in "abcdef":
            group.create_task(node(name))
    assert granted == 100


async def test_the_books_stay_small_and_forget_processes_that_ended(db: Database) -> None:
    for number in range(400):
        sold = order(number + 1, used=tuple((age / 10, 1) for age in range(16)))
        assert await buy_at(db, "v", "a", SHARED, sold, number * 1.7) is not None
    rows = await db.fetch_sql("SELECT count(*) AS rows FROM gateway.rate_use")
    assert rows[0]["rows"] <= 128 * 2
    for number in range(5):
        assert await buy_at(db, "v", f"b/{number}", SHARED, order(1), 1000.0 * number) is not None
    rows = await db.fetch_sql("SELECT node FROM gateway.rate_shares ORDER BY node")
    assert [row["node"] for row in rows] == ["b/4"]


async def test_a_report_counts_for_every_window_from_its_youngest_call(db: Database) -> None:
    full = order(1, used=((0.5, 10),), wanted=0)
    assert await buy_at(db, "v", "a", SHARED, full, 100.0) is not None
    for number, (now, granted) in enumerate(((101.0, 0), (101.2, 0), (101.4, 1)), start=1):
        grant = await buy_at(db, "v", "b", SHARED, order(number), now)
        assert grant is not None
        assert grant.granted == granted, now
    assert grant is not None
    assert 101.4 + grant.from_seconds == pytest.approx(99.5 + 3.2 + 0.16)
