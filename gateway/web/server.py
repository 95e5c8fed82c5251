"""The two listeners: a lean one for webhooks, an application for operators."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import http_parser, web
from aiohttp.http_exceptions import HttpProcessingError

from gateway.config.model import Address
from gateway.errors import GatewayError
from gateway.telemetry.logs import get_logger

log = get_logger("gateway.server")

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]

MAX_HEADER_BYTES = 8190  # of one header line, and of the request line
HEAD_SECONDS = 20.0  # from a connection's beginning to its first whole head
KEEPALIVE_SECONDS = 75.0
LINGER_SECONDS = 2.0  # how long the rest of a refused body is read away, so that the answer arrives
CLOSING_SECONDS = 5.0


class Listener:
    """One listening socket and everything behind it."""

    def __init__(self, runner: web.BaseRunner, address: Address) -> None:
        self._runner = runner
        self._address = address
        self._site: web.TCPSite | None = None
        self.port = address.port

    async def start(self) -> None:
        """Bind and accept; raises :class:`GatewayError` that names the address."""
        await self._runner.setup()
        self._site = web.TCPSite(
            self._runner, self._address.host, self._address.port, backlog=1024, reuse_address=True
        )
        try:
            await self._site.start()
        except OSError as error:
            raise GatewayError(
                f"cannot listen on {self._address.host}:{self._address.port}: {error.strerror};"
                " stop whoever has it, or choose another address in the configuration"
            ) from error
        self.port = self._runner.addresses[0][1]

    async def stop_accepting(self) -> None:
        """Close the listening socket; open connections go on."""
        if self._site is not None:
            await self._site.stop()
            self._site = None

    async def close(self) -> None:
        """Let requests under way end, then close their connections."""
        await self._runner.cleanup()


def public_listener(
    handler: Handler, address: Address, *, head_seconds: float = HEAD_SECONDS
) -> Listener:
    """Return the listener for webhooks: no routing, no middleware, raw bodies."""
    _require_fast_parser()
    server = _PublicServer(
        handler,
        head_seconds=head_seconds,
        auto_decompress=False,  # signatures are over the raw bytes
        access_log=None,
        logger=_server_logger(),
        keepalive_timeout=KEEPALIVE_SECONDS,
        lingering_time=LINGER_SECONDS,
        max_line_size=MAX_HEADER_BYTES,
        max_field_size=MAX_HEADER_BYTES,
    )
    return Listener(web.ServerRunner(server, shutdown_timeout=CLOSING_SECONDS), address)


def admin_listener(app: web.Application, address: Address) -> Listener:
    """Return the listener for operators."""
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=CLOSING_SECONDS)
    return Listener(runner, address)


class _PublicServer(web.Server):
    """Closes connections that ask for nothing; aiohttp would keep them open for ever."""

    def __init__(self, handler: Handler, *, head_seconds: float, **options: Any) -> None:
        super().__init__(handler, **options)
        self._head_seconds = head_seconds
        self._silent: dict[web.RequestHandler, asyncio.TimerHandle] = {}

    def connection_made(self, handler: web.RequestHandler, transport: asyncio.Transport) -> None:
        super().connection_made(handler, transport)
        loop = asyncio.get_running_loop()
        self._silent[handler] = loop.call_later(self._head_seconds, transport.abort)

    def connection_lost(
        self, handler: web.RequestHandler, exc: BaseException | None = None
    ) -> None:
        self._heard(handler)
        super().connection_lost(handler, exc)

    def _make_request(self, message: Any, payload: Any, protocol: Any, *rest: Any) -> Any:
        self._heard(protocol)
        return super()._make_request(message, payload, protocol, *rest)

    def _heard(self, handler: web.RequestHandler) -> None:
        if (timer := self._silent.pop(handler, None)) is not None:
            timer.cancel()


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
