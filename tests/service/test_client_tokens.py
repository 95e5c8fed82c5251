"""OAuth 2 client credentials against a token endpoint that follows a script."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
from aiohttp import web

from gateway.config.model import Api, OAuth2Auth, Rate, Secret
from gateway.vendors.auth import AccessTokens
from gateway.vendors.calls import Call, CallFailed
from gateway.vendors.client import VendorClient
from gateway.vendors.limits import StrictLimiter

AUTH = OAuth2Auth("https://login.example/token", "an id", Secret("env:S", "s3cr3t+/"), ("a", "b"))


class Endpoint:
    """A stand-in for ``post``: answers from a list, and counts."""

    def __init__(self, *answers: tuple[int, str]) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.proceed = asyncio.Event()
        self.proceed.set()

    async def __call__(self, url: str, form: bytes, headers: dict[str, str]) -> tuple[int, bytes]:
        self.asked.append((form.decode(), headers))
        await self.proceed.wait()
        status, body = self.answers.pop(0)
        if status == 0:
            raise CallFailed("connect", body)
        return status, body.encode()


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def grant(token: str, **changes: Any) -> tuple[int, str]:
    fields = {"access_token": f'"{token}"', "token_type": '"Bearer"', "expires_in": "3600"}
    pairs = [f'"{key}": {value}' for key, value in (fields | changes).items() if value]
    return 200, "{" + ", ".join(pairs) + "}"


def tokens_from(*answers: tuple[int, str]) -> tuple[AccessTokens, Endpoint, Clock]:
    endpoint, clock = Endpoint(*answers), Clock()
    return AccessTokens(AUTH, post=endpoint, clock=clock), endpoint, clock


async def test_a_token_is_asked_for_once_and_again_shortly_before_it_expires() -> None:
    tokens, endpoint, clock = tokens_from(grant("t1"), grant("t2", expires_in='"100"'), grant("t3"))
    assert await tokens.get() == "t1"
    clock.now = 3539.0
    assert await tokens.get() == "t1"
    clock.now = 3541.0
    assert await tokens.get() == "t2"
    clock.now += 89.0
    assert await tokens.get() == "t2"
    clock.now += 2.0
    assert await tokens.get() == "t3"
    form, headers = endpoint.asked[0]
    assert form == "grant_type=client_credentials&scope=a+b"
    assert headers["Authorization"] == "Basic YW4raWQ6czNjcjN0JTJCJTJG"


async def test_many_callers_share_one_refresh() -> None:
    tokens, endpoint, _ = tokens_from(grant("t1"))
    endpoint.proceed.clear()
    waiting = [asyncio.ensure_future(tokens.get()) for _ in range(50)]
    await asyncio.sleep(0)
    endpoint.proceed.set()
    assert await asyncio.gather(*waiting) == ["t1"] * 50
    assert len(endpoint.asked) == 1


async def test_those_who_waited_share_a_failure_and_later_ones_try_again() -> None:
    tokens, endpoint, _ = tokens_from((500, "{}"), grant("t1"))
    endpoint.proceed.clear()
    waiting = [asyncio.ensure_future(tokens.get()) for _ in range(20)]
    await asyncio.sleep(0)
    endpoint.proceed.set()
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert all(isinstance(result, CallFailed) and result.kind == "auth" for result in results)
    assert len(endpoint.asked) == 1
    assert await tokens.get() == "t1"


async def test_a_cancelled_refresh_leaves_the_next_caller_to_do_it() -> None:
    tokens, endpoint, _ = tokens_from(grant("t1"))
    endpoint.proceed.clear()
    first, second = (asyncio.ensure_future(tokens.get()) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    endpoint.proceed.set()
    assert await second == "t1"
    assert len(endpoint.asked) == 2


async def test_the_old_token_serves_while_an_early_renewal_fails() -> None:
    tokens, endpoint, clock = tokens_from(grant("t1"), (0, "down"), (503, ""), grant("t2"))
    await tokens.get()
    clock.now = 3550.0
    assert await tokens.get() == "t1"
    assert await tokens.get() == "t1"  # not again at once
    assert len(endpoint.asked) == 2
    clock.now = 3600.0
    with pytest.raises(CallFailed, match="503"):
        await tokens.get()
    assert await tokens.get() == "t2"


async def test_a_refused_token_is_replaced_once_whoever_reports_it() -> None:
    tokens, endpoint, _ = tokens_from(grant("t1"), grant("t2"))
    await tokens.get()
    tokens.refuse("t1")
    assert await tokens.get() == "t2"
    tokens.refuse("t1")  # a late report of the old one
    assert await tokens.get() == "t2"
    assert len(endpoint.asked) == 2


async def test_a_server_that_wants_the_secret_in_the_form_gets_it_there() -> None:
    tokens, endpoint, _ = tokens_from(
        (400, '{"error": "invalid_client"}'), grant("t1"), grant("t2")
    )
    assert await tokens.get() == "t1"
    tokens.refuse("t1")
    assert await tokens.get() == "t2"
    assert ["Authorization" in headers for _, headers in endpoint.asked] == [True, False, False]
    assert "client_id=an+id&client_secret=s3cr3t%2B%2F" in endpoint.asked[2][0]


@pytest.mark.parametrize("style", ["basic", "post"])
async def test_a_settled_style_is_never_changed_and_extra_parameters_go_along(style: Any) -> None:
    auth = msgspec.structs.replace(
        AUTH, auth_style=style, audience="https://api.example/", params={"resource": "r 1"}
    )
    endpoint = Endpoint((401, '{"error": "invalid_client"}'), grant("t1"))
    tokens = AccessTokens(auth, post=endpoint, clock=Clock())
    with pytest.raises(CallFailed, match="invalid_client"):
        await tokens.get()
    assert await tokens.get() == "t1"
    assert len(endpoint.asked) == 2
    for form, headers in endpoint.asked:
        assert "&audience=https%3A%2F%2Fapi.example%2F&resource=r+1" in form
        assert ("Authorization" in headers) == (style == "basic")
        assert ("client_secret" in form) == (style == "post")


@pytest.mark.parametrize(
    "answer",
    [
        (500, ""),
        (302, ""),
        (400, '{"error": "invalid_scope"}'),
        (200, ""),
        (200, "[]"),
        (200, "{}"),
        (0, "down"),
        grant("t", token_type='"mac"'),
        grant("t", expires_in="-1"),
        grant("t\\r\\nX-Evil: 1"),
        grant(""),
        grant("t", expires_in="1e300"),
    ],
)
async def test_no_token_is_a_failure_that_shows_no_secret(answer: tuple[int, str]) -> None:
    tokens, _, _ = tokens_from(answer)
    with pytest.raises(CallFailed) as caught:
        await tokens.get()
    assert caught.value.kind == "auth"
    assert "s3cr3t" not in str(caught.value)


# Through the client ---------------------------------------------------------------------------


class Vendor:
    """Takes only the newest token it gave out."""

    def __init__(self) -> None:
        self.granted = 0
        self.seen: list[str | None] = []
        self.always_401 = False
        self.token_status = 200
        app = web.Application()
        app.router.add_post("/token", self.token)
        app.router.add_post("/deals", self.deals)
        self.app = app

    async def token(self, request: web.Request) -> web.Response:
        assert (await request.post())["grant_type"] == "client_credentials"
        self.granted += 1
        return web.json_response({"access_token": f"t{self.granted}"}, status=self.token_status)

    async def deals(self, request: web.Request) -> web.Response:
        given = request.headers.get("Authorization")
        self.seen.append(given)
        good = given == f"Bearer t{self.granted}" and not self.always_401
        return web.Response(status=200 if good else 401)


@asynccontextmanager
async def serving(
    aiohttp_server: Any, *, limiter: StrictLimiter | None = None, timeout_seconds: float = 20.0
) -> AsyncIterator[tuple[Vendor, VendorClient]]:
    vendor = Vendor()
    server = await aiohttp_server(vendor.app)
    base = f"http://127.0.0.1:{server.port}"
    api = Api(
        vendor="stub",
        base_url=base,
        allow_private=True,
        timeout_seconds=timeout_seconds,
        auth=OAuth2Auth(f"{base}/token", "id", Secret("env:S", "s3cr3t")),
    )
    client = VendorClient(api, user_agent="gateway/test", limiter=limiter)
    await client.start()
    try:
        yield vendor, client
    finally:
        await client.close()


CALL = Call(method="POST", path="/deals", headers={"authorization": "Bearer evil"}, body=b"x")


async def test_a_401_fetches_a_new_token_and_sends_again_at_once(aiohttp_server: Any) -> None:
    async with serving(aiohttp_server) as (vendor, client):
        assert (await client.send(CALL)).status == 200
        vendor.granted += 1  # the vendor forgets our token
        assert (await client.send(CALL)).status == 200
        assert vendor.seen == ["Bearer t1", "Bearer t1", "Bearer t3"]


async def test_what_is_sent_again_waits_in_line_outside_the_timeout(aiohttp_server: Any) -> None:
    limiter = StrictLimiter([Rate(1, 1.0)], clock=time.monotonic)
    async with serving(aiohttp_server, limiter=limiter, timeout_seconds=0.5) as (vendor, client):
        vendor.always_401 = True
        assert (await client.send(CALL)).status == 401
        assert vendor.seen == ["Bearer t1", "Bearer t2"]


async def test_a_second_401_is_the_answer(aiohttp_server: Any) -> None:
    async with serving(aiohttp_server) as (vendor, client):
        vendor.always_401 = True
        assert (await client.send(CALL)).status == 401
        assert vendor.seen == ["Bearer t1", "Bearer t2"]


async def test_a_failing_token_endpoint_fails_the_call_unsent(aiohttp_server: Any) -> None:
    async with serving(aiohttp_server) as (vendor, client):
        vendor.token_status = 500
        with pytest.raises(CallFailed) as caught:
            await client.send(CALL)
        assert caught.value.kind == "auth"
        assert vendor.seen == []
