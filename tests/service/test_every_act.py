"""Every act of an operator, by every way there is, is in the book with who did it.

The tables below are held to the code: a way to act that is not in them fails these tests.
"""

import asyncio
import json
import os
import pwd
import socket
import sys
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp
import click
import pytest
import uuid_utils.compat
from harness import ROOT, SECRET, Gateway, Records, api, configure, route
from operating import command

from gateway.cli import _COMMANDS, main
from gateway.cli.choosing import operator
from gateway.web.admin import admin_app

API = "/api/v1"
TOKEN = "correct horse"

# Acts on a fresh World each; {name} is filled in from it. (way, body or words, act, target names)
HTTP = [
    ("jobs/{dead}/replay", None, "job.replay", {"job": "{dead}"}),
    ("jobs/{waiting}/cancel", None, "job.cancel", {"job": "{waiting}"}),
    ("jobs/{scheduled}/reschedule", {"in": "1h"}, "job.reschedule", {"job": "{scheduled}"}),
    ("jobs/cancel", {"vendor": "crm"}, "jobs.cancel", {"vendor": "crm"}),
    ("replays", {"vendor": "crm"}, "replay.start", {"rate": "50/s"}),
    ("replays/{replay}/cancel", None, "replay.cancel", {"replay": "{replay}"}),
    ("events/{event}/reroute", None, "event.reroute", {"event": "{event}"}),
    ("held-keys/release", {"route": "order", "key": "k"}, "key.release", {"key": "k"}),
    ("vendors/crm/pause", None, "vendor.pause", {"vendor": "crm"}),
    ("vendors/crm/resume", None, "vendor.resume", {"vendor": "crm"}),
    ("routes/order/pause", None, "route.pause", {"route": "order"}),
    ("routes/order/resume", None, "route.resume", {"route": "order"}),
]
COMMANDS = [
    ("jobs replay", "{dead}", "job.replay", {"job": "{dead}"}),
    ("jobs cancel", "{waiting}", "job.cancel", {"job": "{waiting}"}),
    ("jobs cancel", "--vendor crm --yes", "jobs.cancel", {"vendor": "crm"}),
    ("jobs reschedule", "{scheduled} --in 1h", "job.reschedule", {"job": "{scheduled}"}),
    ("jobs release-key", "order k", "key.release", {"route": "order"}),
    ("replay", "--vendor crm --yes", "replay.start", {"rate": "50/s"}),
    ("replays cancel", "{replay}", "replay.cancel", {"replay": "{replay}"}),
    ("events reroute", "{event}", "event.reroute", {"event": "{event}"}),
    ("vendors pause", "crm", "vendor.pause", {"vendor": "crm"}),
    ("vendors resume", "crm", "vendor.resume", {"vendor": "crm"}),
    ("routes pause", "order", "route.pause", {"route": "order"}),
    ("routes resume", "order", "route.resume", {"route": "order"}),
]
FUNCTIONS = [
    ("replay", "'{dead}'", "job.replay", {"job": "{dead}"}),
    ("cancel", "'{waiting}'", "job.cancel", {"job": "{waiting}"}),
    ("reschedule", "'{scheduled}', now()", "job.reschedule", {"job": "{scheduled}"}),
    ("release_key", "'order', 'k'", "key.release", {"key": "k"}),
    ("pause_vendor", "'crm'", "vendor.pause", {"vendor": "crm"}),
    ("resume_vendor", "'crm'", "vendor.resume", {"vendor": "crm"}),
    ("pause_route", "'order'", "route.pause", {"route": "order"}),
    ("resume_route", "'order'", "route.resume", {"route": "order"}),
]
# Commands that change nothing of what flows.
OTHER_COMMANDS = {
    *("acts list", "config check", "config schema", "config show", "demo", "events show"),
    *("jobs dead", "jobs held", "jobs list", "jobs show", "migrate", "psql", "replays list"),
    *("replays show", "routes list", "send", "serve", "vendors list", "version"),
    *("webhooks explain", "webhooks senders"),
}
# Functions that write into the book for the others.
WRITERS = {"record_act", "record_switch"}

World = dict[str, str]


async def put_world(records: Records) -> World:
    """Store something for each act to be about; return the ids."""
    await records.value("DELETE FROM gateway.ordering_keys")
    world = {
        name: str(uuid_utils.compat.uuid7())
        for name in ("dead", "waiting", "scheduled", "event", "replay")
    }
    await records.value(
        """INSERT INTO gateway.events (id, vendor, event_type, correlation_id, headers, body,
                                       received_at)
           VALUES ($1, 'shop', 'order', 'c', '{}', '{}', now())""",
        world["event"],
    )
    for name, state in (("dead", "running"), ("waiting", "available"), ("scheduled", "scheduled")):
        await records.value(
            """INSERT INTO gateway.jobs (id, route, vendor, kind, state, max_attempts,
                                         correlation_id, run_at)
               VALUES ($1, 'order', 'crm', 'call', $2, 3, 'c', now() + interval '1 day')""",
            world[name],
            state,
        )
    await records.value(
        "UPDATE gateway.jobs SET state = 'dead', finished_at = now() WHERE id = $1", world["dead"]
    )
    await records.value(
        "INSERT INTO gateway.ordering_keys VALUES ('order', 'k', $1, $1, true)", world["dead"]
    )
    await records.value(
        """INSERT INTO gateway.replays (id, requested_by, wanted, rate, pause_seconds, new_key,
                                        counted, counted_all, reached, high, node, lease_until)
           VALUES ($1, 'x', '{"state": "dead"}', '1/s', 1, false, 1, true, $2, $2,
                   'another', now() + interval '1 day')""",
        world["replay"],
        "00000000-0000-0000-0000-000000000000",
    )
    return world


async def the_act(records: Records, since: datetime) -> Any:
    """Return the one act since then."""
    rows = await records.rows("SELECT * FROM gateway.acts WHERE at > $1", since)
    (act,) = [{**row, "target": json.loads(row["target"])} for row in rows]
    return SimpleNamespace(**act)


def check(act: Any, world: World, *, who: str, did: str, target: dict[str, str]) -> None:
    assert (act.who, act.act) == (who, did)
    filled = {name: value.format(**world) for name, value in target.items()}
    assert filled.items() <= act.target.items()


@pytest.fixture
async def config(database_url: str, records: Records, tmp_path: Path) -> Path:
    vendors = api("crm", "http://127.0.0.1:9") + route("order", 'call = "POST crm:/orders"')
    # The vendor is paused, so that what is put there stays as it is.
    await records.value("INSERT INTO gateway.vendor_state (vendor, paused) VALUES ('crm', true)")
    return configure(tmp_path, database_url, vendors=vendors)


def ask_for_token(config: Path) -> None:
    config.write_text(config.read_text().replace("[queue]", 'token = "env:ADMIN_TOKEN"\n[queue]'))


async def now(records: Records) -> datetime:
    moment: datetime = await records.value("SELECT clock_timestamp()")
    return moment


@pytest.mark.parametrize("token", [None, TOKEN])
async def test_every_act_over_http_is_in_the_book(
    config: Path, records: Records, token: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    headers = {}
    if token is not None:
        monkeypatch.setenv("ADMIN_TOKEN", token)
        ask_for_token(config)
        headers = {"Authorization": f"Bearer {token}"}
    who = f"{'admin.token' if token else 'api'} from 127.0.0.1"
    async with Gateway(config) as gateway, aiohttp.ClientSession(headers=headers) as session:
        for path, body, did, target in HTTP:
            world = await put_world(records)
            since = await now(records)
            url = f"{gateway.admin}{API}/{path.format(**world)}"
            async with session.post(url, json=body) as response:
                assert response.status < 300, (path, await response.text())
            check(await the_act(records, since), world, who=who, did=did, target=target)
        assert not gateway.faults()


async def test_every_act_by_command_is_in_the_book(
    config: Path, records: Records, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SUDO_USER", raising=False)
    monkeypatch.setenv("LOGNAME", "somebody-else")
    who = f"{pwd.getpwuid(os.getuid()).pw_name}@{socket.gethostname()}"
    for words, arguments, did, target in COMMANDS:
        world = await put_world(records)
        since = await now(records)
        await command(config, *words.split(), *arguments.format(**world).split())
        check(await the_act(records, since), world, who=who, did=did, target=target)


@pytest.mark.skipif(os.getuid() != 0, reason="sudo makes root of somebody")
def test_who_became_root_by_sudo_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUDO_USER", "alice")
    assert operator() == f"alice as root@{socket.gethostname()}"


async def test_every_act_in_psql_is_in_the_book(config: Path, records: Records) -> None:
    who = await records.value("SELECT current_user::text")
    for name, arguments, did, target in FUNCTIONS:
        world = await put_world(records)
        since = await now(records)
        await records.value(f"SELECT gateway.{name}({arguments.format(**world)})")
        check(await the_act(records, since), world, who=who, did=did, target=target)


async def test_an_act_in_gateway_psql_names_its_user_and_not_the_shared_role(
    config: Path, records: Records, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SUDO_USER", "alice")
    since = await now(records)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gateway", "psql", "--config", str(config)),
        *("--no-psqlrc", "-c", "SELECT gateway.pause_route('order')"),
        cwd=ROOT,
        env={**os.environ, "SHOP_SECRET": SECRET},
        stdout=asyncio.subprocess.DEVNULL,
    )
    assert await process.wait() == 0
    assert (await the_act(records, since)).who == operator()


def test_no_way_over_http_is_missing_here() -> None:
    deps: Any = SimpleNamespace(
        config=SimpleNamespace(admin=SimpleNamespace(token=None), vendors={}), version="1", db=None
    )
    posts = {
        route.resource.canonical
        for route in admin_app(deps).router.routes()
        if route.method not in ("GET", "HEAD") and route.resource is not None
    }
    assert {f"{API}/{_as_pattern(path)}" for path, *_ in HTTP} == posts


def _as_pattern(path: str) -> str:
    for name in ("dead", "waiting", "scheduled", "replay", "event"):
        path = path.replace(f"{{{name}}}", "{id}")
    return path.replace("/crm/", "/{name}/").replace("/order/", "/{name}/")


def test_no_command_is_missing_here() -> None:
    def walk(group: click.Group, before: str) -> set[str]:
        found: set[str] = set()
        context = click.Context(group)
        for name in group.list_commands(context):
            made = group.get_command(context, name)
            words = f"{before}{name}"
            found |= walk(made, f"{words} ") if isinstance(made, click.Group) else {words}
        return found

    assert isinstance(main, click.Group)
    assert set(_COMMANDS) <= {words.split()[0] for words in walk(main, "")}
    assert walk(main, "") == OTHER_COMMANDS | {words for words, *_ in COMMANDS}


async def test_no_function_is_missing_here(records: Records) -> None:
    rows = await records.rows(
        """SELECT proname FROM pg_proc
           WHERE pronamespace = 'gateway'::regnamespace AND 'who' = ANY (proargnames)"""
    )
    assert {row["proname"] for row in rows} - WRITERS == {name for name, *_ in FUNCTIONS}
