"""Redirects, followed against two vendors: guard, limits and secrets hold on each hop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from scripted import (
    OK,
    Request,
    ScriptedVendor,
    api,
    client_of,
    failure_of,
    lingers,
    says,
    scripted_vendor,
    send,
)

from gateway.config.model import (
    BasicAuth,
    BearerAuth,
    HeaderAuth,
    QueryAuth,
    Rate,
    Secret,
    SignAuth,
)
from gateway.model import Dead
from gateway.vendors.calls import Call, CallFailed
from gateway.vendors.classify import classify, rules_of
from gateway.vendors.limits import StrictLimiter
from gateway.webhooks.presets import PRESETS
from gateway.webhooks.signed import SignedRequest
from gateway.webhooks.verify import Verifier

WEBHOOK_SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


@pytest.fixture
async def vendor() -> AsyncIterator[ScriptedVendor]:
    async with scripted_vendor() as scripted:
        yield scripted


@pytest.fixture
async def other() -> AsyncIterator[ScriptedVendor]:
    async with scripted_vendor() as scripted:
        yield scripted


def redirects(*locations: str, status: int = 307) -> Any:
    """Answer the first requests with *locations*, one by one, and every other with 200."""
    left = list(locations)

    async def answer(_request: Request, writer: asyncio.StreamWriter) -> None:
        head = "HTTP/1.1 {} Moved\r\nLocation: {}\r\nContent-Length: 0\r\n\r\n"
        writer.write(head.format(status, left.pop(0)).encode() if left else OK)

    return answer


async def test_a_hop_of_our_own_is_the_same_request_again(vendor: ScriptedVendor) -> None:
    vendor.answer = redirects("/v2/deals?a=1")
    auth = BearerAuth(Secret("env:T", "t0k"))
    reply = await send(
        api(vendor.url, auth=auth, redirects=3, headers={"X-Team": "a"}),
        body=b"body",
        content_type="text/plain",
        headers={"x-team": "b"},
        idempotency_key="job-1",
    )
    first, second = vendor.requests
    assert reply.status == 200
    assert second.line == "POST /v2/deals?a=1 HTTP/1.1"
    assert second.body == b"body"
    for name in ("Authorization", "Content-Type", "Idempotency-Key", "User-Agent", "X-Team"):
        assert first.header(name) == second.header(name) is not None
    assert second.header("X-Team") == "b"
    assert vendor.connections == 1


@pytest.mark.parametrize("status", [301, 302, 303])
async def test_what_becomes_a_get_sends_nothing(vendor: ScriptedVendor, status: int) -> None:
    vendor.answer = redirects("/result", status=status)
    await send(
        api(vendor.url, redirects=1),
        body=b"body",
        content_type="text/plain",
        headers={"Content-Encoding": "gzip", "Digest": "x", "X-A": "1"},
    )
    second = vendor.requests[1]
    assert second.line == "GET /result HTTP/1.1"
    assert second.body == b""
    assert second.header("X-A") == "1"
    for name in ("Content-Type", "Content-Encoding", "Content-Length", "Digest"):
        assert second.header(name) is None


@pytest.mark.parametrize(
    "auth",
    [
        BearerAuth(Secret("env:T", "s3cr3t")),
        BasicAuth("s3cr3t", Secret("env:P", "s3cr3t")),
        HeaderAuth("X-Mine", Secret("env:K", "s3cr3t")),
        QueryAuth("k", Secret("env:K", "s3cr3t")),
        SignAuth(PRESETS["standard-webhooks"], Secret("env:S", WEBHOOK_SECRET)),
    ],
    ids=lambda auth: type(auth).__name__,
)
async def test_another_origin_sees_no_secret_also_on_the_way_back(
    vendor: ScriptedVendor, other: ScriptedVendor, auth: Any
) -> None:
    echoed = "?k=s3cr3t" if isinstance(auth, QueryAuth) else ""
    vendor.answer = redirects(f"{other.url}/there{echoed}")
    other.answer = redirects("/on", f"{vendor.url}/back")
    reply = await send(
        api(vendor.url, auth=auth, redirects=3, headers={"X-Api-Token": "s3cr3t", "X-Team": "a"}),
        body=b"body",
        idempotency_key="job-1",
        headers={"X-Session-Key": "s3cr3t"},
    )
    assert reply.status == 200
    first, back = vendor.requests
    there, on = other.requests
    for request in (there, on, back):
        shown = request.line + str(request.headers)
        assert "YzNj" not in shown  # s3cr3t in base64
        assert "czNj" not in shown
        assert "s3cr3t" not in shown
        assert request.header("Authorization") is None
        assert request.header("webhook-signature") is None
        assert request.header("X-Mine") is None
        assert request.body == b"body"
        assert request.header("Idempotency-Key") == "job-1"
        assert request.header("X-Team") == "a"
    assert "s3cr3t" in first.line + str(first.headers)


async def test_a_hop_of_our_own_is_signed_anew(vendor: ScriptedVendor) -> None:
    vendor.answer = redirects("/v2", status=302)
    scheme = PRESETS["standard-webhooks"]
    auth = SignAuth(scheme, Secret("env:S", WEBHOOK_SECRET))
    await send(api(vendor.url, auth=auth, redirects=1), body=b"body", idempotency_key="job-1")
    second = vendor.requests[1]
    headers = {name.lower(): value for name, value in second.headers}
    signed = SignedRequest("GET", "/v2", headers, b"")
    Verifier(scheme, [WEBHOOK_SECRET]).verify(signed, now=time.time())


@pytest.mark.parametrize(
    "target",
    [
        "http://169.254.169.254/latest/meta-data",
        "http://[::ffff:169.254.169.254]/",
        "http://[fd00:ec2::254]/",
        "http://0.0.0.0/",
    ],
)
async def test_a_redirect_to_metadata_is_refused_whatever_is_allowed(
    vendor: ScriptedVendor, target: str
) -> None:
    vendor.answer = redirects(target)
    failure = await failure_of(api(vendor.url, redirects=3))
    assert failure.kind == "refused-address"
    assert "never called" in failure.text
    assert len(vendor.requests) == 1


async def test_a_target_that_is_none_fails_the_call_for_good(vendor: ScriptedVendor) -> None:
    vendor.answer = redirects("gopher://127.0.0.1/")
    failure = await failure_of(api(vendor.url, redirects=3))
    assert failure.kind == "redirect"
    assert isinstance(classify(rules_of(api(vendor.url)), failure), Dead)


async def test_one_redirect_too_many_is_the_answer_and_says_so(vendor: ScriptedVendor) -> None:
    vendor.answer = redirects(*["/again"] * 10)
    bounded = api(vendor.url, redirects=2)
    reply = await send(bounded)
    assert reply.status == 307
    assert len(vendor.requests) == 3
    verdict = classify(rules_of(bounded), reply)
    assert isinstance(verdict, Dead)
    assert "only 2 redirects are followed" in verdict.reason


async def test_each_hop_takes_its_turn(vendor: ScriptedVendor) -> None:
    vendor.answer = redirects("/a", "/b")
    limiter = StrictLimiter([Rate(10, 3600.0)], clock=time.monotonic)
    async with client_of(api(vendor.url, redirects=5), limiter=limiter) as client:
        await client.send(Call(method="GET", path="/"))
    assert limiter.use()[0].used == 3


async def test_while_a_hop_waits_in_line_the_timeout_stands_still(vendor: ScriptedVendor) -> None:
    vendor.answer = redirects("/a", "/b")
    limiter = StrictLimiter([Rate(1, 1.0)], clock=time.monotonic)
    bounded = api(vendor.url, redirects=5, timeout_seconds=0.5)
    async with client_of(bounded, limiter=limiter) as client:
        reply = await client.send(Call(method="GET", path="/"))
    assert reply.status == 200
    assert [request.line.split()[1] for request in vendor.requests] == ["/", "/a", "/b"]


async def test_the_timeout_is_for_the_whole_way(vendor: ScriptedVendor) -> None:
    async def slowly(request: Request, writer: asyncio.StreamWriter) -> None:
        await lingers(request, 0.6 * seconds)  # each alone is within the timeout, two are not
        writer.write(b"HTTP/1.1 307 Moved\r\nLocation: /\r\nContent-Length: 0\r\n\r\n")

    vendor.answer, seconds = slowly, 0.4
    async with client_of(api(vendor.url, redirects=10, timeout_seconds=seconds)) as client:
        with pytest.raises(CallFailed) as caught:
            await client.send(Call(method="GET", path="/"))
    assert caught.value.kind == "timeout"
    assert len(vendor.requests) <= 2


async def test_without_redirects_none_is_followed(vendor: ScriptedVendor) -> None:
    vendor.answer = says(b"HTTP/1.1 307 Moved\r\nLocation: /\r\nContent-Length: 0\r\n\r\n")
    assert (await send(api(vendor.url))).status == 307
    assert len(vendor.requests) == 1
