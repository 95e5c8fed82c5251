"""What is read at once is what aiohttp reads of the same bytes; all else is left to it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http import HttpProcessingError, HttpRequestParser, HttpResponseParser
from hypothesis import event, example, given, settings
from hypothesis import strategies as st

from gateway.messages import Answer, Request
from gateway.web.server import MAX_HEADER_BYTES
from gateway.web.server import MAX_HEADERS as LISTENERS_MAX_HEADERS
from gateway.whole import MAX_HEAD_BYTES, MAX_HEADERS, UNKNOWN, AnswerReader, RequestReader

PLAIN = b"POST /webhooks/x?a=1 HTTP/1.1\r\nHost: x\r\nX-Id: 7\r\nContent-Length: 2\r\n\r\n{}"
PLAIN_ANSWER = b"HTTP/1.1 200 OK\r\nDate: now\r\nX-Id: 7\r\nContent-Length: 2\r\n\r\n{}"

NAMES = [
    *("Host", "host", "X-Id", "x-id", "Content-Length", "Transfer-Encoding", "Connection"),
    *("Upgrade", "Expect", "Content-Encoding", "Proxy-Connection", "Content-Type", "Trailer"),
    *("Date", "A b", "", "X\x00", "Ü", "Set-Cookie", "Sec-WebSocket-Key1"),
]
VALUES = [
    *("x", "", "  7 ", "\t7\t", "0", "2", "3", "+2", "2, 2", "chunked", "close", "keep-alive"),
    *("Keep-Alive", "upgrade", "websocket", "100-continue", "gzip", "ü", "a\x00b", "a\rb", "a\n b"),
    *("a\x7fb", "x" * 9000),
]
lines = st.just([("X-Id", "7")]) | st.lists(
    st.tuples(st.sampled_from(NAMES), st.sampled_from(VALUES)), max_size=3
)
ends = st.sampled_from(["\r\n"] * 30 + ["\n", "\r", "\r\n ", " \r\n", ""])
bodies = st.sampled_from([b"", b"{}", b"{}x", b"2\r\n{}\r\n0\r\n\r\n", PLAIN])


def message(
    first: str, more: Sequence[tuple[str, str]], end: str, colon: str, body: bytes, length: str
) -> bytes:
    fields = [*more, *([("Content-Length", length or str(len(body)))] if length != "-" else [])]
    head = "".join(f"{name}{colon}{value}\r\n" for name, value in fields[:-1])
    head += "".join(f"{name}{colon}{value}{end}" for name, value in fields[-1:])
    return f"{first}\r\n{head}\r\n".encode("utf-8", "surrogateescape") + body


def messages(first: st.SearchStrategy[str], mandatory: Sequence[tuple[str, str]]) -> Any:
    """Messages that are mostly plain, with a few things about them that may not be."""
    return st.builds(
        message,
        first,
        lines.map(lambda more: [*mandatory, *more]),
        ends,
        st.sampled_from([": "] * 30 + [":", " : ", ":\t", ""]),
        bodies,
        st.sampled_from([""] * 30 + ["-", "0", "1", "5"]),
    )


requests = messages(
    st.builds(
        lambda *words: " ".join(filter(None, words)),
        st.sampled_from(["POST"] * 30 + ["GET", "HEAD", "CONNECT", "post", "PRI", "M-SEARCH", ""]),
        st.sampled_from(
            ["/webhooks/x"] * 30 + ["*", "http://x/y", "/ü", "/a b", "/a#b", "", "x:1"]
        ),
        st.sampled_from(["HTTP/1.1"] * 30 + ["HTTP/1.0", "HTTP/2.0", "http/1.1", "", "RTSP/1.0"]),
    ),
    [("Host", "x")],
)
replies = messages(
    st.builds(
        "{} {}{}".format,
        st.sampled_from(["HTTP/1.1"] * 30 + ["HTTP/1.0", "HTTP/2.0", "http/1.1", "", "ICY"]),
        st.sampled_from(
            ["200"] * 30 + ["204", "304", "100", "101", "199", "99", "2000", "x", "503"]
        ),
        st.sampled_from([" OK", "", " ", " ü", " a\tb", " \x00"]),
    ),
    [],
)
# Also with a byte or two that are another's, and with something before and after.
mangled = st.just(([], b"", b"")) | st.tuples(
    st.lists(st.tuples(st.integers(0, 400), st.binary(max_size=2)), max_size=2),
    st.sampled_from([b""] * 30 + [b"\r\n", b" ", PLAIN]),
    st.sampled_from([b""] * 30 + [b"\r\n", b"x", PLAIN]),
)


def mangle(data: bytes, how: tuple[list[tuple[int, bytes]], bytes, bytes]) -> bytes:
    changes, before, after = how
    for at, by in changes:
        data = data[:at] + by + data[at + len(by) :]
    return before + data + after


def assert_alike(one: Any, body: Any, after: Any, read: Request | Answer) -> None:
    """Assert that aiohttp's message, and the body of the next, are what was read at once."""
    assert [(name.lower(), value) for name, value in one.headers.items()] == list(
        read.headers.items()
    )
    assert body.is_eof()
    assert body.read_nowait(-1) == read.body
    assert after.read_nowait(-1) == b"{}"
    assert not one.should_close
    assert not one.upgrade
    assert not one.chunked


@settings(max_examples=1500)
@example(data=PLAIN, how=([], b"", b""))
@given(data=requests, how=mangled)
async def test_a_request_is_what_aiohttp_reads(data: bytes, how: Any) -> None:
    data = mangle(data, how)
    reader = RequestReader()
    read = reader.read(data)
    event(f"read: {read is not None}")
    if read is not None:
        loop = asyncio.get_running_loop()
        parser = HttpRequestParser(
            BaseProtocol(loop), loop, 1 << 16, max_line_size=MAX_HEADER_BYTES,
            max_field_size=MAX_HEADER_BYTES, max_headers=LISTENERS_MAX_HEADERS,
            auto_decompress=False,
        )  # fmt: skip
        # It ends where aiohttp thinks so, too: the next one is read alike.
        (one, body), (_, after) = parser.feed_data(data + PLAIN)[0]
        assert (one.method, one.path) == (read.method, read.target)
        assert_alike(one, body, after, read)
        assert one.version == (1, 1)
        assert reader.rest == 0
    plain = reader.read(PLAIN)
    assert plain is not None  # nothing is left of the one before
    assert list(plain.headers) == ["host", "x-id", "content-length"]


@settings(max_examples=1500)
@example(data=PLAIN_ANSWER, how=([], b"", b""))
@given(data=replies, how=mangled)
async def test_an_answer_is_what_aiohttp_reads(data: bytes, how: Any) -> None:
    data = mangle(data, how)
    reader = AnswerReader()
    read = reader.read(data)
    event(f"read: {read is not None}")
    if read is not None:
        loop = asyncio.get_running_loop()
        parser = HttpResponseParser(
            BaseProtocol(loop), loop, 1 << 16, read_until_eof=True, auto_decompress=False
        )
        (one, body), (_, after) = parser.feed_data(data + PLAIN_ANSWER)[0]
        assert one.code == read.status
        assert_alike(one, body, after, read)
    plain = reader.read(PLAIN_ANSWER)
    assert plain is not None
    assert list(plain.headers) == ["date", "x-id", "content-length"]


def test_a_plain_request_is_read() -> None:
    read = RequestReader().read(PLAIN)
    assert read is not None
    assert (read.method, read.target, read.body) == ("POST", "/webhooks/x?a=1", b"{}")
    assert read.headers == {"host": "x", "x-id": "7", "content-length": "2"}
    bodiless = RequestReader().read(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Keep-Alive\r\n\r\n")
    assert bodiless is not None
    assert bodiless.body == b""


@pytest.mark.parametrize(
    ("without", "put"),
    [
        (b"Host: x\r\n", b""),
        (b"HTTP/1.1", b"HTTP/1.0"),
        (b"X-Id: 7", b"X-Id: 7\r\nx-id: 7"),
        (b"X-Id: 7", b"X-Id: \xc3\xbc"),
        (b"X-Id: 7", b"X-Id: 7\r\n 8"),
        (b"X-Id: 7", b"Connection: close"),
        (b"X-Id: 7", b"Connection: keep-alive, upgrade\r\nUpgrade: h2c"),
        (b"X-Id: 7", b"Expect: 100-continue"),
        (b"X-Id: 7", b"X-Id: " + b"7" * MAX_HEAD_BYTES),
        (b"X-Id: 7", b"\r\n".join(b"X-%d: 7" % number for number in range(MAX_HEADERS))),
        (b"Content-Length: 2\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"),
        (b"{}", b"{}" + PLAIN),
        (b"{}", b"{"),
    ],
)
def test_what_is_not_plain_is_left(without: bytes, put: bytes) -> None:
    assert without in PLAIN
    assert RequestReader().read(PLAIN.replace(without, put, 1)) is None


@pytest.mark.parametrize(
    ("without", "put"),
    [
        (b"HTTP/1.1", b"HTTP/1.0"),
        (b"200", b"100"),
        (b"200", b"204"),  # with a body that cannot be one
        (b"X-Id: 7", b"Set-Cookie: a\r\nSet-Cookie: b"),
        (b"X-Id: 7", b"Connection: close"),
        (b"Content-Length: 2\r\n\r\n", b"\r\n"),  # as long as the connection
        (b"Content-Length: 2\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"),
        (b"{}", b"{}x"),
        (b"{}", b"{"),
    ],
)
def test_an_answer_that_is_not_plain_is_left(without: bytes, put: bytes) -> None:
    assert without in PLAIN_ANSWER
    assert AnswerReader().read(PLAIN_ANSWER) is not None
    assert AnswerReader().read(PLAIN_ANSWER.replace(without, put, 1)) is None


@pytest.mark.parametrize("status", [100, 103, 199])
def test_what_comes_before_an_answer_is_none(status: int) -> None:
    assert AnswerReader().read(b"HTTP/1.1 %d X\r\nContent-Length: 0\r\n\r\n" % status) is None


@pytest.mark.parametrize("cut", range(1, len(PLAIN)))
def test_of_a_request_in_pieces_it_is_known_how_much_is_to_come(cut: int) -> None:
    reader = RequestReader()
    assert reader.read(PLAIN[:cut]) is None
    assert reader.rest == (len(PLAIN) - cut if cut >= len(PLAIN) - 2 else UNKNOWN)


def test_the_listener_and_this_have_the_same_bounds() -> None:
    assert MAX_HEAD_BYTES <= MAX_HEADER_BYTES
    assert MAX_HEADERS <= LISTENERS_MAX_HEADERS


async def test_llhttp_refuses_what_aiohttp_refuses() -> None:
    """The parsers are of one family: a name with a space is none to either."""
    data = PLAIN.replace(b"X-Id", b"X Id")
    loop = asyncio.get_running_loop()
    with pytest.raises(HttpProcessingError):
        HttpRequestParser(BaseProtocol(loop), loop, 1 << 16).feed_data(data)
    assert RequestReader().read(data) is None
