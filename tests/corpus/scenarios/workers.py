"""Tasks of thread pools, whose threads go on when a task has ended, and connections of threads."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from psycopg_pool import ConnectionPool

from tests.corpus.stage import Stage

type Pool = ConnectionPool[Any]
type Job = Callable[[], object]

failures: deque[BaseException] = deque(maxlen=20)
"""The last errors of background tasks, for a status page."""


def remember_failure(future: Future[Any]) -> None:
    """Done callback of every background task."""
    error = future.exception()
    if error is not None:
        failures.append(error)


class StatisticsRepository:
    """Figures for the dashboard, computed by background tasks."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool

    def count(self) -> Any:
        """Gives back."""
        with self.pool.connection() as connection:
            return connection.execute("SELECT count(*) FROM customers").fetchone()

    def maximum(self, column: str) -> Any:
        """Skips ``putconn`` when the query raises."""
        connection = self.pool.getconn()
        row = connection.execute(f"SELECT max({column}) FROM customers").fetchone()
        self.pool.putconn(connection)
        return row

    def first_after(self, number: int) -> Any:
        """Skips ``putconn`` when there is none."""
        connection = self.pool.getconn()
        row = connection.execute("SELECT name FROM customers WHERE id > %s", (number,)).fetchone()
        if row is None:
            return None
        self.pool.putconn(connection)
        return row[0]


class ThreadConnections:
    """One connection for each thread."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self._local = threading.local()

    def open(self) -> None:
        """Connect this thread."""
        self._local.connection = self.pool.getconn()

    def count(self) -> Any:
        """A query of this thread."""
        return self._local.connection.execute("SELECT count(*) FROM customers").fetchone()

    def close(self) -> None:
        """Disconnect this thread."""
        self.pool.putconn(self._local.connection)


class NestedConnections(threading.local):
    """A stack of connections for each thread, for nested units of work."""

    def __init__(self) -> None:
        self.stack: list[Any] = []

    def push(self, pool: Pool) -> None:
        """Begin a unit of work."""
        self.stack.append(pool.getconn())

    def pop(self, pool: Pool) -> None:
        """End the innermost one."""
        pool.putconn(self.stack.pop())


units_of_work = NestedConnections()


class Worker:
    """A daemon thread that does one job after the other."""

    def __init__(self) -> None:
        self._jobs: queue.Queue[tuple[Job, Future[None]]] = queue.Queue()
        threading.Thread(target=self._work, name="worker", daemon=True).start()

    def do(self, job: Job) -> None:
        """Have a job done, and wait for it."""
        done: Future[None] = Future()
        self._jobs.put((job, done))
        done.result()

    def _work(self) -> None:
        while True:
            job, done = self._jobs.get()
            job()
            done.set_result(None)
            del job, done


def task_raises(stage: Stage) -> None:
    """A task ends with an exception that is kept; its thread goes on with other tasks."""
    repository = StatisticsRepository(stage.pool())
    with ThreadPoolExecutor(1) as executor:
        task = executor.submit(repository.maximum, "agee")
        task.add_done_callback(remember_failure)
        task.exception()
        stage.fact()
        executor.submit(repository.count).result()
        stage.wait(2)


def task_forgets(stage: Stage) -> None:
    """A task returns early and forgets its connection; its thread goes on with other tasks."""
    repository = StatisticsRepository(stage.pool())
    with ThreadPoolExecutor(1) as executor:
        stage.fact()
        executor.submit(repository.first_after, 3).result()
        executor.submit(repository.first_after, 1).result()
        executor.submit(stage.wait).result()


def task_is_slow(stage: Stage) -> None:
    """The function that submitted a task has returned long before the task ends and gives back."""
    pool = stage.pool()

    def summarise() -> Any:
        with pool.connection() as connection:
            stage.wait()
            return connection.execute("SELECT count(*) FROM customers").fetchone()

    def schedule(executor: ThreadPoolExecutor) -> None:
        executor.submit(summarise)

    with ThreadPoolExecutor(1) as executor:
        schedule(executor)


def result_is_taken_late(stage: Stage) -> None:
    """A task's result is a connection; it is taken late, when its thread is long gone."""
    pool = stage.pool()

    def acquire() -> Any:
        return pool.getconn()

    with ThreadPoolExecutor(1) as executor:
        future: Future[Any] = executor.submit(acquire)
    stage.wait()
    pool.putconn(future.result())


def result_is_taken_late_from_a_busy_pool(stage: Stage) -> None:
    """A task's result is a connection; it is taken late, while its thread does other work."""
    repository = StatisticsRepository(stage.pool())

    def prepare() -> Any:
        connection = repository.pool.getconn()
        connection.execute("SET statement_timeout = '5s'")
        return connection

    with ThreadPoolExecutor(1) as executor:
        future = executor.submit(prepare)
        executor.submit(stage.wait).result()
        executor.submit(repository.count).result()
        repository.pool.putconn(future.result())


def connection_for_each_thread(stage: Stage) -> None:
    """Each thread of a service keeps a connection of its own for as long as it serves."""
    connections = ThreadConnections(stage.pool())
    jobs: queue.Queue[Job | None] = queue.Queue()

    def serve() -> None:
        connections.open()
        try:
            while (job := jobs.get()) is not None:
                job()
        finally:
            connections.close()

    threads = [threading.Thread(target=serve) for _ in range(3)]
    for thread in threads:
        thread.start()
    jobs.put(connections.count)
    stage.wait()
    jobs.put(connections.count)
    for _ in threads:
        jobs.put(None)
    for thread in threads:
        thread.join()


def thread_ends_with_its_connection(stage: Stage) -> None:
    """A short-lived thread opens its own connection, and nobody closes it when the thread ends."""
    connections = ThreadConnections(stage.pool())

    def work() -> None:
        connections.open()
        connections.count()
        stage.fact()

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()


def second_of_the_same_thread(stage: Stage) -> None:
    """A job forgets to end its unit of work, and the next one does too: one thread keeps two."""
    pool, worker = stage.pool(), Worker()
    for _ in range(2):
        worker.do(lambda: units_of_work.push(pool))
    stage.fact()
    stage.wait(2)


def nested_units_of_the_same_thread(stage: Stage) -> None:
    """A thread has two connections for a while, one inside the other, and ends both."""
    pool = stage.pool()

    def outer() -> None:
        units_of_work.push(pool)
        inner()
        units_of_work.pop(pool)

    def inner() -> None:
        units_of_work.push(pool)
        stage.wait(0.5)
        units_of_work.pop(pool)
        stage.wait()

    Worker().do(outer)
