"""The operators' HTTP, asked over a real socket with a real database behind it."""

import asyncio
import base64
import hashlib
import json
import tomllib
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
import uuid_utils.compat
from aiohttp.test_utils import TestClient, TestServer

from gateway.config.model import AdminSection, Api, Rate, Secret, Vendor, Webhook
from gateway.maintenance import Backlog
from gateway.queue.feeder import Feeder
from gateway.queue.lane import Lane
from gateway.queue.ready import ReadyQueue
from gateway.store.database import Database
from gateway.telemetry.metrics import Metrics
from gateway.web.admin import admin_app
from gateway.web.figures import AdminDeps
from gateway.web.openapi import API, document

TOKEN = "correct horse"
PROBES = ("/healthz", "/readyz", "/metrics")


class World:
    """One application and what stands behind it."""

    def __init__(self, db: Database, *, token: str | None, vendor: str) -> None:
        self.db = db
        self.status = "serving"
        self.metrics = Metrics(version="1.2.3", vendors=[vendor, "shop"])
        self.ready = ReadyQueue(inline_body_bytes=1000)
        self.ready.lanes[vendor] = Lane(
            vendor, concurrency=4, capacity=10, limiter=None, execute=_never, spawn=_refuse
        )
        self.backlog = Backlog(
            db,
            Feeder(db, self.ready, node="n", metrics=self.metrics),
            max_backlog=100,
            metrics=self.metrics,
        )
        config = SimpleNamespace(
            admin=AdminSection(token=Secret("env:TOKEN", token) if token else None),
            vendors={
                "shop": Vendor(name="shop", webhook=Webhook(vendor="shop", verify=None)),
                vendor: Vendor(
                    name=vendor,
                    api=Api(vendor=vendor, base_url="https://crm.example", rate=(Rate(10, 1.0),)),
                ),
            },
        )
        self.app = admin_app(
            AdminDeps(
                db=db,
                ready=self.ready,
                backlog=self.backlog,
                metrics=self.metrics,
                config=config,
                status=lambda: self.status,
                started_at=datetime.now(UTC),
                version="1.2.3",
            )
        )


async def _never(_: object) -> None:
    raise AssertionError("nothing is executed here")


def _refuse(slot: Any) -> None:
    slot.close()


@pytest.fixture
async def serve(db: Database) -> AsyncIterator[Callable[..., Awaitable[tuple[World, Any]]]]:
    clients = []

    async def start(*, token: str | None = None, vendor: str = "crm") -> tuple[World, Any]:
        world = World(db, token=token, vendor=vendor)
        client: Any = TestClient(TestServer(world.app, host="127.0.0.1"))
        await client.start_server()
        clients.append(client)
        return world, client

    yield start
    for client in clients:
        await client.close()


async def add_job(db: Database, *, state: str = "available", vendor: str = "crm") -> UUID:
    job_id = uuid_utils.compat.uuid7()
    begin = state if state in ("available", "scheduled") else "running"
    await db.fetch_sql(
        """INSERT INTO gateway.jobs (id, route, vendor, kind, state, max_attempts, correlation_id)
           VALUES ($1, 'orders', $2, 'call', $3, 3, 'c-1')""",
        job_id,
        vendor,
        begin,
    )
    if state != begin:
        await db.fetch_sql("UPDATE gateway.jobs SET state = $2 WHERE id = $1", job_id, state)
    return job_id


async def add_event(db: Database, body: bytes = b'{"a": 1}') -> UUID:
    event_id = uuid_utils.compat.uuid7()
    await db.fetch_sql(
        """INSERT INTO gateway.events (id, vendor, correlation_id, headers, body, received_at)
           VALUES ($1, 'shop', 'c-1', '{"x": "y"}', $2, now())""",
        event_id,
        body,
    )
    return event_id


async def error_of(response: Any, status: int) -> str:
    assert response.status == status
    answer = await response.json()
    assert set(answer) == {"error"}
    assert set(answer["error"]) == {"code", "message"}
    return f"{answer['error']['code']}: {answer['error']['message']}"


# Health -----------------------------------------------------------------------------------------


async def test_health_and_metrics_are_answered(serve: Any) -> None:
    _, client = await serve()
    assert (await client.get("/healthz")).status == 200
    assert (await client.get("/readyz")).status == 200
    metrics = await client.get("/metrics")
    assert metrics.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    assert 'gateway_build_info{version="1.2.3"} 1.0' in await metrics.text()


@pytest.mark.parametrize("status", ["starting", "draining"])
async def test_who_does_not_serve_is_alive_but_not_ready(serve: Any, status: str) -> None:
    world, client = await serve()
    world.status = status
    assert status in await error_of(await client.get("/readyz"), 503)
    assert (await client.get("/healthz")).status == 200


async def test_a_database_without_our_schema_is_not_ready(
    serve: Any, db: Database, database_url: str
) -> None:
    connection = await asyncpg.connect(database_url)
    await connection.execute("DROP SCHEMA gateway CASCADE")
    await connection.close()
    _, client = await serve()
    assert "gateway migrate" in await error_of(await client.get("/readyz"), 503)


async def test_without_a_database_there_are_503_and_a_page(serve: Any, db: Database) -> None:
    _, client = await serve()
    db._health.set(False)
    assert "cannot be reached" in await error_of(await client.get("/readyz"), 503)
    for path in (f"{API}/jobs", f"{API}/jobs/{uuid4()}", f"{API}/stats"):
        response = await client.get(path)
        assert "database_unavailable" in await error_of(response, 503)
        assert int(response.headers["Retry-After"]) > 0
    page = await client.get("/")
    assert page.status == 200
    assert "database is away" in await page.text()
    (crm, _) = (await (await client.get(f"{API}/vendors")).json())["vendors"]
    assert (crm["concurrency"], crm["dead"]) == (4, None)


# Who may pass -----------------------------------------------------------------------------------


async def test_with_a_token_only_health_and_metrics_are_open(serve: Any, db: Database) -> None:
    _, client = await serve(token=TOKEN)
    job_id = await add_job(db, state="dead")
    for path in PROBES:
        assert (await client.get(path)).status == 200
    paths = document("1")["paths"]
    for path, methods in paths.items():
        if path in PROBES:
            continue
        for method in methods:
            url = path.replace("{id}", str(job_id))
            response = await client.request(method, url)
            assert "unauthorized" in await error_of(response, 401)
            assert response.headers["WWW-Authenticate"].startswith("Basic" if path == "/" else "B")
    assert await db.fetch_sql("SELECT count(*) FROM gateway.jobs") == [(1,)]
    assert (await client.get("/unknown")).status == 401


@pytest.mark.parametrize(
    "given", ["", "Bearer", "Bearer ", "Bearer wrong", f"Basic {TOKEN}", TOKEN, "Bearer é\udcff"]
)
async def test_a_wrong_token_is_refused(serve: Any, given: str) -> None:
    _, client = await serve(token=TOKEN)
    response = await client.get(f"{API}/jobs", headers={"Authorization": given})
    assert "unauthorized" in await error_of(response, 401)


async def test_the_right_token_passes_by_any_host(serve: Any) -> None:
    _, client = await serve(token=TOKEN)
    headers = {"Authorization": f"Bearer {TOKEN}", "Host": "gateway.example"}
    assert (await client.get(f"{API}/jobs", headers=headers)).status == 200


async def test_a_browser_shows_the_token_as_a_password_but_to_the_page_alone(serve: Any) -> None:
    _, client = await serve(token=TOKEN)
    basic = "Basic " + base64.b64encode(f"me:{TOKEN}".encode()).decode()
    assert (await client.get("/", headers={"Authorization": basic})).status == 200
    assert (await client.get(f"{API}/jobs", headers={"Authorization": basic})).status == 401
    for wrong in ("Basic ???", "Basic " + base64.b64encode(b"me:no").decode()):
        assert (await client.get("/", headers={"Authorization": wrong})).status == 401


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:8081", "127.0.0.1.evil.example", "10.0.0.1", "", "[::2]:1"],
)
async def test_without_a_token_a_rebound_name_is_refused(serve: Any, host: str) -> None:
    _, client = await serve()
    for path in ("/", "/metrics", f"{API}/jobs"):
        assert "forbidden" in await error_of(await client.get(path, headers={"Host": host}), 403)
    assert (await client.get("/healthz", headers={"Host": host})).status == 200


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:8081", "127.0.0.1:1", "127.1.2.3", "[::1]:8081", "[::1]"]
)
async def test_without_a_token_loopback_names_pass(serve: Any, host: str) -> None:
    _, client = await serve()
    assert (await client.get(f"{API}/jobs", headers={"Host": host})).status == 200


async def test_an_act_is_not_taken_from_another_sites_page(serve: Any, db: Database) -> None:
    _, client = await serve()
    job_id = await add_job(db)
    for origin in ("https://evil.example", "null", "http://localhost:1"):
        response = await client.post(
            f"{API}/jobs/{job_id}/cancel", headers={"Origin": origin, "Host": "localhost:8081"}
        )
        assert "forbidden" in await error_of(response, 403)
    response = await client.post(
        f"{API}/jobs/{job_id}/cancel",
        headers={"Origin": "http://localhost:8081", "Host": "localhost:8081"},
    )
    assert response.status == 200


async def test_every_answer_is_guarded_against_browsers(serve: Any) -> None:
    _, client = await serve()
    for path in ("/", "/healthz", f"{API}/jobs", f"{API}/jobs?limit=0", "/nowhere"):
        headers = (await client.get(path)).headers
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert "default-src 'none'" in headers["Content-Security-Policy"]
        assert headers["Cache-Control"] == "no-store"
        assert headers["Server"] == "gateway"


# Records ----------------------------------------------------------------------------------------


async def test_jobs_are_listed_in_pages(serve: Any, db: Database) -> None:
    _, client = await serve()
    added = [str(await add_job(db)) for _ in range(3)]
    first = await (await client.get(f"{API}/jobs?state=available&vendor=&limit=2")).json()
    assert [job["id"] for job in first["jobs"]] == added[:0:-1]
    rest = await (await client.get(f"{API}/jobs", params={"cursor": first["cursor"]})).json()
    assert [job["id"] for job in rest["jobs"]] == added[:1]
    assert rest["cursor"] is None
    assert rest["jobs"][0]["created_at"].endswith("Z")
    recent = await (await client.get(f"{API}/jobs?since=1h&correlation_id=c-1")).json()
    assert len(recent["jobs"]) == 3


@pytest.mark.parametrize(
    "query",
    ["limit=0", "limit=1001", "limit=x", "limit=1&limit=2", "state=done", "event_id=1",
     "since=soon", "until=2026-99-01", "cursor=x", "vendor=%00", "colour=red",
     "route=" + "x" * 300],
)  # fmt: skip
async def test_a_bad_parameter_is_named(serve: Any, query: str) -> None:
    _, client = await serve()
    message = await error_of(await client.get(f"{API}/jobs?{query}"), 400)
    assert message.startswith(f"bad_parameter: {query.partition('=')[0]}: ")


async def test_a_job_is_shown_and_its_acts_are_taken(serve: Any, db: Database) -> None:
    world, client = await serve()
    dead = await add_job(db, state="dead")
    lane = world.ready.lanes["crm"]
    lane.backlog = False
    made = await client.post(f"{API}/jobs/{dead}/replay")
    assert made.status == 201
    fresh = (await made.json())["id"]
    assert made.headers["Location"] == f"{API}/jobs/{fresh}"
    assert world.ready.wake.is_set()
    assert lane.backlog
    shown = await (await client.get(f"{API}/jobs/{fresh}")).json()
    assert (shown["replay_of"], shown["state"]) == (str(dead), "available")
    assert shown["attempts"] == []
    cancelled = await client.post(f"{API}/jobs/{fresh}/cancel")
    assert await cancelled.json() == {"id": fresh, "state": "cancelled", "before": "available"}
    again = await error_of(await client.post(f"{API}/jobs/{fresh}/cancel"), 409)
    assert "is cancelled" in again
    assert "finished already" in again


async def test_an_event_is_shown_with_its_body_where_asked_for(serve: Any, db: Database) -> None:
    _, client = await serve()
    event_id = await add_event(db)
    shown = await (await client.get(f"{API}/events/{event_id}")).json()
    assert (shown["headers"], shown["body_bytes"]) == ({"x": "y"}, 8)
    assert "body" not in shown
    shown = await (await client.get(f"{API}/events/{event_id}?body=true")).json()
    assert shown["body"] == {"a": 1}
    await error_of(await client.get(f"{API}/events/{event_id}?body=yes"), 400)


async def test_what_does_not_exist_is_404_and_no_id_is_400(serve: Any) -> None:
    _, client = await serve()
    for method, path in (
        ("GET", "jobs/{}"),
        ("POST", "jobs/{}/replay"),
        ("POST", "jobs/{}/cancel"),
        ("GET", "events/{}"),
    ):
        url = f"{API}/{path}"
        assert "not_found" in await error_of(await client.request(method, url.format(uuid4())), 404)
        for wrong in ("1", "x" * 36, f"urn:uuid:{uuid4()}", uuid4().hex):
            message = await error_of(await client.request(method, url.format(wrong)), 400)
            assert message.startswith("bad_parameter: id: ")
    await error_of(await client.get("/api/v1"), 404)
    response = await client.delete(f"{API}/jobs/{uuid4()}")
    assert "method_not_allowed" in await error_of(response, 405)
    assert "GET" in response.headers["Allow"]


async def test_too_many_questions_at_once_are_refused(
    serve: Any, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, client = await serve()
    asked, answered = asyncio.Event(), asyncio.Event()

    async def slow(*_: object, **__: object) -> dict[str, str]:
        asked.set()
        await answered.wait()
        return {}

    monkeypatch.setattr("gateway.web.admin.listing.list_jobs", slow)
    monkeypatch.setattr("gateway.web.admin.ASKING_OR_WAITING", 1)
    first = asyncio.create_task(client.get(f"{API}/jobs"))
    await asked.wait()
    await error_of(await client.get(f"{API}/jobs"), 503)
    assert (await client.get("/readyz")).status == 200
    answered.set()
    assert (await first).status == 200


async def test_a_fault_of_ours_is_500_and_tells_nothing(
    serve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, client = await serve()

    async def broken(*_: object, **__: object) -> None:
        raise RuntimeError("password=hunter2")

    monkeypatch.setattr("gateway.web.admin.listing.list_jobs", broken)
    assert "hunter2" not in await error_of(await client.get(f"{API}/jobs"), 500)


# Figures ----------------------------------------------------------------------------------------


async def test_vendors_show_their_lanes(serve: Any, db: Database) -> None:
    world, client = await serve()
    lane = world.ready.lanes["crm"]
    lane.park(60.0)
    await add_job(db, state="dead")
    await add_job(db, state="available")
    await world.backlog.count()
    crm, shop = (await (await client.get(f"{API}/vendors")).json())["vendors"]
    assert 0 < crm.pop("parked_seconds") <= 60
    assert crm == {
        "name": "crm", "sends": False, "called": True, "rate": ["10/s"], "concurrency": 4,
        "waiting": 0, "running": 0, "held": 0, "paused": False, "next_call_seconds": 0.0,
        "breaker": None, "backlog": 1, "scheduled": 0, "dead": 1,
    }  # fmt: skip
    assert (shop["sends"], shop["called"], shop["concurrency"]) == (True, False, None)
    lane.pause(True)
    crm, _ = (await (await client.get(f"{API}/vendors")).json())["vendors"]
    assert (crm["paused"], crm["parked_seconds"]) == (True, 0.0)


async def test_stats_tell_of_records_and_process(serve: Any, db: Database) -> None:
    _, client = await serve()
    await add_job(db, state="dead")
    stats = await (await client.get(f"{API}/stats")).json()
    assert stats["dead"] == 1
    assert stats["recent"][0]["states"] == {"dead": 1}
    assert stats["service"]["status"] == "serving"
    assert stats["service"]["version"] == "1.2.3"


async def test_the_page_shows_names_as_text_and_needs_nothing_else(serve: Any) -> None:
    hostile = "<script>alert(1)</script>"
    _, client = await serve(vendor=hostile)
    response = await client.get("/")
    page = await response.text()
    assert response.headers["Content-Type"] == "text/html; charset=utf-8"
    assert hostile not in page
    assert "&lt;script&gt;" in page
    for loading in ("<script", "<link", "<img", "src=", "url(", "@import"):
        assert loading not in page
    style = page.partition("<style>")[2].partition("</style>")[0]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert f"'sha256-{digest}'" in response.headers["Content-Security-Policy"]


# The description --------------------------------------------------------------------------------


async def test_the_description_names_every_route_and_no_other(serve: Any) -> None:
    world, client = await serve()
    described = {
        (method.upper(), path)
        for path, methods in (await (await client.get(f"{API}/openapi.json")).json())[
            "paths"
        ].items()
        for method in methods
    }
    routed = {
        (route.method, route.resource.canonical)
        for route in world.app.router.routes()
        if route.method != "HEAD" and route.resource is not None
    }
    assert described == routed


def test_every_reference_of_the_description_leads_somewhere() -> None:
    described = document("1")
    text = json.dumps(described)
    names = {part.partition('"')[0] for part in text.split("#/components/schemas/")[1:]}
    assert names <= set(described["components"]["schemas"])


async def test_answers_have_the_fields_that_are_described(serve: Any, db: Database) -> None:
    _, client = await serve()
    schemas = document("1")["components"]["schemas"]
    job_id, event_id = await add_job(db), await add_event(db)
    for path, name in (
        (f"jobs/{job_id}", "JobDetail"),
        (f"events/{event_id}?body=true", "EventDetail"),
        ("stats", "StatsView"),
        ("jobs", "Page"),
    ):
        answer = await (await client.get(f"{API}/{path}")).json()
        assert set(answer) == set(schemas[name]["properties"]), name


def test_templates_are_shipped() -> None:
    root = Path(__file__).parents[2]
    shipped = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert "web/templates/*" in shipped["package-data"]["gateway"]


# Replays and pauses -------------------------------------------------------------------------------


async def test_a_replay_is_counted_asked_for_shown_and_cancelled(serve: Any, db: Database) -> None:
    _, client = await serve()
    for _ in range(3):
        await add_job(db, state="dead")
    await db.fetch_sql("UPDATE gateway.jobs SET finished_at = now()")
    counted = {"count": 3, "complete": True}
    response = await client.post(f"{API}/replays", json={"dry_run": True})
    assert (response.status, await response.json()) == (200, {"dry_run": True, **counted})
    response = await client.post(f"{API}/replays", json={"vendor": "crm", "rate": "5/s"})
    asked = await response.json()
    assert response.status == 202
    assert counted.items() <= asked.items()
    shown = await (await client.get(response.headers["Location"])).json()
    assert (shown["state"], shown["rate"], shown["made"], shown["filter"]) == (
        "running",
        "5/s",
        0,
        {"state": "dead", "vendor": "crm"},
    )
    assert shown["requested_by"] == "api from 127.0.0.1"
    listed = (await (await client.get(f"{API}/replays")).json())["replays"]
    assert [one["id"] for one in listed] == [asked["id"]]
    assert (await client.post(f"{API}/replays/{asked['id']}/cancel")).status == 200
    assert (await client.post(f"{API}/replays/{asked['id']}/cancel")).status == 409
    assert (await client.get(f"{API}/replays/{uuid4()}")).status == 404
    groups = (await (await client.get(f"{API}/dead?vendor=crm")).json())["groups"]
    assert [group["jobs"] for group in groups] == [3]


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ("[]", "body"),
        ("{", "body"),
        ('{"stat": "dead"}', "stat"),
        ('{"state": "running"}', "state"),
        ('{"rate": "fast"}', "rate"),
        ('{"rate": "5000/s"}', "rate"),
        ('{"rate": 5}', "rate"),
        ('{"dry_run": "yes"}', "dry_run"),
        ('{"since": "soon"}', "since"),
        ('{"event_id": "7"}', "event_id"),
    ],
)
async def test_a_wish_that_cannot_be_read_is_refused_by_name(
    serve: Any, db: Database, body: str, named: str
) -> None:
    _, client = await serve()
    said = await error_of(await client.post(f"{API}/replays", data=body), 400)
    assert said.startswith(f"bad_parameter: {named}: ")
    assert await db.fetch_sql("SELECT 1 FROM gateway.replays") == []


async def test_waiting_jobs_are_counted_and_cancelled_by_filter(serve: Any, db: Database) -> None:
    _, client = await serve()
    for state in ("available", "scheduled", "running", "dead"):
        await add_job(db, state=state)
    await add_job(db, vendor="erp")
    path, counted = f"{API}/jobs/cancel", {"count": 2, "complete": True}
    response = await client.post(path, json={"vendor": "crm", "dry_run": True})
    assert (response.status, await response.json()) == (200, {"dry_run": True, **counted})
    assert await db.fetch_sql("SELECT FROM gateway.jobs WHERE state = 'cancelled'") == []
    response = await client.post(path, json={"vendor": "crm", "since": "1h"})
    assert await response.json() == {**counted, "cancelled": 2, "done": True}
    rows = await db.fetch_sql("SELECT vendor, state::text AS state FROM gateway.jobs ORDER BY id")
    assert [tuple(row) for row in rows] == [
        ("crm", "cancelled"),
        ("crm", "cancelled"),
        ("crm", "running"),
        ("crm", "dead"),
        ("erp", "available"),
    ]
    answer = await (await client.get(f"{API}/acts?act=jobs&target=crm")).json()
    (act,) = answer["acts"]
    assert (act["who"], act["result"]) == ("api from 127.0.0.1", {"cancelled": 2})
    assert answer["cursor"] is None
    assert set(act) == set(document("1")["components"]["schemas"]["ActRecord"]["properties"])


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ("", "body"),
        ("{}", "body"),
        ('{"dry_run": true}', "body"),
        ('{"vendor": null}', "body"),
        ('{"state": "running"}', "state"),
        ('{"state": "dead"}', "state"),
        ('{"rate": "5/s"}', "rate"),
        ('{"vendor": "crm", "dry_run": 1}', "dry_run"),
    ],
)
async def test_a_cancel_that_names_no_jobs_or_others_is_refused(
    serve: Any, db: Database, body: str, named: str
) -> None:
    _, client = await serve()
    await add_job(db)
    said = await error_of(await client.post(f"{API}/jobs/cancel", data=body), 400)
    assert said.startswith(f"bad_parameter: {named}: ")
    assert await db.fetch_sql("SELECT FROM gateway.jobs WHERE state = 'cancelled'") == []


@pytest.mark.parametrize("query", ["actor=x", "limit=0", "cursor=x", "since=soon", "who=a&who=b"])
async def test_a_question_about_acts_that_cannot_be_read_is_refused(serve: Any, query: str) -> None:
    _, client = await serve()
    assert (await client.get(f"{API}/acts?{query}")).status == 400


async def test_what_cannot_be_paused_is_said(serve: Any) -> None:
    _, client = await serve()
    assert (await client.post(f"{API}/vendors/crm/pause")).status == 200
    assert "is not called" in await error_of(await client.post(f"{API}/vendors/shop/pause"), 409)
    assert "not found" in await error_of(await client.post(f"{API}/vendors/no/pause"), 404)
    assert "not found" in await error_of(await client.post(f"{API}/routes/no/pause"), 404)
    vendors = (await (await client.get(f"{API}/vendors")).json())["vendors"]
    assert [vendor["paused"] for vendor in vendors if vendor["name"] == "crm"] == [True]


async def test_a_scheduled_job_is_moved(serve: Any, db: Database) -> None:
    _, client = await serve()
    path = f"{API}/jobs/{await add_job(db, state='scheduled')}/reschedule"
    response = await client.post(path, json={"at": "2090-01-31T08:30:00Z"})
    assert (await response.json())["run_at"] == "2090-01-31T08:30:00Z"
    assert (await client.post(path, json={"in": "10m"})).status == 200
    for body in ({}, {"at": "2h"}, {"in": "soon"}, {"at": "2090-01-01", "in": "1h"}):
        assert (await client.post(path, json=body)).status == 400
    waiting = await add_job(db)
    response = await client.post(f"{API}/jobs/{waiting}/reschedule", json={"in": "1h"})
    assert "only a scheduled job" in await error_of(response, 409)
