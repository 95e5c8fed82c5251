"""Who is refused while the body is still on its way hears so, and is not listened to for ever.

Closing at once would reset the connection, and the answer would be lost with it: what is still
sent is read away for a while.
"""

import asyncio
import contextlib
from pathlib import Path

import pytest
from doorstep import serving, vendor

from gateway.web.connections import Timeouts

BOUND_SECONDS = 20.0
BODY = b"x" * (8 << 20)  # far more than the sockets hold between them
CHUNK = b"10000\r\n%b\r\n" % (b"x" * 65536)
REFUSED = {
    413: ("large", "POST"),
    429: ("throttled", "POST"),
    403: ("elsewhere", "POST"),
    404: ("nobody", "POST"),
    405: ("large", "PUT"),
}
VENDORS = (
    vendor("large", "github", 'max_body = "1KiB"')
    + vendor("throttled", "github", 'rate = "1/h"\nburst = 1\nmax_body = "64MiB"')
    + vendor("elsewhere", "github", 'allow_ips = ["192.0.2.1"]\nmax_body = "64MiB"')
)


def head(name: str, method: str, *, length: int | None) -> bytes:
    framing = "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"
    return f"{method} /webhooks/{name} HTTP/1.1\r\nHost: x\r\n{framing}\r\n\r\n".encode()


async def send_for_ever(writer: asyncio.StreamWriter) -> None:
    while True:
        writer.write(CHUNK)
        await writer.drain()


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("status", REFUSED)
async def test_the_answer_is_heard_by_who_sends_all_of_it_first(
    status: int, chunked: bool, tmp_path: Path
) -> None:
    name, method = REFUSED[status]
    async with serving(tmp_path, VENDORS, timeouts=Timeouts(linger_seconds=60.0)) as place:
        if status == 429:
            assert (await place.call(name, b"{}"))[0] == 401  # which takes the only token
        host, _, port = place.base.removeprefix("http://").rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        async with asyncio.timeout(BOUND_SECONDS):
            writer.write(head(name, method, length=None if chunked else len(BODY)))
            if chunked:
                writer.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY))
            else:
                writer.write(BODY)
            await writer.drain()  # all of it is taken, though nobody wants it
            answer = await reader.read()  # up to the end of the connection, which is no reset
        writer.close()
        assert answer.startswith(b"HTTP/1.1 %d " % status), answer[:200]
        assert b'{"error":' in answer
        assert place.desk.stored == []


@pytest.mark.parametrize("status", REFUSED)
async def test_who_never_stops_sending_is_cut_off(status: int, tmp_path: Path) -> None:
    name, method = REFUSED[status]
    async with serving(tmp_path, VENDORS, timeouts=Timeouts(linger_seconds=0.2)) as place:
        if status == 429:
            assert (await place.call(name, b"{}"))[0] == 401
        host, _, port = place.base.removeprefix("http://").rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(head(name, method, length=None) + CHUNK)
        async with asyncio.timeout(BOUND_SECONDS):
            assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 %d " % status)
            with pytest.raises(ConnectionError):
                await send_for_ever(writer)
        with contextlib.suppress(ConnectionError):
            writer.close()
            await writer.wait_closed()
        assert (await place.signed("large", b"{}"))[0] == 202
