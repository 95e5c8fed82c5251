"""Replays of many: every matching job once, in order, in small steps, whoever carries them on."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID

import pytest
from store_samples import NODE, OTHER, held_job, put_job, put_node, settled, snapshot

from gateway.config.model import Rate
from gateway.errors import NotFound, Refused
from gateway.model import JobState
from gateway.queue.ready import ReadyQueue
from gateway.replays import ReplayStream
from gateway.steering import Steering
from gateway.store import jobs, operators, replays, steering
from gateway.store.database import Database
from gateway.store.records import Count, JobFilter, Selection
from gateway.store.replays import Step, Taken
from gateway.store.steering import Pauses

FAST = Rate(1000, 1.0)
DEAD = Selection(state=JobState.DEAD)
WHO = "tester"
NONE: frozenset[str] = frozenset()


async def request(db: Database, wanted: Selection = DEAD, **given: Any) -> UUID:
    fields = {"rate": FAST, "new_key": False, "counted": Count(0, True), "who": WHO} | given
    return await replays.request(db, wanted, **fields)


async def taken_by(db: Database, node: str = NODE) -> Taken:
    (taken,) = await replays.take(db, node=node, lease_seconds=60)
    return taken


async def step(db: Database, taken: Taken, limit: int = 100, node: str = NODE) -> Step | None:
    return await replays.step(db, taken, node=node, limit=limit, lease_seconds=60)


async def run(db: Database, limit: int = 100) -> int:
    """Take steps until the one replay that runs is done; return how many jobs were made."""
    taken, made = await taken_by(db), 0
    while True:
        done = await step(db, taken, limit)
        assert done is not None
        made += done.made
        if done.done:
            return made


async def originals(connection: Any) -> list[UUID]:
    rows = await connection.fetch(
        "SELECT replay_of FROM gateway.jobs WHERE replay_of IS NOT NULL ORDER BY id"
    )
    return [row["replay_of"] for row in rows]


async def act_names(connection: Any) -> list[str]:
    return [
        row["act"] for row in await connection.fetch("SELECT act FROM gateway.acts ORDER BY at")
    ]


async def test_nodes_hear_of_a_replay_as_long_as_one_runs(db: Database, connection: Any) -> None:
    """They look for pauses once a second; for replays only while there is one."""
    follower = Steering(db, ReadyQueue(inline_body_bytes=1000))
    await follower.refresh()
    assert not follower.replaying.is_set()
    await put_job(connection, state="dead")
    await request(db)
    await follower.refresh()
    assert follower.replaying.is_set()
    assert await run(db) == 1
    await follower.refresh()
    assert not follower.replaying.is_set()
    assert await steering.pauses(db) == Pauses(NONE, NONE, NONE)


async def test_a_stream_asks_nothing_while_no_replay_runs(db: Database, connection: Any) -> None:
    replaying = asyncio.Event()
    await put_node(connection)
    await put_job(connection, state="dead")
    await request(db)
    stream = ReplayStream(db, ReadyQueue(inline_body_bytes=1000), node=NODE, replaying=replaying)
    running = asyncio.ensure_future(stream.run())
    try:
        for _ in range(3):  # as often as it takes to run into it, would it not wait
            await db.probe()
        assert await connection.fetchval("SELECT node FROM gateway.replays") is None
        replaying.set()
        while not await originals(connection):  # only the database knows
            await db.probe()
    finally:
        running.cancel()


async def test_every_matching_job_is_replayed_once_in_order_at_low_priority(
    db: Database, connection: Any
) -> None:
    dead = [await put_job(connection, state="dead") for _ in range(7)]
    for state in ("completed", "cancelled", "available", "scheduled"):
        await put_job(connection, state=state)
    await put_job(connection, state="dead", vendor="erp")
    await put_job(connection, state="dead", route="other")
    wanted = Selection(state=JobState.DEAD, vendor="crm", route="orders")
    assert await replays.count(db, wanted) == Count(7, True)
    replay_id = await request(db, wanted)
    assert await run(db, limit=2) == 7
    assert await originals(connection) == dead
    made = await connection.fetch("SELECT * FROM gateway.jobs WHERE replay_id = $1", replay_id)
    assert {(job["state"], job["priority"]) for job in made} == {("available", 9)}
    assert {job["idempotency_key"] for job in made} == set(dead)
    shown = await replays.show_replay(db, replay_id)
    assert (shown.state, shown.made, shown.jobs) == ("completed", 7, {"available": 7})
    assert await replays.take(db, node=NODE, lease_seconds=60) == []
    assert await act_names(connection) == ["replay.start"]


async def test_a_count_changes_nothing(db: Database, connection: Any) -> None:
    await put_job(connection, state="dead")
    before = await snapshot(connection)
    assert await replays.count(db, DEAD) == Count(1, True)
    assert await snapshot(connection) == before
    assert await replays.list_replays(db) == []


async def test_jobs_that_end_after_the_request_are_not_replayed(
    db: Database, connection: Any
) -> None:
    await put_job(connection, state="dead")
    running = await put_job(connection, state="running", node=NODE, claim_no=1)
    await request(db)
    late = await held_job(connection, running)
    await jobs.settle(db, [settled(late, "dead", outcome="dead")], node=NODE)
    await put_job(connection, state="dead")
    assert await run(db) == 1


async def test_a_second_replay_takes_what_died_again_and_not_what_was_replayed(
    db: Database, connection: Any
) -> None:
    first, second = [await put_job(connection, state="dead") for _ in range(2)]
    await request(db)
    assert await run(db) == 2
    await connection.execute(
        "UPDATE gateway.jobs SET state = 'running' WHERE replay_of = $1", first
    )
    await connection.execute(
        "UPDATE gateway.jobs SET state = 'dead', finished_at = now() WHERE replay_of = $1", first
    )
    await request(db)
    assert await run(db) == 1
    newest = await connection.fetchrow("SELECT * FROM gateway.jobs ORDER BY id DESC LIMIT 1")
    assert newest["idempotency_key"] == first
    await request(db, Selection(state=JobState.DEAD, again=True))
    assert await run(db) == 3
    assert second in await originals(connection)


async def test_new_keys_are_the_jobs_own(db: Database, connection: Any) -> None:
    await put_job(connection, state="dead")
    await request(db, new_key=True)
    assert await run(db) == 1
    keys = await connection.fetch("SELECT idempotency_key FROM gateway.jobs")
    assert [row[0] for row in keys] == [None, None]


async def test_a_worker_shows_the_key_of_the_first_of_a_chain(
    db: Database, connection: Any
) -> None:
    await put_node(connection)
    first = await put_job(connection, state="dead")
    fresh = await operators.replay(db, first)
    (job,) = await jobs.claim(db, [("crm", 5, 1)], node=NODE, floor=UUID(int=0))
    assert (job.id, job.idempotency_key) == (fresh, first)
    await jobs.settle(db, [settled(job, "dead", outcome="dead")], node=NODE)
    await operators.replay(db, fresh)
    (again,) = await jobs.claim(db, [("crm", 5, 1)], node=NODE, floor=UUID(int=0))
    assert again.idempotency_key == first


async def test_a_step_cut_short_leaves_nothing_and_is_taken_again(
    db: Database, connection: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a SIGKILL between the insert and the commit would."""
    for _ in range(5):
        await put_job(connection, state="dead")
    await request(db)
    taken = await taken_by(db)
    assert (await step(db, taken, 2)) is not None
    real = replays.query

    def cut_short(name: str) -> str:
        if name == "replays.advance":
            raise RuntimeError("killed")
        return real(name)

    monkeypatch.setattr(replays, "query", cut_short)
    with pytest.raises(RuntimeError, match="killed"):
        await step(db, taken, 2)
    monkeypatch.undo()
    assert len(await originals(connection)) == 2
    assert await run(db, 2) == 3
    found = await originals(connection)
    assert len(found) == len(set(found)) == 5


async def test_another_node_goes_on_after_the_lease_and_the_first_makes_nothing_more(
    db: Database, connection: Any
) -> None:
    for _ in range(6):
        await put_job(connection, state="dead")
    await request(db)
    first = await taken_by(db)
    await step(db, first, 2)
    assert await replays.take(db, node=OTHER, lease_seconds=60) == []
    await connection.execute("UPDATE gateway.replays SET lease_until = now() - interval '1s'")
    second = await taken_by(db, OTHER)
    assert await step(db, first, 2) is None
    assert len(await originals(connection)) == 2
    while not (await step(db, second, 2, OTHER)).done:  # type: ignore[union-attr]
        pass
    found = await originals(connection)
    assert len(found) == len(set(found)) == 6


async def test_what_a_node_gives_back_is_taken_at_once(db: Database, connection: Any) -> None:
    await put_job(connection, state="dead")
    await request(db)
    await taken_by(db)
    await replays.give_back(db, node=NODE)
    assert (await taken_by(db, OTHER)).fence == 2


async def test_two_replays_of_the_same_jobs_at_once_make_each_once(
    db: Database, connection: Any
) -> None:
    for _ in range(60):
        await put_job(connection, state="dead")
    await request(db)
    await request(db)
    mine = await replays.take(db, node=NODE, lease_seconds=60)

    async def walk(taken: Taken) -> None:
        while not (await step(db, taken, 5)).done:  # type: ignore[union-attr]
            pass

    await asyncio.gather(*(walk(taken) for taken in mine))
    found = await originals(connection)
    assert len(found) == len(set(found)) == 60


async def test_the_rate_spaces_the_steps(db: Database, connection: Any) -> None:
    for _ in range(10):
        await put_job(connection, state="dead")
    await request(db, rate=Rate(4, 1.0))
    taken = await taken_by(db)
    assert taken.step == 2  # half a second's worth
    done = await step(db, taken, taken.step)
    assert done is not None
    assert 0.3 < done.due_seconds <= 0.5
    assert (await taken_by(db)).due_seconds > 0


async def test_a_cancelled_replay_makes_nothing_more_and_cancels_what_waits(
    db: Database, connection: Any
) -> None:
    for _ in range(5):
        await put_job(connection, state="dead")
    replay_id = await request(db)
    taken = await taken_by(db)
    await step(db, taken, 3)
    assert await replays.cancel_replay(db, replay_id, who=WHO) == 3
    assert await step(db, taken, 3) is None
    shown = await replays.show_replay(db, replay_id)
    assert (shown.state, shown.jobs) == ("cancelled", {"cancelled": 3})
    with pytest.raises(Refused, match="cancelled already"):
        await replays.cancel_replay(db, replay_id, who=WHO)
    # What was cancelled before it ran is not replayed: the next replay takes all five.
    await request(db)
    assert await run(db) == 5


async def test_replays_of_a_key_keep_its_order_and_its_place(db: Database, connection: Any) -> None:
    keyed = {"ordering_key": "k", "holds_key": True}
    await put_node(connection)
    dead = await put_job(connection, state="running", node=NODE, claim_no=1, **keyed)
    waiting = await put_job(connection, **keyed)
    await jobs.settle(
        db, [settled(await held_job(connection, dead), "dead", outcome="dead")], node=NODE
    )
    await request(db)
    assert await run(db) == 1
    (first,) = await jobs.claim(db, [("crm", 5, 1)], node=NODE, floor=UUID(int=0))
    assert first.idempotency_key == dead
    await jobs.settle(db, [settled(first)], node=NODE)
    (second,) = await jobs.claim(db, [("crm", 5, 1)], node=NODE, floor=UUID(int=0))
    assert second.id == waiting


async def test_unfinished_jobs_of_a_replay_are_counted(db: Database, connection: Any) -> None:
    for _ in range(4):
        await put_job(connection, state="dead")
    replay_id = await request(db)
    await run(db)
    assert await replays.unfinished(db, replay_id, limit=100) == 4
    assert await replays.unfinished(db, replay_id, limit=3) == 3
    await connection.execute("UPDATE gateway.jobs SET state = 'cancelled' WHERE claimable")
    assert await replays.unfinished(db, replay_id, limit=100) == 0


async def test_only_finished_jobs_can_be_asked_for(db: Database) -> None:
    for act in (replays.count(db, Selection()), request(db, Selection(state=JobState.RUNNING))):
        with pytest.raises(Refused, match="only finished jobs"):
            await act


async def test_only_so_many_replays_run_at_once(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replays, "MAX_RUNNING", 1)
    await request(db)
    with pytest.raises(Refused, match="1 replays run already"):
        await request(db)


async def test_an_unknown_replay_is_not_found(db: Database) -> None:
    nobody = UUID(int=1)
    for act in (replays.show_replay(db, nobody), replays.cancel_replay(db, nobody, who=WHO)):
        with pytest.raises(NotFound):
            await act


@pytest.mark.parametrize(
    ("error", "fingerprint"),
    [
        ("HTTP 503 (attempt 8 of 8)", "HTTP 503 (attempt # of #)"),
        ("no order cus_12ab in 01890a5d-ac96-774b-bcce-b302099a8057", "no order # in #"),
        ("connect to 10.0.0.1:443 failed", "connect to #.#.#.#:# failed"),
        ("the template does not fit", "the template does not fit"),
        (None, ""),
    ],
)
async def test_a_fingerprint_leaves_out_what_differs_from_job_to_job(
    connection: Any, error: str | None, fingerprint: str
) -> None:
    assert await connection.fetchval("SELECT gateway.fingerprint($1)", error) == fingerprint


async def test_dead_letters_are_grouped_by_the_kind_of_their_error(
    db: Database, connection: Any
) -> None:
    newest = None
    for number in range(3):
        newest = await put_job(
            connection, state="dead", last_status=500, last_error=f"HTTP 500: order {number}"
        )
    await put_job(connection, state="dead", last_status=404, last_error="HTTP 404: order 1")
    await put_job(connection, state="dead", vendor="erp", last_error="HTTP 500: order 9")
    found = await replays.dead_groups(db, JobFilter(vendor="crm"))
    assert found.complete
    assert [(group.status, group.error, group.jobs) for group in found.groups] == [
        (500, "HTTP 500: order #", 3),
        (404, "HTTP 404: order #", 1),
    ]
    assert found.groups[0].example == newest
    assert (await replays.dead_groups(db, JobFilter(route="none"))).groups == []
    wanted = Selection(state=JobState.DEAD, error="HTTP 500: order #", vendor="crm")
    assert await replays.count(db, wanted) == Count(3, True)
