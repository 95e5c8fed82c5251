"""More comes than can be stored: the rest is refused while the others wait, and nothing is lost."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import asyncpg
from harness import Gateway, Receipt, Records, Sender, Vendor, api, configure, get, route

UNDER_WAY, SENT = 8, 60


async def test_what_cannot_be_taken_in_is_refused_at_once_and_the_rest_is_delivered(
    tmp_path: Path, database_url: str, records: Records
) -> None:
    holder: Any = await asyncpg.connect(database_url)
    answers: list[Receipt] = []
    refused = asyncio.Event()

    async with Vendor() as vendor:
        config = configure(
            tmp_path,
            database_url,
            server=f"concurrency = {UNDER_WAY}",
            webhook=f"concurrency = {UNDER_WAY}",
            vendors=api("crm", vendor.url) + route("sale", 'call = "POST crm:/sales"'),
        )
        async with Gateway(config) as gateway, Sender(lambda: gateway.public) as sender:
            await holder.execute("BEGIN; LOCK TABLE gateway.dedupe_keys IN ACCESS EXCLUSIVE MODE")

            async def send() -> None:
                answers.append(await sender.send("sale"))
                if len(answers) == SENT - UNDER_WAY:
                    refused.set()

            sending = [asyncio.create_task(send()) for _ in range(SENT)]
            async with asyncio.timeout(30):
                await refused.wait()  # while the database takes nothing
            for receipt in answers:
                assert receipt.status == 503
                assert int(receipt.headers["Retry-After"]) >= 1
                assert receipt.headers["X-Correlation-ID"]
            await holder.execute("ROLLBACK")
            await asyncio.gather(*sending)

            assert [receipt.status for receipt in answers].count(202) == UNDER_WAY
            await vendor.called(UNDER_WAY)
            await records.until_states({"completed": UNDER_WAY})
            assert await records.value("SELECT count(*) FROM gateway.events") == UNDER_WAY

            assert (await sender.send("sale")).status == 202  # it is over
            _, text = await get(f"{gateway.admin}/metrics")
            refusals = SENT - UNDER_WAY
            assert (
                f'gateway_webhooks_total{{result="overloaded",vendor="shop"}} {refusals}.0' in text
            )
            assert gateway.faults() == []
    await holder.close()
