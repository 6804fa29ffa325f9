"""The application of the soak: functions that are correct in many ways, and a few that leak.

Each takes a pool, and does its work in a few driver calls at most. What leaks is told by its name.
"""

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from typing import Any

import psycopg
from psycopg_pool import AsyncConnectionPool, ConnectionPool

from bench import soak_kept

type Pool = ConnectionPool[Any]
type AsyncPool = AsyncConnectionPool[Any]

OVERDUE_AFTER = 3.0


class Refused(Exception):
    """Something that goes wrong in an application."""


# --- correct -----------------------------------------------------------------------------------------------


def takes_and_returns(pool: Pool) -> None:
    """The plain form."""
    connection = pool.getconn()
    try:
        connection.execute("SELECT 1")
        connection.rollback()
    finally:
        pool.putconn(connection)


def uses_with(pool: Pool) -> None:
    """The usual form."""
    with pool.connection():
        pass


def queries_in_with(pool: Pool) -> None:
    """With a transaction and a cursor."""
    with pool.connection() as connection, connection.cursor() as cursor:
        cursor.execute("SELECT name FROM customers")
        cursor.fetchall()


def _take(pool: Pool) -> Any:
    return pool.getconn()


def gets_it_from_a_helper(pool: Pool) -> None:
    """A helper acquires for its caller."""
    connection = _take(pool)
    pool.putconn(connection)


def fails_inside_with(pool: Pool) -> None:
    """An exception on the way out is no leak."""
    with pool.connection():
        raise Refused


def _rows(pool: Pool) -> Iterator[int]:
    connection = pool.getconn()
    try:
        yield from (1, 2, 3)
    finally:
        pool.putconn(connection)


def reads_a_generator(pool: Pool) -> None:
    """To its end."""
    for _ in _rows(pool):
        pass


def leaves_a_generator(pool: Pool) -> None:
    """Half-way, and it cleans up."""
    for _ in _rows(pool):
        break


@contextmanager
def _session(pool: Pool) -> Iterator[Any]:
    with ExitStack() as stack:
        yield stack.enter_context(pool.connection())


def uses_a_session(pool: Pool) -> None:
    """Through a context manager of its own."""
    with _session(pool):
        pass


class _Unit:
    """A unit of work that keeps its connection on itself."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._connection = pool.getconn()

    def finish(self) -> None:
        """The end of it."""
        self._pool.putconn(self._connection)


def uses_a_unit_of_work(pool: Pool) -> None:
    """That is begun here and ended here."""
    unit = _Unit(pool)
    unit.finish()


def connects_directly(pool: Pool) -> None:
    """Without a pool."""
    with psycopg.connect(str(pool.conninfo)) as connection:
        connection.execute("SELECT 1")


CORRECT: dict[Callable[[Pool], object], int] = {
    takes_and_returns: 20,
    uses_with: 20,
    queries_in_with: 10,
    gets_it_from_a_helper: 20,
    fails_inside_with: 10,
    reads_a_generator: 20,
    leaves_a_generator: 20,
    uses_a_session: 20,
    uses_a_unit_of_work: 20,
    connects_directly: 1,
}
"""How often each of them is called, in proportion."""


async def async_takes_and_returns(pool: AsyncPool) -> None:
    """The plain form."""
    connection = await pool.getconn()
    try:
        await connection.execute("SELECT 1")
        await connection.rollback()
    finally:
        await pool.putconn(connection)


async def async_uses_with(pool: AsyncPool) -> None:
    """The usual form."""
    async with pool.connection():
        pass


async def async_fails_inside_with(pool: AsyncPool) -> None:
    """An exception on the way out is no leak."""
    async with pool.connection():
        raise Refused


@asynccontextmanager
async def _async_session(pool: AsyncPool) -> AsyncIterator[Any]:
    async with pool.connection() as connection:
        yield connection


async def async_uses_a_session(pool: AsyncPool) -> None:
    """Through a context manager of its own."""
    async with _async_session(pool):
        await asyncio.sleep(0)


async def async_is_cancelled(pool: AsyncPool) -> None:
    """A timeout while it holds is no leak."""
    try:
        async with asyncio.timeout(0.001), pool.connection():
            await asyncio.sleep(1.0)
    except TimeoutError:
        pass


async def async_in_a_task(pool: AsyncPool) -> None:
    """In a task of its own."""
    await asyncio.gather(async_uses_with(pool), async_uses_a_session(pool))


ASYNC_CORRECT: dict[Callable[[AsyncPool], Awaitable[object]], int] = {
    async_takes_and_returns: 10,
    async_uses_with: 20,
    async_fails_inside_with: 10,
    async_uses_a_session: 20,
    async_is_cancelled: 2,
    async_in_a_task: 5,
}
"""How often each of them is called, in proportion."""

# --- leaks whose connection can be given back later --------------------------------------------------------


def forgets(pool: Pool) -> None:
    """Returns without releasing."""
    soak_kept.lose("forgets", pool.getconn())


def fails_in_between(pool: Pool) -> None:
    """Raises between acquire and release."""
    connection = pool.getconn()
    soak_kept.lose("fails_in_between", connection)
    raise Refused


def forgets_what_a_helper_took(pool: Pool) -> None:
    """A helper acquires for its caller, who is to blame."""
    connection = _take(pool)
    soak_kept.lose("forgets_what_a_helper_took", connection)


def _forgets_in_a_thread(pool: Pool) -> None:
    soak_kept.lose("_forgets_in_a_thread", pool.getconn())


def starts_a_thread(pool: Pool) -> None:
    """The function of the thread leaks, and the thread ends."""
    thread = threading.Thread(target=_forgets_in_a_thread, args=(pool,))
    thread.start()
    thread.join()


async def async_forgets(pool: AsyncPool) -> None:
    """Returns without releasing."""
    soak_kept.lose("async_forgets", await pool.getconn())


async def async_sleeps_on_it(pool: AsyncPool) -> None:
    """Holds until it is reported for that, and releases: a report may be late where all is busy."""
    async with pool.connection() as connection:
        await soak_kept.reported(connection.info.backend_pid)


# --- leaks that nobody can give back -----------------------------------------------------------------------


def drops(pool: Pool) -> None:
    """Lets a connection of a pool be collected."""
    pool.getconn()


def _careless_rows(pool: Pool) -> Iterator[int]:
    connection = pool.getconn()
    yield 1
    pool.putconn(connection)


def abandons_a_generator(pool: Pool) -> None:
    """The generator does not clean up, and is to blame."""
    next(_careless_rows(pool))


def drops_a_direct_one(pool: Pool) -> None:
    """Lets a connection of no pool be collected."""
    psycopg.connect(str(pool.conninfo))


LEAKS: dict[Callable[[Pool], object], str] = {
    forgets: "forgets",
    fails_in_between: "fails_in_between",
    forgets_what_a_helper_took: "forgets_what_a_helper_took",
    starts_a_thread: "_forgets_in_a_thread",
    drops_a_direct_one: "drops_a_direct_one",
    drops: "drops",
    abandons_a_generator: "_careless_rows",
}
"""Which function is to blame."""
THROW_AWAY = (drops, abandons_a_generator)
"""They take from a pool that is thrown away when it is dry."""
ASYNC_LEAKS: dict[Callable[[AsyncPool], Awaitable[object]], str] = {
    async_forgets: "async_forgets",
    async_sleeps_on_it: "async_sleeps_on_it",
}
RECOVER = frozenset(
    "forgets fails_in_between forgets_what_a_helper_took _forgets_in_a_thread async_forgets "
    "async_sleeps_on_it".split()
)
"""Functions each of whose leaks is released after its report."""
