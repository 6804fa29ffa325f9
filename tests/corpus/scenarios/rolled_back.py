"""Writes and exceptions: a rollback that is meant, and one that nobody thought of."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator
from typing import Any, Self

import psycopg
from psycopg_pool import ConnectionPool

from tests.corpus.stage import Stage

type Pool = ConnectionPool[Any]

ADD = "INSERT INTO customers (id, name) VALUES (%s, %s)"
BEFORE = ["customer 1", "customer 2", "customer 3"]

logger = logging.getLogger(__name__)


class MailUnavailable(ConnectionError):
    """The mail server does not answer."""


def greet(name: str) -> None:
    """Sends a mail, which fails."""
    raise MailUnavailable(name)


@contextlib.contextmanager
def unit_of_work(pool: Pool) -> Iterator[Any]:
    """Commits, or rolls back, and gives back."""
    connection = pool.getconn()
    try:
        yield connection
        connection.commit()
    except BaseException:
        connection.rollback()
        raise
    finally:
        pool.putconn(connection)


@contextlib.contextmanager
def lent(pool: Pool) -> Iterator[Any]:
    """Only gives back: to commit is up to whoever has it."""
    connection = pool.getconn()
    try:
        yield connection
    finally:
        pool.putconn(connection)


class Lent:
    """The same as a class."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool

    def __enter__(self) -> Self:
        self.connection = self.pool.getconn()
        return self

    def __exit__(self, *_: object) -> None:
        self.pool.putconn(self.connection)


class Registration:
    """Adds customers, and greets them."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool

    def add(self, name: str) -> None:
        """Gives back on every path; an exception comes before the commit."""
        connection = self.pool.getconn()
        try:
            connection.execute(ADD, (4, name))
            greet(name)
            connection.commit()
        finally:
            self.pool.putconn(connection)

    def add_or_not(self, name: str) -> bool:
        """Gives back in the handler, and knows that nothing is added."""
        connection = self.pool.getconn()
        try:
            connection.execute(ADD, (4, name))
            greet(name)
        except MailUnavailable:
            self.pool.putconn(connection)
            return False
        connection.commit()
        self.pool.putconn(connection)
        return True

    def add_and_hope(self, name: str) -> None:
        """Logs the error that came before the commit, and goes on as if nothing had happened."""
        connection = self.pool.getconn()
        connection.execute(ADD, (4, name))
        try:
            greet(name)
            connection.commit()
        except MailUnavailable as error:
            logger.info("not greeted: %s", error)
        self.pool.putconn(connection)

    def add_and_roll_back(self, name: str) -> None:
        """Rolls back in the handler, and gives back when that is over."""
        connection = self.pool.getconn()
        try:
            connection.execute(ADD, (4, name))
            greet(name)
            connection.commit()
        except MailUnavailable:
            connection.rollback()
        self.pool.putconn(connection)

    def add_in_unit(self, name: str) -> None:
        """Leaves everything to the unit of work."""
        with unit_of_work(self.pool) as connection:
            connection.execute(ADD, (4, name))
            greet(name)

    def add_lent(self, name: str, *, silent: bool) -> None:
        """Writes with a connection that is lent, and forgets to commit."""
        with lent(self.pool) as connection:
            connection.execute(ADD, (4, name))
            if not silent:
                greet(name)

    def add_lent_by_class(self, name: str) -> None:
        """The same with the class."""
        with Lent(self.pool) as loan:
            loan.connection.execute(ADD, (4, name))
            greet(name)

    def add_on_stack(self, name: str) -> None:
        """An exit stack gives back."""
        with contextlib.ExitStack() as stack:
            connection = self.pool.getconn()
            stack.callback(self.pool.putconn, connection)
            connection.execute(ADD, (4, name))
            greet(name)

    def add_twice(self, name: str) -> None:
        """The second row violates a constraint: the server has aborted the transaction."""
        connection = self.pool.getconn()
        try:
            connection.execute("INSERT INTO accounts VALUES (1)")
            connection.execute("INSERT INTO accounts VALUES (1)")
        except psycopg.errors.UniqueViolation as error:
            logger.info("%s: %s", name, error)
        self.pool.putconn(connection)

    def add_with_late_check(self) -> None:
        """The constraint is checked at the commit, which fails."""
        connection = self.pool.getconn()
        try:
            connection.execute("INSERT INTO accounts VALUES (1), (1)")
            connection.commit()
        except psycopg.errors.UniqueViolation as error:
            logger.info("%s", error)
        self.pool.putconn(connection)

    def lose_server(self, dsn: str) -> None:
        """The server ends the session in the middle; there is nothing left to commit."""
        connection = self.pool.getconn()
        try:
            connection.execute(ADD, (4, "Ada"))
            with psycopg.connect(dsn, autocommit=True) as administrator:
                administrator.execute("SELECT pg_terminate_backend(%s, 5000)", (connection.info.backend_pid,))
            connection.commit()
        except psycopg.OperationalError as error:
            logger.info("%s", error)
        self.pool.putconn(connection)

    def stop_the_program(self) -> None:
        """There is no point in going on."""
        with lent(self.pool) as connection:
            connection.execute(ADD, (4, "Ada"))
            sys.exit(0)


def with_accounts(stage: Stage, constraint: str) -> Registration:
    """A registration with a table of accounts."""
    with psycopg.connect(stage.dsn) as connection:
        connection.execute(f"CREATE TABLE accounts (id integer UNIQUE {constraint})")
    return Registration(stage.pool())


def finally_gives_back(stage: Stage) -> None:
    """An exception comes before the commit; ``finally`` gives back."""
    with contextlib.suppress(MailUnavailable):
        Registration(stage.pool()).add("Ada")
    assert stage.names() == BEFORE


def handler_gives_back(stage: Stage) -> None:
    """An exception comes before the commit; its handler gives back."""
    assert not Registration(stage.pool()).add_or_not("Ada")
    assert stage.names() == BEFORE


def swallowed_before_the_commit(stage: Stage) -> None:
    """An exception comes before the commit and is swallowed; then the connection is given back."""
    registration = Registration(stage.pool())
    stage.fact()
    registration.add_and_hope("Ada")
    assert stage.names() == BEFORE


def handler_rolls_back(stage: Stage) -> None:
    """An exception comes before the commit; its handler rolls back, and then the connection is given back."""
    Registration(stage.pool()).add_and_roll_back("Ada")


def unit_of_work_rolls_back(stage: Stage) -> None:
    """A unit of work made of a generator rolls back and raises again."""
    with contextlib.suppress(MailUnavailable):
        Registration(stage.pool()).add_in_unit("Ada")
    assert stage.names() == BEFORE


def generator_gives_back(stage: Stage) -> None:
    """An exception goes through a generator, which gives back."""
    with contextlib.suppress(MailUnavailable):
        Registration(stage.pool()).add_lent("Ada", silent=False)


def generator_gives_back_uncommitted(stage: Stage) -> None:
    """A generator gives back, no exception goes through it, and nobody has committed."""
    registration = Registration(stage.pool())
    stage.fact()
    registration.add_lent("Ada", silent=True)
    assert stage.names() == BEFORE


def class_gives_back(stage: Stage) -> None:
    """``__exit__`` gives back because of an exception."""
    with contextlib.suppress(MailUnavailable):
        Registration(stage.pool()).add_lent_by_class("Ada")


def exit_stack_gives_back(stage: Stage) -> None:
    """An exit stack gives back because of an exception."""
    with contextlib.suppress(MailUnavailable):
        Registration(stage.pool()).add_on_stack("Ada")


def aborted_and_given_back(stage: Stage) -> None:
    """The server has aborted the transaction, and the connection is given back when that is handled."""
    with_accounts(stage, "").add_twice("Ada")


def commit_fails(stage: Stage) -> None:
    """The commit fails; the connection is given back when that is handled."""
    with_accounts(stage, "DEFERRABLE INITIALLY DEFERRED").add_with_late_check()


def server_ends_the_session(stage: Stage) -> None:
    """The server has ended the session, and the connection is given back when that is handled."""
    Registration(stage.pool()).lose_server(stage.dsn)
    assert stage.names() == BEFORE


def program_is_stopped(stage: Stage) -> None:
    """``sys.exit`` leaves a block that has written."""
    Registration(stage.pool()).stop_the_program()
