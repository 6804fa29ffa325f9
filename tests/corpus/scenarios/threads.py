"""Exports that run in threads of their own: connections that threads keep, and die with."""

from __future__ import annotations

import gc
import threading
import traceback
from collections import deque
from collections.abc import Callable
from typing import Any

import psycopg
from psycopg_pool import ConnectionPool

from tests.corpus.stage import Stage

type Pool = ConnectionPool[Any]
type Upload = Callable[[], None]

recent_errors: deque[BaseException] = deque(maxlen=20)
"""The last errors, for a status page: their tracebacks keep what was in the functions they left."""


def remember(crash: threading.ExceptHookArgs) -> None:
    """The hook of a crash reporter, for threads."""
    if crash.exc_value is not None:
        recent_errors.append(crash.exc_value)


class ExportRepository:
    """Reads what is exported."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool

    def names_like(self, pattern: str) -> list[str]:
        """Skips ``putconn`` when it finds nobody."""
        connection = self.pool.getconn()
        rows = connection.execute("SELECT name FROM customers WHERE name LIKE %s", (pattern,)).fetchall()
        if not rows:
            return []
        self.pool.putconn(connection)
        return [name for (name,) in rows]

    def export(self, column: str, upload: Upload) -> None:
        """Holds its connection during the upload; skips ``putconn`` when anything raises."""
        connection = self.pool.getconn()
        connection.execute(f"SELECT {column} FROM customers").fetchall()
        upload()
        self.pool.putconn(connection)


class Mirror:
    """Keeps a copy of the customers' names. Its callback is a method of its own: a reference cycle."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.connection: Any = None
        self.names: list[str] = []
        self.on_change = self.refresh

    def run(self) -> None:
        """Connect and read once."""
        self.connection = self.pool.getconn()
        self.on_change()

    def refresh(self) -> None:
        """Read the names."""
        self.names = [name for (name,) in self.connection.execute("SELECT name FROM customers")]

    def close(self) -> None:
        """Give the connection back."""
        self.pool.putconn(self.connection)


class Session:
    """Gives its connection back when it is collected; what it can undo refers to it."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.connection = pool.getconn()
        self.undo = [self.rollback]

    def rollback(self) -> None:
        """Undo everything."""
        self.connection.rollback()

    def __del__(self) -> None:
        self.pool.putconn(self.connection)


def count_customers(pool: Pool) -> Any:
    """Trusts that the session ends with the function."""
    session = Session(pool)
    return session.connection.execute("SELECT count(*) FROM customers").fetchone()


def run(target: Callable[..., object], *arguments: object, daemon: bool = False) -> None:
    """Run something in a thread of its own, to its end."""
    thread = threading.Thread(target=target, args=arguments, daemon=daemon)
    thread.start()
    thread.join()


def salvage(error: BaseException, pool: Pool) -> None:
    """A supervisor's last resort: gives back the connection that it finds in the frames of a crash."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        for value in frame.f_locals.values():
            if isinstance(value, psycopg.Connection):
                pool.putconn(value)
                return


def one_of_two_finds_nobody(stage: Stage) -> None:
    """Two threads search at once; the one that finds nobody returns early."""
    repository = ExportRepository(stage.pool(min_size=2))
    repository.pool.wait()
    ready = threading.Barrier(3)

    def search(pattern: str) -> None:
        ready.wait()
        repository.names_like(pattern)

    threads = [threading.Thread(target=search, args=(each,)) for each in ("customer%", "nobody")]
    for thread in threads:
        thread.start()
    stage.fact()
    ready.wait()
    for thread in threads:
        thread.join()


def one_of_two_raises(stage: Stage) -> None:
    """Two threads export at once; one dies of a misspelt column, the other is busy in the same function."""
    threading.excepthook = remember
    repository = ExportRepository(stage.pool(min_size=2))
    slow = threading.Thread(target=repository.export, args=("name", stage.wait))
    slow.start()
    run(repository.export, "nmae", stage.wait)
    stage.fact()
    slow.join()


def both_are_slow(stage: Stage) -> None:
    """Two threads export at once, for long, and end one after the other."""
    repository = ExportRepository(stage.pool(min_size=2))
    long = threading.Thread(target=repository.export, args=("name", lambda: stage.wait(5)))
    long.start()
    repository.export("id", stage.wait)
    long.join()


def thread_dies_holding(stage: Stage) -> None:
    """A thread dies of an exception that the crash reporter keeps."""
    threading.excepthook = remember
    repository = ExportRepository(stage.pool())
    run(repository.export, "nmae", stage.wait)
    stage.fact()


def daemon_ends_holding(stage: Stage) -> None:
    """A daemon thread ends; nobody but itself refers to its object, in a process that collects by hand."""
    gc.disable()
    run(Mirror(stage.pool()).run, daemon=True)
    stage.fact()


def ended_thread_left_it_to_its_starter(stage: Stage) -> None:
    """A daemon thread ends; whoever started it closes its object much later."""
    mirror = Mirror(stage.pool())
    run(mirror.run, daemon=True)
    stage.wait()
    mirror.close()


def collected_soon_after_the_thread(stage: Stage) -> None:
    """The thread's session is garbage; the collector runs within the grace, and the session gives back."""
    gc.disable()
    pool = stage.pool(max_size=1)
    run(count_customers, pool)
    gc.collect()
    with pool.connection():  # it has come back
        stage.wait()


def collected_long_after_the_thread(stage: Stage) -> None:
    """The same, but the process collects by hand, and late."""
    gc.disable()
    pool = stage.pool(max_size=1)
    run(count_customers, pool)
    stage.fact()
    stage.wait()
    gc.collect()
    with pool.connection():  # it has come back
        pass


def salvaged_soon_after_the_thread(stage: Stage) -> None:
    """A thread has died holding; a supervisor gives its connection back within the grace."""
    threading.excepthook = remember
    repository = ExportRepository(stage.pool())
    run(repository.export, "nmae", stage.wait)
    stage.wait(0.4)
    salvage(recent_errors.pop(), repository.pool)


def salvaged_long_after_the_thread(stage: Stage) -> None:
    """A thread has died holding; a supervisor gives its connection back when it has been reported."""
    threading.excepthook = remember
    repository = ExportRepository(stage.pool())
    run(repository.export, "nmae", stage.wait)
    stage.fact()
    stage.wait()
    salvage(recent_errors.pop(), repository.pool)
