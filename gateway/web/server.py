"""The two listeners: a lean one for webhooks, an application for operators."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable

from aiohttp import http_parser, web
from aiohttp.http_exceptions import HttpProcessingError

from gateway.config.model import Address
from gateway.errors import GatewayError
from gateway.telemetry.logs import get_logger
from gateway.web.connections import Prompt, PublicServer, Timeouts, connections_within_reach
from gateway.web.turnstile import Turnstile

log = get_logger("gateway.server")

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]

MAX_HEADER_BYTES = 8190  # of one header line, and of the request line
MAX_HEADERS = 100
OPERATORS_IDLE_SECONDS = 75.0
CLOSING_SECONDS = 5.0
SILENT_SECONDS = 1.0  # how long a drain waits for those who have just connected
BACKLOG = 1024  # connections that wait to be accepted


class Listener:
    """One listening socket and everything behind it.

    ``inherited`` is a socket that listens already, made by a service manager: processes that share
    one lose no connection when one of them restarts. *silent* tells how many connections have asked
    for nothing yet, *waiting* how many have asked for what nobody has looked at.
    """

    def __init__(
        self,
        runner: web.BaseRunner,
        address: Address,
        *,
        count: Callable[[], int] = lambda: 0,
        silent: Callable[[], int] = lambda: 0,
        waiting: Callable[[], int] = lambda: 0,
    ) -> None:
        self.silent = silent
        self.waiting = waiting
        self._runner = runner
        self._count = count
        self._address = address
        self._site: web.BaseSite | None = None
        self.port = address.port
        self.inherited: socket.socket | None = None

    async def start(self) -> None:
        """Bind and accept; raises :class:`GatewayError` that names the address."""
        await self._runner.setup()
        if self.inherited is not None:
            self._site = web.SockSite(self._runner, self.inherited, backlog=BACKLOG)
        else:
            host, port = self._address.host, self._address.port
            self._site = web.TCPSite(self._runner, host, port, backlog=BACKLOG, reuse_address=True)
        try:
            await self._site.start()
        except OSError as error:
            raise GatewayError(
                f"cannot listen on {self._address.host}:{self._address.port}: {error.strerror};"
                " stop whoever has it, or choose another address in the configuration"
            ) from error
        self.port = self._runner.addresses[0][1]

    @property
    def connections(self) -> int:
        """Return how many connections are open."""
        return self._count()

    async def stop_accepting(self) -> None:
        """Close the listening socket; open connections go on."""
        if self._site is not None:
            await self._site.stop()
            self._site = None

    async def close(self) -> None:
        """Let requests under way end, then close their connections."""
        await self._runner.cleanup()


def public_listener(
    handler: Handler,
    address: Address,
    *,
    prompt: Prompt | None = None,
    max_connections: int = 1000,
    on_refused: Callable[[], None] = lambda: None,
    timeouts: Timeouts = Timeouts(),  # noqa: B008  # it is frozen
    turnstile: Turnstile | None = None,
) -> Listener:
    """Return the listener for webhooks: no routing, no middleware, raw bodies.

    *handler* answers whatever *prompt* does not take. *on_refused* is called for each connection
    beyond *max_connections*, which hears 503.
    """
    _require_fast_parser()
    server = PublicServer(
        handler,
        prompt=prompt,
        timeouts=timeouts,
        turnstile=Turnstile() if turnstile is None else turnstile,
        max_connections=connections_within_reach(max_connections),
        on_refused=on_refused,
        auto_decompress=False,  # signatures are over the raw bytes
        access_log=None,
        logger=_server_logger(),
        max_line_size=MAX_HEADER_BYTES,
        max_field_size=MAX_HEADER_BYTES,
        max_headers=MAX_HEADERS,
    )
    runner = web.ServerRunner(server, shutdown_timeout=CLOSING_SECONDS)
    return Listener(
        runner,
        address,
        count=lambda: server.open,
        silent=lambda: server.silent,
        waiting=lambda: len(server.turnstile),
    )


def admin_listener(app: web.Application, address: Address) -> Listener:
    """Return the listener for operators."""
    runner = web.AppRunner(
        app,
        access_log=None,
        shutdown_timeout=CLOSING_SECONDS,
        keepalive_timeout=OPERATORS_IDLE_SECONDS,
    )
    return Listener(runner, address)


def _server_logger() -> logging.Logger:
    """Return aiohttp's logger for the public: anybody can send what is no HTTP, as often as they
    like, and must not be able to fill the log with tracebacks.
    """
    logger = logging.Logger("aiohttp.server", logging.WARNING)
    logger.parent = logging.getLogger()
    logger.addFilter(_tell_briefly)
    return logger


def _tell_briefly(record: logging.LogRecord) -> bool:
    error = record.exc_info[1] if record.exc_info else None
    if not isinstance(error, HttpProcessingError):
        return True
    reason = error.message.partition("\n\n")[0]
    log.info("request_unreadable", reason=" ".join(reason.split())[:200])
    return False


def _require_fast_parser() -> None:
    """Refuse aiohttp's pure-Python HTTP parser: slower, and laxer about what it lets through."""
    if http_parser.HttpRequestParser is http_parser.HttpRequestParserPy:
        raise GatewayError(
            "aiohttp runs without its C extensions; unset AIOHTTP_NO_EXTENSIONS,"
            " or install a binary wheel of aiohttp"
        )


async def drained(requests_done: Callable[[], bool], *, seconds: float) -> bool:
    """Wait until *requests_done*, for *seconds* at most; return whether it came true."""
    deadline = asyncio.get_running_loop().time() + seconds
    while not requests_done():
        if asyncio.get_running_loop().time() >= deadline:
            return False
        await asyncio.sleep(0.02)
    return True
