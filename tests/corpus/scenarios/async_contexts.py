"""Asynchronous context managers, exit stacks and context variables that keep a connection."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
from collections import deque
from typing import Any

import psycopg
from opentelemetry import trace
from psycopg_pool import AsyncConnectionPool

from tests.corpus.stage import Stage

type Pool = AsyncConnectionPool[Any]

recent_errors: deque[Exception] = deque(maxlen=20)
"""The last errors, for a status page."""
current_connection: contextvars.ContextVar[Any] = contextvars.ContextVar("current_connection")
tracer = trace.get_tracer("customers")


class CreditAgency:
    """A slow service of somebody else."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage

    async def score(self, number: int) -> int:
        """How sure it is that this customer pays."""
        await self._stage.sleep()
        return 600 + number


class UnitOfWork:
    """One transaction at an isolation level of its own."""

    def __init__(self, pool: Pool, isolation: str) -> None:
        self._pool = pool
        self._isolation = isolation
        self._connection: Any = None

    async def __aenter__(self) -> Any:
        self._connection = await self._pool.getconn()
        await self._connection.execute(f"SET TRANSACTION ISOLATION LEVEL {self._isolation}")
        return self._connection

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            await self._connection.commit()
        else:
            await self._connection.rollback()
        await self._pool.putconn(self._connection)


class CustomerService:
    """What can be done with customers."""

    def __init__(self, pool: Pool, agency: CreditAgency) -> None:
        self.pool = pool
        self.agency = agency

    async def merge(self, isolation: str) -> int:
        """Works within a unit of work."""
        async with UnitOfWork(self.pool, isolation) as connection:
            await connection.execute("SELECT id FROM customers FOR UPDATE")
            return await self.agency.score(1)

    async def export(self, column: str) -> Any:
        """Enters a stack that is not closed when the query raises."""
        stack = contextlib.AsyncExitStack()
        connection = await stack.enter_async_context(self.pool.connection())
        cursor = await connection.execute(f"SELECT id, name FROM customers ORDER BY {column}")
        rows = await cursor.fetchall()
        await stack.aclose()
        return rows


class Session:
    """The connection of whatever runs in this context."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool

    async def begin(self) -> None:
        """Get a connection."""
        current_connection.set(await self.pool.getconn())

    async def names(self) -> Any:
        """Ask on the connection of the context."""
        cursor = await current_connection.get().execute("SELECT name FROM customers")
        return await cursor.fetchall()

    async def end(self) -> None:
        """Give it back."""
        await self.pool.putconn(current_connection.get())


async def ready_pool(stage: Stage) -> Pool:
    """A pool that has its first connection, as at the end of a start-up."""
    pool = await stage.async_pool()
    await pool.wait()
    return pool


async def with_without_a_name(stage: Stage) -> None:
    """``async with pool.connection():`` around a trace that ends and slow work."""
    pool = await ready_pool(stage)
    async with pool.connection():
        with tracer.start_as_current_span("step"):
            pass
        await stage.sleep()


async def exit_stack_closed_late(stage: Stage) -> None:
    """The connection's context manager is entered into a stack that is closed later."""
    pool = await ready_pool(stage)
    stack = contextlib.AsyncExitStack()
    with tracer.start_as_current_span("step"):
        await stack.enter_async_context(pool.connection())
    await stage.sleep()
    await stack.aclose()


async def exit_stack_never_closed(stage: Stage) -> None:
    """The query raises before the stack is closed; the error keeps the stack."""
    service = CustomerService(await ready_pool(stage), CreditAgency(stage))
    try:
        await service.export("nmae")
    except psycopg.Error as error:
        recent_errors.append(error)
    stage.fact()


async def exit_stack_dropped(stage: Stage) -> None:
    """The query raises before the stack is closed; the loop finalises the pool's generator at once."""
    service = CustomerService(await ready_pool(stage), CreditAgency(stage))
    with contextlib.suppress(psycopg.Error):
        await service.export("nmae")


async def unit_of_work(stage: Stage) -> None:
    """``__aenter__`` has returned long before ``__aexit__`` gives back."""
    await CustomerService(await ready_pool(stage), CreditAgency(stage)).merge("SERIALIZABLE")


async def unit_of_work_not_entered(stage: Stage) -> None:
    """``__aenter__`` raises after it has acquired, and so ``__aexit__`` never runs; the error is kept."""
    service = CustomerService(await ready_pool(stage), CreditAgency(stage))
    try:
        await service.merge("CEREALISABLE")
    except psycopg.Error as error:
        recent_errors.append(error)
    stage.fact()


async def context_variable(stage: Stage) -> None:
    """A connection of the task's context, given back late."""
    session = Session(await ready_pool(stage))
    await session.begin()
    await stage.sleep()
    await session.end()


async def context_variable_outlives_its_request(stage: Stage) -> None:
    """A background task has inherited the context of the request that is over, and ends the session."""
    session = Session(await ready_pool(stage))

    async def index() -> None:
        await stage.sleep()
        await session.names()
        await session.end()

    async def request() -> asyncio.Task[None]:
        with tracer.start_as_current_span("request"):
            await session.begin()
            return asyncio.create_task(index())

    background = await asyncio.create_task(request())
    await background


async def context_variable_dies_with_its_task(stage: Stage) -> None:
    """Nobody ends the session, and its context goes with the task."""
    session = Session(await ready_pool(stage))

    async def request() -> None:
        await session.begin()
        await session.names()

    stage.fact()
    await asyncio.create_task(request())
