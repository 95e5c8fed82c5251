"""The breaker that every called vendor has, with nothing written about it."""

from pathlib import Path

import pytest
from harness import (
    Answer,
    Gateway,
    Records,
    Sender,
    Vendor,
    api,
    broken,
    configure,
    eventually,
    hang,
    ok,
    one_after_the_other,
    refusing,
    route,
    status,
)

JOBS = 60
CONCURRENCY = 8  # as nobody writes it
OPENS_AFTER = 2 * CONCURRENCY  # failures in a row
ROUTE = route("order", 'call = "POST crm:/orders"')
AT_ONCE = 'retry = { attempts = 100, base = "1ms", cap = "1ms" }\ntimeout = "500ms"'


@pytest.mark.parametrize("answer", [broken, hang, None], ids=["fails", "hangs", "refuses"])
async def test_a_dead_vendor_is_left_alone_and_its_jobs_wait_with_their_attempts(
    database_url: str, records: Records, tmp_path: Path, answer: Answer | None
) -> None:
    async with Vendor(answer or ok) as crm:
        with refusing() as refused:
            url = refused if answer is None else crm.url
            config = configure(tmp_path, database_url, vendors=api("crm", url, AT_ONCE) + ROUTE)
            async with Gateway(config) as gateway, Sender(lambda: gateway.public) as sender:
                for _ in range(JOBS):
                    assert (await sender.send("order")).status == 202
                await gateway.logged("breaker_moved", after="open")

                async def waiting() -> bool:
                    return "running" not in await records.states()

                await eventually(waiting, what="what was under way is settled, the rest given back")
                # What was under way when it opened costs no attempt.
                spent = await records.value("SELECT sum(attempt) FROM gateway.jobs")
                assert spent == OPENS_AFTER
                assert len(crm.calls) < OPENS_AFTER + CONCURRENCY
                assert sum((await records.states()).values()) == JOBS
                assert not gateway.faults()


async def test_a_vendor_that_answers_mostly_well_under_load_is_never_left_alone(
    database_url: str, records: Records, tmp_path: Path
) -> None:
    """Every third call fails, and now and then all that are under way at once."""
    bad_moment = [status(503)] * CONCURRENCY
    mood = [ok, ok, status(503)] * 10 + bad_moment
    async with Vendor(one_after_the_other(*mood * 5, ok)) as crm:
        config = configure(tmp_path, database_url, vendors=api("crm", crm.url, AT_ONCE) + ROUTE)
        async with Gateway(config) as gateway, Sender(lambda: gateway.public) as sender:
            for _ in range(5 * JOBS):
                assert (await sender.send("order")).status == 202
            await records.until_states({"completed": 5 * JOBS})
            assert len(crm.calls) == 5 * JOBS + 5 * (10 + CONCURRENCY)
            assert gateway.lines("breaker_moved") == []


async def test_without_a_breaker_a_dead_vendors_jobs_use_up_their_attempts(
    database_url: str, records: Records, tmp_path: Path
) -> None:
    retry = 'breaker = false\nretry = { attempts = 2, base = "1ms", cap = "1ms" }'
    async with Vendor(broken) as crm:
        config = configure(tmp_path, database_url, vendors=api("crm", crm.url, retry) + ROUTE)
        async with Gateway(config) as gateway, Sender(lambda: gateway.public) as sender:
            for _ in range(JOBS):
                assert (await sender.send("order")).status == 202
            await records.until_states({"dead": JOBS})
            assert len(crm.calls) == 2 * JOBS
            assert gateway.lines("breaker_moved") == []
