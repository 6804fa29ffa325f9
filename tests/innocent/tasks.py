"""Asynchronous code that keeps a connection beyond the function that acquired it, and gives it back later.

Each function takes a pool and a coroutine function that waits for longer than the grace.
"""

import asyncio
import contextlib
import contextvars
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from opentelemetry import trace
from psycopg_pool import AsyncConnectionPool

type Pool = AsyncConnectionPool[Any]
type Wait = Callable[[], Awaitable[None]]

tracer = trace.get_tracer("innocent")


async def with_without_a_name(pool: Pool, wait: Wait) -> None:
    """``async with pool.connection():`` around a trace that ends and a long wait."""
    async with pool.connection():
        with tracer.start_as_current_span("step"):
            pass
        await wait()


async def background_task(pool: Pool, wait: Wait) -> None:
    """A task goes on with the connection when the request that started it is over."""

    async def work(connection: Any) -> None:
        await wait()
        await pool.putconn(connection)

    async def request() -> asyncio.Task[None]:
        with tracer.start_as_current_span("request"):
            return asyncio.create_task(work(await pool.getconn()))

    await (await asyncio.create_task(request()))


async def parked_in_a_queue(pool: Pool, wait: Wait) -> None:
    """A task that is over has left a connection in a queue."""
    parked: asyncio.Queue[Any] = asyncio.Queue()

    async def park() -> None:
        await parked.put(await pool.getconn())

    await asyncio.create_task(park())
    await wait()
    await pool.putconn(await parked.get())


async def result_of_a_task(pool: Pool, wait: Wait) -> None:
    """A finished task has the connection as its result, and nobody has asked for it yet."""
    task = asyncio.create_task(pool.getconn())
    await wait()
    await pool.putconn(task.result())


async def released_by_a_callback(pool: Pool, wait: Wait) -> None:
    """A callback of the event loop gives it back; only its timer refers to it."""
    done = asyncio.get_running_loop().create_future()

    async def release(connection: Any) -> None:
        await pool.putconn(connection)
        done.set_result(None)

    async def start() -> None:
        connection = await pool.getconn()
        loop = asyncio.get_running_loop()
        loop.call_later(0.5, lambda: tasks.append(asyncio.ensure_future(release(connection))))

    tasks: list[asyncio.Future[None]] = []
    await start()
    await wait()
    await done


async def rows(pool: Pool) -> AsyncIterator[int]:
    """Streams from a connection of its own."""
    connection = await pool.getconn()
    try:
        yield 1
    finally:
        await pool.putconn(connection)


async def suspended_async_generator(pool: Pool, wait: Wait) -> None:
    """An asynchronous generator waits at its ``yield``."""
    async with contextlib.aclosing(rows(pool)) as generator:  # type: ignore[type-var]  # it is a generator
        async for _ in generator:
            await wait()


async def exit_stack(pool: Pool, wait: Wait) -> None:
    """The connection's context manager is entered into a stack that is closed later."""
    stack = contextlib.AsyncExitStack()
    with tracer.start_as_current_span("step"):
        await stack.enter_async_context(pool.connection())
    await wait()
    await stack.aclose()


async def acquired_with_a_timeout(pool: Pool, wait: Wait) -> None:
    """``wait_for`` and ``timeout`` stand between the function and the pool."""
    async with asyncio.timeout(30):
        connection = await asyncio.wait_for(pool.getconn(), 30)
        await wait()
        await pool.putconn(connection)


async def gathered(pool: Pool, wait: Wait) -> None:
    """Two connections are acquired side by side, each in a task of its own."""
    connections = await asyncio.gather(pool.getconn(), pool.getconn())
    await wait()
    for connection in connections:
        await pool.putconn(connection)


async def in_a_context_variable(pool: Pool, wait: Wait) -> None:
    """A connection of the task's context."""
    variable: contextvars.ContextVar[Any] = contextvars.ContextVar("connection")

    async def acquire() -> None:
        variable.set(await pool.getconn())

    await acquire()
    await wait()
    await pool.putconn(variable.get())


SCENARIOS = [
    with_without_a_name,
    background_task,
    parked_in_a_queue,
    result_of_a_task,
    released_by_a_callback,
    suspended_async_generator,
    exit_stack,
    acquired_with_a_timeout,
    gathered,
    in_a_context_variable,
]
