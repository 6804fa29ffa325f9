"""The pools of psycopg_pool keep the contract."""

import asyncio
import functools
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from psycopg_pool import AsyncConnectionPool, AsyncNullConnectionPool, ConnectionPool, NullConnectionPool

from tests.adapters.contract import AsyncContract, SyncContract
from tests.adapters.library import Library
from tests.adapters.test_psycopg import facts

SIZES: dict[str, Any] = {"max_size": 2, "num_workers": 1, "name": "orders", "open": False}


class Pooled(Library):
    """``getconn`` and ``putconn`` of a pool."""

    pool = "orders"
    maximum = 2

    def __init__(self, connections: Any, connection_type: type, *, reuses: bool) -> None:
        self.connections = connections
        self.connection_type = connection_type
        self.reuses = reuses

    @property
    def acquire(self) -> Callable[[], Any]:
        """Get a connection."""
        acquire: Callable[[], Any] = self.connections.getconn
        return acquire

    @property
    def release(self) -> Callable[[Any], Any]:
        """Put it back."""
        release: Callable[[Any], Any] = self.connections.putconn
        return release

    @property
    def refuse(self) -> Callable[[], Any]:
        """Ask for one that is there since before now."""
        return functools.partial(self.connections.getconn, timeout=0)

    def execute(self, connection: Any, query: str) -> Any:
        """Run a query."""
        return connection.execute(query)

    def facts(self, connection: Any) -> dict[str, Any]:
        """What psycopg tells."""
        return facts(connection)


class TestConnectionPool(SyncContract):
    """The ordinary pool."""

    @pytest.fixture
    def library(self, dsn: str) -> Iterator[Library]:
        """A pool of one connection, which may grow to two."""
        with ConnectionPool(dsn, min_size=1, **SIZES) as pool:
            pool.wait()
            yield Pooled(pool, psycopg.Connection, reuses=True)


class TestNullConnectionPool(SyncContract):
    """The pool that keeps nothing: connects at each acquire, in the thread of the acquire."""

    @pytest.fixture
    def library(self, dsn: str) -> Iterator[Library]:
        """A pool of no connection, which may grow to two."""
        with NullConnectionPool(dsn, **SIZES) as pool:
            yield Pooled(pool, psycopg.Connection, reuses=False)


class TestAsyncConnectionPool(AsyncContract):
    """The ordinary pool of asyncio."""

    @pytest.fixture
    def library(self, dsn: str, runner: asyncio.Runner) -> Iterator[Library]:
        """A pool of one connection, which may grow to two."""
        pool = AsyncConnectionPool(dsn, min_size=1, **SIZES)
        runner.run(pool.open(wait=True))
        yield Pooled(pool, psycopg.AsyncConnection, reuses=True)
        runner.run(pool.close())


class TestAsyncNullConnectionPool(AsyncContract):
    """The pool of asyncio that keeps nothing."""

    @pytest.fixture
    def library(self, dsn: str, runner: asyncio.Runner) -> Iterator[Library]:
        """A pool of no connection, which may grow to two."""
        pool = AsyncNullConnectionPool(dsn, **SIZES)
        runner.run(pool.open())
        yield Pooled(pool, psycopg.AsyncConnection, reuses=False)
        runner.run(pool.close())
