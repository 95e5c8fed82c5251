"""Clients that take their time, and too many of them: they lose their connection, nobody else's."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from doorstep import serving, vendor
from harness import eventually

from gateway.config.model import Address
from gateway.web import received
from gateway.web.connections import Timeouts
from gateway.web.server import Listener, public_listener

BOUND_SECONDS = 10.0
GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
OK = b"here"

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@contextlib.asynccontextmanager
async def listening(**options: Any) -> AsyncIterator[Listener]:
    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(body=OK)

    listener = public_listener(answer, Address("127.0.0.1", 0), **options)
    await listener.start()
    try:
        yield listener
    finally:
        await listener.stop_accepting()
        await listener.close()


async def connected(listener: Listener) -> Streams:
    return await asyncio.open_connection("127.0.0.1", listener.port)


async def ask(streams: Streams, raw: bytes = GET) -> bytes:
    """Send *raw*; return the head of the answer, after which its body has been read."""
    reader, writer = streams
    writer.write(raw)
    async with asyncio.timeout(BOUND_SECONDS):
        head = await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(int(head.lower().partition(b"content-length: ")[2].split()[0]))
    return head


async def closed(streams: Streams) -> None:
    """Wait until the other end has closed; it must not have said anything more."""
    reader, writer = streams
    async with asyncio.timeout(BOUND_SECONDS):
        with contextlib.suppress(ConnectionError):
            assert await reader.read() == b""
    writer.close()


async def until_open(listener: Listener, connections: int) -> None:
    async def reached() -> bool:
        return listener.connections == connections

    await eventually(reached, seconds=BOUND_SECONDS, what=f"{connections} connections")


# Slow heads and idle connections -----------------------------------------------------------------


async def test_a_connection_that_asks_for_nothing_is_closed_and_one_that_did_is_kept() -> None:
    async with listening(timeouts=Timeouts(head_seconds=0.2)) as listener:
        kept = await connected(listener)
        assert await ask(kept)
        for beginning in (b"", b"P", b"POST /webhooks/shop HTTP/1.1\r\nX-Slow: "):
            silent = await connected(listener)
            silent[1].write(beginning)
            await closed(silent)
        # Older than those by now, and still answered.
        assert await ask(kept)
        kept[1].close()


async def test_a_head_that_trickles_in_is_not_waited_for() -> None:
    async with listening(timeouts=Timeouts(head_seconds=0.3)) as listener:
        reader, writer = await connected(listener)
        writer.write(b"POST /webhooks/shop HTTP/1.1\r\n")

        async def trickle() -> None:
            with contextlib.suppress(ConnectionError):
                while True:
                    writer.write(b"X-More: 1\r\n")
                    await writer.drain()
                    await asyncio.sleep(0.05)  # a pace, not a wait

        task = asyncio.create_task(trickle())
        await closed((reader, writer))
        task.cancel()
        await until_open(listener, 0)


async def test_a_kept_connection_that_says_no_more_is_closed_and_so_is_a_slow_second_head() -> None:
    async with listening(timeouts=Timeouts(idle_seconds=0.3)) as listener:
        for beginning in (b"", b"POST /webhooks/shop HTTP/1.1\r\nX-Slow: "):
            kept = await connected(listener)
            assert await ask(kept)
            kept[1].write(beginning)
            await closed(kept)
        await until_open(listener, 0)


# Slow bodies -------------------------------------------------------------------------------------


async def test_a_body_that_does_not_arrive_in_time_gets_408(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(received, "BODY_SECONDS", 0.2)
    async with serving(tmp_path, vendor("github")) as place:
        address = place.base.rpartition(":")[2]
        for framing in (
            b"Content-Length: 10\r\n\r\nhalf",
            b"Transfer-Encoding: chunked\r\n\r\n5\r\nh",
        ):
            slow = await asyncio.open_connection("127.0.0.1", int(address))
            head = await ask(slow, b"POST /webhooks/github HTTP/1.1\r\nHost: x\r\n" + framing)
            assert head.startswith(b"HTTP/1.1 408 ")
            assert b"connection: close" in head.lower()
            await closed(slow)
        assert place.desk.stored == []
        assert (await place.signed("github", b"{}"))[0] == 202


# Slow readers ------------------------------------------------------------------------------------


async def test_who_does_not_take_his_answers_is_cut_off_and_who_takes_them_late_is_not() -> None:
    # Few enough to get in, as long as answers are taken; far too many to wait in the kernel.
    flood, pause = GET * 200_000, 0.3
    async with listening(timeouts=Timeouts(reading_seconds=pause)) as listener:
        deaf = _small_socket(listener.port)
        late = _small_socket(listener.port)
        loop = asyncio.get_running_loop()
        sending = loop.create_task(_send_all(deaf, flood))
        await until_open(listener, 2)

        # It reads now and then, always before its time is over, and gets all that it asked for.
        wanted = 3000
        more = loop.create_task(_send_all(late, GET * wanted))
        got = b""
        while got.count(OK) < wanted:
            async with asyncio.timeout(BOUND_SECONDS):
                got += await loop.sock_recv(late, 4096)
        await more
        late.close()

        with contextlib.suppress(ConnectionError):
            async with asyncio.timeout(BOUND_SECONDS):
                await sending
        await until_open(listener, 0)
        deaf.close()


async def test_an_answer_that_nobody_takes_ends_also_behind_a_closing_connection() -> None:
    """Its end waits for what is still to be sent, and that would be for ever."""
    async with listening(timeouts=Timeouts(reading_seconds=0.3)) as listener:
        deaf = _small_socket(listener.port)
        last = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        sending = asyncio.create_task(_send_all(deaf, GET * 20_000 + last))
        await until_open(listener, 1)
        await until_open(listener, 0)
        sending.cancel()
        deaf.close()


def _small_socket(port: int) -> socket.socket:
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    made.connect(("127.0.0.1", port))
    made.setblocking(False)
    return made


async def _send_all(sender: socket.socket, data: bytes) -> None:
    with contextlib.suppress(ConnectionError):
        await asyncio.get_running_loop().sock_sendall(sender, data)


# Too many ----------------------------------------------------------------------------------------


async def test_a_connection_too_many_hears_503_and_the_others_are_still_answered() -> None:
    refused: list[int] = []
    patient = Timeouts(linger_seconds=60.0)
    async with listening(
        max_connections=2, on_refused=lambda: refused.append(1), timeouts=patient
    ) as listener:
        kept = [await connected(listener) for _ in range(2)]
        told = []
        for streams in kept:
            assert await ask(streams)
        for number in (1, 2, 3):
            told.append(await connected(listener))
            head = await ask(told[-1])
            assert head.startswith(b"HTTP/1.1 503 ")
            assert b"retry-after: 5" in head.lower()
            assert len(refused) == number
        for streams in kept:
            assert (await ask(streams)).startswith(b"HTTP/1.1 200 ")
        kept.pop()[1].close()
        await until_open(listener, 4)  # one, and three that were told and do not close
        again = await connected(listener)
        assert (await ask(again)).startswith(b"HTTP/1.1 200 ")
        assert len(refused) == 3
        for streams in (*kept, *told, again):
            streams[1].close()


async def test_a_drain_can_tell_who_has_yet_to_ask() -> None:
    async with listening(max_connections=2) as listener:

        async def none_is_open() -> bool:
            return listener.connections == 0

        first, second = await connected(listener), await connected(listener)
        refused = await connected(listener)
        async with asyncio.timeout(BOUND_SECONDS):
            assert b"503" in await refused[0].read()
        assert listener.silent() == 2
        await ask(first)
        await ask(first)
        assert listener.silent() == 1
        for _, writer in (first, second, refused):
            writer.close()
        await eventually(none_is_open)
        assert listener.silent() == 0


async def test_those_that_were_turned_away_are_not_kept_for_long() -> None:
    async with listening(max_connections=1, timeouts=Timeouts(linger_seconds=0.2)) as listener:
        kept = await connected(listener)
        assert await ask(kept)
        turned_away = [await connected(listener) for _ in range(150)]
        await until_open(listener, 1)
        for _, writer in (kept, *turned_away):
            writer.close()


async def test_no_more_connections_are_promised_than_the_system_has_files(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from gateway.web import connections

    limits = {"now": (1024, 4096)}
    monkeypatch.setattr(connections.resource, "getrlimit", lambda _: limits["now"])
    monkeypatch.setattr(
        connections.resource, "setrlimit", lambda _, new: limits.__setitem__("now", new)
    )
    assert connections.connections_within_reach(500) == 500
    assert limits["now"] == (1024, 4096), "enough as it was"
    assert connections.connections_within_reach(3000) == 3000
    assert limits["now"] == (3000 + connections.RESERVED_FILES, 4096)
    assert connections.connections_within_reach(5000) == 4096 - connections.RESERVED_FILES
    assert limits["now"] == (4096, 4096)


def test_the_clocks_are_on_unless_told_otherwise() -> None:
    given = Timeouts()
    assert 0 < given.head_seconds <= 30
    assert 0 < given.reading_seconds <= 30
    assert 0 < given.idle_seconds <= 120
