"""A customer repository, and what exceptions do to its connections."""

from __future__ import annotations

import contextlib
import functools
import logging
from collections import deque
from collections.abc import Callable
from logging.handlers import MemoryHandler
from typing import Any

import psycopg
from psycopg_pool import ConnectionPool

from tests.corpus.stage import Stage

recent_errors: deque[Exception] = deque(maxlen=20)
"""The last errors, for a status page: their tracebacks keep what was in the functions they left."""

flight_recorder = MemoryHandler(capacity=1_000, flushLevel=logging.CRITICAL + 1)
"""The last log records, with the exceptions in them; somebody reads them after a crash."""
logger = logging.getLogger("shop.customers")
logger.addHandler(flight_recorder)
logger.propagate = False


class NoSuchCustomer(LookupError):
    """There is no customer of this number."""


class AuditUnavailable(ConnectionError):
    """The audit service does not answer."""


class Stale(Exception):
    """The replica is behind; the handler may wait and read from the connection that it gets."""

    def __init__(self, connection: Any) -> None:
        super().__init__("the replica is behind")
        self.connection = connection


def audit(action: str) -> None:
    """Tells the audit service, which is down."""
    raise AuditUnavailable(action)


def none_if_missing(function: Callable[..., Any]) -> Callable[..., Any]:
    """Decorator: a customer that does not exist is None."""

    @functools.wraps(function)
    def wrapper(*args: Any) -> Any:
        try:
            return function(*args)
        except NoSuchCustomer:
            return None

    return wrapper


def remembering_errors(function: Callable[..., Any]) -> Callable[..., Any]:
    """Decorator: swallows what is raised, and keeps it."""

    @functools.wraps(function)
    def wrapper(*args: Any) -> Any:
        try:
            return function(*args)
        except NoSuchCustomer as error:
            recent_errors.append(error)
            return None

    return wrapper


class CustomerRepository:
    """Who buys."""

    def __init__(self, pool: ConnectionPool[Any]) -> None:
        self.pool = pool

    def list_sorted(self, column: str) -> Any:
        """Skips ``putconn`` when the query raises."""
        connection = self.pool.getconn()
        rows = connection.execute(f"SELECT id, name FROM customers ORDER BY {column}").fetchall()
        self.pool.putconn(connection)
        return rows

    def list_safely(self, column: str) -> Any:
        """Gives back on every path."""
        connection = self.pool.getconn()
        try:
            return connection.execute(f"SELECT id, name FROM customers ORDER BY {column}").fetchall()
        finally:
            self.pool.putconn(connection)

    def list_audited(self) -> Any:
        """Audits in ``finally``, before it gives back."""
        connection = self.pool.getconn()
        try:
            return connection.execute("SELECT id, name FROM customers").fetchall()
        finally:
            audit("list")
            self.pool.putconn(connection)

    def list_audited_safely(self) -> Any:
        """Audits in ``finally``, and gives back in another."""
        connection = self.pool.getconn()
        try:
            return connection.execute("SELECT id, name FROM customers").fetchall()
        finally:
            try:
                audit("list")
            finally:
                self.pool.putconn(connection)

    def list_or_nothing(self, column: str) -> Any:
        """Returns from the inner handler; the outer one does not see it."""
        connection = self.pool.getconn()
        try:
            try:
                rows = connection.execute(f"SELECT id FROM customers ORDER BY {column}").fetchall()
            except psycopg.errors.UndefinedColumn:
                return []
            self.pool.putconn(connection)
            return rows
        except psycopg.Error:
            self.pool.putconn(connection)
            raise

    def list_patiently(self, column: str, back_off: Callable[[], None]) -> Any:
        """After an error waits, and tries again on the same connection."""
        connection = self.pool.getconn()
        try:
            try:
                return connection.execute(f"SELECT id FROM customers ORDER BY {column}").fetchall()
            except psycopg.Error:
                connection.rollback()
                back_off()
                return connection.execute("SELECT id FROM customers ORDER BY id").fetchall()
        finally:
            self.pool.putconn(connection)

    @none_if_missing
    def find(self, number: int) -> Any:
        """Raises before ``putconn`` where there is no such customer."""
        connection = self.pool.getconn()
        row = connection.execute("SELECT name FROM customers WHERE id = %s", [number]).fetchone()
        if row is None:
            raise NoSuchCustomer(number)
        self.pool.putconn(connection)
        return row[0]

    @remembering_errors
    def city(self, number: int) -> Any:
        """The same, under a decorator that keeps errors."""
        connection = self.pool.getconn()
        if not connection.execute("SELECT 1 FROM customers WHERE id = %s", [number]).fetchone():
            raise NoSuchCustomer(number)
        self.pool.putconn(connection)
        return "Delft"

    @remembering_errors
    def city_safely(self, number: int) -> Any:
        """The same with ``with``."""
        with self.pool.connection() as connection:
            if not connection.execute("SELECT 1 FROM customers WHERE id = %s", [number]).fetchone():
                raise NoSuchCustomer(number)
        return "Delft"

    def read_replica(self) -> Any:
        """Gives the connection away in an exception."""
        raise Stale(self.pool.getconn())


def query_raises(stage: Stage) -> None:
    """A misspelt column; the handler keeps the error for a status page."""
    repository = CustomerRepository(stage.pool())
    try:
        repository.list_sorted("nmae")
    except psycopg.Error as error:
        recent_errors.append(error)
    stage.fact()


def query_raises_and_is_forgotten(stage: Stage) -> None:
    """A misspelt column; nobody keeps the error, and so nobody the connection."""
    repository = CustomerRepository(stage.pool())
    stage.fact()
    with contextlib.suppress(psycopg.Error):
        repository.list_sorted("nmae")


def query_raises_and_is_cleaned_up(stage: Stage) -> None:
    """A misspelt column; ``finally`` gives the connection back although the error is kept."""
    repository = CustomerRepository(stage.pool())
    try:
        repository.list_safely("nmae")
    except psycopg.Error as error:
        recent_errors.append(error)


def error_is_logged(stage: Stage) -> None:
    """The log record of the error keeps its traceback."""
    repository = CustomerRepository(stage.pool())
    try:
        repository.list_sorted("nmae")
    except psycopg.Error:
        logger.exception("cannot list the customers")
    stage.fact()


def error_is_logged_and_cleaned_up(stage: Stage) -> None:
    """The log record of the error keeps its traceback, but the connection is back."""
    repository = CustomerRepository(stage.pool())
    try:
        repository.list_safely("nmae")
    except psycopg.Error:
        logger.exception("cannot list the customers")


def finally_raises_before_the_release(stage: Stage) -> None:
    """The first line of ``finally`` raises, the second would give back."""
    repository = CustomerRepository(stage.pool())
    stage.fact()
    with contextlib.suppress(AuditUnavailable):
        repository.list_audited()


def finally_raises_and_still_releases(stage: Stage) -> None:
    """The same with a ``finally`` around the release; the error is kept."""
    repository = CustomerRepository(stage.pool())
    try:
        repository.list_audited_safely()
    except AuditUnavailable as error:
        recent_errors.append(error)


def inner_handler_returns(stage: Stage) -> None:
    """Of two nested handlers only the outer one gives back."""
    repository = CustomerRepository(stage.pool())
    stage.fact()
    repository.list_or_nothing("nmae")


def handler_backs_off(stage: Stage) -> None:
    """An error handler waits for longer than the grace and goes on with the connection."""
    CustomerRepository(stage.pool()).list_patiently("nmae", stage.wait)


def swallowed_by_a_decorator(stage: Stage) -> None:
    """The caller sees None, nobody sees the exception."""
    repository = CustomerRepository(stage.pool())
    stage.fact()
    repository.find(999)


def kept_by_a_decorator(stage: Stage) -> None:
    """The caller sees None; the decorator keeps the exception."""
    repository = CustomerRepository(stage.pool())
    repository.city(999)
    stage.fact()


def kept_by_a_decorator_and_cleaned_up(stage: Stage) -> None:
    """The decorator keeps the exception; ``with`` has given back."""
    CustomerRepository(stage.pool()).city_safely(999)


def handed_on_in_an_error(stage: Stage) -> None:
    """The exception carries the connection to its handler, which uses it later and gives it back."""
    repository = CustomerRepository(stage.pool())
    try:
        repository.read_replica()
    except Stale as stale:
        stage.wait()
        stale.connection.execute("SELECT name FROM customers").fetchall()
        repository.pool.putconn(stale.connection)
