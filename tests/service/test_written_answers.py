"""The answer that is written in one piece says what aiohttp's own would have said."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from email.utils import parsedate_to_datetime
from pathlib import Path

import pytest
from doorstep import serving, vendor

BODY = b'{"type": "x"}'

TOML = (
    vendor("open", "none").replace('secrets = ["env:S"]\n', "")
    + vendor("terse", "none").replace('secrets = ["env:S"]\n', "")
    + '[vendors.terse.webhook.response]\nstatus = 204\nbody = ""\n'
    + vendor("wordy", "none").replace('secrets = ["env:S"]\n', "")
    + '[vendors.wordy.webhook.response]\nstatus = 200\nbody = "thank you, \u00e9"\n'
)

TOML += vendor("slow", "none", 'rate = "1/h"\nburst = 1').replace('secrets = ["env:S"]\n', "")

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@asynccontextmanager
async def connected(tmp_path: Path) -> AsyncIterator[Streams]:
    async with serving(tmp_path, TOML) as place:
        port = int(place.base.rpartition(":")[2])
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            yield reader, writer
        finally:
            writer.close()


def request(path: str = "open", *, version: str = "1.1", more: str = "") -> bytes:
    return (
        f"POST /webhooks/{path} HTTP/{version}\r\nHost: x\r\nX-Correlation-ID: c-1\r\n"
        f"Content-Length: {len(BODY)}\r\n{more}\r\n"
    ).encode() + BODY


async def one_answer(reader: asyncio.StreamReader) -> tuple[bytes, dict[str, str], bytes]:
    head = await reader.readuntil(b"\r\n\r\n")
    status, _, rest = head.partition(b"\r\n")
    headers = dict(line.split(": ", 1) for line in rest.decode().split("\r\n") if line)
    assert len(headers) == rest.count(b": "), "no header comes twice"
    return status, headers, await reader.readexactly(int(headers.get("Content-Length", "0")))


async def test_requests_on_one_connection_are_answered_in_their_order(tmp_path: Path) -> None:
    async with connected(tmp_path) as (reader, writer):
        writer.write(request() + request("wordy") + request("nobody") + request())
        status, headers, body = await one_answer(reader)
        assert status == b"HTTP/1.1 202 Accepted"
        assert headers["Content-Type"] == "application/json"
        assert (headers["Server"], headers["X-Correlation-ID"]) == ("gateway", "c-1")
        assert parsedate_to_datetime(headers["Date"])
        assert b'"duplicate": false' in body
        status, headers, body = await one_answer(reader)
        assert status == b"HTTP/1.1 200 OK"
        assert headers["Content-Type"] == "text/plain; charset=utf-8"
        assert body.decode() == "thank you, é"
        assert (await one_answer(reader))[0] == b"HTTP/1.1 404 Not Found"
        assert (await one_answer(reader))[0] == b"HTTP/1.1 202 Accepted"


@pytest.mark.parametrize(
    ("version", "more", "status"),
    [
        ("1.0", "", b"HTTP/1.0 202 Accepted"),
        ("1.1", "Connection: close\r\n", b"HTTP/1.1 202 Accepted"),
    ],
)
async def test_who_wants_no_second_request_gets_his_answer_and_the_end(
    tmp_path: Path, version: str, more: str, status: bytes
) -> None:
    async with connected(tmp_path) as (reader, writer):
        writer.write(request(version=version, more=more))
        first, headers, _ = await one_answer(reader)
        assert first == status
        assert headers["X-Correlation-ID"] == "c-1"
        assert await reader.read() == b""


async def test_an_old_client_may_keep_its_connection_if_it_asks_for_it(tmp_path: Path) -> None:
    async with connected(tmp_path) as (reader, writer):
        for _ in range(2):
            writer.write(request(version="1.0", more="Connection: keep-alive\r\n"))
            status, headers, _ = await one_answer(reader)
            assert status == b"HTTP/1.0 202 Accepted"
            assert headers["Connection"] == "keep-alive"


async def test_an_answer_without_a_body_announces_none(tmp_path: Path) -> None:
    async with connected(tmp_path) as (reader, writer):
        writer.write(request("terse") + request())
        status, headers, _ = await one_answer(reader)
        assert status == b"HTTP/1.1 204 No Content"
        assert "Content-Length" not in headers
        assert (await one_answer(reader))[0] == b"HTTP/1.1 202 Accepted"


async def test_a_refusal_says_when_to_come_again_and_keeps_the_connection(tmp_path: Path) -> None:
    async with connected(tmp_path) as (reader, writer):
        writer.write(request("slow") * 2 + request("open"))
        assert (await one_answer(reader))[0] == b"HTTP/1.1 202 Accepted"
        status, headers, body = await one_answer(reader)
        assert status == b"HTTP/1.1 429 Too Many Requests"
        assert 0 < int(headers["Retry-After"]) <= 3600
        assert (headers["Server"], headers["X-Correlation-ID"]) == ("gateway", "c-1")
        assert body == b'{"error":"too many requests"}'
        assert (await one_answer(reader))[0] == b"HTTP/1.1 202 Accepted"


async def test_a_refused_head_request_gets_no_body(tmp_path: Path) -> None:
    async with connected(tmp_path) as (reader, writer):
        writer.write(b"HEAD /webhooks/open HTTP/1.1\r\nHost: x\r\n\r\n" + request("open"))
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 405 Method Not Allowed\r\n")
        assert b"Allow: POST\r\n" in head
        assert (await one_answer(reader))[0] == b"HTTP/1.1 202 Accepted"


async def test_a_refusal_before_the_body_has_come_ends_the_connection(tmp_path: Path) -> None:
    async with connected(tmp_path) as (reader, writer):
        writer.write(b"POST /webhooks/nobody HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n")
        status, headers, _ = await one_answer(reader)
        assert status == b"HTTP/1.1 404 Not Found"
        assert headers["Connection"] == "close"
        assert await reader.read() == b""
