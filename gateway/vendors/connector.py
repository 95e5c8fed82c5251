"""aiohttp's connector, whose connections read an answer at once where it has come as a whole.

Everything that makes a connection is aiohttp's: pool, DNS, TLS, happy eyeballs, proxies. Its parser
is made when an answer comes that is not plain; see :mod:`gateway.whole`.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any, cast

import aiohttp
from aiohttp import EMPTY_PAYLOAD
from aiohttp.client_proto import ResponseHandler

from gateway.whole import AnswerReader


class Answering(ResponseHandler):
    """One connection. :meth:`expect_answer`, write a request, and ``read()`` its answer: either an
    :class:`~gateway.messages.Answer`, or aiohttp's message with a stream.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, *, reader: AnswerReader) -> None:
        super().__init__(loop)
        self._reader = reader
        self._expecting = False  # nothing of the answer has come yet
        self._empty = False

    def expect_answer(self, *, empty: bool) -> None:
        """Take what comes next for the beginning of an answer; *empty*: of one without a body."""
        self._expecting = True
        self._empty = empty

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        if self._expecting:
            self._expecting = False
            answer = None if self._empty else self._reader.read(data)
            if answer is not None:
                self.feed_data((cast(Any, answer), EMPTY_PAYLOAD))
                return
            self.set_response_params(
                skip_payload=self._empty, read_until_eof=True, auto_decompress=False
            )
        super().data_received(data)


class Connector(aiohttp.TCPConnector):
    """Makes such connections. To be made on the loop it shall run on."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        make = partial(Answering, self._loop, reader=AnswerReader())
        self._factory = cast("partial[ResponseHandler]", make)
