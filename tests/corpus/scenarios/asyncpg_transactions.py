"""Writes over asyncpg, where nothing is a transaction unless somebody begins one."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable
from typing import Any

import asyncpg

from tests.corpus.stage import Stage

type Pool = Any
"""asyncpg has no types."""

ADD = "INSERT INTO customers (id, name) VALUES (4, $1)"
BEFORE = ["customer 1", "customer 2", "customer 3"]


class MailUnavailable(ConnectionError):
    """The mail server does not answer."""


async def greet(name: str) -> None:
    """Sends a mail, which fails."""
    raise MailUnavailable(name)


async def nothing() -> None:
    """Lets others run."""
    await asyncio.sleep(0)


class CustomerRepository:
    """Each method takes a connection of its own."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool

    async def add(self, name: str) -> None:
        """Begins nothing."""
        async with self.pool.acquire() as connection:
            await connection.execute(ADD, name)

    async def add_in_block(self, name: str, meanwhile: Awaitable[None]) -> None:
        """The block commits."""
        async with self.pool.acquire() as connection, connection.transaction():
            await connection.execute(ADD, name)
            await meanwhile

    async def add_started(self, name: str, meanwhile: Awaitable[None]) -> None:
        """Begins a transaction, and forgets to commit it."""
        connection = await self.pool.acquire()
        try:
            await connection.transaction().start()
            await connection.execute(ADD, name)
            await meanwhile
        finally:
            await self.pool.release(connection)

    async def add_and_commit(self, name: str, meanwhile: Awaitable[None], *, shield: bool = False) -> None:
        """Begins a transaction, and commits it when all has gone well; may release in a task of its own."""
        connection = await self.pool.acquire()
        try:
            transaction = connection.transaction()
            await transaction.start()
            await connection.execute(ADD, name)
            await meanwhile
            await transaction.commit()
        finally:
            released = self.pool.release(connection)
            await (asyncio.shield(released) if shield else released)

    async def add_by_text(self, name: str, *, end: str) -> None:
        """Begins a transaction by a statement; another one may end it."""
        async with self.pool.acquire() as connection:
            await connection.execute("BEGIN")
            await connection.execute(ADD, name)
            if end:
                await connection.execute(end)

    async def add_nested(self, name: str) -> None:
        """The inner of two blocks is rolled back, the outer one is committed."""
        async with self.pool.acquire() as connection, connection.transaction():
            await connection.execute(ADD, name)
            with contextlib.suppress(MailUnavailable):
                async with connection.transaction():
                    await connection.execute("DELETE FROM customers")
                    await greet(name)

    async def add_to_a_report(self, name: str) -> None:
        """Only the inner of two transactions is committed: it is a savepoint."""
        connection = await self.pool.acquire()
        await connection.transaction(isolation="repeatable_read").start()
        await connection.fetch("SELECT name FROM customers")
        async with connection.transaction():
            await connection.execute(ADD, name)
        await self.pool.release(connection)

    async def add_all(self, *names: str) -> None:
        """Begins a transaction for many rows, and forgets to commit it."""
        connection = await self.pool.acquire()
        await connection.transaction().start()
        await connection.executemany("INSERT INTO customers VALUES ($1, $2)", list(enumerate(names, start=4)))
        await self.pool.release(connection)

    async def load(self, *names: str) -> None:
        """Copies rows into the table in a transaction, and forgets to commit it."""
        connection = await self.pool.acquire()
        await connection.transaction().start()
        await connection.copy_records_to_table("customers", records=list(enumerate(names, start=4)))
        await self.pool.release(connection)

    async def names(self) -> list[Any]:
        """Reads in a transaction, and leaves its end to the pool."""
        connection = await self.pool.acquire()
        try:
            await connection.transaction(readonly=True).start()
            rows: list[Any] = await connection.fetch("SELECT name FROM customers")
            return rows
        finally:
            await self.pool.release(connection)

    async def add_twice(self) -> None:
        """The server has aborted the transaction when the connection is given back."""
        connection = await self.pool.acquire()
        await connection.transaction().start()
        await connection.execute(ADD, "Ada")
        with contextlib.suppress(asyncpg.UndefinedColumnError):
            await connection.execute("UPDATE customers SET nmae = 'Bea'")
        await self.pool.release(connection)


class Exporter:
    """Has a connection of its own for as long as it lives."""

    async def open(self, parameters: dict[str, Any]) -> None:
        """Connect."""
        self.connection = await asyncpg.connect(**parameters)

    async def close(self) -> None:
        """Disconnect."""
        await self.connection.close()

    async def lock(self, seconds: float) -> None:
        """Locks rows in a transaction, and sleeps."""
        async with self.connection.transaction():
            await self.connection.fetch("SELECT name FROM customers FOR UPDATE")
            await asyncio.sleep(seconds)

    async def add(self, name: str) -> None:
        """Begins a transaction, and leaves its end to others."""
        await self.connection.execute("BEGIN")
        await self.connection.execute(ADD, name)


def pool_of(stage: Stage) -> Pool:
    """A pool, to be opened by ``async with``."""
    return asyncpg.create_pool(min_size=1, max_size=4, **stage.asyncpg)


async def no_transaction(stage: Stage) -> None:
    """Nobody begins a transaction, and nobody needs to commit: the row is there."""
    async with pool_of(stage) as pool:
        await CustomerRepository(pool).add("Ada")
    assert stage.names() == [*BEFORE, "Ada"]


async def block(stage: Stage) -> None:
    """The block of a transaction commits, after several graces."""
    async with pool_of(stage) as pool:
        await CustomerRepository(pool).add_in_block("Ada", stage.sleep())
    assert stage.names() == [*BEFORE, "Ada"]


async def block_raises(stage: Stage) -> None:
    """The block of a transaction rolls back because of an exception."""
    async with pool_of(stage) as pool:
        with contextlib.suppress(MailUnavailable):
            await CustomerRepository(pool).add_in_block("Ada", greet("Ada"))
    assert stage.names() == BEFORE


async def started_and_never_committed(stage: Stage) -> None:
    """A transaction is started, and the connection released without a commit: the row is not there."""
    async with pool_of(stage) as pool:
        stage.fact()
        await CustomerRepository(pool).add_started("Ada", nothing())
    assert stage.names() == BEFORE


async def started_and_an_exception_in_flight(stage: Stage) -> None:
    """An exception comes before the commit; ``finally`` releases."""
    async with pool_of(stage) as pool:
        with contextlib.suppress(MailUnavailable):
            await CustomerRepository(pool).add_and_commit("Ada", greet("Ada"))
    assert stage.names() == BEFORE


async def released_in_another_task(stage: Stage) -> None:
    """The same, and a task of its own releases, in which there is no exception."""
    async with pool_of(stage) as pool:
        with contextlib.suppress(MailUnavailable):
            await CustomerRepository(pool).add_and_commit("Ada", greet("Ada"), shield=True)
    assert stage.names() == BEFORE


async def started_and_cancelled(stage: Stage) -> None:
    """The task is cancelled before the commit; ``finally`` releases."""
    async with pool_of(stage) as pool:
        task = asyncio.create_task(CustomerRepository(pool).add_and_commit("Ada", stage.sleep()))
        await stage.sleep(1)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
    assert stage.names() == BEFORE


async def begun_by_text(stage: Stage) -> None:
    """A statement begins a transaction, and none ends it: the row is not there."""
    async with pool_of(stage) as pool:
        stage.fact()
        await CustomerRepository(pool).add_by_text("Ada", end="")
    assert stage.names() == BEFORE


async def begun_and_committed_by_text(stage: Stage) -> None:
    """A statement begins a transaction, and another one commits it."""
    async with pool_of(stage) as pool:
        await CustomerRepository(pool).add_by_text("Ada", end="COMMIT")
    assert stage.names() == [*BEFORE, "Ada"]


async def inner_block_is_rolled_back(stage: Stage) -> None:
    """The inner of two blocks is rolled back, and the outer one commits."""
    async with pool_of(stage) as pool:
        await CustomerRepository(pool).add_nested("Ada")
    assert stage.names() == [*BEFORE, "Ada"]


async def only_the_inner_block_is_committed(stage: Stage) -> None:
    """The inner of two transactions is committed, and the outer one forgotten: the row is not there."""
    async with pool_of(stage) as pool:
        stage.fact()
        await CustomerRepository(pool).add_to_a_report("Ada")
    assert stage.names() == BEFORE


async def many_rows(stage: Stage) -> None:
    """An ``executemany`` is discarded: the rows are not there."""
    async with pool_of(stage) as pool:
        stage.fact()
        await CustomerRepository(pool).add_all("Ada", "Bea")
    assert stage.names() == BEFORE


async def copy_in(stage: Stage) -> None:
    """A ``copy_records_to_table`` is discarded: the rows are not there."""
    async with pool_of(stage) as pool:
        stage.fact()
        await CustomerRepository(pool).load("Ada", "Bea")
    assert stage.names() == BEFORE


async def read_only(stage: Stage) -> None:
    """A transaction that has only read is ended by the pool."""
    async with pool_of(stage) as pool:
        assert len(await CustomerRepository(pool).names()) == len(BEFORE)


async def aborted_and_released(stage: Stage) -> None:
    """The server has aborted the transaction, and the connection is released when that is handled."""
    async with pool_of(stage) as pool:
        await CustomerRepository(pool).add_twice()
    assert stage.names() == BEFORE


async def closed_uncommitted(stage: Stage) -> None:
    """A connection without a pool is closed in the midst of its transaction: the row is not there."""
    exporter = Exporter()
    await exporter.open(stage.asyncpg)
    await exporter.add("Ada")
    stage.fact()
    await exporter.close()
    assert stage.names() == BEFORE


async def locked_across_a_sleep(stage: Stage) -> None:
    """The connection may be idle for long; that it locks rows meanwhile is another matter."""
    exporter = Exporter()
    await exporter.open(stage.asyncpg)
    stage.fact()
    await exporter.lock(2)
    await exporter.close()
