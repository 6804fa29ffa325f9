"""A dispatcher of exports: connections that go from task to task, by queues, results and callbacks."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

from opentelemetry import trace
from psycopg_pool import AsyncConnectionPool

from tests.corpus.stage import Stage

type Pool = AsyncConnectionPool[Any]

recent_errors: deque[Exception] = deque(maxlen=20)
"""The last errors, for a status page."""
tracer = trace.get_tracer("dispatcher")


class EmptyName(ValueError):
    """A customer to be imported has no name."""


class Dispatcher:
    """Gets a connection for each export, and leaves the export to somebody else."""

    def __init__(self, pool: Pool, stage: Stage) -> None:
        self.pool = pool
        self.parked: asyncio.Queue[Any] = asyncio.Queue()
        self.running: set[asyncio.Future[None]] = set()
        self._stage = stage

    async def submit(self) -> None:
        """Leave a connection for a worker."""
        connection = await self.pool.getconn()
        await connection.set_autocommit(True)
        await self.parked.put(connection)

    async def work(self) -> None:
        """Do the export of one connection that has been left, and give it back."""
        connection = await self.parked.get()
        try:
            await self.export(connection)
        finally:
            await self.pool.putconn(connection)

    async def request_export(self) -> None:
        """Start an export that a callback cleans up after; nobody waits for it."""
        connection = await self.pool.getconn()
        task = asyncio.create_task(self.export(connection))
        self.running.add(task)
        task.add_done_callback(lambda task: self._give_back(task, connection))

    async def request_export_with_a_task(self) -> asyncio.Task[None]:
        """Start an export that gives its connection back itself; the request is over before."""
        with tracer.start_as_current_span("request"):
            return asyncio.create_task(self.export_and_give_back(await self.pool.getconn()))

    async def reserve(self, seconds: float) -> asyncio.Future[None]:
        """Keep a connection away from others for a while; only a timer of the loop refers to it."""
        connection = await self.pool.getconn()
        loop = asyncio.get_running_loop()
        given_back = loop.create_future()

        async def give_back() -> None:
            await self.pool.putconn(connection)
            given_back.set_result(None)

        loop.call_later(seconds, lambda: self.running.add(asyncio.ensure_future(give_back())))
        return given_back

    async def export(self, connection: Any) -> None:
        """Slow work on a connection of somebody else."""
        cursor = await connection.execute("SELECT id, name FROM customers")
        await cursor.fetchall()
        await self._stage.sleep()

    async def export_and_give_back(self, connection: Any) -> None:
        """Slow work on a connection that becomes its own."""
        try:
            await self.export(connection)
        finally:
            await self.pool.putconn(connection)

    def _give_back(self, task: asyncio.Future[None], connection: Any) -> None:
        self.running.discard(task)
        giving_back = asyncio.ensure_future(self.pool.putconn(connection))
        self.running.add(giving_back)
        giving_back.add_done_callback(self.running.discard)


class Importer:
    """Imports customers; connects while it reads what is to be imported."""

    def __init__(self, pool: Pool, rows: list[tuple[int, str]], stage: Stage) -> None:
        self.pool = pool
        self._rows = rows
        self._stage = stage

    async def run(self) -> None:
        """Skips ``putconn`` when a name is empty."""
        connection, rows = await asyncio.gather(self._connect(), self._read())
        for number, name in rows:
            if not name:
                raise EmptyName(number)
            await connection.execute("SELECT 1 FROM customers WHERE id = %s", [number])
        await self._stage.sleep()
        await self.pool.putconn(connection)

    async def _connect(self) -> Any:
        return await self.pool.getconn()

    async def _read(self) -> list[tuple[int, str]]:
        await asyncio.sleep(0)
        return self._rows


async def dispatcher_of(stage: Stage) -> Dispatcher:
    """A dispatcher on a pool that is ready."""
    pool = await stage.async_pool()
    await pool.wait()
    return Dispatcher(pool, stage)


async def background_task(stage: Stage) -> None:
    """A task goes on with the connection when the request that started it is over."""
    dispatcher = await dispatcher_of(stage)
    background = await asyncio.create_task(dispatcher.request_export_with_a_task())
    await background


async def done_callback(stage: Stage) -> None:
    """A fire-and-forget task's done callback gives its connection back."""
    dispatcher = await dispatcher_of(stage)
    with tracer.start_as_current_span("request"):
        await asyncio.create_task(dispatcher.request_export())
    while dispatcher.running:
        await asyncio.wait(dispatcher.running)


async def queue_to_another_task(stage: Stage) -> None:
    """A worker that waits takes the connection over, and works on it longer than the other task lives."""
    dispatcher = await dispatcher_of(stage)
    worker = asyncio.create_task(dispatcher.work())
    await asyncio.create_task(dispatcher.submit())
    await worker


async def parked_in_a_queue(stage: Stage) -> None:
    """A task that is over has left a connection in a queue; the worker comes late."""
    dispatcher = await dispatcher_of(stage)
    await asyncio.create_task(dispatcher.submit())
    await stage.sleep()
    await asyncio.create_task(dispatcher.work())


async def forgotten_in_a_queue(stage: Stage) -> None:
    """There is no worker, and the queue goes with everything in it."""
    dispatcher = await dispatcher_of(stage)
    stage.fact()
    await dispatcher.submit()


async def result_of_a_task(stage: Stage) -> None:
    """A finished task has the connection as its result, and nobody has asked for it yet."""
    pool = (await dispatcher_of(stage)).pool
    task = asyncio.create_task(pool.getconn())
    await stage.sleep()
    await pool.putconn(task.result())


async def released_by_a_timer(stage: Stage) -> None:
    """``call_later`` gives it back; only the timer refers to it."""
    dispatcher = await dispatcher_of(stage)
    await (await dispatcher.reserve(1.0))


async def gathered_with_something_else(stage: Stage) -> None:
    """A task of ``gather`` returns the connection to the function that waits for both, which is slow."""
    await Importer((await dispatcher_of(stage)).pool, [(1, "Ada")], stage).run()


async def gathered_with_something_else_and_kept(stage: Stage) -> None:
    """A task of ``gather`` returns the connection to the function that waits for both, which raises."""
    importer = Importer((await dispatcher_of(stage)).pool, [(1, "")], stage)
    try:
        await importer.run()
    except EmptyName as error:
        recent_errors.append(error)
    stage.fact()
