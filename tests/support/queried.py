"""Every driver whose queries OpenTelemetry makes spans of, with one interface: connect, ask, close."""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import asyncpg
import psycopg
import psycopg2
import sqlalchemy
import sqlalchemy.ext.asyncio
from opentelemetry.instrumentation.asyncpg import AsyncPGInstrumentor
from opentelemetry.instrumentation.psycopg import PsycopgInstrumentor
from opentelemetry.instrumentation.psycopg2 import Psycopg2Instrumentor
from opentelemetry.instrumentation.sqlalchemy import SQLAlchemyInstrumentor
from opentelemetry.instrumentation.sqlite3 import SQLite3Instrumentor
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy.pool import NullPool

from tests.support.telemetry import Telemetry

type Instrumentor = Callable[[], Any]
"""The class of an instrumentation; it has only one object."""

ASK = "SELECT 40 + 2"
WRONG = "SELECT name FROM nowhere"


@contextmanager
def instrumented(telemetry: Telemetry, *instrumentors: Instrumentor) -> Iterator[None]:
    """OpenTelemetry's own instrumentations are on, for the length of a ``with`` block."""
    with ExitStack() as stack:
        for connection in (psycopg.Connection, psycopg.AsyncConnection):
            # The instrumentation leaves a bound method there at its end, in place of the class method.
            stack.callback(setattr, connection, "connect", vars(connection)["connect"])
        for cls in instrumentors:
            instrumentor = cls()
            # That of SQLAlchemy says that it does not support the version that we have, and does.
            instrumentor.instrument(
                tracer_provider=telemetry.tracer_provider,
                meter_provider=telemetry.meter_provider,
                skip_dep_check=True,
            )
            stack.callback(instrumentor.uninstrument)
        yield


def parameters(dsn: str) -> dict[str, Any]:
    """What asyncpg needs to reach the server of a connection string of libpq."""
    parts = conninfo_to_dict(dsn)
    return {"host": parts["host"], "user": parts["user"], "database": parts["dbname"]}


class Driver:
    """One way to ask the database. Not every one of them is asynchronous; the interface is.

    Attributes:
        instrumentors: what makes spans of its queries.
    """

    instrumentors: tuple[Instrumentor, ...]

    def prepare(self, dsn: str) -> None:
        """Make what connects, where that is an object of its own."""
        self.dsn = dsn

    async def connect(self) -> Any:
        """Acquire a connection."""
        raise NotImplementedError

    async def ask(self, connection: Any, statement: str = ASK) -> None:
        """Run a statement, and read what it gives."""
        raise NotImplementedError

    async def close(self, connection: Any) -> None:
        """Release the connection."""
        connection.close()

    async def stop(self) -> None:
        """Close what `prepare` has opened."""


class Psycopg(Driver):
    """psycopg 3."""

    instrumentors = (PsycopgInstrumentor,)

    async def connect(self) -> Any:
        """Acquire a connection."""
        return psycopg.connect(self.dsn)

    async def ask(self, connection: Any, statement: str = ASK) -> None:
        """Run a statement, and read what it gives."""
        connection.execute(statement).fetchall()


class AsyncPsycopg(Driver):
    """psycopg 3, asynchronous."""

    instrumentors = (PsycopgInstrumentor,)

    async def connect(self) -> Any:
        """Acquire a connection."""
        return await psycopg.AsyncConnection.connect(self.dsn)

    async def ask(self, connection: Any, statement: str = ASK) -> None:
        """Run a statement, and read what it gives."""
        await (await connection.execute(statement)).fetchall()

    async def close(self, connection: Any) -> None:
        """Release the connection."""
        await connection.close()


class Psycopg2(Driver):
    """psycopg2."""

    instrumentors = (Psycopg2Instrumentor,)

    async def connect(self) -> Any:
        """Acquire a connection."""
        return psycopg2.connect(self.dsn)

    async def ask(self, connection: Any, statement: str = ASK) -> None:
        """Run a statement, and read what it gives."""
        cursor = connection.cursor()
        cursor.execute(statement)
        cursor.fetchall()


class Sqlite3(Psycopg2):
    """sqlite3; its instrumentation sees what cursors are asked, and not the shortcuts of connections."""

    instrumentors = (SQLite3Instrumentor,)

    async def connect(self) -> Any:
        """Acquire a connection."""
        return sqlite3.connect(":memory:")


class Asyncpg(Driver):
    """asyncpg: ``execute``."""

    instrumentors = (AsyncPGInstrumentor,)

    async def connect(self) -> Any:
        """Acquire a connection."""
        return await asyncpg.connect(**parameters(self.dsn))

    async def ask(self, connection: Any, statement: str = ASK) -> None:
        """Run a statement, and read what it gives."""
        await connection.execute(statement)

    async def close(self, connection: Any) -> None:
        """Release the connection."""
        await connection.close()


class AsyncpgPool(Asyncpg):
    """asyncpg: ``fetch`` on what a pool gives out."""

    async def connect(self) -> Any:
        """Acquire a connection."""
        self.pool = await asyncpg.create_pool(**parameters(self.dsn), min_size=1, max_size=1)
        return await self.pool.acquire()

    async def ask(self, connection: Any, statement: str = ASK) -> None:
        """Run a statement, and read what it gives."""
        await connection.fetch(statement)

    async def close(self, connection: Any) -> None:
        """Release the connection."""
        await self.pool.release(connection)

    async def stop(self) -> None:
        """End the pool."""
        self.pool.terminate()


class AsyncpgCursor(Asyncpg):
    """asyncpg: cursors, the iterator and the other."""

    async def ask(self, connection: Any, statement: str = ASK) -> None:
        """Run a statement, and read what it gives."""
        async with connection.transaction():
            async for _ in connection.cursor(statement):
                pass
            await (await connection.cursor(statement)).fetch(1)


class AsyncpgPrepared(Asyncpg):
    """asyncpg: a prepared statement."""

    async def ask(self, connection: Any, statement: str = ASK) -> None:
        """Run a statement, and read what it gives."""
        await (await connection.prepare(statement)).fetch()


class Alchemy(Driver):
    """SQLAlchemy.

    Args:
        driver: by SQLAlchemy's name of its dialect.
        instrumentors: its own instrumentation, or that of the driver, or both.
    """

    def __init__(self, driver: str, *instrumentors: Instrumentor) -> None:
        self.driver = driver
        self.instrumentors = instrumentors

    def engine(self, make: Any) -> Any:
        """Make an engine."""
        if self.driver == "sqlite":
            return make("sqlite://", poolclass=NullPool)
        how = parameters(self.dsn) if self.driver == "asyncpg" else conninfo_to_dict(self.dsn)
        return make(f"postgresql+{self.driver}://", connect_args=how, poolclass=NullPool)

    def prepare(self, dsn: str) -> None:
        """Make the engine."""
        self.dsn = dsn
        self.made = self.engine(sqlalchemy.create_engine)

    async def connect(self) -> Any:
        """Acquire a connection."""
        return self.made.connect()

    async def ask(self, connection: Any, statement: str = ASK) -> None:
        """Run a statement, and read what it gives."""
        connection.execute(sqlalchemy.text(statement)).all()

    async def stop(self) -> None:
        """Close what the engine's pool has."""
        self.made.dispose()


class AsyncAlchemy(Alchemy):
    """SQLAlchemy, asynchronous."""

    def prepare(self, dsn: str) -> None:
        """Make the engine."""
        self.dsn = dsn
        self.made = self.engine(sqlalchemy.ext.asyncio.create_async_engine)

    async def connect(self) -> Any:
        """Acquire a connection."""
        return await self.made.connect()

    async def ask(self, connection: Any, statement: str = ASK) -> None:
        """Run a statement, and read what it gives."""
        (await connection.execute(sqlalchemy.text(statement))).all()

    async def close(self, connection: Any) -> None:
        """Release the connection."""
        await connection.close()

    async def stop(self) -> None:
        """Close what the engine's pool has."""
        await self.made.dispose()


DRIVERS: dict[str, Driver] = {
    "psycopg": Psycopg(),
    "psycopg async": AsyncPsycopg(),
    "psycopg2": Psycopg2(),
    "sqlite3": Sqlite3(),
    "asyncpg": Asyncpg(),
    "asyncpg pool": AsyncpgPool(),
    "asyncpg cursor": AsyncpgCursor(),
    "asyncpg prepared": AsyncpgPrepared(),
    "sqlalchemy": Alchemy("psycopg", SQLAlchemyInstrumentor),
    "sqlalchemy and driver": Alchemy("psycopg", SQLAlchemyInstrumentor, PsycopgInstrumentor),
    "sqlalchemy, psycopg's": Alchemy("psycopg", PsycopgInstrumentor),
    "sqlalchemy, psycopg2's": Alchemy("psycopg2", Psycopg2Instrumentor),
    "sqlalchemy, sqlite3's": Alchemy("sqlite", SQLite3Instrumentor),
    "sqlalchemy async": AsyncAlchemy("asyncpg", SQLAlchemyInstrumentor),
    "sqlalchemy async, asyncpg's": AsyncAlchemy("asyncpg", AsyncPGInstrumentor),
    "sqlalchemy async, psycopg's": AsyncAlchemy("psycopg", PsycopgInstrumentor),
}
