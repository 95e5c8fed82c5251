"""SIGTERM: what runs may end, what cannot goes back uncounted, and nothing new comes in."""

import asyncio
import signal
import socket
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import pytest
from harness import (
    Gateway,
    Records,
    Sender,
    Vendor,
    api,
    configure,
    eventually,
    get,
    hang,
    ok,
    one_after_the_other,
    route,
    signed,
)

ORDERS = route("order", 'call = "POST crm:/orders"')


async def test_a_drain_lets_running_attempts_end_and_takes_nothing_new(
    database_url: str, records: Records, tmp_path: Path
) -> None:
    async with Vendor(hang) as crm:
        vendors = api("crm", crm.url, "concurrency = 4") + ORDERS
        config = configure(tmp_path, database_url, drain="20s", vendors=vendors)
        async with Gateway(config) as gateway, Sender(lambda: gateway.public) as sender:
            for _ in range(200):
                assert (await sender.send("order")).status == 202
            await crm.called(4)
            slow = await _begin_webhook(gateway)
            gateway.signal(signal.SIGTERM)
            await gateway.logged("drain_began")
            with pytest.raises(aiohttp.ClientConnectorError):
                await get(gateway.public)
            await eventually(lambda: _is_unready(gateway))
            assert (await get(f"{gateway.admin}/healthz"))[0] == 200
            assert b"202" in await _end_webhook(*slow), "it was under way when the drain began"
            await gateway.logged("attempts_awaited", attempts=4)
            crm.released.set()
            assert await gateway.ended() == 0
            assert len(crm.calls) == 4, "what only waited in memory is left to the next process"
            assert await records.states() == {"completed": 4, "available": 197}
            waiting = [job for job in await records.jobs() if job["state"] == "available"]
            assert {(job["attempt"], job["node"]) for job in waiting} == {(0, None)}
            assert await records.value("SELECT count(*) FROM gateway.nodes") == 0
            assert not gateway.faults()

            await gateway.start()
            await records.until_states({"completed": 201})
            assert {job["attempt"] for job in await records.jobs()} == {1}
            assert len(crm.calls) == 201


async def test_what_takes_longer_than_the_drain_is_released_uncounted_and_run_by_the_next(
    database_url: str, records: Records, tmp_path: Path
) -> None:
    async with Vendor(one_after_the_other(hang, hang, ok)) as crm:
        vendors = api("crm", crm.url, 'timeout = "60s"') + ORDERS
        config = configure(tmp_path, database_url, drain="1s", vendors=vendors)
        async with Gateway(config) as gateway, Sender(lambda: gateway.public) as sender:
            for _ in range(2):
                assert (await sender.send("order")).status == 202
            await crm.called(2)
            gateway.signal(signal.SIGTERM)
            assert await gateway.ended() == 0
            assert gateway.lines("attempts_cut_short")[0]["attempts"] == 2
            jobs = await records.jobs()
            assert [(job["state"], job["attempt"], job["node"]) for job in jobs] == [
                ("available", 0, None),
                ("available", 0, None),
            ]
            assert await records.value("SELECT count(*) FROM gateway.attempts") == 0
            await gateway.start()
            await records.until_states({"completed": 2})
            assert {job["attempt"] for job in await records.jobs()} == {1}


async def test_a_second_signal_ends_at_once_and_loses_nothing(
    database_url: str, records: Records, tmp_path: Path
) -> None:
    async with Vendor(one_after_the_other(hang, hang, ok)) as crm:
        vendors = api("crm", crm.url, 'timeout = "60s"') + ORDERS
        config = configure(tmp_path, database_url, drain="60s", vendors=vendors)
        async with Gateway(config) as gateway, Sender(lambda: gateway.public) as sender:
            for _ in range(2):
                assert (await sender.send("order")).status == 202
            await crm.called(2)
            gateway.signal(signal.SIGTERM)
            await gateway.logged("drain_began")
            gateway.signal(signal.SIGTERM)
            assert await gateway.ended(seconds=5) == 128 + signal.SIGTERM
            assert gateway.lines("ended_at_once")
            await gateway.start()
            await records.until_states({"completed": 2})


async def test_a_slot_that_waits_for_its_turn_does_not_hold_up_the_drain(
    database_url: str, records: Records, tmp_path: Path
) -> None:
    async with Vendor() as crm:
        vendors = api("crm", crm.url, 'rate = "1/h"') + ORDERS
        config = configure(tmp_path, database_url, drain="60s", vendors=vendors)
        async with Gateway(config) as gateway, Sender(lambda: gateway.public) as sender:
            for _ in range(5):
                assert (await sender.send("order")).status == 202
            await crm.called(1)
            gateway.signal(signal.SIGTERM)
            assert await gateway.ended(seconds=20) == 0
            assert not gateway.lines("attempts_cut_short")
            assert await records.states() == {"completed": 1, "available": 4}


async def test_a_handler_may_clean_up_when_the_drain_cuts_it_short(
    database_url: str, records: Records, tmp_path: Path
) -> None:
    async with Vendor() as crm:
        vendors = api("crm", crm.url) + route("stubborn", 'handler = "handlers:stubborn"')
        config = configure(tmp_path, database_url, drain="1s", vendors=vendors)
        async with Gateway(config) as gateway, Sender(lambda: gateway.public) as sender:
            assert (await sender.send("stubborn")).status == 202
            await crm.called(1, path="/began")
            gateway.signal(signal.SIGTERM)
            assert await gateway.ended() == 0
            assert [call.path for call in crm.calls] == ["/began", "/tidied"]
            job = (await records.jobs())[0]
            assert (job["state"], job["attempt"]) == ("available", 0)
            assert not gateway.faults()


async def _begin_webhook(
    gateway: Gateway,
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, bytes]:
    """Send the head and half of the body of a webhook; return what is left of it."""
    body = b'{"type": "order", "slow": true}'
    address = urlsplit(gateway.public)
    reader, writer = await asyncio.open_connection(
        address.hostname, address.port, family=socket.AF_INET
    )
    fields = {**signed(body, message_id="slow"), "Host": "x", "Content-Length": str(len(body))}
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    # The gateway says when it has begun.
    writer.write(f"POST /webhooks/shop HTTP/1.1\r\nExpect: 100-continue\r\n{head}\r\n".encode())
    async with asyncio.timeout(10):
        assert b" 100 " in await reader.readuntil(b"\r\n\r\n")
    writer.write(body[:10])
    return reader, writer, body[10:]


async def _end_webhook(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, rest: bytes
) -> bytes:
    writer.write(rest)
    try:
        async with asyncio.timeout(10):
            return await reader.readline()
    finally:
        writer.close()


async def _is_unready(gateway: Gateway) -> bool:
    return (await get(f"{gateway.admin}/readyz"))[0] == 503
