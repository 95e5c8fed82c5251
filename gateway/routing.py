"""From an event to its jobs, and from a job to the call that it makes.

Everything is compiled once, at start-up. On the hot path an event costs one look-up of the routes
that its type wants; a context for expressions is made only where one of those routes reads it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC
from fnmatch import fnmatchcase
from hashlib import sha256
from typing import Any, Final
from uuid import UUID

import msgspec
from uuid_utils.compat import uuid7

from gateway.backoff import RetryPolicy
from gateway.bodies import BodyFormat, encode_body
from gateway.config.model import Api, Route
from gateway.errors import ExpressionInvalid, RenderFailed
from gateway.expressions import (
    EVENT_NAMES,
    MISSING,
    UNFIT_FOR_HEADERS,
    Expression,
    HeaderView,
    Template,
    parse_call,
    parse_query,
    to_json,
)
from gateway.model import CallSpec, Event, NewJob
from gateway.texts import storable
from gateway.webhooks.extract import UNDECODED

LOCAL: Final = "local"  # the lane of handlers that call nobody

_MAX_CACHED_TYPES: Final = 1024  # event types come from outside
_MAX_KEY_CHARS: Final = 255
_BODY_METHODS: Final = ("POST", "PUT", "PATCH")  # those that carry the raw body when none is given


class Router:
    """All routes, by the vendor whose events they take."""

    def __init__(
        self,
        routes: Sequence[Route],
        apis: Mapping[str, Api],
        *,
        new_id: Callable[[], UUID] = uuid7,
    ) -> None:
        """Compile *routes*; *apis* are those of the vendors by name, for their retry policies.

        *new_id* makes the jobs' ids, which must be UUIDv7. Raises :class:`ExpressionInvalid`,
        which names the route.
        """
        self._new_id = new_id
        self._by_name = {route.name: CompiledRoute(route, apis) for route in routes}
        self._by_vendor: dict[str, list[CompiledRoute]] = {}
        for compiled in self._by_name.values():
            self._by_vendor.setdefault(compiled.route.source, []).append(compiled)
        self._wanting: dict[tuple[str, str | None], _Candidates] = {}

    def jobs_for(self, event: Event, decoded: object) -> list[NewJob]:
        """Return one job for each route that *event* matches; *decoded* is its decoded body.

        *decoded* may be anything where :meth:`reads_body` is false.
        """
        candidates = self._candidates(event.vendor, event.event_type)
        context = _context(event, decoded, candidates.names) if candidates.names else {}
        return [
            NewJob(
                id=self._new_id(),
                event_id=event.id,
                route=compiled.route.name,
                vendor=compiled.lane,
                kind=compiled.route.kind,
                priority=compiled.route.priority,
                max_attempts=compiled.policy.attempts,
                correlation_id=event.correlation_id,
                delay_seconds=compiled.route.delay_seconds,
                ordering_key=compiled.ordering_key(context),
                holds_key=compiled.route.on_dead == "block",
            )
            for compiled in candidates.routes
            if compiled.holds(context)
        ]

    def match(self, event: Event, decoded: object) -> list[CompiledRoute]:
        """Return the routes that *event* matches, in the order of the configuration."""
        candidates = self._candidates(event.vendor, event.event_type)
        context = _context(event, decoded, candidates.names) if candidates.names else {}
        return [compiled for compiled in candidates.routes if compiled.holds(context)]

    def reads_body(self, vendor: str) -> bool:
        """Tell whether any route of *vendor* looks into the body to match or to order."""
        return any("event" in compiled.intake_names for compiled in self._by_vendor.get(vendor, ()))

    def route(self, name: str) -> CompiledRoute | None:
        """Return the route *name*; None if today's configuration has it no more."""
        return self._by_name.get(name)

    def _candidates(self, vendor: str, event_type: str | None) -> _Candidates:
        key = (vendor, event_type)
        found = self._wanting.get(key)
        if found is None:
            found = _Candidates(
                [one for one in self._by_vendor.get(vendor, ()) if one.wants(event_type)]
            )
            if len(self._wanting) >= _MAX_CACHED_TYPES:
                del self._wanting[next(iter(self._wanting))]  # the one that came first
            self._wanting[key] = found
        return found


class CompiledRoute:
    """A route with its expressions and templates ready to run."""

    __slots__ = (
        "_call",
        "_ordering_key",
        "_where",
        "intake_names",
        "lane",
        "needs_event",
        "policy",
        "route",
    )

    def __init__(self, route: Route, apis: Mapping[str, Api]) -> None:
        self.route = route
        try:
            self._where = Expression.compile(route.where) if route.where is not None else None
            self._ordering_key = (
                Template.compile(route.ordering_key, names=EVENT_NAMES)
                if route.ordering_key is not None
                else None
            )
            self._call = _Call(route, route.call) if route.call is not None else None
        except ExpressionInvalid as error:
            raise ExpressionInvalid(f"route {route.name!r}: {error}") from None
        self.lane = route.lane or (self._call.vendor if self._call else LOCAL)
        api = apis.get(self.lane)
        self.policy: RetryPolicy = route.retry or (api.retry if api else RetryPolicy())
        self.intake_names = frozenset[str]().union(
            self._where.names if self._where else (),
            self._ordering_key.names if self._ordering_key else (),
        )
        # Whether rendering the call reads the decoded body; raw pass-through never does.
        self.needs_event = self._call is not None and "event" in self._call.names

    def wants(self, event_type: str | None) -> bool:
        """Tell whether the patterns take *event_type*; an event without one needs none or ``*``."""
        patterns = self.route.events
        if not patterns:
            return True
        if event_type is None:
            return "*" in patterns
        return any(fnmatchcase(event_type, pattern) for pattern in patterns)

    def holds(self, context: Mapping[str, Any]) -> bool:
        """Tell whether ``where`` holds.

        It never does where it reads a body that could not be decoded: ``event.x != 1`` says
        something about a field, not about an event of which nothing is known.
        """
        if self._where is None:
            return True
        if "event" in self._where.names and context["event"] is MISSING:
            return False
        return self._where.truth(context)

    def ordering_key(self, context: Mapping[str, Any]) -> str | None:
        """Return the key under which at most one job is in flight; None: there is no order.

        A key that cannot be computed is the empty key, which all such jobs share: they lose speed
        rather than their order. An operator who wants none for them writes ``| default(none)``,
        since null is no key.
        """
        if self._ordering_key is None:
            return None
        try:
            value = self._ordering_key.render(context)
            if value is None:
                return None
            return _storable_key(value if isinstance(value, str) else to_json(value).decode())
        except RenderFailed:
            return ""

    def render_call(self, event: Event, decoded: object, *, job_id: UUID, attempt: int) -> CallSpec:
        """Return the call that the job *job_id* makes in *attempt* (from 1), or raise RenderFailed.

        *decoded* may be anything where :attr:`needs_event` is false.
        """
        if self._call is None:
            raise RenderFailed(
                f"route {self.route.name!r} has a handler; it calls no vendor itself"
            )
        if not self._call.names:
            return self._call.render(event, {})
        context = _context(event, decoded, self._call.names)
        context["job_id"] = str(job_id)
        context["attempt"] = attempt
        return self._call.render(event, context)


class _Candidates:
    """The routes that one vendor's events of one type may match, and the names that they read."""

    __slots__ = ("names", "routes")

    def __init__(self, routes: list[CompiledRoute]) -> None:
        self.routes = routes
        self.names = frozenset[str]().union(*(one.intake_names for one in routes))


class _Call:
    """The compiled ``call``, ``headers`` and ``body`` of a route."""

    __slots__ = (
        *("_body", "_content_type", "_format", "_headers", "_method", "_path", "names", "vendor"),
    )

    def __init__(self, route: Route, call: str) -> None:
        self._method, self.vendor, self._path = parse_call(call)
        self._headers: list[tuple[str, Template]] = []
        self._content_type: Template | None = None  # the operator's own word on it
        for name, text in route.headers.items():
            template = Template.compile(text)
            if template.constant and UNFIT_FOR_HEADERS.search(name + text):
                raise ExpressionInvalid(f"headers.{name!r}: a header holds no control characters")
            if name.lower() == "content-type":
                self._content_type = template
            else:
                self._headers.append((name, template))
        self._body = (
            None if isinstance(route.body, msgspec.UnsetType) else Template.compile(route.body)
        )
        self._format = route.body_format
        parts = [template for _, template in self._headers]
        parts += [part for part in (self._path, self._content_type, self._body) if part]
        self.names = frozenset[str]().union(*(part.names for part in parts))

    def render(self, event: Event, context: Mapping[str, Any]) -> CallSpec:
        headers: dict[str, str] = {}
        for name, template in self._headers:
            value = template.render_header(context)
            if value is not None:
                headers[name] = value
        body: bytes | None = None
        content_type: str | None = None
        if self._body is not None:
            value = self._body.render(context)
            natural: BodyFormat = "raw" if isinstance(value, str) else "json"
            body, content_type = encode_body(value, self._format or natural)
        elif self._method in _BODY_METHODS:
            body, content_type = _raw(event, headers)
        if self._content_type is not None:
            content_type = self._content_type.render_header(context)
        return CallSpec(
            method=self._method,
            path=self._path.render_url(context),
            headers=headers,
            body=body,
            content_type=content_type,
        )


def _raw(event: Event, headers: dict[str, str]) -> tuple[bytes, str | None]:
    """Return the bytes as received, and what their sender said about them."""
    if event.body is None:
        raise RenderFailed("the event's raw body was not loaded")
    encoding = event.headers.get("content-encoding")
    given = any(name.lower() == "content-encoding" for name in headers)
    if encoding and not given and not UNFIT_FOR_HEADERS.search(encoding):
        headers["Content-Encoding"] = encoding
    content_type = event.headers.get("content-type")
    if content_type and UNFIT_FOR_HEADERS.search(content_type):
        content_type = "application/octet-stream"
    return event.body, content_type


def _context(event: Event, decoded: object, names: frozenset[str]) -> dict[str, Any]:
    """Return the values of *names* (and perhaps more) for *event*."""
    context: dict[str, Any] = {
        "event": MISSING if decoded is UNDECODED else decoded,
        "headers": HeaderView(event.headers),
        "vendor": event.vendor,
        "event_type": event.event_type,
        "correlation_id": event.correlation_id,
    }
    if "event_id" in names:
        context["event_id"] = str(event.id)
    if "query" in names:
        context["query"] = parse_query(event.query)
    if "received_at" in names:
        received_at = event.received_at.astimezone(UTC).isoformat(timespec="milliseconds")
        context["received_at"] = received_at.replace("+00:00", "Z")
    return context


def _storable_key(key: str) -> str:
    """Return *key* as PostgreSQL can hold it; a long one is told from others by its hash."""
    key = storable(key)
    if len(key) <= _MAX_KEY_CHARS:
        return key
    digest = sha256(key.encode()).hexdigest()
    return f"{key[: _MAX_KEY_CHARS - len(digest) - 1]}:{digest}"
