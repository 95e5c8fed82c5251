"""Replays and pauses in the real process: once each across a SIGKILL, live traffic first, and
what an operator paused stays paused on every node and after every restart."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from aiohttp import web
from harness import (
    Call,
    Gateway,
    Records,
    Sender,
    Vendor,
    api,
    configure,
    eventually,
    ok,
    route,
)
from operating import command, get_json, post

CALL = 'call = "POST crm:/orders"'


async def put_dead(records: Records, count: int, *, name: str = "order") -> None:
    """Store *count* dead letters of a route, each with an event of its own."""
    await records.value(
        """WITH made AS (
               INSERT INTO gateway.events (id, vendor, event_type, correlation_id, headers, body,
                                           received_at)
               SELECT gateway.uuid7(), 'shop', $2, 'c', '{"content-type": "application/json"}',
                      '{"old": true}', now()
               FROM generate_series(1, $1)
               RETURNING id
           )
           INSERT INTO gateway.jobs (id, event_id, route, vendor, kind, state, max_attempts,
                                     correlation_id, node)
           SELECT gateway.uuid7(), id, $2, 'crm', 'call', 'running', 3, 'c', 'past' FROM made""",
        count,
        name,
    )
    await records.value(
        """UPDATE gateway.jobs SET state = 'dead', finished_at = now(), last_status = 500,
                  last_error = 'HTTP 500'
           WHERE node = 'past' AND state = 'running'"""
    )


class Counting(Vendor):
    """Knows how many of its calls wait for an answer."""

    hanging = 0


async def hang(vendor: Vendor, call: Call) -> web.StreamResponse:
    assert isinstance(vendor, Counting)
    vendor.hanging += 1
    await vendor.released.wait()
    vendor.hanging -= 1
    return web.Response(text="at last")


def old(calls: Iterable[Any]) -> int:
    return sum(b"old" in call.body for call in calls)


async def test_a_replay_cut_by_a_sigkill_goes_on_and_makes_each_job_once(
    database_url: str, records: Records, tmp_path: Path
) -> None:
    async with Vendor() as crm:
        config = configure(
            tmp_path, database_url, vendors=api("crm", crm.url) + route("order", CALL)
        )
        async with Gateway(config) as gateway:
            await put_dead(records, 300)
            url = f"{gateway.admin}/api/v1/replays"
            assert await post(url, {"vendor": "crm", "dry_run": True}) == (
                200,
                {"dry_run": True, "count": 300, "complete": True},
            )
            assert await records.value("SELECT count(*) FROM gateway.replays") == 0
            status, asked = await post(url, {"vendor": "crm", "rate": "200/s"})
            assert (status, asked["count"]) == (202, 300)
            await crm.called(100)
            await gateway.kill()
            made = await records.value("SELECT made FROM gateway.replays")
            assert 100 <= made < 300
            await gateway.start()
            await gateway.logged("replay_completed", replay_id=asked["id"])
            await records.until_states({"dead": 300, "completed": 300})
            shown = await get_json(f"{gateway.admin}/api/v1/replays/{asked['id']}")
            assert (shown["state"], shown["made"], shown["jobs"]) == (
                "completed",
                300,
                {"completed": 300},
            )
            assert await records.value("SELECT count(DISTINCT replay_of) FROM gateway.jobs") == 300
            # The vendor knows each by the key of the job that died.
            dead = await records.rows("SELECT id FROM gateway.jobs WHERE state = 'dead'")
            assert {call.key for call in crm.calls} == {str(row["id"]) for row in dead}
            assert not gateway.faults()


async def test_live_traffic_goes_before_a_replay_of_5000(
    database_url: str, records: Records, tmp_path: Path
) -> None:
    async with Counting() as crm:
        config = configure(
            tmp_path,
            database_url,
            vendors=api("crm", crm.url, "concurrency = 2") + route("order", CALL),
        )
        async with Gateway(config) as gateway, Sender(lambda: gateway.public) as sender:
            await put_dead(records, 5000)
            (asked,) = await command(config, "replay", "--rate", "1000/s", "--yes")
            assert asked["count"] == 5000
            await crm.called(300)
            crm.answer = hang
            await eventually(lambda: _hanging(crm), what="both slots wait for the vendor")
            for _ in range(100):
                assert (await sender.send("order")).status == 202
            await eventually(lambda: _held(records, 100), what="all live jobs are in memory")
            begin = len(crm.calls)
            crm.answer = ok
            crm.released.set()
            await eventually(lambda: _all_live(crm, 100), what="all live jobs were called")
            last = max(n for n, call in enumerate(crm.calls) if b"old" not in call.body)
            # As long as a live job waits, the replay gets no more than every eighth start.
            assert old(crm.calls[begin : last + 1]) <= 100 / 7 + 2
            assert old(crm.calls) < 5000, "the replay was over too soon to prove anything"
            unfinished = await records.value(
                "SELECT count(*) FROM gateway.jobs WHERE replay_id IS NOT NULL"
                " AND state IN ('scheduled', 'available', 'running', 'blocked')"
            )
            assert unfinished <= 1000
            cancelled = (await command(config, "replays", "cancel", asked["id"]))[0]
            assert cancelled["state"] == "cancelled"
            assert not gateway.faults()


async def _hanging(crm: Counting) -> bool:
    return crm.hanging == 2


async def _held(records: Records, count: int) -> bool:
    return count == await records.value(
        "SELECT count(*) FROM gateway.jobs WHERE state = 'running' AND replay_id IS NULL"
    )


async def _all_live(crm: Vendor, count: int) -> bool:
    return len(crm.calls) - old(crm.calls) == count


async def test_a_vendors_pause_holds_on_two_nodes_and_after_a_restart(
    database_url: str, records: Records, tmp_path: Path
) -> None:
    async with Vendor() as crm:
        vendors = api("crm", crm.url) + route("order", CALL)
        configs = [
            configure(tmp_path / name, database_url, node=name, vendors=vendors)
            for name in ("one", "two")
        ]
        async with (
            Gateway(configs[0]) as one,
            Gateway(configs[1]) as two,
            Sender(lambda: one.public) as to_one,
            Sender(lambda: two.public) as to_two,
        ):
            assert await post(f"{one.admin}/api/v1/vendors/crm/pause") == (
                200,
                {"name": "crm", "paused": True, "changed": True},
            )
            await two.logged("vendor_paused", vendor="crm")
            for _ in range(5):
                assert (await to_one.send("order")).status == 202
                assert (await to_two.send("order")).status == 202
            await one.kill()
            await one.start()
            assert (await to_one.send("order")).status == 202
            await records.until_states({"available": 11})
            assert crm.calls == []
            vendors_now = (await get_json(f"{two.admin}/api/v1/vendors"))["vendors"]
            assert [v["paused"] for v in vendors_now if v["name"] == "crm"] == [True]
            (resumed,) = await command(configs[0], "vendors", "resume", "crm")
            assert resumed["changed"]
            await records.until_states({"completed": 11})
            assert len(crm.calls) == 11
            book = await records.rows("SELECT who, act FROM gateway.acts ORDER BY at")
            assert [row["act"] for row in book] == ["vendor.pause", "vendor.resume"]
            assert book[0]["who"] == "api from 127.0.0.1"
            assert "@" in book[1]["who"]
            assert not one.faults()
            assert not two.faults()


async def test_a_paused_routes_jobs_wait_while_its_lane_goes_on(
    database_url: str, records: Records, tmp_path: Path
) -> None:
    async with Vendor() as crm:
        vendors = (
            api("crm", crm.url)
            + route("order", 'call = "POST crm:/orders"')
            + route("refund", 'call = "POST crm:/refunds"')
        )
        config = configure(tmp_path, database_url, vendors=vendors)
        async with Gateway(config) as gateway, Sender(lambda: gateway.public) as sender:
            await command(config, "routes", "pause", "order")
            await gateway.logged("route_paused", route="order")
            for _ in range(20):
                assert (await sender.send("order")).status == 202
            for _ in range(5):
                assert (await sender.send("refund")).status == 202
            await records.until_states({"completed": 5}, route="refund")
            await records.until_states({"scheduled": 20}, route="order")
            listed = await command(config, "routes", "list")
            assert [(one["name"], one["paused"], one["aside"]) for one in listed] == [
                ("order", True, 20),
                ("refund", False, 0),
            ]
            await gateway.kill()
            await gateway.start()
            assert (await sender.send("order")).status == 202
            assert (await sender.send("refund")).status == 202
            await records.until_states({"completed": 6}, route="refund")
            await records.until_states({"scheduled": 21}, route="order")
            assert await post(f"{gateway.admin}/api/v1/routes/order/resume") == (
                200,
                {"name": "order", "paused": False, "changed": True},
            )
            await records.until_states({"completed": 21}, route="order")
            assert not gateway.faults()


async def test_pauses_take_jobs_out_of_memory_and_lose_none(
    database_url: str, records: Records, tmp_path: Path
) -> None:
    async with Counting(hang) as crm:
        config = configure(
            tmp_path,
            database_url,
            vendors=api("crm", crm.url, "concurrency = 1") + route("order", CALL),
        )
        async with Gateway(config) as gateway, Sender(lambda: gateway.public) as sender:
            for _ in range(6):
                assert (await sender.send("order")).status == 202
            await crm.called(1)
            await records.until_states({"running": 6})
            await post(f"{gateway.admin}/api/v1/vendors/crm/pause")
            await records.until_states({"running": 1, "available": 5})
            await command(config, "vendors", "resume", "crm")
            await records.until_states({"running": 6})
            await post(f"{gateway.admin}/api/v1/routes/order/pause")
            await records.until_states({"running": 1, "scheduled": 5})
            await gateway.kill()  # its call under way is rescued, and then waits as the others do
            await gateway.start()
            await records.until_states({"scheduled": 6})
            crm.answer = ok
            await command(config, "routes", "resume", "order")
            await records.until_states({"completed": 6})
            assert not gateway.faults()


async def test_a_stored_event_goes_through_todays_routes(
    database_url: str, records: Records, tmp_path: Path
) -> None:
    async with Vendor() as crm:
        before = api("crm", crm.url) + route("other", CALL)
        async with (
            Gateway(configure(tmp_path, database_url, vendors=before)) as gateway,
            Sender(lambda: gateway.public) as sender,
        ):
            receipt = await sender.send("order")
            assert receipt.json["jobs"] == 0
        after = configure(tmp_path, database_url, vendors=before + route("order", CALL))
        async with Gateway(after) as gateway:
            event = receipt.json["event_id"]
            status, answer = await post(f"{gateway.admin}/api/v1/events/{event}/reroute")
            assert status == 201
            assert [job["route"] for job in answer["jobs"]] == ["order"]
            (again,) = await command(after, "events", "reroute", event)
            assert [job["route"] for job in again["jobs"]] == ["order"]
            await records.until_states({"completed": 2})
            await command(after, "events", "reroute", answer["jobs"][0]["id"], expect=3)
            assert await records.value("SELECT count(*) FROM gateway.acts") == 2


async def test_commands_that_only_count_change_nothing(
    database_url: str, records: Records, tmp_path: Path
) -> None:
    config = configure(
        tmp_path, database_url, vendors=api("crm", "http://127.0.0.1:9") + route("order", CALL)
    )
    await put_dead(records, 3)
    await records.value(
        """INSERT INTO gateway.jobs (id, route, vendor, kind, state, max_attempts, correlation_id,
                                     run_at)
           SELECT gateway.uuid7(),
                  'order', 'crm', 'call', 'scheduled', 3, 'c', now() + interval '1h'
           FROM generate_series(1, 2)"""
    )
    before = await records.jobs()
    counted = {"dry_run": True, "complete": True}
    assert await command(config, "replay", "--route", "order", "--dry-run") == [
        {**counted, "count": 3}
    ]
    cancel = ("jobs", "cancel", "--state", "scheduled", "--route", "order")
    assert await command(config, *cancel, "--dry-run") == [{**counted, "count": 2}]
    await command(config, *cancel, expect=2)  # nobody can be asked, and nobody said yes
    assert await records.jobs() == before
    assert await records.value("SELECT count(*) FROM gateway.acts") == 0
    (group,) = await command(config, "jobs", "dead")
    assert (group["route"], group["status"], group["error"], group["jobs"]) == (
        "order",
        500,
        "HTTP 500",
        3,
    )
    scheduled = next(job["id"] for job in before if job["state"] == "scheduled")
    (moved,) = await command(config, "jobs", "reschedule", str(scheduled), "--in", "3h")
    assert moved["run_at"] > moved["before"]
    assert await command(config, *cancel, "--yes") == [{"cancelled": 2}]
    assert await command(config, "jobs", "held") == []
