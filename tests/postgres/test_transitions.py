"""What psql may do: legal changes of state, replay, cancel, read a body; nothing else."""

from __future__ import annotations

import asyncio
import json
from itertools import product
from typing import Any

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from store_samples import count, put_job, row
from uuid_utils.compat import uuid7

from gateway.model import FINAL_STATES, JobState
from gateway.store.database import Database

INITIAL = {"scheduled", "available", "running", "blocked"}
LEGAL = {
    ("scheduled", "available"),
    ("scheduled", "cancelled"),
    ("available", "running"),
    ("available", "cancelled"),
    ("blocked", "available"),
    ("blocked", "scheduled"),
    ("blocked", "cancelled"),
    ("running", "completed"),
    ("running", "dead"),
    ("running", "cancelled"),
    ("running", "scheduled"),
    ("running", "available"),
}

STATES = [state.value for state in JobState]


# The guard ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", STATES)
async def test_a_job_begins_only_in_a_state_of_waiting_or_running(
    connection: Any, state: str
) -> None:
    insert = """INSERT INTO gateway.jobs (id, route, vendor, kind, state, max_attempts,
                                          correlation_id)
                VALUES ($1, 'r', 'v', 'call', $2, 1, 'c')"""
    if state in INITIAL:
        await connection.execute(insert, uuid7(), state)
    else:
        with pytest.raises(asyncpg.CheckViolationError, match=f"cannot begin as {state}"):
            await connection.execute(insert, uuid7(), state)


async def test_exactly_the_legal_changes_of_state_are_possible(connection: Any) -> None:
    for old, new in product(STATES, STATES):
        job_id = await put_job(connection, state=old)
        update = "UPDATE gateway.jobs SET state = $2 WHERE id = $1"
        if (old, new) in LEGAL or old == new:
            await connection.execute(update, job_id, new)
            assert (await row(connection, job_id))["state"] == new
        else:
            with pytest.raises(asyncpg.CheckViolationError) as refusal:
                await connection.execute(update, job_id, new)
            assert f"{job_id}: its state cannot change from {old} to {new}" in str(refusal.value)
            assert refusal.value.hint
            assert (await row(connection, job_id))["state"] == old


async def test_one_illegal_row_refuses_the_whole_update(connection: Any) -> None:
    await put_job(connection, state="available")
    await put_job(connection, state="completed")
    with pytest.raises(asyncpg.CheckViolationError, match="from completed to cancelled"):
        await connection.execute("UPDATE gateway.jobs SET state = 'cancelled'")
    assert await connection.fetchval("SELECT count(*) FROM gateway.jobs WHERE claimable") == 1


@pytest.mark.parametrize("priority", [-1, 10])
async def test_a_priority_is_a_digit(connection: Any, priority: int) -> None:
    with pytest.raises(asyncpg.CheckViolationError):
        await put_job(connection, priority=priority)


async def test_the_derived_columns_follow_the_state(connection: Any) -> None:
    for state in STATES:
        job = await row(connection, await put_job(connection, state=state))
        assert job["claimable"] == (state == "available")
        assert job["due_at"] == (job["run_at"] if state == "scheduled" else None)
        assert job["parked"] == (state == "dead")
        assert job["in_line"] == (state == "blocked")


# History -----------------------------------------------------------------------------------------


async def put_event(connection: Any, body: bytes = b"{}") -> Any:
    event_id = uuid7()
    await connection.execute(
        """INSERT INTO gateway.events (id, vendor, correlation_id, headers, body, received_at)
           VALUES ($1, 'shop', 'c', '{}', $2, now())""",
        event_id,
        body,
    )
    return event_id


@pytest.mark.parametrize(
    "rewrite",
    [
        "UPDATE gateway.events SET body = ''",
        "DELETE FROM gateway.events",
        "TRUNCATE gateway.events",
        "UPDATE gateway.attempts SET outcome = 'completed'",
        "DELETE FROM gateway.attempts",
        "TRUNCATE gateway.attempts",
    ],
)
async def test_history_is_only_ever_added_to(connection: Any, rewrite: str) -> None:
    await put_event(connection)
    await connection.execute(
        """INSERT INTO gateway.attempts (job_id, attempt, node, started_at, duration_ms, outcome)
           VALUES ($1, 1, 'n', now(), 1, 'retry')""",
        uuid7(),
    )
    with pytest.raises(asyncpg.InsufficientPrivilegeError, match="append-only"):
        await connection.execute(rewrite)
    assert await count(connection, "events") == await count(connection, "attempts") == 1


# Replay and cancel -------------------------------------------------------------------------------


@pytest.mark.parametrize("state", STATES)
async def test_replay_makes_a_new_job_of_a_finished_one(connection: Any, state: str) -> None:
    given = {
        "event_id": uuid7(),
        "priority": 2,
        "payload": '{"n": 1}',
        "attempt": 3,
        "correlation_id": "kept",
    }
    old_id = await put_job(connection, state=state, **given)
    before = await row(connection, old_id)
    if state not in FINAL_STATES:
        with pytest.raises(asyncpg.ObjectNotInPrerequisiteStateError, match=f"is {state}"):
            await connection.fetchval("SELECT gateway.replay($1)", old_id)
        return
    new_id = await connection.fetchval("SELECT gateway.replay($1)", old_id)
    new = await row(connection, new_id)
    assert await row(connection, old_id) == before
    assert (new["state"], new["replay_of"], new["attempt"]) == ("available", old_id, 0)
    kept = ("event_id", "route", "vendor", "kind", "priority", "payload", "max_attempts")
    for name in (*kept, "correlation_id"):
        assert new[name] == before[name], name


@pytest.mark.parametrize("state", STATES)
async def test_cancel_stops_what_waits_and_only_that(connection: Any, state: str) -> None:
    job_id = await put_job(connection, state=state)
    if state in ("scheduled", "available", "blocked"):
        assert await connection.fetchval("SELECT gateway.cancel($1)", job_id) == state
        cancelled = await row(connection, job_id)
        assert cancelled["state"] == "cancelled"
        assert cancelled["finished_at"] is not None
        return
    with pytest.raises(asyncpg.ObjectNotInPrerequisiteStateError, match=f"is {state}"):
        await connection.fetchval("SELECT gateway.cancel($1)", job_id)
    assert (await row(connection, job_id))["state"] == state


@pytest.mark.parametrize("act", ["replay", "cancel"])
async def test_an_act_on_no_job_says_so(connection: Any, act: str) -> None:
    with pytest.raises(asyncpg.NoDataFoundError, match="not found"):
        await connection.fetchval(f"SELECT gateway.{act}($1)", uuid7())


# Bodies ------------------------------------------------------------------------------------------


async def shown(connection: Any, body: bytes) -> Any:
    """Return what gateway.body says of an event with this body, decoded."""
    event_id = await put_event(connection, body)
    return json.loads(await connection.fetchval("SELECT gateway.body($1)::text", event_id))


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"a": [1, 2.5, null, true, "\\u00e9"]}', {"a": [1, 2.5, None, True, "é"]}),
        (b' "text" ', "text"),
        (b"", ""),
        (b"a=1&b=2", "a=1&b=2"),
        (b"{broken", "{broken"),
        ("Grüße".encode(), "Grüße"),
        ("Grüße".encode("latin-1"), {"base64": "R3L832U="}),
        (b"nul \x00 byte", {"base64": "bnVsIAAgYnl0ZQ=="}),
        (b'"\\u0000"', "�"),
        (b'"\\u0000\\u0000x"', "��x"),
        (b'"\\\\u0000"', "\\u0000"),
        (b'"\\\\\\u0000"', "\\�"),
        (b'"\\\\\\\\u0000 \\u0000"', "\\\\u0000 �"),
        (b'{"\\u0000": 1}', {"�": 1}),
        (b'"\\ud800"', '"\\ud800"'),
        (b'"\\ud83d\\ude00"', "😀"),
        (b'{"n": 1e400}', {"n": 10**400}),
        (b'{"n": 1e999999}', '{"n": 1e999999}'),
        (b'{"n": 123456789012345678901234567890.5}', {"n": 123456789012345678901234567890.5}),
        (b"NaN", "NaN"),
        (b"[" * 20_000 + b"]" * 20_000, "[" * 20_000 + "]" * 20_000),
    ],
    ids=lambda value: repr(value)[:30],
)
async def test_a_body_is_shown_as_its_json_or_text_or_base64(
    connection: Any, body: bytes, expected: Any
) -> None:
    assert await shown(connection, body) == expected


async def test_a_body_that_is_not_there_is_null(connection: Any) -> None:
    assert await connection.fetchval("SELECT gateway.body($1)", uuid7()) is None


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(alphabet=st.sampled_from('\\u0 "\x00é{'), max_size=12))
def test_any_text_survives_as_a_json_body(database_url: str, text: str) -> None:
    async def ask() -> Any:
        connection = await asyncpg.connect(database_url)
        try:
            return await shown(connection, json.dumps(text).encode())
        finally:
            await connection.close()

    assert asyncio.run(ask()) == text.replace("\x00", "�")


async def test_any_bytes_can_be_shown(db: Database, connection: Any) -> None:
    for number in range(256):
        await shown(connection, bytes([number]) * 3)
