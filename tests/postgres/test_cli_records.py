"""The commands that read and change records, on a real database."""

import asyncio
import json
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
import uuid_utils.compat
from click.testing import CliRunner

from gateway.cli import main

HOSTILE = "\x1b[2Jgone"


class Operator:
    """Runs commands, and SQL behind their back."""

    def __init__(self, url: str, config_path: Path) -> None:
        self._url = url
        self._config_path = config_path

    def run(self, *arguments: str) -> tuple[int, str, str]:
        environment = {"GATEWAY_CONFIG": str(self._config_path), "DATABASE_URL": self._url}
        result = CliRunner().invoke(main, arguments, env=environment)
        assert result.exception is None or isinstance(result.exception, SystemExit)
        return result.exit_code, result.stdout, result.stderr

    def json(self, *arguments: str) -> list[Any]:
        code, out, _ = self.run(*arguments, "--json")
        assert code == 0
        return [json.loads(line) for line in out.splitlines()]

    def sql(self, statement: str, *arguments: object) -> list[Any]:
        async def ask() -> list[Any]:
            connection = await asyncpg.connect(self._url)
            try:
                return list(await connection.fetch(statement, *arguments))
            finally:
                await connection.close()

        return asyncio.run(ask())

    def add_job(self, *, state: str = "available", event_id: UUID | None = None) -> str:
        job_id = uuid_utils.compat.uuid7()
        self.sql(
            """INSERT INTO gateway.jobs (id, event_id, route, vendor, kind, state, max_attempts,
                                         correlation_id, last_error)
               VALUES ($1, $2, 'orders', 'crm', 'call', $3, 3, 'c-1', $4)""",
            job_id,
            event_id,
            "running" if state == "dead" else state,
            HOSTILE,
        )
        if state == "dead":
            self.sql("UPDATE gateway.jobs SET state = 'dead' WHERE id = $1", job_id)
        return str(job_id)

    def add_event(self, body: bytes) -> UUID:
        event_id: UUID = uuid_utils.compat.uuid7()
        self.sql(
            """INSERT INTO gateway.events (id, vendor, correlation_id, headers, body, received_at)
               VALUES ($1, 'shop', 'c-1', '{}', $2, now())""",
            event_id,
            body,
        )
        return event_id


@pytest.fixture
def operator(database_url: str, tmp_path: Path) -> Operator:
    path = tmp_path / "config.toml"
    path.write_text(
        '[database]\nurl = "env:DATABASE_URL"\n[vendors.shop.webhook]\nverify = "none"\n'
        '[vendors.crm.api]\nbase_url = "https://crm.example"\nrate = "10/s"\n'
    )
    return Operator(database_url, path)


def test_jobs_are_listed_as_a_table_and_as_json(operator: Operator) -> None:
    ids = [operator.add_job() for _ in range(3)]
    code, out, err = operator.run("jobs", "list", "--state", "available", "--since", "1h")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert [line.split()[0] for line in lines] == ["id", *reversed(ids)]
    assert "\x1b" not in out
    assert "\\x1b[2Jgone" in lines[1]
    assert [job["id"] for job in operator.json("jobs", "list")] == ids[::-1]
    assert operator.json("jobs", "list", "--state", "dead") == []


def test_a_limit_above_a_page_is_reached_and_said_to_be_one(
    operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.store.listing.MAX_LIMIT", 2)
    ids = [operator.add_job() for _ in range(6)]
    code, out, err = operator.run("jobs", "list", "--limit", "5", "--json")
    assert [json.loads(line)["id"] for line in out.splitlines()] == ids[:0:-1]
    assert (code, "may be more" in err) == (0, True)
    assert operator.run("jobs", "list", "--limit", "6")[2] == ""


def test_a_job_is_shown_with_event_attempts_and_body(operator: Operator) -> None:
    event_id = operator.add_event(b'{"note": "\\u001b[2J"}')
    job_id = operator.add_job(state="dead", event_id=event_id)
    operator.sql(
        """INSERT INTO gateway.attempts (job_id, attempt, node, started_at, duration_ms, outcome,
                                         http_status, request)
           VALUES ($1, 1, 'n', now(), 5, 'retry', 503, '{"method": "POST"}')""",
        UUID(job_id),
    )
    code, out, _ = operator.run("jobs", "show", job_id, "--body")
    assert code == 0
    for text in (job_id, str(event_id), "503", '"method":', "\\u001b[2J"):
        assert text in out
    assert "\x1b" not in out
    (shown,) = operator.json("jobs", "show", job_id)
    assert shown["attempts"][0]["http_status"] == 503
    assert "body" not in shown["event"]


def test_an_event_is_shown_and_its_body_comes_out_as_it_went_in(operator: Operator) -> None:
    body = b"\x00\xff\x1b[2J\r\n"
    event_id = str(operator.add_event(body))
    code, out, _ = operator.run("events", "show", event_id, "--body")
    assert (code, "base64" in out) == (0, True)
    assert operator.json("events", "show", event_id)[0]["body_bytes"] == len(body)
    raw = CliRunner().invoke(
        main,
        ["events", "show", event_id, "--raw", "--config", str(operator._config_path)],
        env={"DATABASE_URL": operator._url},
    )
    assert raw.stdout_bytes == body
    assert operator.run("events", "show", event_id, "--raw", "--json")[0] == 2


def test_replay_prints_the_new_jobs(operator: Operator) -> None:
    dead = [operator.add_job(state="dead") for _ in range(2)]
    code, out, err = operator.run("jobs", "replay", *dead)
    assert (code, err) == (0, "")
    for old, new in zip(dead, out.split(), strict=True):
        assert operator.json("jobs", "show", new)[0]["replay_of"] == old
    assert operator.json("jobs", "replay", dead[0])[0]["replay_of"] == dead[0]


def test_cancel_stops_what_waits(operator: Operator) -> None:
    job_id = operator.add_job()
    assert operator.run("jobs", "cancel", job_id)[:2] == (
        0,
        f"{job_id} was available, is cancelled\n",
    )
    assert operator.json("jobs", "show", job_id)[0]["state"] == "cancelled"


def test_one_that_fails_does_not_stop_the_others(operator: Operator) -> None:
    waiting, running, missing = operator.add_job(), operator.add_job(state="running"), str(uuid4())
    code, out, err = operator.run("jobs", "cancel", missing, running, waiting)
    assert code == 1
    assert out == f"{waiting} was available, is cancelled\n"
    assert f"job {missing}: not found" in err
    assert "A running job ends by itself" in err
    assert operator.run("jobs", "cancel", missing)[0] == 3
    assert operator.run("jobs", "show", missing)[0] == 3
    assert operator.run("events", "show", missing)[0] == 3


def test_vendors_are_listed_with_what_waits(operator: Operator) -> None:
    operator.add_job()
    operator.add_job(state="dead")
    rows = {row["name"]: row for row in operator.json("vendors", "list")}
    assert set(rows) == {"crm", "local", "shop"}
    assert (rows["crm"]["backlog"], rows["crm"]["dead"], rows["crm"]["rate"]) == (1, 1, ["10/s"])
    assert (rows["shop"]["verify"], rows["shop"]["base_url"]) == ("none", None)
    code, out, _ = operator.run("vendors", "list")
    assert (code, out.splitlines()[0].split()[0]) == (0, "vendor")


def test_an_unmigrated_database_is_named_and_migrate_mends_it(operator: Operator) -> None:
    operator.sql("DROP SCHEMA gateway CASCADE")
    code, _, err = operator.run("jobs", "list")
    assert code == 1
    assert "run `gateway migrate`" in err
    code, out, _ = operator.run("migrate")
    assert (code, out.splitlines()[0]) == (0, "0001_schema")
    assert operator.run("migrate") == (
        0,
        "",
        "nothing to do: the database is at this version\n",
    )
    assert operator.run("jobs", "list")[0] == 0
