"""The database stands still: senders hear 503 in time, and what they send again is there once."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from harness import Gateway, Records, Sender, Vendor, api, configure, eventually, get, route

WEBHOOKS = 40
ANSWER_WITHIN = "600ms"
# What a busy machine may add; without a bound the answer would take a statement's 15 s.
BOUND_SECONDS = 8.0

Stall = Callable[[str], Any]


@asynccontextmanager
async def locked(url: str) -> AsyncIterator[None]:
    """Somebody holds a lock on what every webhook writes."""
    connection = await asyncpg.connect(url)
    try:
        async with connection.transaction():
            await connection.execute("LOCK TABLE gateway.dedupe_keys IN ACCESS EXCLUSIVE MODE")
            yield
    finally:
        await connection.close()


@asynccontextmanager
async def stopped(url: str) -> AsyncIterator[None]:
    """The server's processes that serve us stand still, in the middle of whatever they do."""
    connection = await asyncpg.connect(url)
    pids: list[int] = []
    try:
        rows = await connection.fetch(
            "SELECT pid FROM pg_stat_activity WHERE datname = current_database()"
            " AND application_name = 'integration-gateway'"
        )
        served = [row["pid"] for row in rows]
        # Their parent first, or it would make new ones.
        pids = sorted({_parent(pid) for pid in served}) + served
        assert served
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
        await connection.close()


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/status").read_text().partition("PPid:")[2].split()[0])


@pytest.mark.parametrize("stall", [locked, stopped])
async def test_a_webhook_that_heard_503_is_there_once_when_it_comes_again(
    stall: Stall, database_url: str, records: Records, tmp_path: Path
) -> None:
    async with Vendor() as crm:
        config = configure(
            tmp_path,
            database_url,
            lease="60s",
            vendors=api("crm", crm.url) + route("order", 'call = "POST crm:/orders"'),
            webhook=f'answer_within = "{ANSWER_WITHIN}"',
        )
        async with (
            Gateway(config) as gateway,
            Sender(lambda: gateway.public, timeout_seconds=60) as sender,
        ):
            assert (await sender.send("order", message_id="before")).status == 202
            async with stall(database_url):
                began = time.monotonic()
                # Two waves: what the stalled flush holds, and what waits behind it.
                first = asyncio.create_task(sender.send("order", message_id="w0"))
                await eventually(lambda: _under_way(gateway, 1))
                rest = [sender.send("order", message_id=f"w{n}") for n in range(1, WEBHOOKS)]
                answers = [await first, *await asyncio.gather(*rest)]
                assert {answer.status for answer in answers} == {503}
                assert {answer.headers["Retry-After"] for answer in answers} == {"5"}
                assert time.monotonic() - began < BOUND_SECONDS
                # Many send again while it still stands still; that makes no second one either.
                again = await asyncio.gather(
                    *[sender.send("order", message_id=f"w{n}") for n in range(0, WEBHOOKS, 2)]
                )
                assert {answer.status for answer in again} == {503}
            async with asyncio.timeout(60):
                await asyncio.gather(
                    *[sender.deliver("order", message_id=f"w{n}") for n in range(WEBHOOKS)]
                )
            await records.until_states({"completed": WEBHOOKS + 1}, seconds=60)
            events = await records.rows("SELECT id::text, dedupe_key FROM gateway.events")
            assert len(events) == WEBHOOKS + 1
            assert {event["dedupe_key"]: event["id"] for event in events} == {
                key: receipt.json["event_id"] for key, receipt in sender.receipts.items()
            }
            jobs = {str(job["id"]) for job in await records.jobs()}
            assert len(jobs) == WEBHOOKS + 1
            assert {call.key for call in crm.calls} == jobs
            assert not gateway.faults(), gateway.faults()[0]


async def _under_way(gateway: Gateway, requests: int) -> bool:
    _, text = await get(f"{gateway.admin}/metrics")
    return f"gateway_requests_under_way {requests}.0" in text
