"""What operators may do over HTTP. Each act is written into ``gateway.acts`` with who did it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, suppress
from datetime import UTC, datetime
from typing import Protocol

from aiohttp import web

from gateway.errors import DatabaseUnavailable, NotFound, Refused
from gateway.store import events, operators, replays, steering
from gateway.store.database import Database
from gateway.telemetry.logs import get_logger
from gateway.web.access import json
from gateway.web.figures import AdminDeps, Figures
from gateway.web.openapi import API
from gateway.web.parameters import (
    read_cancel,
    read_id,
    read_key,
    read_moment,
    read_new_key_flag,
    read_nothing,
    read_replay,
)
from gateway.webhooks.decompress import decode_received

log = get_logger("gateway.admin")

CANCEL_SECONDS = 10.0  # after which one request begins to cancel no more jobs


class _Switch(Protocol):
    async def __call__(self, db: Database, name: str, *, who: str) -> bool: ...


class Acts:
    """Carries out acts; each public method is one path, in the order of ``admin_app``."""

    def __init__(
        self,
        deps: AdminDeps,
        figures: Figures,
        question: Callable[[], AbstractAsyncContextManager[None]],
    ) -> None:
        self._deps = deps
        self._figures = figures
        self._question = question  # the turn of one that asks the database much

    async def replay_job(self, request: web.Request) -> web.Response:
        """Make a new job from a finished one."""
        new_key = read_new_key_flag(request.query)
        job_id = read_id(request.match_info["id"])
        fresh = await operators.replay(
            self._deps.db, job_id, new_key=new_key, who=self._who(request)
        )
        log.info("job_replayed", job_id=str(job_id), new_job_id=str(fresh), remote=request.remote)
        self._wake_feeder()
        return json(
            {"id": fresh, "replay_of": job_id, "state": "available"},
            status=201,
            headers={"Location": f"{API}/jobs/{fresh}"},
        )

    async def cancel_job(self, request: web.Request) -> web.Response:
        """Cancel a job that waits."""
        read_nothing(request.query)
        job_id = read_id(request.match_info["id"])
        before = await operators.cancel(self._deps.db, job_id, who=self._who(request))
        log.info("job_cancelled", job_id=str(job_id), before=before.value, remote=request.remote)
        return json({"id": job_id, "state": "cancelled", "before": before})

    async def cancel_jobs(self, request: web.Request) -> web.Response:
        """Count the waiting jobs that match; unless it is a dry run, cancel them."""
        read_nothing(request.query)
        wish, dry_run = read_cancel(await request.read(), now=datetime.now(UTC))
        async with self._question():
            counted, wanted = await steering.count_waiting(self._deps.db, wish)
            answer = {"count": counted.jobs, "complete": counted.complete}
            if dry_run:
                return json({"dry_run": True, **answer})
            cancelled = await steering.cancel_waiting(
                self._deps.db, wanted, who=self._who(request), seconds=CANCEL_SECONDS
            )
        log.info("jobs_cancelled", jobs=cancelled.jobs, remote=request.remote, **answer)
        self._wake_feeder()
        return json({**answer, "cancelled": cancelled.jobs, "done": cancelled.done})

    async def reschedule_job(self, request: web.Request) -> web.Response:
        """Change when a scheduled job runs."""
        read_nothing(request.query)
        job_id = read_id(request.match_info["id"])
        wish = read_moment(await request.read())
        moment, before = await steering.reschedule(
            self._deps.db, job_id, wish, who=self._who(request)
        )
        log.info("job_rescheduled", job_id=str(job_id), run_at=moment, remote=request.remote)
        self._deps.ready.expect_due(max(0.0, (moment - datetime.now(UTC)).total_seconds()))
        return json({"id": job_id, "run_at": moment, "before": before})

    async def request_replay(self, request: web.Request) -> web.Response:
        """Count the jobs that match; unless it is a dry run, have them replayed."""
        read_nothing(request.query)
        wish = read_replay(await request.read(), now=datetime.now(UTC))
        async with self._question():
            counted = await replays.count(self._deps.db, wish.wanted)
        answer = {"count": counted.jobs, "complete": counted.complete}
        if wish.dry_run:
            return json({"dry_run": True, **answer})
        replay_id = await replays.request(
            self._deps.db,
            wish.wanted,
            rate=wish.rate,
            new_key=wish.new_key,
            counted=counted,
            who=self._who(request),
        )
        log.info("replay_requested", replay_id=str(replay_id), remote=request.remote, **answer)
        return json(
            {"id": replay_id, "state": "running", **answer},
            status=202,
            headers={"Location": f"{API}/replays/{replay_id}"},
        )

    async def cancel_replay(self, request: web.Request) -> web.Response:
        """End a replay, and cancel what waits of it."""
        read_nothing(request.query)
        replay_id = read_id(request.match_info["id"])
        cancelled = await replays.cancel_replay(self._deps.db, replay_id, who=self._who(request))
        log.info(
            "replay_cancelled", replay_id=str(replay_id), jobs=cancelled, remote=request.remote
        )
        return json({"id": replay_id, "state": "cancelled", "jobs_cancelled": cancelled})

    async def reroute_event(self, request: web.Request) -> web.Response:
        """Send a stored event through today's routes."""
        read_nothing(request.query)
        event_id = read_id(request.match_info["id"])
        event = await events.fetch(self._deps.db, event_id)
        if event is None:
            raise NotFound(f"event {event_id}: not found")
        decoded = decode_received(event.body or b"", event.headers)
        wanted = self._deps.router.jobs_for(event, decoded)
        made = await steering.reroute(self._deps.db, event, wanted, who=self._who(request))
        log.info("event_rerouted", event_id=str(event_id), jobs=len(made), remote=request.remote)
        self._wake_feeder()
        return json({"event_id": event_id, "jobs": made}, status=201 if made else 200)

    async def release_key(self, request: web.Request) -> web.Response:
        """Let a held ordering key go on without its dead job."""
        read_nothing(request.query)
        route, key = read_key(await request.read())
        following = await steering.release_key(self._deps.db, route, key, who=self._who(request))
        log.info("key_released", route=route, key=key, remote=request.remote)
        self._wake_feeder()
        return json({"route": route, "key": key, "next": following})

    async def pause_vendor(self, request: web.Request) -> web.Response:
        """Have no node call a vendor."""
        return await self._steer(request, self._lane(request), steering.pause_vendor, paused=True)

    async def resume_vendor(self, request: web.Request) -> web.Response:
        """Let the nodes call a vendor again."""
        return await self._steer(request, self._lane(request), steering.resume_vendor, paused=False)

    async def pause_route(self, request: web.Request) -> web.Response:
        """Have no node run a route's jobs."""
        return await self._steer(request, self._route(request), steering.pause_route, paused=True)

    async def resume_route(self, request: web.Request) -> web.Response:
        """Let the nodes run a route's jobs again."""
        return await self._steer(request, self._route(request), steering.resume_route, paused=False)

    async def _steer(
        self, request: web.Request, name: str, act: _Switch, *, paused: bool
    ) -> web.Response:
        read_nothing(request.query)
        changed = await act(self._deps.db, name, who=self._who(request))
        self._figures.forget()
        with suppress(DatabaseUnavailable):  # it is done; this node hears of it as the others do
            await self._deps.steer()
        return json({"name": name, "paused": paused, "changed": changed})

    def _lane(self, request: web.Request) -> str:
        name = request.match_info["name"]
        if name not in self._deps.ready.lanes:
            if name in self._deps.config.vendors:
                raise Refused(f"vendor {name}: is not called, so there is nothing to pause")
            raise NotFound(f"vendor {name}: not found")
        return name

    def _route(self, request: web.Request) -> str:
        name = request.match_info["name"]
        if all(route.name != name for route in self._deps.routes):
            raise NotFound(f"route {name}: not found")
        return name

    def _who(self, request: web.Request) -> str:
        by = "admin.token" if self._deps.config.admin.token is not None else "api"
        return f"{by} from {request.remote}"

    def _wake_feeder(self) -> None:
        for lane in self._deps.ready.lanes.values():
            lane.expect_older()
        self._deps.ready.wake.set()
