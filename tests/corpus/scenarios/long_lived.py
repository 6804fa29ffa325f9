"""Connections that live long: by design, because a query takes its time, or because somebody forgot them."""

from __future__ import annotations

import select
import threading
import time
from typing import Any

import psycopg
from psycopg_pool import ConnectionPool

from otel_connleak import expect_long_hold
from tests.corpus.stage import Stage

type Pool = ConnectionPool[Any]

audit_connections: list[Any] = []
"""The process's connection for the audit log. There should be one."""


class LeaderElection:
    """Leads for as long as its session lives: the server keeps the lock that long."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.connection: Any = None

    def campaign(self) -> None:
        """Become the leader."""
        self.connection = self.pool.getconn()
        self.connection.execute("SELECT pg_advisory_lock_shared(4711)")

    def resign(self) -> None:
        """End the session."""
        self.pool.putconn(self.connection)

    def lead(self) -> None:
        """Lead until the process ends."""
        connection = self.pool.getconn()
        connection.execute("SELECT pg_advisory_lock_shared(4711)")
        threading.Event().wait()
        self.pool.putconn(connection)


class Notifications:
    """Listens for changes of the customers."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn
        self.ready = threading.Event()

    def select(self, seconds: float) -> None:
        """Wait for the socket, outside of the driver, and have a look at what it brought."""
        connection = psycopg.connect(self.dsn, autocommit=True)
        connection.execute("LISTEN customers")
        self.ready.set()
        select.select([connection], [], [], seconds)
        connection.execute("SELECT 1")
        connection.close()

    def receive(self, seconds: float) -> list[Any]:
        """Wait in the driver."""
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            connection.execute("LISTEN customers")
            return list(connection.notifies(timeout=seconds))


class Reports:
    """Reads what takes long."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool

    def yearly(self) -> Any:
        """One slow query."""
        with self.pool.connection() as connection:
            return connection.execute("SELECT count(*), pg_sleep(2.5) FROM customers").fetchone()

    def in_steps(self) -> int:
        """Many quick queries, with a little work between them."""
        with self.pool.connection() as connection:
            total = 0
            for _ in range(6):
                total += connection.execute("SELECT count(*) FROM customers").fetchall()[0][0]
                time.sleep(0.4)
            return total

    def printed(self, stage: Stage) -> None:
        """A slow query; the printer that comes next is slower, and the connection waits for it."""
        with self.pool.connection() as connection:
            connection.execute("SELECT count(*), pg_sleep(1.5) FROM customers").fetchone()
            stage.fact()
            stage.wait()


class AuditLog:
    """Writes with the connection of the process."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool

    def connect(self) -> None:
        """Connect for the life of the process."""
        audit_connections.append(self.pool.getconn())

    def reconnect(self) -> None:
        """Add another connection; it should have replaced the first."""
        audit_connections.append(self.pool.getconn())

    def write(self) -> None:
        """Write a line."""
        with audit_connections[-1].transaction():
            audit_connections[-1].execute("SELECT 'a line'")


def leader_allowed_by_setting(stage: Stage) -> None:
    """The leader's connection is idle for long; the setting allows it."""
    election = LeaderElection(stage.pool())
    election.campaign()
    stage.wait(4)
    election.resign()


def leader_allowed_by_its_code(stage: Stage) -> None:
    """The leader's connection is idle for long; the application says that this is expected."""
    election = LeaderElection(stage.pool())
    with expect_long_hold():
        election.campaign()
    stage.wait(4)
    election.resign()


def leader_not_allowed(stage: Stage) -> None:
    """A daemon thread leads, and nobody has said that its connection lives long by design."""
    pool = stage.pool()
    pool.wait()
    stage.fact()
    threading.Thread(target=LeaderElection(pool).lead, daemon=True).start()
    stage.wait(2)


def leader_resigns_after_all(stage: Stage) -> None:
    """Nobody has said that the leader lives long; it is reported, and then it resigns."""
    election = LeaderElection(stage.pool())
    election.campaign()
    stage.fact()
    stage.wait(4)
    election.resign()


def allowed_leader_forgets(stage: Stage) -> None:
    """The setting allows to be idle for long, not to be forgotten."""
    election = LeaderElection(stage.pool())
    election.campaign()
    stage.fact()
    del election


def listener_allowed_by_setting(stage: Stage) -> None:
    """A listener waits for its socket; the setting allows it."""
    Notifications(stage.dsn).select(2.5)


def listener_not_allowed(stage: Stage) -> None:
    """A listener waits for its socket, and nobody has said that this is by design."""
    notifications = Notifications(stage.dsn)
    listener = threading.Thread(target=notifications.select, args=(2.5,))
    listener.start()
    notifications.ready.wait()
    stage.fact()
    listener.join()


def listener_in_the_driver(stage: Stage) -> None:
    """A listener waits in the driver: its connection is in use."""
    Notifications(stage.dsn).receive(2.5)


def slow_query(stage: Stage) -> None:
    """One query runs for several graces and thresholds."""
    Reports(stage.pool()).yearly()


def quick_queries(stage: Stage) -> None:
    """A connection is held for long and used all the time."""
    Reports(stage.pool()).in_steps()


def idle_after_a_slow_query(stage: Stage) -> None:
    """A connection waits for a printer, and is given back when that is done."""
    Reports(stage.pool()).printed(stage)


def kept_in_module_state(stage: Stage) -> None:
    """One connection for the life of the process, idle for longer than the threshold."""
    audit = AuditLog(stage.pool())
    audit.connect()
    audit.write()
    stage.wait(4)


def two_kept_in_module_state(stage: Stage) -> None:
    """Two connections for the life of the process, acquired by two functions."""
    audit = AuditLog(stage.pool())
    audit.connect()
    audit.reconnect()
    audit.write()
    stage.wait()


def second_and_third_in_module_state(stage: Stage) -> None:
    """The connection for the life of the process is made again and again, while the first lies idle."""
    audit = AuditLog(stage.pool())
    for _ in range(3):
        audit.connect()
    audit.write()
    stage.fact()


def ignored_by_setting(stage: Stage) -> None:
    """Somebody else's function forgets its connections; the setting says not to report it."""
    audit = AuditLog(stage.pool())
    for _ in range(3):
        audit.connect()
        audit_connections.clear()
