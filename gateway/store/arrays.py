"""Rows as the arrays that a statement takes: an element costs about as much as the SQL around it.

So what repeats is sent once, and of what nobody has there is no array.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

Value = TypeVar("Value")


def given(column: list[Value | None]) -> list[Value | None] | None:
    """Return *column*, or None if there is nothing in it."""
    return column if column.count(None) < len(column) else None


def columns(rows: Iterable[tuple[Any, ...]], width: int) -> list[list[Any]]:
    """Return *rows* as *width* columns."""
    return [list(column) for column in zip(*rows, strict=True)] or [[] for _ in range(width)]
