"""Transactions of asyncpg, which opens none by itself."""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

import asyncpg
import pytest

from otel_connleak import open_holds
from tests.adapters.conftest import Instrument
from tests.adapters.test_asyncpg import Arguments, MakePool, arguments, end_session, make_pool
from tests.support.reports import Reports
from tests.support.transactions import ADD, added, ended

__all__ = ["arguments", "make_pool"]
SOON = 0.3
"""A threshold that is soon over, in seconds."""
WRONG = "SELECT nothing FROM nowhere"


shelf: list[Any] = []
"""Module state of the application."""


class OutOfStock(Exception):
    """An error of the application."""


# --- ways to end one ---------------------------------------------------------------------------------------


async def block(connection: Any) -> None:
    """The block commits."""
    async with connection.transaction():
        await connection.execute(ADD)


async def blocks(connection: Any) -> None:
    """A block in a block is a savepoint."""
    async with connection.transaction():
        await connection.execute(ADD)
        async with connection.transaction():
            await connection.execute(ADD)


async def block_in_error(connection: Any) -> None:
    """An error leaves a block in a block: only that is rolled back, and the outer one is not aborted."""
    async with connection.transaction():
        await connection.execute(ADD)
        with contextlib.suppress(asyncpg.PostgresError):
            async with connection.transaction():
                await connection.execute(WRONG)


async def block_left_by_error(connection: Any) -> None:
    """The block rolls back because of an error."""
    with contextlib.suppress(OutOfStock):
        async with connection.transaction():
            await connection.execute(ADD)
            raise OutOfStock


async def block_that_reads(connection: Any) -> None:
    """A block that cannot write."""
    async with connection.transaction(readonly=True, isolation="repeatable_read"):
        await connection.fetch("SELECT 1")


async def block_with_swallowed_error(connection: Any) -> None:
    """The server answers the commit of an aborted transaction by rolling back."""
    async with connection.transaction():
        await connection.execute(ADD)
        with contextlib.suppress(asyncpg.PostgresError):
            await connection.execute(WRONG)


async def by_hand(connection: Any) -> None:
    """Starts and commits."""
    transaction = connection.transaction()
    await transaction.start()
    await connection.fetchval(f"{ADD} RETURNING id")
    await transaction.commit()


async def rolls_back(connection: Any) -> None:
    """Starts, and thinks better of it."""
    transaction = connection.transaction()
    await transaction.start()
    await connection.execute(ADD)
    await transaction.rollback()


async def by_text(connection: Any) -> None:
    """The application's own BEGIN and COMMIT."""
    await connection.execute("BEGIN")
    await connection.execute(ADD)
    await connection.execute("COMMIT")


async def by_one_text(connection: Any) -> None:
    """Several statements in one string begin one, and end it."""
    await connection.execute(f"BEGIN; {ADD}; COMMIT")


async def by_two_texts(connection: Any) -> None:
    """Several statements in two strings."""
    await connection.execute(f"BEGIN; {ADD}")
    await connection.execute(f"{ADD}; COMMIT")


async def without(connection: Any) -> None:
    """Each call is its own transaction, of which nobody need know."""
    await connection.execute(ADD)
    await connection.executemany("INSERT INTO customers VALUES ($1, 'new')", [(5,), (6,)])


async def prepared(connection: Any) -> None:
    """To prepare a statement writes nothing; to run it does."""
    async with connection.transaction():
        statement = await connection.prepare("INSERT INTO customers VALUES ($1, 'new') RETURNING id")
        await statement.fetch(4)
        await statement.fetchval(5)


async def many(connection: Any) -> None:
    """Writes several rows with one call."""
    async with connection.transaction():
        await connection.executemany("INSERT INTO customers VALUES ($1, 'new')", [(4,), (5,)])


async def copies(connection: Any) -> None:
    """COPY is a write."""
    async with connection.transaction():
        await connection.copy_records_to_table("customers", records=[(4, "new")])


async def resets(connection: Any) -> None:
    """The application rolls back, in its own way."""
    await connection.execute("BEGIN")
    await connection.execute(ADD)
    await connection.execute("ROLLBACK")


async def in_error(connection: Any) -> None:
    """The server has aborted it, and there is nothing left to commit."""
    await connection.execute("BEGIN")
    await connection.execute(ADD)
    with contextlib.suppress(asyncpg.PostgresError):
        await connection.execute(WRONG)


async def out_of_time(connection: Any) -> None:
    """A call takes too long, and the server aborts the transaction."""
    await connection.execute("BEGIN")
    await connection.execute(ADD)
    with contextlib.suppress(TimeoutError):
        await connection.execute("SELECT pg_sleep(10)", timeout=0.05)


async def cancelled(connection: Any) -> None:
    """A call is cancelled, and the server aborts the transaction."""
    await connection.execute("BEGIN")
    await connection.execute(ADD)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0.05):
            await connection.execute("SELECT pg_sleep(10)")


async def reads(connection: Any) -> None:
    """Reads, and leaves the rest to the pool."""
    await connection.execute("BEGIN")
    await connection.fetch("SELECT * FROM customers FOR UPDATE")


WAYS: list[tuple[Callable[[Any], Any], list[tuple[str, int, int]], int]] = [
    (block, [("committed", 3, 1)], 1),
    (blocks, [("committed", 6, 2)], 2),
    (block_in_error, [("committed", 6, 1)], 1),
    (block_left_by_error, [("rolled_back", 3, 1)], 0),
    (block_that_reads, [("committed", 3, 0)], 0),
    (block_with_swallowed_error, [("rolled_back", 4, 1)], 0),
    (by_hand, [("committed", 3, 1)], 1),
    (rolls_back, [("rolled_back", 3, 1)], 0),
    (by_text, [("committed", 3, 1)], 1),
    (by_one_text, [], 1),
    (by_two_texts, [("committed", 2, 1)], 2),
    (without, [], 3),
    (prepared, [("committed", 5, 2)], 2),
    (many, [("committed", 3, 1)], 2),
    (copies, [("committed", 3, 1)], 1),
    (resets, [("rolled_back", 3, 1)], 0),
    (in_error, [("rolled_back", 3, 1)], 0),
    (out_of_time, [("rolled_back", 3, 1)], 0),
    (cancelled, [("rolled_back", 3, 1)], 0),
    (reads, [("rolled_back", 2, 0)], 0),
]


@pytest.mark.parametrize("pooled", [True, False])
@pytest.mark.parametrize(("way", "expected", "rows"), WAYS, ids=[way.__name__ for way, _, _ in WAYS])
def test_way(
    way: Callable[[Any], Any],
    expected: list[tuple[str, int, int]],
    rows: int,
    pooled: bool,
    make_pool: MakePool,
    arguments: Arguments,
    dsn: str,
    runner: asyncio.Runner,
    reports: Reports,
) -> None:
    """Each way to end a transaction: outcome, statements, writes; and none of them is a leak."""

    async def use_it() -> None:
        if pooled:
            async with (await make_pool()).acquire() as connection:
                await way(connection)
        else:
            connection = await asyncpg.connect(**arguments)
            await way(connection)
            await connection.close()

    runner.run(use_it())
    reports.none()

    assert [each[1:] for each in ended(reports)] == expected
    assert {each[0] for each in ended(reports)} <= {way.__name__}
    assert added(dsn) == rows
    assert open_holds() == []


# --- writes that are discarded -----------------------------------------------------------------------------


class Orders:
    """A repository over a pool."""

    def __init__(self, pool: Any) -> None:
        self.pool = pool

    async def adds(self) -> None:
        """Begins, and forgets to commit."""
        async with self.pool.acquire() as connection:
            await connection.execute("BEGIN")
            await connection.execute(ADD)

    async def adds_in_one(self) -> None:
        """The same in one string."""
        async with self.pool.acquire() as connection:
            await connection.execute(f"BEGIN; {ADD}")

    async def starts(self) -> None:
        """Starts a block, and forgets it; a helper writes."""
        async with self.pool.acquire() as connection:
            await connection.transaction().start()
            await helper(connection)

    async def copies(self) -> None:
        """COPY is a write."""
        async with self.pool.acquire() as connection:
            await connection.execute("BEGIN")
            await connection.copy_records_to_table("customers", records=[(4, "new")])

    async def recovers(self) -> None:
        """An error in a savepoint aborts nothing but that: what was written before could be committed."""
        async with self.pool.acquire() as connection:
            await connection.transaction().start()
            await connection.execute(ADD)
            with contextlib.suppress(asyncpg.PostgresError):
                async with connection.transaction():
                    await connection.execute(WRONG)

    async def adds_because_of_error(self) -> None:
        """The error was there before the transaction began, and is no reason for its end."""
        try:
            raise OutOfStock
        except OutOfStock:
            await self.adds()

    async def fails(self) -> None:
        """An error leaves the block of the connection: it is the reason."""
        async with self.pool.acquire() as connection:
            await connection.execute("BEGIN")
            await connection.execute(ADD)
            raise OutOfStock

    async def fails_and_shields(self) -> None:
        """The same, and a task of its own releases."""
        connection = await self.pool.acquire()
        try:
            await connection.execute("BEGIN")
            await connection.execute(ADD)
            raise OutOfStock
        finally:
            await asyncio.shield(self.pool.release(connection))

    async def terminates(self) -> None:
        """Breaks the connection off, on purpose."""
        async with self.pool.acquire() as connection:
            await connection.execute("BEGIN")
            await connection.execute(ADD)
            connection.terminate()


async def helper(connection: Any) -> None:
    """Writes for somebody."""
    await connection.execute(ADD)


@pytest.mark.parametrize(
    "method", ["adds", "adds_in_one", "starts", "copies", "recovers", "adds_because_of_error"]
)
def test_discarded(
    method: str,
    make_pool: MakePool,
    dsn: str,
    runner: asyncio.Runner,
    reports: Reports,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Writes that the pool rolls back are reported, of the function that began the transaction."""

    async def use_it() -> None:
        await getattr(Orders(await make_pool()), method)()

    runner.run(use_it())
    leak = reports.leak()
    function = "adds" if method == "adds_because_of_error" else method

    assert (leak.function.rpartition(".")[2], leak.evidence) == (function, {"discarded"})
    assert leak.certainty == "confirmed"
    assert [(each[0], each[1], each[3]) for each in ended(reports)] == [(function, "discarded", 1)]
    assert "hint: use `async with connection.transaction():`" in caplog.text
    assert added(dsn) == 0
    assert open_holds() == []


@pytest.mark.parametrize("method", ["fails", "fails_and_shields", "terminates"])
def test_no_leak(
    method: str, make_pool: MakePool, dsn: str, runner: asyncio.Runner, reports: Reports
) -> None:
    """What ends because of an error, or on purpose, is no leak."""

    async def use_it() -> None:
        with contextlib.suppress(OutOfStock):
            await getattr(Orders(await make_pool()), method)()

    runner.run(use_it())
    reports.none()

    assert [each[:2] for each in ended(reports)] == [(method, "rolled_back")]
    assert added(dsn) == 0
    assert open_holds() == []


def test_closed_directly(arguments: Arguments, dsn: str, runner: asyncio.Runner, reports: Reports) -> None:
    """The end of a direct connection is the end of its transaction."""

    async def use_it() -> None:
        connection = await asyncpg.connect(**arguments)
        await connection.execute(f"BEGIN; {ADD}")
        await connection.close()

    runner.run(use_it())

    assert reports.leak().evidence == {"discarded"}
    assert added(dsn) == 0


def test_broken(
    arguments: Arguments, make_pool: MakePool, dsn: str, runner: asyncio.Runner, reports: Reports
) -> None:
    """What the server has ended nobody could have committed."""

    async def use_it() -> None:
        async with (await make_pool()).acquire() as connection:
            await connection.execute(f"BEGIN; {ADD}")
            await end_session(arguments, connection)

    runner.run(use_it())
    reports.none()

    assert [each[1] for each in ended(reports)] == ["rolled_back"]
    assert open_holds() == []


# --- left open ---------------------------------------------------------------------------------------------


def test_overdue(make_pool: MakePool, runner: asyncio.Runner, instrument: Instrument) -> None:
    """Rows that stay locked while the function waits for something else are reported, once."""
    reports = instrument(overdue_after=SOON)

    async def use_it() -> None:
        async with (await make_pool()).acquire() as connection, connection.transaction():
            await connection.fetch("SELECT * FROM customers FOR UPDATE")
            await asyncio.to_thread(reports.leak)

    runner.run(use_it())

    assert reports.leak().evidence == {"overdue"}
    assert reports.recovery().id == reports.leak().id


def test_kept_by_task(arguments: Arguments, runner: asyncio.Runner, reports: Reports) -> None:
    """On a connection that lives long, a transaction is a leak whose task has ended."""

    async def works() -> None:
        await shelf[0].execute("BEGIN")
        await shelf[0].execute(ADD)

    async def use_it() -> None:
        shelf.append(await asyncpg.connect(**arguments))
        await asyncio.create_task(works())
        await asyncio.to_thread(reports.leak)
        connection = shelf.pop()
        await connection.execute("ROLLBACK")
        await connection.close()

    runner.run(use_it())
    leak = reports.leak()

    assert leak.function.rpartition(".")[2] == "works"
    assert leak.attributes["connleak.resource"] == "transaction"
    assert "task_ended" in leak.evidence
    assert reports.recovery().id == leak.id
