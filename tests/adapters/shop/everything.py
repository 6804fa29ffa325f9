"""An application that acquires, uses, releases and leaks in every way once."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
from opentelemetry.trace import Tracer
from psycopg_pool import AsyncConnectionPool, ConnectionPool

from .keeping import Cycle


class NoSuchCustomer(Exception):
    """The client asked for a customer who is not there."""


def use_pool(pool: ConnectionPool[Any], other: ConnectionPool[Any]) -> list[object]:
    """Acquire, use and release in each way; what the application sees of it."""
    seen: list[object] = []
    connection = pool.getconn()
    seen.append(connection.execute("SELECT 1").fetchone())
    try:
        other.putconn(connection)
    except ValueError as error:
        seen.append(str(error).partition(":")[0])
    pool.putconn(connection)
    with pool.connection() as connection:
        seen += [type(connection), connection.execute("SELECT 2").fetchone()]
    taken = take(pool)
    pool.putconn(taken)
    generator = give(pool)
    seen.append(type(next(generator)))
    seen.append(next(generator, "exhausted"))
    for function in (fail, fail_and_keep):
        try:
            function(pool)
        except NoSuchCustomer as error:
            seen.append(type(error))
    return seen


def take(pool: ConnectionPool[Any]) -> Any:
    """Acquire for the caller."""
    return pool.getconn()


def give(pool: ConnectionPool[Any]) -> Iterator[Any]:
    """Acquire for whoever iterates."""
    connection = pool.getconn()
    yield connection
    pool.putconn(connection)


def fail(pool: ConnectionPool[Any]) -> None:
    """Leave by an exception, with a connection."""
    connection = pool.getconn()
    try:
        raise NoSuchCustomer
    finally:
        pool.putconn(connection)


def fail_and_keep(pool: ConnectionPool[Any]) -> None:
    """Leave by an exception, and leave the connection where nobody finds it."""
    Cycle(pool.getconn())
    raise NoSuchCustomer


def leak(pool: ConnectionPool[Any], tracer: Tracer) -> None:
    """Lose one connection in each way."""
    with tracer.start_as_current_span("request"):
        keep(pool)
    thread = threading.Thread(target=keep, args=(pool,))
    thread.start()
    thread.join()
    pool.getconn()  # dropped


def keep(pool: ConnectionPool[Any]) -> None:
    """Leave a connection where nobody finds it."""
    Cycle(pool.getconn())


def think(pool: ConnectionPool[Any], until: Callable[[], object]) -> None:
    """Release late."""
    connection = pool.getconn()
    until()
    pool.putconn(connection)


async def use_async(dsn: str, tracer: Tracer) -> list[object]:
    """Acquire, use and release in a task, and end one while it holds."""
    seen: list[object] = []
    async with AsyncConnectionPool(dsn, min_size=0, max_size=4, num_workers=1, open=False) as pool:
        with tracer.start_as_current_span("request"):
            async with pool.connection() as connection:
                cursor = await connection.execute("SELECT 3")
                seen += [type(connection), await cursor.fetchone()]

        async def keep_it() -> None:
            Cycle(await pool.getconn())

        await asyncio.create_task(keep_it())
        await asyncio.sleep(0)
    connection = await psycopg.AsyncConnection.connect(dsn)
    seen.append(type(connection))
    await connection.close()
    return seen


def application(dsn: str, tracer: Tracer, until: Callable[[], object] = int) -> list[object]:
    """Do everything once, and release something late; returns what the application has seen."""
    with (
        ConnectionPool(dsn, min_size=1, max_size=8, num_workers=1, name="orders", open=True) as pool,
        ConnectionPool(dsn, min_size=0, max_size=1, num_workers=1, name="other", open=True) as other,
        tracer.start_as_current_span("request"),
    ):
        seen = use_pool(pool, other)
        leak(pool, tracer)
        think(pool, until)
    with psycopg.connect(dsn) as connection:
        seen += [type(connection), connection.execute("SELECT 4").fetchone()]
    return seen + asyncio.run(use_async(dsn, tracer))
