"""An asynchronous service over a synchronous repository, which it calls in threads."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
from psycopg_pool import ConnectionPool

from tests.corpus.stage import Stage

recent_errors: deque[Exception] = deque(maxlen=20)
"""The last errors, for a status page."""


class CustomerRepository:
    """Who buys; synchronous."""

    def __init__(self, pool: ConnectionPool[Any], stage: Stage) -> None:
        self.pool = pool
        self._stage = stage

    def list_sorted(self, column: str) -> Any:
        """Skips ``putconn`` when the query raises."""
        connection = self.pool.getconn()
        rows = connection.execute(f"SELECT id, name FROM customers ORDER BY {column}").fetchall()
        self.pool.putconn(connection)
        return rows

    def name_of(self, number: int) -> Any:
        """Forgets the connection when there is no such customer."""
        connection = self.pool.getconn()
        row = connection.execute("SELECT name FROM customers WHERE id = %s", [number]).fetchone()
        if row is None:
            return None
        self.pool.putconn(connection)
        return row[0]

    def export(self) -> Any:
        """Gives back after slow work."""
        with self.pool.connection() as connection:
            rows = connection.execute("SELECT id, name FROM customers").fetchall()
            self._stage.wait()
            return rows

    def connect(self) -> Any:
        """A connection for somebody else."""
        connection = self.pool.getconn()
        connection.autocommit = True
        return connection


class CustomerService:
    """What the handlers of requests call; asynchronous."""

    def __init__(self, repository: CustomerRepository, stage: Stage) -> None:
        self.repository = repository
        self._executor = ThreadPoolExecutor(2, thread_name_prefix="database")
        self._stage = stage

    async def sorted_by(self, column: str) -> Any:
        """Calls the repository in a thread of an executor of its own."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._executor, self.repository.list_sorted, column)

    async def export(self) -> Any:
        """The same, with slow work."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, self.repository.export)

    async def name_of(self, number: int) -> Any:
        """Calls the repository in a thread of the loop's executor."""
        return await asyncio.to_thread(self.repository.name_of, number)

    async def total(self) -> Any:
        """Gets a connection from a thread, and gives it back late."""
        connection = await asyncio.to_thread(self.repository.connect)
        try:
            await self._stage.sleep()
            return await asyncio.to_thread(connection.execute, "SELECT count(*) FROM customers")
        finally:
            await asyncio.to_thread(self.repository.pool.putconn, connection)

    async def total_of(self, table: str) -> Any:
        """Gets a connection from a thread, and does not give it back when the query raises."""
        connection = await asyncio.to_thread(self.repository.connect)
        cursor = await asyncio.to_thread(connection.execute, f"SELECT count(*) FROM {table}")
        self.repository.pool.putconn(connection)
        return cursor.fetchone()

    async def is_up(self) -> bool:
        """Gets a connection from a thread, and believes that this is all."""
        connection = await asyncio.to_thread(self.repository.connect)
        return not connection.broken

    async def is_up_soon(self) -> bool:
        """Gives up when there is no connection soon; the thread goes on and gets one for nobody."""
        try:
            connection = await asyncio.wait_for(asyncio.to_thread(self.repository.connect), 0.2)
        except TimeoutError:
            return False
        self.repository.pool.putconn(connection)
        return True


def service_of(stage: Stage) -> CustomerService:
    """A service on a pool that is ready."""
    pool = stage.pool()
    pool.wait()
    return CustomerService(CustomerRepository(pool, stage), stage)


async def query_raises_in_an_executor(stage: Stage) -> None:
    """A misspelt column, in a thread of an executor; the error comes to the coroutine, which keeps it."""
    service = service_of(stage)
    try:
        await service.sorted_by("nmae")
    except psycopg.Error as error:
        recent_errors.append(error)
    stage.fact()
    await stage.sleep()


async def early_return_in_a_thread(stage: Stage) -> None:
    """There is no such customer; the function in the thread forgets the connection."""
    service = service_of(stage)
    stage.fact()
    await service.name_of(99)


async def slow_in_an_executor(stage: Stage) -> None:
    """Slow work in a thread of an executor, and the connection is given back."""
    await service_of(stage).export()


async def caller_gives_up(stage: Stage) -> None:
    """The coroutine times out; the thread cannot be stopped, goes on and gives back."""
    service = service_of(stage)
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(service.export(), 0.2)
    await stage.sleep()


async def returned_from_a_thread(stage: Stage) -> None:
    """The function in the thread returns the connection to the coroutine, which gives it back late."""
    await service_of(stage).total()


async def returned_from_a_thread_and_kept(stage: Stage) -> None:
    """The function in the thread returns the connection to a coroutine that an exception leaves."""
    service = service_of(stage)
    try:
        await service.total_of("custmers")
    except psycopg.Error as error:
        recent_errors.append(error)
    stage.fact()
    await stage.sleep()


async def returned_from_a_thread_and_dropped(stage: Stage) -> None:
    """The function in the thread returns the connection to a coroutine that forgets it."""
    service = service_of(stage)
    stage.fact()
    await service.is_up()


async def returned_from_a_thread_to_nobody(stage: Stage) -> None:
    """The coroutine gave up while the thread waited for a connection, and so nobody takes it."""
    pool = stage.pool(max_size=1)
    service = CustomerService(CustomerRepository(pool, stage), stage)
    with pool.connection():
        assert not await service.is_up_soon()
    stage.fact()


async def acquired_by_a_thread(stage: Stage) -> None:
    """``to_thread`` calls nothing but the pool: no function of the application is in the thread."""
    pool = stage.pool()
    connection = await asyncio.to_thread(pool.getconn)
    await stage.sleep()
    await asyncio.to_thread(pool.putconn, connection)
