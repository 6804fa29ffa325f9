# ruff: noqa: INP001 - a program of its own
"""A shop on FastAPI and SQLAlchemy's asyncio with asyncpg: correct endpoints, and endpoints that leak."""

import asyncio
import os
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import BackgroundTasks, Depends, FastAPI, HTTPException
from fastapi.responses import StreamingResponse
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, async_sessionmaker, create_async_engine

PARAMETERS = conninfo_to_dict(os.environ["DSN"])
SLOW = float(os.environ["SLOW"])

engine = create_async_engine(
    "postgresql+asyncpg://",
    connect_args={
        "host": PARAMETERS["host"],
        "user": PARAMETERS["user"],
        "database": PARAMETERS["dbname"],
        "server_settings": {"search_path": str(PARAMETERS["options"]).partition("=")[2]},
    },
    pool_size=10,
)
sessions = async_sessionmaker(engine)
app = FastAPI()


class Cycle:
    """Keeps something alive as an exception's traceback does: until the garbage collector comes by."""

    def __init__(self, kept: object) -> None:
        self.kept = kept
        self.cycle = self


class CustomerRepository:
    """Reads the customers with somebody else's session."""

    def __init__(self, session: AsyncSession) -> None:
        self.session = session

    async def names(self) -> list[str]:
        """All names."""
        return list((await self.session.scalars(text("SELECT name FROM customers"))).all())

    async def count(self) -> int:
        """How many there are."""
        found: int = (await self.session.execute(text("SELECT count(*) FROM customers"))).scalar_one()
        return found

    async def search(self) -> list[str]:
        """The same as all names, for whoever does not close the session."""
        return list((await self.session.scalars(text("SELECT name FROM customers"))).all())


async def session() -> AsyncIterator[AsyncSession]:
    """Correct: closes the session whatever happens."""
    async with sessions() as session:
        yield session


async def careless_session() -> AsyncIterator[AsyncSession]:
    """Does not close the session."""
    careless = sessions()
    Cycle(careless)
    yield careless


Session = Annotated[AsyncSession, Depends(session)]
CarelessSession = Annotated[AsyncSession, Depends(careless_session)]


@app.get("/customers")
async def customers(session: Session) -> list[str]:
    """Correct."""
    return await CustomerRepository(session).names()


@app.get("/slow")
async def slow(session: Session) -> int:
    """Correct: takes its time with an open session, after the repository's function has returned."""
    count = await CustomerRepository(session).count()
    await asyncio.sleep(SLOW)
    return count


@app.get("/nobody")
async def nobody(session: Session) -> int:
    """Correct: an exception leaves the endpoint, and the dependency closes."""
    await CustomerRepository(session).count()
    raise HTTPException(404)


@app.get("/export")
async def export() -> StreamingResponse:
    """Correct: streams with a session of the stream's own."""

    async def lines() -> AsyncIterator[str]:
        async with sessions() as session:
            async for name in await session.stream_scalars(text("SELECT name FROM customers")):
                yield f"{name}\n"
                await asyncio.sleep(SLOW / 3)

    return StreamingResponse(lines())


async def send_letters() -> None:
    """Correct: outlives the request."""
    async with engine.connect() as connection:
        await connection.execute(text("SELECT name FROM customers"))
        await asyncio.sleep(SLOW)


@app.get("/letters")
async def letters(tasks: BackgroundTasks) -> str:
    """Correct."""
    tasks.add_task(send_letters)
    return "soon"


@app.get("/leak/dependency")
async def search(session: CarelessSession) -> list[str]:
    """Its dependency does not close the session."""
    return await CustomerRepository(session).search()


async def first_line() -> AsyncIterator[str]:
    """Streams from a connection, and does not close it."""
    connection = await engine.connect()
    Cycle(connection)
    yield str((await connection.execute(text("SELECT name FROM customers"))).scalars().first())


@app.get("/leak/stream")
async def stream() -> StreamingResponse:
    """Streams what leaks."""
    return StreamingResponse(first_line())


async def forget_letters() -> None:
    """Works after the response was sent, and does not close its connection."""
    connection: AsyncConnection = await engine.connect()
    await connection.execute(text("SELECT name FROM customers"))
    Cycle(connection)


@app.get("/leak/background")
async def background(tasks: BackgroundTasks) -> str:
    """Leaves the work to a function that leaks."""
    tasks.add_task(forget_letters)
    return "soon"


@app.get("/state")
async def state() -> dict[str, Any]:
    """What the pool says."""
    return {"pool": engine.pool.status()}
