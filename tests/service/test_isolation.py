"""One vendor that hangs, refuses or fails for ever delays no other; and what each outcome does."""

import statistics
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from harness import (
    Answer,
    Call,
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

GOOD, BAD = 200, 150


async def test_vendors_that_hang_refuse_and_fail_do_not_delay_another(
    database_url: str, records: Records, tmp_path: Path
) -> None:
    patient = """
breaker = false
concurrency = 4
timeout = "60s"
retry = { attempts = 10000, base = "20ms", cap = "200ms" }
"""
    async with Vendor() as good, Vendor(hang) as hanging, Vendor(broken) as failing:
        with refusing() as refused:
            vendors = "".join(
                api(name, url, patient) + route(name, f'call = "POST {name}:/"')
                for name, url in (
                    ("good", good.url),
                    ("hanging", hanging.url),
                    ("failing", failing.url),
                    ("refusing", refused),
                )
            )
            # 400 places in memory for five lanes: each has 80, and the bad ones fill theirs.
            config = configure(tmp_path, database_url, vendors=vendors, queue="memory = 400")
            async with Gateway(config) as gateway, Sender(lambda: gateway.public) as sender:
                alone = await _latencies(sender, records, good, "alone")
                for name in ("hanging", "failing", "refusing"):
                    for _ in range(BAD):
                        assert (await sender.send(name)).status == 202
                await hanging.called(4)
                await failing.called(4)
                beside = await _latencies(sender, records, good, "beside")

                # The others are as stuck as they can be, each inside its own lane.
                assert await records.states("good") == {"completed": 2 * GOOD}
                assert len(hanging.calls) == 4
                held = {
                    row["vendor"]: row["jobs"]
                    for row in await records.rows(
                        "SELECT vendor, count(*) AS jobs FROM gateway.jobs"
                        " WHERE state = 'running' GROUP BY vendor"
                    )
                }
                assert held["hanging"] == 80
                assert all(jobs <= 80 for jobs in held.values())
                unfinished = await records.value(
                    "SELECT count(*) FROM gateway.jobs WHERE route <> 'good'"
                    " AND state IN ('running', 'available', 'scheduled')"
                )
                assert unfinished == 3 * BAD
                # A bound for sanity; the counts above are the law.
                assert _p99(beside) < 1.0 + _p99(alone)
                assert not gateway.faults(), gateway.faults()[0]


async def test_retry_after_parks_the_whole_lane_and_no_other(
    database_url: str, records: Records, tmp_path: Path
) -> None:
    throttled = status(429, Retry_After="2")
    async with Vendor(one_after_the_other(throttled, ok)) as crm, Vendor() as other:
        vendors = (
            api("crm", crm.url, "concurrency = 1\nbreaker = { failures = 100 }")
            + api("other", other.url)
            + route("crm", 'call = "POST crm:/"')
            + route("other", 'call = "POST other:/"')
        )
        config = configure(tmp_path, database_url, vendors=vendors)
        async with Gateway(config) as gateway, Sender(lambda: gateway.public) as sender:
            for _ in range(5):
                assert (await sender.send("crm")).status == 202
            (first,) = await crm.called(1)
            for _ in range(5):
                assert (await sender.send("other")).status == 202
            await records.until_states({"completed": 5}, "other")
            assert len(crm.calls) == 1, "other lanes go on meanwhile"
            await records.until_states({"completed": 5}, "crm")
            assert min(call.at for call in crm.calls[1:]) - first.at >= 2.0
            job = (await records.jobs("crm"))[0]
            history = await records.attempts(job["id"])
            assert [(row["outcome"], row["http_status"]) for row in history] == [
                ("retry", 429),
                ("completed", 200),
            ]


async def test_retry_after_holds_a_handlers_calls_too(
    database_url: str, records: Records, tmp_path: Path
) -> None:
    throttled = status(429, Retry_After="2")
    async with Vendor(one_after_the_other(throttled, ok)) as crm:
        vendors = (
            api("crm", crm.url)
            + route("crm", 'call = "POST crm:/"')
            + route("twice", 'handler = "handlers:calls_twice"')
        )
        config = configure(tmp_path, database_url, vendors=vendors)
        async with Gateway(config) as gateway, Sender(lambda: gateway.public) as sender:
            assert (await sender.send("crm")).status == 202
            (first,) = await crm.called(1)
            await records.until_states({"scheduled": 1}, "crm")
            assert (await sender.send("twice")).status == 202
            await records.until_states({"completed": 2})
            assert min(call.at for call in crm.calls[1:]) - first.at >= 2.0


async def test_a_failing_call_is_tried_again_until_its_attempts_are_used_up(
    database_url: str, records: Records, tmp_path: Path
) -> None:
    async with Vendor(broken) as crm:
        retry = 'retry = { attempts = 3, base = "300ms", jitter = "none" }'
        vendors = api("crm", crm.url, retry) + route("order", 'call = "POST crm:/"')
        config = configure(tmp_path, database_url, vendors=vendors)
        async with Gateway(config) as gateway, Sender(lambda: gateway.public) as sender:
            assert (await sender.send("order")).status == 202
            await records.until_states({"scheduled": 1})
            await records.until_states({"dead": 1})
            job = (await records.jobs())[0]
            assert (job["attempt"], job["max_attempts"], job["last_status"]) == (3, 3, 500)
            assert "attempt 3 of 3" in job["last_error"]
            history = await records.attempts(job["id"])
            assert [row["attempt"] for row in history] == [1, 2, 3]
            assert [row["outcome"] for row in history] == ["retry", "retry", "dead"]
            assert {row["http_status"] for row in history} == {500}
            assert len({call.key for call in crm.calls}) == 1, "one key for all attempts"
            first, second, third = crm.calls
            assert second.at - first.at >= 0.3
            assert third.at - second.at >= 0.6
            assert gateway.lines("job_died")


async def test_a_job_older_than_its_max_age_dies(
    database_url: str, records: Records, tmp_path: Path
) -> None:
    async with Vendor(broken) as crm:
        retry = 'retry = { attempts = 100, base = "200ms", jitter = "none", max_age = "1s" }'
        vendors = api("crm", crm.url, retry) + route("order", 'call = "POST crm:/"')
        config = configure(tmp_path, database_url, vendors=vendors)
        async with Gateway(config) as gateway, Sender(lambda: gateway.public) as sender:
            assert (await sender.send("order")).status == 202
            await records.until_states({"dead": 1})
            job = (await records.jobs())[0]
            assert job["attempt"] < 100
            assert "older than its max_age" in job["last_error"]


# name of the handler → the outcomes of its attempts, and what the last error says
ENDINGS = {
    "cancels": (["cancel"], "no longer wanted"),
    "dies": (["dead"], "cannot be helped \ufffd at all"),
    "raises": (["retry", "dead"], "RuntimeError: out of luck"),
    "retries": (["retry", "dead"], "try me again"),
    "exits": (["retry", "dead"], "SystemExit: 3"),
    "cancelled_inside": (["retry", "dead"], "CancelledError"),
    "nonsense": (["dead"], "returned dict"),
    "endless_snooze": (["dead"], "expected finite seconds"),
    "textual_snooze": (["dead"], "expected finite seconds"),
    "unreasonable": (["dead"], "expected finite seconds"),
}


async def test_whatever_a_handler_does_its_job_ends_and_the_next_one_runs(
    database_url: str, records: Records, tmp_path: Path
) -> None:
    retry = 'retry = { attempts = 2, base = "10ms", cap = "10ms" }'
    async with Vendor() as crm:
        vendors = api("crm", crm.url) + "".join(
            route(name, f'handler = "handlers:{name}"', retry) for name in (*ENDINGS, "calls_twice")
        )
        # One slot: what any of them leaves behind, the last one finds.
        config = configure(tmp_path, database_url, vendors=vendors, queue="local_concurrency = 1")
        async with Gateway(config) as gateway, Sender(lambda: gateway.public) as sender:
            for name in ENDINGS:
                assert (await sender.send(name)).status == 202
            assert (await sender.send("calls_twice")).status == 202
            await records.until_states({"completed": 1}, "calls_twice")
            for name, (outcomes, error) in ENDINGS.items():
                state = "cancelled" if outcomes == ["cancel"] else "dead"
                await records.until_states({state: 1}, name)
                job = (await records.jobs(name))[0]
                history = await records.attempts(job["id"])
                assert [row["outcome"] for row in history] == outcomes, name
                assert job["attempt"] == len(outcomes), name
                assert error in history[-1]["error"], name
                assert error in job["last_error"], name
            assert not gateway.lines("slot_failed")
            assert not gateway.lines("settle_refused")
            assert gateway.runs


async def test_a_snooze_counts_no_attempt_and_a_handlers_keys_stay_the_same(
    database_url: str, records: Records, tmp_path: Path
) -> None:
    async with Vendor(_moody()) as crm:
        vendors = (
            api("crm", crm.url, 'retry = { base = "10ms", cap = "10ms" }')
            + route("snoozes_twice", 'handler = "handlers:snoozes_twice"')
            + route("calls_twice", 'handler = "handlers:calls_twice"', 'retry = { base = "10ms" }')
        )
        config = configure(tmp_path, database_url, vendors=vendors)
        async with Gateway(config) as gateway, Sender(lambda: gateway.public) as sender:
            assert (await sender.send("snoozes_twice")).status == 202
            assert (await sender.send("calls_twice")).status == 202
            await records.until_states({"completed": 2})
            snoozed = (await records.jobs("snoozes_twice"))[0]
            assert snoozed["attempt"] == 1
            assert len(await records.attempts(snoozed["id"])) == 1
            assert len([call for call in crm.calls if call.path == "/snoozes"]) == 3

            called = (await records.jobs("calls_twice"))[0]
            assert called["attempt"] == 2, "its second call failed once"
            keys = [(call.path, call.key) for call in crm.calls if call.path != "/snoozes"]
            assert keys == [
                ("/first", str(called["id"])),
                ("/second", f"{called['id']}-2"),
                ("/first", str(called["id"])),
                ("/second", f"{called['id']}-2"),
            ]
            assert not gateway.faults()


@pytest.mark.parametrize(
    ("answer", "state", "outcome"),
    [(status(404), "dead", "dead"), (status(301, Location="/x"), "dead", "dead")],
)
async def test_an_answer_that_another_try_would_not_change_is_dead_at_once(
    database_url: str,
    records: Records,
    tmp_path: Path,
    answer: Answer,
    state: str,
    outcome: str,
) -> None:
    async with Vendor(answer) as crm:
        vendors = api("crm", crm.url) + route("order", 'call = "POST crm:/"')
        config = configure(tmp_path, database_url, vendors=vendors)
        async with Gateway(config) as gateway, Sender(lambda: gateway.public) as sender:
            assert (await sender.send("order")).status == 202
            await records.until_states({state: 1})
            job = (await records.jobs())[0]
            history = await records.attempts(job["id"])
            assert [row["outcome"] for row in history] == [outcome]
            assert len(crm.calls) == 1


async def _latencies(sender: Sender, records: Records, vendor: Vendor, prefix: str) -> list[float]:
    """Send GOOD webhooks and wait for them; return how long each took from its receipt."""
    before = len(vendor.calls)
    for number in range(GOOD):
        assert (await sender.send("good", message_id=f"{prefix}-{number}")).status == 202
    await vendor.called(before + GOOD)

    async def settled() -> bool:
        return (await records.states("good")).get("completed", 0) == before + GOOD

    await eventually(settled)
    rows: list[dict[str, Any]] = await records.rows(
        "SELECT extract(epoch FROM j.finished_at - e.received_at)::float8 AS seconds"
        " FROM gateway.jobs j JOIN gateway.events e ON e.id = j.event_id"
        " WHERE j.route = 'good' AND e.dedupe_key LIKE $1 || '-%'",
        prefix,
    )
    return [row["seconds"] for row in rows]


def _p99(seconds: list[float]) -> float:
    return statistics.quantiles(seconds, n=100)[98]


def _moody() -> Answer:
    """Count the snoozes, and fail the first call to /second."""
    seen: list[str] = []

    async def answer(vendor: Vendor, call: Call) -> web.StreamResponse:
        seen.append(call.path)
        if call.path == "/snoozes":
            return web.Response(text=str(seen.count("/snoozes")))
        failed = call.path == "/second" and seen.count("/second") == 1
        return web.Response(status=503 if failed else 200)

    return answer
