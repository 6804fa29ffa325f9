"""Customers of an asynchronous service: coroutines that get a connection, and the ways out of them."""

from __future__ import annotations

import contextlib
from collections import deque
from typing import Any

import psycopg
from psycopg_pool import AsyncConnectionPool

from tests.corpus.stage import Stage

type Pool = AsyncConnectionPool[Any]

recent_errors: deque[Exception] = deque(maxlen=20)
"""The last errors, for a status page."""


class NoSuchCustomer(LookupError):
    """There is no customer of this number."""


class CreditAgency:
    """A slow service of somebody else."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage

    async def score(self, number: int) -> int:
        """How sure it is that this customer pays."""
        await self._stage.sleep()
        return 600 + number


class CustomerRepository:
    """Who buys."""

    def __init__(self, pool: Pool, agency: CreditAgency) -> None:
        self.pool = pool
        self.agency = agency

    async def name_of(self, number: int) -> Any:
        """Forgets the connection when there is no such customer."""
        connection = await self.pool.getconn()
        cursor = await connection.execute("SELECT name FROM customers WHERE id = %s", [number])
        row = await cursor.fetchone()
        if row is None:
            return None
        await self.pool.putconn(connection)
        return row[0]

    async def get(self, number: int) -> Any:
        """Skips ``putconn`` when there is no such customer."""
        connection = await self.pool.getconn()
        cursor = await connection.execute("SELECT id, name FROM customers WHERE id = %s", [number])
        row = await cursor.fetchone()
        if row is None:
            raise NoSuchCustomer(number)
        await self.pool.putconn(connection)
        return row

    async def credit_of(self, number: int) -> int:
        """Gives back on every path, although the agency is slow."""
        connection = await self.pool.getconn()
        try:
            score = await self.agency.score(number)
            cursor = await connection.execute("SELECT 1 FROM customers WHERE id = %s", [number])
            if await cursor.fetchone() is None:
                raise NoSuchCustomer(number)
            return score
        finally:
            await self.pool.putconn(connection)

    async def count_by(self, column: str) -> Any:
        """Has its connection from a helper, and skips ``putconn`` when the query raises."""
        connection = await self._connect()
        cursor = await connection.execute(f"SELECT {column}, count(*) FROM customers GROUP BY {column}")
        counts = await cursor.fetchall()
        await self.pool.putconn(connection)
        return counts

    async def score_all(self) -> int:
        """Has its connection from a helper, and gives it back late."""
        connection = await self._connect()
        try:
            cursor = await connection.execute("SELECT max(id) FROM customers")
            (most,) = await cursor.fetchone()
            return await self.agency.score(most)
        finally:
            await self.pool.putconn(connection)

    async def _connect(self) -> Any:
        return await self.pool.getconn()


class ReportWriter:
    """Reports on a connection of their own, beside the pool."""

    def __init__(self, dsn: str, agency: CreditAgency) -> None:
        self.dsn = dsn
        self.agency = agency

    async def total(self) -> Any:
        """Believes that a connection closes itself."""
        connection = await psycopg.AsyncConnection.connect(self.dsn)
        cursor = await connection.execute("SELECT count(*) FROM customers")
        return await cursor.fetchone()

    async def full_report(self) -> int:
        """Closes its connection after slow work."""
        async with await psycopg.AsyncConnection.connect(self.dsn) as connection:
            await connection.execute("SELECT id, name FROM customers")
            return await self.agency.score(1)


class ChangeListener:
    """Listens from ``start`` to ``stop``."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn
        self._connection: Any = None

    async def start(self) -> None:
        """Begin to listen."""
        self._connection = await psycopg.AsyncConnection.connect(self.dsn, autocommit=True)
        await self._connection.execute("LISTEN customers")

    async def stop(self) -> None:
        """Listen no longer."""
        await self._connection.close()


async def repository_of(stage: Stage) -> CustomerRepository:
    """A repository on a pool that is ready."""
    pool = await stage.async_pool()
    await pool.wait()
    return CustomerRepository(pool, CreditAgency(stage))


async def early_return(stage: Stage) -> None:
    """There is no such customer, and nobody keeps the connection."""
    repository = await repository_of(stage)
    stage.fact()
    await repository.name_of(99)


async def exception_is_kept(stage: Stage) -> None:
    """There is no such customer; the handler keeps the error for a status page."""
    repository = await repository_of(stage)
    try:
        await repository.get(99)
    except NoSuchCustomer as error:
        recent_errors.append(error)
    stage.fact()


async def exception_is_forgotten(stage: Stage) -> None:
    """There is no such customer, and nobody keeps the error."""
    repository = await repository_of(stage)
    stage.fact()
    with contextlib.suppress(NoSuchCustomer):
        await repository.get(99)


async def exception_is_cleaned_up(stage: Stage) -> None:
    """There is no such customer; ``finally`` gives the connection back although the error is kept."""
    repository = await repository_of(stage)
    try:
        await repository.credit_of(99)
    except NoSuchCustomer as error:
        recent_errors.append(error)


async def helper_returns_it_to_a_careless_caller(stage: Stage) -> None:
    """The caller of the helper is left by an exception that is kept."""
    repository = await repository_of(stage)
    try:
        await repository.count_by("nmae")
    except psycopg.Error as error:
        recent_errors.append(error)
    stage.fact()


async def helper_returns_it_to_a_careful_caller(stage: Stage) -> None:
    """The helper has returned long before its caller gives the connection back."""
    await (await repository_of(stage)).score_all()


async def own_connection_not_closed(stage: Stage) -> None:
    """``AsyncConnection.connect`` without ``close``."""
    writer = ReportWriter(stage.dsn, CreditAgency(stage))
    stage.fact()
    await writer.total()


async def own_connection_closed_late(stage: Stage) -> None:
    """``async with await AsyncConnection.connect`` around slow work."""
    await ReportWriter(stage.dsn, CreditAgency(stage)).full_report()


async def own_connection_from_start_to_stop(stage: Stage) -> None:
    """``start`` has returned long before ``stop`` closes the connection."""
    listener = ChangeListener(stage.dsn)
    await listener.start()
    await stage.sleep()
    await listener.stop()
