"""Answers that are written in one piece: the commonest of them is sent once for every webhook.

aiohttp's own response is a mapping, a set of cookies, a body that may be compressed, and headers
that it puts together anew; for an answer of three fixed headers that is half of what a webhook
costs at the listener.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from email.utils import formatdate
from http import HTTPStatus

from aiohttp import HttpVersion11, web


class WrittenAnswer:
    """Stands in for a :class:`aiohttp.web.Response`, of which it has what the listener asks for.

    *correlation_id*, *content_type* and *headers* must be fit for a header. Not for HEAD, whose
    answer has no body.
    """

    __slots__ = (
        "_body", "_content_type", "_correlation_id", "_headers", "_plain", "_status", "keep_alive"
    )  # fmt: skip

    def __init__(
        self,
        status: int,
        body: bytes,
        *,
        correlation_id: str,
        content_type: str,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self._headers = headers or {}
        self._status = status
        self._body = body
        self._correlation_id = correlation_id
        self._content_type = content_type
        # For who wants it otherwise: HTTP/1.0, a close, no body.
        self._plain: web.Response | None = None
        self.keep_alive: bool | None = True

    async def prepare(self, request: web.BaseRequest) -> None:
        """Write everything; raises ``ConnectionError`` when nobody is there any more."""
        if request.version != HttpVersion11 or not request.keep_alive or self._status == 204:
            await self._prepare_plain(request)
            return
        transport = request.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError("the sender has closed the connection")
        body = self._body
        transport.write(
            b"%b%b%bX-Correlation-ID: %b\r\nContent-Length: %d\r\n\r\n%b"
            % (
                _head(self._status, self._content_type),
                _date(),
                "".join([f"{name}: {text}\r\n" for name, text in self._headers.items()]).encode(),
                self._correlation_id.encode(),
                len(body),
                body,
            )
        )
        await request.writer.drain()  # who takes no answers is not given more of them

    async def write_eof(self) -> None:
        """End the answer."""
        if self._plain is not None:
            await self._plain.write_eof()

    async def _prepare_plain(self, request: web.BaseRequest) -> None:
        self._plain = web.Response(
            status=self._status,
            body=self._body,
            headers={
                "Content-Type": self._content_type,
                "X-Correlation-ID": self._correlation_id,
                "Server": "gateway",
                **self._headers,
            },
        )
        await self._plain.prepare(request)
        self.keep_alive = self._plain.keep_alive


_heads: dict[tuple[int, str], bytes] = {}  # as many as there are statuses in the configuration
_dated: tuple[int, bytes] = (0, b"")


def _head(status: int, content_type: str) -> bytes:
    head = _heads.get((status, content_type))
    if head is None:
        known = HTTPStatus.__members__.values()
        phrase = next((one.phrase for one in known if one == status), "")
        text = f"HTTP/1.1 {status} {phrase}\r\nContent-Type: {content_type}\r\nServer: gateway\r\n"
        head = _heads[status, content_type] = text.encode()
    return head


def _date() -> bytes:
    """Return the Date header, made once a second."""
    global _dated  # one clock for the process
    now = int(time.time())
    if _dated[0] != now:
        _dated = now, f"Date: {formatdate(now, usegmt=True)}\r\n".encode()
    return _dated[1]
