"""PostgreSQL dies, restarts and cuts connections: the gateway waits, and nothing is lost."""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import asyncpg
import pytest
from harness import (
    Gateway,
    Records,
    Sender,
    Vendor,
    api,
    configure,
    eventually,
    get,
    hang,
    ok,
    records_of,
    route,
)

from gateway.store.embedded import EmbeddedPostgres

SENDERS = 6
WEBHOOKS = 1500
OUTAGES = (signal.SIGKILL, signal.SIGQUIT, signal.SIGKILL, signal.SIGINT)


class Server:
    """A PostgreSQL that outlives its postmasters. What it committed, it keeps."""

    def __init__(self, state_dir: Path) -> None:
        self._state_dir = state_dir
        self._server = EmbeddedPostgres(state_dir, settings={"fsync": "off"})
        self.url = ""

    async def start(self) -> None:
        self._server = EmbeddedPostgres(self._state_dir, settings={"fsync": "off"})
        self.url = await self._server.start()

    async def end(self, number: signal.Signals) -> None:
        assert self._server.pid is not None
        os.kill(self._server.pid, number)
        await self._server.wait()
        await self._server.stop()

    async def stop(self) -> None:
        await self._server.stop()


@pytest.fixture
async def server(state_dir: Path) -> AsyncIterator[Server]:
    server = Server(state_dir)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


async def test_no_restart_of_postgresql_loses_a_webhook_or_needs_one_of_ours(
    server: Server, tmp_path: Path
) -> None:
    async with Vendor() as crm:
        config = configure(
            tmp_path,
            server.url,
            vendors=api("crm", crm.url) + route("order", 'call = "POST crm:/orders"'),
        )
        async with Gateway(config) as gateway, Sender(lambda: gateway.public) as sender:
            pid = gateway.pid
            async with asyncio.TaskGroup() as group:
                for number in range(SENDERS):
                    group.create_task(_send_all(sender, number))
                for outage, number in enumerate(OUTAGES, 1):
                    enough = outage * WEBHOOKS // (len(OUTAGES) + 1)
                    await eventually(lambda enough=enough: _reached(sender, enough))
                    await server.end(number)
                    await eventually(lambda: _told(gateway, "database_lost"))
                    await _prove_it_waits(gateway, sender)
                    url = server.url
                    await server.start()
                    assert server.url == url
                    await eventually(lambda: _told(gateway, "database_back"))
            async with records_of(server.url) as records:
                await _prove_all_done(sender, crm, records)
            await eventually(lambda: _ready(gateway))
            assert gateway.runs
            assert gateway.pid == pid
            assert len(gateway.lines("service_ready")) == 1
            assert not gateway.faults(), json.dumps(gateway.faults()[0], indent=1)


async def test_connections_cut_under_load_cost_nothing(
    database_url: str, records: Records, tmp_path: Path
) -> None:
    async with Vendor() as crm:
        config = configure(
            tmp_path,
            database_url,
            vendors=api("crm", crm.url) + route("order", 'call = "POST crm:/orders"'),
        )
        async with Gateway(config) as gateway, Sender(lambda: gateway.public) as sender:
            async with asyncio.TaskGroup() as group:
                for number in range(SENDERS):
                    group.create_task(_send_all(sender, number))
                for cut in range(1, 11):
                    enough = cut * WEBHOOKS // 11
                    await eventually(lambda enough=enough: _reached(sender, enough))
                    await records.value(
                        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
                        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
                    )
            await _prove_all_done(sender, crm, records)
            assert gateway.lines("database_lost")
            assert not gateway.faults(), json.dumps(gateway.faults()[0], indent=1)


async def test_attempts_that_end_while_the_database_is_away_are_recorded_and_not_repeated(
    server: Server, tmp_path: Path
) -> None:
    async with Vendor(hang) as crm:
        config = configure(
            tmp_path,
            server.url,
            lease="30s",
            vendors=api("crm", crm.url) + route("order", 'call = "POST crm:/orders"'),
        )
        async with Gateway(config) as gateway, Sender(lambda: gateway.public) as sender:
            for _ in range(5):
                assert (await sender.send("order")).status == 202
            await crm.called(5)
            await server.end(signal.SIGQUIT)
            crm.released.set()
            await gateway.logged("settle_postponed")
            await server.start()
            async with records_of(server.url) as records:
                await records.until_states({"completed": 5})
                assert {job["attempt"] for job in await records.jobs()} == {1}
            assert len(crm.calls) == 5


async def test_a_start_waits_for_the_database_and_a_stop_ends_the_waiting(
    server: Server, tmp_path: Path
) -> None:
    await server.end(signal.SIGINT)
    config = configure(tmp_path, server.url, vendors="")
    gateway = Gateway(config)
    await gateway.launch()
    try:
        await gateway.logged("database_awaited")
        await server.start()
        await gateway.logged("service_ready")
        await gateway.kill()
        await server.end(signal.SIGINT)
        mark = len(gateway.log)
        await gateway.launch()
        await gateway.logged("database_awaited", since=mark)
        gateway.signal(signal.SIGTERM)
        assert await gateway.ended() == 0
        assert not gateway.lines("service_failed")
    finally:
        await gateway.kill()


async def test_a_drain_ends_although_the_database_is_away(server: Server, tmp_path: Path) -> None:
    async with Vendor(hang) as crm:
        vendors = api("crm", crm.url) + route("order", 'call = "POST crm:/orders"')
        config = configure(tmp_path, server.url, drain="2s", vendors=vendors)
        async with Gateway(config) as gateway, Sender(lambda: gateway.public) as sender:
            for _ in range(20):
                assert (await sender.send("order")).status == 202
            await crm.called(8)
            await server.end(signal.SIGQUIT)
            await gateway.logged("database_lost")
            await gateway.logged("feeder_waits")
            gateway.signal(signal.SIGTERM)
            assert await gateway.ended(seconds=40) == 0
            assert gateway.lines("farewell_failed")
            crm.answer = ok
            await server.start()
            await gateway.start()
            async with records_of(server.url) as records:
                await records.until_states({"completed": 20})
                # Its last word was not heard: what ran for long then counts as an attempt.
                assert {job["attempt"] for job in await records.jobs()} <= {1, 2}


async def _send_all(sender: Sender, number: int) -> None:
    for count in range(WEBHOOKS // SENDERS):
        await sender.deliver("order", message_id=f"msg-{number}-{count}")


async def _reached(sender: Sender, count: int) -> bool:
    return len(sender.receipts) >= count


async def _told(gateway: Gateway, event: str) -> bool:
    """Return whether *event* is its last word about the database.

    A connection that was lost long ago may be noticed after the database is back: it is away once
    more then, for a moment, so neither lines nor their number belong to one outage.
    """
    words = [line["event"] for line in gateway.log if line["event"].startswith("database_")]
    return bool(words) and words[-1] == event


async def _prove_it_waits(gateway: Gateway, sender: Sender) -> None:
    answer = await sender.send("order", message_id="msg-0-0")
    assert answer.status == 503
    assert int(answer.headers["Retry-After"]) > 0
    assert (await get(f"{gateway.admin}/healthz"))[0] == 200
    assert not await _ready(gateway)


async def _ready(gateway: Gateway) -> bool:
    return (await get(f"{gateway.admin}/readyz"))[0] == 200


async def _prove_all_done(sender: Sender, vendor: Vendor, records: Records) -> None:
    total = WEBHOOKS // SENDERS * SENDERS
    assert len(sender.receipts) == total
    # Strays of a cut connection are looked for up to half a minute later.
    await records.until_states({"completed": total}, seconds=60)
    events = await records.rows("SELECT id::text, dedupe_key FROM gateway.events")
    assert len(events) == total
    assert {event["dedupe_key"]: event["id"] for event in events} == {
        key: receipt.json["event_id"] for key, receipt in sender.receipts.items()
    }
    jobs = {str(job["id"]) for job in await records.jobs()}
    assert {call.key for call in vendor.calls} == jobs
    with suppress(asyncpg.PostgresError):
        assert not await records.value("SELECT count(*) FROM gateway.jobs WHERE state = 'running'")
