"""Connections of the public listener: how many there may be, how slow their other ends, and the
short way of a webhook that is here as a whole.

aiohttp bounds what a request may be; how long a client takes is bounded here and, for bodies, in
the intake. Whoever is slow loses the connection, and nobody else notices.

aiohttp serves a request by two tasks, a request object and a response object, which cost more than
all that a webhook needs. A request that came as a whole is therefore offered to the intake at once,
out of the protocol's own callback; what the intake does not take goes aiohttp's way.
"""

from __future__ import annotations

import asyncio
import resource
from collections.abc import Callable
from typing import Any, Protocol, cast

import msgspec
from aiohttp import HttpVersion11, StreamReader, web
from aiohttp.http import RawRequestMessage

from gateway.messages import Request
from gateway.telemetry.logs import get_logger
from gateway.web.doors import Door
from gateway.web.turnstile import Turnstile
from gateway.whole import UNKNOWN, RequestReader

log = get_logger("gateway.server")

RESERVED_FILES = 200  # for the database, called vendors, the operators' listener, logs
MAX_HELD_BYTES = 64 << 10  # of one connection that waits at the turnstile; then it is not read
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


class Prompt(Protocol):
    """What takes requests without a task of their own: it never waits before it returns."""

    def door_for(self, method: str, target: str, body_bytes: int) -> Door | None:
        """Return where a request, whose body is here as a whole, is to be taken in so."""

    def take(self, door: Door, request: Request, connection: Connection) -> None:
        """Take it; :meth:`Connection.answer` is then called once, now or later. Never raises."""


class PublicServer(web.Server):
    """Makes the connections and counts them; aiohttp would keep silent ones open for ever."""

    def __init__(
        self,
        handler: Callable[[web.BaseRequest], Any],
        *,
        prompt: Prompt | None,
        timeouts: Timeouts,
        turnstile: Turnstile,
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
        self.prompt = prompt
        self.reader = RequestReader()
        self.timeouts = timeouts
        self.max_connections = max_connections
        self.turnstile = turnstile
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

    __slots__ = (
        *("_held", "_refused", "_rest", "_server", "_serving", "_silent", "_unread"),
        "waited_seconds",
    )

    def __init__(self, server: PublicServer, **options: Any) -> None:
        super().__init__(server, **options)
        self._server = server
        self._silent: asyncio.TimerHandle | None = None  # until its first head is here
        self._unread: asyncio.TimerHandle | None = None  # while it does not take its answer
        self._refused = False
        self._serving = False  # whether _serve is on the stack
        self._rest = 0  # how much is still to come of what aiohttp's parser has; UNKNOWN for good
        self._held = b""  # what has come and waits at the turnstile
        self.waited_seconds = 0.0  # at the turnstile, what has come last

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

    # The short way: no task but the one that sleeps ----------------------------------------------

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol: it is looked at now, or when the turnstile lets it in."""
        if not self._held:
            if self._server.turnstile.lets_in():
                self.waited_seconds = 0.0
                self._look_at(data)
                return
            self._server.turnstile.wait(self)
        self._held += data
        if len(self._held) > MAX_HELD_BYTES and self.transport is not None:
            self.transport.pause_reading()

    @property
    def late(self) -> bool:
        """Whether what has come last has waited for too long."""
        return self.waited_seconds > self._server.turnstile.late_seconds

    def enter(self, waited_seconds: float) -> None:
        """See Entrant."""
        held, self._held = self._held, b""
        if self.transport is None or self.transport.is_closing():
            return  # its client has gone
        if len(held) > MAX_HELD_BYTES and not self._reading_paused:
            self.transport.resume_reading()
        self.waited_seconds = waited_seconds
        self._look_at(held)

    def _look_at(self, data: bytes) -> None:
        """Take a request that has come as a whole; leave all else to aiohttp."""
        if self._rest == 0:
            request = self._server.reader.read(data)
            self._rest = self._server.reader.rest
            if request is not None and self._offer(request):
                return
        elif self._rest > 0:
            self._rest = max(UNKNOWN, self._rest - len(data))
        # What it has read is taken before its task is woken for it.
        sleeper, self._waiter = self._waiter, None
        try:
            super().data_received(data)
        finally:
            self._waiter = sleeper
        if self._messages and not self._serving:
            self._serve()

    def _offer(self, request: Request) -> bool:
        """Have *request* taken if nothing is before it and it can be; return whether it was."""
        prompt = self._server.prompt
        if (
            prompt is None
            or self._request_in_progress
            or self._task_awake()
            or (door := prompt.door_for(request.method, request.target, len(request.body))) is None
        ):
            return False
        self._hand_over(door, request)
        return True

    def _hand_over(self, door: Door, request: Request) -> None:
        self.heard()
        # In aiohttp's own words, so that its shutdown waits for the answer.
        self._request_in_progress = True
        self._server.requests_count += 1
        cast(Prompt, self._server.prompt).take(door, request, self)

    def _task_awake(self) -> bool:
        """Return whether aiohttp's task is at something, or will be, or has ended."""
        return self._waiter is None or self._waiter.done()

    def resume_reading(self, resume_parser: bool = True) -> None:
        """See aiohttp, which asks for it after each read, and each time parses nothing again."""
        if self._reading_paused:
            super().resume_reading(resume_parser)

    def answer(self, data: bytes) -> None:
        """Write the whole answer to the message that was taken, if anybody is still there."""
        if self.transport is not None:
            self.transport.write(data)
        if not self._paused:  # who takes no answers is not given more of them
            self._answered()

    def _serve(self) -> None:
        """Have the messages that aiohttp has read taken in their order, until one is not answered
        at once.

        From one that is not taken on, they are left to aiohttp's task, until it sleeps again.
        """
        if self.transport is None or self.transport.is_closing():
            return  # the task would wake after its connection has been lost, and find no server
        prompt = self._server.prompt
        self._serving = True
        while self._messages and not self._request_in_progress and not self._task_awake():
            message, payload = self._messages[0]
            if (
                prompt is None
                or not isinstance(message, RawRequestMessage)
                or not _is_whole(message, payload)
                or (door := prompt.door_for(message.method, message.path, payload.total_bytes))
                is None
            ):
                cast(asyncio.Future[None], self._waiter).set_result(None)
                break
            self._messages.popleft()
            if self._parser is not None:  # as it is until the connection is lost
                self._parser.message_consumed()
            body = payload.read_nowait(-1)
            self._hand_over(door, Request(message.method, message.path, message.headers, body))
        self._serving = False
        if self._buffer_paused and len(self._messages) <= self._msg_queue_resume_size:
            self._resume_reading_if_drained()

    def _answered(self) -> None:
        self._request_in_progress = False
        self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
        if self._handler_waiter is not None and not self._handler_waiter.done():
            self._handler_waiter.set_result(None)
        if self._messages and not self._serving:
            self._serve()

    def _process_keepalive(self) -> None:
        if self._request_in_progress or self._held:  # what waits for its answer is not idle
            self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
        super()._process_keepalive()

    # Clocks -------------------------------------------------------------------------------------

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
        if self._request_in_progress and self._waiter is not None:
            self._answered()  # a message is not taken before the last answer went out

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


def _is_whole(message: RawRequestMessage, payload: StreamReader) -> bool:
    """Return whether all of a message is here, and it is not its connection's last."""
    return (
        payload.is_eof()
        and not message.should_close
        and not message.upgrade
        and message.version == HttpVersion11
    )


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
