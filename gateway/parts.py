"""The parts of a node, and how they are wired; :mod:`gateway.service` starts and drains them."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import datetime
from random import Random

from gateway import __version__
from gateway.config.model import Api, Config, Webhook
from gateway.errors import ConfigInvalid, Fault
from gateway.handlers import load_handlers
from gateway.maintenance import Backlog, Guardian, Heartbeat, Upkeep
from gateway.queue.acceptance import AcceptanceDesk
from gateway.queue.feeder import Feeder
from gateway.queue.lane import Lane
from gateway.queue.ready import ReadyQueue
from gateway.queue.settlement import SettlementDesk
from gateway.queue.slots import Slots, abandon, open_slots
from gateway.replays import ReplayStream
from gateway.routing import LOCAL, Router
from gateway.sharing import LimitSharing, VendorNews
from gateway.steering import Steering
from gateway.store.database import Database
from gateway.store.ids import new_id
from gateway.store.jobs import INLINE_BODY_BYTES
from gateway.telemetry.logs import get_logger
from gateway.telemetry.metrics import Metrics
from gateway.vendors.breaker import BreakerState, CircuitBreaker, Transition
from gateway.vendors.client import VendorClient
from gateway.vendors.fetch import SenderFetcher
from gateway.vendors.limits import StrictLimiter
from gateway.vitals import Vitals
from gateway.web.admin import admin_app
from gateway.web.doors import open_doors
from gateway.web.figures import AdminDeps
from gateway.web.intake import Intake
from gateway.web.server import Listener, admin_listener, public_listener
from gateway.web.turnstile import Turnstile
from gateway.worker import Worker

log = get_logger("gateway.service")

MIN_LANE_CAPACITY = 16
HOARD_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Parts:
    """All that a node consists of."""

    db: Database
    ready: ReadyQueue
    slots: Slots
    desk: AcceptanceDesk
    settlement: SettlementDesk
    feeder: Feeder
    backlog: Backlog
    heartbeat: Heartbeat
    upkeep: Upkeep
    limits: LimitSharing
    news: VendorNews
    steering: Steering
    replays: ReplayStream
    guardian: Guardian
    intake: Intake
    public: Listener
    admin: Listener


async def build_parts(
    config: Config,
    stack: AsyncExitStack,
    db: Database,
    *,
    node: str,
    metrics: Metrics,
    status: Callable[[], str],
    started_at: datetime,
) -> Parts:
    """Build every part once; *stack* closes those that must be closed.

    Raises :class:`ConfigInvalid` for what only building can tell.
    """
    apis = apis_of(config)
    handlers = load_handlers({r.name: r.handler for r in config.routes if r.handler})
    router = Router(config.routes, apis, new_id=new_id)
    limiters = {
        name: StrictLimiter(api.rate, clock=time.monotonic, shared=True)
        for name, api in apis.items()
    }
    clients: dict[str, VendorClient] = {}
    for name, api in apis.items():
        clients[name] = VendorClient(
            api,
            user_agent=f"integration-gateway/{__version__}",
            limiter=limiters[name] if api.rate else None,
        )
        await clients[name].start()
        stack.push_async_callback(clients[name].close)
    try:
        doors = open_doors(webhooks_of(config))
        fetcher = SenderFetcher()
        stack.push_async_callback(fetcher.close)
    except ValueError as error:
        raise ConfigInvalid(
            str(config.source), [Fault("vendors.*.webhook", None, str(error), "")]
        ) from error

    slots = await stack.enter_async_context(open_slots())
    ready = ReadyQueue(inline_body_bytes=INLINE_BODY_BYTES)
    news = VendorNews(db, ready, node=node)
    breakers = news.breakers = {
        name: CircuitBreaker(
            api.breaker,
            clock=time.monotonic,
            on_change=functools.partial(_follow_breaker, ready, metrics, news, name),
        )
        for name, api in apis.items()
        if api.breaker
    }
    settlement = SettlementDesk(db, ready, node=node, metrics=metrics)
    worker = Worker(
        db,
        ready,
        settlement,
        router=router,
        clients=clients,
        limiters=limiters,
        breakers=breakers,
        handlers=handlers,
        metrics=metrics,
        park=news.park,
        random=Random(),  # noqa: S311  # jitter, not secrets
        handler_timeout_seconds=config.queue.handler_timeout_seconds,
        excerpt_bytes=config.queue.excerpt_bytes,
    )
    share = max(MIN_LANE_CAPACITY, config.queue.memory // (len(apis) + 1))
    for name in (*apis, LOCAL):
        called = apis.get(name)
        # Worker and lanes need each other: a lane runs attempts, an attempt may park a lane.
        ready.lanes[name] = Lane(
            name,
            concurrency=called.concurrency if called else config.queue.local_concurrency,
            capacity=_capacity(share, called),
            limiter=limiters[name] if called and called.rate else None,
            breaker=breakers.get(name),
            execute=worker.run_attempt,
            spawn=slots.spawn,
            on_low_water=ready.wake.set,
        )
    feeder = Feeder(db, ready, node=node, metrics=metrics)
    backlog = Backlog(db, feeder, max_backlog=config.queue.max_backlog, metrics=metrics)
    desk = AcceptanceDesk(db, ready, node=node, metrics=metrics)
    intake = Intake(
        doors,
        router=router,
        desk=desk,
        backlog_full=lambda: backlog.full,
        metrics=metrics,
        server=config.server,
        fetch=fetcher.fetch,
    )
    public = public_listener(
        intake.handle,
        config.server.listen,
        prompt=intake,
        max_connections=config.server.connections,
        on_refused=metrics.connections_refused_total.inc,
        turnstile=Turnstile(behind=ready.behind),
    )
    metrics.before_render.append(lambda: metrics.connections.set(public.connections))
    metrics.before_render.append(lambda: metrics.requests_waiting.set(public.waiting()))
    metrics.before_render.append(lambda: metrics.requests_under_way.set(intake.under_way))
    limits = LimitSharing(db, limiters, node=node, metrics=metrics)
    upkeep = Upkeep(
        db,
        ready,
        feeder,
        retention_seconds=config.database.retention_seconds,
        vitals=Vitals(db, node=node, metrics=metrics),
    )
    heartbeat = Heartbeat(
        db,
        ready,
        feeder,
        node=node,
        lease_seconds=config.queue.lease_seconds,
        version=__version__,
        metrics=metrics,
        abandon=lambda: abandon(ready, slots),
    )
    metrics.before_render.append(lambda: _gauge_lanes(metrics, ready, breakers))
    steering = Steering(db, ready)
    deps = AdminDeps(
        db=db,
        ready=ready,
        backlog=backlog,
        metrics=metrics,
        config=config,
        breakers=breakers,
        router=router,
        routes=config.routes,
        steer=functools.partial(follow_acts, steering, news),
        status=status,
        started_at=started_at,
        version=__version__,
    )
    return Parts(
        db=db,
        ready=ready,
        slots=slots,
        desk=desk,
        settlement=settlement,
        feeder=feeder,
        backlog=backlog,
        heartbeat=heartbeat,
        upkeep=upkeep,
        limits=limits,
        news=news,
        steering=steering,
        replays=ReplayStream(db, ready, node=node, replaying=steering.replaying),
        guardian=Guardian(db, ready, metrics=metrics),
        intake=intake,
        public=public,
        admin=admin_listener(admin_app(deps), config.admin.listen),
    )


def apis_of(config: Config) -> dict[str, Api]:
    """Return what we call, by vendor."""
    return {name: vendor.api for name, vendor in config.vendors.items() if vendor.api}


def webhooks_of(config: Config) -> dict[str, Webhook]:
    """Return who sends, by vendor."""
    return {name: vendor.webhook for name, vendor in config.vendors.items() if vendor.webhook}


def _capacity(share: int, api: Api | None) -> int:
    """Return how many jobs a lane may hold: its share of the memory, but no hoard of a slow lane.

    What a rate lets through only in half a minute and later is as well off in the backlog, where
    other nodes, and operators, can reach it.
    """
    if api is None or not api.rate:
        return share
    per_second = min(rate.count / rate.period_seconds for rate in api.rate)
    return min(share, max(MIN_LANE_CAPACITY, api.concurrency, round(per_second * HOARD_SECONDS)))


async def follow_acts(steering: Steering, news: VendorNews) -> None:
    """Look what operators have paused and resumed, and how vendors stand."""
    await steering.refresh()
    await news.refresh()


def _follow_breaker(
    ready: ReadyQueue, metrics: Metrics, news: VendorNews, vendor: str, change: Transition
) -> None:
    """Follow a breaker: an open one parks its lane, which hands back what it holds."""
    log.warning(
        "breaker_moved", vendor=vendor, before=change.before, after=change.after, told=change.told
    )
    metrics.breaker_transitions_total[vendor, change.after].inc()
    news.moved(vendor, change)
    match change.after:
        case BreakerState.OPEN:
            ready.lanes[vendor].park(change.opened_until - time.monotonic())
        case BreakerState.CLOSED:
            ready.lanes[vendor].resume()
            ready.wake.set()  # the lane held no more than its probe
        case BreakerState.HALF_OPEN:
            pass


_BREAKER_LEVELS = {BreakerState.CLOSED: 0, BreakerState.HALF_OPEN: 1, BreakerState.OPEN: 2}


def _gauge_lanes(
    metrics: Metrics, ready: ReadyQueue, breakers: Mapping[str, CircuitBreaker]
) -> None:
    for name, breaker in breakers.items():
        metrics.breaker_state[name].set(_BREAKER_LEVELS[breaker.state])
    for name, lane in ready.lanes.items():
        metrics.lane_queued[name].set(lane.waiting)
        metrics.lane_running[name].set(lane.running)
        metrics.lane_parked[name].set(lane.idle_seconds() > 0)
