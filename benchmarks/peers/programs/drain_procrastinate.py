"""procrastinate: asynchronous tasks, a worker with a concurrency and as large a pool.

https://procrastinate.readthedocs.io/en/stable/howto/production/concurrency.html: one process with
asynchronous tasks and `concurrency`, a connection for each.
"""

import asyncio
import os
import sys

import uvloop
from procrastinate import App, PsycopgConnector

from report import JOBS, PAYLOAD, URL, executed

CONCURRENCY = int(os.environ.get("BENCHMARK_CONCURRENCY", "16"))

app = App(connector=PsycopgConnector(conninfo=URL, min_size=4, max_size=CONCURRENCY + 4))


@app.task(name="noop")
async def noop(body: str) -> None:
    executed()


async def fill() -> None:
    async with app.open_async():
        await app.schema_manager.apply_schema_async()
        for start in range(0, JOBS, 1000):
            count = min(1000, JOBS - start)
            await noop.batch_defer_async(*({"body": PAYLOAD} for _ in range(count)))


async def drain() -> None:
    async with app.open_async():
        await app.run_worker_async(concurrency=CONCURRENCY)


uvloop.install()
asyncio.run({"fill": fill, "drain": drain}[sys.argv[1]]())
