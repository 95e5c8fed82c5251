"""The operators' HTTP: health, metrics, the API, and one page to look at."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

from aiohttp import web

from gateway.errors import DatabaseUnavailable, NotMigrated, TooWide
from gateway.store import listing, operators, replays, steering
from gateway.store.acts import list_acts
from gateway.telemetry.metrics import CONTENT_TYPE
from gateway.web.access import RETRY_AFTER_SECONDS, error_json, guarded, json
from gateway.web.acts import Acts
from gateway.web.dashboard import Dashboard
from gateway.web.figures import AdminDeps, Figures
from gateway.web.openapi import API, document
from gateway.web.parameters import (
    read_acts,
    read_body_flag,
    read_dead,
    read_id,
    read_listing,
    read_nothing,
)

MAX_REQUEST_BYTES = 64 << 10
ASKING_AT_ONCE = 2  # the rest of the pool is for webhooks and jobs
ASKING_OR_WAITING = 32
PROBE_SECONDS = 2.0
PROBE_CACHE_SECONDS = 1.0


def admin_app(deps: AdminDeps) -> web.Application:
    """Return the application behind ``admin.listen``."""
    admin = Admin(deps)
    acts = admin.acts
    app = web.Application(
        middlewares=[guarded(deps.config.admin.token)], client_max_size=MAX_REQUEST_BYTES
    )
    app.add_routes(
        [
            web.get("/healthz", admin.healthz),
            web.get("/readyz", admin.readyz),
            web.get("/metrics", admin.metrics),
            web.get("/", admin.dashboard),
            web.get(f"{API}/jobs", admin.list_jobs),
            web.post(f"{API}/jobs/cancel", acts.cancel_jobs),
            web.get(f"{API}/jobs/{{id}}", admin.show_job),
            web.post(f"{API}/jobs/{{id}}/replay", acts.replay_job),
            web.post(f"{API}/jobs/{{id}}/cancel", acts.cancel_job),
            web.post(f"{API}/jobs/{{id}}/reschedule", acts.reschedule_job),
            web.get(f"{API}/dead", admin.dead),
            web.get(f"{API}/replays", admin.list_replays),
            web.post(f"{API}/replays", acts.request_replay),
            web.get(f"{API}/replays/{{id}}", admin.show_replay),
            web.post(f"{API}/replays/{{id}}/cancel", acts.cancel_replay),
            web.get(f"{API}/events/{{id}}", admin.show_event),
            web.post(f"{API}/events/{{id}}/reroute", acts.reroute_event),
            web.get(f"{API}/held-keys", admin.held_keys),
            web.post(f"{API}/held-keys/release", acts.release_key),
            web.get(f"{API}/vendors", admin.vendors),
            web.post(f"{API}/vendors/{{name}}/pause", acts.pause_vendor),
            web.post(f"{API}/vendors/{{name}}/resume", acts.resume_vendor),
            web.get(f"{API}/routes", admin.routes),
            web.post(f"{API}/routes/{{name}}/pause", acts.pause_route),
            web.post(f"{API}/routes/{{name}}/resume", acts.resume_route),
            web.get(f"{API}/acts", admin.list_acts),
            web.get(f"{API}/stats", admin.stats),
            web.get(f"{API}/openapi.json", admin.openapi),
        ]
    )
    return app


class Admin:
    """Answers operators; each public method is one path, in the order of ``admin_app``."""

    def __init__(self, deps: AdminDeps) -> None:
        self._deps = deps
        self._figures = Figures(deps)
        self.acts = Acts(deps, self._figures, self._question)
        self._dashboard = Dashboard()
        self._document = document(deps.version)
        self._slots = asyncio.Semaphore(ASKING_AT_ONCE)
        self._asking = 0
        self._probing = asyncio.Lock()
        self._probed: tuple[float, str | None] | None = None

    async def healthz(self, _: web.Request) -> web.Response:
        """Say that the process runs; it does even while its database does not."""
        return json({"status": "ok"})

    async def readyz(self, _: web.Request) -> web.Response:
        """Say whether webhooks can be taken in now, and if not, why."""
        reason = await self._unready()
        if reason is None:
            return json({"status": "ready"})
        return error_json(503, "not_ready", reason, {"Retry-After": str(RETRY_AFTER_SECONDS)})

    async def metrics(self, _: web.Request) -> web.Response:
        """Answer in Prometheus' text format."""
        return web.Response(
            body=self._deps.metrics.render(), headers={"Content-Type": CONTENT_TYPE}
        )

    async def dashboard(self, request: web.Request) -> web.Response:
        """Show the figures of stats and vendors on one page."""
        read_nothing(request.query)
        vendors, routes = await self._figures.vendors(), await self._figures.routes()
        try:
            stats = await self._figures.stats()
        except (DatabaseUnavailable, TooWide):
            stats = None
        return self._dashboard.render(self._figures.service(), stats, vendors, routes)

    async def list_jobs(self, request: web.Request) -> web.Response:
        """Answer one page of jobs, newest first."""
        wanted, limit, cursor = read_listing(request.query, now=datetime.now(UTC))
        async with self._question():
            page = await listing.list_jobs(self._deps.db, wanted, limit=limit, cursor=cursor)
        return json(page)

    async def show_job(self, request: web.Request) -> web.Response:
        """Answer one job with its event and attempts."""
        job_id, body = read_id(request.match_info["id"]), read_body_flag(request.query)
        async with self._question():
            return json(await operators.show_job(self._deps.db, job_id, body=body))

    async def show_event(self, request: web.Request) -> web.Response:
        """Answer one event with its jobs."""
        event_id, body = read_id(request.match_info["id"]), read_body_flag(request.query)
        async with self._question():
            return json(await operators.show_event(self._deps.db, event_id, body=body))

    async def dead(self, request: web.Request) -> web.Response:
        """Answer the dead letters in groups."""
        wanted = read_dead(request.query, now=datetime.now(UTC))
        async with self._question():
            return json(await replays.dead_groups(self._deps.db, wanted))

    async def list_replays(self, request: web.Request) -> web.Response:
        """Answer the newest replays of many jobs."""
        read_nothing(request.query)
        async with self._question():
            return json({"replays": await replays.list_replays(self._deps.db)})

    async def show_replay(self, request: web.Request) -> web.Response:
        """Answer one replay with how far it is."""
        read_nothing(request.query)
        replay_id = read_id(request.match_info["id"])
        async with self._question():
            return json(await replays.show_replay(self._deps.db, replay_id))

    async def held_keys(self, request: web.Request) -> web.Response:
        """Answer the ordering keys that wait for a decision."""
        read_nothing(request.query)
        async with self._question():
            return json({"keys": await steering.held_keys(self._deps.db)})

    async def routes(self, request: web.Request) -> web.Response:
        """Answer every route, and which are paused."""
        read_nothing(request.query)
        return json({"routes": await self._figures.routes()})

    async def list_acts(self, request: web.Request) -> web.Response:
        """Answer one page of what operators did, newest first."""
        wanted, limit, cursor = read_acts(request.query, now=datetime.now(UTC))
        async with self._question():
            return json(await list_acts(self._deps.db, wanted, limit=limit, cursor=cursor))

    async def vendors(self, request: web.Request) -> web.Response:
        """Answer every vendor with the figures of its lane."""
        read_nothing(request.query)
        return json({"vendors": await self._figures.vendors()})

    async def stats(self, request: web.Request) -> web.Response:
        """Answer the figures of the whole gateway."""
        read_nothing(request.query)
        return json(await self._figures.stats())

    async def openapi(self, _: web.Request) -> web.Response:
        """Answer the description of all this."""
        return json(self._document)

    @asynccontextmanager
    async def _question(self) -> AsyncIterator[None]:
        """Let few questions at the database at once, and not too many wait."""
        if not self._deps.db.up:
            raise DatabaseUnavailable("PostgreSQL is away")
        if self._asking >= ASKING_OR_WAITING:
            raise DatabaseUnavailable(f"{self._asking} operators' questions wait already")
        self._asking += 1
        try:
            async with self._slots:
                yield
        finally:
            self._asking -= 1

    async def _unready(self) -> str | None:
        """Return why webhooks cannot be taken in; asked often, it looks once a second."""
        status = self._deps.status()
        if status != "serving":
            return f"the service is {status}"
        if not self._deps.db.up:
            return "the database cannot be reached"
        async with self._probing:
            now = asyncio.get_running_loop().time()
            if self._probed is None or now - self._probed[0] > PROBE_CACHE_SECONDS:
                self._probed = (now, await self._unready_database())
        return self._probed[1]

    async def _unready_database(self) -> str | None:
        try:
            async with asyncio.timeout(PROBE_SECONDS):
                await operators.check_schema(self._deps.db, seconds=PROBE_SECONDS)
        except NotMigrated as error:
            return str(error)
        except DatabaseUnavailable:
            return "the database cannot be reached"
        except (TimeoutError, TooWide):
            return f"the database did not answer within {PROBE_SECONDS:g} s"
        return None
