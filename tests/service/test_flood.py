"""A flood on one sender's path: it is turned away, and another sender's webhooks all get in.

Judged by counts and states; benchmarks/ has the latencies (``--only flood``).
"""

import asyncio
import collections
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import aiohttp
import pytest
from harness import Gateway, Records, Sender, configure, eventually, get, signed

WEBHOOKS = 150  # of the sender that behaves
CONNECTIONS = 24  # of the flood
LEAST = 300  # answers the flood must have had for a test to count

FLOODED = """
[vendors.noisy.webhook]
verify = "standard-webhooks"
secrets = ["env:SHOP_SECRET"]
max_body = "256KiB"
{more}
"""


@contextlib.asynccontextmanager
async def flooded(
    gateway: Gateway, headers_and_body: Callable[[int], tuple[dict[str, str], bytes]]
) -> AsyncIterator[collections.Counter[int]]:
    """Send to ``noisy`` over many connections, as fast as it answers, until the block ends."""
    statuses: collections.Counter[int] = collections.Counter()
    url = f"{gateway.public}/webhooks/noisy"
    over = asyncio.Event()

    async def send(session: aiohttp.ClientSession, first: int) -> None:
        number = first
        while not over.is_set() or statuses.total() < LEAST:
            number += CONNECTIONS
            headers, body = headers_and_body(number)
            with contextlib.suppress(aiohttp.ClientError, OSError):
                async with session.post(url, data=body, headers=headers) as answer:
                    await answer.read()
                    statuses[answer.status] += 1

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        senders = [asyncio.create_task(send(session, n)) for n in range(CONNECTIONS)]
        try:
            yield statuses
        finally:
            over.set()
            async with asyncio.timeout(60):
                await asyncio.gather(*senders)


def in_order(number: int) -> tuple[dict[str, str], bytes]:
    body = json.dumps({"type": "noise", "n": number}).encode()
    return signed(body, message_id=f"noise_{number}"), body


def badly_signed(number: int) -> tuple[dict[str, str], bytes]:
    headers, body = in_order(number)
    return headers, body.replace(b"noise", b"forge")


def large(number: int) -> tuple[dict[str, str], bytes]:
    body = b'{"type": "noise", "n": %d, "x": "%b"}' % (number, b"x" * (200 << 10))
    return signed(body, message_id=f"large_{number}"), body


def too_large(_: int) -> tuple[dict[str, str], bytes]:
    return {}, b"x" * (300 << 10)


# what floods → the settings of its path, and the answers that it may get
FLOODS = {
    "throttled": (in_order, 'rate = "5/s"\nburst = 5', {202, 429}),
    "badly signed": (badly_signed, "", {401}),
    "badly signed and throttled": (badly_signed, 'rate = "5/s"\nburst = 5', {401, 429}),
    "large": (large, 'rate = "20/s"\nburst = 5', {202, 429}),
    "too large": (too_large, "", {413}),
    "more at once than it may": (large, "concurrency = 2", {202, 503}),
}


@pytest.mark.parametrize("kind", FLOODS)
async def test_a_flood_on_one_path_keeps_nothing_of_another_out(
    kind: str, database_url: str, records: Records, tmp_path: Path
) -> None:
    make, more, expected = FLOODS[kind]
    config = configure(tmp_path, database_url, vendors=FLOODED.format(more=more))
    async with (
        Gateway(config) as gateway,
        Sender(lambda: gateway.public) as sender,
    ):
        async with flooded(gateway, make) as statuses:
            began = time.time()
            for number in range(WEBHOOKS):
                receipt = await sender.send("order", message_id=f"order_{number}")
                # 429 or 503 would be the flood's doing; and nothing is put off, nothing lost.
                assert receipt.status == 202, (number, receipt.json)
        assert set(statuses) <= expected, statuses
        assert statuses.total() >= LEAST
        stored = await records.rows(
            "SELECT vendor, count(*) AS events FROM gateway.events GROUP BY vendor"
        )
        by_vendor = {row["vendor"]: row["events"] for row in stored}
        assert by_vendor.pop("shop") == WEBHOOKS
        assert sum(by_vendor.values()) == statuses[202]
        if "rate" in more:
            seconds = time.time() - began
            assert statuses[429] > 0
            per_second = int(more.partition('"')[2].partition("/")[0])
            assert statuses[202] <= 5 + per_second * (seconds + 1)
        _, text = await get(f"{gateway.admin}/metrics")
        for status, result in ((429, "throttled"), (413, "too_large"), (503, "overloaded")):
            line = f'gateway_webhooks_total{{result="{result}",vendor="noisy"}} '
            counted = float(text.partition(line)[2].split("\n")[0] or 0)
            # An answer may be lost with its connection while its body is still being sent.
            assert counted >= statuses[status], (status, counted, statuses)
        for result in ("throttled", "overloaded", "unavailable", "unverified"):
            assert f'gateway_webhooks_total{{result="{result}",vendor="shop"}}' not in text
        assert not gateway.faults(), gateway.faults()[0]


async def test_bodies_that_never_end_take_only_their_own_senders_room(
    database_url: str, tmp_path: Path
) -> None:
    config = configure(
        tmp_path, database_url, vendors=FLOODED.format(more=""), server="concurrency = 20"
    )
    async with (
        Gateway(config) as gateway,
        Sender(lambda: gateway.public) as sender,
    ):
        host, _, port = gateway.public.removeprefix("http://").rpartition(":")
        head = b"POST /webhooks/noisy HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nslow"
        slow = []
        for _ in range(10):  # half of 20
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(head)
            slow.append((reader, writer))

        async def all_wait() -> bool:
            _, text = await get(f"{gateway.admin}/metrics")
            return "gateway_requests_under_way 10.0" in text

        await eventually(all_wait)
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(head)
        async with asyncio.timeout(10):
            assert b" 503 " in await reader.readuntil(b"\r\n")
        writer.close()
        for number in range(20):
            assert (await sender.send("order", message_id=f"o{number}")).status == 202
        # Those that are slow have lost nothing either: whoever ends his body is answered.
        reader, writer = slow[0]
        writer.write(b"x" * 996)
        async with asyncio.timeout(10):
            assert b" 401 " in await reader.readuntil(b"\r\n")
        for _, writer in slow:
            writer.close()
