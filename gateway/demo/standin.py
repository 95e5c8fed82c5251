"""A stand-in for the vendors that the demo calls: one small HTTP server with moods.

It answers most requests well, but fails, throttles and stalls now and then. The moods follow
counters, not chance, so that each run has retries and dead letters for certain. Like a good vendor
it honours ``Idempotency-Key``: work that it has done already is not done twice.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections import Counter
from collections.abc import Iterable
from types import TracebackType
from typing import Self, cast

import msgspec

from gateway.config.model import Address
from gateway.errors import GatewayError

BROKEN_ORDER = "-0013"  # an order whose id ends so makes the stand-in fail each time
CLOSED_CUSTOMER = "cus_closed"  # a customer whose id begins so is refused for good
STALL_SECONDS = 4.0  # longer than the timeout in the demo's configuration
SLOW_SECONDS = 0.4
RETRY_AFTER_SECONDS = 1

MAX_REQUEST_BYTES = 8 << 20
MAX_KEYS = 50_000  # remembered; the oldest is forgotten first

_PHRASES = {
    200: "OK",
    400: "Bad Request",
    422: "Unprocessable Content",
    429: "Too Many Requests",
    500: "Internal Server Error",
    503: "Service Unavailable",
}


class Answer(msgspec.Struct, frozen=True):
    """What the stand-in answers, and after how long."""

    status: int
    body: dict[str, object]
    delay_seconds: float = 0.0
    retry_after_seconds: int | None = None


class StandIn:
    """Plays every vendor of the demo on its own *addresses*; ``tally`` counts what it did."""

    def __init__(self, addresses: Iterable[Address]) -> None:
        self._addresses = sorted(set(addresses), key=str)
        self._servers: list[asyncio.Server] = []
        self._done: dict[str, bool] = {}  # by idempotency key; a key that is here came before
        self._requests = 0
        self._first_tries = 0
        self.tally: Counter[str] = Counter()
        self.connections: set[asyncio.Transport] = set()

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        for address in self._addresses:
            try:
                server = await loop.create_server(
                    lambda: _Connection(self), address.host, address.port, reuse_address=True
                )
            except OSError as error:
                await self.close()
                raise GatewayError(
                    f"the stand-in vendor cannot listen on {address.host}:{address.port}:"
                    f" {os.strerror(error.errno or 0)}; stop whoever has that port, or change"
                    " the port in the base_url of the vendors that are called"
                ) from error
            self._servers.append(server)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Stop listening and cut every connection."""
        for server in self._servers:
            server.close()
        for transport in list(self.connections):
            transport.abort()
        for server in self._servers:
            await server.wait_closed()
        self._servers.clear()

    def answer(self, path: str, key: str) -> Answer:
        """Decide on one request; *key* is its idempotency key, or empty."""
        self._requests += 1
        first = self._remember(key)
        self._first_tries += first
        if self._done.get(key):
            self.tally["recognised"] += 1
            return Answer(200, {"ok": True, "repeated": True})
        mood = self._mood(path, first)
        self.tally[str(mood.status)] += 1
        if mood.status == 200 and key:
            self._done[key] = True
        return mood

    def _mood(self, path: str, first: bool) -> Answer:
        target = path.partition("?")[0].rpartition("/")[2]
        if target.startswith(CLOSED_CUSTOMER):
            return Answer(422, {"error": f"customer {target} has closed the account"})
        if target.endswith(BROKEN_ORDER):
            return Answer(500, {"error": "division by zero"})
        if self._requests % 150 == 40:
            return Answer(429, {"error": "slow down"}, retry_after_seconds=RETRY_AFTER_SECONDS)
        if first and self._first_tries % 12 == 6:
            return Answer(503, {"error": "deploying, back in a moment"})
        if first and self._first_tries % 200 == 100:
            # The work is done, but its answer comes too late: the next try is recognised.
            self.tally["stalled"] += 1
            return Answer(200, {"ok": True}, STALL_SECONDS)
        return Answer(200, {"ok": True}, SLOW_SECONDS if self._requests % 17 == 0 else 0.0)

    def _remember(self, key: str) -> bool:
        """Return whether *key* is here for the first time."""
        if not key:
            return True
        first = key not in self._done
        self._done.setdefault(key, False)
        if len(self._done) > MAX_KEYS:
            del self._done[next(iter(self._done))]
        return first


class _Connection(asyncio.Protocol):
    """One connection from the gateway: one request after the other."""

    def __init__(self, stand_in: StandIn) -> None:
        self._stand_in = stand_in
        self._received = b""
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass
        self._stand_in.connections.add(self._transport)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  # asyncio's
        self._stand_in.connections.discard(self._transport)

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, end, rest = self._received.partition(b"\r\n\r\n")
        if not end and len(head) < MAX_REQUEST_BYTES:
            return
        try:
            path, headers = _parse(head)
            length = int(headers.get("content-length", "0"))
        except ValueError:
            length = -1
        if not 0 <= length <= MAX_REQUEST_BYTES or not end:
            self._send(Answer(400, {"error": "not understood"}))
            self._transport.close()
        elif len(rest) >= length:
            self._received = rest[length:]
            answer = self._stand_in.answer(path, headers.get("idempotency-key", ""))
            if answer.delay_seconds:
                asyncio.get_running_loop().call_later(answer.delay_seconds, self._send, answer)
            else:
                self._send(answer)

    def _send(self, answer: Answer) -> None:
        if self._transport.is_closing():  # the gateway has lost its patience
            return
        body = json.dumps(answer.body).encode()
        lines = [
            f"HTTP/1.1 {answer.status} {_PHRASES[answer.status]}",
            "Content-Type: application/json",
            f"Content-Length: {len(body)}",
        ]
        if answer.retry_after_seconds is not None:
            lines.append(f"Retry-After: {answer.retry_after_seconds}")
        self._transport.write("\r\n".join(lines).encode() + b"\r\n\r\n" + body)


def _parse(head: bytes) -> tuple[str, dict[str, str]]:
    """Return path and headers (names in lower case); ``ValueError`` for what is no request."""
    first, *lines = head.decode("latin-1").split("\r\n")
    _, path, _ = first.split(" ")
    pairs = (line.partition(":") for line in lines)
    return path, {name.lower(): value.strip() for name, _, value in pairs}
