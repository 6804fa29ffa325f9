"""Streams of customers, and connections that asynchronous generators hold or hand out."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncGenerator
from functools import partial
from typing import Any

from psycopg_pool import AsyncConnectionPool

from tests.corpus.scenarios.async_database import (
    careless_transaction,
    get_db,
    get_db_carelessly,
    transaction,
)
from tests.corpus.stage import Stage

type Pool = AsyncConnectionPool[Any]

recent_errors: deque[Exception] = deque(maxlen=20)
"""The last errors, for a status page."""


class BadName(ValueError):
    """A customer's name is not as it should be."""


class CustomerStream:
    """Customers one at a time, from a connection that the generator holds."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool

    async def names(self) -> AsyncGenerator[str]:
        """Gives back on every path, if it is closed."""
        connection = await self.pool.getconn()
        try:
            async for (name,) in await connection.execute("SELECT name FROM customers ORDER BY id"):
                yield name
        finally:
            await self.pool.putconn(connection)

    async def names_to_the_end(self) -> AsyncGenerator[str]:
        """Gives back only when it has come to its end."""
        connection = await self.pool.getconn()
        async for (name,) in await connection.execute("SELECT name FROM customers ORDER BY id"):
            yield name
        await self.pool.putconn(connection)


class CustomerService:
    """What can be done with customers."""

    def __init__(self, pool: Pool, stage: Stage) -> None:
        self.pool = pool
        self.stream = CustomerStream(pool)
        self._stage = stage

    async def first_name(self) -> str | None:
        """Leaves the loop half-way."""
        async for name in self.stream.names():
            return name
        return None

    async def first_name_carelessly(self) -> str | None:
        """Leaves the loop half-way, and the generator does not clean up."""
        async for name in self.stream.names_to_the_end():
            return name
        return None

    async def first_name_slowly(self) -> str | None:
        """Leaves the loop half-way, and keeps the generator during slow work."""
        names = self.stream.names()
        async for name in names:
            await self._stage.sleep()
            return name
        return None

    async def check_names(self, prefix: str) -> None:
        """Raises half-way; the generator is a variable of its own."""
        names = self.stream.names()
        async for name in names:
            if not name.startswith(prefix):
                raise BadName(name)

    async def write_to_all(self) -> None:
        """Slow work at one of the steps; the loop goes to its end."""
        seen = 0
        async for _ in self.stream.names_to_the_end():
            if not seen:
                await self._stage.sleep()
            seen += 1

    async def write_to_the_first(self) -> None:
        """Leaves the loop half-way, and closes the generator, after slow work."""
        async with contextlib.aclosing(self.stream.names()) as names:
            async for _ in names:
                await self._stage.sleep()
                break

    async def rename_all(self) -> None:
        """Works with a connection from a helper."""
        async with transaction(self.pool) as connection:
            await connection.execute("UPDATE customers SET name = name")
            await self._stage.sleep()

    async def rename(self, number: int, name: str) -> None:
        """Raises in the block of a helper that does not expect it."""
        async with careless_transaction(self.pool) as connection:
            if not name.strip():
                raise BadName(name)
            await connection.execute("UPDATE customers SET name = %s WHERE id = %s", [name, number])

    async def rename_quickly(self) -> None:
        """Leaves a helper that only works for blocks without an exception, without one."""
        async with careless_transaction(self.pool) as connection:
            await connection.execute("UPDATE customers SET name = name")
            await self._stage.sleep()

    async def count(self) -> Any:
        """Steps into a dependency, and never goes on with it."""
        connection = await anext(get_db_carelessly(self.pool))
        cursor = await connection.execute("SELECT count(*) FROM customers")
        return await cursor.fetchone()


class ImportJob:
    """Drives a dependency by hand, as there is no request here."""

    def __init__(self, pool: Pool) -> None:
        self._dependency = get_db(pool)
        self._connection: Any = None

    async def start(self) -> None:
        """Get a connection."""
        self._connection = await anext(self._dependency)

    async def run(self) -> None:
        """Use it."""
        await self._connection.execute("SELECT id FROM customers")

    async def finish(self) -> None:
        """Give it back."""
        await self._dependency.aclose()


class Framework:
    """Calls handlers with a dependency, as web frameworks do, and closes it when the response is out."""

    def __init__(self, pool: Pool) -> None:
        self._get_db = partial(get_db, pool)

    async def serve(self, handler: Any) -> list[str]:
        """Serve one request."""
        async with contextlib.AsyncExitStack() as stack:
            dependency = contextlib.asynccontextmanager(self._get_db)()
            response = await handler(await stack.enter_async_context(dependency))
            return [line async for line in response]


async def service_of(stage: Stage) -> CustomerService:
    """A service on a pool that is ready."""
    pool = await stage.async_pool()
    await pool.wait()
    return CustomerService(pool, stage)


async def left_half_way(stage: Stage) -> None:
    """``return`` inside ``async for``; the generator is dropped, and the loop finalises it at once."""
    await (await service_of(stage)).first_name()


async def left_half_way_and_kept(stage: Stage) -> None:
    """``return`` inside ``async for`` after slow work, during which a variable keeps the generator."""
    await (await service_of(stage)).first_name_slowly()


async def left_half_way_and_not_cleaned_up(stage: Stage) -> None:
    """``return`` inside ``async for``; the generator is finalised, but has no ``finally``."""
    service = await service_of(stage)
    stage.fact()
    await service.first_name_carelessly()


async def left_by_an_error_that_is_kept(stage: Stage) -> None:
    """An error leaves the loop; its traceback keeps the generator, which nobody can go on with."""
    service = await service_of(stage)
    try:
        await service.check_names("nobody")
    except BadName as error:
        recent_errors.append(error)
    stage.fact()


async def left_by_a_task_that_ended(stage: Stage) -> None:
    """An error ends the task that went through the generator; its traceback keeps the generator."""
    service = await service_of(stage)
    try:
        await asyncio.create_task(service.check_names("nobody"))
    except BadName as error:
        recent_errors.append(error)
    stage.fact()


async def slow_at_a_step(stage: Stage) -> None:
    """The generator waits at its ``yield`` for slow work, and then comes to its end."""
    await (await service_of(stage)).write_to_all()


async def closed_half_way(stage: Stage) -> None:
    """``aclosing`` around a loop that is left half-way after slow work."""
    await (await service_of(stage)).write_to_the_first()


async def helper(stage: Stage) -> None:
    """A context manager of another module lasts for slow work."""
    await (await service_of(stage)).rename_all()


async def careless_helper(stage: Stage) -> None:
    """A context manager of another module without ``finally``, around slow work that does not raise."""
    await (await service_of(stage)).rename_quickly()


async def careless_helper_whose_block_raises(stage: Stage) -> None:
    """A context manager of another module without ``finally``; the error is kept."""
    service = await service_of(stage)
    try:
        await service.rename(1, " ")
    except BadName as error:
        recent_errors.append(error)
    stage.fact()


async def careless_helper_whose_block_raises_and_is_forgotten(stage: Stage) -> None:
    """A context manager of another module without ``finally``; nobody keeps the error."""
    service = await service_of(stage)
    stage.fact()
    with contextlib.suppress(BadName):
        await service.rename(1, " ")


async def stepped_into(stage: Stage) -> None:
    """``anext(get_db())`` of a dependency without ``finally``, and nothing after it."""
    service = await service_of(stage)
    stage.fact()
    await service.count()


async def driven_by_hand(stage: Stage) -> None:
    """``anext`` of a dependency in ``start``, ``aclose`` in ``finish``, much later."""
    job = ImportJob((await service_of(stage)).pool)
    await job.start()
    await stage.sleep()
    await job.run()
    await job.finish()


async def dependency_of_a_streaming_response(stage: Stage) -> None:
    """The handler has returned a response that goes on streaming from the connection of its dependency."""
    pool = (await service_of(stage)).pool

    async def stream(connection: Any) -> AsyncGenerator[str]:
        async for (name,) in await connection.execute("SELECT name FROM customers"):
            await stage.sleep(1)
            yield name

    async def list_customers(connection: Any) -> AsyncGenerator[str]:
        return stream(connection)

    await Framework(pool).serve(list_customers)
