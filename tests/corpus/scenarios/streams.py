"""Results of SQLAlchemy that are streamed from the server."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

from sqlalchemy import Connection, Result, select
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.orm import Session

from tests.corpus.scenarios.orm_database import Customer, async_engine_of, engine_of
from tests.corpus.stage import Stage

NAMES = select(Customer.name).order_by(Customer.id)
STREAMED = NAMES.execution_options(yield_per=1)


def first_name(connection: Connection) -> Any:
    """Reads one row of a stream, and leaves it open."""
    return connection.execute(STREAMED).fetchone()


def first_name_and_close(connection: Connection) -> Any:
    """``first`` closes."""
    return connection.execute(STREAMED).first()


def first_name_with(connection: Connection) -> Any:
    """``with`` closes."""
    with connection.execution_options(stream_results=True).execute(NAMES) as result:
        return result.fetchone()


def first_name_of_all(connection: Connection) -> Any:
    """Reads one row of a result that has all of them already."""
    return connection.execute(NAMES).fetchone()


def all_names(connection: Connection) -> list[str]:
    """Reads a stream to its end."""
    return [name for (name,) in connection.execute(STREAMED)]


def all_names_in_parts(connection: Connection) -> int:
    """Reads a stream to its end, in parts."""
    return sum(len(part) for part in connection.execute(STREAMED).partitions(2))


def open_names(connection: Connection) -> Result[Any]:
    """A stream for the caller."""
    return connection.execute(STREAMED)


def find_customer(session: Session, name: str) -> Customer | None:
    """Leaves the loop where it has found the name, and the stream open."""
    for customer in session.scalars(select(Customer).execution_options(yield_per=1)):
        if customer.name == name:
            return customer
    return None


def stream_names(connection: Connection) -> Iterator[str]:
    """The names, for a slow reader."""
    with connection.execute(STREAMED) as result:
        for (name,) in result:
            yield name


async def first_name_async(connection: AsyncConnection) -> Any:
    """Reads one row of a stream, and leaves it open."""
    result = await connection.stream(NAMES)
    return await result.fetchone()


async def first_name_with_async(connection: AsyncConnection) -> Any:
    """``async with`` closes."""
    async with connection.stream(NAMES) as result:
        return await result.fetchone()


async def all_names_async(connection: AsyncConnection) -> AsyncIterator[str]:
    """Reads a stream to its end."""
    result = await connection.stream(NAMES)
    async for (name,) in result:
        yield name


def left_open(stage: Stage) -> None:
    """A function leaves a stream open, and the connection is in use for several graces more."""
    with engine_of(stage).connect() as connection:
        stage.fact()
        first_name(connection)
        stage.wait()


def loop_is_left(stage: Stage) -> None:
    """A function leaves the loop over a stream, and the session is in use for several graces more."""
    with Session(engine_of(stage)) as session:
        stage.fact()
        find_customer(session, "customer 1")
        stage.wait()


def loop_comes_to_its_end(stage: Stage) -> None:
    """The loop has read all rows."""
    with Session(engine_of(stage)) as session:
        assert find_customer(session, "customer 4") is None
        stage.wait()


def closed_by_first(stage: Stage) -> None:
    """``first`` reads one row and closes."""
    with engine_of(stage).connect() as connection:
        first_name_and_close(connection)
        stage.wait()


def closed_by_with(stage: Stage) -> None:
    """``with`` closes the stream."""
    with engine_of(stage).connect() as connection:
        first_name_with(connection)
        stage.wait()


def read_to_the_end(stage: Stage) -> None:
    """All rows have been read."""
    with engine_of(stage).connect() as connection:
        assert len(all_names(connection)) == 3
        stage.wait()


def read_to_the_end_in_parts(stage: Stage) -> None:
    """All parts have been read."""
    with engine_of(stage).connect() as connection:
        assert all_names_in_parts(connection) == 3
        stage.wait()


def returned_to_the_caller(stage: Stage) -> None:
    """A function returns the stream; its caller reads on after several graces, and closes it."""
    with engine_of(stage).connect() as connection:
        result = open_names(connection)
        stage.wait()
        result.fetchone()
        result.close()


def read_slowly(stage: Stage) -> None:
    """A generator reads from the stream, for a reader who takes several graces."""
    with engine_of(stage).connect() as connection:
        for _name in stream_names(connection):
            stage.wait(1.5)


def closed_by_its_transaction(stage: Stage) -> None:
    """The transaction ends soon after, and the stream with it."""
    with engine_of(stage).connect() as connection:
        first_name(connection)
        connection.rollback()
        stage.wait()


def not_a_stream(stage: Stage) -> None:
    """The result has all of its rows: nothing is lost if nobody closes it."""
    with engine_of(stage).connect() as connection:
        first_name_of_all(connection)
        stage.wait()


async def async_left_open(stage: Stage) -> None:
    """A function leaves a stream open over asyncpg."""
    engine = async_engine_of(stage, "asyncpg")
    async with engine.connect() as connection:
        stage.fact()
        await first_name_async(connection)
        await stage.sleep()
    await engine.dispose()


async def async_left_open_over_psycopg(stage: Stage) -> None:
    """A function leaves a stream open over psycopg."""
    engine = async_engine_of(stage, "psycopg_async")
    async with engine.connect() as connection:
        stage.fact()
        await first_name_async(connection)
        await stage.sleep()
    await engine.dispose()


async def async_closed_by_with(stage: Stage) -> None:
    """``async with`` closes the stream."""
    engine = async_engine_of(stage, "asyncpg")
    async with engine.connect() as connection:
        await first_name_with_async(connection)
        await stage.sleep()
    await engine.dispose()


async def async_read_to_the_end(stage: Stage) -> None:
    """All rows have been read."""
    engine = async_engine_of(stage, "psycopg_async")
    async with engine.connect() as connection:
        assert len([name async for name in all_names_async(connection)]) == 3
        await stage.sleep()
    await engine.dispose()
