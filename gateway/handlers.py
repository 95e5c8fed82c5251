"""Python handlers: how they are found, what they are given, and what they may return."""

from __future__ import annotations

import importlib
import inspect
import math
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from typing import Any, Protocol, assert_never
from uuid import UUID

import msgspec

from gateway.bodies import encode_body
from gateway.errors import ConfigInvalid, Fault, GatewayError
from gateway.model import Cancel, Completed, Dead, Event, Exchange, Job, Outcome, Retry, Snooze
from gateway.telemetry.logs import get_logger
from gateway.vendors.calls import Call, Reply
from gateway.webhooks.decompress import decode_received
from gateway.webhooks.extract import UNDECODED

log = get_logger("gateway.handlers")

MAX_DELAY_SECONDS = 366 * 86400.0  # of what a handler wishes

_encode = msgspec.json.Encoder().encode

Handler = Callable[["JobContext"], Awaitable[Outcome | None]]


class CallUnsuccessful(GatewayError):
    """A call made by a handler did not succeed; carries what its vendor's rules make of it."""

    def __init__(self, outcome: Retry | Dead | Snooze, reply: Reply | None) -> None:
        self.outcome = outcome
        self.reply = reply
        super().__init__(outcome.reason)


class Caller(Protocol):
    """Who makes a handler's calls: the worker."""

    async def call_for_handler(
        self, vendor: str, call: Call, *, in_line: Callable[[], AbstractContextManager[None]]
    ) -> tuple[Completed | Retry | Dead, Reply | None, Exchange]:
        """Make one call inside the vendor's limits; return its verdict, answer and record.

        It waits for its turn within what *in_line* returns.
        """


class JobContext:
    """What a Python handler is given: the job, its event, a logger, and calls to vendors."""

    def __init__(
        self,
        caller: Caller,
        job: Job,
        event: Event,
        *,
        in_line: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self._caller = caller
        self._in_line = in_line
        self._job = job
        self._calls = 0
        self.exchange: Exchange | None = None  # of the last call, kept with the attempt
        self.raw_event = event

    @cached_property
    def log(self) -> Any:
        """Return a logger whose lines name the job."""
        return log.bind(
            job_id=str(self.id),
            route=self.route,
            attempt=self.attempt,
            correlation_id=self.correlation_id,
        )

    @property
    def id(self) -> UUID:
        """Return the job's id; the same in every attempt."""
        return self._job.id

    @property
    def route(self) -> str:
        """Return the route's name."""
        return self._job.route

    @property
    def attempt(self) -> int:
        """Return which attempt this is, from 1."""
        return self._job.attempt + 1

    @property
    def correlation_id(self) -> str:
        """Return what ties together everything that one event caused."""
        return self._job.correlation_id

    @property
    def event_type(self) -> str | None:
        """Return the event's type."""
        return self.raw_event.event_type

    @property
    def headers(self) -> Mapping[str, str]:
        """Return the webhook's headers, names in lower case."""
        return self.raw_event.headers

    @property
    def body(self) -> bytes:
        """Return the webhook's body as received."""
        return self.raw_event.body or b""

    @property
    def event(self) -> Any:
        """Return the decoded body; None if it is neither JSON nor a form."""
        decoded = decode(self.raw_event)
        return None if decoded is UNDECODED else decoded

    async def call(
        self,
        vendor: str,
        method: str,
        path: str,
        *,
        json: object = msgspec.UNSET,
        form: Mapping[str, object] | None = None,
        multipart: Mapping[str, object] | None = None,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        timeout_seconds: float | None = None,
        check: bool = True,
    ) -> Reply:
        """Call *vendor* with its authentication and inside its limits.

        *path* (percent-encoded, with its query) is appended to the vendor's base_url. The
        idempotency key is the job's id (that of the original for a replay), numbered from the
        second call on: the same in every attempt as long as the handler makes its calls in the
        same order.

        Of *json*, *form*, *multipart* (see :mod:`gateway.bodies`) and *body* at most one is given.

        With *check*, an answer that is no success by the vendor's rules raises
        :class:`CallUnsuccessful`, which ends the attempt with that vendor's verdict (retry or
        dead) unless the handler catches it. A call that got no answer always raises it.
        """
        self._calls += 1
        key = str(self._job.idempotency_key or self.id)
        if self._calls > 1:
            key = f"{key}-{self._calls}"
        content_type = None
        if json is not msgspec.UNSET:
            body, content_type = _encode(json), "application/json"
        elif form is not None:
            body, content_type = encode_body(form, "form")
        elif multipart is not None:
            body, content_type = encode_body(multipart, "multipart")
        call = Call(
            method=method,
            path=path,
            headers=dict(headers or {}),
            body=body,
            content_type=content_type,
            idempotency_key=key,
            correlation_id=self.correlation_id,
            traceparent=self.raw_event.traceparent,
            timeout_seconds=timeout_seconds,
        )
        outcome, reply, self.exchange = await self._caller.call_for_handler(
            vendor, call, in_line=self._in_line
        )
        if isinstance(outcome, Completed):
            assert reply is not None  # noqa: S101  # a success is always an answer
            return reply
        if check or reply is None:
            raise CallUnsuccessful(outcome, reply)
        return reply


def decode(event: Event) -> object:
    """Return the event's body decoded, or UNDECODED."""
    return decode_received(event.body or b"", event.headers)


def load_handlers(references: Mapping[str, str]) -> dict[str, Handler]:
    """Import the handlers: route name → ``package.module:function``.

    Raises :class:`ConfigInvalid` naming every one that cannot be had.
    """
    handlers: dict[str, Handler] = {}
    faults = []
    for route, reference in references.items():
        module_name, _, function_name = reference.partition(":")
        try:
            function = getattr(importlib.import_module(module_name), function_name)
        except Exception as error:  # noqa: BLE001  # importing runs the user's code
            problem = f"{reference!r} cannot be imported: {type(error).__name__}: {error}"
            remedy = "install the package into the gateway's environment, or set PYTHONPATH"
        else:
            if inspect.iscoroutinefunction(function):
                handlers[route] = function
                continue
            problem = f"{reference!r} is not an async function"
            remedy = f"write `async def {function_name}(job): …`"
        faults.append(Fault(f"routes.{route}.handler", None, problem, remedy))
    if faults:
        raise ConfigInvalid("handlers", faults)
    return handlers


def checked(outcome: Outcome, handler: str | None) -> Outcome:
    """Return *outcome* with fields that can be stored, or a Dead that says why there is none.

    A struct takes whatever a handler puts into it; the database would not.
    """
    match outcome:
        case Retry(reason, None):
            return Retry(str(reason))
        case Retry(reason, int() | float() as seconds) if math.isfinite(seconds):
            return Retry(str(reason), min(seconds, MAX_DELAY_SECONDS))
        case Snooze(int() | float() as seconds, reason) if math.isfinite(seconds):
            return Snooze(min(seconds, MAX_DELAY_SECONDS), str(reason))
        case Retry() | Snooze():
            return Dead(f"handler {handler} returned {outcome!r:.200}, expected finite seconds")
        case Cancel(reason):
            return Cancel(str(reason))
        case Dead(reason):
            return Dead(str(reason))
        case Completed():
            return outcome
        case _:
            assert_never(outcome)
