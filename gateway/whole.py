"""HTTP/1.1 messages that have come as a whole, in one piece: read at once.

A parser that is ready for anything, for heads in pieces, bodies of any length, chunks and upgrades,
makes a stream, a multidict and a URL of each message: more than half of what it costs to read one.
Most webhooks, and most answers to calls, are short and come in one piece. Those are read here, by
llhttp, which aiohttp's own parser is made of, too.

Whatever is not plain is not read here, and nothing is kept of it: aiohttp's parser gets the same
bytes, and is the only one to refuse any. What is read here, it would have read alike.
"""

from __future__ import annotations

from typing import Any, Final

import httptools

from gateway.messages import Answer, Request

MAX_HEAD_BYTES: Final = 8190  # aiohttp's bound on a line of it
MAX_HEADERS: Final = 100
UNKNOWN: Final = -1

_MAX_NAMES = 1000  # of headers, remembered
_HEAD_END = b"\r\n\r\n"
# What frames a message otherwise, goes on after it, wants an answer before its end; and what is in
# no message that aiohttp would take.
_NOT_PLAIN = frozenset(
    {"transfer-encoding", "upgrade", "proxy-connection", "expect", "sec-websocket-key1"}
)
_BODILESS = (204, 304)


class RequestReader:
    """Reads requests of any number of connections, each from its first byte.

    ``rest``, after a request that was not here as a whole: how many bytes are still to come of it;
    0 if none are, or UNKNOWN.
    """

    def __init__(self) -> None:
        self.rest = 0
        self._heads = _Heads(httptools.HttpRequestParser)

    def read(self, data: bytes) -> Request | None:
        """Return the request that *data* are; None if they are anything else, or not plain."""
        self.rest = UNKNOWN
        if (head := self._heads.read(data)) is None:
            return None
        line, headers, begin = head
        self.rest = max(UNKNOWN, int(headers.get("content-length", 0)) - (len(data) - begin))
        if self.rest:
            return None
        method, _, rest = line.partition(" ")
        target, _, version = rest.partition(" ")
        if version != "HTTP/1.1" or target[:1] != "/" or "host" not in headers:
            return None
        self._heads.ended()
        return Request(method, target, headers, data[begin:])


class AnswerReader:
    """Reads answers of any number of connections, each from its first byte."""

    def __init__(self) -> None:
        self._heads = _Heads(httptools.HttpResponseParser)

    def read(self, data: bytes) -> Answer | None:
        """Return the answer that *data* are; None if they are anything else, or not plain.

        Not for the answer to HEAD, which has no body whatever its head says.
        """
        if (head := self._heads.read(data)) is None:
            return None
        line, headers, begin = head
        if line[:9] != "HTTP/1.1 " or (status := int(line[9:12])) < 200:
            return None
        length = headers.get("content-length", "0" if status in _BODILESS else None)
        if length is None or int(length) != len(data) - begin:
            return None
        self._heads.ended()
        return Answer(status, headers, data[begin:])


class _Heads:
    """Reads heads. Whether they are well-formed is for llhttp to say, which is fed whole messages:
    what it thinks of a body counts, too.
    """

    def __init__(self, parser_of: Any) -> None:
        self._parser_of = parser_of
        self._names = _Names()
        self._parser = parser_of(self)
        self._at_start = True

    def read(self, data: bytes) -> tuple[str, dict[str, str], int] | None:
        """Return of *data*, if plain: first line, headers, and where the body begins."""
        end = data.find(_HEAD_END, 0, MAX_HEAD_BYTES)
        if end < 0:
            return None
        if not self._at_start:
            self._parser = self._parser_of(self)
        self._at_start = False
        try:
            self._parser.feed_data(data)
            line, *lines = data[:end].decode("ascii").split("\r\n")
        except (httptools.HttpParserError, httptools.HttpParserUpgrade, UnicodeDecodeError):
            return None
        names = self._names
        headers: dict[str, str] = {}
        for one in lines:
            name, _, text = one.partition(":")
            headers[names[name]] = text.strip(" \t")
        if (
            line  # nothing comes before it
            and len(headers) == len(lines) <= MAX_HEADERS  # each is there once
            and _NOT_PLAIN.isdisjoint(headers)
            and ("connection" not in headers or headers["connection"].lower() == "keep-alive")
        ):
            return line, headers, end + len(_HEAD_END)
        return None

    def ended(self) -> None:
        """Note that what was read last was a whole message; else there is a new parser next time,
        since this one may be in the middle of something, or have given up.
        """
        self._at_start = True


class _Names(dict[str, str]):
    """Names in lower case, by how they were written."""

    def __missing__(self, name: str) -> str:
        if len(self) >= _MAX_NAMES:
            self.clear()
        known = self[name] = name.lower()
        return known
