"""pgqueuer: one connection for the manager, a large batch, `pgq autovac`, durable tables.

https://janbjorge.github.io/pgqueuer/guides/performance-tuning: "Increase batch_size when jobs are
short-lived", "a single connection for QueueManager", "Run pgq autovac after installation".
"""

import asyncio
import os
import sys

import asyncpg
import uvloop
from pgqueuer import PgQueuer
from pgqueuer.db import AsyncpgDriver
from pgqueuer.models import Job
from pgqueuer.queries import Queries

from report import JOBS, PAYLOAD, URL, executed

BATCH_SIZE = int(os.environ.get("BENCHMARK_BATCH", "1000"))


async def fill() -> None:
    connection = await asyncpg.connect(URL)
    queries = Queries(AsyncpgDriver(connection))
    await queries.install()
    await queries.optimize_autovacuum()
    for start in range(0, JOBS, 1000):
        count = min(1000, JOBS - start)
        await queries.enqueue(["noop"] * count, [PAYLOAD.encode()] * count, [0] * count)
    await connection.close()


async def drain() -> None:
    queuer = PgQueuer(AsyncpgDriver(await asyncpg.connect(URL)))

    @queuer.entrypoint("noop")
    async def noop(_: Job) -> None:
        executed()

    await queuer.run(batch_size=BATCH_SIZE)


uvloop.install()
asyncio.run({"fill": fill, "drain": drain}[sys.argv[1]]())
