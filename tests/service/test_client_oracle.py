"""The client beside ``aiohttp.ClientSession``, which it passes by: same bytes, same answers."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import msgspec
import pytest
import uvloop
from hypothesis import event, given, settings
from hypothesis import strategies as st
from multidict import CIMultiDict
from scripted import OK, Request, ScriptedVendor, api, client_of, says, scripted_vendor
from yarl import URL

from gateway.config.model import Api, BearerAuth, Secret
from gateway.vendors.calls import Call, CallFailed
from gateway.vendors.client import VendorClient

LIMIT = 40


class Script(msgspec.Struct, frozen=True):
    """What the vendor writes, in which pieces, and whether it hangs up then."""

    method: str
    pieces: tuple[bytes, ...]
    ends: bool


class Outcome(msgspec.Struct, frozen=True):
    """A reply, or in ``failed`` the kind of failure."""

    failed: str = ""
    status: int = 0
    headers: dict[str, str] = {}
    body: bytes = b""
    complete: bool = True


# What is asked on both ways -------------------------------------------------------------------


@asynccontextmanager
async def session_of(api: Api) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=api.concurrency),
        headers={"User-Agent": "gateway/test", "Accept-Encoding": "identity"} | api.headers,
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        timeout=aiohttp.ClientTimeout(total=api.timeout_seconds),
    ) as session:
        session._retry_connection = False
        yield session


async def by_session(session: aiohttp.ClientSession, api: Api, call: Call) -> Outcome:
    headers: CIMultiDict[str] = CIMultiDict(traceparent="00")
    if call.correlation_id:
        headers["X-Correlation-ID"] = call.correlation_id
    if call.idempotency_key:
        headers[api.idempotency_header] = call.idempotency_key
    if call.content_type and call.body is not None:
        headers["Content-Type"] = call.content_type
    for name, value in call.headers.items():
        headers[name] = value
    if api.auth is not None:
        headers["Authorization"] = "Bearer t0k"
    try:
        async with session.request(
            call.method,
            URL(api.base_url + call.path, encoded=True),
            headers=headers,
            data=call.body,
            allow_redirects=False,
        ) as response:
            body = await response.read()
            received = response.headers
    except TimeoutError:
        return Outcome("timeout")
    except aiohttp.ClientResponseError:
        return Outcome("protocol")
    except (aiohttp.ClientPayloadError, OSError, aiohttp.ServerDisconnectedError):
        return Outcome("reset")
    names = list(dict.fromkeys(name.lower() for name in received))[:64]
    kept = {name: ", ".join(received.getall(name))[:2048] for name in names}
    plain = {name: value.encode("utf-8", "replace").decode() for name, value in kept.items()}
    return Outcome("", response.status, plain, body[:LIMIT], len(body) <= LIMIT)


async def by_client(client: VendorClient, call: Call) -> Outcome:
    try:
        reply = await client.send(call)
    except CallFailed as failure:
        return Outcome(failure.kind)
    return Outcome("", reply.status, reply.headers, reply.body, reply.body_complete)


# What comes back ------------------------------------------------------------------------------

names = st.one_of(
    st.sampled_from(["Content-Type", "X-A", "x-a", "Set-Cookie", "Date", "Server", "X-Empty"]),
    st.text("abcXYZ019-_!#$", min_size=1, max_size=12).map("X-{}".format),
)
values = st.binary(max_size=30).map(
    lambda raw: bytes(byte for byte in raw if byte == 9 or 32 <= byte != 127)
)
oddities = st.sampled_from(
    [
        b"No-Colon\r\n",
        b"X A: 1\r\n",
        b": 1\r\n",
        b"X-F: a\r\n b\r\n",
        b"X-N: \x00\r\n",
        b"X: a\rb\r\n",
    ]
)


@st.composite
def framings(draw: st.DrawFn, body: bytes) -> tuple[bytes, bytes, str]:
    """Return header lines, the written body, and whether that is ``whole``, ``cut`` or ``odd``."""
    length = b"Content-Length: %d\r\n"
    chunked = b"Transfer-Encoding: chunked\r\n"
    cut = draw(st.integers(0, len(body)))
    chunks = b"".join(
        b"%x\r\n%b\r\n" % (len(part), part) for part in (body[:cut], body[cut:]) if part
    )
    return draw(
        st.sampled_from(
            [
                (length % len(body), body, "whole"),
                (length % (len(body) + 5), body, "cut"),
                (length % len(body), body + b"HTTP/1.1 500 Evil\r\n\r\n", "odd"),
                (length % len(body), body + b"garbage", "odd"),
                (length % len(body) * 2, body, "odd"),
                (length % len(body) + length % (len(body) + 1), body, "odd"),
                (b"Content-Length: many\r\n", body, "odd"),
                (b"Content-Length: -1\r\n", body, "odd"),
                (chunked, chunks + b"0\r\n\r\n", "whole"),
                (chunked, chunks + b"0\r\nX-Trailer: 1\r\n\r\n", "whole"),
                (chunked, chunks, "cut"),
                (chunked, chunks + b"5;ext=1\r\nhello\r\n0\r\n\r\n", "whole"),
                (chunked, chunks + b"xyz\r\n", "odd"),
                (chunked + length % 3, chunks + b"0\r\n\r\n", "odd"),
                (b"Transfer-Encoding: gzip, chunked\r\n", chunks + b"0\r\n\r\n", "odd"),
                (b"", body, "cut"),  # as long as the connection lives
                (b"Content-Encoding: gzip\r\n" + length % len(body), body, "whole"),
                (b"Connection: close\r\n" + length % len(body), body, "whole"),
            ]
        )
    )


@st.composite
def scripts(draw: st.DrawFn) -> Script:
    method = draw(st.sampled_from(["POST", "GET", "HEAD", "DELETE"]))
    status = draw(st.sampled_from([200, 201, 204, 301, 304, 400, 404, 429, 500, 503, 999]))
    first = draw(
        st.sampled_from([b"HTTP/1.1 %d OK\r\n", b"HTTP/1.1 %d \r\n", b"HTTP/1.0 %d X\r\n"])
    )
    body = draw(st.binary(max_size=60))
    lines, written, kind = draw(framings(body))
    headers = draw(st.lists(st.tuples(names, values), max_size=6))
    extra = b"".join(name.encode() + b": " + value + b"\r\n" for name, value in headers)
    if draw(st.integers(0, 9)) == 0:
        extra, kind = extra + draw(oddities), "odd"
    if method == "HEAD" or status in (204, 304):
        written, kind = b"", "whole" if kind == "whole" else "odd"
    early = draw(
        st.lists(
            st.sampled_from(
                [
                    b"HTTP/1.1 100 Continue\r\n\r\n",
                    b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n",
                ]
            ),
            max_size=2,
        )
    )
    whole = b"".join(early) + first % status + lines + extra + b"\r\n" + written
    if draw(st.integers(0, 9)) == 0:
        whole, kind = whole[: draw(st.integers(0, len(whole)))], "cut"
    event(kind)
    cuts: list[int] = []
    if kind != "odd":  # where an error shows depends on what has come before it
        cuts = sorted(draw(st.lists(st.integers(0, len(whole)), max_size=3)))
    pieces = tuple(whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True))
    return Script(method, tuple(filter(None, pieces)), kind != "whole")


async def both_ways(
    vendor: ScriptedVendor, script: Script
) -> list[tuple[Outcome, Outcome | None, int]]:
    """Return, of each way: how the call ended, how another one does, and how often it connected."""

    async def answers(_request: Request, writer: asyncio.StreamWriter) -> None:
        for piece in script.pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0)
        if script.ends:
            writer.close()

    stub = api(vendor.url, max_reply_bytes=LIMIT, timeout_seconds=60.0)
    call = Call(method=script.method, path="/x", body=b"{}" if script.method == "POST" else None)
    found: list[tuple[Outcome, Outcome | None, int]] = []

    async def ask(send: Callable[[Call], Awaitable[Outcome]]) -> None:
        before = vendor.connections
        vendor.answer = answers
        first, second = await send(call), None
        # Behind a whole answer it is chance whether the end of the connection is seen in time.
        if first.failed or not script.ends:
            vendor.answer = says(OK)
            second = await send(Call(method="GET", path="/"))
        found.append((first, second, vendor.connections - before))

    async with session_of(stub) as session:
        await ask(lambda call: by_session(session, stub, call))
    async with client_of(stub) as client:
        await ask(lambda call: by_client(client, call))
    return found


def in_one_loop(test: Callable[[asyncio.Runner, ScriptedVendor], None]) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:  # as the gateway does
        serving = scripted_vendor()
        vendor = runner.run(serving.__aenter__())
        try:
            test(runner, vendor)
        finally:
            runner.run(serving.__aexit__(None, None, None))


def test_every_answer_is_taken_as_the_session_takes_it() -> None:
    seen: Counter[str] = Counter()

    def examples(runner: asyncio.Runner, vendor: ScriptedVendor) -> None:
        @settings(max_examples=200, database=None)
        @given(scripts())
        def same(script: Script) -> None:
            theirs, ours = runner.run(both_ways(vendor, script))
            assert ours == theirs
            seen[ours[0].failed or "reply"] += 1
            seen["kept" if ours[2] == 1 and ours[1] else "connected again"] += 1

        same()

    in_one_loop(examples)
    assert seen.keys() >= {"reply", "reset", "protocol", "kept", "connected again"}, seen


# What is sent ---------------------------------------------------------------------------------

sent_names = st.sampled_from(
    [
        *("Accept", "accept", "User-Agent", "Accept-Encoding", "content-type", "X-A", "x-a"),
        *("Cookie", "X-Correlation-ID", "idempotency-key", "If-Match", "!#$%&'*+-.^_`|~0a"),
    ]
)
sent_values = st.text(
    st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")) | st.just("\t"), max_size=20
)
calls = st.builds(
    Call,
    method=st.sampled_from(["GET", "HEAD", "OPTIONS", "TRACE", "POST", "PUT", "PATCH", "DELETE"])
    | st.sampled_from(["post", "REPORT", "M-SEARCH"]),
    path=st.sampled_from(
        ["", "/", "?a=1", "/?", "/x?", "/a%2Fb?x=%20y&x=2", "//a", "/a?b?c", "/;p="]
    )
    | st.text("abz019/?&=%-._~!$'()*+,;:@[]{}|^`", max_size=20).map(lambda t: "/" + t),
    headers=st.dictionaries(sent_names, sent_values, max_size=4),
    body=st.none() | st.binary(max_size=40) | st.just(b"x" * 5000),
    content_type=st.none() | st.just("application/json"),
    idempotency_key=st.sampled_from(["", "job-1"]),
    correlation_id=st.sampled_from(["", "cid-1", "cid-é"]),
)


def on_the_wire(request: Request) -> tuple[str, list[tuple[str, str]], bytes]:
    pairs = [(name.lower(), value) for name, value in request.headers]
    return request.line, sorted(pair for pair in pairs if pair[0] != "traceparent"), request.body


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"headers": {"Accept": "application/json", "X-A": "ours"}},
        {"auth": BearerAuth(Secret("env:T", "t0k")), "idempotency_header": "X-Once"},
    ],
)
@pytest.mark.parametrize("base", ["", "/v1", "/v1/x%2Fy"])
def test_every_request_is_written_as_the_session_writes_it(
    base: str, changes: dict[str, Any]
) -> None:
    def examples(runner: asyncio.Runner, vendor: ScriptedVendor) -> None:
        stub = api(vendor.url + base, **changes)

        async def send_both(call: Call) -> None:
            vendor.requests.clear()
            async with session_of(stub) as session:
                await by_session(session, stub, call)
            async with client_of(stub) as client:
                await by_client(client, call)

        @settings(max_examples=20, database=None)
        @given(calls)
        def same(call: Call) -> None:
            head = b"HTTP/1.1 204 No Content\r\n\r\n"
            vendor.answer = says(head)
            runner.run(send_both(call))
            if "/." in call.path.partition("?")[0] or "%2e" in call.path:
                return  # we do not send what may lead out of the base URL
            theirs, ours = vendor.requests
            assert on_the_wire(ours) == on_the_wire(theirs)

        same()

    in_one_loop(examples)
