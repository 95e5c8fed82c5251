"""A vendor that does byte for byte what a test says, and calls to it."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import msgspec
import pytest

from gateway.config.model import Api
from gateway.vendors.calls import Call, CallFailed, Reply
from gateway.vendors.client import VendorClient

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Request(msgspec.Struct):
    line: str
    headers: list[tuple[str, str]]
    body: bytes
    connection: int
    reader: Any

    def header(self, name: str) -> str | None:
        """The one value of *name*; a header sent twice is a fault."""
        values = [value for known, value in self.headers if known.lower() == name.lower()]
        assert len(values) <= 1, self.headers
        return values[0] if values else None


Answer = Callable[[Request, asyncio.StreamWriter], Awaitable[None]]


class ScriptedVendor:
    """Reads whole requests; what it does then is the test's matter. Never ends by itself."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.connections = 0
        self.arrived = asyncio.Event()
        self.gone = asyncio.Event()  # a client closed its connection
        self.answer: Answer = says(OK)
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        connection = self.connections
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
                pairs = [line.partition(": ") for line in head[1:] if line]
                headers = [(name, value) for name, _, value in pairs]
                sizes = [int(value) for name, value in headers if name == "Content-Length"]
                body = await reader.readexactly(sizes[0]) if sizes else b""
                request = Request(head[0], headers, body, connection, reader)
                self.requests.append(request)
                self.arrived.set()
                await self.answer(request, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            self.gone.set()
        finally:
            writer.close()


def says(*pieces: bytes) -> Answer:
    async def answer(_request: Request, writer: asyncio.StreamWriter) -> None:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()

    return answer


def then_ends(piece: bytes) -> Answer:
    async def answer(_request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(piece)
        writer.close()

    return answer


async def hangs(request: Request, _writer: asyncio.StreamWriter) -> None:
    await request.reader.readexactly(1)  # until the client hangs up


async def lingers(request: Request, seconds: float) -> None:
    """Let *seconds* go by; ends the connection at once when the client hangs up meanwhile."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await request.reader.readexactly(1)


async def resets(_request: Request, writer: asyncio.StreamWriter) -> None:
    raw = writer.get_extra_info("socket")
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
    writer.transport.abort()


@asynccontextmanager
async def scripted_vendor(tls: ssl.SSLContext | None = None) -> AsyncIterator[ScriptedVendor]:
    """A vendor on a port of its own; its connections end with it."""
    scripted = ScriptedVendor()
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await scripted.serve(reader, writer)
        except asyncio.CancelledError:
            pass
        finally:
            tasks.discard(task)

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    scripted.port = server.sockets[0].getsockname()[1]
    try:
        yield scripted
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def api(base_url: str, **changes: Any) -> Api:
    defaults: dict[str, Any] = {"allow_private": True, "timeout_seconds": 20.0, "concurrency": 4}
    return Api(vendor="stub", base_url=base_url, **(defaults | changes))


@asynccontextmanager
async def client_of(api: Api, **options: Any) -> AsyncIterator[VendorClient]:
    client = VendorClient(api, user_agent="gateway/test", **options)
    await client.start()
    try:
        yield client
    finally:
        await client.close()


async def send(api: Api, **call: Any) -> Reply:
    async with client_of(api) as client:
        return await client.send(Call(**({"method": "POST", "path": "/deals"} | call)))


async def failure_of(api: Api, **call: Any) -> CallFailed:
    with pytest.raises(CallFailed) as caught:
        await send(api, **call)
    return caught.value
