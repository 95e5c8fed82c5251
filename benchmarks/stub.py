"""The stand-in vendor, a process of its own: ``python -m benchmarks.stub PORT``.

It answers every POST with 200 and a small body, and remembers when each numbered event first
arrived. Control, by GET: ``/_reset``, ``/_count``, ``/_arrivals`` (raw int64, CLOCK_MONOTONIC ns
by number; 0: not arrived), ``/_hang`` (stop answering), ``/_answer`` (go on, the waiting first),
``/_watch`` (an endless answer: one line with the count soon after it has changed).
"""

from __future__ import annotations

import asyncio
import sys
import time
from array import array
from typing import cast

import msgspec
import uvloop

from benchmarks.wire import message_bytes, seq_of

_OK = b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 11\r\n\r\n{"ok":true}'
_WATCH_SECONDS = 0.002


class Count(msgspec.Struct):
    """``unique`` events arrived, ``duplicates`` times one came again, ``waiting`` unanswered."""

    unique: int
    duplicates: int
    waiting: int


class Stub:
    """What has arrived."""

    def __init__(self) -> None:
        self.hanging = False
        self.waiting: list[asyncio.Transport] = []
        self.watchers: list[asyncio.Transport] = []
        self.telling = False  # in a moment
        self.reset()

    def reset(self) -> None:
        self.arrived_ns = array("q")
        self.unique = 0
        self.duplicates = 0
        self.tell_soon()

    def deliver(self, transport: asyncio.Transport, message: bytes) -> None:
        now_ns = time.monotonic_ns()
        seq = seq_of(message)
        if seq >= len(self.arrived_ns):
            self.arrived_ns.frombytes(bytes(8 * (seq + 10_000 - len(self.arrived_ns))))
        if self.arrived_ns[seq]:
            self.duplicates += 1
        else:
            self.arrived_ns[seq] = now_ns
            self.unique += 1
            self.tell_soon()
        if self.hanging:
            self.waiting.append(transport)
        else:
            transport.write(_OK)

    def control(self, transport: asyncio.Transport, path: bytes) -> None:
        body = b""
        match path:
            case b"/_watch":
                self.watchers.append(transport)
                self.tell_soon()
                return
            case b"/_reset":
                self.reset()
            case b"/_hang":
                self.hanging = True
            case b"/_answer":
                self.hanging = False
                for waiting in self.waiting:
                    waiting.write(_OK)
                self.waiting.clear()
            case b"/_arrivals":
                body = self.arrived_ns.tobytes()
            case b"/_count":
                body = msgspec.json.encode(Count(self.unique, self.duplicates, len(self.waiting)))
        transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))

    def tell_soon(self) -> None:
        """Tell the watchers in a moment, of all that comes until then."""
        if self.watchers and not self.telling:
            self.telling = True
            asyncio.get_running_loop().call_later(_WATCH_SECONDS, self.tell_watchers)

    def tell_watchers(self) -> None:
        self.telling = False
        self.watchers = [one for one in self.watchers if not one.is_closing()]
        for watcher in self.watchers:
            watcher.write(b"%d\n" % self.unique)


class Connection(asyncio.Protocol):
    """One connection from a subject, from the runner, or from a watching load generator."""

    def __init__(self, stub: Stub) -> None:
        self.stub = stub
        self.pending = b""
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass

    def data_received(self, data: bytes) -> None:
        if self.pending:
            data = self.pending + data
        while (end := message_bytes(data)) is not None:
            message, data = data[:end], data[end:]
            if message.startswith(b"POST "):
                self.stub.deliver(self.transport, message)
            else:
                self.stub.control(self.transport, message.split(b" ", 2)[1])
        self.pending = data


async def serve(port: int) -> None:
    """Serve until the process is ended."""
    stub = Stub()
    server = await asyncio.get_running_loop().create_server(
        lambda: Connection(stub), "127.0.0.1", port, backlog=1024
    )
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
