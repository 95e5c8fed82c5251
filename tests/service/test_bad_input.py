"""Whatever is sent to the public port: a clear answer or a closed connection, and nothing lost."""

import asyncio
import gzip
import json
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from harness import (
    Gateway,
    Records,
    Sender,
    Vendor,
    api,
    configure,
    eventually,
    signed,
)

MAX_BODY = 64 << 10
ANSWER_SECONDS = 10.0
MEMORY_KIB = 40 << 10  # that a flood may add

Answer = tuple[int, dict[str, str], bytes]


class Wire:
    """Raw connections to the gateway's public port. Remembers every status that was answered."""

    def __init__(self, gateway: Gateway, vendor: Vendor) -> None:
        self.gateway = gateway
        self.vendor = vendor
        self.statuses: list[int] = []

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        address = urlsplit(self.gateway.public)
        return await asyncio.open_connection(
            address.hostname, address.port, family=socket.AF_INET, limit=1 << 20
        )

    async def exchange(self, raw: bytes, *, end: bool = False) -> Answer:
        """Send *raw* (then half-close, with *end*), return the answer."""
        reader, writer = await self.connect()
        try:
            writer.write(raw)
            if end:
                writer.write_eof()
            return await self.answer(reader)
        finally:
            writer.close()

    async def answer(self, reader: asyncio.StreamReader) -> Answer:
        async with asyncio.timeout(ANSWER_SECONDS):
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            status_line, *lines = head.rstrip().split("\r\n")
            status = int(status_line.split()[1])
            fields = {}
            for line in lines:
                name, _, value = line.partition(": ")
                fields[name.lower()] = value
            body = await reader.readexactly(int(fields.get("content-length", "0")))
        self.statuses.append(status)
        return status, fields, body

    async def accepts(self) -> None:
        """Prove that an ordinary webhook still gets through."""
        async with Sender(lambda: self.gateway.public) as sender:
            assert (await sender.send("plain")).status in (200, 202)


@pytest.fixture
async def wire(database_url: str, tmp_path: Path) -> AsyncIterator[Wire]:
    async with Vendor() as crm:
        vendors = (
            api("crm", crm.url)
            + '[[routes]]\nname = "all"\nfrom = "shop"\ncall = "POST crm:/all"\n'
            + '[[routes]]\nname = "some"\nfrom = "shop"\ncall = "POST crm:/some"\n'
            'where = "event.amount > 0"\n'
            + '[vendors.open.webhook]\nverify = "none"\nevent_type = "body:type"\n'
            'dedupe = "body:id"\n'
            + '[[routes]]\nname = "open"\nfrom = "open"\ncall = "POST crm:/open"\n'
        )
        config = configure(
            tmp_path, database_url, vendors=vendors, server=f'max_body = "{MAX_BODY // 1024}KiB"'
        )
        async with Gateway(config) as gateway:
            wire = Wire(gateway, crm)
            yield wire
            # Whatever it was: no answer was a fault of ours, and nothing was broken by it.
            assert not [status for status in wire.statuses if status >= 500]
            await wire.accepts()
            assert gateway.runs
            assert not gateway.faults(), json.dumps(gateway.faults()[0], indent=1)


def request(
    body: bytes,
    *,
    path: str = "/webhooks/shop",
    method: str = "POST",
    length: int | None = None,
    message_id: str = "m",
    sign: bool = True,
    now: float | None = None,
    **more: str,
) -> bytes:
    fields = {"Host": "gateway", "Content-Length": str(len(body) if length is None else length)}
    if sign:
        fields |= signed(body, message_id=message_id, now=now)
    fields |= {name.replace("_", "-"): value for name, value in more.items()}
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items() if value)
    return f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode("latin-1") + body


# Bodies ------------------------------------------------------------------------------------------


BODIES = [
    b'{"amount": 1',
    b"",
    b"not json at all",
    b"\xff\xfe\x00\x80 no UTF-8",
    b'{"type": "\xff\xfe"}',
    b"[" * 30_000,
    b'{"a":' * 10_000,
    b'{"amount": 1, "amount": 0, "type": "a", "type": "b"}',
    b'{"type": "a\\u0000b"}',
    b'{"type": "a\\ud800b"}',
    b'{"amount": 1e999}',
    b'{"amount": ' + b"9" * 5000 + b"}",
    b'{"amount": NaN}',
    b'"amount"',
    b"null",
    b"\x00",
]


async def test_a_signed_body_is_stored_as_it_came_and_runs_its_routes(
    wire: Wire, records: Records
) -> None:
    stored = {}
    for number, body in enumerate(BODIES):
        status, _, answer = await wire.exchange(request(body, message_id=f"m{number}"))
        assert status == 202, body[:100]
        receipt = json.loads(answer)
        assert receipt["jobs"] >= 1, body[:100]
        stored[receipt["event_id"]] = body
    rows = await records.rows("SELECT id::text, body FROM gateway.events")
    assert {row["id"]: row["body"] for row in rows} == stored
    calls = await wire.vendor.called(len(BODIES), path="/all")
    assert sorted(call.body for call in calls) == sorted(BODIES)


async def test_nesting_beyond_all_bounds_in_an_allowed_size_is_stored(
    database_url: str, tmp_path: Path, records: Records
) -> None:
    body = b'{"type": "deep", "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    async with Vendor() as crm:
        vendors = api("crm", crm.url) + (
            '[[routes]]\nname = "all"\nfrom = "shop"\ncall = "POST crm:/{{ event.type }}"\n'
        )
        config = configure(tmp_path, database_url, vendors=vendors)
        async with Gateway(config) as gateway:
            wire = Wire(gateway, crm)
            assert (await wire.exchange(request(body)))[0] == 202
            await records.until_states({"dead": 1})
            assert (await records.value("SELECT body FROM gateway.events")) == body
            await wire.accepts()
            assert gateway.runs


KEYED = [
    b'{"type": "a\\u0000b", "id": "c\\u0000d"}',
    b'{"type": "a\\ud800b", "id": "c\\udfffd"}',
    b'{"type": {"no": "text"}, "id": ["no", "text"]}',
    b'{"type": "' + b"t" * 20_000 + b'", "id": "' + b"i" * 20_000 + b'"}',
    b'{"type": true, "id": 1.5}',
    b"[]",
]


async def test_an_odd_event_type_or_dedupe_key_is_stored_once(wire: Wire, records: Records) -> None:
    for body in KEYED:
        raw = request(body, path="/webhooks/open", sign=False)
        first = await wire.exchange(raw)
        second = await wire.exchange(raw)
        assert (first[0], second[0]) == (202, 200), body[:100]
        assert json.loads(first[2])["event_id"] == json.loads(second[2])["event_id"]
    rows = await records.rows("SELECT body FROM gateway.events")
    assert sorted(row["body"] for row in rows) == sorted(KEYED)


async def test_a_key_that_cannot_be_stored_never_becomes_another(wire: Wire) -> None:
    for body in (
        b'{"id": "a\\u0000"}',
        b'{"id": "a\\u0000b"}',
        b'{"id": "a\\ufffd"}',
        b'{"id": "a"}',
    ):
        assert (await wire.exchange(request(body, path="/webhooks/open", sign=False)))[0] == 202


async def test_a_gzip_bomb_is_stored_as_it_came_and_inflated_nowhere(
    wire: Wire, records: Records
) -> None:
    bomb = gzip.compress(b"0" * (40 << 20), 9)
    assert len(bomb) < MAX_BODY
    before = _memory_kib(wire.gateway)
    assert (await wire.exchange(request(bomb, Content_Encoding="gzip")))[0] == 202
    plain = gzip.compress(b'{"type": "zipped", "amount": 3}')
    status, _, answer = await wire.exchange(request(plain, message_id="n", Content_Encoding="gzip"))
    assert (status, json.loads(answer)["jobs"]) == (202, 2), "a decent one is read"
    assert _memory_kib(wire.gateway) - before < MEMORY_KIB
    bodies = await records.rows("SELECT body FROM gateway.events ORDER BY id")
    assert [row["body"] for row in bodies] == [bomb, plain]
    for broken in (bomb[:-8], b"\x1f\x8b nonsense", b""):
        raw = request(broken, message_id=repr(broken[:9]), Content_Encoding="gzip")
        assert (await wire.exchange(raw))[0] == 202


# Who it is from ----------------------------------------------------------------------------------


async def test_a_timestamp_of_another_time_is_refused(wire: Wire, records: Records) -> None:
    for seconds in (-3600, 3600, 365 * 86400, -1e9, 1e12):
        status, _, body = await wire.exchange(request(b"{}", now=time.time() + seconds))
        assert (status, json.loads(body)) == (401, {"error": "not verified"}), seconds
    assert await records.value("SELECT count(*) FROM gateway.events") == 0


FORGERIES = [
    {"webhook_signature": "v1,AAAA"},
    {"webhook_signature": ""},
    {"webhook_signature": "v1," + "A" * 4000},
    {"webhook_signature": "\xff\xfe\x80"},
    {"webhook_timestamp": "soon"},
    {"webhook_timestamp": "9" * 400},
    {"webhook_timestamp": "\u0661\xb2".encode().decode("latin-1")},
    {"webhook_timestamp": "nan"},
    {"webhook_id": "another"},
]


async def test_what_is_not_signed_is_refused(wire: Wire, records: Records) -> None:
    for fields in FORGERIES:
        status, _, body = await wire.exchange(request(b"{}", **fields))
        assert (status, json.loads(body)) == (401, {"error": "not verified"}), fields
    assert await records.value("SELECT count(*) FROM gateway.events") == 0


# Headers -----------------------------------------------------------------------------------------


ODD_FIELDS = [
    {"X_Note": "caf\xe9 \xff\x80"},
    {"traceparent": "00-" + "a" * 32 + "-" + "b" * 16 + "-01-\xff\xfe"},
    {"X_Correlation_ID": "\xff" * 20},
    {"X_Correlation_ID": "x" * 5000},
    {"Content_Type": "application/json; charset=klingon"},
    {"Content_Type": "\xff\xff"},
    {"Content_Encoding": "gzip, br, \xff"},
    {"User_Agent": "u" * 7000},
]


async def test_odd_headers_do_not_keep_a_webhook_out(wire: Wire, records: Records) -> None:
    for number, fields in enumerate(ODD_FIELDS):
        raw = request(b'{"type": "x"}', message_id=f"m{number}", **fields)
        status, answered, _ = await wire.exchange(raw)
        assert status == 202, fields
        assert answered["x-correlation-id"].isascii()
    await wire.vendor.called(len(ODD_FIELDS), path="/all")
    await records.until_states({"completed": len(ODD_FIELDS)})


ABSURD_HEADS = [
    b"X-Huge: " + b"h" * 100_000 + b"\r\n",
    b"".join(b"X-Many-%d: 1\r\n" % number for number in range(10_000)),
    b"N" * 100_000 + b": 1\r\n",
    b"Content-Length: 7\r\n",
    b"Content-Length: -1\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: chunked, gzip\r\n",
    b"No colon here\r\n",
    b"X-Null: a\x00b\r\n",
    b" folded: continuation\r\n",
    b"Bad Name: 1\r\n",
]


async def test_absurd_heads_get_a_4xx_or_a_closed_connection(wire: Wire, records: Records) -> None:
    for head in ABSURD_HEADS:
        raw = request(b"{}").replace(b"\r\n\r\n", b"\r\n" + head + b"\r\n", 1)
        await _refused_or_closed(wire, raw)
    assert await records.value("SELECT count(*) FROM gateway.events") == 0


GARBAGE = [
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 200,  # TLS
    b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
    b"\x00" * 4096 + b"\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"POST /webhooks/shop\r\n\r\n",
    b"POST /webhooks/shop HTTP/9.9\r\n\r\n",
    b"POST " + b"/" * 100_000 + b" HTTP/1.1\r\n\r\n",
    b"\r\n" * 1000 + b"X\r\n\r\n",
    b"GET http://[::1 HTTP/1.1\r\nHost: x\r\n\r\n",
    b"POST /webhooks/\xff\xfe HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n",
    b"POST /webhooks/shop%00 HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n",
    b"POST /webhooks/%ff%fe HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n",
    b"POST //evil.example/webhooks/shop HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n",
    b"CONNECT gateway:443 HTTP/1.1\r\nHost: x\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",
]


async def test_garbage_gets_a_4xx_or_a_closed_connection(wire: Wire) -> None:
    for raw in GARBAGE:
        await _refused_or_closed(wire, raw)
    assert wire.gateway.lines("request_unreadable")


async def test_a_query_of_any_bytes_is_taken_or_refused_but_no_fault(wire: Wire) -> None:
    for query in ("?a=%ff%00", "?\xff\xfe", "?" + "q" * 7000, "?a=%zz"):
        raw = request(b"{}", path="/webhooks/shop" + query, message_id=query[:10].strip("\xff\xfe"))
        await _answered_below_500(wire, raw)


# Ways and methods --------------------------------------------------------------------------------


async def test_unknown_vendors_and_paths_are_not_found_and_other_methods_not_allowed(
    wire: Wire,
) -> None:
    for path in ("/webhooks/nobody", "/webhooks/", "/", "/healthz", "/metrics", "/api/v1/jobs"):
        assert (await wire.exchange(request(b"{}", path=path)))[0] == 404
    for method in ("GET", "PUT", "DELETE", "PATCH", "OPTIONS", "PROPFIND"):
        status, fields, body = await wire.exchange(request(b"", method=method))
        assert (status, fields["allow"]) == (405, "POST")
        assert json.loads(body)["error"]


async def test_a_continue_is_given_when_the_body_is_wanted_and_only_then(
    wire: Wire, records: Records
) -> None:
    body = b'{"type": "expected"}'
    raw = request(body, Expect="100-continue")
    reader, writer = await wire.connect()
    writer.write(raw[: -len(body)])
    assert (await wire.answer(reader))[0] == 100
    writer.write(body)
    assert (await wire.answer(reader))[0] == 202
    writer.close()
    for refused, status in (
        (request(b"", length=10 << 30, Expect="100-continue"), 413),
        (request(b"", length=10, path="/webhooks/nobody", Expect="100-continue"), 404),
    ):
        assert (await wire.exchange(refused))[0] == status
    assert await records.value("SELECT count(*) FROM gateway.events") == 1


async def test_pipelined_requests_and_a_kept_connection_are_answered_in_order(wire: Wire) -> None:
    reader, writer = await wire.connect()
    writer.write(b"".join(request(b"{}", message_id=f"p{n}") for n in range(20)))
    ids = [json.loads((await wire.answer(reader))[2])["event_id"] for _ in range(20)]
    assert ids == sorted(set(ids))
    writer.close()


# Sizes and paces ---------------------------------------------------------------------------------


async def test_ten_gigabytes_announced_are_refused_without_reading_them(wire: Wire) -> None:
    began = time.monotonic()
    status, fields, _ = await wire.exchange(request(b"", length=10 << 30))
    assert status == 413
    assert fields["connection"] == "close"
    assert time.monotonic() - began < ANSWER_SECONDS / 2
    assert (await wire.exchange(request(b"", length=MAX_BODY + 1)))[0] == 413
    assert (await wire.exchange(request(b"x" * (MAX_BODY + 1))))[0] == 413
    assert (await wire.exchange(request(b"x" * MAX_BODY)))[0] == 202


async def test_ten_gigabytes_streamed_are_cut_off_in_bounded_memory(
    wire: Wire, records: Records
) -> None:
    before = _memory_kib(wire.gateway)
    _, writer = await wire.connect()
    head = request(b"", length=0).replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")
    writer.write(head)
    chunk = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
    sent = 0
    try:
        async with asyncio.timeout(30):
            while sent < 10 << 30:  # it does not get far: the connection is closed
                writer.write(chunk)
                await writer.drain()
                sent += len(chunk)
    except ConnectionError:
        pass
    finally:
        writer.close()
    assert sent < 10 << 30
    assert _memory_kib(wire.gateway) - before < MEMORY_KIB
    # One that stops in time hears why.
    assert (await wire.exchange(head + chunk * 2))[0] == 413
    assert await records.value("SELECT count(*) FROM gateway.events") == 0


async def test_a_body_that_comes_byte_by_byte_is_taken(wire: Wire, records: Records) -> None:
    raw = request(b'{"type": "slow"}')
    reader, writer = await wire.connect()
    for position in range(len(raw)):
        writer.write(raw[position : position + 1])
        await asyncio.sleep(0)
        await writer.drain()
    assert (await wire.answer(reader))[0] == 202
    chunked = request(b"", length=0, message_id="c", sign=False).replace(
        b"Content-Length: 0", b"Transfer-Encoding: chunked"
    )
    body = b'{"type": "chunked"}'
    fields = "".join(f"{n}: {v}\r\n" for n, v in signed(body, message_id="c").items()).encode()
    writer.write(chunked.replace(b"\r\n\r\n", b"\r\n" + fields + b"\r\n"))
    for byte in body:
        writer.write(b"1\r\n" + bytes([byte]) + b"\r\n")
    writer.write(b"0\r\n\r\n")
    assert (await wire.answer(reader))[0] == 202
    writer.close()


async def test_half_closed_and_abandoned_connections_leave_nothing_behind(
    wire: Wire, records: Records
) -> None:
    raw = request(b'{"type": "half"}')
    reader, writer = await wire.connect()
    writer.write(raw)
    writer.write_eof()
    await reader.read()  # an answer or not: whoever half-closes may have gone
    writer.close()
    for cut in (1, 20, raw.index(b"\r\n\r\n") + 4, len(raw) - 1):
        reader, writer = await wire.connect()
        writer.write(raw[:cut])
        await writer.drain()
        writer.close()
    for _ in range(50):
        _, writer = await wire.connect()
        assert isinstance(writer.transport, asyncio.Transport)
        writer.transport.abort()
    await wire.accepts()
    assert await records.value("SELECT count(*) FROM gateway.events") <= 2

    async def closed() -> bool:
        return _sockets(wire.gateway) <= 20

    await eventually(closed, what="no connection is left open")


async def _refused_or_closed(wire: Wire, raw: bytes) -> None:
    try:
        status, _, _ = await wire.exchange(raw)
    except (asyncio.IncompleteReadError, ConnectionError):
        return
    assert 400 <= status < 500


async def _answered_below_500(wire: Wire, raw: bytes) -> None:
    try:
        status, _, _ = await wire.exchange(raw)
    except (asyncio.IncompleteReadError, ConnectionError):
        return
    assert status < 500


def _memory_kib(gateway: Gateway) -> int:
    """Return the most memory that the process ever had resident."""
    text = Path(f"/proc/{gateway.pid}/status").read_text()
    return int(text.partition("VmHWM:")[2].split()[0])


def _sockets(gateway: Gateway) -> int:
    links: list[Any] = []
    for entry in Path(f"/proc/{gateway.pid}/fd").iterdir():
        try:
            links.append(entry.readlink())
        except FileNotFoundError:
            continue
    return len([link for link in links if str(link).startswith("socket:")])
