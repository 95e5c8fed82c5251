"""The intake: a webhook is read, verified, identified, committed, and only then answered.

There are two ways in, which differ only in who waits. A webhook that has come as a whole, and that
can be judged at once, is taken from within its connection's callback (:meth:`Intake.take`), judged
stage by stage with all others that came in the same turn, and answered so with all others that were
committed by then. For all else, a body that is still coming, a handshake, keys to be fetched, there
is a coroutine (:meth:`Intake.handle`).
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import cast

import msgspec
from aiohttp import web

from gateway.cohorts import Cohort
from gateway.config.model import ServerSection
from gateway.errors import DatabaseUnavailable, SignatureRefused
from gateway.messages import Request
from gateway.model import Event, Receipt
from gateway.queue.acceptance import AcceptanceDesk
from gateway.routing import Router
from gateway.store.ids import new_id
from gateway.store.writes import Acceptance
from gateway.telemetry.logs import get_logger
from gateway.telemetry.metrics import Metrics
from gateway.traces import well_formed
from gateway.vendors.fetch import FetchFailed
from gateway.web.answers import (
    Refusal,
    Said,
    failure_said,
    handshake_said,
    receipt_said,
    refusal_said,
    unavailable,
    wrong_method,
)
from gateway.web.caller import Networks, caller_address, peer_of
from gateway.web.connections import Connection
from gateway.web.doors import Door, bucket_of, open_doors
from gateway.web.handshaking import Fetch, fetch_nothing, learn
from gateway.web.received import correlation_id_of, kept_headers, read_body, signed_request
from gateway.web.throttle import Brake, Places
from gateway.webhooks.decompress import decode_received
from gateway.webhooks.extract import UNDECODED
from gateway.webhooks.handshakes import Answer
from gateway.webhooks.signed import SignedRequest

log = get_logger("gateway.intake")

PREFIX = "/webhooks/"
MIN_COMMIT_SECONDS = 0.1  # whatever fetching a sender's keys took
MAX_QUERY_CHARS = 8192

_POSITIONS = tuple(str(number) for number in range(1, 1001))  # of secrets, as people count


@dataclass(slots=True, eq=False)
class _Arrival:
    """One webhook that came as a whole, and what each stage learns of it."""

    door: Door
    request: Request
    connection: Connection
    began: float  # by perf_counter
    correlation_id: str = ""
    inside: bool = False  # whether it takes a place
    signed: SignedRequest = field(init=False)
    acceptance: Acceptance = field(init=False)
    receipt: Receipt = field(init=False)
    said: bytes = field(init=False)
    forgotten: bool = False


class Intake:
    """Answers the public listener. ``doors`` may be replaced while it runs."""

    def __init__(
        self,
        doors: Mapping[str, Door],
        *,
        router: Router,
        desk: AcceptanceDesk,
        backlog_full: Callable[[], bool],
        metrics: Metrics,
        server: ServerSection = ServerSection(),  # noqa: B008  # it is frozen
        fetch: Fetch = fetch_nothing,
    ) -> None:
        self.doors = dict(doors)
        self._places = Places(server.concurrency)
        self._brake = Brake()  # on what comes to no door
        self._bucket = bucket_of(server)
        self._fetch = fetch
        self._trusted_proxies = Networks(server.trusted_proxies)
        self.router = router
        self.draining = False
        self.under_way = 0  # requests that are not answered yet
        self._cohort: Cohort[_Arrival] = Cohort(
            (self._admit_arrival, self._verify_arrival, self._identify_arrival, self._post_arrival),
            self._refuse_arrival,
        )
        self._answers: Cohort[_Arrival] = Cohort(
            (self._count_arrival, self._say_arrival, self._send_arrival), self._refuse_arrival
        )
        self._desk = desk
        self._backlog_full = backlog_full
        self._metrics = metrics

    # At once: nobody waits ------------------------------------------------------------------------

    def door_for(self, method: str, target: str, body_bytes: int) -> Door | None:
        """See Prompt: the door of a webhook that is judged without waiting."""
        door = self._door_at(target.partition("?")[0])
        if (
            door is not None
            and door.prompt
            and method == "POST"
            and "#" not in target
            and body_bytes <= door.config.max_body_bytes
        ):
            return door
        return None

    def take(self, door: Door, request: Request, connection: Connection) -> None:
        """See Prompt: judge the webhook with all that come now; answer it when it is committed."""
        self.under_way += 1
        began = time.perf_counter() - connection.waited_seconds
        self._cohort.join(_Arrival(door, request, connection, began))

    def _admit_arrival(self, arrival: _Arrival) -> None:
        door, request, connection = arrival.door, arrival.request, arrival.connection
        arrival.correlation_id = correlation_id_of(request.headers)
        if connection.late:
            raise unavailable("too many requests at once", result="overloaded")
        self._admit(door, "POST", request.headers, connection.transport)
        self._enter(door)
        arrival.inside = True

    def _verify_arrival(self, arrival: _Arrival) -> None:
        request = arrival.request
        query = request.target.partition("?")[2]
        arrival.signed = signed_request(
            arrival.door, "POST", request.target, request.headers, request.body, query
        )
        self._verify(arrival.door, arrival.signed, now=time.time())

    def _identify_arrival(self, arrival: _Arrival) -> None:
        arrival.acceptance = self._identify(arrival.door, arrival.signed, arrival.correlation_id)

    def _post_arrival(self, arrival: _Arrival) -> None:
        self._desk.post(
            arrival.acceptance,
            partial(self._answer_arrival, arrival),
            patience_seconds=_patience_seconds(arrival.door, arrival.began),
        )

    def _answer_arrival(self, arrival: _Arrival, result: Receipt | BaseException) -> None:
        if isinstance(result, Receipt):
            arrival.receipt = result
            self._answers.join(arrival)
        elif isinstance(result, Exception):
            self._refuse_arrival(arrival, result)
        else:  # the commit was cancelled
            self._forget_arrival(arrival)
            arrival.connection.force_close()

    def _count_arrival(self, arrival: _Arrival) -> None:
        self._count(arrival.door, arrival.receipt, arrival.began)

    def _say_arrival(self, arrival: _Arrival) -> None:
        correlation_id = arrival.acceptance.event.correlation_id
        arrival.said = receipt_said(arrival.door, arrival.receipt, correlation_id).written()

    def _send_arrival(self, arrival: _Arrival) -> None:
        self._forget_arrival(arrival)
        arrival.connection.answer(arrival.said)

    def _refuse_arrival(self, arrival: _Arrival, error: Exception) -> None:
        self._forget_arrival(arrival)
        path = arrival.request.target.partition("?")[0]
        said = self._told(arrival.door, error, arrival.correlation_id, path)
        if said.status < 500:
            arrival.door.brake.let(partial(arrival.connection.answer, said.written()))
        else:
            arrival.connection.answer(said.written())

    def _forget_arrival(self, arrival: _Arrival) -> None:
        if arrival.forgotten:
            return  # its answer could not be sent
        arrival.forgotten = True
        self.under_way -= 1
        if arrival.inside:
            self._leave(arrival.door)

    # A coroutine of its own -----------------------------------------------------------------------

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer any request of the public listener; never raises but when cancelled."""
        correlation_id = correlation_id_of(request.headers)
        self.under_way += 1
        try:
            said = await self._receive(request, correlation_id)
        except Exception as error:  # noqa: BLE001  # whatever it is, it has an answer
            door = self._door_at(request.path)
            response = self._told(door, error, correlation_id, request.path).response()
            if response.status < 500:
                await self._brake_at(door).wait()
            if response.status == 413 or not request.content.is_eof():
                # Nothing more is read from this connection: the body could go on for ever.
                response.force_close()
            return response
        finally:
            self.under_way -= 1
        return said.response()

    async def _receive(self, request: web.BaseRequest, correlation_id: str) -> Said:
        """Take one webhook in, or shake hands, if there is room; the answer follows COMMIT."""
        door = self._door_at(request.path)
        if door is None:
            raise Refusal(404, "no such vendor or path")
        if request.method not in door.methods:
            raise wrong_method(door)
        self._admit(door, request.method, request.headers, request.transport)
        self._enter(door)
        try:
            return await self._take_in(door, request, correlation_id)
        finally:
            self._leave(door)

    async def _take_in(self, door: Door, request: web.BaseRequest, correlation_id: str) -> Said:
        began = time.perf_counter()
        body = await read_body(request, door.config.max_body_bytes)
        arrived, now = time.perf_counter() - _waited_seconds(request), time.time()
        query = request.rel_url.raw_query_string
        signed = signed_request(door, request.method, request.path_qs, request.headers, body, query)
        answer = self._unsigned_answer(door, signed)
        if answer is None:
            fetched = await self._fetch_keys(door, signed)
            index = self._verify(door, signed, now=now, fetched=fetched)
            answer = self._signed_answer(door, signed, index)
        if answer is not None:
            await self._shake_hands(door, answer)
            return handshake_said(answer, correlation_id)
        acceptance = self._identify(door, signed, correlation_id)
        receipt = await self._desk.accept(
            acceptance, patience_seconds=_patience_seconds(door, arrived)
        )
        self._count(door, receipt, began)
        return receipt_said(door, receipt, acceptance.event.correlation_id)

    def _unsigned_answer(self, door: Door, signed: SignedRequest) -> Answer | None:
        """Return the answer to a handshake that proves itself, or has nothing to prove."""
        try:
            answer = door.handshakes.unsigned_answer(signed) if door.handshakes else None
        except SignatureRefused as refused:
            raise self._unshaken(door, refused.reason) from None
        if answer is None and signed.method != "POST":
            raise wrong_method(door)
        return answer

    def _signed_answer(self, door: Door, signed: SignedRequest, index: int) -> Answer | None:
        """Return the answer to a verified handshake; None for an event."""
        try:
            return door.handshakes.signed_answer(signed, index) if door.handshakes else None
        except SignatureRefused as refused:
            raise self._unshaken(door, refused.reason) from None

    async def _fetch_keys(self, door: Door, signed: SignedRequest) -> bytes:
        """Return what only the sender's own servers can tell; for most senders that is nothing."""
        if door.verifier is None or not door.verifier.fetches:
            return b""
        try:
            need = door.verifier.needs(signed)
            return b"" if need is None else await self._fetch(need)
        except SignatureRefused as refused:
            raise self._unverified(door, refused.reason) from None
        except FetchFailed as error:
            log.warning("sender_unreachable", vendor=door.config.vendor, error=str(error))
            raise unavailable("the sender's keys cannot be fetched at the moment") from None

    async def _shake_hands(self, door: Door, answer: Answer) -> None:
        """Do what must be done before a handshake is answered."""
        vendor = door.config.vendor
        if answer.learnt is not None:
            await self._learn(door, answer.learnt)
        if answer.confirm is not None:
            try:
                await self._fetch(answer.confirm)
            except FetchFailed as error:
                log.warning("sender_unreachable", vendor=vendor, error=str(error))
                raise unavailable("the subscription cannot be confirmed at the moment") from None
        log.info("handshake_answered", vendor=vendor, status=answer.status)
        self._metrics.webhooks_total[vendor, "handshake"].inc()

    async def _learn(self, door: Door, secret: str) -> None:
        vendor = door.config.vendor
        try:
            config = await learn(door.config, secret)
        except SignatureRefused as refused:
            raise self._unshaken(door, refused.reason) from None
        except OSError as error:
            log.error("handshake_refused", vendor=vendor, reason=str(error))
            raise unavailable("the handshake's secret cannot be kept") from None
        if config is None:
            return
        fresh = open_doors({vendor: config})[vendor]
        self.doors[vendor] = msgspec.structs.replace(
            fresh, bucket=door.bucket, places=door.places, brake=door.brake
        )
        path = config.learn_secret.path if config.learn_secret else ""
        log.warning("secret_learnt", vendor=vendor, file=str(path))

    # Steps of both --------------------------------------------------------------------------------

    def _door_at(self, path: str) -> Door | None:
        return self.doors.get(path[len(PREFIX) :]) if path.startswith(PREFIX) else None

    def _brake_at(self, door: Door | None) -> Brake:
        return door.brake if door is not None else self._brake

    def _admit(
        self,
        door: Door,
        method: str,
        headers: Mapping[str, str],
        transport: asyncio.BaseTransport | None,
    ) -> None:
        """Let a request in, whose body nobody has looked at; raises :class:`Refusal`."""
        if self.draining:
            raise unavailable("shutting down")
        if method == "POST" and self._backlog_full():  # a GET stores nothing
            raise unavailable("too many jobs wait already")
        if door.allowed:
            address = caller_address(peer_of(transport), headers, self._trusted_proxies)
            if address is None or address not in door.allowed:
                self._log_unverified(door, f"caller {address} is not in allow_ips")
                raise Refusal(403, "not allowed from this address", result="unverified")
        # A flood on one path is stopped by its own bucket before it takes of everybody's.
        for bucket in (door.bucket, self._bucket):
            if bucket is not None and (wait := bucket.take(time.monotonic())) > 0:
                retry_after = {"Retry-After": str(math.ceil(wait))}
                raise Refusal(429, "too many requests", result="throttled", headers=retry_after)
        if self._places.full or door.places.full:
            raise unavailable("too many requests at once", result="overloaded")

    def _enter(self, door: Door) -> None:
        self._places.taken += 1
        door.places.taken += 1

    def _leave(self, door: Door) -> None:
        self._places.taken -= 1
        door.places.taken -= 1

    def _verify(
        self, door: Door, signed: SignedRequest, *, now: float, fetched: bytes = b""
    ) -> int:
        """Return which of the vendor's secrets the request was signed with."""
        vendor = door.config.vendor
        if door.verifier is None:
            self._metrics.webhook_secrets_total[vendor, "none"].inc()
            return 0
        try:
            index = door.verifier.verify(signed, now, fetched)
        except SignatureRefused as refused:
            raise self._unverified(door, refused.reason) from None
        self._metrics.webhook_secrets_total[vendor, _POSITIONS[index]].inc()
        return index

    def _identify(self, door: Door, signed: SignedRequest, correlation_id: str) -> Acceptance:
        """Return the event that the verified request is, with its jobs, as it is committed."""
        headers, body, vendor = signed.headers, signed.body, door.config.vendor
        decoded: object = UNDECODED
        if self.router.reads_body(vendor):
            decoded = decode_received(body, headers)
        elif door.decode_json is not None:
            decoded = decode_received(body, headers, door.decode_json)
        kept, headers_json = kept_headers(headers, door.masked)
        event_id = new_id()
        event = Event(
            id=event_id,
            vendor=vendor,
            event_type=door.find_event_type(headers, decoded, body),
            dedupe_key=door.find_dedupe_key(headers, decoded, body),
            correlation_id=correlation_id or str(event_id),
            traceparent=well_formed(headers.get("traceparent")),
            headers=kept,
            query=signed.query[:MAX_QUERY_CHARS],
            body=body,
            received_at=datetime.now(UTC),
        )
        jobs = self.router.jobs_for(event, decoded)
        return Acceptance(event, headers_json, jobs, door.config.dedupe_window_seconds)

    def _count(self, door: Door, receipt: Receipt, began: float) -> None:
        vendor = door.config.vendor
        self._metrics.webhooks_total[vendor, "duplicate" if receipt.duplicate else "accepted"].inc()
        self._metrics.webhook_seconds[vendor].observe(time.perf_counter() - began)

    # What goes wrong ------------------------------------------------------------------------------

    def _told(
        self, door: Door | None, error: BaseException, correlation_id: str, path: str
    ) -> Said:
        """Return what the sender is told of *error*; count it, log what operators should see."""
        match error:
            case Refusal():
                refusal = error
            case DatabaseUnavailable():
                vendor = door.config.vendor if door is not None else ""
                log.warning("webhook_postponed", vendor=vendor, error=str(error))
                refusal = unavailable("cannot store webhooks at the moment")
            case ConnectionError() | web.RequestPayloadError():
                # The sender went away in the middle of its body; the answer reaches nobody.
                log.info("sender_vanished", path=path[:200], error=str(error))
                return failure_said(400, "the body did not arrive", correlation_id)
            case _:
                log.error("intake_failed", path=path[:200], exc_info=error)
                return failure_said(500, "internal error", correlation_id)
        self._metrics.webhooks_total[path.removeprefix(PREFIX), refusal.result].inc()
        return refusal_said(door, refusal, correlation_id)

    def _unverified(self, door: Door, reason: str) -> Refusal:
        self._log_unverified(door, reason)
        return Refusal(401, "not verified", result="unverified")

    def _log_unverified(self, door: Door, reason: str) -> None:
        if (more := door.lines.turn()) is not None:
            log.warning("webhook_unverified", vendor=door.config.vendor, reason=reason, **more)

    def _unshaken(self, door: Door, reason: str) -> Refusal:
        if (more := door.lines.turn()) is not None:
            log.warning("handshake_refused", vendor=door.config.vendor, reason=reason, **more)
        return Refusal(403, "handshake refused", result="unverified")


def _patience_seconds(door: Door, arrived: float) -> float:
    """Return for how long the commit may be waited for; *arrived* by perf_counter."""
    waits_seconds = time.perf_counter() - arrived
    return max(MIN_COMMIT_SECONDS, door.config.answer_within_seconds - waits_seconds)


def _waited_seconds(request: web.BaseRequest) -> float:
    """Return how long the last of a request waited at the turnstile."""
    return cast(Connection, request.protocol).waited_seconds
