"""The transactions of the soak: functions that commit, roll back, only read, or forget to commit.

Each takes a pool, and puts its own name into a table: at the end the server says what was committed.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, NamedTuple

import psycopg

from bench.soak_application import AsyncPool, Pool, Refused

TABLE = "CREATE TABLE soak_rows (function text)"
ADD = "INSERT INTO soak_rows VALUES ('{}')"
READ = "SELECT name FROM customers"


class Does(NamedTuple):
    """What one call of a function does.

    Attributes:
        weight: how often it is called, in proportion.
        rows: that it commits.
        transactions: that it begins.
        lost: writes of a transaction that is discarded; 0 if none is.
        begun_by: the function that begins the transactions, if it is another.
    """

    weight: int
    rows: int = 0
    transactions: int = 1
    lost: int = 0
    begun_by: str = ""


# --- in threads, psycopg -----------------------------------------------------------------------------------


def commits(pool: Pool) -> None:
    """The usual form."""
    with pool.connection() as connection:
        connection.execute(ADD.format("commits"))


def commits_twice(pool: Pool) -> None:
    """Two transactions, one after the other."""
    connection = pool.getconn()
    for _ in range(2):
        connection.execute(ADD.format("commits_twice"))
        connection.commit()
    pool.putconn(connection)


def rolls_back(pool: Pool) -> None:
    """On purpose."""
    connection = pool.getconn()
    connection.execute(ADD.format("rolls_back"))
    connection.rollback()
    pool.putconn(connection)


def only_reads(pool: Pool) -> None:
    """The pool ends the transaction, and nothing is lost."""
    connection = pool.getconn()
    connection.execute(READ).fetchall()
    pool.putconn(connection)


def fails_after_a_write(pool: Pool) -> None:
    """The exception is why the write is rolled back."""
    connection = pool.getconn()
    try:
        connection.execute(ADD.format("fails_after_a_write"))
        raise Refused
    finally:
        pool.putconn(connection)


def nests_savepoints(pool: Pool) -> None:
    """Two rows of three are committed."""
    with pool.connection() as connection, connection.transaction():
        connection.execute(ADD.format("nests_savepoints"))
        with connection.transaction():
            connection.execute(ADD.format("nests_savepoints"))
            with connection.transaction() as innermost:
                connection.execute(ADD.format("nests_savepoints"))
                raise psycopg.Rollback(innermost)


def rolls_back_to_a_savepoint(pool: Pool) -> None:
    """Nothing is left that could be lost."""
    connection = pool.getconn()
    connection.execute("SAVEPOINT before")
    connection.execute(ADD.format("rolls_back_to_a_savepoint"))
    connection.execute("ROLLBACK TO before")
    pool.putconn(connection)


def reads_a_server_cursor(pool: Pool) -> None:
    """Half-way: it ends with the block."""
    with pool.connection() as connection, connection.cursor("customers") as cursor:
        cursor.execute(READ)
        cursor.fetchone()


def forgets_to_commit(pool: Pool) -> None:
    """Gives the connection back, and its write is lost."""
    connection = pool.getconn()
    connection.execute(ADD.format("forgets_to_commit"))
    pool.putconn(connection)


def believes_in_a_block(pool: Pool) -> None:
    """What looks like a transaction is a savepoint, because a query has begun one before."""
    connection = pool.getconn()
    connection.execute(READ).fetchall()
    with connection.transaction():
        connection.execute(ADD.format("believes_in_a_block"))
        connection.execute(ADD.format("believes_in_a_block"))
    pool.putconn(connection)


def _add(connection: Any) -> None:
    connection.execute(ADD.format("trusts_a_helper"))


def trusts_a_helper(pool: Pool) -> None:
    """Neither of the two commits; the transaction is the helper's, which began it."""
    connection = pool.getconn()
    _add(connection)
    pool.putconn(connection)


SYNC: dict[Callable[[Pool], object], Does] = {
    commits: Does(8, rows=1),
    commits_twice: Does(4, rows=2, transactions=2),
    rolls_back: Does(8),
    only_reads: Does(8),
    fails_after_a_write: Does(8),
    nests_savepoints: Does(4, rows=2),
    rolls_back_to_a_savepoint: Does(4),
    reads_a_server_cursor: Does(2),
    forgets_to_commit: Does(1, lost=1),
    believes_in_a_block: Does(1, lost=2),
    trusts_a_helper: Does(1, lost=1, begun_by="_add"),
}

# --- in tasks, psycopg -------------------------------------------------------------------------------------


async def async_commits(pool: AsyncPool) -> None:
    """The usual form."""
    async with pool.connection() as connection:
        await connection.execute(ADD.format("async_commits"))


async def async_rolls_back(pool: AsyncPool) -> None:
    """On purpose."""
    connection = await pool.getconn()
    await connection.execute(ADD.format("async_rolls_back"))
    await connection.rollback()
    await pool.putconn(connection)


async def async_only_reads(pool: AsyncPool) -> None:
    """The pool ends the transaction, and nothing is lost."""
    connection = await pool.getconn()
    await connection.execute(READ)
    await pool.putconn(connection)


async def async_is_cancelled_after_a_write(pool: AsyncPool) -> None:
    """A timeout is why the write is rolled back."""
    try:
        async with pool.connection() as connection:
            await connection.execute(ADD.format("async_is_cancelled_after_a_write"))
            async with asyncio.timeout(0.001):
                await asyncio.sleep(1.0)
    except TimeoutError:
        pass


async def async_forgets_to_commit(pool: AsyncPool) -> None:
    """Gives the connection back, and its write is lost."""
    connection = await pool.getconn()
    await connection.execute(ADD.format("async_forgets_to_commit"))
    await pool.putconn(connection)


ASYNC: dict[Callable[[AsyncPool], Awaitable[object]], Does] = {
    async_commits: Does(8, rows=1),
    async_rolls_back: Does(6),
    async_only_reads: Does(6),
    async_is_cancelled_after_a_write: Does(1),
    async_forgets_to_commit: Does(1, lost=1),
}

# --- in tasks, asyncpg -------------------------------------------------------------------------------------


async def asyncpg_commits(pool: Any) -> None:
    """The usual form."""
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute(ADD.format("asyncpg_commits"))


async def asyncpg_fails_after_a_write(pool: Any) -> None:
    """The exception is why the write is rolled back."""
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute(ADD.format("asyncpg_fails_after_a_write"))
        raise Refused


async def asyncpg_nests_savepoints(pool: Any) -> None:
    """One row of two is committed."""
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute(ADD.format("asyncpg_nests_savepoints"))
        inner = connection.transaction()
        await inner.start()
        await connection.execute(ADD.format("asyncpg_nests_savepoints"))
        await inner.rollback()


async def asyncpg_forgets_to_commit(pool: Any) -> None:
    """Gives the connection back, and its write is lost."""
    async with pool.acquire() as connection:
        await connection.transaction().start()
        await connection.execute(ADD.format("asyncpg_forgets_to_commit"))


ASYNCPG: dict[Callable[[Any], Awaitable[object]], Does] = {
    asyncpg_commits: Does(8, rows=1),
    asyncpg_fails_after_a_write: Does(4),
    asyncpg_nests_savepoints: Does(4, rows=1),
    asyncpg_forgets_to_commit: Does(1, lost=1),
}

# --- what must have come of it -----------------------------------------------------------------------------

_DOES = {
    function.__name__: does for functions in (SYNC, ASYNC, ASYNCPG) for function, does in functions.items()
}
LOSE = frozenset(does.begun_by or name for name, does in _DOES.items() if does.lost)
"""The functions whose transactions are discarded."""


class Expected:
    """What must have come of so many calls of each function, by function.

    Attributes:
        rows: committed.
        transactions: begun.
        discarded: of which discarded.
        lost: writes in these.
    """

    def __init__(self, calls: Iterable[Counter[str]]) -> None:
        self.rows: Counter[str] = Counter()
        self.transactions: Counter[str] = Counter()
        self.discarded: Counter[str] = Counter()
        self.lost: Counter[str] = Counter()
        for counted in calls:
            for name, does in _DOES.items():
                blamed = does.begun_by or name
                self.rows[name] += counted[name] * does.rows
                self.transactions[blamed] += counted[name] * does.transactions
                self.discarded[blamed] += counted[name] * bool(does.lost)
                self.lost[blamed] += counted[name] * does.lost


def committed(dsn: str) -> Counter[str]:
    """How many rows each function has committed, as the server says."""
    with psycopg.connect(dsn) as connection:
        rows = connection.execute("SELECT function, count(*) FROM soak_rows GROUP BY function").fetchall()
    return Counter({str(function): int(count) for function, count in rows})


def prepare(dsn: str) -> None:
    """Make the table."""
    with psycopg.connect(dsn) as connection:
        connection.execute(TABLE)
