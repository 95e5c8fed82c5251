"""What ``vendors/`` takes from aiohttp beneath its public face, as it must stay.

A new aiohttp that fails here is read first, and then allowed in ``pyproject.toml``.
"""

from __future__ import annotations

import asyncio
import inspect
import re
from collections.abc import Callable
from typing import Any

import aiohttp
import pytest
from aiohttp import connector, streams
from aiohttp.client_proto import ResponseHandler
from aiohttp.http import HttpProcessingError, HttpResponseParser, RawResponseMessage
from multidict import CIMultiDictProxy
from yarl import URL

from gateway.messages import Answer
from gateway.vendors.connector import Answering, Connector

# All that connectors ask of the request for which they open a connection; ours is never sent.
ASKED = {
    *("connection_key", "headers", "host", "is_ssl", "port", "proxy", "proxy_auth"),
    *("proxy_headers", "request_info", "server_hostname", "ssl", "url"),
}


def parameters(function: Callable[..., Any]) -> list[str]:
    return list(inspect.signature(function).parameters)


def test_the_connector_is_asked_as_it_wants_to_be() -> None:
    assert parameters(aiohttp.TCPConnector.connect) == ["self", "req", "traces", "timeout"]
    source = inspect.getsource(connector)
    assert set(re.findall(r"\breq\.(\w+)", source)) == ASKED
    assert not set(re.findall(r"\btimeout\.(\w+)", source)) - {
        *("connect", "sock_connect", "ceil_threshold", "total"),
    }
    for name in ("protocol", "transport", "release", "close"):
        assert hasattr(connector.Connection, name)


async def test_a_request_is_the_same_key_each_time() -> None:
    def opening(url: str) -> aiohttp.ClientRequest:
        return aiohttp.ClientRequest("GET", URL(url))

    one, other = opening("https://a.example"), opening("https://a.example/x?y")
    assert one.connection_key == one.connection_key == other.connection_key
    assert one.connection_key != opening("http://a.example").connection_key
    assert one.connection_key != opening("https://b.example").connection_key


def test_the_protocol_takes_what_it_is_told() -> None:
    assert parameters(ResponseHandler.set_response_params) == [
        *("self", "timer", "skip_payload", "read_until_eof", "auto_decompress", "read_timeout"),
        *("read_bufsize", "timeout_ceil_threshold", "max_line_size", "max_field_size"),
        "max_headers",
    ]
    for name in ("read", "writing_paused", "_drain_helper", "should_close", "__len__"):
        assert hasattr(ResponseHandler, name)
    assert ResponseHandler.__len__ is streams.DataQueue.__len__
    assert parameters(ResponseHandler._drain_helper) == ["self"]


async def test_the_protocol_reads_messages() -> None:
    protocol = ResponseHandler(asyncio.get_running_loop())
    protocol.set_response_params(skip_payload=False, read_until_eof=True, auto_decompress=False)
    protocol.data_received(b"HTTP/1.1 200 OK\r\nX-A: 1\r\nContent-Length: 2\r\n\r\nok")
    assert len(protocol) == 1
    message, stream = await protocol.read()
    assert isinstance(message, RawResponseMessage)
    assert isinstance(message.headers, CIMultiDictProxy)
    assert (message.code, dict(message.headers)) == (200, {"X-A": "1", "Content-Length": "2"})
    assert await stream.readany() == b"ok"
    assert stream.at_eof()
    assert not protocol.should_close
    protocol.data_received(b"HTTP/9 ")
    with pytest.raises(HttpProcessingError):
        await protocol.read()


async def test_connections_are_of_our_making() -> None:
    made = inspect.getsource(connector)
    assert made.count("ResponseHandler, loop=loop") == 1
    assert made.count("self._factory,") + made.count("self._factory()") > 1
    assert parameters(ResponseHandler.__init__) == ["self", "loop"]
    ours = Connector(limit=1)
    protocol = ours._factory()
    await ours.close()
    assert isinstance(protocol, Answering)
    protocol.expect_answer(empty=False)
    protocol.data_received(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    answer, _ = await protocol.read()
    assert isinstance(answer, Answer)
    assert not protocol.should_close
    protocol.data_received(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")
    assert protocol.should_close, "nobody asked for it"


def test_the_parser_is_the_fast_one() -> None:
    assert HttpResponseParser.__module__ == "aiohttp._http_parser"
