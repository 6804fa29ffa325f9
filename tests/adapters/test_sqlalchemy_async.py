"""Async engines of SQLAlchemy keep the contract."""

import asyncio
import gc
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import psycopg
import pytest
import sqlalchemy
from sqlalchemy import exc
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from tests.adapters.contract import AsyncContract
from tests.adapters.library import Library
from tests.adapters.test_psycopg import facts

NOWHERE = "host=127.0.0.1 port=1 connect_timeout=5 user=nobody dbname=nothing"
SIZES: dict[str, Any] = {"pool_size": 1, "max_overflow": 1, "pool_logging_name": "orders"}


def engine_on_psycopg(dsn: str, **options: Any) -> AsyncEngine:
    """An async engine on psycopg."""
    parameters = psycopg.conninfo.conninfo_to_dict(dsn)
    return create_async_engine("postgresql+psycopg://", connect_args=parameters, **options)


def engine_on_asyncpg(dsn: str, **options: Any) -> AsyncEngine:
    """An async engine on asyncpg."""
    known: dict[str, Any] = psycopg.conninfo.conninfo_to_dict(dsn)
    path = known.pop("options", "").removeprefix("-c search_path=")
    parameters = {"host": known["host"], "user": known.get("user"), "database": known.get("dbname")}
    if path:
        parameters["server_settings"] = {"search_path": path}
    return create_async_engine("postgresql+asyncpg://", connect_args=parameters, **options)


def close(engine: AsyncEngine, runner: asyncio.Runner) -> None:
    """Dispose of an engine at the end of a test, and before that of what the test has left in a cycle."""

    async def finish() -> None:
        await engine.dispose()
        for thread in threading.enumerate():
            if "_connection_worker" in thread.name:  # aiosqlite's, which says good-bye to the event loop
                await asyncio.to_thread(thread.join)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        gc.collect()
    runner.run(finish())


class Connections(Library):
    """``await engine.connect()``."""

    connection_type = AsyncConnection
    pool = "orders"
    maximum = 2
    reclaims = True

    driver_warns = True

    def __init__(self, engine: AsyncEngine, nobody: AsyncEngine) -> None:
        self.engine = engine
        self.nobody = nobody

    @property
    def acquire(self) -> Callable[[], Any]:
        """Connect."""
        return lambda: self.engine.connect().start()

    @property
    def release(self) -> Callable[[Any], Any]:
        """Close."""
        return AsyncConnection.close

    @property
    def refuse(self) -> Callable[[], Any]:
        """Connect where nobody listens."""
        return lambda: self.nobody.connect().start()

    async def execute(self, connection: Any, query: str) -> Any:
        """Run a query."""
        return await connection.execute(sqlalchemy.text(query))

    def facts(self, connection: Any) -> dict[str, Any]:
        """What psycopg tells."""
        return facts(connection.sync_connection.connection.driver_connection)

    @contextmanager
    def dropping(self) -> Iterator[None]:
        """SQLAlchemy warns of a dropped connection, which it terminates if the driver can do that at once."""
        with ExitStack() as stack:
            stack.enter_context(pytest.warns(exc.SAWarning, match="garbage collector is trying to clean up"))
            if self.driver_warns:
                stack.enter_context(pytest.warns(ResourceWarning, match="was deleted while still open"))
            yield


class ConnectionsOfAsyncpg(Connections):
    """The same, on asyncpg."""

    driver_warns = False

    def facts(self, connection: Any) -> dict[str, Any]:
        """What asyncpg tells."""
        driver_connection = connection.sync_connection.connection.driver_connection
        return {"db.system.name": "postgresql", "connleak.server.pid": driver_connection.get_server_pid()}


class TestPsycopg(AsyncContract):
    """An async engine on psycopg."""

    @pytest.fixture
    def library(self, dsn: str, runner: asyncio.Runner) -> Iterator[Library]:
        """An engine of at most two connections."""
        engine = engine_on_psycopg(dsn, **SIZES)
        yield Connections(engine, engine_on_psycopg(NOWHERE))
        close(engine, runner)


class TestAsyncpg(AsyncContract):
    """An async engine on asyncpg."""

    @pytest.fixture
    def library(self, dsn: str, runner: asyncio.Runner) -> Iterator[Library]:
        """An engine of at most two connections."""
        engine = engine_on_asyncpg(dsn, **SIZES)
        yield ConnectionsOfAsyncpg(engine, engine_on_asyncpg(NOWHERE))
        close(engine, runner)
