"""The least that could do the same, to measure against: ``python -m benchmarks.bare NAME PORT``.

``handler`` reads the body and answers 202. ``forwarder`` does that too and passes the body on to
the stub from 64 workers in the background. Neither verifies, deduplicates or stores anything.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator

import aiohttp
import uvloop
from aiohttp import web

CONCURRENCY = 64


def handler() -> web.Application:
    """Return the bare intake."""

    async def receive(request: web.Request) -> web.Response:
        await request.read()
        return web.Response(status=202)

    app = web.Application()
    app.router.add_post("/webhooks/{vendor}", receive)
    return app


def forwarder(stub_port: int) -> web.Application:
    """Return the bare way from a webhook to the vendor; what it holds dies with it."""
    bodies: asyncio.Queue[bytes] = asyncio.Queue()

    async def receive(request: web.Request) -> web.Response:
        bodies.put_nowait(await request.read())
        return web.Response(status=202)

    async def forward(session: aiohttp.ClientSession) -> None:
        while True:
            body = await bodies.get()
            async with session.post(f"http://127.0.0.1:{stub_port}/events", data=body) as answer:
                await answer.read()

    async def workers(_: web.Application) -> AsyncIterator[None]:
        connector = aiohttp.TCPConnector(limit=CONCURRENCY)
        headers = {"Content-Type": "application/json"}
        async with aiohttp.ClientSession(connector=connector, headers=headers) as session:
            running = [asyncio.create_task(forward(session)) for _ in range(CONCURRENCY)]
            yield
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    app = web.Application()
    app.router.add_post("/webhooks/{vendor}", receive)
    app.cleanup_ctx.append(workers)
    return app


def main(name: str, port: int, stub_port: int) -> None:
    """Serve until SIGTERM."""
    uvloop.install()
    app = handler() if name == "handler" else forwarder(stub_port)
    web.run_app(app, host="127.0.0.1", port=port, access_log=None, print=None)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
