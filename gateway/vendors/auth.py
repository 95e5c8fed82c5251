"""Show a vendor who calls: fixed headers, a query key, a signature, or an OAuth 2 access token."""

from __future__ import annotations

import asyncio
import base64
import os
import re
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, assert_never
from urllib.parse import quote, quote_plus, urlencode

import msgspec

from gateway.config.model import (
    BasicAuth,
    BearerAuth,
    HeaderAuth,
    OAuth2Auth,
    QueryAuth,
    SignAuth,
)
from gateway.vendors.calls import Call, CallFailed
from gateway.webhooks.sign import sign

if TYPE_CHECKING:
    from gateway.config.model import Api

_EARLY_SECONDS = 60.0  # a token is renewed this long before it expires, or a tenth of its life
_DEFAULT_LIFE_SECONDS = 3600.0  # RFC 6749, 5.1 leaves expires_in optional
_MAX_LIFE_SECONDS = 10 * 365 * 86400.0
_PATIENCE_SECONDS = 5.0  # between early renewals that fail
_TOKEN = re.compile(r"[!-~]{1,16384}")  # RFC 6750 is narrower, servers are not

# POST a form (url, body, headers) and return the status and the (bounded) answer.
HttpPost = Callable[[str, bytes, dict[str, str]], Awaitable[tuple[int, bytes]]]


class Authorization(msgspec.Struct, frozen=True):
    """What authentication adds: ``fixed`` headers, a signature over the call and its URL, a token.

    ``names`` are the headers that belong to it, which no route may set. ``query``, percent-encoded,
    goes into each URL; no route may set its parameter ``query_name`` either.
    """

    fixed: dict[str, str] = {}
    names: frozenset[str] = frozenset()
    query: str = ""
    query_name: str = ""
    sign: Callable[[Call, str], dict[str, str]] | None = None
    tokens: AccessTokens | None = None


def authorization_for(api: Api, *, post: HttpPost, now: Callable[[], float]) -> Authorization:
    """Return what *api* asks for; *post* fetches tokens, *now* is Unix time for signatures."""
    auth = api.auth
    match auth:
        case None:
            return Authorization()
        case BearerAuth():
            return _fixed("Authorization", f"Bearer {auth.token.value}")
        case BasicAuth():
            return _fixed("Authorization", basic(auth.username, auth.password.value))
        case HeaderAuth():
            return _fixed(auth.name, auth.value.value)
        case QueryAuth():
            value = quote(auth.value.value, safe="")
            return Authorization(query=f"{auth.name}={value}", query_name=auth.name)
        case OAuth2Auth():
            return Authorization(
                names=frozenset({"Authorization"}),
                tokens=AccessTokens(auth, post=post, clock=time.monotonic),
            )
        case SignAuth():
            return _signing(auth, now)
        case _:
            assert_never(auth)


class AccessTokens:
    """OAuth 2 client credentials (RFC 6749, 4.4): one token, one refresh at a time.

    Renewed shortly before it expires; when that fails, the old one serves until it does expire.
    The client is shown by HTTP Basic, as the RFC wants it, and in the form for those servers that
    answer ``invalid_client`` to that, unless ``auth_style`` settles it.
    """

    def __init__(self, auth: OAuth2Auth, *, post: HttpPost, clock: Callable[[], float]) -> None:
        self._auth = auth
        self._post = post
        self._clock = clock
        self._lock = asyncio.Lock()
        self._token = ""
        self._renew_at = self._expires_at = float("-inf")
        self._secret_in_form = auth.auth_style == "post"
        self._tries = 0
        self._failure: CallFailed | None = None

    async def get(self) -> str:
        """Return a token that is still good; ``CallFailed`` of kind "auth" when none is to be had.

        Who waited while somebody else's refresh failed shares that failure, so that a token
        endpoint in trouble gets one request at a time, not one from each waiting call in turn.
        """
        if self._clock() < self._renew_at:
            return self._token
        seen = self._tries
        async with self._lock:
            if self._clock() < self._renew_at:
                return self._token
            if self._tries != seen and self._failure is not None:
                raise CallFailed("auth", self._failure.text)
            self._failure = None
            try:
                await self._refresh()
            except CallFailed as failure:
                if self._clock() >= self._expires_at:
                    self._failure = CallFailed("auth", failure.text)
                    raise self._failure from failure
                self._renew_at = min(self._expires_at, self._clock() + _PATIENCE_SECONDS)
            finally:
                self._tries += 1
            return self._token

    def refuse(self, token: str) -> None:
        """Forget *token*: the vendor did not take it. A newer one stays."""
        if token == self._token:
            self._renew_at = self._expires_at = float("-inf")

    async def _refresh(self) -> None:
        status, answer = await self._ask()
        undecided = self._auth.auth_style is None and not self._secret_in_form
        if undecided and status in (400, 401) and _refused_client(status, answer):
            self._secret_in_form = True
            status, answer = await self._ask()
            # What failed in both ways is not decided: start with Basic again the next time.
            self._secret_in_form = status == 200
        if status != 200:
            raise CallFailed("auth", f"the token endpoint answered HTTP {status}{_error(answer)}")
        try:
            grant = msgspec.json.decode(answer, type=_Grant, strict=False)
        except msgspec.MsgspecError:
            raise CallFailed("auth", "the token endpoint's answer is no token answer") from None
        if grant.token_type.lower() != "bearer" or _TOKEN.fullmatch(grant.access_token) is None:
            raise CallFailed("auth", "the token endpoint granted no usable bearer token")
        life = grant.expires_in if grant.expires_in is not None else _DEFAULT_LIFE_SECONDS
        now = self._clock()
        self._token = grant.access_token
        self._expires_at = now + life
        self._renew_at = self._expires_at - min(_EARLY_SECONDS, 0.1 * life)

    async def _ask(self) -> tuple[int, bytes]:
        auth = self._auth
        form = {"grant_type": "client_credentials"}
        if auth.scopes:
            form["scope"] = " ".join(auth.scopes)
        if auth.audience:
            form["audience"] = auth.audience
        form |= auth.params
        headers = {
            "Accept": "application/json",
            "Content-Type": "application/x-www-form-urlencoded",
        }
        if self._secret_in_form:
            form |= {"client_id": auth.client_id, "client_secret": auth.client_secret.value}
        else:
            # RFC 6749, 2.3.1: both are form-encoded before they are put together.
            headers["Authorization"] = basic(
                quote_plus(auth.client_id), quote_plus(auth.client_secret.value)
            )
        return await self._post(auth.token_url, urlencode(form).encode(), headers)


class _Grant(msgspec.Struct):
    access_token: str
    token_type: str = "bearer"  # noqa: S105 (a kind of token)
    expires_in: Annotated[float, msgspec.Meta(ge=0, le=_MAX_LIFE_SECONDS)] | None = None


class _Refusal(msgspec.Struct):
    error: str = ""


def _refused_client(status: int, answer: bytes) -> bool:
    return status == 401 or "invalid_client" in _error(answer)


def _error(answer: bytes) -> str:
    try:
        code = msgspec.json.decode(answer, type=_Refusal).error
    except msgspec.MsgspecError:
        return ""
    return f" ({code[:60]!r})" if code else ""


def _signing(auth: SignAuth, now: Callable[[], float]) -> Authorization:
    scheme, secret = auth.scheme, auth.secret.value

    def headers(call: Call, url: str) -> dict[str, str]:
        try:
            return sign(
                scheme,
                secret,
                body=call.body or b"",
                now=now(),
                message_id=call.idempotency_key or os.urandom(16).hex(),
                method=call.method,
                url=url,
            )
        except ValueError as error:
            raise CallFailed("request", f"it cannot be signed: {error}") from error

    names = (scheme.header,) if isinstance(scheme.header, str) else scheme.header
    return Authorization(names=frozenset(names), sign=headers)


def _fixed(name: str, value: str) -> Authorization:
    return Authorization(fixed={name: value}, names=frozenset({name}))


def basic(username: str, password: str) -> str:
    """Return the value of a header for HTTP Basic authentication (RFC 7617, in UTF-8)."""
    return "Basic " + base64.b64encode(f"{username}:{password}".encode()).decode()
