"""Functions of an application over an async engine of SQLAlchemy."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, async_scoped_session
from sqlalchemy.orm import Session

from .keeping import Cycle

ONE = text("SELECT 1")
scoped: dict[str, async_scoped_session[AsyncSession]] = {}
"""Module state of the application: sessions of tasks, of which a registry has one for each."""
type Wait = Callable[[], Awaitable[object]]
"""Waits for longer than the grace."""


async def use(engine: AsyncEngine) -> Any:
    """Correct."""
    async with engine.connect() as connection:
        return (await connection.execute(ONE)).scalar_one()


async def begin(engine: AsyncEngine, wait: Wait) -> None:
    """Correct; waits while it holds."""
    async with engine.begin() as connection:
        await connection.execute(ONE)
        await wait()


async def stream(engine: AsyncEngine, wait: Wait) -> int:
    """Correct; reads row by row and waits in between."""
    async with engine.connect() as connection:
        rows = await connection.stream(text("SELECT * FROM generate_series(1, 10)"))
        found = 0
        async for _ in rows:
            found += 1
            if found == 3:
                await wait()
        return found


async def keep(engine: AsyncEngine) -> None:
    """Does not close its connection, which stays alive in a reference cycle."""
    connection = await engine.connect()
    await connection.execute(ONE)
    Cycle(connection)


async def drop(engine: AsyncEngine) -> None:
    """Does not close its connection, of which nothing is left."""
    connection = await engine.connect()
    del connection


def _keep_here(connection: Connection, kept: list[Any]) -> None:
    kept.append(connection.engine.connect())


async def keep_in_greenlet(engine: AsyncEngine) -> None:
    """Lets a synchronous function keep another connection."""
    kept: list[Any] = []
    async with engine.connect() as connection:
        await connection.run_sync(_keep_here, kept)
    Cycle(kept.pop())


def count(session: Session) -> Any:
    """A repository function that uses the session that it is given."""
    return session.scalar(ONE)


async def count_in_greenlet(engine: AsyncEngine, wait: Wait) -> None:
    """Correct; the session takes its connection in the synchronous function."""
    async with AsyncSession(engine) as session:
        await session.run_sync(count)
        await wait()


async def list_customers(session: AsyncSession) -> Any:
    """A repository function that uses the session that it is given."""
    return (await session.execute(ONE)).all()


async def list_orders() -> Any:
    """A repository function that uses the session of its task."""
    return (await scoped["db"].execute(ONE)).all()


async def handle(engine: AsyncEngine, wait: Wait) -> None:
    """Correct: closes the session long after the repository function has returned."""
    async with AsyncSession(engine) as session:
        await list_customers(session)
        await wait()


async def handle_two(engine: AsyncEngine, wait: Callable[[], object]) -> None:
    """Correct; a synchronous function with another session runs for long, in a greenlet of this thread."""
    async with AsyncSession(engine) as session, AsyncSession(engine) as other:
        await list_customers(session)
        await other.run_sync(lambda _: wait())


async def serve_two(engine: AsyncEngine, wait: Callable[[], object]) -> None:
    """Correct; a caller of a correct function."""
    await handle_two(engine, wait)


async def handle_scoped(wait: Wait) -> None:
    """Correct: the same with the session of the task, which nothing but a registry keeps."""
    await list_orders()
    await wait()
    await scoped["db"].remove()


async def forget_scoped() -> None:
    """Forgets to remove the session of its task."""
    await list_orders()


async def forget(engine: AsyncEngine) -> None:
    """Does not close the session in which the repository function has begun a transaction."""
    session = AsyncSession(engine)
    await list_customers(session)
    Cycle(session)


async def open_session(engine: AsyncEngine) -> AsyncSession:
    """Leaves a session to its caller."""
    session = AsyncSession(engine)
    await session.execute(ONE)
    return session


async def forget_opened(engine: AsyncEngine) -> None:
    """Does not close the session that it was given."""
    Cycle(await open_session(engine))


async def open_connection(engine: AsyncEngine) -> AsyncConnection:
    """Leaves a connection to its caller."""
    return await engine.connect()


async def close_opened(engine: AsyncEngine, wait: Wait) -> None:
    """Correct: closes the connection that it was given."""
    connection = await open_connection(engine)
    await wait()
    await connection.close()


@asynccontextmanager
async def get_session(engine: AsyncEngine) -> AsyncIterator[AsyncSession]:
    """A dependency as for a web framework."""
    async with AsyncSession(engine) as session:
        await session.execute(ONE)
        yield session


async def depend(engine: AsyncEngine, wait: Wait) -> None:
    """Correct."""
    async with get_session(engine) as session:
        await session.execute(ONE)
        await wait()


async def many(engine: AsyncEngine, how_many: int, wait: Wait) -> None:
    """Correct: many tasks at the same time."""
    await asyncio.gather(*(begin(engine, wait) for _ in range(how_many)))
