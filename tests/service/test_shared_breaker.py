"""Two gateways on one database: what one finds of a vendor, the other knows without a call."""

from pathlib import Path
from typing import Any

from harness import (
    Gateway,
    Records,
    Sender,
    Vendor,
    api,
    broken,
    configure,
    eventually,
    get,
    ok,
    route,
    status,
)
from operating import command, get_json, post

CALL = 'call = "POST crm:/orders"'
BREAKER = 'breaker = { failures = 3, window = "1m", cooldown = "10m" }\nconcurrency = 1'
RETRY = 'retry = { base = "1ms", cap = "1ms" }'


async def listed(config: Path) -> dict[str, Any]:
    """Return what ``gateway vendors list`` says of the vendor."""
    rows = await command(config, "vendors", "list")
    return next(row for row in rows if row["name"] == "crm")


async def shown(gateway: Gateway) -> dict[str, Any]:
    """Return what the API of *gateway* says of the vendor."""
    vendors = (await get_json(f"{gateway.admin}/api/v1/vendors"))["vendors"]
    return next(vendor for vendor in vendors if vendor["name"] == "crm")


async def metric(gateway: Gateway, name: str) -> float | None:
    text = (await get(f"{gateway.admin}/metrics"))[1]
    for line in text.splitlines():
        if line.startswith(f"{name} "):
            return float(line.rpartition(" ")[2])
    return None


async def test_a_breaker_that_opens_on_one_gateway_parks_the_vendor_on_the_other_without_a_call(
    database_url: str, records: Records, tmp_path: Path
) -> None:
    async with Vendor(broken) as crm:
        vendors = api("crm", crm.url, f"{BREAKER}\n{RETRY}") + route("order", CALL)
        configs = [
            configure(tmp_path / name, database_url, node=name, vendors=vendors)
            for name in ("one", "two")
        ]
        one, two = (Gateway(config) for config in configs)
        async with one, Sender(lambda: one.public) as to_one:
            await to_one.send("order")
            await crm.called(3)
            moved = await one.logged("breaker_moved", vendor="crm", after="open")
            assert (moved["before"], moved["told"]) == ("closed", False)
            async with two, Sender(lambda: two.public) as to_two:
                told = await two.logged("breaker_moved", vendor="crm", after="open")
                assert (told["before"], told["told"]) == ("closed", True)
                for _ in range(5):
                    assert (await to_two.send("order")).status == 202
                # Its lane holds none of them: they wait where any node finds them.
                await records.until_states({"available": 6})
                assert len(crm.calls) == 3

                assert (await listed(configs[1]))["breaker"] == "open"
                for gateway in (one, two):
                    vendor = await shown(gateway)
                    assert vendor["breaker"] == "open"
                    assert vendor["parked_seconds"] > 500
                    assert await metric(gateway, 'gateway_breaker_state{vendor="crm"}') == 2.0
                    transitions = 'gateway_breaker_transitions_total{state="open",vendor="crm"}'
                    assert await metric(gateway, transitions) == 1.0

                # An operator who resumes it on one has both call again, now.
                crm.answer = ok
                _, resumed = await post(f"{two.admin}/api/v1/vendors/crm/resume")
                assert resumed["changed"]
                await two.logged("breaker_moved", vendor="crm", after="closed")
                await one.logged("breaker_moved", vendor="crm", after="closed")
                await records.until_states({"completed": 6})
                assert (await listed(configs[1]))["breaker"] == "closed"
                assert await metric(one, 'gateway_breaker_state{vendor="crm"}') == 0.0
                assert one.faults() == two.faults() == []


async def test_a_handler_probes_for_its_lane_and_ends_the_trouble(
    database_url: str, records: Records, tmp_path: Path
) -> None:
    """Its job must not take the probe that its own call then needs."""
    async with Vendor(broken) as crm:
        vendors = api(
            "crm",
            crm.url,
            'breaker = { failures = 1, cooldown = "1s" }\nretry = { base = "1ms", cap = "1ms" }',
        ) + route("order", 'handler = "handlers:innocent"\nlane = "crm"')
        config = configure(tmp_path, database_url, vendors=vendors)
        async with Gateway(config) as gateway, Sender(lambda: gateway.public) as sender:
            await sender.send("order")
            await gateway.logged("breaker_moved", after="open")
            crm.answer = ok
            await gateway.logged("breaker_moved", after="closed")
            await records.until_states({"completed": 1})


async def test_what_our_own_guard_stops_opens_no_breaker(
    database_url: str, records: Records, tmp_path: Path
) -> None:
    vendors = api("crm", "http://169.254.169.254", "breaker = { failures = 1 }") + route(
        "order", CALL
    )
    config = configure(tmp_path, database_url, vendors=vendors)
    async with Gateway(config) as gateway, Sender(lambda: gateway.public) as sender:
        for _ in range(3):
            await sender.send("order")
        await records.until_states({"dead": 3})
        assert gateway.lines("breaker_moved") == []
        assert (await shown(gateway))["breaker"] == "closed"
        assert not gateway.faults()


async def test_a_resumed_vendor_is_called_before_its_retry_after_is_over(
    database_url: str, records: Records, tmp_path: Path
) -> None:
    async with Vendor(status(429, Retry_After="3600")) as crm:
        vendors = api("crm", crm.url, "concurrency = 1") + route("order", CALL)
        configs = [
            configure(tmp_path / name, database_url, node=name, vendors=vendors)
            for name in ("one", "two")
        ]
        one, two = (Gateway(config) for config in configs)
        async with one, two, Sender(lambda: one.public) as sender:
            await sender.send("order")
            await crm.called(1)

            async def parked() -> bool:
                views = [await shown(gateway) for gateway in (one, two)]
                return min(view["parked_seconds"] for view in views) > 3000

            await eventually(parked, what="both gateways leave the vendor alone")
            await sender.send("order")
            await records.until_states({"scheduled": 1, "available": 1})
            assert (await listed(configs[1]))["parked_until"] is not None
            crm.answer = ok
            (resumed,) = await command(configs[1], "vendors", "resume", "crm")
            assert resumed["changed"]
            await one.logged("vendor_unparked", vendor="crm")
            await two.logged("vendor_unparked", vendor="crm")
            await records.until_states({"completed": 2})
            assert (await listed(configs[1]))["parked_until"] is None
            assert one.faults() == two.faults() == []
