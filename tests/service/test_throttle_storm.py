"""A vendor that answers 429 to everything for a while: two nodes leave it alone when it says so."""

import asyncio
import time
from collections import defaultdict
from itertools import pairwise
from pathlib import Path

from aiohttp import web
from harness import Call, Gateway, Records, Sender, Vendor, api, configure, route

JOBS = 200
CONCURRENCY = 8
WISH_SECONDS = 2
STORM_SECONDS = 6.5  # from the first call


class Storm:
    """Answers 429 and a wish until the storm is over; remembers whom, by the node's own header."""

    def __init__(self) -> None:
        self.ends_at: float | None = None
        self.refused: dict[str, list[float]] = defaultdict(list)
        self.taken: list[Call] = []

    async def answer(self, vendor: Vendor, call: Call) -> web.StreamResponse:
        self.ends_at = self.ends_at or call.at + STORM_SECONDS
        if call.at < self.ends_at:
            self.refused[call.headers["X-Node"]].append(call.at)
            return web.Response(status=429, headers={"Retry-After": str(WISH_SECONDS)})
        self.taken.append(call)
        return web.Response()

    def waves(self, node: str) -> list[list[float]]:
        """Return the node's refused calls in groups; those of one came within half of the wish."""
        waves: list[list[float]] = []
        for at in self.refused[node]:
            if not waves or at > waves[-1][0] + WISH_SECONDS / 2:
                waves.append([])
            waves[-1].append(at)
        return waves


async def test_a_storm_of_429s_costs_each_node_one_wave_of_calls_a_wish(
    database_url: str, records: Records, tmp_path: Path
) -> None:
    storm = Storm()
    async with Vendor(storm.answer) as crm:
        one, two = (
            Gateway(
                configure(
                    tmp_path / name,
                    database_url,
                    node=name,
                    vendors=api(
                        "crm",
                        crm.url,
                        f'concurrency = {CONCURRENCY}\nheaders = {{ X-Node = "{name}" }}',
                    )
                    + route("order", 'call = "POST crm:/orders"'),
                )
            )
            for name in ("one", "two")
        )
        async with one, two:
            for gateway in (one, two):
                async with Sender(lambda gateway=gateway: gateway.public) as sender:
                    await asyncio.gather(*(sender.send("order") for _ in range(JOBS // 2)))
            began = time.monotonic()
            await records.until_states({"completed": JOBS}, seconds=60)
            assert time.monotonic() - began < STORM_SECONDS + 5 * WISH_SECONDS

        for node in ("one", "two"):
            waves = storm.waves(node)
            assert len(waves) <= STORM_SECONDS / WISH_SECONDS + 1
            assert all(len(wave) <= CONCURRENCY for wave in waves), waves
            for before, after in pairwise(waves):
                assert after[0] - before[-1] >= WISH_SECONDS
        refused = sum(len(times) for times in storm.refused.values())
        assert refused >= CONCURRENCY
        assert len(storm.taken) == len({call.key for call in storm.taken}) == JOBS
        jobs = await records.jobs()
        assert sum(job["attempt"] for job in jobs) == JOBS + refused
        assert max(job["attempt"] for job in jobs) <= 5
        assert one.faults() == two.faults() == []
