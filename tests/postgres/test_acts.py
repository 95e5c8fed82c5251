"""The book of acts: found by who, what, to what and when, page by page."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from gateway.store.acts import list_acts
from gateway.store.database import Database
from gateway.store.records import ActFilter

WRITTEN = [
    ("Alice@vm-1", "vendor.pause", '{"vendor": "crm"}'),
    ("api from 10.0.0.7", "replay.start", '{"jobs": {"route": "orders"}, "rate": "5/s"}'),
    ("Alice@vm-1", "route.pause", '{"route": "orders"}'),
    ("bob@vm-2", "vendor.resume", '{"vendor": "crm"}'),
]


@pytest.fixture
async def book(db: Database, connection: Any) -> Database:
    for number, (who, act, target) in enumerate(WRITTEN):
        await connection.execute(
            """INSERT INTO gateway.acts (id, at, who, act, target, result)
               SELECT gateway.uuid7_floor(at), at, $2, $3, $4, '{"changed": true}'
               FROM (SELECT now() - make_interval(hours => 10 - $1) AS at) moment""",
            number,
            who,
            act,
            target,
        )
    return db


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        (ActFilter(), ["vendor.resume", "route.pause", "replay.start", "vendor.pause"]),
        (ActFilter(who="alice"), ["route.pause", "vendor.pause"]),
        (ActFilter(who="10.0.0.7"), ["replay.start"]),
        (ActFilter(who="%"), []),
        (ActFilter(act="vendor"), ["vendor.resume", "vendor.pause"]),
        (ActFilter(act="vendor.pause"), ["vendor.pause"]),
        (ActFilter(act="vend"), []),
        (ActFilter(target="orders"), ["route.pause", "replay.start"]),
        (ActFilter(target="order"), []),
        (ActFilter(target="crm", who="bob"), ["vendor.resume"]),
    ],
)
async def test_acts_are_found_newest_first(
    book: Database, wanted: ActFilter, found: list[str]
) -> None:
    assert [one.act for one in (await list_acts(book, wanted)).acts] == found


async def test_since_is_inclusive_and_until_is_not(book: Database) -> None:
    every = (await list_acts(book, ActFilter())).acts
    since, until = every[2].at, every[0].at
    hair = timedelta(milliseconds=1)  # ids know the time no finer
    page = await list_acts(book, ActFilter(since=since, until=until - hair))
    assert page.acts == every[1:3]


async def test_pages_hold_no_more_than_asked_for_and_join(book: Database) -> None:
    every = (await list_acts(book, ActFilter())).acts
    first = await list_acts(book, ActFilter(), limit=3)
    assert first.acts == every[:3]
    assert first.cursor is not None
    rest = await list_acts(book, ActFilter(), limit=3, cursor=first.cursor)
    assert (rest.acts, rest.cursor) == (every[3:], None)
    with pytest.raises(ValueError, match="not the cursor"):
        await list_acts(book, ActFilter(), cursor="x")
