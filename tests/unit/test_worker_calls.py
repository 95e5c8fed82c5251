"""What a worker makes of an answer: by the route's rules over the vendor's."""

from __future__ import annotations

import asyncio
import math
from datetime import UTC, datetime
from random import Random
from types import SimpleNamespace
from typing import Any, cast
from uuid import UUID

import pytest
import structlog
from virtual_time import VirtualTime, in_virtual_time

from gateway.config.model import Api, Breaker, Route
from gateway.handlers import CallUnsuccessful, Handler, JobContext
from gateway.model import Completed, Dead, Event, Job, Outcome, Retry, Snooze
from gateway.routing import Router
from gateway.vendors.breaker import CircuitBreaker
from gateway.vendors.calls import Call, CallFailed, Reply
from gateway.vendors.classify import rules_of
from gateway.vendors.redact import redaction_for
from gateway.worker import FAILING_AFTER, MAX_PARKED_SECONDS, Worker

ID = UUID("0198c0de-0000-7000-8000-000000000001")
SAYS_NO = b'{"ok": false, "token": "t0k"}'


class Client:
    """A client whose vendor answers the same until told otherwise; status 0: it refuses."""

    def __init__(self, api: Api, body: bytes) -> None:
        self.api, self.body = api, body
        self.rules, self.redaction = rules_of(api), redaction_for(api)
        self.sent: list[Call] = []
        self.status = 200

    async def send(self, call: Call) -> Reply:
        self.sent.append(call)
        if not self.status:
            raise CallFailed("connect", "nobody listens")
        return Reply(
            status=self.status, headers={}, body=self.body, body_complete=True, duration_seconds=0.1
        )


class Limiter:
    wait_seconds = 0.0

    async def acquire(self) -> None:
        if self.wait_seconds:
            await asyncio.sleep(self.wait_seconds)


class Lane:
    failing = False
    running = 1
    idle = 0.0

    def idle_seconds(self) -> float:
        return self.idle


def scene(
    *,
    api: dict[str, Any],
    route: dict[str, Any],
    body: bytes = SAYS_NO,
    handler: Handler | None = None,
    breaker: CircuitBreaker | None = None,
) -> Any:
    """A worker without a database, its one job and that job's event."""
    vendor = Api(vendor="chat", base_url="https://chat.example", **api)
    one = Route(name="r", source="shop", lane="chat", **route)
    client = Client(vendor, body)
    worker = Worker(
        cast(Any, None),
        cast(Any, SimpleNamespace(lanes={"chat": (lane := Lane())})),
        cast(Any, None),
        router=(router := Router([one], {"chat": vendor})),
        clients=cast(Any, {"chat": client}),
        limiters=cast(Any, {"chat": (limiter := Limiter())}),
        breakers={} if breaker is None else {"chat": breaker},
        handlers={} if handler is None else {"r": handler},
        metrics=cast(Any, None),
        park=lambda vendor, seconds: None,
        random=Random(1),
        handler_timeout_seconds=0.05,
        excerpt_bytes=100,
    )
    now = datetime.now(UTC)
    event = Event(
        id=ID, vendor="shop", correlation_id="c", headers={}, body=b'{"a": 1}', received_at=now
    )
    job = Job(
        id=ID,
        event_id=ID,
        route="r",
        vendor="chat",
        kind=one.kind,
        priority=5,
        attempt=0,
        max_attempts=8,
        claim_no=1,
        correlation_id="c",
        created_at=now,
        event=event,
    )
    return SimpleNamespace(
        worker=worker,
        job=job,
        event=event,
        client=client,
        lane=lane,
        limiter=limiter,
        route=router.route("r"),
    )


async def attempt(scene: Any) -> tuple[Outcome, Any]:
    return await scene.worker._execute(scene.job, scene.route)


FAILING = {"fail_when": "response.ok == false"}


@pytest.mark.parametrize(
    ("api", "route", "outcome"),
    [
        ({}, {}, Completed),
        (FAILING, {}, Dead),
        ({}, FAILING, Dead),
        (FAILING, {"fail_when": "false"}, Completed),
        (FAILING, {"retry_when": "not response.ok"}, Retry),
        ({"success": ("204",)}, {"success": ("2xx",)}, Completed),
        ({}, {"success": ("204",), "retry_on": ("200",)}, Retry),
    ],
)
async def test_a_call_is_judged_by_its_routes_rules_over_the_vendors(
    api: dict[str, Any], route: dict[str, Any], outcome: type
) -> None:
    found, _ = await attempt(scene(api=api, route={"call": "POST chat:/post", **route}))
    assert isinstance(found, outcome)


async def test_a_vendor_that_fails_call_after_call_makes_its_lane_careful_until_it_answers() -> (
    None
):
    one = scene(api={}, route={"call": "POST chat:/post"})
    statuses = [503, 0] * (FAILING_AFTER // 2) + [0, 429] + [0] * (FAILING_AFTER - 1) + [200, 0]
    careful = []
    for one.client.status in statuses:
        await attempt(one)
        careful.append(one.lane.failing)
    # From the last of so many failures in a row on; 429 is an answer of a vendor in good health.
    expected = [False] * (FAILING_AFTER - 1) + [True, True] + [False] * (FAILING_AFTER + 2)
    assert careful == expected


async def test_what_is_kept_of_a_call_is_masked() -> None:
    one = scene(
        api={"redact": ("*.token",)},
        route={"call": "POST chat:/post", "body": {"a": {"token": "t0k"}, "b": 1}},
    )
    _, exchange = await attempt(one)
    assert exchange.request["body"] == '{"a":{"token":"***"},"b":1}'
    assert exchange.response["body"] == '{"ok":false,"token":"***"}'
    assert one.client.sent[0].body == b'{"a":{"token":"t0k"},"b":1}'


async def test_a_handlers_call_is_judged_by_the_vendors_rules() -> None:
    one = scene(api=FAILING, route={"handler": "a:b"})
    context = JobContext(one.worker, one.job, one.event)
    with pytest.raises(CallUnsuccessful) as caught:
        await context.call("chat", "POST", "/post", json={})
    assert isinstance(caught.value.outcome, Dead)
    reply = await context.call("chat", "POST", "/post", json={}, check=False)
    assert reply.body == SAYS_NO


async def test_a_handler_sends_forms_and_files() -> None:
    one = scene(api={}, route={"handler": "a:b"})
    context = JobContext(one.worker, one.job, one.event)
    await context.call("chat", "POST", "/post", form={"a": 1, "b": ["x", "y"]})
    await context.call("chat", "POST", "/post", multipart={"f": {"content": "x"}})
    form, multipart = one.client.sent
    assert (form.body, form.content_type) == (b"a=1&b=x&b=y", "application/x-www-form-urlencoded")
    assert b'name="f"; filename="f"' in multipart.body
    assert multipart.content_type.startswith("multipart/form-data; boundary=")


async def test_a_handler_that_takes_too_long_is_broken_off_and_tried_again() -> None:
    broken_off = []

    async def waits(job: JobContext) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            broken_off.append(job.id)
            raise

    one = scene(api={}, route={"handler": "a:b"}, handler=waits)
    outcome, _ = await attempt(one)
    assert outcome == Retry("no outcome within 0.05 s")
    assert broken_off == [ID]


async def calls_twice(job: JobContext) -> None:
    await job.call("chat", "POST", "/post", json={})
    await job.call("chat", "POST", "/post", json={})


def test_a_handlers_time_stands_still_while_its_calls_wait_in_line() -> None:
    async def main(_loop: VirtualTime) -> None:
        one = scene(api={}, route={"handler": "a:b"}, handler=calls_twice)
        one.limiter.wait_seconds = 100.0  # each
        outcome, _ = await attempt(one)
        assert outcome == Completed()
        assert len(one.client.sent) == 2

    in_virtual_time(main)


def test_a_vendor_that_was_paused_while_a_call_was_in_line_is_not_called() -> None:
    async def main(loop: VirtualTime) -> None:
        one = scene(api={}, route={"handler": "a:b"}, handler=calls_twice)
        one.limiter.wait_seconds = 100.0
        loop.call_later(50.0, setattr, one.lane, "idle", math.inf)
        outcome, _ = await attempt(one)
        assert outcome == Snooze(MAX_PARKED_SECONDS, "chat is paused or asked for patience")
        assert not one.client.sent

    in_virtual_time(main)


def test_a_breaker_that_opened_while_a_call_was_in_line_snoozes_its_job() -> None:
    async def main(loop: VirtualTime) -> None:
        breaker = CircuitBreaker(Breaker(), clock=loop.time)
        one = scene(api={}, route={"handler": "a:b"}, handler=calls_twice, breaker=breaker)
        one.limiter.wait_seconds = 100.0
        loop.call_later(50.0, breaker.open_for, 60.0)
        outcome, _ = await attempt(one)
        assert outcome == Snooze(pytest.approx(10.0, abs=0.1), "the breaker of chat is open")
        assert not one.client.sent

    in_virtual_time(main)


async def test_a_handler_may_raise_a_timeout_of_its_own() -> None:
    async def raises(_: JobContext) -> None:
        async with asyncio.timeout(0):
            await asyncio.Event().wait()

    one = scene(api={}, route={"handler": "a:b"}, handler=raises)
    with pytest.raises(TimeoutError):  # which run_attempt makes a retry that names it
        await attempt(one)


async def test_a_handlers_log_names_its_job() -> None:
    one = scene(api={}, route={"handler": "a:b"})
    context = JobContext(one.worker, one.job, one.event)
    bound = structlog.get_context(context.log)
    assert bound == {"job_id": str(ID), "route": "r", "attempt": 1, "correlation_id": "c"}
