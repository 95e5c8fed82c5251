"""The senders: they post webhooks over real connections and note what they are answered."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress

from gateway.demo.traffic import Delivery, Meant
from gateway.errors import GatewayError

CONNECTIONS = 8
TRIES = 10
TIMEOUT_SECONDS = 30.0
MAX_WAIT_SECONDS = 5.0  # before another try, whatever Retry-After says

# What is sent twice may arrive in either order, and so may a webhook whose answer was lost.
EXPECTED: dict[Meant, tuple[int, ...]] = {
    "new": (202, 200),
    "repeated": (200, 202),
    "forged": (401,),
}


class Sending:
    """Sends *deliveries* to a gateway within *seconds*, evenly, and counts the answers."""

    def __init__(
        self, deliveries: Sequence[Delivery], *, host: str, port: int, seconds: float
    ) -> None:
        self._deliveries = iter(deliveries)
        self._host = host
        self._port = port
        self._pause_seconds = seconds / max(1, len(deliveries))
        self._next_at = 0.0
        self.planned = len(deliveries)
        self.sent = 0
        self.jobs = 0  # that the gateway said it made
        self.tries_again = 0  # after 429, 503, or no answer
        self.answers: Counter[tuple[Meant, int]] = Counter()
        self.accept_seconds: list[float] = []  # from a request to its 202
        self.seconds = 0.0

    @property
    def surprises(self) -> list[str]:
        """Return the answers that should not have been, in words."""
        return [
            f"{count} of the {meant} webhooks got {status}, expected {EXPECTED[meant][0]}"
            for (meant, status), count in sorted(self.answers.items())
            if status not in EXPECTED[meant]
        ]

    async def run(self) -> None:
        """Send everything; raises :class:`GatewayError` when the gateway cannot be reached."""
        began = self._next_at = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for _ in range(CONNECTIONS):
                group.create_task(self._send_some())
        self.seconds = time.perf_counter() - began

    async def _send_some(self) -> None:
        connection = _Connection(self._host, self._port)
        try:
            for delivery in self._deliveries:
                send_at, self._next_at = self._next_at, self._next_at + self._pause_seconds
                await asyncio.sleep(max(0.0, send_at - time.perf_counter()))
                await self._send(connection, delivery)
        finally:
            await connection.close()

    async def _send(self, connection: _Connection, delivery: Delivery) -> None:
        path = f"/webhooks/{delivery.sender.vendor}"
        for tries_left in reversed(range(TRIES)):
            began = time.perf_counter()
            try:
                status, retry_after, body = await connection.post(
                    path, delivery.headers(time.time()), delivery.body
                )
            except GatewayError:
                if not tries_left:
                    raise
                retry_after = 1.0
            else:
                if status not in (429, 503) or not tries_left:
                    break
            self.tries_again += 1
            await asyncio.sleep(min(MAX_WAIT_SECONDS, retry_after))
        if status == 202:
            self.accept_seconds.append(time.perf_counter() - began)
            self.jobs += json.loads(body)["jobs"]
        self.answers[delivery.meant, status] += 1
        self.sent += 1


class _Connection:
    """A keep-alive connection; opened when needed, and again when the gateway has closed it."""

    def __init__(self, host: str, port: int) -> None:
        self._host = host
        self._port = port
        self._reader: asyncio.StreamReader
        self._writer: asyncio.StreamWriter | None = None

    async def post(
        self, path: str, headers: dict[str, str], body: bytes
    ) -> tuple[int, float, bytes]:
        """Return the answer's status, the seconds of its ``Retry-After`` (or 1) and its body."""
        lines = [
            f"POST {path} HTTP/1.1",
            f"Host: {self._host}:{self._port}",
            "User-Agent: gateway-demo",
            "Content-Type: application/json",
            f"Content-Length: {len(body)}",
            *(f"{name}: {value}" for name, value in headers.items()),
        ]
        request = "\r\n".join(lines).encode() + b"\r\n\r\n" + body
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                if self._writer is None:
                    self._reader, self._writer = await asyncio.open_connection(
                        self._host, self._port
                    )
                self._writer.write(request)
                return await self._answer()
        except (OSError, EOFError, TimeoutError) as error:
            await self.close()
            raise GatewayError(
                f"the gateway gave no answer on {self._host}:{self._port}:"
                f" {error or type(error).__name__}"
            ) from error

    async def _answer(self) -> tuple[int, float, bytes]:
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head.strip().split("\r\n")
        pairs = (line.partition(":") for line in lines)
        headers = {name.lower(): value.strip() for name, _, value in pairs}
        body = await self._reader.readexactly(int(headers.get("content-length", "0")))
        if headers.get("connection", "").lower() == "close":
            await self.close()
        return int(first.split(" ")[1]), float(headers.get("retry-after", "1")), body

    async def close(self) -> None:
        """Close the connection, if it is open."""
        if self._writer is not None:
            self._writer.close()
            with suppress(OSError):
                await self._writer.wait_closed()
            self._writer = None
