"""One process of the benchmark: what the hook of driver calls costs; prints its figures as JSON.

Its arguments are the configuration (``recorded``, ``unsampled`` or ``no_sdk``) and a connection string.

Most of these calls wait for a server, many times as long as the hook takes. Timed as they are they say
nothing about it: the process and the server put each other to sleep and wake each other, which takes the
longer the deeper a processor sleeps. On a machine with two of them an empty loop of 0.4 µs beside each call
made it 5 µs slower, a bare span of 12 µs 31 µs, and the same hook 2 to 13 µs. So everything runs on one
processor, which never sleeps: see `one_processor`. Then an ``execute`` takes 20 µs instead of 50, and what
the hook adds to it is the same from run to run, within a tenth; also beside another program, because only
rounds count that it has not disturbed. All of it is real: psycopg, the socket, the server, the transaction.

Beside them stand calls that wait for nobody: those of sqlite3, whose database is in memory, and those of
psycopg with the server's answer taken from memory. They show what the hook costs where its own code and data
have not been driven out of the processor's caches.
"""

import asyncio
import functools
import json
import os
import sqlite3
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, closing, contextmanager
from typing import Any, ClassVar

import asyncpg
import psycopg
from psycopg.abc import PQGen
from psycopg.pq.abc import PGresult
from psycopg_pool import AsyncConnectionPool, ConnectionPool

from bench import application
from bench.timing import Work, repeat_with, repeat_with_async
from bench.worker import compare

CAN_BE_PINNED = hasattr(os, "sched_setaffinity")
"""Whether this system lets a program choose its processors: Linux does."""


class _Answered:
    """The half of a cursor that does not ask the server: the answer is there at once, always the same."""

    __slots__ = ()
    answer: ClassVar[PGresult]
    _set_results: Any

    def _maybe_prepare_gen(
        self, pgq: object, *, prepare: bool | None = None, binary: bool | None = None
    ) -> PQGen[None]:
        self._set_results([self.answer])
        yield from ()


class AnsweredCursor(_Answered, psycopg.Cursor[Any]):
    """A cursor of psycopg whose statements are answered at once; BEGIN and ROLLBACK are real."""

    __slots__ = ()


class AnsweredAsyncCursor(_Answered, psycopg.AsyncCursor[Any]):
    """The same for asyncio."""

    __slots__ = ()


@contextmanager
def one_processor() -> Iterator[None]:
    """Run on one processor for a ``with`` block, with all processes that are started in it.

    Does nothing where the system does not have that.
    """
    if not CAN_BE_PINNED:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextmanager
def held(pool: ConnectionPool[Any]) -> Iterator[psycopg.Connection[Any]]:
    """A connection that is held for a ``with`` block."""
    connection = pool.getconn()
    try:
        yield connection
    finally:
        connection.rollback()
        pool.putconn(connection)


@asynccontextmanager
async def held_async(pool: AsyncConnectionPool[Any]) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
    """The same with asyncio."""
    connection = await pool.getconn()
    try:
        yield connection
    finally:
        await connection.rollback()
        await pool.putconn(connection)


@asynccontextmanager
async def held_asyncpg(pool: Any) -> AsyncIterator[Any]:
    """The same of asyncpg, in a transaction, which does not begin by itself."""
    async with pool.acquire() as connection, connection.transaction():
        yield connection


@contextmanager
def in_memory(begin: str) -> Iterator[sqlite3.Connection]:
    """A connection to a database in memory, with a table ``customers`` of one row.

    Args:
        begin: a statement, which may begin a transaction.
    """
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.executescript("CREATE TABLE customers AS SELECT 'Grace' AS name")
        connection.execute(begin)
        try:
            yield connection
        finally:
            connection.rollback()


def answer_at_once(pool: ConnectionPool[Any]) -> None:
    """Give the cursors of this module their answer, and see that they use it.

    Raises:
        RuntimeError: they ask the server all the same: psycopg has changed.
    """
    with pool.connection() as connection:
        _Answered.answer = psycopg.Cursor(connection).execute("SELECT 1").pgresult  # type: ignore[assignment]  # there is one after `execute`
        if connection.execute("SELECT 2").fetchone() != (1,):
            raise RuntimeError("psycopg does not call BaseCursor._maybe_prepare_gen any more")


def open_pool(stack: ExitStack, dsn: str, **connect: Any) -> ConnectionPool[Any]:
    """A pool of one connection, which is open until the stack is closed.

    Args:
        stack: closes it.
        dsn: a connection string.
        connect: further arguments of ``psycopg.connect``.
    """
    pool = ConnectionPool(dsn, min_size=1, max_size=1, name="bench", kwargs=connect, open=False)
    stack.enter_context(pool)
    pool.wait()
    return pool


def calls(stack: ExitStack, dsn: str) -> dict[str, Work]:
    """The calls that need no event loop, by name; their pools are open until the stack is closed."""
    answered = open_pool(stack, dsn, cursor_factory=AnsweredCursor)
    answer_at_once(answered)
    pool, autocommit = open_pool(stack, dsn), open_pool(stack, dsn, autocommit=True)
    return {
        "execute, answered at once": repeat_with(lambda: held(answered), application.execute),
        "sqlite3 execute": repeat_with(lambda: in_memory("BEGIN"), application.execute),
        "sqlite3 transaction": repeat_with(lambda: in_memory("SELECT 1"), application.update_and_commit),
        "execute": repeat_with(lambda: held(pool), application.execute),
        "execute in autocommit": repeat_with(lambda: held(autocommit), application.execute),
        "transaction": repeat_with(lambda: held(pool), application.execute_and_commit),
    }


async def async_calls(loop: asyncio.AbstractEventLoop, stack: AsyncExitStack, dsn: str) -> dict[str, Work]:
    """The same with asyncio. Call it after `calls`, and do the work while the loop is not running."""

    async def pool_of(**connect: Any) -> AsyncConnectionPool[Any]:
        pool = AsyncConnectionPool(dsn, min_size=1, max_size=1, name="bench", kwargs=connect, open=False)
        await stack.enter_async_context(pool)
        await pool.wait()
        return pool

    answered, pool = await pool_of(cursor_factory=AnsweredAsyncCursor), await pool_of()
    asyncpg_pool = await stack.enter_async_context(asyncpg.create_pool(dsn, min_size=1, max_size=1))
    repeat = functools.partial(repeat_with_async, loop)
    work = application.async_execute
    return {
        "async execute, answered at once": repeat(lambda: held_async(answered), work),
        "async execute": repeat(lambda: held_async(pool), work),
        "asyncpg execute": repeat(lambda: held_asyncpg(asyncpg_pool), work),
    }


def measure(configuration: str, dsn: str) -> dict[str, dict[str, float]]:
    """Time the driver calls in one configuration."""
    loop = asyncio.new_event_loop()
    async_stack = AsyncExitStack()
    with closing(loop), ExitStack() as stack:
        work = calls(stack, dsn)
        try:
            work |= loop.run_until_complete(async_calls(loop, async_stack, dsn))
            return compare(configuration, work, undisturbed=True)
        finally:
            loop.run_until_complete(async_stack.aclose())


if __name__ == "__main__":
    json.dump(measure(sys.argv[1], sys.argv[2]), sys.stdout)
