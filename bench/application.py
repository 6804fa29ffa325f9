"""The application functions that are measured: what stands in a repository class, and nothing else."""

from typing import Any

from psycopg_pool import AsyncConnectionPool, ConnectionPool


def getconn_and_putconn(pool: ConnectionPool[Any]) -> None:
    """Acquire a connection and give it back: the cycle that the limits are about."""
    connection = pool.getconn()
    pool.putconn(connection)


def with_connection(pool: ConnectionPool[Any]) -> None:
    """The same in its usual form."""
    with pool.connection():
        pass


async def async_getconn_and_putconn(pool: AsyncConnectionPool[Any]) -> None:
    """The same with asyncio."""
    connection = await pool.getconn()
    await pool.putconn(connection)


async def async_with_connection(pool: AsyncConnectionPool[Any]) -> None:
    """The same with asyncio, in its usual form."""
    async with pool.connection():
        pass
