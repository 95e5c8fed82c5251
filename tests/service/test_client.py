"""The client against a vendor that misbehaves on purpose, byte by byte."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
import tracemalloc
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from scripted import (
    OK,
    Request,
    ScriptedVendor,
    api,
    client_of,
    failure_of,
    hangs,
    lingers,
    resets,
    says,
    scripted_vendor,
    send,
    then_ends,
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
from gateway.errors import ConfigInvalid
from gateway.vendors.calls import Call, CallFailed
from gateway.vendors.client import VendorClient
from gateway.vendors.limits import StrictLimiter
from gateway.vendors.redact import describe_reply, describe_request, redaction_for
from gateway.webhooks.presets import PRESETS
from gateway.webhooks.signed import SignedRequest
from gateway.webhooks.verify import Verifier

MAX_REPLY_BYTES = 64 << 10


@pytest.fixture
async def vendor() -> AsyncIterator[ScriptedVendor]:
    async with scripted_vendor() as scripted:
        yield scripted


# What is sent ---------------------------------------------------------------------------------


async def test_the_vendor_sees_what_was_asked_for(vendor: ScriptedVendor) -> None:
    reply = await send(
        api(vendor.url + "/v1/", headers={"Accept": "application/json", "X-Team": "a"}),
        path="/deals/a%2Fb?x=%20y&x=2",
        headers={"X-Team": "b", "X-Event-Type": "paid"},
        body=b"\x00raw\xff",
        content_type="application/octet-stream",
        idempotency_key="job-1",
        correlation_id="cid-1",
    )
    [request] = vendor.requests
    assert reply.status == 200
    assert reply.body == b"ok"
    assert reply.body_complete
    assert request.line == "POST /v1/deals/a%2Fb?x=%20y&x=2 HTTP/1.1"
    assert request.body == b"\x00raw\xff"
    assert request.header("Host") == f"127.0.0.1:{vendor.port}"
    assert request.header("Content-Type") == "application/octet-stream"
    assert request.header("Idempotency-Key") == "job-1"
    assert request.header("X-Correlation-ID") == "cid-1"
    assert request.header("User-Agent") == "gateway/test"
    assert request.header("Accept") == "application/json"
    assert request.header("Accept-Encoding") == "identity"
    assert request.header("X-Team") == "b"
    assert request.header("X-Event-Type") == "paid"


async def test_a_trace_is_continued_with_a_span_of_our_own(vendor: ScriptedVendor) -> None:
    async with client_of(api(vendor.url)) as client:
        theirs = f"00-{'a' * 32}-{'b' * 16}-01"
        for traceparent in (theirs, theirs, None, "nonsense", f"00-{'0' * 32}-{'b' * 16}-01"):
            await client.send(Call(method="GET", path="/", traceparent=traceparent))
    sent = [str(request.header("traceparent")) for request in vendor.requests]
    assert sent[0].startswith(f"00-{'a' * 32}-")
    assert sent[0].endswith("-01")
    assert len({text.split("-")[2] for text in sent} | {"b" * 16}) == 6
    assert len({text.split("-")[1] for text in sent}) == 4
    assert all(len(text) == 55 for text in sent)


@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE", "OPTIONS"])
async def test_a_call_without_a_body_sends_none(vendor: ScriptedVendor, method: str) -> None:
    if method == "HEAD":
        vendor.answer = says(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n")
    reply = await send(api(vendor.url), method=method, content_type="application/json")
    [request] = vendor.requests
    assert reply.status == 200
    assert request.body == b""
    assert request.header("Transfer-Encoding") is None
    assert request.header("Content-Type") is None


async def test_a_body_beyond_a_mebibyte_arrives_whole(vendor: ScriptedVendor) -> None:
    body = bytes(range(256)) * 10_000
    await send(api(vendor.url), body=body)
    assert vendor.requests[0].body == body


async def test_a_routes_headers_never_replace_auth_or_framing(vendor: ScriptedVendor) -> None:
    await send(
        api(vendor.url, auth=BearerAuth(Secret("env:T", "good"))),
        headers={
            "authorization": "Bearer evil",
            "host": "evil.example",
            "content-length": "1",
            "transfer-encoding": "chunked",
            "Connection": "close",
        },
        body=b"12345",
    )
    [request] = vendor.requests
    assert request.header("Authorization") == "Bearer good"
    assert request.header("Host") == f"127.0.0.1:{vendor.port}"
    assert request.header("Content-Length") == "5"
    assert request.header("Transfer-Encoding") is None
    assert request.header("Connection") is None


@pytest.mark.parametrize(
    ("auth", "name", "value"),
    [
        (BearerAuth(Secret("env:T", "t0k")), "Authorization", "Bearer t0k"),
        (BasicAuth("ann", Secret("env:P", "pä")), "Authorization", "Basic YW5uOnDDpA=="),
        (HeaderAuth("X-Key", Secret("env:K", "k3y")), "X-Key", "k3y"),
    ],
)
async def test_fixed_authentication_is_sent(
    vendor: ScriptedVendor, auth: Any, name: str, value: str
) -> None:
    await send(api(vendor.url, auth=auth))
    assert vendor.requests[0].header(name) == value


KEYED = QueryAuth("api_key", Secret("env:K", "s3cr3t/k&y"))


@pytest.mark.parametrize(
    ("path", "sent"),
    [
        ("/deals", "/deals?api_key=s3cr3t%2Fk%26y"),
        ("/deals?a=1", "/deals?a=1&api_key=s3cr3t%2Fk%26y"),
        ("/deals?xapi_key=1", "/deals?xapi_key=1&api_key=s3cr3t%2Fk%26y"),
    ],
)
async def test_a_query_key_is_sent_and_masked(vendor: ScriptedVendor, path: str, sent: str) -> None:
    keyed = api(vendor.url, auth=KEYED)
    await send(keyed, path=path)
    assert vendor.requests[0].line == f"POST {sent} HTTP/1.1"
    described = describe_request(
        Call(method="POST", path=path), redaction=redaction_for(keyed), excerpt_bytes=99
    )
    assert described["url"].endswith("api_key=***")
    assert "s3cr3t" not in str(described)


@pytest.mark.parametrize("path", ["/?api_key=evil", "/?a=1&api%5Fkey=evil", "/?api_key"])
async def test_a_route_never_replaces_a_query_key(vendor: ScriptedVendor, path: str) -> None:
    failure = await failure_of(api(vendor.url, auth=KEYED), path=path)
    assert failure.kind == "request"
    assert "evil" not in failure.text
    assert vendor.requests == []


async def test_no_failure_shows_a_query_key(vendor: ScriptedVendor) -> None:
    for answer in (hangs, resets, then_ends(b"x"), then_ends(b"HTTP/1.1 200 OK\r\n\r")):
        vendor.answer = answer
        failure = await failure_of(api(vendor.url, auth=KEYED, timeout_seconds=0.2))
        assert "s3cr3t" not in str(failure)
    where = "/x?api_key=s3cr3t%2Fk%26y"
    vendor.answer = says(
        f"HTTP/1.1 302 Found\r\nLocation: {where}\r\nContent-Length: 10\r\n\r\n".encode(),
        b"s3cr3t/k&y",
    )
    keyed = api(vendor.url, auth=KEYED)
    described = describe_reply(await send(keyed), redaction=redaction_for(keyed), excerpt_bytes=99)
    assert "s3cr3t" not in str(described)


async def test_a_signed_call_verifies_as_a_webhook(vendor: ScriptedVendor) -> None:
    scheme = PRESETS["standard-webhooks"]
    secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    await send(
        api(vendor.url, auth=SignAuth(scheme, Secret("env:S", secret))),
        body=b'{"a":1}',
        idempotency_key="job-1",
        headers={"webhook-signature": "v1,evil"},
    )
    [request] = vendor.requests
    headers = {name.lower(): value for name, value in request.headers}
    assert headers["webhook-id"] == "job-1"
    verifier = Verifier(scheme, [secret])
    verifier.verify(SignedRequest("POST", "/deals", headers, request.body), now=time.time())


@pytest.mark.parametrize(
    "call",
    [
        {"headers": {"X-A": "1\r\nX-Evil: 2"}},
        {"headers": {"X-A\r\nX-Evil": "1"}},
        {"headers": {"X-A": "1\x00"}},
        {"headers": {"X A": "1"}},
        {"headers": {"": "1"}},
        {"correlation_id": "1\nX-Evil: 2"},
        {"idempotency_key": "1\r\n\r\n"},
        {"body": b"x", "content_type": "text/plain\r\nX-Evil: 2"},
        {"method": "POST / HTTP/1.1\r\nX-Evil: 2\r\n\r\n"},
        {"path": "/a b"},
        {"path": "/a\r\nX-Evil: 2"},
        {"path": "/ä"},
        {"path": "@evil.example/"},
        {"path": ".evil.example/"},
        {"path": ":1/"},
        {"path": "/a#b"},
        {"path": "/deals/../admin"},
        {"path": "/deals/%2e%2E?x"},
        {"path": "/deals/..%2fadmin"},
    ],
)
async def test_a_request_that_smuggles_is_refused_unsent(
    vendor: ScriptedVendor, call: dict[str, Any]
) -> None:
    failure = await failure_of(api(vendor.url), **call)
    assert failure.kind == "request"
    assert vendor.requests == []


@pytest.mark.parametrize(
    "base_url", ["", "ftp://x", "http://", "https://u:p@x", "http://x/?k=1", "http://x:99999"]
)
def test_a_base_url_that_is_not_plain_stops_the_start(base_url: str) -> None:
    with pytest.raises(ConfigInvalid, match=r"vendors\.stub\.api\.base_url"):
        VendorClient(api(base_url), user_agent="gateway/test")


# What comes back ------------------------------------------------------------------------------


async def test_headers_of_the_reply_are_plain_and_bounded(vendor: ScriptedVendor) -> None:
    vendor.answer = says(
        b"HTTP/1.1 429 Slow Down\r\nRetry-After: 7\r\nX-A: 1\r\nx-a: 2\r\nX-B: \xff\xfe\r\n"
        b"X-RateLimit-Remaining: 0\r\nX-RateLimit-Reset: 30\r\nX-Long: "
        + b"y" * 5000
        + b"\r\nContent-Length: 0\r\n\r\n"
    )
    reply = await send(api(vendor.url))
    assert reply.status == 429
    assert reply.retry_after_seconds == 7.0
    assert reply.headers["x-a"] == "1, 2"
    assert len(reply.headers["x-long"]) < 5000
    assert reply.quota is not None
    assert (reply.quota.remaining, reply.quota.reset_seconds) == (0, 30.0)
    msgspec.json.encode(reply.headers)


async def test_more_than_the_bound_is_cut_and_the_connection_kept(vendor: ScriptedVendor) -> None:
    body = b"z" * (MAX_REPLY_BYTES * 4)
    vendor.answer = says(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body), body)
    async with client_of(api(vendor.url)) as client:
        for _ in range(2):
            reply = await client.send(Call(method="GET", path="/"))
            assert reply.body == body[:MAX_REPLY_BYTES]
            assert not reply.body_complete
    assert vendor.connections == 1


async def test_an_answer_in_one_piece_is_bounded_alike(vendor: ScriptedVendor) -> None:
    more = b"".join(b"X-%d: 1\r\n" % number for number in range(70))
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 20\r\nX-Long: " + b"y" * 5000 + b"\r\n" + more
    vendor.answer = says(head + b"\r\n" + b"z" * 20)
    async with client_of(api(vendor.url, max_reply_bytes=10)) as client:
        for _ in range(2):
            reply = await client.send(Call(method="GET", path="/"))
            assert (reply.body, reply.body_complete) == (b"z" * 10, False)
            assert reply.headers["x-long"] == "y" * 2048
            assert len(reply.headers) == 64
    assert vendor.connections == 1


async def test_a_body_in_answer_to_head_is_none(vendor: ScriptedVendor) -> None:
    vendor.answer = says(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nno")
    async with client_of(api(vendor.url)) as client:
        with pytest.raises(CallFailed) as caught:
            await client.send(Call(method="HEAD", path="/"))
    assert caught.value.kind == "protocol"


async def test_a_vendor_may_be_read_further(vendor: ScriptedVendor) -> None:
    body = b"z" * (3 << 20)
    vendor.answer = says(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body), body)
    reply = await send(api(vendor.url, max_reply_bytes=4 << 20))
    assert (len(reply.body), reply.body_complete) == (3 << 20, True)
    reply = await send(api(vendor.url, max_reply_bytes=10))
    assert (reply.body, reply.body_complete) == (b"z" * 10, False)


async def test_an_answer_of_64_mib_costs_neither_memory_nor_time(vendor: ScriptedVendor) -> None:
    size, sent = 64 << 20, 0

    async def floods(_request: Request, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        piece = bytes(1 << 16)
        while sent < size:
            writer.write(piece)
            sent += len(piece)
            await writer.drain()

    vendor.answer = floods
    tracemalloc.start()
    try:
        reply = await send(api(vendor.url))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(reply.body) == MAX_REPLY_BYTES
    assert not reply.body_complete
    assert peak < 8 << 20
    await asyncio.wait_for(vendor.gone.wait(), 10)
    assert sent < size


async def test_a_redirect_is_an_answer_and_never_followed(vendor: ScriptedVendor) -> None:
    vendor.answer = says(
        b"HTTP/1.1 302 Found\r\nLocation: http://169.254.169.254/latest\r\n"
        b"Content-Length: 0\r\n\r\n"
    )
    reply = await send(api(vendor.url))
    assert reply.status == 302
    assert len(vendor.requests) == 1


async def test_connections_are_kept_between_calls(vendor: ScriptedVendor) -> None:
    async with client_of(api(vendor.url)) as client:
        for _ in range(5):
            await client.send(Call(method="POST", path="/", body=b"x"))
    assert vendor.connections == 1


async def test_cookies_are_not_kept(vendor: ScriptedVendor) -> None:
    vendor.answer = says(b"HTTP/1.1 200 OK\r\nSet-Cookie: a=b\r\nContent-Length: 0\r\n\r\n")
    async with client_of(api(f"http://localhost:{vendor.port}")) as client:
        for _ in range(2):
            await client.send(Call(method="GET", path="/"))
    assert vendor.requests[1].header("Cookie") is None


# What goes wrong ------------------------------------------------------------------------------


async def test_a_vendor_that_hangs_is_a_timeout(vendor: ScriptedVendor) -> None:
    vendor.answer = hangs
    failure = await failure_of(api(vendor.url, timeout_seconds=0.1))
    assert failure.kind == "timeout"
    await asyncio.wait_for(vendor.gone.wait(), 10)


async def test_a_calls_own_timeout_wins(vendor: ScriptedVendor) -> None:
    vendor.answer = hangs
    failure = await failure_of(api(vendor.url, timeout_seconds=3600.0), timeout_seconds=0.1)
    assert failure.kind == "timeout"
    assert "0.1 s" in failure.text


@pytest.mark.parametrize(
    "head", [b"HTTP/1.1 200 OK\r\nX-A: ", b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n"]
)
async def test_an_answer_that_drips_for_ever_is_a_timeout(
    vendor: ScriptedVendor, head: bytes
) -> None:
    async def drips(request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(head)
        while True:
            writer.write(b"y")
            await writer.drain()
            await lingers(request, 0.01)

    vendor.answer = drips
    failure = await failure_of(api(vendor.url, timeout_seconds=0.3))
    assert failure.kind == "timeout"


@pytest.mark.parametrize("method", ["POST", "PUT", "GET", "DELETE"])
@pytest.mark.parametrize("reused", [False, True])
async def test_a_reset_is_one_failure_and_one_request(
    vendor: ScriptedVendor, method: str, reused: bool
) -> None:
    async with client_of(api(vendor.url)) as client:
        if reused:
            await client.send(Call(method="GET", path="/"))
        vendor.answer = resets
        with pytest.raises(CallFailed) as caught:
            await client.send(Call(method=method, path="/"))
    assert caught.value.kind == "reset"
    assert len(vendor.requests) == 1 + reused


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (b"", "reset"),
        (b"HTTP/1.1 200 OK\r\nContent-Le", "reset"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf", "reset"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhe", "reset"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n", "protocol"),
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "protocol"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n", "protocol"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", "protocol"),
        (b"HTTP/1.1 200 OK\r\nX-A: " + b"y" * 100_000 + b"\r\n\r\n", "protocol"),
    ],
)
async def test_an_answer_that_is_none_is_a_failure(
    vendor: ScriptedVendor, answer: bytes, kind: str
) -> None:
    vendor.answer = then_ends(answer)
    failure = await failure_of(api(vendor.url))
    assert failure.kind == kind
    assert len(str(failure)) < 400


async def test_an_answer_longer_than_announced_spoils_no_other(vendor: ScriptedVendor) -> None:
    vendor.answer = says(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 500 Evil\r\n\r\n")
    async with client_of(api(vendor.url)) as client:
        first = await client.send(Call(method="GET", path="/"))
        vendor.answer = says(OK)
        second = await client.send(Call(method="GET", path="/"))
    assert (first.status, first.body) == (200, b"ok")
    assert (second.status, second.body) == (200, b"ok")


async def test_an_answer_that_nobody_asked_for_is_not_the_next_ones(vendor: ScriptedVendor) -> None:
    written: list[asyncio.StreamWriter] = []

    async def answers(_request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(OK)
        written.append(writer)

    vendor.answer = answers
    async with client_of(api(vendor.url)) as client:
        await client.send(Call(method="GET", path="/"))
        written[0].write(b"HTTP/1.1 500 Evil\r\nContent-Length: 4\r\n\r\nevil")
        assert client._wire is not None
        [[(idle, _)]] = client._wire._connector._conns.values()
        while not idle.should_close:  # noqa: ASYNC110 (it is aiohttp that receives it)
            await asyncio.sleep(0)
        reply = await client.send(Call(method="GET", path="/"))
    assert (reply.status, reply.body) == (200, b"ok")
    assert vendor.connections == 2


@pytest.mark.parametrize("size", [0, 1000, 1 << 20, 8 << 20])
async def test_an_answer_before_the_request_is_read_is_taken(size: int) -> None:
    refused = b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno"
    streams: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def refuses(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        streams.append((reader, writer))
        writer.write(refused)

    server = await asyncio.start_server(refuses, "127.0.0.1", 0, limit=1 << 10)
    async with server:
        port = server.sockets[0].getsockname()[1]
        async with client_of(api(f"http://127.0.0.1:{port}")) as client:
            reply = await client.send(Call(method="POST", path="/", body=bytes(size)))
            assert (reply.status, reply.body) == (413, b"no")
        [(reader, writer)] = streams
        arrived = 0
        with contextlib.suppress(ConnectionError):
            while piece := await reader.read(1 << 16):
                arrived += len(piece)
        writer.close()
    if size > 4 << 20:
        assert arrived < size  # the rest of it was never sent


async def test_nobody_listening_is_a_connect_failure() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        failure = await failure_of(api(f"http://127.0.0.1:{bound.getsockname()[1]}"))
    assert failure.kind == "connect"


async def test_a_name_without_address_is_a_dns_failure() -> None:
    failure = await failure_of(api("https://vendor.invalid"))
    assert failure.kind == "dns"


async def test_a_plain_port_is_a_tls_failure(vendor: ScriptedVendor) -> None:
    async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(plain, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        failure = await failure_of(api(f"https://127.0.0.1:{port}"))
    assert failure.kind == "tls"


async def test_no_failure_shows_a_secret(vendor: ScriptedVendor) -> None:
    secret = "s3cr3t"
    auth = BearerAuth(Secret("env:T", secret))
    for answer in (hangs, resets, then_ends(b"x"), then_ends(b"HTTP/1.1 200 OK\r\n\r")):
        vendor.answer = answer
        failure = await failure_of(
            api(vendor.url, auth=auth, timeout_seconds=0.2), path=f"/x?key={secret}"
        )
        assert secret not in str(failure)
    failure = await failure_of(api(vendor.url, auth=BearerAuth(Secret("env:T", f"{secret}\r\n"))))
    assert failure.kind == "request"
    assert secret not in str(failure)


async def test_cancelling_passes_through_and_closes_the_connection(vendor: ScriptedVendor) -> None:
    vendor.answer = hangs
    async with client_of(api(vendor.url)) as client:
        task = asyncio.ensure_future(client.send(Call(method="GET", path="/")))
        await vendor.arrived.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.wait_for(vendor.gone.wait(), 10)


# Addresses and limits ---------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]"])
async def test_a_private_address_needs_permission(vendor: ScriptedVendor, host: str) -> None:
    failure = await failure_of(api(f"http://{host}:{vendor.port}", allow_private=False))
    assert failure.kind == "refused-address"
    assert "allow_private" in failure.text
    assert vendor.connections == 0


@pytest.mark.parametrize("host", ["2130706433", "0x7f000001", "0177.0.0.1", "127.1"])
async def test_no_spelling_of_an_address_gets_past_the_guard(
    vendor: ScriptedVendor, host: str
) -> None:
    try:
        failure = await failure_of(api(f"http://{host}:{vendor.port}", allow_private=False))
    except ConfigInvalid:
        return
    assert failure.kind in ("refused-address", "dns", "request")
    assert vendor.connections == 0


@pytest.mark.parametrize(
    "host",
    ["169.254.169.254", "0.0.0.0", "[::ffff:169.254.169.254]", "[fd00:ec2::254]"],  # noqa: S104
)
async def test_metadata_is_refused_even_with_permission(host: str) -> None:
    failure = await failure_of(api(f"http://{host}/", allow_private=True))
    assert failure.kind == "refused-address"
    assert "never called" in failure.text


async def test_a_call_without_a_turn_takes_one_when_it_is_written(vendor: ScriptedVendor) -> None:
    limiter = StrictLimiter([Rate(10, 3600.0)], clock=time.monotonic)
    async with client_of(api(vendor.url), limiter=limiter) as client:
        await limiter.acquire()
        await client.send(Call(method="GET", path="/"))
        assert limiter.use()[0].used == 1
        await client.send(Call(method="GET", path="/"))
        assert limiter.use()[0].used == 2


async def test_waiting_for_a_turn_too_long_is_a_timeout_and_sends_nothing(
    vendor: ScriptedVendor,
) -> None:
    limiter = StrictLimiter([Rate(1, 3600.0)], clock=time.monotonic)
    async with client_of(api(vendor.url, timeout_seconds=0.2), limiter=limiter) as client:
        await client.send(Call(method="GET", path="/"))
        with pytest.raises(CallFailed) as caught:
            await client.send(Call(method="GET", path="/"))
        assert caught.value.kind == "timeout"
    assert len(vendor.requests) == 1
