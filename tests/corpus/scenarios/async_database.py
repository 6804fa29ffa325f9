"""Helpers of an asynchronous application for its database, in a module of their own."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator
from typing import Any

from psycopg_pool import AsyncConnectionPool

type Pool = AsyncConnectionPool[Any]


@contextlib.asynccontextmanager
async def transaction(pool: Pool) -> AsyncGenerator[Any]:
    """A connection that is committed and given back at the end, or rolled back and given back."""
    connection = await pool.getconn()
    try:
        yield connection
        await connection.commit()
    except BaseException:
        await connection.rollback()
        raise
    finally:
        await pool.putconn(connection)


@contextlib.asynccontextmanager
async def careless_transaction(pool: Pool) -> AsyncGenerator[Any]:
    """The same, but not when its block raises."""
    connection = await pool.getconn()
    yield connection
    await connection.commit()
    await pool.putconn(connection)


async def get_db(pool: Pool) -> AsyncGenerator[Any]:
    """A dependency: a connection for a request."""
    connection = await pool.getconn()
    try:
        yield connection
    finally:
        await pool.putconn(connection)


async def get_db_carelessly(pool: Pool) -> AsyncGenerator[Any]:
    """The same, but only if somebody goes on with it to its end."""
    connection = await pool.getconn()
    yield connection
    await pool.putconn(connection)
