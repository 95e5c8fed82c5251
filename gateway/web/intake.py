"""The intake: a webhook is read, verified, identified, committed, and only then answered."""

from __future__ import annotations

import asyncio
import math
import re
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import cast

import msgspec
from aiohttp import web

from gateway.config.model import ServerSection
from gateway.errors import DatabaseUnavailable, SignatureRefused
from gateway.model import Event
from gateway.queue.acceptance import AcceptanceDesk, Receipt
from gateway.routing import Router
from gateway.store.events import Acceptance
from gateway.store.ids import new_id
from gateway.telemetry.logs import get_logger
from gateway.telemetry.metrics import Metrics
from gateway.texts import storable
from gateway.traces import well_formed
from gateway.vendors.fetch import FetchFailed
from gateway.web.caller import Networks, caller_address
from gateway.web.doors import Door, bucket_of, open_doors
from gateway.web.handshaking import Fetch, fetch_nothing, learn, verify_request
from gateway.web.throttle import Places
from gateway.web.written import WrittenAnswer
from gateway.webhooks.decompress import decode_received
from gateway.webhooks.extract import UNDECODED
from gateway.webhooks.handshakes import Answer, Handshakes
from gateway.webhooks.verify import SignedRequest, public_url

log = get_logger("gateway.intake")

PREFIX = "/webhooks/"
BODY_SECONDS = 20.0  # for the whole body of one request
MIN_COMMIT_SECONDS = 0.1  # whatever fetching a sender's keys took
MAX_HEADERS_BYTES = 64 << 10  # of all headers of one webhook, as they are stored
RETRY_AFTER_SECONDS = 5

_POSITIONS = tuple(str(number) for number in range(1, 1001))  # of secrets, as people count
_SANE_CORRELATION_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/+=-]{0,127}").fullmatch

_encode = msgspec.json.Encoder().encode


class Refusal(Exception):  # an answer, not a failure
    """Ends a request early with an answer that is no success."""

    def __init__(
        self,
        status: int,
        error: str,
        *,
        result: str = "refused",
        headers: dict[str, str] | None = None,
    ) -> None:
        self.status = status
        self.error = error
        self.result = result
        self.headers = headers or {}
        super().__init__(error)


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
        self._bucket = bucket_of(server)
        self._fetch = fetch
        self._trusted_proxies = Networks(server.trusted_proxies)
        self.router = router
        self.draining = False
        self.under_way = 0  # requests that are not answered yet
        self._desk = desk
        self._backlog_full = backlog_full
        self._metrics = metrics

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer any request of the public listener; never raises but when cancelled."""
        correlation_id = _correlation_id(request)
        self.under_way += 1
        try:
            return await self.receive_webhook(request, correlation_id)
        except Refusal as refusal:
            return self._refuse(request, refusal, correlation_id)
        except (ConnectionError, web.RequestPayloadError) as error:
            # The sender went away in the middle of its body; the answer reaches nobody.
            log.info("sender_vanished", path=request.path[:200], error=str(error))
            return _json(400, {"error": "the body did not arrive"}, correlation_id)
        except Exception:
            log.exception("intake_failed", path=request.path[:200])
            return _json(500, {"error": "internal error"}, correlation_id)
        finally:
            self.under_way -= 1

    async def receive_webhook(
        self, request: web.BaseRequest, correlation_id: str
    ) -> web.StreamResponse:
        """Take one webhook in, if there is room; the answer follows COMMIT."""
        door = self._door(request)
        self._check_open(request)
        self._check_caller(door, request)
        places, own = self._places, door.places
        if places.full or own.full:
            raise _overloaded()
        places.taken += 1
        own.taken += 1
        try:
            return await self._take_in(door, request, correlation_id)
        finally:
            places.taken -= 1
            own.taken -= 1

    async def _take_in(
        self, door: Door, request: web.BaseRequest, correlation_id: str
    ) -> web.StreamResponse:
        began = time.perf_counter()
        vendor = door.config.vendor
        body = await _read_body(request, door.config.max_body_bytes)
        arrived = time.perf_counter()
        signed = _signed_request(door, request, body)
        if door.handshakes is not None:
            answer = await self._handshake(door, door.handshakes, signed)
            if answer is not None:
                return await self._shake_hands(door, answer, correlation_id)
        else:
            await self._verify(door, signed)

        headers = request.headers
        received_at = datetime.now(UTC)
        decoded: object = UNDECODED
        if door.decodes or self.router.reads_body(vendor):
            decoded = decode_received(body, headers)
        event_id = new_id()
        event = Event(
            id=event_id,
            vendor=vendor,
            event_type=door.find_event_type(headers, decoded, body),
            dedupe_key=door.find_dedupe_key(headers, decoded, body),
            correlation_id=correlation_id or str(event_id),
            traceparent=well_formed(headers.get("traceparent")),
            headers=_kept_headers(headers, door.masked),
            query=request.rel_url.raw_query_string[:8192],
            body=body,
            received_at=received_at,
        )
        jobs = self.router.jobs_for(event, decoded)
        try:
            receipt = await self._desk.accept(
                Acceptance(event, jobs, door.config.dedupe_window_seconds),
                patience_seconds=max(
                    MIN_COMMIT_SECONDS,
                    door.config.answer_within_seconds - (time.perf_counter() - arrived),
                ),
            )
        except DatabaseUnavailable as error:
            log.warning("webhook_postponed", vendor=vendor, error=str(error))
            raise _unavailable("cannot store webhooks at the moment") from None
        self._metrics.webhooks_total[vendor, "duplicate" if receipt.duplicate else "accepted"].inc()
        self._metrics.webhook_seconds[vendor].observe(time.perf_counter() - began)
        return _receipt(door, receipt, event.correlation_id)

    def _door(self, request: web.BaseRequest) -> Door:
        path = request.path
        door = self.doors.get(path[len(PREFIX) :]) if path.startswith(PREFIX) else None
        if door is None:
            raise Refusal(404, "no such vendor or path")
        if request.method not in door.methods:
            raise _wrong_method(door)
        return door

    def _check_open(self, request: web.BaseRequest) -> None:
        if self.draining:
            raise _unavailable("shutting down")
        if request.method == "POST" and self._backlog_full():  # a GET stores nothing
            raise _unavailable("too many jobs wait already")

    def _check_caller(self, door: Door, request: web.BaseRequest) -> None:
        if door.allowed:
            address = caller_address(request.remote, request.headers, self._trusted_proxies)
            if address is None or address not in door.allowed:
                if (more := door.lines.turn()) is not None:
                    reason = f"caller {address} is not in allow_ips"
                    vendor = door.config.vendor
                    log.warning("webhook_unverified", vendor=vendor, reason=reason, **more)
                raise Refusal(403, "not allowed from this address", result="unverified")
        # A flood on one path is stopped by its own bucket before it takes of everybody's.
        for bucket in (door.bucket, self._bucket):
            if bucket is not None and (wait := bucket.take(time.monotonic())) > 0:
                retry_after = {"Retry-After": str(math.ceil(wait))}
                raise Refusal(429, "too many requests", result="throttled", headers=retry_after)

    async def _handshake(
        self, door: Door, handshakes: Handshakes, signed: SignedRequest
    ) -> Answer | None:
        """Return the answer to a handshake; None for an event, which is verified then."""
        try:
            answer = handshakes.unsigned_answer(signed)
            if answer is None and signed.method != "POST":
                raise _wrong_method(door)
            if answer is None:
                answer = handshakes.signed_answer(signed, await self._verify(door, signed))
        except SignatureRefused as refused:
            if (more := door.lines.turn()) is not None:
                vendor = door.config.vendor
                log.warning("handshake_refused", vendor=vendor, reason=refused.reason, **more)
            raise Refusal(403, "handshake refused", result="unverified") from None
        return answer

    async def _shake_hands(
        self, door: Door, answer: Answer, correlation_id: str
    ) -> web.StreamResponse:
        vendor = door.config.vendor
        if answer.learnt is not None:
            await self._learn(door, answer.learnt)
        if answer.confirm is not None:
            try:
                await self._fetch(answer.confirm)
            except FetchFailed as error:
                log.warning("sender_unreachable", vendor=vendor, error=str(error))
                raise _unavailable("the subscription cannot be confirmed at the moment") from None
        log.info("handshake_answered", vendor=vendor, status=answer.status)
        self._metrics.webhooks_total[vendor, "handshake"].inc()
        content_type = answer.headers.get("Content-Type", "text/plain; charset=utf-8")
        more = {name: value for name, value in answer.headers.items() if name != "Content-Type"}
        return _answer(
            answer.status,
            answer.body,
            correlation_id or str(new_id()),
            content_type,
            more,
        )

    async def _learn(self, door: Door, secret: str) -> None:
        vendor = door.config.vendor
        try:
            config = await learn(door.config, secret)
        except SignatureRefused as refused:
            if (more := door.lines.turn()) is not None:
                log.warning("handshake_refused", vendor=vendor, reason=refused.reason, **more)
            raise Refusal(403, "handshake refused", result="unverified") from None
        except OSError as error:
            log.error("handshake_refused", vendor=vendor, reason=str(error))
            raise _unavailable("the handshake's secret cannot be kept") from None
        if config is None:
            return
        fresh = open_doors({vendor: config})[vendor]
        self.doors[vendor] = msgspec.structs.replace(fresh, bucket=door.bucket, places=door.places)
        path = config.learn_secret.path if config.learn_secret else ""
        log.warning("secret_learnt", vendor=vendor, file=str(path))

    async def _verify(self, door: Door, signed: SignedRequest) -> int:
        """Return which of the vendor's secrets the request was signed with."""
        vendor = door.config.vendor
        verifier = door.verifier
        if verifier is None:
            self._metrics.webhook_secrets_total[vendor, "none"].inc()
            return 0
        try:
            if verifier.fetches:
                index = await verify_request(verifier, signed, time.time(), self._fetch)
            else:
                index = verifier.verify(signed, time.time())
        except SignatureRefused as refused:
            if (more := door.lines.turn()) is not None:
                log.warning("webhook_unverified", vendor=vendor, reason=refused.reason, **more)
            raise Refusal(401, "not verified", result="unverified") from None
        except FetchFailed as error:
            log.warning("sender_unreachable", vendor=vendor, error=str(error))
            raise _unavailable("the sender's keys cannot be fetched at the moment") from None
        self._metrics.webhook_secrets_total[vendor, _POSITIONS[index]].inc()
        return index

    def _refuse(
        self, request: web.BaseRequest, refusal: Refusal, correlation_id: str
    ) -> web.StreamResponse:
        vendor = request.path.removeprefix(PREFIX)
        self._metrics.webhooks_total[vendor, refusal.result].inc()
        door = self.doors.get(vendor)
        terse = door is not None and _is_terse(door)
        body = b"" if terse else _encode({"error": refusal.error})
        content_type = "text/plain" if terse else "application/json"
        correlation_id = correlation_id or str(new_id())
        closes = refusal.status == 413 or not request.content.is_eof()
        if request.method == "POST" and not closes:  # what a flood gets
            written = WrittenAnswer(
                refusal.status,
                body,
                correlation_id=correlation_id,
                content_type=content_type,
                headers=refusal.headers,
            )
            return cast(web.StreamResponse, written)
        response = _answer(refusal.status, body, correlation_id, content_type, refusal.headers)
        if closes:
            # Nothing more is read from this connection: the body could go on for ever.
            response.force_close()
        return response


async def _read_body(request: web.BaseRequest, max_bytes: int) -> bytes:
    """Return the raw body, at most *max_bytes* of it, within BODY_SECONDS."""
    content = request.content
    if content.is_eof() and content.total_bytes <= max_bytes:
        return content.read_nowait(-1)  # it came with the headers: the common case
    too_large = Refusal(413, f"the body is larger than {max_bytes} bytes", result="too_large")
    if (request.content_length or 0) > max_bytes:
        raise too_large
    if request.headers.get("Expect", "").lower() == "100-continue":
        assert request.transport is not None  # noqa: S101  # the request has just arrived on it
        request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    chunks = []
    size = 0
    try:
        async with asyncio.timeout(BODY_SECONDS):
            while chunk := await content.readany():
                size += len(chunk)
                if size > max_bytes:
                    raise too_large
                chunks.append(chunk)
    except TimeoutError:
        raise Refusal(408, f"the body did not arrive within {BODY_SECONDS:g} s") from None
    return b"".join(chunks)


def _signed_request(door: Door, request: web.BaseRequest, body: bytes) -> SignedRequest:
    """Return what a signature may cover; the URL is the public one where it is configured."""
    url = request.path_qs
    if door.config.url:
        url = public_url(door.config.url, url)
    return SignedRequest(
        request.method, url, request.headers, body, request.rel_url.raw_query_string
    )


def _correlation_id(request: web.BaseRequest) -> str:
    """Return the caller's correlation id if it is a sane one, else nothing."""
    given = request.headers.get("x-correlation-id")
    return given if given is not None and _SANE_CORRELATION_ID(given) else ""


def _kept_headers(headers: Mapping[str, str], masked: frozenset[str]) -> dict[str, str]:
    """Return the headers with names in lower case, repeated ones joined, secrets masked."""
    kept = {name.lower(): value for name, value in headers.items()}
    if len(kept) < len(headers):
        kept = {}
        for name, value in headers.items():
            name = name.lower()
            kept[name] = f"{kept[name]}, {value}" if name in kept else value
    for name in masked.intersection(kept):
        kept[name] = "***"
    try:
        encoded = _encode(kept)
        plain = b"\\u0000" not in encoded
    except UnicodeEncodeError:  # bytes that are no UTF-8 arrive as lone surrogates
        kept = {storable(n): storable(v) for n, v in kept.items()}
        encoded, plain = _encode(kept), True
    if len(encoded) > MAX_HEADERS_BYTES:
        raise Refusal(431, f"the headers are larger than {MAX_HEADERS_BYTES} bytes")
    return kept if plain else {storable(n): storable(v) for n, v in kept.items()}


def _receipt(door: Door, receipt: Receipt, correlation_id: str) -> web.StreamResponse:
    override = door.config.response
    status = 200 if receipt.duplicate else 202
    if override.status != 202:
        status = override.status
    content_type = "application/json"
    if override.body is not None:
        body, content_type = override.body.encode(), "text/plain; charset=utf-8"
    elif _is_terse(door):
        body, content_type = b"", "text/plain"
        status = status if override.status != 202 else 200
    else:
        body = b'{"event_id": "%s", "jobs": %d, "duplicate": %s}' % (
            str(receipt.event_id).encode(),
            receipt.jobs,
            b"true" if receipt.duplicate else b"false",
        )
    written = WrittenAnswer(status, body, correlation_id=correlation_id, content_type=content_type)
    return cast(web.StreamResponse, written)


def _is_terse(door: Door) -> bool:
    """Whether the sender wants a status and no word more."""
    return door.config.verify is not None and door.config.verify.empty_answers


def _wrong_method(door: Door) -> Refusal:
    allowed = ", ".join(sorted(door.methods))
    return Refusal(405, f"only {allowed} is answered here", headers={"Allow": allowed})


def _unavailable(error: str) -> Refusal:
    return Refusal(
        503, error, result="unavailable", headers={"Retry-After": str(RETRY_AFTER_SECONDS)}
    )


def _overloaded() -> Refusal:
    retry_after = {"Retry-After": str(RETRY_AFTER_SECONDS)}
    return Refusal(503, "too many requests at once", result="overloaded", headers=retry_after)


def _json(status: int, body: object, correlation_id: str) -> web.Response:
    return _answer(status, _encode(body), correlation_id or str(new_id()), "application/json")


def _answer(
    status: int,
    body: bytes,
    correlation_id: str,
    content_type: str,
    headers: Mapping[str, str] | None = None,
) -> web.Response:
    return web.Response(
        status=status,
        body=body,
        headers={
            "Content-Type": content_type,
            "X-Correlation-ID": correlation_id,
            "Server": "gateway",
            **(headers or {}),
        },
    )
