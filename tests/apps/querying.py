# ruff: noqa: INP001 - a program of its own
"""Asks the database once through each driver that OpenTelemetry instruments, within one span of its own."""

import asyncio
import os
import sqlite3
from contextlib import closing

import asyncpg
import psycopg
import psycopg2
from opentelemetry import trace


async def ask_asyncpg() -> None:
    """A connection of asyncpg."""
    connection = await asyncpg.connect(host=os.environ["HOST"], user="postgres", database="postgres")
    await connection.fetch("SELECT 'asyncpg'")
    await connection.close()


def main() -> None:
    """Ask."""
    with trace.get_tracer("app").start_as_current_span("request"):
        with closing(psycopg.connect(host=os.environ["HOST"], user="postgres")) as connection:
            connection.execute("SELECT 'psycopg'")
        with closing(psycopg2.connect(host=os.environ["HOST"], user="postgres")) as older:
            older.cursor().execute("SELECT 'psycopg2'")
        with closing(sqlite3.connect(":memory:")) as lite:
            lite.cursor().execute("SELECT 'sqlite3'")
        asyncio.run(ask_asyncpg())


main()
