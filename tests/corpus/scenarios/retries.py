"""What runs in the handler of an error, and has nothing to do with that error."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from typing import Any

from psycopg_pool import ConnectionPool

from tests.corpus.stage import Stage

type Pool = ConnectionPool[Any]

ADD = "INSERT INTO customers (id, name) VALUES (%s, %s)"
BEFORE = ["customer 1", "customer 2", "customer 3"]


class MailUnavailable(ConnectionError):
    """The mail server does not answer."""


def greet(name: str) -> None:
    """Sends a mail, which fails."""
    raise MailUnavailable(name)


def tries_twice(function: Callable[..., None]) -> Callable[..., None]:
    """Decorator: a second attempt in the handler of the first."""

    @functools.wraps(function)
    def wrapper(*args: Any) -> None:
        try:
            function(*args, "first")
        except MailUnavailable:
            function(*args, "second")

    return wrapper


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

    def add_again(self, name: str) -> None:
        """Tries once more, on another connection, in the handler of the first attempt; forgets to commit."""
        try:
            self.add(name)
        except MailUnavailable:
            connection = self.pool.getconn()
            connection.execute(ADD, (4, name))
            self.pool.putconn(connection)

    def add_again_and_commit(self, name: str) -> None:
        """The same, and commits."""
        try:
            self.add(name)
        except MailUnavailable:
            with self.pool.connection() as connection:
                connection.execute(ADD, (4, name))

    def add_again_in_vain(self, name: str) -> None:
        """The second attempt, in the handler of the first, fails too."""
        try:
            self.add(name)
        except MailUnavailable:
            self.add(name)

    def add_again_on_the_same(self, name: str) -> None:
        """Rolls the first attempt back and tries again on the same connection; forgets to commit."""
        connection = self.pool.getconn()
        try:
            connection.execute(ADD, (4, name))
            greet(name)
            connection.commit()
        except MailUnavailable:
            connection.rollback()
            connection.execute(ADD, (4, name))
            self.pool.putconn(connection)

    @tries_twice
    def add_somehow(self, name: str, attempt: str) -> None:
        """Greets at the first attempt only; forgets to commit at the second."""
        connection = self.pool.getconn()
        try:
            connection.execute(ADD, (4, name))
            if attempt == "first":
                greet(name)
                connection.commit()
        finally:
            self.pool.putconn(connection)

    def record_failure(self, *, commit: bool) -> None:
        """Writes down that something has gone wrong; called while that is handled."""
        connection = self.pool.getconn()
        connection.execute(ADD, (4, "a failure"))
        if commit:
            connection.commit()
        self.pool.putconn(connection)

    def greet_in_between(self, name: str, *, commit: bool) -> None:
        """An error is handled in the midst of the transaction, and is over when it ends."""
        connection = self.pool.getconn()
        connection.execute(ADD, (4, name))
        with contextlib.suppress(MailUnavailable):
            greet(name)
        if commit:
            connection.commit()
        self.pool.putconn(connection)


def failure_is_recorded(stage: Stage) -> None:
    """An error handler calls a function that writes and commits."""
    registration = Registration(stage.pool())
    try:
        greet("Ada")
    except MailUnavailable:
        registration.record_failure(commit=True)
    assert stage.names() == [*BEFORE, "a failure"]


def failure_is_not_recorded(stage: Stage) -> None:
    """An error handler calls a function that writes and forgets to commit: not because of the error."""
    registration = Registration(stage.pool())
    try:
        greet("Ada")
    except MailUnavailable:
        stage.fact()
        registration.record_failure(commit=False)
    assert stage.names() == BEFORE


def second_attempt_forgets_to_commit(stage: Stage) -> None:
    """The second attempt runs in the handler of the first, and forgets to commit: the row is not there."""
    registration = Registration(stage.pool())
    stage.fact()
    registration.add_again("Ada")
    assert stage.names() == BEFORE


def second_attempt_commits(stage: Stage) -> None:
    """The second attempt runs in the handler of the first, and commits."""
    Registration(stage.pool()).add_again_and_commit("Ada")
    assert stage.names() == [*BEFORE, "Ada"]


def second_attempt_fails(stage: Stage) -> None:
    """Both attempts fail, the second in the handler of the first."""
    with contextlib.suppress(MailUnavailable):
        Registration(stage.pool()).add_again_in_vain("Ada")
    assert stage.names() == BEFORE


def second_attempt_on_the_same_connection(stage: Stage) -> None:
    """The first attempt is rolled back, the second, on the same connection, is not committed."""
    registration = Registration(stage.pool())
    stage.fact()
    registration.add_again_on_the_same("Ada")
    assert stage.names() == BEFORE


def second_attempt_by_a_decorator(stage: Stage) -> None:
    """A decorator calls again, and the function forgets to commit then."""
    registration = Registration(stage.pool())
    stage.fact()
    registration.add_somehow("Ada")
    assert stage.names() == BEFORE


def error_in_between(stage: Stage) -> None:
    """An error is over and done with when the connection is given back, uncommitted."""
    registration = Registration(stage.pool())
    stage.fact()
    registration.greet_in_between("Ada", commit=False)
    assert stage.names() == BEFORE


def error_in_between_and_committed(stage: Stage) -> None:
    """An error is over and done with, and the write is committed."""
    Registration(stage.pool()).greet_in_between("Ada", commit=True)
    assert stage.names() == [*BEFORE, "Ada"]
