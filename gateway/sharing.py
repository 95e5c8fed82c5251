"""What nodes share about vendors: their rate limits."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from gateway.errors import DatabaseUnavailable
from gateway.store import shares
from gateway.store.database import Database
from gateway.telemetry.logs import get_logger
from gateway.telemetry.metrics import Metrics
from gateway.vendors.limits import StrictLimiter
from gateway.vendors.shares import Share

log = get_logger("gateway.sharing")


class LimitSharing:
    """Buys the calls that this node makes, vendor by vendor."""

    def __init__(
        self,
        db: Database,
        limiters: Mapping[str, StrictLimiter],
        *,
        node: str,
        metrics: Metrics,
    ) -> None:
        self._db = db
        self._node = node
        self._metrics = metrics
        self._shares = {
            vendor: limiter.share
            for vendor, limiter in limiters.items()
            if limiter.share is not None
        }

    async def run(self) -> None:
        """Buy for ever."""
        async with asyncio.TaskGroup() as group:
            for vendor, share in self._shares.items():
                group.create_task(self._buy(vendor, share))

    async def farewell(self) -> None:
        """Report and give back everything, so that others need not wait; after the last call."""
        for vendor, share in self._shares.items():
            order = share.farewell()
            await shares.buy(self._db, vendor, self._node, terms=share.terms, order=order)

    async def _buy(self, vendor: str, share: Share) -> None:
        while True:
            plan = share.plan()
            if isinstance(plan, float):
                await share.rung(plan)
                continue
            try:
                grant = await shares.buy(
                    self._db, vendor, self._node, terms=share.terms, order=plan
                )
            except DatabaseUnavailable as error:
                log.warning("calls_not_bought", vendor=vendor, error=str(error))
                share.fail()
                await self._db.wait_up()
            except Exception:
                # What is not known to be bought is not called: the vendor waits, the others go on.
                log.exception("upkeep_failed", act=f"buying calls of {vendor}")
                share.fail()
            else:
                share.settle(plan, grant)
                self._metrics.rate_orders_total[vendor].inc()
