"""Call one vendor: its address, its authentication, its limits; and never more than was asked for.

Whatever happens on the wire comes out of :meth:`VendorClient.send` as a bounded :class:`Reply` or
as a :class:`CallFailed`; what it means is decided in :mod:`gateway.vendors.classify`.
"""

from __future__ import annotations

import contextlib
import re
import ssl as tls
import time
from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING
from urllib.parse import unquote_plus

import aiohttp
import msgspec
from aiohttp.http import HttpProcessingError
from yarl import URL

from gateway.cohorts import next_stage
from gateway.config.tls import tls_context
from gateway.deadlines import Deadline, Deadlines
from gateway.errors import ConfigInvalid, Fault
from gateway.traces import continued
from gateway.vendors import redirects
from gateway.vendors.auth import authorization_for
from gateway.vendors.calls import Call, CallFailed, Reply
from gateway.vendors.classify import rules_of
from gateway.vendors.exchange import Origin, Wire
from gateway.vendors.guard import AddressRefused
from gateway.vendors.head import (
    FRAMING,
    HeaderLines,
    field_name,
    head_of,
    header_line,
    written_target,
)
from gateway.vendors.redact import redaction_for
from gateway.vendors.replies import reply_of

if TYPE_CHECKING:
    from gateway.config.model import Api
    from gateway.vendors.limits import StrictLimiter

_MAX_GRANT_BYTES = 64 << 10  # of a token endpoint's answer
_MAX_PATHS = 1024  # remembered as the targets that they make

_PATH = re.compile(r"(?:[/?][!\"$-~]*)?")  # visible ASCII but "#"
_DOT_SEGMENT = re.compile(r"(?:[/\\]|%2f|%5c)(?:\.|%2e){1,2}(?=[/\\]|%2f|%5c|$)", re.IGNORECASE)
_OF_BODIES = re.compile(r"content-|digest$|repr-digest$|last-modified$", re.IGNORECASE)
# Of trace ids, which are no secrets: two system calls less for each call.
_random = Random()  # noqa: S311

# What the wire raises when there is no whole answer; HttpProcessingError is no ClientError.
_FAILURES = (TimeoutError, aiohttp.ClientError, HttpProcessingError, OSError, ValueError)


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
        self._base_path = URL(self._base).raw_path.rstrip("/")
        self._name = str(URL(self._base).origin())
        self._user_agent = user_agent
        self._limiter = limiter
        self._tls, self._foreign_tls = _tls_contexts(api)
        self._now = now
        self._authorization = authorization_for(api, post=self._post, now=now)
        self._reserved = FRAMING | {name.lower() for name in self._authorization.names}
        self._targets: dict[str, str] = {}
        self._deadlines = Deadlines()
        self._wire: Wire | None = None
        self._token_wire: Wire | None = None
        self._own: tuple[Origin, HeaderLines] | None = None

    async def start(self) -> None:
        """Make ready to send; no connection is opened yet."""
        self._wire = self._open_wire(self._limiter)

    async def close(self) -> None:
        """Close every connection; what is under way breaks off."""
        wires = (self._wire, self._token_wire)
        self._wire = self._token_wire = None
        for wire in wires:
            if wire is not None:
                await wire.close()

    async def send(self, call: Call) -> Reply:
        """Send *call* once and return the answer, whatever its status.

        Redirects are answers too, beyond as many as the vendor is followed. :class:`CallFailed`
        when there is no whole answer. Only an access token that the vendor no longer takes (401)
        is a reason to send again, once, with a new one. The call's time stands still while a
        further request of it waits for its turn.
        """
        seconds = call.timeout_seconds
        if seconds is None:
            seconds = self.api.timeout_seconds
        deadline = self._deadlines.within(seconds)
        try:
            with deadline:
                tokens = self._authorization.tokens
                if tokens is None:
                    return await self._exchange(call, deadline)
                token = await tokens.get()
                reply = await self._exchange(call, deadline, token)
                if reply.status == 401:
                    tokens.refuse(token)
                    token = await tokens.get()
                    await self._take_turn(deadline)
                    reply = await self._exchange(call, deadline, token)
                return reply
        except _FAILURES as error:
            raise _failure(error, seconds, self._name) from error

    async def _take_turn(self, deadline: Deadline) -> None:
        """Wait in line for one more request, however long; *deadline* is about the vendor alone."""
        if self._limiter is not None:
            with deadline.paused():
                await self._limiter.acquire()

    async def _exchange(self, call: Call, deadline: Deadline, token: str | None = None) -> Reply:
        target = self._targets.get(call.path) or self._remember(call.path)
        origin, common = self._own or self._open_origin()
        lines = self._lines_of(call, common)
        if token is not None or self._authorization.sign is not None:
            self._authorize(lines, call, self._url_of(target), token)
        reply = await self._request(call, origin, target, lines)
        if self.api.redirects and reply.status in redirects.STATUSES:
            return await self._follow(call, self._url_of(target), reply, deadline, token)
        return reply

    async def _follow(
        self, call: Call, url: URL, reply: Reply, deadline: Deadline, token: str | None
    ) -> Reply:
        """Return the answer at the end of the way, or the redirect that is one too many.

        Each hop is a request like any other: guarded, bounded, and in its turn.
        """
        _, common = self._own or self._open_origin()
        query, query_name = self._authorization.query, self._authorization.query_name
        hop = redirects.Hop(call.method, url, call.body is not None, own=True)
        for _ in range(self.api.redirects):
            following = redirects.next_hop(hop, reply, query=query, query_name=query_name)
            if following is None:
                break
            hop = following
            if hop.method != call.method:
                call = _fetching(call, hop.method)
            lines = self._lines_of(call, common)
            if hop.own:
                self._authorize(lines, call, hop.url, token)
                origin = self._started().origin(hop.url)
            else:
                lines = redirects.harmless(
                    lines,
                    auth=self._authorization.names,
                    idempotency_header=self.api.idempotency_header,
                )
                origin = self._started().origin(hop.url, tls=self._foreign_tls)
            lines.pop("proxy-authorization", None)
            target = written_target(hop.url.raw_path_qs)
            await self._take_turn(deadline)
            reply = await self._request(call, origin, target, lines | origin.lines)
        return reply

    async def _request(self, call: Call, origin: Origin, target: str, lines: HeaderLines) -> Reply:
        head = head_of(call.method, origin.prefix + target, lines, call.body)
        await next_stage()
        started = time.perf_counter()
        answer = await self._started().exchange(
            origin,
            head,
            call.body,
            empty=call.method.upper() == "HEAD",
            limit=self.api.max_reply_bytes,
        )
        return reply_of(
            answer,
            duration_seconds=time.perf_counter() - started,
            now=self._now,
            quota=self.api.quota,
        )

    def _lines_of(self, call: Call, common: HeaderLines) -> HeaderLines:
        """Return the header lines of *call*; a route's own win over ours."""
        lines = common.copy()
        lines["traceparent"] = f"traceparent: {continued(call.traceparent, random=_random)}"
        if call.correlation_id:
            lines["x-correlation-id"] = header_line("X-Correlation-ID", call.correlation_id)
        if call.idempotency_key and (name := self.api.idempotency_header):
            lines[field_name(name)] = header_line(name, call.idempotency_key)
        if call.content_type and call.body is not None:
            lines["content-type"] = header_line("Content-Type", call.content_type)
        for name, value in call.headers.items():
            known, line = field_name(name), header_line(name, value)
            if known not in self._reserved:
                lines[known] = line
        return lines

    def _authorize(self, lines: HeaderLines, call: Call, url: URL, token: str | None) -> None:
        shown: dict[str, str] = {}
        if token is not None:
            shown["Authorization"] = f"Bearer {token}"
        if self._authorization.sign is not None:
            shown |= self._authorization.sign(call, str(url))
        for name, value in shown.items():
            lines[name.lower()] = header_line(name, value)

    def _started(self) -> Wire:
        if self._wire is None:
            raise RuntimeError("VendorClient.send() before start() or after close()")
        return self._wire

    def _open_wire(self, limiter: StrictLimiter | None = None) -> Wire:
        return Wire(self.api, user_agent=self._user_agent, tls=self._tls, limiter=limiter)

    def _open_origin(self) -> tuple[Origin, HeaderLines]:
        """Prepare what all calls have in common, at the first of them."""
        origin = self._started().origin(URL(self._base))
        headers = self._general() | self.api.headers | self._authorization.fixed
        lines = {name.lower(): header_line(name, value) for name, value in headers.items()}
        self._own = origin, origin.lines | lines
        return self._own

    def _general(self) -> dict[str, str]:
        return {
            "Accept": "*/*",
            "Accept-Encoding": "identity",  # excerpts and signatures are of the plain bytes
            "User-Agent": self._user_agent,
        }

    def _url_of(self, target: str) -> URL:
        return URL(self._base.removesuffix(self._base_path) + target, encoded=True)

    def _remember(self, path: str) -> str:
        """Return the target of calls of *path*; :class:`CallFailed` if it leads anywhere else."""
        if _PATH.fullmatch(path) is None:
            raise CallFailed(
                "request",
                f"path {path[:200]!r}: expected '/…' in percent-encoded form, without a fragment",
            )
        asked, _, query = path.partition("?")
        if _DOT_SEGMENT.search(asked):
            raise CallFailed(
                "request", f"path {path[:200]!r}: a '.' or '..' segment leads out of the base URL"
            )
        if len(self._targets) >= _MAX_PATHS:
            self._targets.clear()
        full = self._base_path + path
        if key := self._authorization.query:
            if any(
                unquote_plus(part.partition("=")[0]) == self._authorization.query_name
                for part in query.split("&")
            ):
                raise CallFailed(
                    "request",
                    f"parameter {self._authorization.query_name!r} is the vendor's auth; a call's "
                    "path may not set it",
                )
            full += f"{'&' if '?' in path else '?'}{key}"
        target = self._targets[path] = written_target(full)
        return target

    async def _post(self, url: str, form: bytes, headers: dict[str, str]) -> tuple[int, bytes]:
        """POST a form to a token endpoint: guarded and bounded alike, but outside the limits."""
        if self._token_wire is None:
            self._token_wire = self._open_wire()
        endpoint = URL(url)
        seconds = self.api.timeout_seconds
        try:
            origin = self._token_wire.origin(endpoint)
            lines = {
                name.lower(): header_line(name, value)
                for name, value in (self._general() | headers).items()
            }
            target = origin.prefix + written_target(endpoint.raw_path_qs)
            with self._deadlines.within(seconds):
                answer = await self._token_wire.exchange(
                    origin,
                    head_of("POST", target, origin.lines | lines, form),
                    form,
                    empty=False,
                    limit=_MAX_GRANT_BYTES,
                )
            return answer.status, answer.body
        except _FAILURES as error:
            raise _failure(error, seconds, str(endpoint.origin())) from error


def _failure(error: Exception, seconds: float, origin: str) -> CallFailed:
    """Translate *error*; the text names the *origin*, never a path, query or header."""
    match error:
        case TimeoutError():
            return CallFailed("timeout", f"no whole answer from {origin} within {seconds:g} s")
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
        case HttpProcessingError() | aiohttp.ClientResponseError():
            return CallFailed("protocol", f"{origin}: {_text(error.message)}")
        case aiohttp.InvalidURL():
            return CallFailed("request", f"{origin}: the URL cannot be used")
        case tls.SSLError():
            return CallFailed("tls", f"{origin}: {_text(error)}")
        case OSError():
            return CallFailed("reset", f"{origin}: {_text(error)}")
        case aiohttp.ClientError():
            return CallFailed("connect", f"{origin}: {_text(error)}")
        case _:  # ValueError
            return CallFailed("request", f"{origin}: the request cannot be sent")


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
