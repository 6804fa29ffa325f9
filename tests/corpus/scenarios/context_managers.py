"""A customer repository with ``with`` in all its forms, and what looks like it."""

from __future__ import annotations

import contextlib
import gc
from collections import deque
from collections.abc import Callable
from typing import Any, Self

import psycopg
from psycopg_pool import ConnectionPool

from tests.corpus.scenarios import shop_database
from tests.corpus.stage import Stage

type Pool = ConnectionPool[Any]
type Work = Callable[[], None]

recent_errors: deque[Exception] = deque(maxlen=20)
"""The last errors, for a status page."""


class connected(contextlib.ContextDecorator):  # noqa: N801 -- a decorator
    """A connection around a function: ``@connected(pool)``."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool

    def __enter__(self) -> Self:
        self.connection = self.pool.getconn()
        return self

    def __exit__(self, *_: object) -> None:
        self.pool.putconn(self.connection)


class Report:
    """Keeps what it needs in a stack; its steps are methods of its own, so that it refers to itself."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.stack = contextlib.ExitStack()
        self.steps = [self.open, self.close]

    def open(self) -> None:
        """Acquires; if that goes well the connection is kept."""
        with contextlib.ExitStack() as stack:
            self.connection = stack.enter_context(self.pool.connection())
            self.connection.execute("SELECT 1")
            self.stack = stack.pop_all()

    def close(self) -> None:
        """Gives everything back."""
        self.stack.close()


class Cursor:
    """Enters a context manager by hand, because it is opened and closed by different callbacks."""

    def __init__(self, pool: Pool) -> None:
        self.manager = pool.connection()

    def on_open(self) -> None:
        """Acquires."""
        self.connection = self.manager.__enter__()

    def on_close(self) -> None:
        """Gives back."""
        self.manager.__exit__(None, None, None)


class CustomerRepository:
    """Who buys."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool

    def list_sorted(self, column: str) -> Any:
        """Trusts a helper that has no ``finally``."""
        with shop_database.hasty_connection_of(self.pool) as connection:
            return connection.execute(f"SELECT name FROM customers ORDER BY {column}").fetchall()

    def list_safely(self, column: str) -> Any:
        """Trusts a helper that can be trusted."""
        with shop_database.connection_of(self.pool) as connection:
            return connection.execute(f"SELECT name FROM customers ORDER BY {column}").fetchall()

    def list_slowly(self, work: Work) -> Any:
        """Takes long."""
        with shop_database.connection_of(self.pool) as connection:
            work()
            return connection.execute("SELECT name FROM customers").fetchall()

    def count_with_stack(self) -> Any:
        """Does not close the stack; the pool's own context manager does when it is dropped."""
        stack = contextlib.ExitStack()
        connection = stack.enter_context(self.pool.connection())
        return connection.execute("SELECT count(*) FROM customers").fetchone()

    def count_with_callback(self) -> Any:
        """Does not close the stack, and nobody calls what is in it."""
        stack = contextlib.ExitStack()
        connection = self.pool.getconn()
        stack.callback(self.pool.putconn, connection)
        return connection.execute("SELECT count(*) FROM customers").fetchone()

    def open(self) -> contextlib.ExitStack:
        """A stack that the caller closes."""
        with contextlib.ExitStack() as stack:
            stack.enter_context(self.pool.connection())
            return stack.pop_all()

    def compare(self, work: Work) -> Any:
        """Two connections, one within the other, for long."""
        with self.pool.connection() as outer, shop_database.connection_of(self.pool) as inner:
            work()
            return outer.execute("SELECT 1").fetchone() == inner.execute("SELECT 1").fetchone()

    def compare_hastily(self, then: Work, work: Work) -> None:
        """Holds one connection for long, and forgets the other within it."""
        with self.pool.connection() as connection:
            connection.execute("SELECT 1")
            other = self.pool.getconn()
            other.execute("SELECT 1")
            then()
            del other
            work()


def print_report(pool: Pool) -> None:
    """Opens a report, and does not close it."""
    Report(pool).open()


class Archive:
    """Old customers, in a database without pool."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn

    def list_slowly(self, work: Work) -> Any:
        """Closes on every path."""
        with contextlib.closing(psycopg.connect(self.dsn)) as connection:
            work()
            return connection.execute("SELECT name FROM customers").fetchall()

    def count(self) -> Any:
        """Says that it wants the connection closed, but without ``with``."""
        connection = psycopg.connect(self.dsn)
        contextlib.closing(connection)
        return connection.execute("SELECT count(*) FROM customers").fetchone()


def run_without_collector() -> None:
    """As services do that cannot afford its pauses; what is there already need never be looked at."""
    gc.disable()
    gc.freeze()


def helper_without_finally(stage: Stage) -> None:
    """The body of the ``with`` raises, the helper does not clean up, the error is kept."""
    repository = CustomerRepository(stage.pool())
    try:
        repository.list_sorted("nmae")
    except psycopg.Error as error:
        recent_errors.append(error)
    stage.fact()


def helper_without_finally_is_forgotten(stage: Stage) -> None:
    """The body of the ``with`` raises, the helper does not clean up, nobody keeps the error."""
    repository = CustomerRepository(stage.pool())
    stage.fact()
    with contextlib.suppress(psycopg.Error):
        repository.list_sorted("nmae")


def helper_with_finally(stage: Stage) -> None:
    """The body of the ``with`` raises, the helper cleans up, the error is kept."""
    try:
        CustomerRepository(stage.pool()).list_safely("nmae")
    except psycopg.Error as error:
        recent_errors.append(error)


def helper_for_long(stage: Stage) -> None:
    """The body of the ``with`` takes long."""
    CustomerRepository(stage.pool()).list_slowly(stage.wait)


def stack_closed_late(stage: Stage) -> None:
    """The connection's context manager is in a stack that the caller closes late."""
    with contextlib.ExitStack() as outer:
        outer.push(CustomerRepository(stage.pool()).open())
        stage.wait()


def stack_dropped(stage: Stage) -> None:
    """A stack is dropped; the generator in it is closed, and gives the connection back."""
    CustomerRepository(stage.pool()).count_with_stack()
    stage.wait()


def stack_of_callbacks_dropped(stage: Stage) -> None:
    """A stack is dropped with the callback that would have given the connection back."""
    repository = CustomerRepository(stage.pool())
    stage.fact()
    repository.count_with_callback()


def stack_taken_over(stage: Stage) -> None:
    """``pop_all`` keeps the connection after a good start; it is given back late."""
    report = Report(stage.pool())
    report.open()
    stage.wait()
    report.close()


def stack_in_a_circle(stage: Stage) -> None:
    """A report is never closed; only the collector, which comes late, closes the generator in its stack."""
    run_without_collector()
    print_report(stage.pool())
    stage.fact()
    stage.wait()
    gc.collect()


def stack_in_a_circle_while_its_maker_goes_on(stage: Stage) -> None:
    """The same, but the function that made the report goes on for long, without any way to reach it."""
    run_without_collector()
    Report(stage.pool()).open()
    stage.fact()
    stage.wait()
    gc.collect()


def stack_in_a_circle_collected_soon(stage: Stage) -> None:
    """A report is never closed; the collector comes at once, and the generator in its stack gives back."""
    run_without_collector()
    print_report(stage.pool())
    gc.collect()


def entered_by_hand(stage: Stage) -> None:
    """``__enter__`` and ``__exit__`` are called by two callbacks, the second one late."""
    cursor = Cursor(stage.pool())
    cursor.on_open()
    stage.wait()
    cursor.on_close()


def nested_with(stage: Stage) -> None:
    """Two connections in one ``with`` are held for long."""
    CustomerRepository(stage.pool()).compare(stage.wait)


def forgotten_within_a_with(stage: Stage) -> None:
    """Of two connections of one function the one without ``with`` is dropped, while the function goes on."""
    CustomerRepository(stage.pool()).compare_hastily(stage.fact, stage.wait)


def closing(stage: Stage) -> None:
    """``contextlib.closing`` around a direct connection, for long."""
    Archive(stage.dsn).list_slowly(stage.wait)


def closing_never_entered(stage: Stage) -> None:
    """``contextlib.closing`` without ``with`` closes nothing."""
    archive = Archive(stage.dsn)
    stage.fact()
    archive.count()


def context_decorator(stage: Stage) -> None:
    """A decorator acquires around a function that takes long."""

    @connected(stage.pool())
    def nightly() -> None:
        stage.wait()

    nightly()
