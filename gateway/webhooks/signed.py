"""What verifying is about: a request, what a scheme found in it, and what must be asked first."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec


class SignedRequest(msgspec.Struct, frozen=True, gc=False):
    """The parts of a request that a signature may cover.

    ``headers`` is asked for names in lower case only: a dict with such keys, or any
    case-insensitive mapping. ``url`` is the one the sender called, as the sender knows it;
    ``query`` is what stands in it after the "?", as it was sent.
    """

    method: str
    url: str
    headers: Mapping[str, str]
    body: bytes
    query: str = ""


class Need(msgspec.Struct, frozen=True, kw_only=True):
    """What must be fetched from the sender before a request can be verified."""

    url: str  # https, and held against a pattern of the sender's own hosts
    key: str  # names the answer in a cache; the URL and what else tells answers apart
    post: bytes = b""  # JSON to post; empty: GET
    expects: bytes = b""  # how a usable answer begins
    keep_seconds: float = 3600.0  # how long it may be used

    def __repr__(self) -> str:
        return f"Need({self.key})"  # what is posted may hold a secret


class Parts(msgspec.Struct, frozen=True, gc=False):
    """What the signed message is put together from."""

    request: SignedRequest
    fields: Mapping[str, str]  # ``name=value`` items of the signature header
    timestamp: bytes
    message_id: bytes


class Reading(msgspec.Struct, frozen=True, gc=False):
    """What a scheme found in one request: well-formed but not yet believed."""

    signatures: list[bytes]  # decoded candidates
    alternatives: list[bytes]  # those of the scheme's alternative; one of both lists is not empty
    timestamp_seconds: float | None
    message: bytes  # what the sender should have signed
