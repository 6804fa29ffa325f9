"""Functions of an application that read results of SQLAlchemy bit by bit."""

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

from sqlalchemy import Connection, Engine, Row, literal, select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncResult, AsyncSession
from sqlalchemy.orm import Session

from .alchemy import Customer

ONE = select(literal(1).label("i")).cte("numbers", recursive=True)
NUMBERS = ONE.union_all(select(ONE.c.i + 1).where(ONE.c.i < 5000))
MANY = select(NUMBERS.c.i)
CUSTOMERS = select(Customer)
type Wait = Callable[[], object]


def stream(connection: Connection) -> Connection:
    """A connection that streams."""
    return connection.execution_options(stream_results=True, max_row_buffer=10)


# --- left open -----------------------------------------------------------------------------------------


def take_first(connection: Connection) -> Any:
    """Reads one row of many."""
    return stream(connection).execute(MANY).fetchone()


def take_first_by_portions(connection: Connection) -> Any:
    """The same, by portions."""
    return next(connection.execute(MANY, execution_options={"yield_per": 10}).partitions())


def take_first_scalar(connection: Connection) -> Any:
    """The same, by a filter of the result."""
    return next(iter(stream(connection).execute(MANY).scalars()))


def take_first_object(connection: Connection) -> Any:
    """The same, by objects."""
    session = Session(connection)
    return next(iter(session.scalars(CUSTOMERS, execution_options={"yield_per": 1})))


def stop_early(connection: Connection) -> None:
    """Leaves its loop."""
    for row in stream(connection).execute(MANY):
        if row.i > 3:
            break


LEFT = [take_first, take_first_by_portions, take_first_scalar, take_first_object, stop_early]

# --- closed in the end ---------------------------------------------------------------------------------


def read_all(connection: Connection) -> None:
    """To its end."""
    for _ in stream(connection).execute(MANY):
        pass


def read_at_once(connection: Connection) -> None:
    """To its end, at once."""
    stream(connection).execute(MANY).all()
    stream(connection).execute(MANY).mappings().all()


def close_early(connection: Connection) -> None:
    """Closes what it has not read."""
    with stream(connection).execute(MANY) as result:
        result.fetchone()
    filtered = stream(connection).execute(MANY).scalars()
    filtered.fetchmany(2)
    filtered.close()


def read_objects(connection: Connection) -> None:
    """Objects, to their end."""
    with Session(connection) as session:
        for _ in session.scalars(CUSTOMERS, execution_options={"yield_per": 1}):
            pass


def leave_buffered(connection: Connection) -> None:
    """Leaves an ordinary result, all of whose rows are here."""
    connection.execute(MANY).fetchone()


def end_transaction(connection: Connection) -> None:
    """The end of the transaction is its end."""
    stream(connection).execute(MANY).fetchone()
    connection.rollback()


CLOSED = [read_all, read_at_once, close_early, read_objects, leave_buffered, end_transaction]

# --- handed on -----------------------------------------------------------------------------------------


def find(connection: Connection) -> Any:
    """Its caller reads."""
    return stream(connection).execute(MANY)


def find_mappings(connection: Connection) -> Any:
    """Its caller reads what is in a filter."""
    return find(connection).mappings()


def read_found(engine: Engine, wait: Wait) -> None:
    """Reads what another function has found, slowly."""
    with engine.connect() as connection:
        rows = find_mappings(connection)
        rows.fetchone()
        wait()
        rows.all()


def leave_found(connection: Connection) -> None:
    """Does not read what another function has found."""
    find(connection).fetchone()


def generate(engine: Engine) -> Iterator[Row[Any]]:
    """A generator over its own connection."""
    with engine.connect() as connection:
        yield from find(connection)


def consume(engine: Engine, wait: Wait) -> int:
    """Consumes it, slowly."""
    rows = generate(engine)
    next(rows)
    wait()
    return sum(1 for _ in rows)


def hold(engine: Engine, method: Callable[[Connection], Any], during: Wait) -> None:
    """Has a function do something with its connection, and keeps that."""
    with engine.connect() as connection:
        method(connection)
        during()


# --- the same, asynchronously --------------------------------------------------------------------------


async def async_take_first(connection: AsyncConnection) -> Any:
    """Reads one row of many."""
    result = await connection.stream(MANY)
    return await result.fetchone()


async def async_take_first_scalar(connection: AsyncConnection) -> Any:
    """Reads one row of many, by another method."""
    result = await connection.stream_scalars(MANY)
    return await result.first()


async def async_stop_early(connection: AsyncConnection) -> None:
    """Leaves its loop."""
    async for row in await connection.stream(MANY):
        if row.i > 3:
            break


ASYNC_LEFT = [async_take_first, async_stop_early]


async def async_read_all(connection: AsyncConnection) -> None:
    """To its end."""
    async for _ in await connection.stream(MANY):
        pass


async def async_close_early(connection: AsyncConnection) -> None:
    """Closes what it has not read."""
    async with connection.stream(MANY) as result:
        await result.fetchone()
    other = (await connection.stream(MANY)).scalars()
    await other.fetchmany(2)
    await other.close()


async def async_read_objects(connection: AsyncConnection) -> None:
    """Objects, to their end."""
    async with AsyncSession(connection) as session:
        async for _ in await session.stream_scalars(CUSTOMERS):
            pass


ASYNC_CLOSED = [async_read_all, async_close_early, async_read_objects, async_take_first_scalar]


async def async_find(connection: AsyncConnection) -> AsyncResult[Any]:
    """Its caller reads."""
    return await connection.stream(MANY)


async def async_read_found(engine: AsyncEngine, wait: Callable[[], Any]) -> None:
    """Reads what another function has found, slowly."""
    async with engine.connect() as connection:
        rows = (await async_find(connection)).mappings()
        await rows.fetchone()
        await wait()
        await rows.all()


async def async_generate(engine: AsyncEngine) -> AsyncIterator[Any]:
    """A generator over its own connection."""
    async with engine.connect() as connection:
        async for row in await connection.stream(MANY):
            yield row


async def async_consume(engine: AsyncEngine, wait: Callable[[], Any]) -> None:
    """Consumes it, slowly."""
    found = 0
    async for _ in async_generate(engine):
        found += 1
        if found == 3:
            await wait()


async def async_hold(engine: AsyncEngine, method: Callable[..., Any], during: Callable[[], Any]) -> None:
    """Has a function do something with its connection, and keeps that."""
    async with engine.connect() as connection:
        await method(connection)
        await during()
