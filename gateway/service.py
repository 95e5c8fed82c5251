"""The composition root: builds every part once, starts them in order, drains them in reverse.

:meth:`Service.run` reads from the top down as the start, and from the bottom up as the drain:
stop accepting → stop claiming → finish or release attempts → stop maintenance → close the pool.
"""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from random import Random
from typing import Any

from gateway import __version__
from gateway.config.loader import load
from gateway.config.model import Api, Config, Webhook
from gateway.errors import ConfigInvalid, DatabaseUnavailable, Fault, GatewayError
from gateway.handlers import load_handlers
from gateway.maintenance import (
    Backlog,
    Guardian,
    Heartbeat,
    Upkeep,
    node_name,
)
from gateway.notify import Notifier
from gateway.queue.acceptance import AcceptanceDesk
from gateway.queue.feeder import Feeder
from gateway.queue.lane import Lane
from gateway.queue.ready import ReadyQueue
from gateway.queue.settlement import SettlementDesk
from gateway.replays import ReplayStream
from gateway.routing import LOCAL, Router
from gateway.sharing import LimitSharing, VendorNews
from gateway.steering import Steering
from gateway.store import jobs, nodes
from gateway.store.database import Database
from gateway.store.embedded import EmbeddedPostgres
from gateway.store.ids import new_id
from gateway.store.jobs import INLINE_BODY_BYTES
from gateway.telemetry.logs import get_logger
from gateway.telemetry.metrics import Metrics
from gateway.vendors.breaker import BreakerState, CircuitBreaker, Transition
from gateway.vendors.client import VendorClient
from gateway.vendors.fetch import SenderFetcher
from gateway.vendors.limits import StrictLimiter
from gateway.web.admin import admin_app
from gateway.web.figures import AdminDeps
from gateway.web.intake import Intake, open_doors
from gateway.web.server import (
    CLOSING_SECONDS,
    Listener,
    admin_listener,
    drained,
    public_listener,
)
from gateway.worker import Worker

log = get_logger("gateway.service")

START_SECONDS = 60.0  # how long to wait for the database at start
SETTLE_SECONDS = 10.0  # how long to try to record the last outcomes when the database is away
MIN_LANE_CAPACITY = 16
HOARD_SECONDS = 30.0


class Service:
    """One node: from its configuration to a drained end."""

    def __init__(self, config: Config, *, notifier: Notifier | None = None) -> None:
        self.config = config
        self.status = "starting"
        self.started_at = datetime.now(UTC)
        self.node = node_name(config.gateway.node)
        self.public_port = 0
        self.admin_port = 0
        self.db: Database | None = None  # from when it is open
        self._notifier = notifier or Notifier()
        self._stop = asyncio.Event()
        self._intake: Intake | None = None
        self._metrics = Metrics(
            version=__version__,
            vendors=config.vendors,
            routes=(route.name for route in config.routes),
        )

    @property
    def stopping(self) -> bool:
        """Whether :meth:`stop` was called."""
        return self._stop.is_set()

    def stop(self) -> None:
        """Begin the drain; :meth:`run` returns when it is done."""
        self._stop.set()

    def reload(self) -> None:
        """Read the file again and take over what senders' webhooks need: secrets, limits, checks.

        A file with faults changes nothing. Vendors' APIs, routes and listeners need a restart.
        """
        self._notifier.reloading()
        try:
            fresh = load(self.config.source)
            if self._intake is not None:
                self._intake.doors = open_doors(_webhooks(fresh))
        except (ConfigInvalid, ValueError) as error:
            log.error("reload_refused", error=str(error))  # its text says it all
        else:
            restart = [
                name
                for name in ("gateway", "database", "server", "admin", "queue", "routes")
                if getattr(fresh, name) != getattr(self.config, name)
            ]
            if _apis(fresh) != _apis(self.config):
                restart.append("vendors.*.api")
            log.info("config_reloaded", vendors=len(fresh.vendors), needs_restart=restart)
        self._notifier.ready("serving")

    async def run(self, *, on_ready: Callable[[Service], None] | None = None) -> None:
        """Serve until :meth:`stop`; raises :class:`GatewayError` when the start fails."""
        async with AsyncExitStack() as stack:
            dsn, server = await self._database_server(stack)
            db = await self._open_database(stack, dsn)
            if self.stopping:
                return
            parts = await self._build(stack, db)
            async with asyncio.TaskGroup() as group:
                watch = [group.create_task(act) for act in self._watching(server)]
                try:
                    await self._serve(group, parts, on_ready)
                finally:
                    for task in watch:
                        task.cancel()

    # The start ----------------------------------------------------------------------------------

    async def _database_server(self, stack: AsyncExitStack) -> tuple[str, EmbeddedPostgres | None]:
        if not self.config.database.embedded:
            return self.config.database.url.value, None
        server = EmbeddedPostgres(self.config.gateway.state_dir)
        return await stack.enter_async_context(server), server

    async def _open_database(self, stack: AsyncExitStack, dsn: str) -> Database:
        db = Database(dsn, pool=self.config.database.pool)
        stack.push_async_callback(db.close)
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                await db.open()
                if applied := await db.migrate():
                    log.info("database_migrated", migrations=applied)
                break
            except DatabaseUnavailable as error:
                if self.stopping:
                    break
                if time.monotonic() > deadline:
                    raise
                log.warning("database_awaited", error=str(error))
                self._notifier.status("waiting for the database")
                self._notifier.extend_timeout(30)
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._stop.wait(), 1.0)
        self.db = db
        return db

    async def _build(self, stack: AsyncExitStack, db: Database) -> _Parts:
        config, metrics, node = self.config, self._metrics, self.node
        apis = _apis(config)
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
            doors = open_doors(_webhooks(config))
            fetcher = SenderFetcher()
            stack.push_async_callback(fetcher.close)
        except ValueError as error:
            raise ConfigInvalid(
                str(config.source), [Fault("vendors.*.webhook", None, str(error), "")]
            ) from error

        slots = await stack.enter_async_context(_slots())
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
            trusted_proxies=config.server.trusted_proxies,
            fetch=fetcher.fetch,
        )
        limits = LimitSharing(db, limiters, node=node, metrics=metrics)
        self._intake = intake
        upkeep = Upkeep(db, ready, feeder, retention_seconds=config.database.retention_seconds)
        heartbeat = Heartbeat(
            db,
            ready,
            feeder,
            node=node,
            lease_seconds=config.queue.lease_seconds,
            version=__version__,
            metrics=metrics,
            abandon=lambda: _abandon(ready, slots),
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
            steer=functools.partial(_follow_acts, steering, news),
            status=lambda: self.status,
            started_at=self.started_at,
            version=__version__,
        )
        return _Parts(
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
            replays=ReplayStream(db, ready, node=node),
            guardian=Guardian(db, ready, metrics=metrics),
            intake=intake,
            public=public_listener(intake.handle, config.server.listen),
            admin=admin_listener(admin_app(deps), config.admin.listen),
        )

    # The run, and the drain -----------------------------------------------------------------------

    async def _serve(
        self,
        group: asyncio.TaskGroup,
        parts: _Parts,
        on_ready: Callable[[Service], None] | None,
    ) -> None:
        try:
            await parts.upkeep.keep_partitions()
        except DatabaseUnavailable as error:
            # Somebody locks a table (a dump). Days are made ahead; upkeep tries again.
            log.warning("upkeep_postponed", act="keep_partitions", error=str(error))
        await parts.heartbeat.register()
        await _follow_acts(parts.steering, parts.news)  # before anything is claimed or handed off
        lived = [
            group.create_task(act())
            for act in (
                parts.heartbeat.run,
                parts.heartbeat.rescue,
                parts.backlog.run,
                parts.upkeep.run,
                parts.limits.run,
                parts.news.run,
                parts.guardian.run,
                parts.steering.run,
                parts.replays.run,
            )
        ]
        settling = group.create_task(parts.settlement.run())
        accepting = group.create_task(parts.desk.run())
        feeding = group.create_task(parts.feeder.run())
        await parts.admin.start()
        await parts.public.start()
        self.public_port, self.admin_port = parts.public.port, parts.admin.port
        self.status = "serving"
        self._notifier.ready("serving")
        log.info(
            "service_ready",
            node=self.node,
            version=__version__,
            public=f"{self.config.server.listen.host}:{self.public_port}",
            admin=f"{self.config.admin.listen.host}:{self.admin_port}",
        )
        if on_ready is not None:
            on_ready(self)

        await self._stop.wait()

        self.status = "draining"
        self._notifier.stopping("draining")
        log.info("drain_began", held=len(parts.ready.held))
        parts.intake.draining = True
        await parts.public.stop_accepting()
        # Closing drops what arrives from then on, be it the rest of a webhook's body.
        await drained(lambda: not parts.intake.under_way, seconds=CLOSING_SECONDS)
        await parts.public.close()
        parts.desk.finish()
        await accepting
        parts.feeder.stop()
        await feeding
        await self._drain_attempts(parts)
        parts.settlement.finish()
        await _within(SETTLE_SECONDS, settling)
        for task in lived:  # the heartbeat first of all: it would register again after a farewell
            task.cancel()
        await self._leave(parts)
        await parts.admin.close()
        log.info("service_stopped", node=self.node)

    async def _drain_attempts(self, parts: _Parts) -> None:
        """Let attempts under way end in time; nothing that only waits in memory is started."""
        parts.guardian.draining = True
        for lane in parts.ready.lanes.values():
            lane.close()
            lane.drop_waiting()
        unfinished = await parts.slots.finish(self.config.gateway.drain_seconds)
        if unfinished:
            log.warning("attempts_cut_short", attempts=unfinished)

    async def _leave(self, parts: _Parts) -> None:
        """Give back what is still held, and say goodbye; a rescue does both if we cannot."""
        try:
            async with asyncio.timeout(SETTLE_SECONDS):
                held = list(parts.ready.held)
                if held:
                    released = await jobs.release(parts.db, held, node=self.node)
                    log.info("jobs_released", jobs=released)
                await parts.limits.farewell()
                await parts.replays.give_back()
                await nodes.resign(parts.db, self.node)
        except (DatabaseUnavailable, TimeoutError) as error:
            log.warning("farewell_failed", error=str(error), held=len(parts.ready.held))

    # Watching -------------------------------------------------------------------------------------

    def _watching(self, server: EmbeddedPostgres | None) -> list[Coroutine[Any, Any, None]]:
        acts: list[Coroutine[Any, Any, None]] = []
        if server is not None:
            acts.append(self._watch_server(server))
        if self._notifier.ping_seconds is not None:
            acts.append(self._ping(self._notifier.ping_seconds))
        return acts

    async def _watch_server(self, server: EmbeddedPostgres) -> None:
        code = await server.wait()
        raise GatewayError(
            f"the embedded PostgreSQL ended by itself (exit code {code});"
            f" see {self.config.gateway.state_dir / 'postgres.log'}"
        )

    async def _ping(self, seconds: float) -> None:
        while True:
            self._notifier.watchdog()
            await asyncio.sleep(seconds)


class _Slots:
    """The tasks of all lanes' slots, so that a drain can wait for them and cut them short."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[bool]] = set()

    def spawn(self, slot: Coroutine[Any, Any, bool]) -> asyncio.Task[bool]:
        task = asyncio.get_running_loop().create_task(slot)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[bool]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            # run_attempt never raises: this is a fault of ours, and its job waits for a rescue.
            log.error("slot_failed", exc_info=error)

    async def finish(self, seconds: float) -> int:
        """Wait for all slots; after *seconds* cancel the rest and return how many those were."""
        if not self._tasks:
            return 0
        _, pending = await asyncio.wait(self._tasks, timeout=seconds)
        self.cancel()
        if pending:
            await asyncio.wait(pending)
        return len(pending)

    def cancel(self) -> None:
        """Cut every attempt short."""
        for task in self._tasks:
            task.cancel()


@asynccontextmanager
async def _slots() -> AsyncIterator[_Slots]:
    slots = _Slots()
    try:
        yield slots
    finally:
        slots.cancel()


@dataclass(frozen=True, slots=True)
class _Parts:
    db: Database
    ready: ReadyQueue
    slots: _Slots
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


def _apis(config: Config) -> dict[str, Api]:
    return {name: vendor.api for name, vendor in config.vendors.items() if vendor.api}


def _webhooks(config: Config) -> dict[str, Webhook]:
    return {name: vendor.webhook for name, vendor in config.vendors.items() if vendor.webhook}


def _abandon(ready: ReadyQueue, slots: _Slots) -> None:
    """Drop everything that was not attempted to its end: others may be running it already.

    Outcomes that are known but not yet recorded stay; the fence decides about them.
    """
    dropped = [job for lane in ready.lanes.values() for job in lane.drop_waiting()]
    dropped += [execution.job for execution in ready.executing.values()]
    slots.cancel()
    for job in dropped:
        ready.forget(job)
    ready.suspect_strays()


def _capacity(share: int, api: Api | None) -> int:
    """Return how many jobs a lane may hold: its share of the memory, but no hoard of a slow lane.

    What a rate lets through only in half a minute and later is as well off in the backlog, where
    other nodes, and operators, can reach it.
    """
    if api is None or not api.rate:
        return share
    per_second = min(rate.count / rate.period_seconds for rate in api.rate)
    return min(share, max(MIN_LANE_CAPACITY, api.concurrency, round(per_second * HOARD_SECONDS)))


async def _follow_acts(steering: Steering, news: VendorNews) -> None:
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


async def _within(seconds: float, task: asyncio.Task[None]) -> None:
    """Wait for *task*; cancel it when it takes longer."""
    done, _ = await asyncio.wait((task,), timeout=seconds)
    if not done:
        log.warning("settlement_cut_short")
        task.cancel()
