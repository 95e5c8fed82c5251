"""Pauses: what operators have paused is read from the database, and followed on this node."""

from __future__ import annotations

import asyncio

from gateway.errors import DatabaseUnavailable
from gateway.queue.ready import ReadyQueue
from gateway.store import steering
from gateway.store.database import Database
from gateway.telemetry.logs import get_logger

log = get_logger("gateway.steering")

POLL_SECONDS = 1.0


class Steering:
    """Follows the pauses of vendors and routes; what is set aside comes back when they end.

    ``replaying`` is set while a replay runs anywhere.
    """

    def __init__(self, db: Database, ready: ReadyQueue) -> None:
        self._db = db
        self._ready = ready
        self._refreshing = asyncio.Lock()
        self.replaying = asyncio.Event()

    async def run(self) -> None:
        """Look once a second. While the database is away what was paused stays paused."""
        while True:
            try:
                await self.refresh()
            except DatabaseUnavailable as error:
                log.warning("pauses_unknown", error=str(error))
                await self._db.wait_up()
            except Exception:
                log.exception("steering_failed")
            await asyncio.sleep(POLL_SECONDS)

    async def refresh(self) -> None:
        """Look now: before the first claim, and after an act on this node."""
        async with self._refreshing:
            known = await steering.pauses(self._db)
            self._follow_vendors(known.vendors)
            self._follow_routes(known.routes)
            if known.replaying:
                self.replaying.set()
            else:
                self.replaying.clear()
        for route in known.ended:
            await self._bring_back(route)

    def _follow_vendors(self, paused: frozenset[str]) -> None:
        for name, lane in self._ready.lanes.items():
            if lane.paused != (name in paused):
                lane.pause(name in paused)
                lane.expect_older()
                self._ready.wake.set()
                log.info("vendor_paused" if lane.paused else "vendor_resumed", vendor=name)

    def _follow_routes(self, paused: frozenset[str]) -> None:
        before = self._ready.paused_routes
        self._ready.pause_routes(paused)
        for route in sorted(paused - before):
            log.info("route_paused", route=route)
        for route in sorted(before - paused):
            log.info("route_resumed", route=route)

    async def _bring_back(self, route: str) -> None:
        """Give a route's jobs back to the backlog. Any node may; each job comes back once."""
        while lanes := await steering.bring_back(self._db, route):
            for name in lanes:
                if lane := self._ready.lanes.get(name):
                    lane.expect_older()
            self._ready.wake.set()
