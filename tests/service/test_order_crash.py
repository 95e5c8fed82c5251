"""The order within a key is exact, whatever fails, whichever of two nodes is killed, and when."""

import asyncio
import json
import random
from collections import defaultdict
from itertools import pairwise
from pathlib import Path

from aiohttp import web
from harness import (
    Call,
    Gateway,
    Records,
    Sender,
    Vendor,
    api,
    configure,
    eventually,
    route,
)

KEYS = 8
JOBS = 60  # of each key
KILLS = 5
WORK_SECONDS = 0.005


class Ledger:
    """What the vendor saw of each key: the jobs in the order of their calls, and how many at once.

    Fails a sixth of the calls, after its work or before, so that the front of a line waits.
    """

    def __init__(self) -> None:
        self.seen: dict[str, list[int]] = defaultdict(list)
        self.now: dict[str, int] = defaultdict(int)
        self.most = 0
        self.failed = 0
        self.done: set[tuple[str, int]] = set()
        self._random = random.Random(11)

    async def answer(self, vendor: Vendor, call: Call) -> web.StreamResponse:
        order = json.loads(call.body)
        key, number = order["key"], order["number"]
        self.seen[key].append(number)
        self.now[key] += 1
        self.most = max(self.most, self.now[key])
        try:
            await asyncio.sleep(WORK_SECONDS)  # what takes no time is never under way twice
        finally:
            self.now[key] -= 1
        if self._random.random() < 1 / 6:
            self.failed += 1
            return web.Response(status=500)
        self.done.add((key, number))
        return web.Response()


async def test_no_job_overtakes_another_of_its_key_through_retries_and_kills_of_either_node(
    database_url: str, records: Records, tmp_path: Path
) -> None:
    moments = random.Random(5)
    ledger = Ledger()
    async with Vendor(ledger.answer) as crm:
        vendors = api(
            "crm",
            crm.url,
            'concurrency = 4\nretry = { attempts = 100, base = "20ms", cap = "80ms" }',
        ) + route("order", 'call = "POST crm:/orders"', 'ordering_key = "{{ event.key }}"')
        nodes = [
            Gateway(configure(tmp_path / name, database_url, node=name, vendors=vendors))
            for name in ("one", "two")
        ]
        async with nodes[0], nodes[1], Sender(lambda: moments.choice(nodes).public) as sender:

            async def send(key: str) -> None:
                for number in range(JOBS):  # the next is sent when this one is accepted
                    await sender.deliver(
                        "order", message_id=f"{key}-{number}", key=key, number=number
                    )

            async with asyncio.TaskGroup() as group:
                for number in range(KEYS):
                    group.create_task(send(f"key {number}"))
                for kill in range(1, KILLS + 1):
                    enough = kill * KEYS * JOBS // (KILLS + 1) + moments.randrange(20)
                    victim, other = nodes[kill % 2], nodes[(kill + 1) % 2]
                    await eventually(lambda enough=enough: _reached(ledger, enough), seconds=60)
                    mark = len(other.log)
                    await victim.kill()
                    await other.logged("node_buried", since=mark)
                    await victim.start()
            await records.until_states({"completed": KEYS * JOBS}, seconds=60)

        for key, seen in ledger.seen.items():
            # Each of them, one after the other; the same again is a retry or a rescue.
            assert seen[0] == 0, (key, seen)
            assert {later - earlier for earlier, later in pairwise(seen)} == {0, 1}, (key, seen)
            assert seen[-1] == JOBS - 1, (key, seen)
        assert len(ledger.seen) == KEYS
        assert ledger.most == 1
        assert len(ledger.done) == KEYS * JOBS
        assert ledger.failed > 0
        for node in nodes:
            assert not node.faults(), json.dumps(node.faults()[0], indent=1)


async def _reached(ledger: Ledger, count: int) -> bool:
    return len(ledger.done) >= count
