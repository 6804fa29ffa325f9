"""Cursors of asyncpg, and asynchronous ones of psycopg, whose rows the server keeps."""

from __future__ import annotations

from typing import Any

import asyncpg
import psycopg

from tests.corpus.stage import Stage

NAMES = "SELECT name FROM customers ORDER BY id"


async def first_name(connection: Any) -> Any:
    """psycopg: reads one row through a cursor of the server, and forgets to close it."""
    cursor = connection.cursor("names")
    await cursor.execute(NAMES)
    return await cursor.fetchone()


async def first_name_and_close(connection: Any) -> Any:
    """psycopg: the same, and closes."""
    async with connection.cursor("names") as cursor:
        await cursor.execute(NAMES)
        return await cursor.fetchone()


async def next_name(connection: Any) -> Any:
    """asyncpg: reads one row through a cursor, and has no way to close it."""
    cursor = await connection.cursor(NAMES)
    return await cursor.fetchrow()


async def find_name(connection: Any, wanted: str) -> bool:
    """asyncpg: leaves the loop where it has found the name."""
    async for record in connection.cursor(NAMES, prefetch=1):
        if record["name"] == wanted:
            return True
    return False


async def open_names(connection: Any) -> Any:
    """asyncpg: a cursor for the caller."""
    return await connection.cursor(NAMES)


async def connected(stage: Stage) -> Any:
    """A connection of asyncpg."""
    return await asyncpg.connect(**stage.asyncpg)


async def left_open(stage: Stage) -> None:
    """psycopg: a function leaves a cursor open, and the connection is in use for several graces more."""
    async with await psycopg.AsyncConnection.connect(stage.dsn) as connection:
        stage.fact()
        await first_name(connection)
        await stage.sleep()


async def closed_by_with(stage: Stage) -> None:
    """psycopg: ``async with`` closes the cursor."""
    async with await psycopg.AsyncConnection.connect(stage.dsn) as connection:
        await first_name_and_close(connection)
        await stage.sleep()


async def left_open_over_asyncpg(stage: Stage) -> None:
    """asyncpg: a function leaves a cursor open in a transaction that goes on."""
    connection = await connected(stage)
    async with connection.transaction():
        stage.fact()
        await next_name(connection)
        await stage.sleep()
    await connection.close()


async def loop_is_left(stage: Stage) -> None:
    """asyncpg: a function leaves the loop over a cursor in a transaction that goes on."""
    connection = await connected(stage)
    async with connection.transaction():
        stage.fact()
        assert await find_name(connection, "customer 1")
        await stage.sleep()
    await connection.close()


async def loop_comes_to_its_end(stage: Stage) -> None:
    """asyncpg: the loop has read all rows."""
    connection = await connected(stage)
    async with connection.transaction():
        assert not await find_name(connection, "customer 4")
        await stage.sleep()
    await connection.close()


async def closed_by_its_transaction(stage: Stage) -> None:
    """asyncpg: the transaction ends soon after."""
    connection = await connected(stage)
    async with connection.transaction():
        await next_name(connection)
    await stage.sleep()
    await connection.close()


async def returned_to_the_caller(stage: Stage) -> None:
    """asyncpg: the caller reads on after several graces."""
    connection = await connected(stage)
    async with connection.transaction():
        cursor = await open_names(connection)
        await stage.sleep()
        assert len(await cursor.fetch(10)) == 3
    await connection.close()
