"""The service: starts every part in order, and drains them in reverse.

:meth:`Service.run` reads from the top down as the start, and from the bottom up as the drain:
stop accepting → stop claiming → finish or release attempts → stop maintenance → close the pool.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Coroutine, Mapping
from contextlib import AsyncExitStack, suppress
from datetime import UTC, datetime
from typing import Any

from gateway import __version__
from gateway.config.loader import load
from gateway.config.model import Config
from gateway.errors import ConfigInvalid, DatabaseUnavailable, GatewayError
from gateway.maintenance import node_name
from gateway.notify import Notifier, listen_fds
from gateway.parts import Parts, apis_of, build_parts, follow_acts, webhooks_of
from gateway.store import jobs, nodes
from gateway.store.database import Database
from gateway.store.embedded import EmbeddedPostgres
from gateway.telemetry.logs import get_logger
from gateway.telemetry.metrics import Metrics
from gateway.web.doors import open_doors
from gateway.web.intake import Intake
from gateway.web.server import CLOSING_SECONDS, SILENT_SECONDS, Listener, drained

log = get_logger("gateway.service")

START_SECONDS = 60.0  # how long to wait for the database at start
SETTLE_SECONDS = 10.0  # how long to try to record the last outcomes when the database is away


class Service:
    """One node: from its configuration to a drained end."""

    def __init__(
        self,
        config: Config,
        *,
        notifier: Notifier | None = None,
        inherited: Mapping[str, list[int]] | None = None,
    ) -> None:
        self.config = config
        self.status = "starting"
        self.started_at = datetime.now(UTC)
        self.node = node_name(config.gateway.node)
        self.public_port = 0
        self.admin_port = 0
        self.db: Database | None = None  # from when it is open
        self._notifier = notifier or Notifier()
        self._inherited = listen_fds() if inherited is None else inherited
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
                self._intake.doors = open_doors(webhooks_of(fresh))
        except (ConfigInvalid, ValueError) as error:
            log.error("reload_refused", error=str(error))  # its text says it all
        else:
            restart = [
                name
                for name in ("gateway", "database", "server", "admin", "queue", "routes")
                if getattr(fresh, name) != getattr(self.config, name)
            ]
            if apis_of(fresh) != apis_of(self.config):
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
            parts = await build_parts(
                self.config,
                stack,
                db,
                node=self.node,
                metrics=self._metrics,
                status=lambda: self.status,
                started_at=self.started_at,
            )
            self._intake = parts.intake
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
                await db.plan()
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

    # The run, and the drain -----------------------------------------------------------------------

    async def _serve(
        self,
        group: asyncio.TaskGroup,
        parts: Parts,
        on_ready: Callable[[Service], None] | None,
    ) -> None:
        try:
            await parts.upkeep.keep_partitions()
        except DatabaseUnavailable as error:
            # Somebody locks a table (a dump). Days are made ahead; upkeep tries again.
            log.warning("upkeep_postponed", act="keep_partitions", error=str(error))
        await parts.heartbeat.register()
        await follow_acts(parts.steering, parts.news)  # before anything is claimed or handed off
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
        _inherit(self._inherited, public=parts.public, admin=parts.admin)
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
        await parts.public.stop_accepting()
        # Who was accepted a moment ago is about to ask, and can be served still. The pause: for the
        # loop to tell us of those who were accepted in this very turn.
        await asyncio.sleep(0.05)
        public = parts.public
        await drained(lambda: not (public.silent() or public.waiting()), seconds=SILENT_SECONDS)
        parts.intake.draining = True
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

    async def _drain_attempts(self, parts: Parts) -> None:
        """Let attempts under way end in time; nothing that only waits in memory is started."""
        parts.guardian.draining = True
        for lane in parts.ready.lanes.values():
            lane.close()
            lane.drop_waiting()
        log.info("attempts_awaited", attempts=len(parts.ready.executing))
        unfinished = await parts.slots.finish(self.config.gateway.drain_seconds)
        if unfinished:
            log.warning("attempts_cut_short", attempts=unfinished)

    async def _leave(self, parts: Parts) -> None:
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


def _inherit(sockets: Mapping[str, list[int]], *, public: Listener, admin: Listener) -> None:
    """Give the listeners the sockets that are meant for them; what is not named is public's."""
    for name, fds in sockets.items():
        listener = admin if name == "admin" else public
        if len(fds) > 1 or listener.inherited is not None:
            raise GatewayError(
                f"the service manager passes more than one socket for {name}; give one the"
                " FileDescriptorName=public, and another FileDescriptorName=admin"
            )
        listener.inherited = socket.socket(fileno=fds[0])


async def _within(seconds: float, task: asyncio.Task[None]) -> None:
    """Wait for *task*; cancel it when it takes longer."""
    done, _ = await asyncio.wait((task,), timeout=seconds)
    if not done:
        log.warning("settlement_cut_short")
        task.cancel()
