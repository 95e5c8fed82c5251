"""HTTP messages, apart from how they were read."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec


class Request(msgspec.Struct, frozen=True, gc=False):
    """A request; its headers are asked for by names in lower case."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes


class Answer(msgspec.Struct, frozen=True, gc=False):
    """An answer; its headers by their names in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes
    body_complete: bool = True  # else this is what was read of it
