"""How the database is: what its tables weigh, and who keeps dead rows from being removed."""

from __future__ import annotations

import re
from datetime import datetime

import msgspec

from gateway.store.database import Database

QUERY_CHARS = 200

# What may hold a value in the text of a statement: comments, strings of every kind (the text may be
# cut in the middle of one), numbers.
_VALUES = re.compile(
    r"""--[^\n]*
      | /\*.*?(?:\*/|\Z)
      | \$(?P<tag>\w*)\$.*?(?:\$(?P=tag)\$|\Z)
      | [eEbBxXnN]?'(?:[^'\\]|''|\\.)*(?:'|\Z)
      | (?<![\w$])[-+]?\d[\w.]*
    """,
    re.VERBOSE | re.DOTALL,
)


class TableVitals(msgspec.Struct, frozen=True):
    """Partitions of one table and age. ``age``: default, ahead, today, yesterday, older; whole."""

    table: str
    age: str
    partitions: int
    dead_rows: int
    bytes: int


class XminHolder(msgspec.Struct, frozen=True, kw_only=True):
    """A session, prepared transaction or replication slot that sees the database as it was."""

    kind: str
    name: str  # a session's pid, a prepared transaction's gid, a slot's name
    application: str
    role: str
    state: str
    since: datetime | None
    seconds: float | None  # None: PostgreSQL does not know
    transactions: int  # begun since
    query: str  # its last statement, without any value


async def tables(db: Database, *, node: str) -> list[TableVitals]:
    """Return what the tables weigh; nothing unless *node* is the eldest of those that live."""
    return [TableVitals(*row) for row in await db.fetch("vitals.tables", node)]


async def xmin_holders(db: Database) -> list[XminHolder]:
    """Return who holds the oldest snapshots, the oldest first."""
    return [
        XminHolder(
            kind=row["kind"],
            name=row["name"],
            application=row["application"],
            role=row["role"],
            state=row["state"],
            since=row["since"],
            seconds=row["seconds"],
            transactions=row["transactions"] or 0,
            query=without_values(row["query"] or ""),
        )
        for row in await db.fetch("vitals.xmin_holders")
    ]


def without_values(sql: str) -> str:
    """Return the beginning of *sql* with every literal as ``?``: any of them may be a secret."""
    return " ".join(_VALUES.sub(_masked, sql).split())[:QUERY_CHARS]


def _masked(found: re.Match[str]) -> str:
    return " " if found[0].startswith(("--", "/*")) else "?"
