"""The figures of stats and vendors: what this process knows joined to what the database knows."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Generic, Protocol, TypeVar

import msgspec

from gateway.config.model import AdminSection, Route, Vendor
from gateway.config.values import rate_text
from gateway.errors import DatabaseUnavailable, TooWide
from gateway.maintenance import Backlog
from gateway.queue.ready import ReadyQueue
from gateway.routing import Router
from gateway.store import operators, steering
from gateway.store.database import Database
from gateway.store.records import RouteFigures, Stats, VendorFigures
from gateway.telemetry.metrics import Metrics
from gateway.vendors.breaker import CircuitBreaker

CACHE_SECONDS = 2.0  # however many dashboards are open, the database is asked this often

Value = TypeVar("Value")


class AdminConfig(Protocol):
    """The slices of the configuration that operators are shown, or kept out by."""

    @property
    def admin(self) -> AdminSection:
        """The operators' listener."""

    @property
    def vendors(self) -> Mapping[str, Vendor]:
        """The vendors by name."""


async def _nothing() -> None:
    """Follow no acts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdminDeps:
    """All that the operators' application is built on."""

    db: Database
    ready: ReadyQueue
    backlog: Backlog
    metrics: Metrics
    config: AdminConfig
    status: Callable[[], str]  # "starting", "serving" or "draining"
    started_at: datetime
    version: str
    breakers: Mapping[str, CircuitBreaker] = field(default_factory=dict)
    router: Router = field(default_factory=lambda: Router((), {}))
    routes: Sequence[Route] = ()
    steer: Callable[[], Awaitable[None]] = _nothing  # follows an act on this node at once


class ServiceView(msgspec.Struct, frozen=True, kw_only=True):
    """This process."""

    status: str
    version: str
    started_at: datetime
    uptime_seconds: float
    database_up: bool
    backlog_full: bool  # the intake answers 503 until it recedes
    held: int  # jobs in its hands: waiting and running, and those being settled
    waiting: int
    running: int


class StatsView(Stats, frozen=True, kw_only=True):
    """The records' figures, and this process."""

    service: ServiceView


class VendorView(msgspec.Struct, frozen=True, kw_only=True):
    """One vendor and its lane in this process.

    Null: it has no lane or no such setting, or the database, which would know, is away.
    """

    name: str
    sends: bool  # it has a webhook section
    called: bool  # it has an api section; "local" is the lane of handlers
    rate: list[str]
    concurrency: int | None
    waiting: int
    running: int
    held: int
    paused: bool
    parked_seconds: float  # until the lane starts anything again: Retry-After, breaker
    next_call_seconds: float  # until the rate allows another call
    breaker: str | None
    backlog: int
    scheduled: int | None
    dead: int | None


class RouteView(msgspec.Struct, frozen=True, kw_only=True):
    """One route; ``aside`` are jobs that wait for its pause to end, null while nobody knows."""

    name: str
    source: str = msgspec.field(name="from")
    events: tuple[str, ...]  # none: all
    act: str  # what it calls, or its handler
    lane: str
    priority: int
    paused: bool
    aside: int | None


class Figures:
    """Gives the figures; what the database must count is kept for CACHE_SECONDS."""

    def __init__(self, deps: AdminDeps) -> None:
        self._deps = deps
        self._stats = _Cached(deps.db, lambda: operators.stats(deps.db, now=datetime.now(UTC)))
        self._lanes = _Cached(deps.db, lambda: operators.vendor_figures(deps.db))
        self._routes = _Cached(deps.db, lambda: steering.route_figures(deps.db))

    async def stats(self) -> StatsView:
        """Return all figures; raises :class:`DatabaseUnavailable`."""
        counted = await self._stats.get()
        return StatsView(
            **{name: getattr(counted, name) for name in counted.__struct_fields__},
            service=self.service(),
        )

    def service(self) -> ServiceView:
        """Return what is known without the database."""
        deps = self._deps
        lanes = deps.ready.lanes.values()
        return ServiceView(
            status=deps.status(),
            version=deps.version,
            started_at=deps.started_at,
            uptime_seconds=round((datetime.now(UTC) - deps.started_at).total_seconds(), 1),
            database_up=deps.db.up,
            backlog_full=deps.backlog.full,
            held=len(deps.ready.held),
            waiting=sum(lane.waiting for lane in lanes),
            running=sum(lane.running for lane in lanes),
        )

    async def vendors(self) -> list[VendorView]:
        """Return every vendor, and the lane of handlers. Works without the database, too."""
        try:
            counted = await self._lanes.get()
        except (DatabaseUnavailable, TooWide):
            counted = None
        names = sorted({*self._deps.config.vendors, *self._deps.ready.lanes})
        return [self._vendor(name, counted) for name in names]

    async def routes(self) -> list[RouteView]:
        """Return every route in the configuration's order. Works without the database, too."""
        try:
            known = await self._routes.get()
        except (DatabaseUnavailable, TooWide):
            known = None
        return [self._route(route, known) for route in self._deps.routes]

    def forget(self) -> None:
        """Ask the database afresh the next time: something was changed."""
        self._lanes.forget()
        self._routes.forget()

    def _route(self, route: Route, known: Mapping[str, RouteFigures] | None) -> RouteView:
        figures = None if known is None else known.get(route.name, RouteFigures())
        compiled = self._deps.router.route(route.name)
        return RouteView(
            name=route.name,
            source=route.source,
            events=route.events,
            act=route.call or route.handler or "",
            lane=compiled.lane if compiled else route.lane,
            priority=route.priority,
            paused=figures.paused if figures else route.name in self._deps.ready.paused_routes,
            aside=figures.aside if figures else None,
        )

    def _vendor(self, name: str, counted: Mapping[str, VendorFigures] | None) -> VendorView:
        vendor = self._deps.config.vendors.get(name)
        api = vendor.api if vendor else None
        lane = self._deps.ready.lanes.get(name)
        breaker = self._deps.breakers.get(name)
        figures = None if counted is None else counted.get(name, VendorFigures())
        parked = lane.idle_seconds() if lane and not lane.paused else 0.0
        return VendorView(
            name=name,
            sends=vendor is not None and vendor.webhook is not None,
            called=api is not None,
            rate=[rate_text(rate) for rate in api.rate] if api else [],
            concurrency=lane.concurrency if lane else None,
            waiting=lane.waiting if lane else 0,
            running=lane.running if lane else 0,
            held=lane.held if lane else 0,
            paused=(lane is not None and lane.paused) or (figures is not None and figures.paused),
            parked_seconds=round(parked, 3),
            next_call_seconds=round(lane.limiter.delay(), 3) if lane and lane.limiter else 0.0,
            breaker=breaker.state.value if breaker else None,
            backlog=self._deps.backlog.by_lane.get(name, 0),
            scheduled=figures.scheduled if figures else None,
            dead=figures.dead if figures else None,
        )


class _Cached(Generic[Value]):
    """Asks once for all who want to know within CACHE_SECONDS."""

    def __init__(self, db: Database, ask: Callable[[], Awaitable[Value]]) -> None:
        self._db = db
        self._ask = ask
        self._lock = asyncio.Lock()
        self._known: tuple[float, Value] | None = None

    def forget(self) -> None:
        self._known = None

    async def get(self) -> Value:
        if not self._db.up:
            raise DatabaseUnavailable("PostgreSQL is away")
        async with self._lock:
            now = asyncio.get_running_loop().time()
            if self._known is None or now - self._known[0] > CACHE_SECONDS:
                self._known = (now, await self._ask())
            return self._known[1]
