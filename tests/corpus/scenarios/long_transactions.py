"""Connections that live long by design, and their transactions, which should be short."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from typing import Any

import psycopg
from opentelemetry import context, trace
from psycopg_pool import ConnectionPool

from tests.corpus.stage import Stage

type Pool = ConnectionPool[Any]

BEFORE = ["customer 1", "customer 2", "customer 3"]

tracer = trace.get_tracer("shop.web")
audit_connections: list[Any] = []
"""The one connection of the process for the audit log."""


class AuditLog:
    """Writes with the connection of the process."""

    def connect(self, dsn: str, *, autocommit: bool = False) -> None:
        """Connect for the life of the process."""
        audit_connections.append(psycopg.connect(dsn, autocommit=autocommit))

    def write(self, line: str) -> None:
        """Forgets to commit."""
        audit_connections[0].execute("INSERT INTO customers VALUES (4, %s)", (line,))

    def write_and_commit(self, line: str) -> None:
        """Commits."""
        self.write(line)
        self.commit()

    def commit(self) -> None:
        """Commits what was written."""
        audit_connections[0].commit()

    def last(self) -> Any:
        """Reads, and does not think of the transaction that this begins."""
        return audit_connections[0].execute("SELECT max(id) FROM customers").fetchone()

    def last_and_end(self) -> Any:
        """Reads, and ends the transaction."""
        try:
            return self.last()
        finally:
            audit_connections[0].rollback()

    def listen(self) -> None:
        """Asks the server to tell of changes."""
        audit_connections[0].execute("LISTEN customers")


class Worker:
    """A thread with a connection of its own, which does one job after the other."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn
        self._jobs: queue.Queue[Callable[[Any], None]] = queue.Queue()
        threading.Thread(target=self.work, name="worker", daemon=True).start()

    def work(self) -> None:
        """Works for as long as the process lives."""
        connection = psycopg.connect(self.dsn)
        while True:
            self._jobs.get()(connection)
            self._jobs.task_done()

    def do(self, job: Callable[[Any], None]) -> None:
        """Have a job done, and wait for it."""
        self._jobs.put(job)
        self._jobs.join()


def rename(connection: Any) -> None:
    """A job that commits."""
    with connection.transaction():
        connection.execute("UPDATE customers SET name = 'Ada' WHERE id = 1")


def rename_without_commit(connection: Any) -> None:
    """A job that forgets to."""
    connection.execute("UPDATE customers SET name = 'Bea' WHERE id = 2")


class Reports:
    """Reads what takes long."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool

    def yearly(self) -> None:
        """One slow statement in a transaction."""
        with self.pool.connection() as connection:
            connection.execute("UPDATE customers SET name = 'Ada' WHERE id = 1")
            connection.execute("SELECT pg_sleep(2.5)")

    def in_steps(self) -> None:
        """A long transaction of many quick statements, with a little work between them."""
        with self.pool.connection() as connection:
            for _ in range(6):
                connection.execute("UPDATE customers SET name = 'Ada' WHERE id = 1")
                time.sleep(0.4)

    def printed(self, stage: Stage) -> None:
        """Prints in the midst of a transaction, and keeps everybody else waiting."""
        with self.pool.connection() as connection:
            connection.execute("SELECT name FROM customers FOR UPDATE").fetchall()
            stage.fact()
            stage.wait()


def serve(path: str, handler: Callable[[], object]) -> None:
    """Answer one request, as a framework does: under a root span."""
    with tracer.start_as_current_span(f"GET {path}", context.Context(), trace.SpanKind.SERVER):
        handler()


def connected(stage: Stage, *, autocommit: bool = False) -> AuditLog:
    """The audit log of a process that has started."""
    audit = AuditLog()
    audit.connect(stage.dsn, autocommit=autocommit)
    return audit


def busy_for_long(stage: Stage) -> None:
    """A transaction is longer than the threshold, and the server is at work in it."""
    Reports(stage.pool()).yearly()


def many_statements(stage: Stage) -> None:
    """A transaction is longer than the threshold, and is used all the time."""
    Reports(stage.pool()).in_steps()


def printed_within_a_transaction(stage: Stage) -> None:
    """A connection and its transaction wait for a printer: the connection is reported, and that is enough."""
    Reports(stage.pool()).printed(stage)


def worker_with_short_transactions(stage: Stage) -> None:
    """The connection of a worker is idle for long, and no transaction is."""
    worker = Worker(stage.dsn)
    for _ in range(2):
        worker.do(rename)
        stage.wait(4)
    assert "Ada" in stage.names()


def worker_leaves_a_transaction_open(stage: Stage) -> None:
    """One of the jobs of a worker leaves a transaction open, in which the worker then waits for the next."""
    worker = Worker(stage.dsn)
    worker.do(rename)
    stage.fact()
    worker.do(rename_without_commit)
    stage.wait(4)
    assert "Bea" not in stage.names()


def worker_ends_it_with_the_next_job(stage: Stage) -> None:
    """The same, and the commit of a later job ends it after all."""
    worker = Worker(stage.dsn)
    stage.fact()
    worker.do(rename_without_commit)
    stage.wait(4)
    worker.do(lambda connection: connection.commit())


def process_reads_and_waits(stage: Stage) -> None:
    """The one connection of the process is idle in a transaction that a read has begun."""
    audit = connected(stage)
    stage.fact()
    audit.last()


def process_reads_and_ends(stage: Stage) -> None:
    """The one connection of the process is idle for long, but in no transaction."""
    audit = connected(stage)
    audit.last_and_end()
    stage.wait(4)


def process_writes_and_commits(stage: Stage) -> None:
    """The one connection of the process is idle for long; all is committed."""
    connected(stage).write_and_commit("a line")
    stage.wait(4)
    assert stage.names() == [*BEFORE, "a line"]


def process_writes_in_autocommit(stage: Stage) -> None:
    """The one connection of the process commits by itself."""
    connected(stage, autocommit=True).write("a line")
    stage.wait(4)
    assert stage.names() == [*BEFORE, "a line"]


def process_commits_late(stage: Stage) -> None:
    """The one connection of the process is idle in a transaction, and commits after all."""
    audit = connected(stage)
    stage.fact()
    audit.write("a line")
    stage.wait(4)
    audit.commit()
    assert stage.names() == [*BEFORE, "a line"]


def request_leaves_a_transaction_open(stage: Stage) -> None:
    """A request is over, and its transaction is open, on the one connection of the process."""
    audit = connected(stage)
    serve("/audit", lambda: audit.write("a line"))
    stage.fact()
    stage.wait()
    assert stage.names() == BEFORE


def request_commits(stage: Stage) -> None:
    """A request is over, and so is its transaction, on the one connection of the process."""
    audit = connected(stage)
    serve("/audit", lambda: audit.write_and_commit("a line"))
    stage.wait()


def request_reads_twice(stage: Stage) -> None:
    """Two requests read with the one connection of the process; each ends its transaction."""
    audit = connected(stage)
    for _ in range(2):
        serve("/audit", audit.last_and_end)
        stage.wait()


def listener_in_autocommit(stage: Stage) -> None:
    """The one connection of the process listens, and is idle for long by design."""
    connected(stage, autocommit=True).listen()
    stage.wait(4)


def listener_in_a_transaction(stage: Stage) -> None:
    """It listens, and has not committed that: it will never hear anything."""
    audit = connected(stage)
    stage.fact()
    audit.listen()
