"""What calls the functions of the soak: 8 threads, 200 tasks, and whoever gives back what they have lost.

The soak names this module as a library, like a server that calls an application.
"""

import asyncio
import random
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from queue import Empty, SimpleQueue
from typing import Any

import asyncpg
from opentelemetry import trace
from opentelemetry.sdk._logs import ReadableLogRecord
from opentelemetry.sdk._logs.export import LogRecordExporter, LogRecordExportResult
from psycopg.conninfo import conninfo_to_dict
from psycopg_pool import AsyncConnectionPool, ConnectionPool

from bench import soak_application as application
from bench import soak_kept
from bench import soak_transactions as transactions
from otel_connleak import names

THREADS = 8
TASKS = 200
POOL_SIZE = 24
"""More than the eight threads and all that is lost at a time need."""
ASYNCPG_POOL_SIZE = 8
EVERY = 1.0
"""Seconds between two leaks of one function."""
PATIENCE = 60.0
"""Seconds within which something must have happened at the end."""


type _AsyncFunction = Callable[[Any], Awaitable[object]]


class Reports(LogRecordExporter):
    """Counts the log events, and says which connections may be given back; keeps nothing that grows.

    Attributes:
        leaks: reports of connections, by function.
        discarded: reports of transactions that were discarded, by function.
        lost: the writes in these.
        recoveries: of which released after all.
        wrong: what cannot be, as sentences.
        slowest: for how many seconds a connection was held until it was reported, at most.
        to_give_back: server processes of what was reported.
    """

    def __init__(self) -> None:
        self.leaks: Counter[str] = Counter()
        self.discarded: Counter[str] = Counter()
        self.lost: Counter[str] = Counter()
        self.recoveries: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.slowest: dict[str, float] = {}
        self.to_give_back: SimpleQueue[int] = SimpleQueue()
        self._open: set[str] = set()

    def export(self, batch: Sequence[ReadableLogRecord]) -> LogRecordExportResult:
        """Look at what has happened."""
        for item in batch:
            self._look(item.log_record.event_name or "", dict(item.log_record.attributes or {}))
        return LogRecordExportResult.SUCCESS

    def _look(self, event: str, attributes: dict[str, Any]) -> None:
        function = str(attributes[names.CODE_FUNCTION_NAME]).rpartition(".")[2]
        identity = str(attributes[names.LEAK_ID])
        recovers = function in application.RECOVER
        if event == names.LEAK_EVENT and "discarded" in attributes[names.EVIDENCE]:
            self.discarded[function] += 1
            self.lost[function] += int(attributes[names.TRANSACTION_WRITES])
        elif event == names.LEAK_EVENT:
            self.leaks[function] += 1
            held = float(attributes[names.USE_TIME])
            self.slowest[function] = max(held, self.slowest.get(function, 0.0))
            if identity in self._open:
                self.wrong.append(f"{function} was reported twice as {identity}")
            if recovers:
                self._open.add(identity)
                self.to_give_back.put(attributes[names.SERVER_PID])
        elif event == names.RECOVERED_EVENT:
            self.recoveries[function] += 1
            if identity not in self._open:
                self.wrong.append(f"{function} recovered as {identity}, which is not open")
            self._open.discard(identity)

    def shutdown(self) -> None:
        """Nothing to do."""

    def force_flush(self, timeout_millis: int = 0) -> bool:
        """Nothing waits here."""
        return True


class ThrowAwayPool:
    """A small pool, and a new one when all its connections have been dropped."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._left = 0
        self._pool: ConnectionPool[Any] | None = None

    def take(self) -> ConnectionPool[Any]:
        """A pool in which there is a connection."""
        if self._pool is None or self._left == 0:
            self.close()
            self._pool = ConnectionPool(
                self._dsn, min_size=2, max_size=2, num_workers=1, name="soak-throw-away", open=True
            )
            self._pool.wait()
            self._left = 2
        self._left -= 1
        return self._pool

    def close(self) -> None:
        """Throw it away."""
        if self._pool is not None:
            self._pool.close()


def asyncpg_pool(dsn: str) -> Any:
    """A pool of asyncpg, which does not know the search path of a connection string; not open yet."""
    parts = conninfo_to_dict(dsn)
    return asyncpg.create_pool(
        host=parts["host"],
        user=parts["user"],
        database=parts["dbname"],
        server_settings={"search_path": str(parts["options"]).partition("search_path=")[2]},
        min_size=ASYNCPG_POOL_SIZE,
        max_size=ASYNCPG_POOL_SIZE,
    )


def weighed[F](
    plain: Mapping[F, int], transactional: Mapping[F, transactions.Does]
) -> tuple[list[F], list[int]]:
    """Functions, and how often each is called, in proportion."""
    weights = dict(plain) | {function: does.weight for function, does in transactional.items()}
    return list(weights), list(weights.values())


class Load:
    """Everything that runs; `start` begins it, and `stop` ends it.

    Attributes:
        cycles: how often each worker has called a function.
        calls: how often each function was called, in each thread; the last is that of the tasks.
        expected: how often each function has leaked.
        errors: what went wrong, in the application's own words.
    """

    def __init__(self, dsn: str, reports: Reports) -> None:
        self._reports = reports
        self._dsn = dsn
        self.pool = ConnectionPool(dsn, min_size=POOL_SIZE, max_size=POOL_SIZE, name="soak", open=False)
        self.cycles = [0] * (THREADS + TASKS)
        self.calls: list[Counter[str]] = [Counter() for _ in range(THREADS + 1)]
        self.expected: Counter[str] = Counter()
        self.errors: list[str] = []
        self._stopping = threading.Event()
        self._tasks_ended = threading.Event()
        self._ended = threading.Event()
        self._threads = [
            threading.Thread(target=self._guarded, args=(self._work, number)) for number in range(THREADS)
        ]
        self._janitor = threading.Thread(target=self._guarded, args=(self._give_back,))
        self._loop_thread = threading.Thread(target=self._guarded, args=(self._run_loop,))
        self._loop: asyncio.AbstractEventLoop | None = None

    def start(self) -> None:
        """Open the pools and begin."""
        self.pool.open(wait=True)
        for thread in (*self._threads, self._janitor, self._loop_thread):
            thread.start()

    def stop(self) -> None:
        """Call nothing any more; what was lost is still given back when it is reported."""
        self._stopping.set()
        for thread in self._threads:
            thread.join()
        if not self._tasks_ended.wait(PATIENCE):
            self.errors.append("the tasks do not end")

    def end(self) -> None:
        """End the rest."""
        self._ended.set()
        for thread in (self._janitor, self._loop_thread):
            thread.join()
        self.pool.close()

    def _guarded(self, work: Callable[..., object], *about: object) -> None:
        try:
            work(*about)
        except Exception as error:
            self.errors.append(f"{type(error).__name__}: {error}")

    def _work(self, number: int) -> None:
        choose = random.Random(number)
        functions, weights = weighed(application.CORRECT, transactions.SYNC)
        leaks = list(application.LEAKS.items())
        leak, blamed = leaks[number] if number < len(leaks) else (None, "")
        throw_away = ThrowAwayPool(self._dsn) if leak in application.THROW_AWAY else None
        next_leak = time.monotonic() + EVERY
        tracer = trace.get_tracer("soak")
        while not self._stopping.is_set():
            function = choose.choices(functions, weights)[0]
            pool = self.pool
            if leak is not None and time.monotonic() > next_leak and soak_kept.has_room(blamed):
                next_leak = time.monotonic() + EVERY
                function = leak
                pool = throw_away.take() if throw_away is not None else self.pool
                self.expected[blamed] += 1
            self.calls[number][function.__name__] += 1
            with tracer.start_as_current_span("request"):
                try:
                    function(pool)
                except application.Refused:
                    pass
            self.cycles[number] += 1
        if throw_away is not None:
            throw_away.close()

    def _give_back(self) -> None:
        while not self._ended.is_set():
            try:
                pid = self._reports.to_give_back.get(timeout=0.1)
            except Empty:
                continue
            connection = soak_kept.find(pid)
            if isinstance(getattr(connection, "_pool", None), AsyncConnectionPool):
                assert self._loop is not None
                asyncio.run_coroutine_threadsafe(connection._pool.putconn(connection), self._loop).result()
            elif connection is not None:
                self.pool.putconn(connection)
            del connection

    def _run_loop(self) -> None:
        with asyncio.Runner() as runner:
            self._loop = runner.get_loop()
            self._loop.set_exception_handler(self._complain)
            runner.run(self._run_tasks())

    def _complain(self, _loop: asyncio.AbstractEventLoop, about: dict[str, Any]) -> None:
        # asyncpg complains in the same way about what we report: that is meant to be.
        if not about["message"].startswith("Resetting connection with an active transaction"):
            self.errors.append(f"the loop says: {about['message']}")

    async def _run_tasks(self) -> None:
        async with (
            AsyncConnectionPool(
                self._dsn,
                min_size=POOL_SIZE,
                max_size=POOL_SIZE,
                name="soak-async",
                timeout=120.0,
                open=False,
            ) as pool,
            asyncpg_pool(self._dsn) as other_pool,
        ):
            await pool.wait()
            await asyncio.gather(*(self._work_async(pool, other_pool, number) for number in range(TASKS)))
            self._tasks_ended.set()
            # The loop goes on: what was lost in it is given back in it.
            await asyncio.to_thread(self._ended.wait)

    async def _work_async(self, pool: AsyncConnectionPool[Any], other_pool: Any, number: int) -> None:
        choose = random.Random(number)
        functions, weights = weighed(application.ASYNC_CORRECT, transactions.ASYNC | transactions.ASYNCPG)
        leaks = list(application.ASYNC_LEAKS.items())
        leak, blamed = leaks[number] if number < len(leaks) else (None, "")
        next_leak = time.monotonic() + EVERY
        while not self._stopping.is_set():
            function: _AsyncFunction = choose.choices(functions, weights)[0]
            if leak is not None and time.monotonic() > next_leak and soak_kept.has_room(blamed):
                next_leak = time.monotonic() + EVERY
                function = leak
                self.expected[blamed] += 1
            self.calls[-1][function.__name__] += 1
            with trace.get_tracer("soak").start_as_current_span("request"):
                try:
                    await function(other_pool if function in transactions.ASYNCPG else pool)
                except application.Refused:
                    pass
            self.cycles[THREADS + number] += 1
