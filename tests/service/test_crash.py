"""SIGKILL at any moment: what was acknowledged is stored once, and delivered."""

import asyncio
import json
import random
from pathlib import Path

from harness import Gateway, Records, Sender, Vendor, api, configure, eventually, route

SENDERS = 8
WEBHOOKS = 3000
KILLS = 5


async def test_what_was_acknowledged_survives_every_kill(
    database_url: str, records: Records, tmp_path: Path
) -> None:
    moments = random.Random(7)
    async with Vendor() as crm:
        config = configure(
            tmp_path,
            database_url,
            vendors=api("crm", crm.url, "concurrency = 16")
            + route("order", 'call = "POST crm:/orders"'),
        )
        async with Gateway(config) as gateway, Sender(lambda: gateway.public) as sender:
            async with asyncio.TaskGroup() as group:
                for number in range(SENDERS):
                    group.create_task(_send_all(sender, number))
                for kill in range(1, KILLS + 1):
                    # In the middle of the load, at no moment that anything else knows about.
                    enough = kill * WEBHOOKS // (KILLS + 1) + moments.randrange(100)
                    await eventually(lambda enough=enough: _reached(sender, enough), seconds=60)
                    await gateway.kill()
                    await gateway.start()
            await _prove_nothing_lost(sender, crm, records)
            assert not gateway.faults(), json.dumps(gateway.faults()[0], indent=1)


async def _send_all(sender: Sender, number: int) -> None:
    for count in range(WEBHOOKS // SENDERS):
        await sender.deliver("order", message_id=f"msg-{number}-{count}")


async def _reached(sender: Sender, count: int) -> bool:
    return len(sender.receipts) >= count


async def _prove_nothing_lost(sender: Sender, vendor: Vendor, records: Records) -> None:
    assert len(sender.receipts) == WEBHOOKS // SENDERS * SENDERS
    await records.until_states({"completed": len(sender.receipts)}, seconds=60)

    events = await records.rows("SELECT id::text, dedupe_key FROM gateway.events")
    assert len(events) == len({event["dedupe_key"] for event in events}) == len(sender.receipts)
    stored = {event["dedupe_key"]: event["id"] for event in events}
    told = {key: receipt.json["event_id"] for key, receipt in sender.receipts.items()}
    assert stored == told

    jobs = await records.rows("SELECT id::text, event_id::text FROM gateway.jobs")
    assert sorted(job["event_id"] for job in jobs) == sorted(stored.values())
    delivered = {json.loads(call.body)["n"] for call in vendor.calls}
    assert delivered == stored.keys()
    assert {call.key for call in vendor.calls} == {job["id"] for job in jobs}
    recorded = await records.value(
        "SELECT count(DISTINCT job_id) FROM gateway.attempts WHERE outcome = 'completed'"
    )
    assert recorded == len(jobs)
