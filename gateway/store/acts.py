"""The book of operators' acts: who did what, to what, and when. Nobody can change it."""

from __future__ import annotations

from uuid import UUID

import msgspec

from gateway.store.cursors import decode_cursor, encode_cursor, first_id
from gateway.store.database import SEARCH_SECONDS, Database
from gateway.store.records import ActFilter, ActPage, ActRecord
from gateway.store.sql import query

_LOWEST = UUID(int=0)
_BEYOND = UUID(int=(1 << 128) - 1)


async def list_acts(
    db: Database, wanted: ActFilter, *, limit: int = 50, cursor: str | None = None
) -> ActPage:
    """Return acts, newest first; *cursor* is that of the page before.

    ``ValueError`` for a cursor that is none; raises :class:`TooWide`.
    """
    low = first_id(wanted.since) if wanted.since is not None else _LOWEST
    high = first_id(wanted.until) if wanted.until is not None else _BEYOND
    if cursor is not None:
        high = min(high, decode_cursor(cursor))
    async with db.reading(seconds=SEARCH_SECONDS) as connection:
        rows = await connection.fetch(
            query("acts.list"), wanted.who, wanted.act, wanted.target, low, high, limit + 1
        )
    acts = [
        ActRecord(
            **dict(row)
            | {"target": msgspec.Raw(row["target"]), "result": msgspec.Raw(row["result"])}
        )
        for row in rows[:limit]
    ]
    return ActPage(acts, encode_cursor(acts[-1].id) if len(rows) > limit else None)
