"""The connections to one vendor: guarded, bounded, perhaps through a proxy; nothing is shared."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import aiohttp

from gateway.vendors.guard import socket_factory

if TYPE_CHECKING:
    import ssl

    from gateway.config.model import Api
    from gateway.vendors.limits import StrictLimiter

_KEEPALIVE_SECONDS = 30.0


def open_session(
    api: Api,
    *,
    headers: dict[str, str],
    tls: ssl.SSLContext | None = None,
    limiter: StrictLimiter | None = None,
) -> aiohttp.ClientSession:
    """Return a session that sends *headers* with each request, in the turns of *limiter*.

    Behind a proxy *headers* must hold no secret: aiohttp adds them to ``CONNECT`` as well.
    """
    allow_private = api.allow_private or (api.proxy is not None and api.proxy.allow_private)
    options: dict[str, Any] = {
        "limit": api.concurrency,
        "keepalive_timeout": _KEEPALIVE_SECONDS,
        "socket_factory": socket_factory(allow_private=allow_private),
        "ssl": tls if tls is not None else True,
    }
    session = aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(**options)
        if limiter is None
        else _TurnTakingConnector(limiter, **options),
        headers=headers,
        proxy=api.proxy.url if api.proxy else None,
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        trust_env=False,
    )
    # By itself aiohttp sends GET, PUT and DELETE a second time when a connection breaks. One
    # attempt shall be one request: the queue repeats, and counts.
    session._retry_connection = False
    return session


def bounds_of(seconds: float) -> aiohttp.ClientTimeout:
    """Return a timeout for a whole exchange, not rounded up, as aiohttp does from 5 s on."""
    return aiohttp.ClientTimeout(total=seconds, sock_connect=None, ceil_threshold=float("inf"))


class _TurnTakingConnector(aiohttp.TCPConnector):
    """Lets a request have its connection only when it is its turn to be written."""

    def __init__(self, limiter: StrictLimiter, **options: Any) -> None:
        super().__init__(**options)
        self._limiter = limiter

    async def connect(
        self,
        req: aiohttp.ClientRequest,
        traces: list[Any],
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109 (aiohttp's signature)
    ) -> Any:
        connection = await super().connect(req, traces, timeout)
        try:
            await self._limiter.confirm()
        except BaseException:
            connection.release()
            raise
        return connection
