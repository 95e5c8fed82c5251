"""A search through days that are too much for one statement: in parts, and nothing is left out."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, cast
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import TooWide
from gateway.model import JobState
from gateway.store import listing
from gateway.store.cursors import first_id
from gateway.store.database import SEARCH_SECONDS, Database
from gateway.store.records import JobFilter

LOWEST, BEYOND = UUID(int=0), UUID(int=(1 << 128) - 1)


def midnight() -> datetime:
    return datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)


class History:
    """A database without jobs, of which a statement can read *budget* in its time; after
    *seconds_of_luck* next to nothing.
    """

    def __init__(
        self, budget: timedelta, *, days: int = 365, seconds_of_luck: float = float("inf")
    ) -> None:
        self._days = days
        self._budget = budget / timedelta(milliseconds=1) * (1 << 80)
        self.parts: list[tuple[UUID, UUID]] = []
        self.refused = 0
        self.seconds = 0.0  # what it has taken
        self._seconds_of_luck = seconds_of_luck

    @asynccontextmanager
    async def reading(self, *, seconds: float, planner: object) -> AsyncIterator[History]:
        self._patience = seconds
        yield self

    async def fetch(self, query: str, *args: Any) -> list[Any]:
        if len(args) < 8:
            return []  # which days there are
        low, high = args[5], args[6]
        newest = first_id(datetime.now(UTC) + timedelta(minutes=1))
        begin = first_id(midnight() - timedelta(days=self._days))  # nothing is older
        if self.seconds > self._seconds_of_luck:
            self._budget = 1.0
        share = (min(high, newest).int - max(low, begin).int) / self._budget
        self.seconds += min(max(0.001, share), 1.0) * self._patience
        if share > 1.0:
            self.refused += 1
            raise TooWide("no answer")
        self.parts.append((low, high))
        return []


async def search(history: History, wanted: JobFilter, cursor: str | None = None) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(listing, "monotonic", lambda: history.seconds)
        return await listing.list_jobs(cast(Database, history), wanted, cursor=cursor)


@settings(max_examples=30)
@given(
    budget=st.timedeltas(timedelta(days=1), timedelta(days=400)),
    since=st.none() | st.timedeltas(timedelta(hours=1), timedelta(days=30)),
)
async def test_whatever_a_statement_can_read_the_pages_cover_the_whole_history(
    budget: timedelta, since: timedelta | None
) -> None:
    now = datetime.now(UTC)
    wanted = JobFilter(since=None if since is None else now - since, route="rare")
    history = History(budget)
    pages, cursor = 0, None
    while True:
        before = history.seconds
        page = await search(history, wanted, cursor)
        assert history.seconds - before < SEARCH_SECONDS + listing.PART_SECONDS + 0.1
        pages, cursor = pages + 1, page.cursor
        if cursor is None:
            break
        assert pages < 500
    highs, lows = [part[1] for part in history.parts], [part[0] for part in history.parts]
    assert highs[0] == BEYOND
    assert highs[1:] == lows[:-1], "each part begins where the one before it ended"
    assert lows[-1] == (LOWEST if wanted.since is None else first_id(wanted.since))


async def test_parts_grow_again_where_they_are_quick() -> None:
    history = History(timedelta(hours=12), days=1)
    wanted = JobFilter(since=midnight() - timedelta(days=30), until=midnight(), route="rare")
    page = await search(history, wanted)
    assert page.cursor is None
    assert history.refused == 2
    assert len(history.parts) < 20  # in parts of the first size it would be over 200


async def test_no_part_is_tried_when_the_time_is_up() -> None:
    history = History(timedelta(hours=12), seconds_of_luck=4.0)
    wanted = JobFilter(since=midnight() - timedelta(days=30), until=midnight(), route="rare")
    page = await search(history, wanted)
    assert page.cursor is not None
    assert history.seconds <= SEARCH_SECONDS + listing.PART_SECONDS


async def test_when_not_even_a_second_of_the_history_can_be_read_it_is_told() -> None:
    history = History(timedelta(milliseconds=10))
    with pytest.raises(TooWide):
        await search(history, JobFilter(route="rare"))
    assert history.refused < 8
    assert history.seconds <= SEARCH_SECONDS + listing.PART_SECONDS


@pytest.mark.parametrize("wanted", [{"correlation_id": "order-7"}, {"event_id": UUID(int=7)}])
async def test_what_has_an_index_over_all_days_has_the_whole_time(wanted: dict[str, Any]) -> None:
    class Slow(History):
        async def fetch(self, query: str, *args: Any) -> list[Any]:
            self.refused += 1
            self.seconds += self._patience
            raise TooWide("no answer")

    history = Slow(timedelta(0))
    with pytest.raises(TooWide):
        await search(history, JobFilter(state=JobState.DEAD, **wanted))
    assert history.refused == 1
    assert history._patience == SEARCH_SECONDS
