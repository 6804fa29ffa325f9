"""Exports of customers in tasks of their own: cancelled, timed out, gathered and grouped."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from typing import Any

import psycopg
from psycopg_pool import AsyncConnectionPool

from tests.corpus.stage import Stage

type Pool = AsyncConnectionPool[Any]

recent_errors: deque[Exception] = deque(maxlen=20)
"""The last errors, for a status page."""


class CreditAgency:
    """A slow service of somebody else."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage

    async def scores(self, rows: list[Any]) -> list[int]:
        """How sure it is that these customers pay."""
        await self._stage.sleep()
        return [600 + number for number, _ in rows]


class CustomerRepository:
    """Who buys."""

    def __init__(self, pool: Pool, agency: CreditAgency) -> None:
        self.pool = pool
        self.agency = agency

    async def export(self, column: str = "id") -> list[int]:
        """Skips ``putconn`` when it is cancelled or the query raises."""
        connection = await self.pool.getconn()
        cursor = await connection.execute(f"SELECT id, name FROM customers ORDER BY {column}")
        scores = await self.agency.scores(await cursor.fetchall())
        await self.pool.putconn(connection)
        return scores

    async def export_safely(self, column: str = "id") -> list[int]:
        """Gives back on every path."""
        connection = await self.pool.getconn()
        try:
            cursor = await connection.execute(f"SELECT id, name FROM customers ORDER BY {column}")
            return await self.agency.scores(await cursor.fetchall())
        finally:
            await self.pool.putconn(connection)

    async def export_soon(self) -> list[int]:
        """Gives up when there is no connection soon."""
        try:
            async with asyncio.timeout(0.2):
                connection = await self.pool.getconn()
        except TimeoutError as error:
            recent_errors.append(error)
            return []
        try:
            cursor = await connection.execute("SELECT id, name FROM customers")
            return await self.agency.scores(await cursor.fetchall())
        finally:
            await self.pool.putconn(connection)

    async def export_patiently(self) -> list[int]:
        """Two time limits stand between the function and the pool."""
        async with asyncio.timeout(30):
            connection = await asyncio.wait_for(self.pool.getconn(), 30)
            try:
                cursor = await connection.execute("SELECT id, name FROM customers")
                return await self.agency.scores(await cursor.fetchall())
            finally:
                await self.pool.putconn(connection)


async def ready_pool(stage: Stage, size: int = 2) -> Pool:
    """A pool that has its connections, as at the end of a start-up."""
    pool = await stage.async_pool(min_size=size, max_size=size)
    await pool.wait()
    return pool


async def repository_of(stage: Stage) -> CustomerRepository:
    """A repository on a pool that is ready."""
    return CustomerRepository(await ready_pool(stage), CreditAgency(stage))


async def gather_with_one_cancelled(stage: Stage) -> None:
    """The one that is cancelled holds a connection, and its task is kept for its result."""
    repository = await repository_of(stage)
    exports = [asyncio.create_task(repository.export()), asyncio.create_task(repository.export_safely())]
    await stage.sleep(0.5)
    exports[0].cancel()
    await asyncio.sleep(0)
    stage.fact()
    await asyncio.gather(*exports, return_exceptions=True)


async def gather_with_one_cancelled_and_cleaned_up(stage: Stage) -> None:
    """The one that is cancelled gives its connection back."""
    repository = await repository_of(stage)
    exports = [asyncio.create_task(repository.export_safely()) for _ in range(2)]
    await stage.sleep(2)
    exports[0].cancel()
    await asyncio.gather(*exports, return_exceptions=True)
    await stage.sleep()


async def gather_returns_a_failure(stage: Stage) -> None:
    """One of them raises; the caller keeps the failure while it goes on."""
    repository = await repository_of(stage)
    results = await asyncio.gather(repository.export("nmae"), return_exceptions=True)
    stage.fact()
    await stage.sleep()
    assert [type(result) for result in results] == [psycopg.errors.UndefinedColumn]


async def gathered_connections(stage: Stage) -> None:
    """Two connections are acquired side by side, each in a task of its own that is over."""
    pool = await ready_pool(stage)
    connections = await asyncio.gather(pool.getconn(), pool.getconn())
    await stage.sleep()
    for connection in connections:
        await pool.putconn(connection)


async def group_with_a_failing_sibling(stage: Stage) -> None:
    """The task that holds is cancelled because another one of its group fails; nobody keeps the task."""
    repository = await repository_of(stage)

    async def notify() -> None:
        await stage.sleep(0.5)
        stage.fact()
        raise ConnectionRefusedError

    with contextlib.suppress(ConnectionRefusedError):
        async with asyncio.TaskGroup() as group:
            group.create_task(repository.export())
            group.create_task(notify())


async def group_with_a_failing_sibling_is_cleaned_up(stage: Stage) -> None:
    """The task that holds is cancelled because another one of its group fails, and gives back."""
    repository = await repository_of(stage)

    async def notify() -> None:
        await stage.sleep(2)
        raise ConnectionRefusedError

    exports = []
    with contextlib.suppress(ConnectionRefusedError):
        async with asyncio.TaskGroup() as group:
            exports.append(group.create_task(repository.export_safely()))
            group.create_task(notify())
    await stage.sleep()
    assert all(export.cancelled() for export in exports)


async def timeout_while_waiting(stage: Stage) -> None:
    """``asyncio.timeout`` ends the wait for a connection: nothing was acquired."""
    pool = await ready_pool(stage, 1)
    async with pool.connection():
        await CustomerRepository(pool, CreditAgency(stage)).export_soon()
        await stage.sleep()


async def wait_for_while_waiting(stage: Stage) -> None:
    """``wait_for`` ends the wait for a connection: nothing was acquired."""
    pool = await ready_pool(stage, 1)
    async with pool.connection():
        try:
            await asyncio.wait_for(CustomerRepository(pool, CreditAgency(stage)).export(), 0.2)
        except TimeoutError as error:
            recent_errors.append(error)
        await stage.sleep()


async def timeout_while_holding(stage: Stage) -> None:
    """``asyncio.timeout`` ends the work between acquire and release; the error is kept."""
    repository = await repository_of(stage)
    try:
        async with asyncio.timeout(0.2):
            await repository.export()
    except TimeoutError as error:
        recent_errors.append(error)
    stage.fact()


async def wait_for_while_holding(stage: Stage) -> None:
    """``wait_for`` ends the work between acquire and release; nobody keeps the error."""
    repository = await repository_of(stage)
    try:
        await asyncio.wait_for(repository.export(), 0.2)
    except TimeoutError:
        stage.fact()


async def acquired_with_a_timeout(stage: Stage) -> None:
    """``wait_for`` and ``timeout`` stand between the function and the pool, and neither ends anything."""
    await (await repository_of(stage)).export_patiently()


async def shielded_from_a_timeout(stage: Stage) -> None:
    """The caller gives up, but the work is shielded: it goes on and gives back."""
    repository = await repository_of(stage)
    export = asyncio.create_task(repository.export_safely())
    try:
        await asyncio.wait_for(asyncio.shield(export), 0.2)
    except TimeoutError as error:
        recent_errors.append(error)
    await export
