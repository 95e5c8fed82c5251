"""The worker: runs one attempt of one job and says how it ended.

Handlers return an outcome; :meth:`Worker.run_attempt` alone turns exceptions into outcomes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from random import Random
from time import perf_counter
from typing import assert_never

import msgspec

from gateway import backoff
from gateway.backoff import RetryPolicy
from gateway.cohorts import next_stage
from gateway.deadlines import Deadlines
from gateway.errors import DatabaseUnavailable, GatewayError, RenderFailed
from gateway.handlers import CallUnsuccessful, Handler, JobContext, checked, decode
from gateway.model import (
    Cancel,
    Completed,
    Dead,
    Event,
    Exchange,
    Execution,
    Job,
    Outcome,
    Retry,
    Snooze,
)
from gateway.queue.ready import ReadyQueue
from gateway.queue.settlement import SettlementDesk
from gateway.routing import CompiledRoute, Router
from gateway.store import events, jobs
from gateway.store.database import Database
from gateway.store.writes import Settled
from gateway.telemetry.logs import get_logger
from gateway.telemetry.metrics import Metrics
from gateway.texts import storable
from gateway.vendors.breaker import NO_PROBE, CircuitBreaker
from gateway.vendors.calls import Call, CallFailed, Reply
from gateway.vendors.classify import Rules, classify, health, rules_of
from gateway.vendors.client import VendorClient
from gateway.vendors.limits import StrictLimiter
from gateway.vendors.quota import pause_seconds
from gateway.vendors.redact import describe_reply, describe_request
from gateway.webhooks.extract import UNDECODED

log = get_logger("gateway.worker")

MAX_ERROR_CHARS = 2000
SHORT_WAIT_SECONDS = 5.0  # for which a handler's call waits in its place for a parked vendor
MAX_PARKED_SECONDS = 30.0  # after which its job looks again; a paused lane knows no end

FAILING_AFTER = 10  # failures in a row, from which on a lane starts its jobs singly

# A job that lost this many nodes may be what kills them: from then on its attempts run alone and
# are known to the database before they begin, so that it counts a death against no other job.
# Calls are made by our own code, which kills nothing easily; a handler might.
SUSPICIOUS_RESCUES = {"handler": 2, "call": 8}

_encode = msgspec.json.Encoder().encode


class Worker:
    """Runs attempts. One for the whole process; the lanes decide when and how often."""

    def __init__(
        self,
        db: Database,
        ready: ReadyQueue,
        settlement: SettlementDesk,
        *,
        router: Router,
        clients: Mapping[str, VendorClient],
        limiters: Mapping[str, StrictLimiter],
        breakers: Mapping[str, CircuitBreaker],
        handlers: Mapping[str, Handler],
        metrics: Metrics,
        park: Callable[[str, float], None],
        random: Random,
        handler_timeout_seconds: float,
        excerpt_bytes: int,
    ) -> None:
        self._db = db
        self._ready = ready
        self._settlement = settlement
        self._router = router
        self._clients = clients
        self._limiters = limiters
        self._breakers = breakers
        self._handlers = handlers
        self._metrics = metrics
        self._park = park  # leaves a vendor alone for so many seconds, on all nodes
        self._random = random
        self._handler_timeout_seconds = handler_timeout_seconds
        self._deadlines = Deadlines()  # of handlers
        self._excerpt_bytes = excerpt_bytes
        self._rules: dict[str, Rules] = {}  # by route, once it has called
        self._failures: dict[str, int] = {}  # in a row, by vendor
        self._suspect: Job | None = None  # the one suspicious job that executes

    async def run_attempt(self, job: Job) -> None:
        """Execute *job* once and have the outcome settled. Raises nothing but CancelledError.

        A cancelled attempt is not settled: whoever cancels releases the job.
        """
        started_at = datetime.now(UTC)
        loop = asyncio.get_running_loop()
        execution = Execution(job, started_at, loop.time())
        self._ready.executing[job.id] = execution
        began = perf_counter()
        outcome: Outcome
        exchange: Exchange | None = None
        route = self._router.route(job.route)
        try:
            suspicious = job.rescues >= SUSPICIOUS_RESCUES.get(job.kind, 1)
            if suspicious and self._suspect is not None:
                seconds = self._random.uniform(0.5, 2.0)
                outcome = Snooze(seconds, "waits to run alone, since nodes died while holding it")
            else:
                if suspicious:
                    self._suspect = job
                    if not await self._mark_started(job, started_at):
                        return
                outcome, exchange = await self._execute(job, route)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            # What the handler waited for was cancelled, not the attempt.
            outcome = Retry("CancelledError: the handler awaited what had been cancelled")
        except DatabaseUnavailable:
            # Nothing was attempted: the body could not be read, or the start not be written.
            outcome = Snooze(1.0, "the database was away")
        except CallFailed as failure:
            outcome = Retry(str(failure))
        except (Exception, SystemExit) as error:  # the door: whatever a handler does ends here
            log.warning("attempt_raised", job_id=str(job.id), route=job.route, exc_info=error)
            outcome = Retry(f"{type(error).__name__}: {error}")
        finally:
            if self._suspect is job:
                self._suspect = None
            # A handler may outlast the loss of its lease, while the job is here once more.
            if self._ready.executing.get(job.id) is execution:
                del self._ready.executing[job.id]
        duration_ms = (perf_counter() - began) * 1000.0
        self._settle(job, route, outcome, exchange, started_at, duration_ms)

    # Executing ----------------------------------------------------------------------------------

    async def _execute(
        self, job: Job, route: CompiledRoute | None
    ) -> tuple[Outcome, Exchange | None]:
        if route is None:
            return Dead(f"route {job.route!r} is no longer configured"), None
        event = await self._event(job)
        if event is None:
            return Dead("its event is gone: the retention has dropped it"), None
        match job.kind:
            case "call":
                return await self._call(job, route, event)
            case "handler":
                return await self._handle(job, route, event)
            case _:
                return Dead(f"no handler for jobs of kind {job.kind!r}"), None

    async def _event(self, job: Job) -> Event | None:
        event = job.event
        if (event is None or event.body is None) and job.event_id is not None:
            event = await events.fetch(self._db, job.event_id)
        return event

    async def _call(
        self, job: Job, route: CompiledRoute, event: Event
    ) -> tuple[Outcome, Exchange | None]:
        client = self._clients[job.vendor]
        try:
            decoded = decode(event) if route.needs_event else UNDECODED
            spec = route.render_call(event, decoded, job_id=job.id, attempt=job.attempt + 1)
        except RenderFailed as error:
            return Dead(str(error)), None
        call = Call(
            method=spec.method,
            path=spec.path,
            headers=spec.headers,
            body=spec.body,
            content_type=spec.content_type,
            idempotency_key=str(job.idempotency_key or job.id),
            correlation_id=job.correlation_id,
            traceparent=event.traceparent,
        )
        outcome, reply = await self.send(client, call, self._rules_of(client, route))
        return outcome, self.exchange(client, call, reply, raw=spec.body is event.body)

    def _rules_of(self, client: VendorClient, route: CompiledRoute) -> Rules:
        name = route.route.name
        rules = self._rules.get(name)
        if rules is None:
            rules = self._rules[name] = rules_of(client.api, route.route)
        return rules

    async def send(
        self, client: VendorClient, call: Call, rules: Rules
    ) -> tuple[Completed | Retry | Dead, Reply | None]:
        """Make one call and judge its answer; a vendor that asks for patience parks its lane."""
        reply: Reply | None = None
        result: Reply | CallFailed
        try:
            result = reply = await client.send(call)
        except CallFailed as failure:
            result = failure
        await next_stage()
        outcome = classify(rules, result)
        vendor = client.api.vendor
        if reply is not None and (pause := self._wished_pause(vendor, outcome, reply)) > 0:
            self._park(vendor, pause)
        if (healthy := health(result)) is not None:
            outcome = self._note_health(vendor, healthy, outcome)
        return outcome, reply

    def _note_health(
        self, vendor: str, healthy: bool, outcome: Completed | Retry | Dead
    ) -> Completed | Retry | Dead:
        """Tell lane and breaker how the vendor is; return the outcome of a call that told it."""
        failures = self._failures[vendor] = 0 if healthy else self._failures.get(vendor, 0) + 1
        self._ready.lanes[vendor].failing = failures >= FAILING_AFTER
        breaker = self._breakers.get(vendor)
        if breaker is None:
            return outcome
        was_closed = breaker.closed
        breaker.record(healthy)
        if not was_closed and not healthy and isinstance(outcome, Retry):
            # Back later than the next probe, so that this is another job's turn.
            wait = max(outcome.after_seconds or 0.0, breaker.delay())
            return Retry(outcome.reason, wait, counted=False)
        return outcome

    async def call_for_handler(
        self, vendor: str, call: Call, *, in_line: Callable[[], AbstractContextManager[None]]
    ) -> tuple[Completed | Retry | Dead, Reply | None, Exchange]:
        """Make a call that no lane has asked the vendor's limits for; see :class:`Caller`."""
        client = self._clients.get(vendor)
        if client is None:
            raise GatewayError(f"job.call: vendor {vendor!r} has no [vendors.{vendor}.api] section")
        await self._until_callable(vendor)
        with in_line():
            await self._limiters[vendor].acquire()
        await self._until_callable(vendor)  # the line may have been long
        breaker = self._breakers.get(vendor)
        permit = breaker.allow() if breaker is not None else NO_PROBE
        assert permit is not None  # noqa: S101  # nothing has come between since it was asked
        try:
            outcome, reply = await self.send(client, call, client.rules)
        finally:
            if breaker is not None and breaker.give_back(permit):
                self._ready.lanes[vendor].look_again()
        return outcome, reply, self.exchange(client, call, reply)

    async def _until_callable(self, vendor: str) -> None:
        """Wait a moment for a vendor that is not to be called now; else snooze the job."""
        while (wait := self._ready.lanes[vendor].idle_seconds()) > 0:
            if wait > SHORT_WAIT_SECONDS:
                wait = min(wait, MAX_PARKED_SECONDS)
                raise CallUnsuccessful(
                    Snooze(wait, f"{vendor} is paused or asked for patience"), None
                )
            await asyncio.sleep(wait)
        breaker = self._breakers.get(vendor)
        if breaker is not None and (wait := breaker.delay()) > 0:
            wait = max(1.0, wait)
            raise CallUnsuccessful(Snooze(wait, f"the breaker of {vendor} is open"), None)

    def _wished_pause(self, vendor: str, outcome: Outcome, reply: Reply) -> float:
        """Return for how many seconds the vendor wants to be left alone, by its own words; or 0.

        It asks for that, or says that its limit is as good as used up. Jitter is upward only.
        """
        pause = 0.0
        wish = outcome.after_seconds if isinstance(outcome, Retry) else None
        if wish is None and reply.status in (429, 503):
            wish = reply.retry_after_seconds
        if wish:
            pause = wish + self._random.uniform(0.0, min(1.0, 0.1 * wish))
        if reply.quota is not None:
            # This call is among those that the vendor has counted.
            in_flight = max(0, self._ready.lanes[vendor].running - 1)
            pause = max(pause, pause_seconds(reply.quota, in_flight=in_flight, random=self._random))
        return pause

    def exchange(
        self, client: VendorClient, call: Call, reply: Reply | None, *, raw: bool = False
    ) -> Exchange:
        """Return what is kept of a call; a *raw* body is the event's, which is kept already."""
        exchange = Exchange(
            request=describe_request(
                call,
                redaction=client.redaction,
                excerpt_bytes=0 if raw else self._excerpt_bytes,
            )
        )
        if raw:
            exchange.request.pop("body", None)
        if reply is not None:
            exchange.response = describe_reply(
                reply, redaction=client.redaction, excerpt_bytes=self._excerpt_bytes
            )
            exchange.http_status = reply.status
        return exchange

    async def _handle(
        self, job: Job, route: CompiledRoute, event: Event
    ) -> tuple[Outcome, Exchange | None]:
        handler = self._handlers.get(job.route)
        if handler is None:
            return Dead(f"route {job.route!r} has no handler any more"), None
        deadline = self._deadlines.within(self._handler_timeout_seconds)
        context = JobContext(self, job, event, in_line=deadline.paused)
        try:
            with deadline:
                returned = await handler(context)
        except TimeoutError:
            if not deadline.expired:
                raise  # it is the handler's own
            return Retry(f"no outcome within {self._handler_timeout_seconds:g} s"), context.exchange
        except CallUnsuccessful as error:
            return error.outcome, context.exchange
        return _outcome_of(returned, route.route.handler), context.exchange

    async def _mark_started(self, job: Job, started_at: datetime) -> bool:
        """Write that a job which already lost a node is executing, before it executes.

        Should it take this node down too, its rescue counts the attempt.
        """
        if job.id in await jobs.mark_started(self._db, [(job, started_at)]):
            return True
        self._ready.forget(job)
        self._metrics.lost_leases_total.inc()
        return False

    # Settling -----------------------------------------------------------------------------------

    def _settle(
        self,
        job: Job,
        route: CompiledRoute | None,
        outcome: Outcome,
        exchange: Exchange | None,
        started_at: datetime,
        duration_ms: float,
    ) -> None:
        policy = route.policy if route is not None else RetryPolicy()
        settled = Settled(
            job=job,
            state="completed",
            attempt=job.attempt + 1,
            outcome="completed",
            started_at=started_at,
            duration_ms=duration_ms,
        )
        match outcome:
            case Completed():
                pass
            case Retry():
                self._settle_retry(settled, policy, outcome)
            case Snooze(seconds, reason):
                settled.state, settled.outcome = "scheduled", "snooze"
                settled.attempt = job.attempt
                settled.delay_seconds = max(0.0, seconds)
                settled.error = _kept(reason) or None
            case Cancel(reason):
                settled.state, settled.outcome, settled.error = (
                    "cancelled",
                    "cancel",
                    _kept(reason),
                )
            case Dead(reason):
                settled.state, settled.outcome, settled.error = "dead", "dead", _kept(reason)
            case _:
                assert_never(outcome)
        if exchange is not None:
            settled.http_status = exchange.http_status
            settled.request = _encode(exchange.request).decode()
            if exchange.response is not None:
                settled.response = _encode(exchange.response).decode()
        self._settlement.record(settled)
        self._tell(settled)

    def _settle_retry(self, settled: Settled, policy: RetryPolicy, outcome: Retry) -> None:
        job, reason = settled.job, outcome.reason
        settled.outcome, settled.error = "retry", _kept(reason)
        delay = backoff.delay_seconds(
            policy, settled.attempt, random=self._random, retry_after=outcome.after_seconds
        )
        age = (datetime.now(UTC) - job.created_at).total_seconds()
        if outcome.counted and settled.attempt >= job.max_attempts:
            settled.state = settled.outcome = "dead"
            settled.error = _kept(f"{reason} (attempt {settled.attempt} of {job.max_attempts})")
        elif age + delay > policy.max_age_seconds:
            settled.state = settled.outcome = "dead"
            settled.error = _kept(f"{reason} (older than its max_age)")
        else:
            settled.state, settled.delay_seconds = "scheduled", delay
            if not outcome.counted:
                settled.attempt, settled.outcome = job.attempt, "snooze"

    def _tell(self, settled: Settled) -> None:
        job = settled.job
        self._metrics.attempts_total[job.vendor, settled.outcome].inc()
        self._metrics.attempt_seconds[job.vendor].observe(settled.duration_ms / 1000.0)
        match settled.state:
            case "completed":
                age = (datetime.now(UTC) - job.created_at).total_seconds()
                self._metrics.delivery_seconds[job.vendor].observe(max(0.0, age))
            case "dead":
                log.warning(
                    "job_died",
                    job_id=str(job.id),
                    route=job.route,
                    vendor=job.vendor,
                    attempt=settled.attempt,
                    error=settled.error,
                    correlation_id=job.correlation_id,
                )
            case "scheduled":
                log.info(
                    "job_postponed",
                    job_id=str(job.id),
                    route=job.route,
                    vendor=job.vendor,
                    attempt=settled.attempt,
                    outcome=settled.outcome,
                    error=settled.error,
                    delay_seconds=round(settled.delay_seconds, 3),
                    correlation_id=job.correlation_id,
                )
            case _:
                pass


def _outcome_of(returned: object, handler: str | None) -> Outcome:
    """Return what a handler's return value stands for."""
    match returned:
        case None:
            return Completed()
        case Completed() | Retry() | Snooze() | Cancel() | Dead():
            return checked(returned, handler)
        case other:
            return Dead(
                f"handler {handler} returned {type(other).__name__}, expected"
                " Completed, Retry, Snooze, Cancel, Dead or None"
            )


def _kept(reason: str) -> str:
    return storable(reason, MAX_ERROR_CHARS)
