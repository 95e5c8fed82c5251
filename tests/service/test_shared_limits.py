"""Three gateways on one database call a vendor no oftener than one may, whoever has the load."""

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path

from aiohttp import web
from harness import (
    Answer,
    Call,
    Gateway,
    Records,
    Sender,
    Vendor,
    api,
    configure,
    eventually,
    get,
    ok,
    one_after_the_other,
    route,
    status,
)
from timed import TimedVendor

RATE = 20
# How late a gateway may be in writing a call whose turn has come: it shares two cores with two more
# and a database, and the first call of a span may be the late one. Its own windows are longer by as
# much again, so twice this must pass between its look at the clock and its write before the law
# could seem broken. When a call arrived is known exactly; the law itself is proved in virtual time.
LATE_SECONDS = 0.05
SPANS = range(1, 6)


def assert_law(arrivals: Sequence[float]) -> None:
    for seconds in SPANS:
        for first, last in zip(arrivals, arrivals[seconds * RATE :], strict=False):
            assert last - first > seconds - LATE_SECONDS, (
                f"{seconds * RATE + 1} calls within {last - first:.3f} s"
            )


def used(arrivals: Sequence[float], since: float, until: float) -> float:
    return sum(1 for at in arrivals if since <= at < until) / (RATE * (until - since))


async def test_the_limit_holds_and_is_used_by_one_node_by_three_and_through_a_crash(
    database_url: str, records: Records, tmp_path: Path
) -> None:
    with TimedVendor() as crm:
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

            # All load on one of three.
            await load(one, 160)
            await crm.called(20)
            began = time.monotonic()
            await crm.called(150)
            alone = used(crm.arrivals, began, time.monotonic())

            # On all of them; one is killed amid its calls, and comes back.
            for gateway in (one, two, three):
                await load(gateway, 140)
            await crm.called(240)
            began = time.monotonic()
            await crm.called(360)
            together = used(crm.arrivals, began, time.monotonic())
            await two.kill()
            await two.start()
            await load(two, 160)
            began = time.monotonic()
            await crm.called(len(crm.arrivals) + 120)  # starting it may have taken long
            after = used(crm.arrivals, began, time.monotonic())

        assert_law(crm.arrivals)
        assert min(alone, together, after) >= 0.9
        assert one.faults() == two.faults() == three.faults() == []


def throttles_for(seconds: int) -> Answer:
    """Answer the first call 429, and every other one 200."""
    return one_after_the_other(status(429, Retry_After=str(seconds)), ok)


async def test_a_vendor_that_asks_one_node_for_patience_is_left_alone_by_all(
    database_url: str, records: Records, tmp_path: Path
) -> None:
    async with Vendor(throttles_for(4)) as crm:
        vendors = api("crm", crm.url, "concurrency = 1") + route(
            "order", 'call = "POST crm:/orders"'
        )
        one, two = (
            Gateway(configure(tmp_path / name, database_url, node=name, vendors=vendors))
            for name in ("one", "two")
        )
        async with one, two, Sender(lambda: one.public) as sender:
            await sender.send("order")
            (first,) = await crm.called(1)

            async def told() -> bool:
                return bool(
                    await records.value(
                        "SELECT parked_until > now() FROM gateway.vendor_state WHERE vendor = 'crm'"
                    )
                )

            async def parked() -> bool:
                text = (await get(f"{two.admin}/metrics"))[1]
                return 'gateway_lane_parked{vendor="crm"} 1.0' in text

            await eventually(told, what="the wish in the database")
            await eventually(parked, what="the other node's lane parked")
            async with Sender(lambda: two.public) as other:
                await asyncio.gather(*(other.send("order") for _ in range(5)))
            calls = await crm.called(7)
            assert min(call.at for call in calls[1:]) >= first.at + 4.0
            await records.until_states({"completed": 6})


async def test_a_vendor_whose_quota_is_used_up_is_not_called_into_a_429(
    database_url: str, records: Records, tmp_path: Path
) -> None:
    answered: list[float] = []

    async def strict(vendor: Vendor, call: Call) -> web.StreamResponse:
        """Five calls in two seconds; says how many are left."""
        recent = [at for at in answered if at > call.at - 2.0]
        if len(recent) >= 5:
            return web.Response(status=429)
        answered.append(call.at)
        left = 4 - len(recent)
        return web.Response(headers={"X-Left": str(left), "X-Back": "2000"})

    quota = 'quota = { remaining = "X-Left", reset = "X-Back", unit = "milliseconds" }'
    async with Vendor(strict) as crm:
        vendors = api("crm", crm.url, f"concurrency = 1\n{quota}") + route(
            "order", 'call = "POST crm:/orders"'
        )
        config = configure(tmp_path, database_url, vendors=vendors)
        async with Gateway(config) as gateway, Sender(lambda: gateway.public) as sender:
            await asyncio.gather(*(sender.send("order") for _ in range(12)))
            await records.until_states({"completed": 12})
            assert len(crm.calls) == 12  # no attempt was spent on a 429
