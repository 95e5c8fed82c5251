"""Databases for tests: one server per session, one migrated template, one clone per test.

The server is that of ``GATEWAY_TEST_DATABASE_URL`` (its user needs CREATEDB), or an embedded one
that starts with the first test that asks for a database; each worker of pytest-xdist has its own.
All this runs in a loop of its own on the main thread, so that it neither disturbs the tests' loops
nor ends with one of them.
"""

import asyncio
import itertools
import logging
import os
import secrets
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest
import structlog
from hypothesis import HealthCheck, settings

from gateway.store.database import Database
from gateway.store.embedded import EmbeddedPostgres
from gateway.store.embedded_place import known_homes

# Nobody wants a test's data back after a power cut; no guess at the password has to be dear.
FAST = {
    "fsync": "off",
    "full_page_writes": "off",
    "synchronous_commit": "off",
    "autovacuum": "off",
    "min_wal_size": "32MB",
    "max_wal_size": "256MB",
    "scram_iterations": "1",
}

# structlog's own default draws every traceback with all locals: seconds, in the loop of the test.
_plain = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
structlog.configure(processors=[structlog.processors.add_log_level, _plain])

# No example fails for the time that it took: a busy machine is no fault of the code.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")

_CONFIGURED = structlog.get_config()

MEMORY = Path("/dev/shm")  # noqa: S108  # Linux's file system in memory
MEMORY_BYTES = 3 << 30  # free there, or the server goes to the disk: it holds a million jobs


class Databases:
    """Makes and drops databases on one server, under names that no other session uses."""

    def __init__(self, runner: asyncio.Runner, server_url: str) -> None:
        self._runner = runner
        self._server_url = server_url
        self._prefix = f"gateway_test_{os.getpid()}_{secrets.token_hex(4)}"
        self._numbers = itertools.count(1)
        self._connection: asyncpg.Connection = runner.run(_connect(server_url))
        self._template: str | None = None
        # A clone is ten megabytes in four hundred files: copied sooner than read, logged, written.
        # PostgreSQL 14 copies anyway and has no word for it.
        version = int(self._execute("SHOW server_version_num"))
        self._strategy = "STRATEGY file_copy" if version >= 150000 else ""

    def migrated(self) -> AbstractContextManager[str]:
        if self._template is None:
            self._template = f"{self._prefix}_template"
            self._execute(f'CREATE DATABASE "{self._template}"')
            self._migrate(self._url(self._template))
        return self._database(template=self._template)

    @contextmanager
    def filled(self, fill: Callable[[asyncpg.Connection], Awaitable[None]]) -> Iterator[str]:
        """Make one with what *fill* puts there, for several tests that only read it."""

        async def make(url: str) -> None:
            connection = await asyncpg.connect(url)
            try:
                await fill(connection)
            finally:
                await connection.close()

        with self.migrated() as url:
            self._runner.run(make(url))
            yield url

    def empty(self) -> AbstractContextManager[str]:
        return self._database(template="template1")

    def close(self) -> None:
        if self._template is not None:
            self._execute(f'DROP DATABASE IF EXISTS "{self._template}" WITH (FORCE)')
        self._runner.run(self._connection.close())

    @contextmanager
    def _database(self, *, template: str) -> Iterator[str]:
        name = f"{self._prefix}_{next(self._numbers)}"
        self._execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}" {self._strategy}')
        try:
            yield self._url(name)
        finally:
            self._execute(f'DROP DATABASE "{name}" WITH (FORCE)')

    def _migrate(self, url: str) -> None:
        from gateway.store.migrations import migrate

        self._runner.run(migrate(url))

    def _url(self, name: str) -> str:
        return urlsplit(self._server_url)._replace(path=f"/{name}").geturl()

    def _execute(self, statement: str) -> Any:
        return self._runner.run(self._connection.fetchval(statement))


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    """Whoever runs a command in our process configures logging for all tests that come after."""
    handlers, level = logging.root.handlers[:], logging.root.level
    yield
    structlog.contextvars.clear_contextvars()
    if structlog.get_config() == _CONFIGURED:
        return
    structlog.configure(**_CONFIGURED)
    logging.captureWarnings(False)
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)
    for module in [module for name, module in sys.modules.items() if name.startswith("gateway.")]:
        # A logger that wrote a line keeps the settings of then in an attribute of its own.
        getattr(getattr(module, "log", None), "__dict__", {}).pop("bind", None)


async def _connect(url: str) -> asyncpg.Connection:
    return await asyncpg.connect(url)


@pytest.fixture(scope="session")
def databases() -> Iterator[Databases]:
    # With a factory of its own the runner leaves the thread's current loop alone.
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner, _server(runner) as url:
        made = Databases(runner, url)
        try:
            yield made
        finally:
            made.close()


@pytest.fixture
def database_url(databases: Databases) -> Iterator[str]:
    """A migrated database of the test's own."""
    with databases.migrated() as url:
        yield url


@pytest.fixture
async def db(database_url: str) -> AsyncIterator[Database]:
    """An open store on that database."""
    database = Database(database_url, pool=8)
    await database.open()
    yield database
    await database.close()


@pytest.fixture
def empty_database_url(databases: Databases) -> Iterator[str]:
    """A database of the test's own, without our schema."""
    with databases.empty() as url:
        yield url


@pytest.fixture
def state_dir() -> Iterator[Path]:
    """A directory that does not exist yet, for a server of the test's own."""
    with _state_dir(Path(tempfile.gettempdir())) as path:
        yield path


@contextmanager
def _server(runner: asyncio.Runner) -> Iterator[str]:
    if url := os.environ.get("GATEWAY_TEST_DATABASE_URL"):
        yield url
        return
    with _state_dir(_memory_or_disk()) as path:
        server = EmbeddedPostgres(path, settings=FAST)
        try:
            yield runner.run(server.start())
        finally:
            runner.run(server.stop())


def _memory_or_disk() -> Path:
    """Return where to put a server whose data may go, and that makes files by the thousand."""
    for left in MEMORY.glob("gateway-*-*"):  # by a session that was killed
        if not Path("/proc", left.name.split("-")[1]).exists():
            shutil.rmtree(left, ignore_errors=True)
    if os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free >= MEMORY_BYTES:
        return MEMORY
    return Path(tempfile.gettempdir())


@contextmanager
def _state_dir(base: Path) -> Iterator[Path]:
    """A short path, not below pytest's ``tmp_path``, which root's server account cannot pass."""
    path = base.resolve() / f"gateway-{os.getpid()}-{secrets.token_hex(4)}"
    try:
        yield path
    finally:
        for home in known_homes(path):
            shutil.rmtree(home, ignore_errors=True)
        shutil.rmtree(path, ignore_errors=True)
