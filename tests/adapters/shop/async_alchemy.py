"""Functions of an application that write through an async engine of SQLAlchemy."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

from sqlalchemy import Connection, delete
from sqlalchemy.ext.asyncio import (
    AsyncConnection,
    AsyncEngine,
    AsyncSession,
    async_scoped_session,
    async_sessionmaker,
)
from sqlalchemy.orm import Session

from .alchemy import ADD, COUNT, Customer, OutOfStockError


async def add(connection: AsyncConnection | AsyncSession) -> None:
    """A helper: the first to run a statement."""
    await connection.execute(ADD)


# --- forgotten -----------------------------------------------------------------------------------------


async def forget_commit(engine: AsyncEngine) -> None:
    """Writes, and closes."""
    async with engine.connect() as connection:
        await connection.execute(ADD)


async def forget_commit_and_close(engine: AsyncEngine) -> None:
    """The same, without ``with``."""
    connection = await engine.connect()
    await connection.execute(delete(Customer))
    await connection.close()


async def forget_in_session(engine: AsyncEngine) -> None:
    """Flushes, and closes."""
    session = AsyncSession(engine)
    session.add(Customer(id=4, name="Grace"))
    await session.flush()
    await session.close()


async def forget_in_block(engine: AsyncEngine) -> None:
    """The same, with ``with``."""
    async with AsyncSession(engine) as session:
        session.add(Customer(id=4, name="Grace"))
        await session.flush()


async def forget_and_aclose(engine: AsyncEngine) -> None:
    """Closes by its other name."""
    connection = await engine.connect()
    await connection.execute(ADD)
    await connection.aclose()


async def forget_scoped(engine: AsyncEngine) -> None:
    """A session of the task."""
    scoped = async_scoped_session(async_sessionmaker(engine), scopefunc=asyncio.current_task)
    await scoped.execute(ADD)
    await scoped.remove()


async def forget_after_failure(engine: AsyncEngine) -> None:
    """An exception is over before it writes."""
    session = AsyncSession(engine)
    with suppress(OutOfStockError):
        raise OutOfStockError
    await session.execute(ADD)
    await session.close()


async def forget_in_handler(engine: AsyncEngine) -> None:
    """Handles an exception, in a block of its own that nobody commits."""
    try:
        raise OutOfStockError
    except OutOfStockError:
        async with AsyncSession(engine) as session:
            await session.execute(ADD)


# --- meant ---------------------------------------------------------------------------------------------


async def read(engine: AsyncEngine) -> None:
    """Only reads."""
    async with engine.connect() as connection:
        await connection.scalar(COUNT)


async def commit(engine: AsyncEngine) -> None:
    """Commits."""
    async with AsyncSession(engine) as session:
        session.add(Customer(id=4, name="Grace"))
        await session.commit()


async def roll_back(engine: AsyncEngine) -> None:
    """Changes its mind."""
    async with engine.connect() as connection:
        await connection.execute(ADD)
        await connection.rollback()


async def close_transaction(engine: AsyncEngine) -> None:
    """Changes its mind, in other words."""
    async with engine.connect() as connection:
        transaction = await connection.begin()
        await connection.execute(ADD)
        await transaction.close()


async def fail(engine: AsyncEngine) -> None:
    """An exception leaves the block of a connection."""
    with suppress(OutOfStockError):
        async with engine.connect() as connection:
            await connection.execute(ADD)
            raise OutOfStockError


async def fail_in_begin(engine: AsyncEngine) -> None:
    """An exception leaves the block of a transaction."""
    with suppress(OutOfStockError):
        async with engine.begin() as connection:
            await connection.execute(ADD)
            raise OutOfStockError


async def fail_in_session(engine: AsyncEngine) -> None:
    """An exception leaves the block of a session."""
    with suppress(OutOfStockError):
        async with AsyncSession(engine) as session:
            session.add(Customer(id=4, name="Grace"))
            await session.flush()
            raise OutOfStockError


async def fail_in_maker(engine: AsyncEngine) -> None:
    """An exception leaves the block of a session and its transaction."""
    with suppress(OutOfStockError):
        async with async_sessionmaker(engine).begin() as session:
            await session.execute(ADD)
            raise OutOfStockError


async def fail_finally(engine: AsyncEngine) -> None:
    """Closes whatever happens."""
    session = AsyncSession(engine)
    with suppress(OutOfStockError):
        try:
            await session.execute(ADD)
            raise OutOfStockError
        finally:
            await session.close()


async def fail_scoped(engine: AsyncEngine) -> None:
    """Removes the session of the task, whatever happens."""
    scoped = async_scoped_session(async_sessionmaker(engine), scopefunc=asyncio.current_task)
    with suppress(OutOfStockError):
        try:
            await scoped.execute(ADD)
            raise OutOfStockError
        finally:
            await scoped.remove()


async def invalidate(engine: AsyncEngine) -> None:
    """Throws the connection away."""
    async with AsyncSession(engine) as session:
        await session.execute(ADD)
        await session.invalidate()


async def depend(engine: AsyncEngine) -> AsyncIterator[AsyncSession]:
    """A dependency of a web framework, which throws what the handler has raised."""
    async with AsyncSession(engine) as session:
        yield session


async def fail_in_dependency(engine: AsyncEngine) -> None:
    """A framework and a handler that raises."""
    with suppress(OutOfStockError):
        async with asynccontextmanager(depend)(engine) as session:
            await add(session)
            raise OutOfStockError


async def be_cancelled(engine: AsyncEngine) -> None:
    """Is cancelled while it waits in its block."""
    written = asyncio.Event()

    async def write() -> None:
        async with AsyncSession(engine) as session:
            await session.execute(ADD)
            written.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(write())
    await written.wait()
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def time_out(engine: AsyncEngine) -> None:
    """Takes too long in its block."""
    with suppress(TimeoutError):
        async with engine.connect() as connection:
            await connection.execute(ADD)
            async with asyncio.timeout(0.01):
                await asyncio.Event().wait()


async def autocommit(engine: AsyncEngine) -> None:
    """There is no transaction, whatever is begun."""
    async with engine.execution_options(isolation_level="AUTOCOMMIT").begin() as connection:
        await add(connection)


async def in_savepoints(engine: AsyncEngine) -> None:
    """A savepoint is given up, another one is not."""
    async with engine.begin() as connection:
        with suppress(OutOfStockError):
            async with connection.begin_nested():
                await connection.execute(ADD)
                raise OutOfStockError
        async with connection.begin_nested():
            await add(connection)


# --- whose it is ---------------------------------------------------------------------------------------


async def begin(engine: AsyncEngine) -> None:
    """Begins; a helper writes."""
    async with engine.begin() as connection:
        await add(connection)


async def begin_on_connection(engine: AsyncEngine) -> None:
    """Begins a connection's transaction; a helper writes."""
    async with engine.connect() as connection, connection.begin():
        await add(connection)


async def begin_session(engine: AsyncEngine) -> None:
    """Begins a session's transaction; a helper writes."""
    async with AsyncSession(engine) as session, session.begin():
        await add(session)


async def begin_maker(engine: AsyncEngine) -> None:
    """Begins with a session; a helper writes."""
    async with async_sessionmaker(engine).begin() as session:
        await add(session)


async def begin_elsewhere(engine: AsyncEngine) -> None:
    """What has begun it is over: whoever writes is answerable."""

    async def start(connection: AsyncConnection) -> Any:
        return await connection.begin()

    async with engine.connect() as connection:
        transaction = await start(connection)
        await add(connection)
        await transaction.commit()


async def write(engine: AsyncEngine) -> None:
    """A helper begins: it is the first to run a statement."""
    async with engine.connect() as connection:
        await add(connection)
        await connection.commit()


def write_in_greenlet(connection: Connection | Session) -> None:
    """Synchronous code for asynchronous connections."""
    connection.execute(ADD)
    connection.commit()


async def run_sync(engine: AsyncEngine) -> None:
    """Runs synchronous code, which begins."""
    async with AsyncSession(engine) as session:
        await session.run_sync(write_in_greenlet)


async def handle(engine: AsyncEngine, wait: Callable[[], Awaitable[object]]) -> None:
    """A request: reads, writes, commits."""
    async with AsyncSession(engine) as session, session.begin():
        await session.scalar(COUNT)
        await add(session)
        await wait()
