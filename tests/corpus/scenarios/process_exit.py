"""A batch job that ends while something is still held: what nobody could release, and what somebody could."""

from __future__ import annotations

import atexit
import gc
import sys
import threading
from collections import deque
from typing import Any

import psycopg
from psycopg_pool import ConnectionPool

from tests.corpus.stage import Stage

type Pool = ConnectionPool[Any]

failures: deque[Exception] = deque(maxlen=20)
"""Why steps have failed, for the summary at the end: their tracebacks keep what was in the functions."""
locks: list[Any] = []
"""Connections whose sessions hold this job's locks until it ends."""
per_thread = threading.local()


class Nightly:
    """The steps of the job."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool

    def lock(self) -> None:
        """Keep other runs of the job out."""
        locks.append(self.pool.getconn())
        locks[-1].execute("SELECT pg_advisory_lock_shared(4712)")

    def connect_thread(self) -> None:
        """Connect the thread that it runs in."""
        per_thread.connection = self.pool.getconn()

    def clean_up(self, column: str) -> None:
        """Skips ``putconn`` when the query raises."""
        connection = self.pool.getconn()
        connection.execute(f"SELECT count({column}) FROM customers").fetchone()
        self.pool.putconn(connection)

    def stop_if_empty(self) -> None:
        """Ends the process if there is nothing to do, and forgets its connection."""
        connection = self.pool.getconn()
        if not connection.execute("SELECT name FROM customers WHERE id > 3").fetchall():
            sys.exit(0)
        self.pool.putconn(connection)

    def stop_if_empty_safely(self) -> None:
        """Ends the process if there is nothing to do."""
        with self.pool.connection() as connection:
            if not connection.execute("SELECT name FROM customers WHERE id > 3").fetchall():
                sys.exit(0)

    def watch(self, until: threading.Event) -> None:
        """Runs in a thread beside the steps."""
        with self.pool.connection() as connection:
            connection.execute("SELECT count(*) FROM customers")
            until.wait()
            connection.execute("SELECT count(*) FROM customers")


class Archive:
    """Another database. Its handlers are methods of its own: a reference cycle."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn
        self.handlers = {"row": self.write_row}

    def open(self) -> None:
        """Connect."""
        self.connection = psycopg.connect(self.dsn)

    def write_row(self) -> None:
        """Write a row."""
        self.connection.execute("SELECT 1")


def failed_step(stage: Stage) -> None:
    """A step has failed, and the summary keeps the error; the job ends within the grace."""
    nightly = Nightly(stage.pool())
    try:
        nightly.clean_up("nmae")
    except psycopg.Error as error:
        failures.append(error)


def garbage_that_is_not_collected(stage: Stage) -> None:
    """An archive is left open, unreachable, in a job that runs without the collector."""
    gc.disable()
    archive = Archive(stage.dsn)
    archive.open()
    archive.write_row()


def second_lock(stage: Stage) -> None:
    """The job locks twice by mistake, and ends within the grace."""
    nightly = Nightly(stage.pool())
    nightly.lock()
    nightly.lock()


def ended_in_the_middle(stage: Stage) -> None:
    """There is nothing to do; a function that holds a connection ends the process."""
    nightly = Nightly(stage.pool())
    stage.fact()
    nightly.stop_if_empty()


def ended_in_the_middle_of_a_with(stage: Stage) -> None:
    """There is nothing to do; the end of the process leaves a ``with``, which gives back."""
    Nightly(stage.pool()).stop_if_empty_safely()


def failed_step_when_it_ends_in_the_middle(stage: Stage) -> None:
    """A step has failed, the summary keeps the error, and the next step ends the process."""
    failed_step(stage)
    stage.fact("exit")
    sys.exit(0)


def lock_of_the_process(stage: Stage) -> None:
    """The job's lock is a connection in module state, until the process ends."""
    Nightly(stage.pool()).lock()
    stage.wait()


def connection_of_the_main_thread(stage: Stage) -> None:
    """The main thread has a connection of its own, until the process ends."""
    Nightly(stage.pool()).connect_thread()
    stage.wait()


def daemon_thread(stage: Stage) -> None:
    """A daemon thread is in the middle of its work when the process ends."""
    watch = Nightly(stage.pool()).watch
    threading.Thread(target=watch, args=(threading.Event(),), daemon=True).start()
    stage.wait()


def thread_that_ends_later(stage: Stage) -> None:
    """The main thread has ended; the process lives until another thread has given back."""
    nightly = Nightly(stage.pool())

    def slow_step() -> None:
        connection = nightly.pool.getconn()
        stage.wait(5)
        nightly.pool.putconn(connection)

    threading.Thread(target=slow_step).start()


def unlocked_by_an_exit_handler(stage: Stage) -> None:
    """An exit handler of the application gives the lock back."""
    nightly = Nightly(stage.pool())
    nightly.lock()
    atexit.register(lambda: nightly.pool.putconn(locks.pop()))
