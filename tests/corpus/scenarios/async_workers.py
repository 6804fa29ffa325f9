"""Workers that run in tasks of their own for as long as the service does."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from typing import Any

import psycopg
from psycopg_pool import AsyncConnectionPool

from tests.corpus.stage import Stage

type Pool = AsyncConnectionPool[Any]

recent_errors: deque[Exception] = deque(maxlen=20)
"""The last errors, for a status page."""


class CreditAgency:
    """A slow service of somebody else."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage

    async def scores(self, rows: list[Any]) -> list[int]:
        """How sure it is that these customers pay."""
        await self._stage.sleep()
        return [600 + number for number, _ in rows]


class Mailer:
    """A worker that writes to customers until it is stopped."""

    def __init__(self, pool: Pool, agency: CreditAgency) -> None:
        self.pool = pool
        self.agency = agency
        self.task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin."""
        self.task = asyncio.create_task(self.work(), name="mailer")

    def stop(self) -> None:
        """Ask it to end."""
        assert self.task is not None
        self.task.cancel()

    async def stop_and_wait(self) -> None:
        """Ask it to end, and wait until it has."""
        self.stop()
        assert self.task is not None
        with contextlib.suppress(asyncio.CancelledError):
            await self.task

    async def work(self) -> None:
        """Believes that it never ends."""
        connection = await self.pool.getconn()
        while True:
            await self.write_to_all(connection)

    async def write_to_all(self, connection: Any) -> None:
        """One round."""
        cursor = await connection.execute("SELECT id, name FROM customers")
        await self.agency.scores(await cursor.fetchall())
        await connection.commit()


class CarefulMailer(Mailer):
    """The same, with ``async with``."""

    async def work(self) -> None:
        """Gives its connection back when it is stopped."""
        async with self.pool.connection() as connection:
            while True:
                await self.write_to_all(connection)


class Indexer:
    """A worker that survives the errors of its rounds."""

    def __init__(self, pool: Pool, agency: CreditAgency, column: str) -> None:
        self.pool = pool
        self.agency = agency
        self.column = column
        self.failed = asyncio.Event()
        self.task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin."""
        self.task = asyncio.create_task(self.run_forever(), name="indexer")

    async def run_forever(self) -> None:
        """One round after the other, with a rest when one has failed."""
        while True:
            try:
                await self.index()
            except psycopg.Error as error:
                recent_errors.append(error)
                self.failed.set()
            await self.agency.scores([])

    async def index(self) -> None:
        """Skips ``putconn`` when the query raises."""
        connection = await self.pool.getconn()
        await connection.execute(f"SELECT id FROM customers ORDER BY {self.column}")
        await self.pool.putconn(connection)


class CarefulIndexer(Indexer):
    """The same, with ``finally``."""

    async def index(self) -> None:
        """Gives its connection back when the query raises, after slow work."""
        connection = await self.pool.getconn()
        try:
            await self.agency.scores([])
            await connection.execute(f"SELECT id FROM customers ORDER BY {self.column}")
        finally:
            await self.pool.putconn(connection)


async def ready_pool(stage: Stage, size: int = 2) -> Pool:
    """A pool that has its connections, as at the end of a start-up."""
    pool = await stage.async_pool(min_size=size, max_size=size)
    await pool.wait()
    return pool


async def worker_is_stopped(stage: Stage) -> None:
    """A worker is cancelled while it holds; its object keeps the task."""
    mailer = Mailer(await ready_pool(stage), CreditAgency(stage))
    mailer.start()
    await stage.sleep(2)
    mailer.stop()
    await asyncio.sleep(0)
    stage.fact()
    await stage.sleep()


async def worker_is_stopped_and_awaited(stage: Stage) -> None:
    """A worker is cancelled while it holds; nothing is left of it when it has been awaited."""
    mailer = Mailer(await ready_pool(stage), CreditAgency(stage))
    mailer.start()
    await stage.sleep(2)
    stage.fact()
    await mailer.stop_and_wait()


async def worker_is_stopped_and_cleans_up(stage: Stage) -> None:
    """A worker is cancelled while it holds, and gives back."""
    mailer = CarefulMailer(await ready_pool(stage), CreditAgency(stage))
    mailer.start()
    await stage.sleep(2)
    mailer.stop()
    await stage.sleep()


async def worker_goes_on_after_an_error(stage: Stage) -> None:
    """A round of a worker raises while it holds; the error is kept, and the worker goes on."""
    indexer = Indexer(await ready_pool(stage), CreditAgency(stage), "nmae")
    indexer.start()
    await indexer.failed.wait()
    stage.fact()
    await stage.sleep(2)
    indexer.column = "name"


async def worker_goes_on_after_an_error_and_cleans_up(stage: Stage) -> None:
    """A round of a worker raises while it holds, and gives back; the worker goes on."""
    indexer = CarefulIndexer(await ready_pool(stage), CreditAgency(stage), "nmae")
    indexer.start()
    await stage.sleep(5)
