"""Places in the history: a time, as what operators write and as an id, and a page's cursor."""

from __future__ import annotations

import base64
import binascii
from datetime import UTC, datetime, timedelta
from uuid import UUID

from gateway.config.values import duration_seconds


def parse_moment(text: str, *, now: datetime) -> datetime:
    """Read an ISO 8601 time (UTC where it names no zone), or a duration: so long before *now*."""
    try:
        return now - timedelta(seconds=duration_seconds(text))
    except (ValueError, OverflowError):
        pass
    try:
        return parse_time(text)
    except ValueError as error:
        raise ValueError(f'{error}, or a duration such as "2h"') from None


def parse_time(text: str) -> datetime:
    """Read an ISO 8601 time (UTC where it names no zone)."""
    try:
        moment = datetime.fromisoformat(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        raise ValueError('write a time such as "2026-01-31T08:30:00Z"') from None


def first_id(moment: datetime) -> UUID:
    """Return the lowest UUIDv7 of *moment*'s millisecond (RFC 9562, section 5.7)."""
    milliseconds = (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)
    return UUID(int=min(max(milliseconds, 0), (1 << 48) - 1) << 80)


def encode_cursor(position: UUID) -> str:
    """Return the text that lets a listing go on below *position*."""
    return base64.urlsafe_b64encode(position.bytes).rstrip(b"=").decode()


def decode_cursor(cursor: str) -> UUID:
    """Return the position; ``ValueError`` for anything that :func:`encode_cursor` did not make."""
    try:
        position = UUID(bytes=base64.urlsafe_b64decode(cursor.encode("ascii") + b"=="))
    except (binascii.Error, ValueError):
        position = None
    if position is None or encode_cursor(position) != cursor:
        raise ValueError("this is not the cursor of an earlier page")
    return position
