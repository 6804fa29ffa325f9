"""Asynchronous sessions and connections of SQLAlchemy, over psycopg and over asyncpg."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable

from sqlalchemy import func, insert, select
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker

from tests.corpus.scenarios.orm_database import BEFORE, Customer, async_engine_of
from tests.corpus.stage import Stage


class MailUnavailable(ConnectionError):
    """The mail server does not answer."""


async def greet(name: str) -> None:
    """Sends a mail, which fails."""
    raise MailUnavailable(name)


async def nothing() -> None:
    """Lets others run."""
    await asyncio.sleep(0)


class CustomerRepository:
    """Works with the session that it is given."""

    def __init__(self, session: AsyncSession) -> None:
        self.session = session

    async def add(self, name: str) -> None:
        """Flushes, and leaves the commit to whoever has the session."""
        self.session.add(Customer(id=4, name=name))
        await self.session.flush()

    async def count(self) -> int:
        """Reads."""
        return await self.session.scalar(select(func.count()).select_from(Customer)) or 0


async def register(engine: AsyncEngine, name: str, meanwhile: Awaitable[None], *, commit: bool) -> None:
    """A handler with a session of its own."""
    async with AsyncSession(engine) as session:
        await CustomerRepository(session).add(name)
        await meanwhile
        if commit:
            await session.commit()


async def get_db(engine: AsyncEngine) -> AsyncIterator[AsyncSession]:
    """A dependency: a session for a request; to commit is up to the handler."""
    async with AsyncSession(engine) as session:
        yield session


async def handle(engine: AsyncEngine, name: str, *, commit: bool) -> None:
    """A handler with a dependency, as a framework calls it."""
    dependency = get_db(engine)
    session = await anext(dependency)
    try:
        await CustomerRepository(session).add(name)
        if commit:
            await session.commit()
    finally:
        await anext(dependency, None)


async def flush_without_commit(stage: Stage) -> None:
    """A session is closed with what was flushed, and not committed: the row is not there."""
    engine = async_engine_of(stage, "psycopg")
    stage.fact()
    await register(engine, "Ada", nothing(), commit=False)
    assert stage.names() == BEFORE
    await engine.dispose()


async def flush_without_commit_over_asyncpg(stage: Stage) -> None:
    """The same over asyncpg."""
    engine = async_engine_of(stage, "asyncpg")
    stage.fact()
    await register(engine, "Ada", nothing(), commit=False)
    assert stage.names() == BEFORE
    await engine.dispose()


async def flush_and_commit(stage: Stage) -> None:
    """A session commits, after several graces."""
    engine = async_engine_of(stage, "psycopg")
    await register(engine, "Ada", stage.sleep(), commit=True)
    assert stage.names() == [*BEFORE, "Ada"]
    await engine.dispose()


async def flush_and_commit_over_asyncpg(stage: Stage) -> None:
    """The same over asyncpg."""
    engine = async_engine_of(stage, "asyncpg")
    await register(engine, "Ada", stage.sleep(), commit=True)
    assert stage.names() == [*BEFORE, "Ada"]
    await engine.dispose()


async def read_only_session(stage: Stage) -> None:
    """A session that has only read is closed."""
    engine = async_engine_of(stage, "asyncpg")
    async with AsyncSession(engine) as session:
        assert await CustomerRepository(session).count() == 3
    await engine.dispose()


async def session_left_by_an_exception(stage: Stage) -> None:
    """An exception leaves the block of a session, which closes in a task of its own."""
    engine = async_engine_of(stage, "psycopg")
    with contextlib.suppress(MailUnavailable):
        await register(engine, "Ada", greet("Ada"), commit=True)
    assert stage.names() == BEFORE
    await engine.dispose()


async def session_left_by_an_exception_over_asyncpg(stage: Stage) -> None:
    """The same over asyncpg."""
    engine = async_engine_of(stage, "asyncpg")
    with contextlib.suppress(MailUnavailable):
        await register(engine, "Ada", greet("Ada"), commit=True)
    assert stage.names() == BEFORE
    await engine.dispose()


async def session_is_cancelled(stage: Stage) -> None:
    """The task is cancelled before its commit."""
    engine = async_engine_of(stage, "psycopg")
    task = asyncio.create_task(register(engine, "Ada", stage.sleep(), commit=True))
    await stage.sleep(1)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    assert stage.names() == BEFORE
    await engine.dispose()


async def closed_in_finally(stage: Stage) -> None:
    """An exception comes before the commit; ``finally`` closes the session."""
    engine = async_engine_of(stage, "asyncpg")
    session = AsyncSession(engine)
    with contextlib.suppress(MailUnavailable):
        try:
            await CustomerRepository(session).add("Ada")
            await greet("Ada")
        finally:
            await session.close()
    assert stage.names() == BEFORE
    await engine.dispose()


async def begin_commits(stage: Stage) -> None:
    """The block of ``begin`` commits."""
    engine = async_engine_of(stage, "asyncpg")
    async with async_sessionmaker(engine).begin() as session:
        await CustomerRepository(session).add("Ada")
    assert stage.names() == [*BEFORE, "Ada"]
    await engine.dispose()


async def begin_left_by_an_exception(stage: Stage) -> None:
    """An exception leaves the block of ``begin``, which rolls back."""
    engine = async_engine_of(stage, "psycopg")
    with contextlib.suppress(MailUnavailable):
        async with async_sessionmaker(engine).begin() as session:
            await CustomerRepository(session).add("Ada")
            await greet("Ada")
    assert stage.names() == BEFORE
    await engine.dispose()


async def savepoint_is_rolled_back(stage: Stage) -> None:
    """The changes within ``begin_nested`` are rolled back, the rest is committed."""
    engine = async_engine_of(stage, "asyncpg")
    async with AsyncSession(engine) as session:
        await CustomerRepository(session).add("Ada")
        with contextlib.suppress(MailUnavailable):
            async with session.begin_nested():
                await session.execute(insert(Customer).values(id=5, name="Bea"))
                await greet("Bea")
        await session.commit()
    assert stage.names() == [*BEFORE, "Ada"]
    await engine.dispose()


async def dependency_closes(stage: Stage) -> None:
    """A dependency closes the session, and the handler has not committed: the row is not there."""
    engine = async_engine_of(stage, "psycopg")
    stage.fact()
    await handle(engine, "Ada", commit=False)
    assert stage.names() == BEFORE
    await engine.dispose()


async def dependency_closes_what_is_committed(stage: Stage) -> None:
    """A dependency closes the session, and the handler has committed."""
    engine = async_engine_of(stage, "psycopg")
    await handle(engine, "Ada", commit=True)
    assert stage.names() == [*BEFORE, "Ada"]
    await engine.dispose()


async def commit_is_not_awaited(stage: Stage) -> None:
    """``session.commit()`` without ``await``: the row is not there."""
    engine = async_engine_of(stage, "asyncpg")
    async with AsyncSession(engine) as session:
        await CustomerRepository(session).add("Ada")
        session.commit()  # type: ignore[unused-coroutine]  # the mistake that it is about
        stage.fact()
    assert stage.names() == BEFORE
    await engine.dispose()


async def connection_without_commit(stage: Stage) -> None:
    """A connection of the engine is closed without a commit: the row is not there."""
    engine = async_engine_of(stage, "asyncpg")
    async with engine.connect() as connection:
        await connection.execute(insert(Customer).values(id=4, name="Ada"))
        stage.fact()
    assert stage.names() == BEFORE
    await engine.dispose()


async def engine_begin(stage: Stage) -> None:
    """``engine.begin`` commits at the end of its block."""
    engine = async_engine_of(stage, "psycopg")
    async with engine.begin() as connection:
        await connection.execute(insert(Customer).values(id=4, name="Ada"))
    assert stage.names() == [*BEFORE, "Ada"]
    await engine.dispose()
