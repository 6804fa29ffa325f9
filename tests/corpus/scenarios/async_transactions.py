"""Writes over psycopg in an asynchronous application: commits, cancellations, and what is forgotten."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable
from typing import Any

import psycopg
from psycopg_pool import AsyncConnectionPool

from tests.corpus.stage import Stage

type Pool = AsyncConnectionPool[Any]

ADD = "INSERT INTO customers (id, name) VALUES (4, %s)"
BEFORE = ["customer 1", "customer 2", "customer 3"]

audit_connections: list[Any] = []
"""The one connection of the process for the audit log."""


class MailUnavailable(ConnectionError):
    """The mail server does not answer."""


async def greet(name: str) -> None:
    """Sends a mail, which fails."""
    raise MailUnavailable(name)


async def nothing() -> None:
    """Lets others run."""
    await asyncio.sleep(0)


@contextlib.asynccontextmanager
async def unit_of_work(pool: Pool) -> AsyncGenerator[Any]:
    """Commits, or rolls back, and gives back."""
    connection = await pool.getconn()
    try:
        yield connection
        await connection.commit()
    except BaseException:
        await connection.rollback()
        raise
    finally:
        await pool.putconn(connection)


async def get_db(pool: Pool) -> AsyncGenerator[Any]:
    """A dependency: a connection for a request; to commit is up to the handler."""
    connection = await pool.getconn()
    try:
        yield connection
    finally:
        await pool.putconn(connection)


class CustomerRepository:
    """Each method takes a connection of its own."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool

    async def add(self, name: str, meanwhile: Awaitable[None]) -> None:
        """Forgets to commit."""
        connection = await self.pool.getconn()
        try:
            await connection.execute(ADD, (name,))
            await meanwhile
        finally:
            await self.pool.putconn(connection)

    async def add_and_commit(self, name: str, meanwhile: Awaitable[None]) -> None:
        """Commits when all has gone well."""
        connection = await self.pool.getconn()
        try:
            await connection.execute(ADD, (name,))
            await meanwhile
            await connection.commit()
        finally:
            await self.pool.putconn(connection)

    async def add_without_await(self, name: str) -> None:
        """Makes the coroutine that would commit, and does not await it."""
        connection = await self.pool.getconn()
        await connection.execute(ADD, (name,))
        connection.commit()
        await self.pool.putconn(connection)

    async def add_shielded(self, name: str) -> None:
        """Gives back in a task of its own, which nobody can cancel."""
        connection = await self.pool.getconn()
        try:
            await connection.execute(ADD, (name,))
            await greet(name)
            await connection.commit()
        finally:
            await asyncio.shield(self.pool.putconn(connection))

    async def add_with(self, name: str, meanwhile: Awaitable[None]) -> None:
        """``async with`` commits."""
        async with self.pool.connection() as connection:
            await connection.execute(ADD, (name,))
            await meanwhile

    async def add_in_unit(self, name: str) -> None:
        """Leaves everything to the unit of work."""
        async with unit_of_work(self.pool) as connection:
            await connection.execute(ADD, (name,))
            await greet(name)

    async def rename_locked(self, seconds: float) -> None:
        """Asks somebody else for a while, and keeps the rows locked."""
        async with self.pool.connection() as connection:
            await connection.execute("SELECT name FROM customers FOR UPDATE")
            await asyncio.sleep(seconds)
            await connection.execute("UPDATE customers SET name = 'Ada' WHERE id = 1")


class AuditLog:
    """Writes with the connection of the process."""

    async def connect(self, dsn: str) -> None:
        """Connect for the life of the process."""
        audit_connections.append(await psycopg.AsyncConnection.connect(dsn))

    async def write(self, line: str) -> None:
        """Leaves the commit to its caller."""
        await audit_connections[0].execute(ADD, (line,))


async def handle(pool: Pool, name: str, *, commit: bool) -> None:
    """A handler with a dependency, as a framework calls it."""
    dependency = get_db(pool)
    connection = await anext(dependency)
    try:
        await connection.execute(ADD, (name,))
        if commit:
            await connection.commit()
    finally:
        await anext(dependency, None)


async def forgotten_commit(stage: Stage) -> None:
    """An insert, and no commit before the connection is given back: the row is not there."""
    repository = CustomerRepository(await stage.async_pool())
    stage.fact()
    await repository.add("Ada", nothing())
    assert stage.names() == BEFORE


async def commit_is_not_awaited(stage: Stage) -> None:
    """``connection.commit()`` without ``await``: the row is not there."""
    repository = CustomerRepository(await stage.async_pool())
    stage.fact()
    await repository.add_without_await("Ada")
    assert stage.names() == BEFORE


async def committed(stage: Stage) -> None:
    """The same function with its commit, after several graces."""
    await CustomerRepository(await stage.async_pool()).add_and_commit("Ada", stage.sleep())
    assert stage.names() == [*BEFORE, "Ada"]


async def committed_by_with(stage: Stage) -> None:
    """The ``async with`` statement of the pool commits."""
    await CustomerRepository(await stage.async_pool()).add_with("Ada", nothing())
    assert stage.names() == [*BEFORE, "Ada"]


async def autocommit(stage: Stage) -> None:
    """Nobody commits, and nobody needs to."""
    pool = await stage.async_pool(kwargs={"autocommit": True})
    await CustomerRepository(pool).add("Ada", nothing())
    assert stage.names() == [*BEFORE, "Ada"]


async def exception_in_flight(stage: Stage) -> None:
    """An exception comes before the commit; ``finally`` gives back."""
    with contextlib.suppress(MailUnavailable):
        await CustomerRepository(await stage.async_pool()).add_and_commit("Ada", greet("Ada"))
    assert stage.names() == BEFORE


async def cancelled(stage: Stage) -> None:
    """The task is cancelled before the commit; ``finally`` gives back."""
    repository = CustomerRepository(await stage.async_pool())
    task = asyncio.create_task(repository.add_and_commit("Ada", stage.sleep()))
    await stage.sleep(1)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    assert stage.names() == BEFORE


async def timeout(stage: Stage) -> None:
    """A timeout comes before the commit; ``async with`` rolls back and gives back."""
    repository = CustomerRepository(await stage.async_pool())
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0.3):
            await repository.add_with("Ada", stage.sleep())
    assert stage.names() == BEFORE


async def cancelled_by_a_sibling(stage: Stage) -> None:
    """Another task of the group fails, and this one is cancelled before the commit."""
    repository = CustomerRepository(await stage.async_pool())

    async def fail() -> None:
        await stage.sleep(1)
        raise MailUnavailable

    with contextlib.suppress(ExceptionGroup):
        async with asyncio.TaskGroup() as group:
            group.create_task(repository.add_and_commit("Ada", stage.sleep()))
            group.create_task(fail())
    assert stage.names() == BEFORE


async def given_back_in_another_task(stage: Stage) -> None:
    """An exception comes before the commit; a task of its own gives back, in which there is no exception."""
    with contextlib.suppress(MailUnavailable):
        await CustomerRepository(await stage.async_pool()).add_shielded("Ada")
    assert stage.names() == BEFORE


async def unit_of_work_rolls_back(stage: Stage) -> None:
    """A unit of work made of an asynchronous generator rolls back and raises again."""
    with contextlib.suppress(MailUnavailable):
        await CustomerRepository(await stage.async_pool()).add_in_unit("Ada")
    assert stage.names() == BEFORE


async def dependency_gives_back(stage: Stage) -> None:
    """A dependency gives back, and the handler has not committed: the row is not there."""
    pool = await stage.async_pool()
    stage.fact()
    await handle(pool, "Ada", commit=False)
    assert stage.names() == BEFORE


async def dependency_gives_back_committed(stage: Stage) -> None:
    """A dependency gives back what the handler has committed."""
    await handle(await stage.async_pool(), "Ada", commit=True)
    assert stage.names() == [*BEFORE, "Ada"]


async def locked_across_a_sleep(stage: Stage) -> None:
    """``SELECT … FOR UPDATE``, and then a sleep of more than the threshold."""
    repository = CustomerRepository(await stage.async_pool())
    stage.fact()
    await repository.rename_locked(2)


async def locked_across_a_short_sleep(stage: Stage) -> None:
    """The same with a sleep of less than the threshold, but of several graces."""
    await CustomerRepository(await stage.async_pool()).rename_locked(1.5)


async def task_leaves_a_transaction_open(stage: Stage) -> None:
    """A task has ended, and its transaction is open, on the one connection of the process."""
    audit = AuditLog()
    await audit.connect(stage.dsn)
    await asyncio.create_task(audit.write("a line"))
    stage.fact()
    await stage.sleep()
    assert stage.names() == BEFORE


async def committed_by_another_task(stage: Stage) -> None:
    """A task inserts and ends; another one, which has the connection, commits after several graces."""
    connection = await psycopg.AsyncConnection.connect(stage.dsn)

    async def insert() -> None:
        await connection.execute(ADD, ("Ada",))

    async def finish() -> None:
        await stage.sleep()
        await connection.commit()
        await connection.close()

    await asyncio.create_task(insert())
    await asyncio.create_task(finish())
    assert stage.names() == [*BEFORE, "Ada"]
