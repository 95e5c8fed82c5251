"""The embedded PostgreSQL with real processes: what survives, and what never does."""

import asyncio
import os
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest

from gateway.errors import EmbeddedFailed
from gateway.store import embedded_place
from gateway.store.embedded import SUPERUSER, EmbeddedPostgres
from gateway.store.embedded_place import Account, blocked_by, find_binaries

ROOT = Path(__file__).parents[2]
NOBODY = 65534
BOUND_SECONDS = 20.0

OWNER = """
import asyncio, os, sys
from pathlib import Path
import asyncpg
from gateway.store.embedded import EmbeddedPostgres

async def main(state_dir, statement):
    server = EmbeddedPostgres(Path(state_dir))
    connection = await asyncpg.connect(await server.start())
    print("owner", server.pid, os.geteuid(), await connection.fetchval(statement), flush=True)
    await asyncio.Event().wait()

asyncio.run(main(*sys.argv[1:]))
"""


@contextmanager
def owner(
    state_dir: Path, account: Account, statement: str = "SELECT 1"
) -> Iterator[tuple[int, int, str]]:
    """Run a gateway's stand-in as *account* that owns the server, then SIGKILL it.

    Yields the postmaster's pid, the stand-in's uid, and the statement's value.
    """
    command = [interpreter_for(account) or "", "-c", OWNER, state_dir, statement]
    with run_as(account, command) as child:
        try:
            assert child.stdout is not None
            line = next((line for line in child.stdout if line.startswith("owner ")), "")
            assert line, f"the owner started no server: {child.communicate()[1]}"
            _, pid, as_uid, value = line.split(maxsplit=3)
            yield int(pid), int(as_uid), value.strip()
        finally:
            child.kill()


def interpreter_for(account: Account) -> str | None:
    """Return a Python that *account* can execute and that can import what we import."""
    same = f"/usr/bin/python{sys.version_info.major}.{sys.version_info.minor}"
    for path in (sys.executable, same):
        if Path(path).exists() and blocked_by(Path(path).resolve(), account) is None:
            return path
    return None


async def gone(pid: int) -> None:
    """Wait until *pid* has ended: the kernel, not a clock, says when."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    ended = asyncio.Event()
    asyncio.get_running_loop().add_reader(handle, ended.set)
    try:
        async with asyncio.timeout(BOUND_SECONDS):
            await ended.wait()
    finally:
        asyncio.get_running_loop().remove_reader(handle)
        os.close(handle)


@pytest.fixture(params=["ourselves", "nobody"])
def account(request: pytest.FixtureRequest, state_dir: Path) -> Account:
    """As whom to run the gateway; ``state_dir`` is his."""
    if request.param == "ourselves":
        return Account(os.geteuid(), os.getegid(), "ourselves")
    if os.geteuid() != 0:
        pytest.skip("only root can become somebody else")
    nobody = Account(NOBODY, NOBODY, "nobody")
    if interpreter_for(nobody) is None or blocked_by(find_binaries()[0] / "postgres", nobody):
        pytest.skip("nobody cannot reach this virtual environment")
    state_dir.mkdir(mode=0o700)
    os.chown(state_dir, NOBODY, NOBODY)
    return nobody


async def test_killed_owner_leaves_no_server_and_all_data(
    state_dir: Path, account: Account
) -> None:
    write = "INSERT INTO kept VALUES ('still here') RETURNING what"
    with owner(state_dir, account, "CREATE TABLE kept (what text)"):
        pass  # killed at once: the next start also waits for a server that is still stopping
    with owner(state_dir, account, write) as (pid, as_uid, value):
        assert (as_uid, value) == (account.uid, "still here")
    await gone(pid)
    with owner(state_dir, account, "SELECT count(*) FROM kept") as (_, _, value):
        assert value == "1"


async def test_killed_server_is_noticed_and_its_data_recovered(state_dir: Path) -> None:
    server = EmbeddedPostgres(state_dir)
    connection = await asyncpg.connect(await server.start())
    await connection.execute("CREATE TABLE kept (what text)")
    assert server.pid is not None
    os.kill(server.pid, signal.SIGKILL)
    async with asyncio.timeout(BOUND_SECONDS):
        assert await server.wait() == -signal.SIGKILL
    connection.terminate()
    await server.stop()

    async with EmbeddedPostgres(state_dir) as dsn:
        assert await fetch_value(dsn, "SELECT count(*) FROM kept") == 0


async def test_lock_file_of_a_crash_is_no_obstacle_when_its_pid_is_taken(state_dir: Path) -> None:
    """After a container's restart the old postmaster's pid belongs to some other process."""
    server = EmbeddedPostgres(state_dir)
    await server.start()
    await server.stop()
    account = server.place.account
    # The same user's process, and none of PostgreSQL's: its own check would take it for one.
    with run_as(account, ["/bin/sleep", "60"]) as other:
        stale = server.place.data / "postmaster.pid"
        stale.write_text(f"{other.pid}\n{server.place.data}\n1\n5432\n\n\n\n")
        try:
            async with EmbeddedPostgres(state_dir) as dsn:
                assert await fetch_value(dsn, "SELECT 1") == 1
        finally:
            other.kill()


async def test_server_that_lost_its_owner_is_stopped_by_the_next_start(state_dir: Path) -> None:
    """Even if it had not been told, e.g. because somebody started it by hand."""
    server = EmbeddedPostgres(state_dir)
    await server.start()
    await server.stop()
    place = server.place
    command = [place.binaries / "postgres", "-D", place.data, "-k", place.sockets]
    with run_as(place.account, command) as stray:
        assert stray.stderr is not None
        assert any("ready to accept connections" in line for line in stray.stderr)
        async with EmbeddedPostgres(state_dir) as dsn:
            assert stray.wait(timeout=BOUND_SECONDS) == 0
            assert await fetch_value(dsn, "SELECT 1") == 1


async def test_only_the_right_password_opens(state_dir: Path) -> None:
    async with quick(state_dir) as dsn:
        password = urlsplit(dsn).password
        assert password
        for wrong in (dsn.replace(password, "wrong"), dsn.replace(f":{password}", "")):
            for user in ("gateway", SUPERUSER):
                with pytest.raises((asyncpg.InvalidPasswordError, asyncpg.InterfaceError)):
                    await fetch_value(wrong.replace("//gateway", f"//{user}"), "SELECT 1")
        assert await fetch_value(dsn, "SELECT rolsuper FROM pg_roles WHERE rolname = user") is False
        assert await fetch_value(dsn, "SHOW listen_addresses") == ""
        assert password not in (state_dir / "postgres.log").read_text()


async def test_nothing_is_open_to_others(state_dir: Path) -> None:
    async with quick(state_dir):
        for path in everything_below(state_dir):
            mode = stat.S_IMODE(path.lstat().st_mode)
            # As root, the server's group may pass our directories; nobody else may do anything.
            allowed = 0o710 if path.is_dir() and path.stat().st_uid == 0 else 0o700
            assert mode & ~allowed == 0, f"{path} has mode {mode:o}"


async def test_second_owner_is_refused(state_dir: Path) -> None:
    async with quick(state_dir) as dsn:
        with pytest.raises(
            EmbeddedFailed, match=rf"in use by another gateway \(pid {os.getpid()}\)"
        ):
            await quick(state_dir).start()
        assert await fetch_value(dsn, "SELECT 1") == 1


async def test_deep_state_dir_gets_a_short_private_socket_directory(state_dir: Path) -> None:
    deep = state_dir / ("d" * 60) / ("e" * 60)
    server = quick(deep)
    dsn = await server.start()
    try:
        sockets = server.place.sockets
        assert stat.S_IMODE(sockets.stat().st_mode) == 0o700
        assert await fetch_value(dsn, "SELECT 1") == 1
    finally:
        await server.stop()
    assert not sockets.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="an ordinary user reaches all that he owns")
async def test_root_keeps_data_outside_a_state_dir_that_its_account_cannot_reach(
    state_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outside = state_dir / "outside"
    monkeypatch.setattr(embedded_place, "OUTSIDE", (outside,))
    embedded_place.make_private(state_dir, embedded_place.choose_account(state_dir))
    with tempfile.TemporaryDirectory() as closed:  # 0700 and root's, like /root
        inner = Path(closed, "var")
        for statement in ("CREATE TABLE kept ()", "SELECT count(*) FROM kept"):
            server = quick(inner)
            dsn = await server.start()
            assert server.place.home.parent == outside
            await fetch_value(dsn, statement)
            await server.stop()
        assert stat.S_IMODE(inner.parent.stat().st_mode) == 0o700
        assert (inner / "postgres.location").read_text().strip() == str(server.place.home)

        (inner / "postgres.password").unlink()
        with pytest.raises(EmbeddedFailed, match=r"postgres\.password is gone"):
            await quick(inner).start()


async def test_data_of_another_major_version_is_refused(state_dir: Path) -> None:
    server = quick(state_dir)
    await server.start()
    await server.stop()
    (server.place.data / "PG_VERSION").write_text("12\n")
    with pytest.raises(EmbeddedFailed, match=r"PG_VERSION: expected 18, .* got 12; .*pg_dump"):
        await quick(state_dir).start()


async def test_failed_start_says_what_the_server_said_and_can_be_repeated(state_dir: Path) -> None:
    broken = EmbeddedPostgres(state_dir, settings={"max_connections": "many"})
    for _ in range(2):
        with pytest.raises(EmbeddedFailed, match=r'(?s)ended at its start.*"max_connections"'):
            await broken.start()
    async with quick(state_dir) as dsn:
        assert await fetch_value(dsn, "SELECT 1") == 1


async def test_failed_initdb_leaves_nothing_that_looks_like_data(
    state_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.store.embedded.SUPERUSER", "pg_reserved")
    with pytest.raises(EmbeddedFailed, match=r"(?s)initdb failed .*pg_reserved"):
        await quick(state_dir).start()
    monkeypatch.undo()
    async with quick(state_dir) as dsn:
        assert await fetch_value(dsn, "SELECT 1") == 1


async def test_cancelled_start_leaves_no_server(
    state_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = quick(state_dir)
    await server.start()
    await server.stop()
    connecting = asyncio.Event()

    async def connect(**_: object) -> None:  # once the server runs, start() connects to it
        connecting.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(asyncpg, "connect", connect)
    task = asyncio.create_task(server.start())
    await connecting.wait()
    pid = server.pid
    assert pid is not None
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    monkeypatch.undo()
    await gone(pid)
    async with quick(state_dir) as dsn:
        assert await fetch_value(dsn, "SELECT 1") == 1


def quick(state_dir: Path) -> EmbeddedPostgres:
    """For tests in which nothing crashes: does not wait for the disk."""
    return EmbeddedPostgres(state_dir, settings={"fsync": "off"})


def everything_below(directory: Path) -> list[Path]:
    return [directory, *directory.rglob("*")]


def run_as(account: Account, command: list[str | Path]) -> subprocess.Popen[str]:
    rights: dict[str, Any] = {}
    if not account.ourselves:
        rights = {"user": account.uid, "group": account.gid, "extra_groups": []}
    return subprocess.Popen(
        command, cwd="/", env={"PYTHONPATH": os.pathsep.join((str(ROOT), *sys.path))},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **rights,
    )  # fmt: skip


async def fetch_value(dsn: str, query: str) -> object:
    connection = await asyncpg.connect(dsn)
    try:
        return await connection.fetchval(query)
    finally:
        await connection.close()
