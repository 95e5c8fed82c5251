"""Two nodes on one database: a dead one's jobs run on the other, a late one overwrites nothing."""

import asyncio
import signal
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from harness import (
    Gateway,
    Records,
    Sender,
    Vendor,
    api,
    configure,
    eventually,
    hang,
    ok,
    one_after_the_other,
    route,
)

LEASE_SECONDS = 2.0
PROMISED_SECONDS = LEASE_SECONDS + 5.0


@asynccontextmanager
async def nodes(
    directory: Path, database_url: str, vendors: str, *names: str
) -> AsyncIterator[list[Gateway]]:
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(
                Gateway(
                    configure(
                        directory / name,
                        database_url,
                        node=name,
                        lease=f"{LEASE_SECONDS:g}s",
                        vendors=vendors,
                    )
                )
            )
            for name in names
        ]


async def test_the_jobs_of_a_killed_node_run_on_another_within_the_lease_and_5_seconds(
    database_url: str, records: Records, tmp_path: Path
) -> None:
    async with Vendor(hang) as crm:
        vendors = api("crm", crm.url, "concurrency = 4") + route(
            "order", 'call = "POST crm:/orders"'
        )
        async with (
            nodes(tmp_path, database_url, vendors, "one", "two") as (one, two),
            Sender(lambda: one.public) as sender,
        ):
            for _ in range(20):  # 4 on the wire, 16 in its memory
                assert (await sender.send("order")).status == 202
            await crm.called(4)
            crm.answer = ok
            await one.kill()
            killed_at = time.monotonic()
            await records.until_states({"completed": 20}, seconds=PROMISED_SECONDS)
            assert time.monotonic() - killed_at < PROMISED_SECONDS
            settled_by = {
                row["node"] for row in await records.rows("SELECT node FROM gateway.jobs")
            }
            assert settled_by == {two.lines("service_ready")[0]["node"]}
            buried = two.lines("node_buried")
            assert [(line["node"], line["jobs"]) for line in buried] == [
                (one.lines("service_ready")[0]["node"], 20)
            ]


async def test_a_late_settle_after_the_rescue_changes_nothing(
    database_url: str, records: Records, tmp_path: Path
) -> None:
    # The first call gets its answer only when its node wakes up again, long after its lease.
    async with Vendor(one_after_the_other(hang, ok)) as crm:
        vendors = api("crm", crm.url, 'timeout = "60s"') + route(
            "order", 'call = "POST crm:/orders"'
        )
        async with (
            nodes(tmp_path, database_url, vendors, "one", "two") as (one, two),
            Sender(lambda: one.public) as sender,
        ):
            assert (await sender.send("order")).status == 202
            await crm.called(1)
            one.signal(signal.SIGSTOP)
            await records.until_states({"completed": 1}, seconds=PROMISED_SECONDS)
            before = await _everything(records)
            mark = len(one.log)
            crm.released.set()
            one.signal(signal.SIGCONT)
            await _told_that_the_lease_is_lost(one, mark)

            # It is a member again, under the same name, and takes part: kill the other to see.
            await eventually(lambda: _lives(records, one), what="registered again")
            assert await _everything(records) == before
            await two.kill()
            for _ in range(10):
                assert (await sender.send("order")).status == 202
            await records.until_states({"completed": 11})
            assert (await _everything(records))[0] == before[0]
            assert not one.faults()


async def test_a_node_that_only_slept_takes_up_its_work_again(
    database_url: str, records: Records, tmp_path: Path
) -> None:
    """Nobody else was there to bury it: what it was doing is still its own, or done again."""
    async with Vendor(one_after_the_other(hang, ok)) as crm:
        vendors = api("crm", crm.url) + route("order", 'call = "POST crm:/orders"')
        async with (
            nodes(tmp_path, database_url, vendors, "one") as (one,),
            Sender(lambda: one.public) as sender,
        ):
            assert (await sender.send("order")).status == 202
            await crm.called(1)
            one.signal(signal.SIGSTOP)
            await eventually(lambda: _expired(records), what="its lease has run out")
            crm.released.set()
            one.signal(signal.SIGCONT)
            await records.until_states({"completed": 1})
            assert (await sender.send("order")).status == 202
            await records.until_states({"completed": 2})
            assert not one.faults()


async def test_a_stopped_node_accepts_again_after_its_burial(
    database_url: str, records: Records, tmp_path: Path
) -> None:
    """Webhooks that arrive in the middle of the burial are stored, handed off or not, once."""
    async with Vendor() as crm:
        vendors = api("crm", crm.url) + route("order", 'call = "POST crm:/orders"')
        async with (
            nodes(tmp_path, database_url, vendors, "one", "two") as (one, two),
            Sender(lambda: one.public) as sender,
        ):
            for round_ in range(1, 3):
                one.signal(signal.SIGSTOP)
                mark = len(two.log)
                await two.logged("node_buried", since=mark)
                one.signal(signal.SIGCONT)
                for count in range(50):
                    await sender.deliver("order", message_id=f"{round_}-{count}")
                await records.until_states({"completed": 50 * round_})
            assert len(await records.rows("SELECT id FROM gateway.events")) == 100
            assert not one.faults()


async def test_a_job_that_kills_its_node_ends_dead_and_alone(
    database_url: str, records: Records, tmp_path: Path
) -> None:
    async with Vendor(hang) as crm:
        vendors = (
            api("crm", crm.url, "retry = { attempts = 2 }\nconcurrency = 50")
            + route("order", 'call = "POST crm:/orders"')
            + route("innocent", 'handler = "handlers:innocent"', 'lane = "crm"')
            + route("poison", 'handler = "handlers:poison"', 'lane = "crm"')
        )
        async with (
            nodes(tmp_path, database_url, vendors, "one") as (one,),
            Sender(lambda: one.public) as sender,
        ):
            for _ in range(10):
                assert (await sender.send("order")).status == 202
                assert (await sender.send("innocent")).status == 202
            await crm.called(20)
            supervisor = asyncio.create_task(_keep_alive(one))
            try:
                await sender.deliver("poison", message_id="poison")
                await one.logged("node_buried")
                crm.answer = ok
                await records.until_states({"dead": 1}, "poison", seconds=60)
                # Those who were in its company on every occasion lost no attempt by it.
                await records.until_states({"completed": 10}, "order")
                await records.until_states({"completed": 10}, "innocent")
            finally:
                supervisor.cancel()
            assert {job["attempt"] for job in await records.jobs("order")} == {1}
            assert {job["attempt"] for job in await records.jobs("innocent")} == {1}
            # Two deaths make it a suspect, two more use up its attempts.
            assert len(one.lines("service_ready")) == 5
            poison = (await records.jobs("poison"))[0]
            assert (poison["attempt"], poison["max_attempts"]) == (2, 2)
            history = await records.attempts(poison["id"])
            assert [row["outcome"] for row in history] == ["lost", "lost"]
            assert "node died" in poison["last_error"]


async def _everything(records: Records) -> tuple[Any, Any]:
    """Return the first job and its history, all columns of them."""
    job = (await records.jobs())[0]
    return job, await records.attempts(job["id"])


async def _told_that_the_lease_is_lost(node: Gateway, mark: int) -> None:
    async def told() -> bool:
        return bool(
            node.lines("lease_lost", since=mark) or node.lines("lease_given_up", since=mark)
        )

    await eventually(told, what="a line about the lost lease")


async def _lives(records: Records, node: Gateway) -> bool:
    name = node.lines("service_ready")[0]["node"]
    return bool(await records.rows("SELECT FROM gateway.nodes WHERE node = $1", name))


async def _expired(records: Records) -> bool:
    return bool(await records.rows("SELECT FROM gateway.nodes WHERE seen_at + lease < now()"))


async def _keep_alive(node: Gateway) -> None:
    """Start it again whenever it ends, as systemd does."""
    while True:
        await node.ended(seconds=60)
        await node.start()
