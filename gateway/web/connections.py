"""Connections of the public listener: how many there may be, and how slow their other ends.

aiohttp bounds what a request may be; how long a client takes is bounded here and, for bodies, in
the intake. Whoever is slow loses the connection, and nobody else notices.
"""

from __future__ import annotations

import asyncio
import resource
from collections.abc import Callable
from typing import Any, cast

import msgspec
from aiohttp import web

from gateway.telemetry.logs import get_logger

log = get_logger("gateway.server")

RESERVED_FILES = 200  # for the database, called vendors, the operators' listener, logs
MAX_TURNED_AWAY = 100  # connections that are kept until their client has read its 503

_FULL_BODY = b'{"error":"too many connections"}'
_FULL = (
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 5\r\nConnection: close\r\n"
    b"Server: gateway\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
) % (len(_FULL_BODY), _FULL_BODY)


class Timeouts(msgspec.Struct, frozen=True, kw_only=True):
    """How long a client may take, in seconds."""

    head_seconds: float = 20.0  # from a connection's beginning to its first whole head
    idle_seconds: float = 75.0  # from an answer to the next whole head
    reading_seconds: float = 20.0  # from the moment it stops taking an answer
    linger_seconds: float = 2.0  # how long the rest of a refused body is read away


class PublicServer(web.Server):
    """Makes the connections and counts them; aiohttp would keep silent ones open for ever."""

    def __init__(
        self,
        handler: Callable[[web.BaseRequest], Any],
        *,
        timeouts: Timeouts,
        max_connections: int,
        on_refused: Callable[[], None],
        **options: Any,
    ) -> None:
        super().__init__(
            handler,
            keepalive_timeout=timeouts.idle_seconds,
            lingering_time=timeouts.linger_seconds,
            **options,
        )
        self.timeouts = timeouts
        self.max_connections = max_connections
        self.open = 0
        self.silent = 0  # of them that have asked for nothing yet
        self.turned_away = 0  # of them that are being told so
        self.on_refused = on_refused

    def __call__(self) -> web.RequestHandler:
        """Return the protocol of one more connection."""
        return Connection(self, loop=self._loop, **self._kwargs)

    def _make_request(self, message: Any, payload: Any, protocol: Any, *rest: Any) -> Any:
        protocol.heard()
        return super()._make_request(message, payload, protocol, *rest)


class Connection(web.RequestHandler):
    """One connection, with a clock for each way in which its other end can stall."""

    __slots__ = ("_refused", "_server", "_silent", "_unread")

    def __init__(self, server: PublicServer, **options: Any) -> None:
        super().__init__(server, **options)
        self._server = server
        self._silent: asyncio.TimerHandle | None = None  # until its first head is here
        self._unread: asyncio.TimerHandle | None = None  # while it does not take its answer
        self._refused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to listen, or say that there are too many already."""
        socket = cast(asyncio.Transport, transport)  # uvloop's is no subclass
        server = self._server
        server.open += 1
        if server.open - server.turned_away > server.max_connections:
            self._turn_away(socket)
            return
        # Whatever is not taken by the kernel at once waits for the client to read.
        socket.set_write_buffer_limits(high=0)
        self._silent = self._loop.call_later(server.timeouts.head_seconds, socket.abort)
        server.silent += 1
        super().connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        """See asyncio.Protocol."""
        self._server.open -= 1
        self._server.turned_away -= self._refused
        self.heard()
        if self._unread is not None:
            self._unread.cancel()
        super().connection_lost(exc)

    def heard(self) -> None:
        """Note that a whole head has come."""
        if self._silent is not None:
            self._silent.cancel()
            self._silent = None
            self._server.silent -= not self._refused

    def pause_writing(self) -> None:
        """See asyncio.Protocol: the client does not take what it asked for."""
        super().pause_writing()
        if self.transport is not None:
            seconds = self._server.timeouts.reading_seconds
            self._unread = self._loop.call_later(seconds, self.transport.abort)

    def resume_writing(self) -> None:
        """See asyncio.Protocol."""
        super().resume_writing()
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    def _turn_away(self, transport: asyncio.Transport) -> None:
        """Answer 503 and close: when the client closes, too, so that it can read the answer."""
        server = self._server
        server.on_refused()
        self._refused = True
        self._force_close = True  # what comes is not read
        self._manager = None
        server.turned_away += 1
        transport.write(_FULL)
        if server.turned_away > MAX_TURNED_AWAY:
            transport.close()
            return
        transport.write_eof()
        self._silent = self._loop.call_later(server.timeouts.linger_seconds, transport.abort)


def connections_within_reach(wanted: int) -> int:
    """Return how many connections the system lets us have of those *wanted*; ask it for more.

    A listener that runs out of file descriptors would take the database's with it.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + RESERVED_FILES
    if soft != resource.RLIM_INFINITY and soft < needed:
        most = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        if most < needed:
            within = max(1, most - RESERVED_FILES)
            log.warning("connections_limited", wanted=wanted, connections=within, open_files=most)
            return within
    return wanted
