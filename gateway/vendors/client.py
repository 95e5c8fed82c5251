"""Call one vendor: its address, its authentication, its limits; and never more than was asked for.

Whatever happens on the wire comes out of :meth:`VendorClient.send` as a bounded :class:`Reply` or
as a :class:`CallFailed`; what it means is decided in :mod:`gateway.vendors.classify`.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import re
import ssl as tls
import time
from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_plus

import aiohttp
import msgspec
from multidict import CIMultiDict
from yarl import URL

from gateway.config.tls import tls_context
from gateway.errors import ConfigInvalid, Fault
from gateway.traces import continued
from gateway.vendors import redirects
from gateway.vendors.auth import authorization_for, basic
from gateway.vendors.calls import Call, CallFailed, Reply
from gateway.vendors.classify import rules_of
from gateway.vendors.guard import AddressRefused, host_refusal
from gateway.vendors.redact import redaction_for
from gateway.vendors.replies import read_body, read_reply
from gateway.vendors.wire import bounds_of, open_session

if TYPE_CHECKING:
    from gateway.config.model import Api
    from gateway.vendors.limits import StrictLimiter

_MAX_GRANT_BYTES = 64 << 10  # of a token endpoint's answer
_MAX_PATHS = 1024  # remembered in their parsed form
_ONE_WRITE_BYTES = 1 << 20  # aiohttp sends larger bodies in pieces, if they come as a file

# A route may not set these: they frame the request on the wire.
_FRAMING = frozenset(
    {
        *("host", "content-length", "transfer-encoding", "connection", "keep-alive", "te"),
        *("trailer", "upgrade", "expect", "proxy-authorization", "proxy-connection"),
    }
)
_PATH = re.compile(r"(?:[/?][!\"$-~]*)?")  # visible ASCII but "#"
_DOT_SEGMENT = re.compile(r"(?:[/\\]|%2f|%5c)(?:\.|%2e){1,2}(?=[/\\]|%2f|%5c|$)", re.IGNORECASE)
_OF_BODIES = re.compile(r"content-|digest$|repr-digest$|last-modified$", re.IGNORECASE)
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")  # RFC 9110, 5.6.2
_UNSAFE = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
# Of trace ids, which are no secrets: two system calls less for each call.
_random = Random()  # noqa: S311


class VendorClient:
    """The one way to a vendor. Start it on the loop it shall run on; close it when all is done.

    ``rules`` are those by which its answers are judged, where a route has none of its own;
    ``redaction`` tells what may be kept of its calls.
    With a *limiter*, each request takes its turn there, at the latest when it is written.
    """

    def __init__(
        self,
        api: Api,
        *,
        user_agent: str,
        limiter: StrictLimiter | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.api = api
        self.rules = rules_of(api)
        self.redaction = redaction_for(api)
        self._base = _base_of(api)
        self._origin = str(URL(self._base).origin())
        self._limiter = limiter
        self._tls, self._foreign_tls = _tls_contexts(api)
        self._max_reply_bytes = api.max_reply_bytes
        self._now = now
        self._authorization = authorization_for(api, post=self._post, now=now)
        self._headers = {
            "User-Agent": user_agent,
            "Accept-Encoding": "identity",  # excerpts and signatures are of the plain bytes
        }
        # What not everybody on the way may see is added to each request of its own.
        self._own_headers = {**api.headers, **self._authorization.fixed}
        self._selective = api.proxy is not None or api.redirects > 0
        self._proxy_auth = _proxy_auth(api)
        self._reserved = _FRAMING | {name.lower() for name in self._authorization.names}
        self._timeout = bounds_of(api.timeout_seconds)
        self._urls: dict[str, URL] = {}
        self._session: aiohttp.ClientSession | None = None
        self._token_session: aiohttp.ClientSession | None = None

    async def start(self) -> None:
        """Make ready to send; no connection is opened yet."""
        headers = self._headers if self._selective else self._headers | self._own_headers
        self._session = open_session(
            self.api, headers=headers, tls=self._tls, limiter=self._limiter
        )

    async def close(self) -> None:
        """Close every connection; what is under way breaks off."""
        for session in (self._session, self._token_session):
            if session is not None:
                await session.close()

    async def send(self, call: Call) -> Reply:
        """Send *call* once and return the answer, whatever its status.

        Redirects are answers too, beyond as many as the vendor is followed. :class:`CallFailed`
        when there is no whole answer. Only an access token that the vendor no longer takes (401)
        is a reason to send again, once, with a new one.
        """
        timeout = self._timeout
        if call.timeout_seconds is not None and call.timeout_seconds != timeout.total:
            timeout = bounds_of(call.timeout_seconds)
        try:
            tokens = self._authorization.tokens
            if tokens is None and not self.api.redirects:
                return await self._exchange(call, timeout)
            async with asyncio.timeout(timeout.total):
                if tokens is None:
                    return await self._exchange(call, timeout)
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
        url = self._urls.get(call.path) or self._remember(call.path)
        headers = self._headers_of(call)
        self._authorize(headers, call, url, token)
        reply = await self._request(call, url, headers, bounds)
        if self.api.redirects and reply.status in redirects.STATUSES:
            return await self._follow(call, url, reply, bounds, token)
        return reply

    async def _follow(
        self,
        call: Call,
        url: URL,
        reply: Reply,
        bounds: aiohttp.ClientTimeout,
        token: str | None,
    ) -> Reply:
        """Return the answer at the end of the way, or the redirect that is one too many.

        Each hop is a request like any other: guarded, bounded, and in its turn.
        """
        query, query_name = self._authorization.query, self._authorization.query_name
        hop = redirects.Hop(call.method, url, call.body is not None, own=True)
        for _ in range(self.api.redirects):
            following = redirects.next_hop(hop, reply, query=query, query_name=query_name)
            if following is None:
                break
            hop = following
            if hop.method != call.method:
                call = _fetching(call, hop.method)
            headers = self._headers_of(call)
            options: dict[str, Any] = {}
            if hop.own:
                self._authorize(headers, call, hop.url, token)
            else:
                headers = redirects.harmless(
                    headers,
                    auth=self._authorization.names,
                    idempotency_header=self.api.idempotency_header,
                )
                if self._foreign_tls is not None:
                    options["ssl"] = self._foreign_tls
            reply = await self._request(call, hop.url, headers, bounds, **options)
        return reply

    async def _request(
        self,
        call: Call,
        url: URL,
        headers: dict[str, str],
        bounds: aiohttp.ClientTimeout,
        **options: Any,
    ) -> Reply:
        if self._session is None:
            raise RuntimeError("VendorClient.send() before start()")
        if self.api.proxy is not None:
            options |= self._through_proxy(url, headers)
        data: Any = call.body
        if data is not None and len(data) > _ONE_WRITE_BYTES:
            data = io.BytesIO(data)
        started = time.perf_counter()
        response = await self._session.request(
            call.method,
            url,
            headers=headers,
            data=data,
            timeout=bounds,
            allow_redirects=False,
            **options,
        )
        try:
            return await read_reply(
                response,
                limit=self._max_reply_bytes,
                started=started,
                now=self._now,
                quota=self.api.quota,
            )
        except BaseException:
            response.close()
            raise

    def _headers_of(self, call: Call) -> dict[str, str]:
        """Return what this call adds to the session's headers; a route's own win over ours."""
        headers: Any = CIMultiDict(self._own_headers) if self._selective else {}
        headers["traceparent"] = continued(call.traceparent, random=_random)
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
        return headers  # type: ignore[no-any-return]

    def _authorize(self, headers: dict[str, str], call: Call, url: URL, token: str | None) -> None:
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        if self._authorization.sign is not None:
            headers.update(self._authorization.sign(call, str(url)))

    def _through_proxy(self, url: URL, headers: dict[str, str]) -> dict[str, Any]:
        """Return what a request to *url* needs to pass the proxy; refuse what it must not reach."""
        reason = host_refusal(url.host or "", allow_private=self.api.allow_private)
        if reason is not None:
            raise CallFailed("refused-address", f"{url.origin()}: {reason}")
        if not self._proxy_auth:
            return {}
        if url.scheme == "https":  # only the proxy sees the headers of CONNECT
            return {"proxy_headers": {"Proxy-Authorization": self._proxy_auth}}
        headers["Proxy-Authorization"] = self._proxy_auth
        return {}

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
            self._token_session = open_session(
                self.api, headers={"User-Agent": self._headers["User-Agent"]}, tls=self._tls
            )
        options = self._through_proxy(URL(url), headers) if self.api.proxy is not None else {}
        try:
            async with self._token_session.post(
                url,
                data=form,
                headers=headers,
                timeout=self._timeout,
                allow_redirects=False,
                **options,
            ) as response:
                body, _ = await read_body(response, _MAX_GRANT_BYTES)
                return response.status, body
        except (TimeoutError, aiohttp.ClientError, OSError, ValueError) as error:
            origin = str(URL(url).origin())
            raise _failure(error, self._timeout, origin) from error


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
        case aiohttp.ClientProxyConnectionError(os_error=AddressRefused() as refused):
            return CallFailed("refused-address", f"the proxy of {origin}: {_text(refused)}")
        case aiohttp.ClientProxyConnectionError():
            return CallFailed("connect", f"the proxy of {origin}: {_text(error.os_error)}")
        case aiohttp.ClientHttpProxyError():
            return CallFailed("connect", f"the proxy of {origin} answered HTTP {error.status}")
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


def _fetching(call: Call, method: str) -> Call:
    """Return *call* as it is where a redirect makes a GET of it: nothing is sent with it."""
    headers = {name: value for name, value in call.headers.items() if not _OF_BODIES.match(name)}
    return msgspec.structs.replace(
        call, method=method, headers=headers, body=None, content_type=None
    )


def _tls_contexts(api: Api) -> tuple[tls.SSLContext | None, tls.SSLContext | None]:
    """Return the contexts for the vendor and for where it redirects to; None: the usual trust."""
    if api.tls is None:
        return None, None
    try:
        return tls_context(api.tls), tls_context(api.tls, certificate=False)
    except ValueError as error:
        place = f"vendors.{api.vendor}.api.tls"
        raise ConfigInvalid(place, [Fault(place, None, str(error), "")]) from error


def _proxy_auth(api: Api) -> str:
    if api.proxy is None or api.proxy.username is None or api.proxy.password is None:
        return ""
    return basic(api.proxy.username, api.proxy.password.value)


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
