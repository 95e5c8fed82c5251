"""One exchange with a vendor: a request goes out in one piece, and its answer comes in.

Of aiohttp this uses what does the hard part: the connector (pool, DNS, TLS, happy eyeballs,
proxies) and the protocol with its parser, for answers that are not plain or come in pieces. What
``ClientSession`` puts on top, cookies, redirects, tracing, a timer and a task for each request, is
not needed here and costs more than all the rest.

One exchange is one request, ever: what may have been written is never written again. The queue
repeats, and counts.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, cast

import aiohttp
import msgspec
from multidict import CIMultiDict
from yarl import URL

from gateway.messages import Answer
from gateway.vendors.auth import basic
from gateway.vendors.calls import CallFailed
from gateway.vendors.connector import Answering, Connector
from gateway.vendors.guard import host_refusal, socket_factory
from gateway.vendors.head import HeaderLines, header_line
from gateway.vendors.replies import bounded, headers_of, read_body

if TYPE_CHECKING:
    import ssl

    from aiohttp.client_proto import ResponseHandler
    from aiohttp.connector import Connection
    from aiohttp.http import RawResponseMessage

    from gateway.config.model import Api
    from gateway.vendors.limits import StrictLimiter

_KEEPALIVE_SECONDS = 30.0
_ONE_WRITE_BYTES = 1 << 20  # what is larger is written in pieces, as the vendor takes them
_PIECE_BYTES = 1 << 16
# Whoever calls has a deadline of its own, for the whole of what it does.
_NO_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=None)


class Origin(msgspec.Struct, frozen=True):
    """Where requests go, and what that adds to them."""

    opening: aiohttp.ClientRequest  # never sent: the connector opens connections for it
    lines: HeaderLines
    prefix: str = ""  # of the target: a proxy is asked for the whole URL


class Wire:
    """The connections to one vendor: guarded, bounded, perhaps through a proxy; nothing is shared.

    To be made on the loop it shall run on. With a *limiter*, each request takes its turn there when
    it can be written.
    """

    def __init__(
        self,
        api: Api,
        *,
        user_agent: str,
        tls: ssl.SSLContext | None = None,
        limiter: StrictLimiter | None = None,
    ) -> None:
        self._api = api
        self._user_agent = user_agent
        self._limiter = limiter
        allow_private = api.allow_private or (api.proxy is not None and api.proxy.allow_private)
        self._connector = Connector(
            limit=api.concurrency,
            keepalive_timeout=_KEEPALIVE_SECONDS,
            socket_factory=socket_factory(allow_private=allow_private),
            ssl=tls if tls is not None else True,
        )

    async def close(self) -> None:
        """Close every connection; what is under way breaks off."""
        await self._connector.close()

    def origin(self, url: URL, *, tls: ssl.SSLContext | None = None) -> Origin:
        """Return the origin of *url*; :class:`CallFailed` if no proxy may be asked for it."""
        host = url.host_port_subcomponent or ""
        lines = {"host": header_line("Host", host)}
        prefix = ""
        proxy_headers: CIMultiDict[str] | None = None
        if self._api.proxy is not None:
            reason = host_refusal(url.host or "", allow_private=self._api.allow_private)
            if reason is not None:
                raise CallFailed("refused-address", f"{url.origin()}: {reason}")
            login = _login(self._api)
            # Of https, the proxy sees nothing but CONNECT, and of that the vendor nothing.
            if url.scheme == "https":
                seen = {"Host": host, "User-Agent": self._user_agent} | login
                proxy_headers = CIMultiDict(seen)
            else:
                prefix = str(url.origin())
                lines |= {name.lower(): header_line(name, value) for name, value in login.items()}
        opening = aiohttp.ClientRequest(
            "GET",
            url.origin(),
            ssl=tls if tls is not None else True,
            proxy=URL(self._api.proxy.url) if self._api.proxy is not None else None,
            proxy_headers=proxy_headers,
        )
        return Origin(opening, lines, prefix)

    async def exchange(
        self, origin: Origin, head: bytes, body: bytes | None, *, empty: bool, limit: int
    ) -> Answer:
        """Send one request and return its answer with at most *limit* bytes of the body.

        *empty*: the answer has no body, whatever its head says, as to HEAD. Raises what aiohttp
        raises when there is no whole answer.
        """
        connection = await self._connect(origin)
        writing: asyncio.Task[None] | None = None
        try:
            protocol = cast("Answering | None", connection.protocol)
            if protocol is None or protocol.transport is None or protocol.transport.is_closing():
                raise aiohttp.ServerDisconnectedError  # while this waited for its turn
            protocol.expect_answer(empty=empty)
            if body is None or len(body) <= _ONE_WRITE_BYTES:
                protocol.transport.write(head + body if body else head)
            else:
                protocol.transport.write(head)
                writing = asyncio.create_task(_write(protocol, body))
            answer = await _answer(protocol, limit)
        except BaseException:
            _abandon(connection)
            raise
        finally:
            if writing is not None and not writing.done():
                # The vendor has answered without having read all of it.
                writing.cancel()
                _abandon(connection)
        if protocol.transport is not None and protocol.transport.get_write_buffer_size():
            _abandon(connection)
        connection.release()  # closes it if more is to come, or the vendor wants it closed
        return answer

    async def _connect(self, origin: Origin) -> Connection:
        while True:
            connection = await self._connector.connect(origin.opening, [], _NO_TIMEOUT)
            if connection.protocol is None or not connection.protocol.should_close:
                break
            connection.close()  # an answer that nobody asked for waits there; not this one's
        if self._limiter is not None:
            try:
                await self._limiter.confirm()
            except BaseException:
                connection.release()
                raise
        return connection


async def _answer(protocol: Answering, limit: int) -> Answer:
    whole: Any  # an answer that was read at once, of which aiohttp does not know
    whole, stream = await cast(Any, protocol).read()
    if isinstance(whole, Answer):
        body = whole.body
        return Answer(whole.status, bounded(whole.headers), body[:limit], len(body) <= limit)
    message = cast("RawResponseMessage", whole)
    while 100 <= message.code < 200 and message.code != 101:
        message, stream = await protocol.read()
    return Answer(message.code, headers_of(message), *await read_body(stream, limit))


async def _write(protocol: ResponseHandler, body: bytes) -> None:
    """Write *body* in pieces, as the vendor takes them. Who reads is told of what goes wrong."""
    rest = memoryview(body)
    with contextlib.suppress(ConnectionError):
        while rest and protocol.transport is not None and not protocol.transport.is_closing():
            protocol.transport.write(rest[:_PIECE_BYTES])
            rest = rest[_PIECE_BYTES:]
            await asyncio.sleep(0)
            if protocol.writing_paused:
                await protocol._drain_helper()


def _abandon(connection: Connection) -> None:
    """Close *connection* without waiting until the vendor has taken what it was sent."""
    transport = connection.transport
    if transport is not None and transport.get_write_buffer_size():
        transport.abort()
    connection.close()


def _login(api: Api) -> dict[str, str]:
    proxy = api.proxy
    if proxy is None or proxy.username is None or proxy.password is None:
        return {}
    return {"Proxy-Authorization": basic(proxy.username, proxy.password.value)}
