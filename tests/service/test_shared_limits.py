"""Three gateways on one database call a vendor no oftener than one may, whoever has the load."""

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path

from harness import Gateway, Records, Sender, Vendor, api, configure, route

RATE = 20
# A window as the stub sees it is a little shorter than a second: it shares two cores with three
# gateways and a database, and takes the time of a call when it comes to it.
WINDOW_SECONDS = 0.95


def assert_law(arrivals: Sequence[float]) -> None:
    for first, last in zip(arrivals, arrivals[RATE:], strict=False):
        assert last - first > WINDOW_SECONDS, f"{RATE + 1} calls within {last - first:.3f} s"


def used(arrivals: Sequence[float], since: float, until: float) -> float:
    return sum(1 for at in arrivals if since <= at < until) / (RATE * (until - since))


async def test_the_limit_holds_and_is_used_by_one_node_by_three_and_through_a_crash(
    database_url: str, records: Records, tmp_path: Path
) -> None:
    async with Vendor() as crm:
        vendors = api("crm", crm.url, f'rate = "{RATE}/s"\nconcurrency = 4') + route(
            "order", 'call = "POST crm:/orders"'
        )
        one, two, three = (
            Gateway(configure(tmp_path / name, database_url, node=name, vendors=vendors))
            for name in ("one", "two", "three")
        )
        async with one, two, three:

            async def load(gateway: Gateway, webhooks: int) -> None:
                async with Sender(lambda: gateway.public) as sender:
                    await asyncio.gather(*(sender.send("order") for _ in range(webhooks)))

            def arrivals() -> list[float]:
                return [call.at for call in crm.calls]

            # All load on one of three.
            await load(one, 160)
            await crm.called(20)
            began = time.monotonic()
            await crm.called(150)
            alone = used(arrivals(), began, time.monotonic())

            # On all of them; one is killed amid its calls, and comes back.
            for gateway in (one, two, three):
                await load(gateway, 140)
            await crm.called(240)
            began = time.monotonic()
            await crm.called(360)
            together = used(arrivals(), began, time.monotonic())
            await two.kill()
            await two.start()
            await load(two, 80)
            began = time.monotonic()
            await crm.called(480)
            after = used(arrivals(), began, time.monotonic())

        times = arrivals()
        assert_law(times)
        assert min(alone, together, after) >= 0.9
        assert one.faults() == two.faults() == three.faults() == []
