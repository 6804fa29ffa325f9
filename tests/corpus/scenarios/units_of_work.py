"""Units of work and sessions: classes that keep a connection on themselves."""

from __future__ import annotations

import contextlib
from collections import deque
from dataclasses import dataclass, field
from typing import Any, Self

import psycopg
from psycopg_pool import ConnectionPool

from tests.corpus.stage import Stage

type Pool = ConnectionPool[Any]

recent_errors: deque[Exception] = deque(maxlen=20)
"""The last errors, for a status page."""


class UnitOfWork:
    """Opened by ``with``, or by `start` and `finish`."""

    def __init__(self, pool: Pool, search_path: str = "public") -> None:
        self.pool = pool
        self.search_path = search_path

    def __enter__(self) -> Self:
        self.start()
        self.connection.execute(f"SET search_path TO {self.search_path}")
        return self

    def __exit__(self, *_: object) -> None:
        self.finish()

    def start(self) -> None:
        """Acquires."""
        self.connection = self.pool.getconn()

    def finish(self) -> None:
        """Gives back."""
        self.pool.putconn(self.connection)


class CarefulUnitOfWork(UnitOfWork):
    """Gives back as well if it cannot be entered."""

    def __enter__(self) -> Self:
        try:
            return super().__enter__()
        except BaseException:
            self.finish()
            raise


class SilentUnitOfWork:
    """Hands out nothing: nobody but the ``with`` statement refers to it."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    def __enter__(self) -> None:
        self._open()

    def __exit__(self, *_: object) -> None:
        self._pool.putconn(self._connection)

    def _open(self) -> None:
        self._connection = self._pool.getconn()


class EagerRepository:
    """Acquires when it is made."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.connection = pool.getconn()

    def count(self) -> Any:
        """How many customers."""
        return self.connection.execute("SELECT count(*) FROM customers").fetchone()

    def close(self) -> None:
        """Gives back."""
        self.pool.putconn(self.connection)


@dataclass
class Basket:
    """Acquires when it is made, as a dataclass does."""

    pool: Pool
    items: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.connection = self.pool.getconn()

    def close(self) -> None:
        """Gives back."""
        self.pool.putconn(self.connection)


class Session:
    """Connects at the first query, like the session of an object-relational mapper."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._connection: Any = None

    def query(self, statement: str) -> Any:
        """A query of this session."""
        self._ensure()
        return self._connection.execute(statement).fetchall()

    def close(self) -> None:
        """Gives the connection back."""
        if self._connection is not None:
            self._pool.putconn(self._connection)

    def _ensure(self) -> None:
        if self._connection is None:
            self._connection = self._pool.getconn()


class CustomerRepository:
    """Who buys; works with the session that it is given."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def names(self) -> Any:
        """All names."""
        return self.session.query("SELECT name FROM customers")


def import_customers(pool: Pool, search_path: str) -> None:
    """Writes ``with`` around a unit of work."""
    with UnitOfWork(pool, search_path):
        pass


def import_patiently(pool: Pool, stage: Stage) -> None:
    """Keeps the unit of work that could not be entered, and does not think of its connection."""
    unit = UnitOfWork(pool, "'")
    try:
        with unit:
            pass
    except psycopg.Error:
        stage.wait()
    stage.fact()


def import_carefully(pool: Pool, search_path: str) -> None:
    """Writes ``with`` around a careful unit of work."""
    with CarefulUnitOfWork(pool, search_path):
        pass


def count_customers(pool: Pool) -> Any:
    """Does not close the repository that it makes."""
    return EagerRepository(pool).count()


def fill_basket(pool: Pool) -> int:
    """Does not close the basket that it makes."""
    basket = Basket(pool)
    basket.items.append("tea")
    return len(basket.items)


def begin_and_forget(pool: Pool) -> None:
    """Does not finish the unit of work."""
    unit = UnitOfWork(pool)
    unit.start()


def list_names(session: Session) -> Any:
    """Uses the session of the request."""
    return CustomerRepository(session).names()


def enter_raises(stage: Stage) -> None:
    """``__enter__`` acquires and then raises, so that ``__exit__`` is never called."""
    pool = stage.pool()
    stage.fact()
    with contextlib.suppress(psycopg.Error):
        import_customers(pool, "'")


def enter_raises_and_the_error_is_kept(stage: Stage) -> None:
    """The same; the traceback of the error keeps the unit of work."""
    try:
        import_customers(stage.pool(), "'")
    except psycopg.Error as error:
        recent_errors.append(error)
    stage.fact()


def enter_raises_and_the_unit_is_kept(stage: Stage) -> None:
    """The same; the function goes on for long and could still finish the unit of work, but does not."""
    import_patiently(stage.pool(), stage)


def enter_raises_and_cleans_up(stage: Stage) -> None:
    """``__enter__`` acquires, raises, and gives back before; the error is kept."""
    try:
        import_carefully(stage.pool(), "'")
    except psycopg.Error as error:
        recent_errors.append(error)


def made_and_never_closed(stage: Stage) -> None:
    """``__init__`` acquires; whoever made the object does not close it."""
    pool = stage.pool()
    stage.fact()
    count_customers(pool)


def made_and_closed_late(stage: Stage) -> None:
    """``__init__`` acquires; the object is closed late."""
    repository = EagerRepository(stage.pool())
    stage.wait()
    repository.count()
    repository.close()


def dataclass_never_closed(stage: Stage) -> None:
    """``__post_init__`` acquires; whoever made the object does not close it."""
    pool = stage.pool()
    stage.fact()
    fill_basket(pool)


def dataclass_closed_late(stage: Stage) -> None:
    """``__post_init__`` acquires; the object is closed late."""
    with contextlib.closing(Basket(stage.pool())):
        stage.wait()


def started_and_never_finished(stage: Stage) -> None:
    """``start`` acquires, and nobody calls ``finish``."""
    pool = stage.pool()
    stage.fact()
    begin_and_forget(pool)


def started_and_finished_late(stage: Stage) -> None:
    """``start`` acquires, ``finish`` gives back much later."""
    unit = UnitOfWork(stage.pool())
    unit.start()
    stage.wait()
    unit.finish()


def unit_of_work_without_a_name(stage: Stage) -> None:
    """``with SilentUnitOfWork(pool):`` keeps it on the value stack only."""
    with SilentUnitOfWork(stage.pool()):
        stage.wait()


def session_of_a_request(stage: Stage) -> None:
    """Functions of the repository use a session and return; the session lives as long as the request."""
    session = Session(stage.pool())
    try:
        list_names(session)
        stage.wait()
        list_names(session)
    finally:
        session.close()
