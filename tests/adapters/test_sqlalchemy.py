"""Engines, connections and sessions of SQLAlchemy keep the contract."""

import functools
import gc
import operator
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
import sqlalchemy
from sqlalchemy import orm

from tests.adapters.contract import SyncContract
from tests.adapters.library import Library
from tests.adapters.test_psycopg import facts

SIZES: dict[str, Any] = {"pool_size": 1, "max_overflow": 1, "pool_logging_name": "orders"}


def engine_for(dsn: str, **options: Any) -> sqlalchemy.Engine:
    """An engine of SQLAlchemy on psycopg."""
    parameters = psycopg.conninfo.conninfo_to_dict(dsn)
    return sqlalchemy.create_engine("postgresql+psycopg://", connect_args=parameters, **options)


class Engines(Library):
    """What an engine gives out: its own connection, or that of its pool."""

    pool = "orders"
    maximum = 2
    reclaims = True

    def __init__(self, dsn: str) -> None:
        self.engine = engine_for(dsn, **SIZES)
        self.nobody = engine_for("host=127.0.0.1 port=1 connect_timeout=5")

    def close(self) -> None:
        """At the end of the test; what it left in a cycle goes back to the pool first, and is closed too."""
        gc.collect()
        self.engine.dispose()


class Connections(Engines):
    """``engine.connect()``."""

    connection_type = sqlalchemy.Connection

    @property
    def acquire(self) -> Callable[[], Any]:
        """Connect."""
        return self.engine.connect

    @property
    def release(self) -> Callable[[Any], Any]:
        """Close."""
        return sqlalchemy.Connection.close

    @property
    def refuse(self) -> Callable[[], Any]:
        """Connect where nobody listens."""
        return self.nobody.connect

    def execute(self, connection: Any, query: str) -> Any:
        """Run a query."""
        return connection.execute(sqlalchemy.text(query))

    def facts(self, connection: Any) -> dict[str, Any]:
        """What psycopg tells."""
        return facts(connection.connection.driver_connection)


class RawConnections(Engines):
    """``engine.raw_connection()``: the driver's connection in a proxy of the pool."""

    @property
    def connection_type(self) -> type:  # type: ignore[override]  # it has no public name
        """The proxy's type."""
        with self.engine.raw_connection() as connection:
            return type(connection)

    @property
    def acquire(self) -> Callable[[], Any]:
        """Connect."""
        return self.engine.raw_connection

    @property
    def release(self) -> Callable[[Any], Any]:
        """Close."""
        return operator.methodcaller("close")

    @property
    def refuse(self) -> Callable[[], Any]:
        """Connect where nobody listens."""
        return self.nobody.raw_connection

    def execute(self, connection: Any, query: str) -> Any:
        """Run a query."""
        return connection.cursor().execute(query)

    def facts(self, connection: Any) -> dict[str, Any]:
        """What psycopg tells."""
        return facts(connection.driver_connection)


class Begun(orm.Session):
    """An application's session, which takes its connection as soon as it is made."""

    def __init__(self, engine: sqlalchemy.Engine) -> None:
        super().__init__(engine)
        self.connection()


class Sessions(Engines):
    """A session of the object-relational mapper."""

    connection_type = Begun

    @property
    def acquire(self) -> Callable[[], Any]:
        """Make a session that takes its connection."""
        return functools.partial(Begun, self.engine)

    @property
    def release(self) -> Callable[[Any], Any]:
        """Close."""
        return orm.Session.close

    @property
    def refuse(self) -> Callable[[], Any]:
        """Connect where nobody listens."""
        return functools.partial(Begun, self.nobody)

    def execute(self, connection: Any, query: str) -> Any:
        """Run a query."""
        return connection.execute(sqlalchemy.text(query))

    def facts(self, connection: Any) -> dict[str, Any]:
        """What psycopg tells."""
        return facts(connection.connection().connection.driver_connection)

    @contextmanager
    def dropping(self) -> Iterator[None]:
        """A session that has begun refers to itself: it goes with the next collection."""
        yield
        gc.collect()


class TestConnection(SyncContract):
    """``engine.connect()``."""

    @pytest.fixture
    def library(self, dsn: str) -> Iterator[Library]:
        """An engine of at most two connections."""
        library = Connections(dsn)
        yield library
        library.close()


class TestRawConnection(SyncContract):
    """``engine.raw_connection()``."""

    @pytest.fixture
    def library(self, dsn: str) -> Iterator[Library]:
        """An engine of at most two connections."""
        library = RawConnections(dsn)
        yield library
        library.close()


class TestSession(SyncContract):
    """``Session(engine)``."""

    @pytest.fixture
    def library(self, dsn: str) -> Iterator[Library]:
        """An engine of at most two connections."""
        library = Sessions(dsn)
        yield library
        library.close()
