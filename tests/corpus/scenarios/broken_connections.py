"""Connections that the server has closed: those of a pool must be given back all the same."""

from __future__ import annotations

import contextlib
from collections import deque
from typing import Any, Self

import psycopg
from psycopg_pool import ConnectionPool

from tests.corpus.stage import Stage

recent_errors: deque[Exception] = deque(maxlen=20)
"""The last errors, for a status page."""


class Session:
    """Rolls back before it gives back: a connection that the server has closed refuses, and is lost."""

    def __init__(self, pool: ConnectionPool[Any]) -> None:
        self.pool = pool

    def __enter__(self) -> Self:
        self.connection = self.pool.getconn()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is not None:
            self.connection.rollback()
        self.pool.putconn(self.connection)


class SafeSession(Session):
    """Gives back whatever happens; the pool throws away what is broken."""

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            if kind is not None:
                self.connection.rollback()
        finally:
            self.pool.putconn(self.connection)


def end_backend(session: Session) -> None:
    """Makes the server end this session, as a restart of the server does."""
    with session:
        session.connection.execute("SELECT pg_terminate_backend(pg_backend_pid())")


def lost_in_an_exit(stage: Stage) -> None:
    """The server ends the session; ``__exit__`` raises before it gives the broken connection back."""
    session = Session(stage.pool())
    with contextlib.suppress(psycopg.Error):
        end_backend(session)
    stage.fact()
    del session


def broken_and_given_back(stage: Stage) -> None:
    """The server ends the session; ``__exit__`` raises too, but gives the broken connection back."""
    session = SafeSession(stage.pool())
    try:
        end_backend(session)
    except psycopg.Error as error:
        recent_errors.append(error)


def broken_and_forgotten(stage: Stage) -> None:
    """The server ends a session that no pool counts: there is nothing left to give back."""

    def ping() -> None:
        psycopg.connect(stage.dsn).execute("SELECT pg_terminate_backend(pg_backend_pid())")

    with contextlib.suppress(psycopg.Error):
        ping()
