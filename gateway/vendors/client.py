"""Call one vendor: its address, its authentication, its limits; and never more than was asked for.

Whatever happens on the wire comes out of :meth:`VendorClient.send` as a bounded :class:`Reply` or
as a :class:`CallFailed`; what it means is decided in :mod:`gateway.vendors.classify`.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import re
import ssl as tls
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_plus

import aiohttp
from yarl import URL

from gateway.errors import ConfigInvalid, Fault
from gateway.vendors.auth import authorization_for
from gateway.vendors.calls import Call, CallFailed, Reply
from gateway.vendors.classify import retry_after_seconds, rules_of
from gateway.vendors.guard import AddressRefused, socket_factory
from gateway.vendors.quota import quota_of
from gateway.vendors.redact import redaction_for

if TYPE_CHECKING:
    from gateway.config.model import Api
    from gateway.vendors.limits import StrictLimiter

_MAX_GRANT_BYTES = 64 << 10  # of a token endpoint's answer
_DRAIN_BYTES = 1 << 20  # read, so that the connection can be used again; beyond it is closed
_MAX_HEADERS = 64
_MAX_HEADER_CHARS = 2048
_MAX_PATHS = 1024  # remembered in their parsed form
_ONE_WRITE_BYTES = 1 << 20  # aiohttp sends larger bodies in pieces, if they come as a file
_KEEPALIVE_SECONDS = 30.0

# A route may not set these: they frame the request on the wire.
_FRAMING = frozenset(
    {
        *("host", "content-length", "transfer-encoding", "connection", "keep-alive", "te"),
        *("trailer", "upgrade", "expect", "proxy-authorization", "proxy-connection"),
    }
)
_PATH = re.compile(r"(?:[/?][!\"$-~]*)?")  # visible ASCII but "#"
_DOT_SEGMENT = re.compile(r"(?:[/\\]|%2f|%5c)(?:\.|%2e){1,2}(?=[/\\]|%2f|%5c|$)", re.IGNORECASE)
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")  # RFC 9110, 5.6.2
_UNSAFE = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_TRACEPARENT = re.compile(
    r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-([0-9a-f]{2})(?:-.*)?"
)


class VendorClient:
    """The one way to a vendor. Start it on the loop it shall run on; close it when all is done.

    ``rules`` are those by which its answers are judged, where a route has none of its own;
    ``redaction`` tells what may be kept of its calls.
    With a *limiter*, each request takes its turn there, at the latest when it is written.
    *tls_context* replaces the system's trust: a private CA, a client certificate.
    """

    def __init__(
        self,
        api: Api,
        *,
        user_agent: str,
        limiter: StrictLimiter | None = None,
        tls_context: tls.SSLContext | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.api = api
        self.rules = rules_of(api)
        self.redaction = redaction_for(api)
        self._base = _base_of(api)
        self._origin = str(URL(self._base).origin())
        self._limiter = limiter
        self._tls = tls_context
        self._max_reply_bytes = api.max_reply_bytes
        self._now = now
        self._authorization = authorization_for(api, post=self._post, now=now)
        self._headers = {
            "User-Agent": user_agent,
            "Accept-Encoding": "identity",  # excerpts and signatures are of the plain bytes
            **api.headers,
            **self._authorization.fixed,
        }
        self._reserved = _FRAMING | {name.lower() for name in self._authorization.names}
        self._timeout = _timeout(api.timeout_seconds)
        self._urls: dict[str, URL] = {}
        self._session: aiohttp.ClientSession | None = None
        self._token_session: aiohttp.ClientSession | None = None

    async def start(self) -> None:
        """Make ready to send; no connection is opened yet."""
        self._session = self._new_session(self._limiter, headers=self._headers)

    async def close(self) -> None:
        """Close every connection; what is under way breaks off."""
        for session in (self._session, self._token_session):
            if session is not None:
                await session.close()

    async def send(self, call: Call) -> Reply:
        """Send *call* once and return the answer, whatever its status; redirects are answers too.

        :class:`CallFailed` when there is no whole answer. Only an access token that the vendor
        no longer takes (401) is a reason to send again, once, with a new one.
        """
        timeout = self._timeout
        if call.timeout_seconds is not None and call.timeout_seconds != timeout.total:
            timeout = _timeout(call.timeout_seconds)
        try:
            tokens = self._authorization.tokens
            if tokens is None:
                return await self._exchange(call, timeout)
            async with asyncio.timeout(timeout.total):
                token = await tokens.get()
                reply = await self._exchange(call, timeout, token)
                if reply.status == 401:
                    tokens.refuse(token)
                    reply = await self._exchange(call, timeout, await tokens.get())
                return reply
        except (TimeoutError, aiohttp.ClientError, OSError, ValueError) as error:
            raise _failure(error, timeout, self._origin) from error

    async def _exchange(
        self, call: Call, bounds: aiohttp.ClientTimeout, token: str | None = None
    ) -> Reply:
        if self._session is None:
            raise RuntimeError("VendorClient.send() before start()")
        url = self._urls.get(call.path) or self._remember(call.path)
        headers = self._headers_of(call)
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        if self._authorization.sign is not None:
            headers.update(self._authorization.sign(call, str(url)))
        data: Any = call.body
        if data is not None and len(data) > _ONE_WRITE_BYTES:
            data = io.BytesIO(data)
        started = time.perf_counter()
        response = await self._session.request(
            call.method, url, headers=headers, data=data, timeout=bounds, allow_redirects=False
        )
        try:
            body, complete = await _read(response, self._max_reply_bytes)
        except BaseException:
            response.close()
            raise
        reply_headers = _reply_headers(response)
        wish = reply_headers.get("retry-after")
        return Reply(
            status=response.status,
            headers=reply_headers,
            body=body,
            body_complete=complete,
            duration_seconds=time.perf_counter() - started,
            retry_after_seconds=None
            if wish is None
            else retry_after_seconds(wish, now=self._now(), date=reply_headers.get("date")),
            quota=quota_of(reply_headers, now=self._now()),
        )

    def _headers_of(self, call: Call) -> dict[str, str]:
        """Return what this call adds to the session's headers; a route's own win over ours."""
        headers = {"traceparent": _continued(call.traceparent)}
        if call.correlation_id:
            headers["X-Correlation-ID"] = call.correlation_id
        if call.idempotency_key and self.api.idempotency_header:
            headers[self.api.idempotency_header] = call.idempotency_key
        if call.content_type and call.body is not None:
            headers["Content-Type"] = call.content_type
        for name, value in headers.items():
            if _UNSAFE.search(value):
                raise _unsafe_header(name)
        for name, value in call.headers.items():
            if _TOKEN.fullmatch(name) is None or _UNSAFE.search(value):
                raise _unsafe_header(name)
            if name.lower() not in self._reserved:
                headers[name] = value
        return headers

    def _remember(self, path: str) -> URL:
        if _PATH.fullmatch(path) is None:
            raise CallFailed(
                "request",
                f"path {path[:200]!r}: expected '/…' in percent-encoded form, without a fragment",
            )
        if _DOT_SEGMENT.search(path.partition("?")[0]):
            raise CallFailed(
                "request", f"path {path[:200]!r}: a '.' or '..' segment leads out of the base URL"
            )
        if len(self._urls) >= _MAX_PATHS:
            self._urls.clear()
        if query := self._authorization.query:
            asked = path.partition("?")[2]
            if any(
                unquote_plus(part.partition("=")[0]) == self._authorization.query_name
                for part in asked.split("&")
            ):
                raise CallFailed(
                    "request",
                    f"parameter {self._authorization.query_name!r} is the vendor's auth; a call's "
                    "path may not set it",
                )
            url = URL(f"{self._base}{path}{'&' if '?' in path else '?'}{query}", encoded=True)
        else:
            url = URL(self._base + path, encoded=True)
        self._urls[path] = url
        return url

    async def _post(self, url: str, form: bytes, headers: dict[str, str]) -> tuple[int, bytes]:
        """POST a form to a token endpoint: guarded and bounded alike, but outside the limits."""
        if self._token_session is None:
            self._token_session = self._new_session(
                None, headers={"User-Agent": self._headers["User-Agent"]}
            )
        try:
            async with self._token_session.post(
                url, data=form, headers=headers, timeout=self._timeout, allow_redirects=False
            ) as response:
                body, _ = await _read(response, _MAX_GRANT_BYTES)
                return response.status, body
        except (TimeoutError, aiohttp.ClientError, OSError, ValueError) as error:
            origin = str(URL(url).origin())
            raise _failure(error, self._timeout, origin) from error

    def _new_session(
        self, limiter: StrictLimiter | None, *, headers: dict[str, str]
    ) -> aiohttp.ClientSession:
        options: dict[str, Any] = {
            "limit": self.api.concurrency,
            "keepalive_timeout": _KEEPALIVE_SECONDS,
            "socket_factory": socket_factory(allow_private=self.api.allow_private),
            "ssl": self._tls if self._tls is not None else True,
        }
        session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(**options)
            if limiter is None
            else _TurnTakingConnector(limiter, **options),
            headers=headers,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,
        )
        # By itself aiohttp sends GET, PUT and DELETE a second time when a connection breaks. One
        # attempt shall be one request: the queue repeats, and counts.
        session._retry_connection = False
        return session


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


async def _read(response: aiohttp.ClientResponse, limit: int) -> tuple[bytes, bool]:
    """Return at most *limit* bytes of the body, and whether that is all of it.

    A somewhat larger body is read to its end and thrown away, a huge one not even that.
    """
    stream = response.content
    chunk = await stream.readany()
    if stream.at_eof() and len(chunk) <= limit:
        return chunk, True
    kept, size = [chunk[:limit]], len(chunk)
    while not stream.at_eof():
        chunk = await stream.readany()
        if size < limit:
            kept.append(chunk[: limit - size])
        size += len(chunk)
        if size > max(limit, _DRAIN_BYTES):
            response.close()
            break
    return b"".join(kept), size <= limit


def _reply_headers(response: aiohttp.ClientResponse) -> dict[str, str]:
    received = response.headers
    headers = {name.lower(): value for name, value in received.items()}
    if len(headers) == len(received) <= _MAX_HEADERS:
        return {name: _bounded(value) for name, value in headers.items()}
    bounded: dict[str, str] = {}
    for name in headers:
        bounded[name] = _bounded(", ".join(received.getall(name)))
        if len(bounded) == _MAX_HEADERS:
            break
    return bounded


def _bounded(value: str) -> str:
    if value.isascii():
        return value[:_MAX_HEADER_CHARS]
    # aiohttp smuggles undecodable bytes through as lone surrogates, which no database takes.
    return value[:_MAX_HEADER_CHARS].encode("utf-8", "replace").decode()


def _failure(error: Exception, timeout: aiohttp.ClientTimeout, origin: str) -> CallFailed:
    """Translate *error*; the text names the *origin*, never a path, query or header."""
    match error:
        case TimeoutError():
            return CallFailed(
                "timeout", f"no whole answer from {origin} within {timeout.total:g} s"
            )
        case aiohttp.ClientConnectorDNSError():
            return CallFailed("dns", f"{origin}: {_text(error.os_error)}")
        case aiohttp.ClientSSLError() | aiohttp.ServerFingerprintMismatch():
            return CallFailed("tls", f"{origin}: {_text(error)}")
        case aiohttp.ClientConnectorError(os_error=AddressRefused() as refused):
            return CallFailed("refused-address", f"{origin}: {_text(refused)}")
        case aiohttp.ClientConnectorError():
            return CallFailed("connect", f"{origin}: {_text(error.os_error)}")
        case aiohttp.ClientPayloadError():
            return CallFailed("reset", f"{origin}: the answer broke off")
        case aiohttp.ServerDisconnectedError():
            return CallFailed("reset", f"{origin} closed the connection without an answer")
        case aiohttp.ClientResponseError():
            return CallFailed("protocol", f"{origin}: {_text(error.message)}")
        case aiohttp.InvalidURL():
            return CallFailed("request", f"{origin}: the URL cannot be used")
        case tls.SSLError():
            return CallFailed("tls", f"{origin}: {_text(error)}")
        case OSError():
            return CallFailed("reset", f"{origin}: {_text(error)}")
        case aiohttp.ClientError():
            return CallFailed("connect", f"{origin}: {_text(error)}")
        case _:  # ValueError: aiohttp refuses to write this request
            return CallFailed("request", f"{origin}: the method or a header cannot be sent")


def _continued(traceparent: str | None) -> str:
    """Return the same trace with a span of our own; a new trace where there is no usable one."""
    span = os.urandom(8).hex()
    if traceparent and (match := _TRACEPARENT.fullmatch(traceparent)):
        return f"00-{match[1]}-{span}-{match[2]}"
    return f"00-{os.urandom(16).hex()}-{span}-00"


def _timeout(seconds: float) -> aiohttp.ClientTimeout:
    # No rounding up to whole seconds, which aiohttp does from 5 s on.
    return aiohttp.ClientTimeout(total=seconds, sock_connect=None, ceil_threshold=float("inf"))


def _unsafe_header(name: str) -> CallFailed:
    return CallFailed(
        "request", f"header {name[:100]!r}: names are tokens, values hold no CR, LF or NUL"
    )


def _text(error: object) -> str:
    return str(error)[:200]


def _base_of(api: Api) -> str:
    base: URL | None = None
    with contextlib.suppress(ValueError):
        base = URL(api.base_url)
    if (
        base is None
        or base.scheme not in ("http", "https")
        or not base.host
        or base.user is not None
        or base.password is not None
        or base.query_string
        or base.fragment
    ):
        place = f"vendors.{api.vendor}.api.base_url"
        raise ConfigInvalid(
            place,
            [
                Fault(
                    place,
                    None,
                    "not a plain http:// or https:// URL",
                    "leave out user, password, query and fragment; credentials go into auth",
                )
            ],
        )
    return str(base).rstrip("/")
