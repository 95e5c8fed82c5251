"""The one door to PostgreSQL: a pool, the named queries, and what its errors mean to us."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Any

import asyncpg

from gateway.errors import DatabaseUnavailable, GatewayError, TooWide
from gateway.store import migrations
from gateway.store.sql import query

# A statement's own bound, in seconds; the server's is a little longer, so that a statement whose
# connection we gave up on cannot commit much later.
STATEMENT_SECONDS = 15.0

# What an operator asks for, in seconds: of one statement, and before a search begins another.
SEARCH_SECONDS = 5.0

_COMMON_SETTINGS = {
    "application_name": "integration-gateway",
    "jit": "off",
    "timezone": "UTC",
    "statement_timeout": str(int(STATEMENT_SECONDS * 1000) + 5000),
    "idle_in_transaction_session_timeout": "60000",
}

# A custom plan sees today's table sizes and prunes partitions while planning. A generic plan made
# on an empty partition would scan it sequentially until somebody runs ANALYZE.
# Single statements take so many rows of an index in its order. Of what has come since a day was
# analysed, be it a backlog of a million jobs, the planner knows nothing: it expects a row or two of
# any index, and would as soon sort them. In a transaction, where questions are asked, it may.
_SETTINGS = _COMMON_SETTINGS | {"plan_cache_mode": "force_custom_plan", "enable_sort": "off"}
_SORTING = {"enable_sort": "on"}

# What every webhook pays for has nothing to learn from the tables: planning would be a third of its
# time. What it looks up it finds by an index, also where a table was empty when it was planned.
_PLANNED_SETTINGS = _COMMON_SETTINGS | {
    "plan_cache_mode": "force_generic_plan",
    "enable_seqscan": "off",
}

# Every one of these passes by itself once the server, the network or the lock is back.
_TRANSIENT = (
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.TransactionRollbackError,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.LockNotAvailableError,
    asyncpg.InternalClientError,
    asyncpg.PostgresSystemError,
    OSError,
    TimeoutError,
)


_TURNED_AWAY = (asyncpg.InvalidAuthorizationSpecificationError, asyncpg.InvalidCatalogNameError)


class _Connection(asyncpg.Connection):
    """A pooled connection without session state, so that nothing needs resetting on release."""

    def get_reset_query(self) -> str:
        return ""


class Database:
    """*pool* connections, and *planned* more for :meth:`fetch_planned`.

    ``up`` tells whether the last thing that was tried went well.
    """

    def __init__(self, dsn: str, *, pool: int, planned: int = 3) -> None:
        self._dsn = dsn
        self._size = pool
        self._planned = planned
        self._pool: Any = None
        self._planned_pool: Any = None
        self._planned_turns = asyncio.Semaphore(planned)
        self._kept: list[Any] = []  # of the planned pool, between two statements
        self._health = _Health()

    @property
    def up(self) -> bool:
        """Return whether the database answered when it was last asked."""
        return self._health.up.is_set()

    async def wait_up(self) -> None:
        """Wait until the database answers again."""
        await self._health.up.wait()

    async def wait_down(self) -> None:
        """Wait until the database is found not to answer."""
        await self._health.down.wait()

    async def open(self) -> None:
        """Open the pool; raises :class:`DatabaseUnavailable` when no connection can be had.

        A plain :class:`GatewayError` when trying again is of no use: a wrong password, no such
        database.
        """
        try:
            with _Translated(self._health):
                if self._pool is None:
                    self._pool = await self._make_pool(self._size, _SETTINGS)
                    self._planned_pool = await self._make_pool(
                        self._planned, _PLANNED_SETTINGS, init=_plan
                    )
                async with self._pool.acquire(timeout=10.0):
                    pass
        except _TURNED_AWAY as error:
            raise GatewayError(
                f"database.url: PostgreSQL turns us away: {error}; check the user, the password"
                " and the name of the database"
            ) from error
        self._health.set(True)

    async def _make_pool(self, size: int, settings: dict[str, str], *, init: Any = None) -> Any:
        return await asyncpg.create_pool(
            self._dsn,
            init=init,
            min_size=0,  # asyncpg warns at length while it cannot keep a floor
            max_size=size,
            connection_class=_Connection,
            server_settings=settings,
            command_timeout=STATEMENT_SECONDS,
            timeout=10.0,
            max_inactive_connection_lifetime=300.0,
            max_cached_statement_lifetime=0,
        )

    async def migrate(self) -> list[str]:
        """Apply the migrations that are missing; return their names."""
        with _Translated(self._health):
            async with self._pool.acquire(timeout=10.0) as connection:
                return await migrations.apply(connection)

    async def plan(self) -> None:
        """Open what :meth:`fetch_planned` uses, so that the first who come need not wait for it.

        For the first webhook of a connection PostgreSQL reads about all partitions: a tenth of a
        second when they are those of a year.
        """
        missing = self._planned - len(self._kept)
        with _Translated(self._health):
            await asyncio.gather(*[self._keep_another() for _ in range(missing)])

    async def _keep_another(self) -> None:
        self._kept.append(await self._planned_pool.acquire(timeout=10.0))

    async def close(self) -> None:
        """Close the pool, waiting a few seconds at most for connections in use."""
        pools = [pool for pool in (self._planned_pool, self._pool) if pool is not None]
        try:
            async with asyncio.timeout(5.0):
                while self._kept:
                    await self._planned_pool.release(self._kept.pop())
                await asyncio.gather(*[pool.close() for pool in pools])
        except (TimeoutError, *_TRANSIENT):
            for pool in pools:
                pool.terminate()

    async def fetch(self, name: str, *args: Any) -> list[Any]:
        """Run the named query and return its rows; a single statement commits by itself."""
        return await self._fetch(self._pool.acquire(timeout=10.0), query(name), args)

    async def fetch_planned(self, name: str, *args: Any, partition: str | None = None) -> list[Any]:
        """Run a named query on a connection kept for those that are planned once; return its rows.

        Its plan is made without a look at arguments, and kept however the tables change, so it must
        not depend on them: it inserts, and finds by an index what it changes. What it updates is
        that *partition* of the jobs, or all of them, if there is no such partition (any more).
        """
        if partition is not None:
            with suppress(asyncpg.UndefinedTableError):
                return await self._fetch(self._planned_connection(), query(name, partition), args)
        return await self._fetch(self._planned_connection(), query(name), args)

    @asynccontextmanager
    async def _planned_connection(self) -> AsyncIterator[Any]:
        async with self._planned_turns:
            connection = await self._kept_connection()
            try:
                yield connection
            except BaseException:
                await self._planned_pool.release(connection)
                raise
            # Kept and not released: that would cost as much as three more webhooks.
            self._kept.append(connection)

    async def _kept_connection(self) -> Any:
        while self._kept:
            connection = self._kept.pop()
            if not connection.is_closed():
                return connection
            await self._planned_pool.release(connection)
        return await self._planned_pool.acquire(timeout=10.0)

    async def fetch_sql(self, sql: str, *args: Any) -> list[Any]:
        """Run *sql*, built by our own code, and return its rows."""
        return await self._fetch(self._pool.acquire(timeout=10.0), sql, args)

    async def _fetch(
        self, lent: AbstractAsyncContextManager[Any], sql: str, args: tuple[Any, ...]
    ) -> list[Any]:
        with _Translated(self._health):
            async with lent as connection:
                rows: list[Any] = await connection.fetch(sql, *args)
        self._health.set(True)
        return rows

    @asynccontextmanager
    async def transaction(self, *, sorting: bool = True) -> AsyncIterator[Any]:
        """Hold one connection in a transaction; for the few acts that need several statements.

        Without *sorting* what is asked for in order is read from an index, as in single statements.
        """
        with _Translated(self._health):
            async with (
                self._pool.acquire(timeout=10.0) as connection,
                connection.transaction(),
            ):
                if sorting:
                    await connection.execute(_set_local(_SORTING))
                yield connection
        self._health.set(True)

    @asynccontextmanager
    async def reading(
        self, *, seconds: float, planner: Mapping[str, str] = _SORTING
    ) -> AsyncIterator[Any]:
        """Hold one connection in a read-only transaction whose statements may take *seconds* each.

        For operators' questions, whose cost depends on what is asked: :class:`TooWide` says that
        one took too long, which tells nothing about the database's health. *planner*: settings.
        """
        async with self._bounded(seconds, readonly=True, planner=planner) as connection:
            yield connection

    @asynccontextmanager
    async def writing(self, *, seconds: float) -> AsyncIterator[Any]:
        """Hold one connection in such a transaction for an operator's act on many rows."""
        async with self._bounded(seconds, readonly=False) as connection:
            yield connection

    @asynccontextmanager
    async def _bounded(
        self, seconds: float, *, readonly: bool, planner: Mapping[str, str] = _SORTING
    ) -> AsyncIterator[Any]:
        with _Translated(self._health):
            async with self._pool.acquire(timeout=10.0) as connection:
                try:
                    async with connection.transaction(readonly=readonly):
                        milliseconds = int(min(seconds, STATEMENT_SECONDS - 1.0) * 1000)
                        bound = {"statement_timeout": str(milliseconds)}
                        await connection.execute(_set_local({**bound, **planner}))
                        yield connection
                except asyncpg.QueryCanceledError as error:
                    raise TooWide(
                        f"no answer within {milliseconds / 1000:g} s; ask for less, such as a"
                        " shorter time between since and until"
                    ) from error
        self._health.set(True)

    async def probe(self) -> None:
        """Ask the simplest question; raises :class:`DatabaseUnavailable`."""
        await self.fetch_sql("SELECT 1")


async def _plan(connection: Any) -> None:
    """Have PostgreSQL plan what the new *connection* will be asked first, and most often.

    With nothing but nulls it finds nothing and writes nothing.
    """
    sql = query("events.accept")
    parameters = max(map(int, re.findall(r"\$(\d+)", sql)))
    await connection.fetch(sql, *[None] * parameters)


def _set_local(settings: Mapping[str, str]) -> str:
    return "; ".join(f"SET LOCAL {name} = {to}" for name, to in settings.items())


class _Health:
    """Two events, so that both changes can be waited for."""

    __slots__ = ("down", "up")

    def __init__(self) -> None:
        self.up = asyncio.Event()
        self.down = asyncio.Event()

    def set(self, up: bool) -> None:
        (self.up if up else self.down).set()
        (self.down if up else self.up).clear()


class _Translated:
    """Turn what passes by itself into :class:`DatabaseUnavailable`; let our mistakes through."""

    __slots__ = ("_health",)

    def __init__(self, health: _Health) -> None:
        self._health = health

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, _TRANSIENT):
            # A conflict between transactions says nothing about the server's health.
            if not isinstance(
                error, (asyncpg.TransactionRollbackError, asyncpg.LockNotAvailableError)
            ):
                self._health.set(False)
            raise DatabaseUnavailable(f"PostgreSQL: {type(error).__name__}: {error}") from error
