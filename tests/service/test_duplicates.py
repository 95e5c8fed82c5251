"""The same event again: on two nodes at the same instant, counted, shown, and for how long."""

import asyncio
import collections
import json
import os
import sys
from pathlib import Path
from typing import Any

from harness import Gateway, Records, Sender, Vendor, api, configure, get, route

EVENTS = 50
TIMES = 3  # on each node

BRIEF = '[vendors.brief.webhook]\nverify = "none"\ndedupe = "body:id"\ndedupe_window = "1h"\n'


async def test_two_nodes_given_the_same_event_at_the_same_instant_store_it_once(
    database_url: str, records: Records, tmp_path: Path
) -> None:
    async with Vendor() as crm:
        vendors = api("crm", crm.url) + route("order", 'call = "POST crm:/orders"')
        configs = [
            configure(tmp_path, database_url, node=node, vendors=vendors) for node in ("one", "two")
        ]
        async with Gateway(configs[0]) as one, Gateway(configs[1]) as two:
            async with Sender(lambda: one.public) as first, Sender(lambda: two.public) as second:
                statuses: collections.Counter[str] = collections.Counter()
                ids: dict[str, set[str]] = collections.defaultdict(set)

                async def send(sender: Sender, number: int) -> None:
                    receipt = await sender.send("order", message_id=f"m{number}")
                    statuses[f"{receipt.status} {receipt.json['duplicate']}"] += 1
                    ids[f"m{number}"].add(receipt.json["event_id"])

                for number in range(EVENTS):
                    await asyncio.gather(
                        *(send(sender, number) for _ in range(TIMES) for sender in (first, second))
                    )
            assert statuses == {"202 False": EVENTS, "200 True": EVENTS * (2 * TIMES - 1)}
            stored = await records.rows("SELECT id::text, dedupe_key FROM gateway.events")
            assert {row["dedupe_key"]: {row["id"]} for row in stored} == ids
            await records.until_states({"completed": EVENTS})
            assert len(crm.calls) == EVENTS
            assert len({call.key for call in crm.calls}) == EVENTS
            both = "".join([(await get(f"{node.admin}/metrics"))[1] for node in (one, two)])
            assert _summed(both, "duplicate") == EVENTS * (2 * TIMES - 1)
            assert _summed(both, "accepted") == EVENTS
            # The original event tells how often it came again.
            event_id = stored[0]["id"]
            shown = json.loads((await get(f"{one.admin}/api/v1/events/{event_id}"))[1])
            assert shown["duplicates"] == 2 * TIMES - 1
            printed = await _events_show(configs[0], event_id)
            assert printed["duplicates"] == 2 * TIMES - 1
            assert not one.faults() + two.faults()


async def test_each_sender_has_a_window_of_its_own(
    database_url: str, records: Records, tmp_path: Path
) -> None:
    config = configure(tmp_path, database_url, vendors=BRIEF, webhook='dedupe_window = "2d"')
    async with Gateway(config) as gateway, Sender(lambda: gateway.public) as sender:
        assert (await sender.send("order", message_id="m")).status == 202
        url = f"{gateway.public}/webhooks/brief"

        async def brief() -> tuple[int, dict[str, Any]]:
            async with sender._session.post(url, json={"id": "b"}) as answer:
                return answer.status, await answer.json()

        status, first = await brief()
        assert status == 202
        windows = await records.rows(
            "SELECT k.vendor, extract(epoch FROM k.expires_at - e.received_at)::float AS seconds"
            " FROM gateway.dedupe_keys k JOIN gateway.events e ON e.id = k.event_id"
        )
        kept = {row["vendor"]: round(row["seconds"] / 60) for row in windows}
        assert kept == {"brief": 60, "shop": 2 * 24 * 60}
        assert await brief() == (200, {**first, "jobs": 0, "duplicate": True})
        # An hour later, as the database tells the time.
        await records.value(
            "UPDATE gateway.dedupe_keys SET expires_at = expires_at - interval '61 minutes'"
        )
        status, later = await brief()
        assert (status, later["duplicate"]) == (202, False)
        assert later["event_id"] != first["event_id"]
        assert (await sender.send("order", message_id="m")).status == 200


def _summed(metrics: str, result: str) -> float:
    label = f'gateway_webhooks_total{{result="{result}",vendor="shop"}} '
    return sum(float(rest.split("\n")[0]) for rest in metrics.split(label)[1:])


async def _events_show(config: Path, event_id: str) -> dict[str, Any]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gateway", "events", "show", event_id, "--json"),
        *("--config", str(config)),
        env={**os.environ, "SHOP_SECRET": "whsec_" + "A" * 32},
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await process.communicate()
    shown: dict[str, Any] = json.loads(output)
    return shown
