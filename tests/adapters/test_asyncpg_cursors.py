"""Cursors of asyncpg: holds until they are read to the end, or their transaction ends."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import asyncpg
import pytest
import sqlalchemy
from sqlalchemy.ext.asyncio import create_async_engine

from otel_connleak import open_holds
from tests.adapters.conftest import Instrument
from tests.adapters.shop.keeping import Cycle
from tests.adapters.test_asyncpg import Arguments, MakePool, arguments, make_pool
from tests.support.reports import GRACE, NEVER, Reports
from tests.support.transactions import closed_cursors, open_cursors

__all__ = ["arguments", "make_pool"]
ROWS = "SELECT generate_series(1, $1)"

type Use = Callable[[Any], Any]
"""A coroutine function that uses a connection in a transaction."""


async def reads_on(connection: Any) -> None:
    """Reads to the end, part by part."""
    cursor = await connection.cursor(ROWS, 5)
    assert open_cursors() == ["reads_on"]
    assert len(await cursor.fetch(2)) == 2
    assert await cursor.fetchrow() is not None
    assert open_cursors() == ["reads_on"]
    assert len(await cursor.fetch(10)) == 2
    assert open_cursors() == []


async def reads_rows(connection: Any) -> None:
    """Reads to the end, row by row."""
    cursor = await connection.cursor(ROWS, 2)
    while await cursor.fetchrow():
        assert open_cursors() == ["reads_rows"]
    assert open_cursors() == []


async def skips(connection: Any) -> None:
    """Goes forward past the end."""
    cursor = await connection.cursor(ROWS, 5)
    assert await cursor.forward(2) == 2
    assert open_cursors() == ["skips"]
    assert await cursor.forward(10) == 3
    assert open_cursors() == []


async def iterates(connection: Any) -> None:
    """Reads to the end in a loop."""
    seen = [len(open_cursors()) async for _ in connection.cursor(ROWS, 5, prefetch=2)]
    assert seen == [1, 1, 1, 1, 0]
    assert open_cursors() == []


async def iterates_prepared(connection: Any) -> None:
    """The same with a prepared statement."""
    statement = await connection.prepare(ROWS)
    async for _ in statement.cursor(5, prefetch=2):
        assert len(open_cursors()) <= 1
    assert open_cursors() == []


async def reads_at_once(connection: Any) -> None:
    """All rows come with the first call: nothing stays with the server."""
    async for _ in connection.cursor(ROWS, 5):
        assert open_cursors() == []


ENDS: list[tuple[Use, int]] = [
    (reads_on, 1),
    (reads_rows, 1),
    (skips, 1),
    (iterates, 1),
    (iterates_prepared, 1),
    (reads_at_once, 0),
]


@pytest.mark.parametrize("pooled", [True, False])
@pytest.mark.parametrize(("use", "cursors"), ENDS)
def test_way_to_end(
    use: Use,
    cursors: int,
    pooled: bool,
    make_pool: MakePool,
    arguments: Arguments,
    runner: asyncio.Runner,
    reports: Reports,
) -> None:
    """A cursor that was read to its end is none any more."""

    async def use_it() -> None:
        pool = await make_pool()
        connection = await (pool.acquire() if pooled else asyncpg.connect(**arguments))
        async with connection.transaction():
            await use(connection)
            await asyncio.to_thread(reports.none)
        await connection.close()

    runner.run(use_it())

    assert closed_cursors(reports) == [use.__name__] * cursors


@pytest.mark.parametrize("end", ["block", "text", "close"])
def test_ended_with_transaction(
    end: str, arguments: Arguments, runner: asyncio.Runner, reports: Reports
) -> None:
    """The end of its transaction or connection is the end of a cursor."""

    async def use_it() -> None:
        connection = await asyncpg.connect(**arguments)
        transaction = connection.transaction()
        await transaction.start()
        cursor = await connection.cursor(ROWS, 5)
        await cursor.fetchrow()
        if end == "block":
            await transaction.commit()
        elif end == "text":
            await connection.execute("ROLLBACK")
        await connection.close()
        assert open_holds() == []

    runner.run(use_it())
    reports.none()

    assert closed_cursors(reports) == ["use_it"]


def test_span(arguments: Arguments, runner: asyncio.Runner, reports: Reports) -> None:
    """A cursor's span is within that of its transaction."""

    async def use_it() -> None:
        connection = await asyncpg.connect(**arguments)
        async with connection.transaction():
            await reads_on(connection)
        await connection.close()

    runner.run(use_it())
    span, transaction, hold = (reports.telemetry.span(word) for word in ("cursor", "transaction", "hold"))
    attributes = dict(span.attributes or {})

    assert span.name == "cursor reads_on"
    assert (span.parent, transaction.parent) == (transaction.context, hold.context)
    assert attributes["connleak.resource"] == "cursor"


def test_looks_as_before(arguments: Arguments, runner: asyncio.Runner, reports: Reports) -> None:
    """Who looks at the arguments of a cursor sees them: OpenTelemetry's instrumentation does."""

    async def use_it() -> None:
        connection = await asyncpg.connect(**arguments)
        async with connection.transaction():
            cursor: Any = await connection.cursor(ROWS, 5)
            assert type(cursor).__module__ == "asyncpg.cursor"
            assert (len(cursor._args), str(cursor._args), repr(cursor._args)) == (1, "(5,)", "(5,)")
            assert tuple(cursor._args) == (5,)
        await connection.close()

    runner.run(use_it())


# --- leaks -------------------------------------------------------------------------------------------------


async def drops(connection: Any) -> None:
    """Reads one row."""
    cursor = await connection.cursor(ROWS, 5)
    await cursor.fetchrow()


async def breaks(connection: Any) -> None:
    """Leaves the loop where it has found what it wants."""
    async for _ in connection.cursor(ROWS, 5, prefetch=1):
        break


async def keeps(connection: Any) -> None:
    """Keeps the cursor where nobody can reach it."""
    Cycle(await connection.cursor(ROWS, 5))


LEAKS = [
    (drops, {"dropped", "function_exited"}),
    (breaks, {"dropped", "function_exited"}),
    (keeps, {"function_exited"}),
]


@pytest.mark.parametrize(("use", "evidence"), LEAKS)
def test_left_open(
    use: Use,
    evidence: set[str],
    arguments: Arguments,
    runner: asyncio.Runner,
    reports: Reports,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A cursor that nobody has any more is reported if it is still open after the grace."""

    async def use_it() -> None:
        connection = await asyncpg.connect(**arguments)
        async with connection.transaction():
            await use(connection)
            await asyncio.to_thread(reports.leak)
        await connection.close()

    runner.run(use_it())
    leak = reports.leak()

    assert (leak.function.rpartition(".")[2], leak.evidence) == (use.__name__, evidence)
    assert leak.attributes["connleak.resource"] == "cursor"
    assert "cursor leak" in caplog.text
    assert "hint: read it to its end" in caplog.text


# --- what is no leak ---------------------------------------------------------------------------------------


def test_transaction_ends_soon(arguments: Arguments, runner: asyncio.Runner, instrument: Instrument) -> None:
    """One whose transaction ends within the grace is none."""
    reports = instrument(grace=3 * GRACE)

    async def use_it() -> None:
        connection = await asyncpg.connect(**arguments)
        async with connection.transaction():
            await drops(connection)
            await breaks(connection)
        await asyncio.to_thread(reports.none, 4 * GRACE)
        await connection.close()

    runner.run(use_it())


def test_returned(arguments: Arguments, runner: asyncio.Runner, reports: Reports) -> None:
    """A cursor that is returned is the caller's."""

    async def opens(connection: Any) -> Any:
        return await connection.cursor(ROWS, 5)

    async def use_it() -> None:
        connection = await asyncpg.connect(**arguments)
        async with connection.transaction():
            cursor = await opens(connection)
            assert open_cursors() == ["use_it"]
            await asyncio.to_thread(reports.none)
            await cursor.fetchrow()
        await connection.close()

    runner.run(use_it())
    reports.none()


def test_generator(arguments: Arguments, runner: asyncio.Runner, reports: Reports) -> None:
    """A generator that waits for its reader has the cursor, where no variable refers to it."""

    async def rows(connection: Any) -> AsyncIterator[Any]:
        async for row in connection.cursor(ROWS, 5, prefetch=1):
            yield row

    async def use_it() -> None:
        connection = await asyncpg.connect(**arguments)
        async with connection.transaction(), contextlib.aclosing(rows(connection)) as reader:  # type: ignore[type-var]  # it is a generator
            async for _ in reader:
                await asyncio.to_thread(reports.none)
                break
        await connection.close()

    runner.run(use_it())


def test_slow_loop(arguments: Arguments, runner: asyncio.Runner, reports: Reports) -> None:
    """Nor is one over which a loop goes on, however slowly."""

    async def use_it() -> None:
        connection = await asyncpg.connect(**arguments)
        async with connection.transaction():
            async for _ in connection.cursor(ROWS, 3, prefetch=1):
                await asyncio.to_thread(reports.none)
        await connection.close()

    runner.run(use_it())


def test_of_sqlalchemy(
    dsn: str, arguments: Arguments, runner: asyncio.Runner, instrument: Instrument
) -> None:
    """SQLAlchemy's own cursors are not held on top of what its adapter holds."""
    reports = instrument(grace=NEVER)

    async def use_it() -> None:
        engine = create_async_engine(
            "postgresql+asyncpg://", async_creator=lambda: asyncpg.connect(**arguments)
        )
        async with engine.connect() as connection:
            result = await connection.stream(sqlalchemy.text("SELECT generate_series(1, 500)"))
            await result.fetchone()
            assert len(open_cursors()) <= 1
            await result.close()
        await engine.dispose()

    runner.run(use_it())

    assert open_holds() == []
    reports.none()
