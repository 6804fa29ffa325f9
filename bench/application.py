"""The application functions that are measured: what stands in a repository class, and nothing else."""

import sqlite3
from typing import Any

import psycopg
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


def execute(connection: psycopg.Connection[Any] | sqlite3.Connection) -> None:
    """Ask for something on a connection that is held."""
    connection.execute("SELECT 1")


def execute_and_commit(connection: psycopg.Connection[Any]) -> None:
    """A whole transaction, which psycopg begins by itself."""
    connection.execute("SELECT 1")
    connection.commit()


def update_and_commit(connection: sqlite3.Connection) -> None:
    """A whole transaction, which sqlite3 begins by itself when something is written."""
    connection.execute("UPDATE customers SET name = 'Ada'")
    connection.commit()


async def async_execute(connection: Any) -> None:
    """Ask for something on a connection that is held, of psycopg or asyncpg."""
    await connection.execute("SELECT 1")
