"""Bookings in two databases: prepared here and there, and committed by a coordinator."""

from __future__ import annotations

import contextlib
from typing import Any

import psycopg
from psycopg_pool import ConnectionPool

from tests.corpus.stage import Stage

BEFORE = ["customer 1", "customer 2", "customer 3"]


class PaymentRefused(Exception):
    """The other side does not take part."""


class Booking:
    """One side of a booking."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn

    def begin(self, number: str) -> Any:
        """A connection with a transaction of this number, in which something is written."""
        connection = psycopg.connect(self.dsn)
        connection.tpc_begin(connection.xid(1, number, "booking"))
        connection.execute("INSERT INTO customers VALUES (4, 'Ada')")
        return connection

    def prepare(self, number: str) -> None:
        """Prepares, and closes: the transaction is the server's now."""
        connection = self.begin(number)
        connection.tpc_prepare()
        connection.close()

    def prepare_by_text(self, number: str) -> None:
        """The same by statements, and closes."""
        connection = psycopg.connect(self.dsn)
        connection.execute("INSERT INTO customers VALUES (4, 'Ada')")
        connection.execute(f"PREPARE TRANSACTION 'booking {number}'")
        connection.close()

    def book(self, number: str) -> None:
        """Prepares and commits by itself."""
        connection = self.begin(number)
        connection.tpc_prepare()
        connection.tpc_commit()
        connection.close()

    def book_alone(self, number: str) -> None:
        """Commits without having prepared: one phase is enough."""
        connection = self.begin(number)
        connection.tpc_commit()
        connection.close()

    def book_and_think_better(self, number: str) -> None:
        """Rolls back after having prepared."""
        connection = self.begin(number)
        connection.tpc_prepare()
        connection.tpc_rollback()
        connection.close()

    def book_and_forget(self, number: str) -> None:
        """Closes before having prepared."""
        connection = self.begin(number)
        connection.close()

    def book_refused(self, number: str) -> None:
        """The other side refuses before this one has prepared."""
        connection = self.begin(number)
        try:
            raise PaymentRefused(number)
        finally:
            connection.close()

    def book_from_pool(self, pool: ConnectionPool[Any], number: str) -> None:
        """Gives back before having prepared."""
        connection = pool.getconn()
        connection.tpc_begin(connection.xid(1, number, "booking"))
        connection.execute("INSERT INTO customers VALUES (4, 'Ada')")
        pool.putconn(connection)

    def finish(self, *, commit: bool) -> int:
        """What the coordinator does for all that is prepared here; how many there were."""
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            mine = [xid for xid in connection.tpc_recover() if xid.gtrid == number_of(self.dsn)]
            for xid in mine:
                if commit:
                    connection.tpc_commit(xid)
                else:
                    connection.tpc_rollback(xid)
            return len(mine)

    def finish_by_text(self, number: str) -> None:
        """The same for one of them, by a statement."""
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            connection.execute(f"COMMIT PREPARED 'booking {number}'")


def number_of(dsn: str) -> str:
    """A number that no other scenario has: that of its schema."""
    return dsn.rpartition("search_path=")[2].strip("'")


def prepared_and_closed(stage: Stage) -> None:
    """Prepared, closed, and committed by the coordinator over another connection."""
    booking = Booking(stage.dsn)
    booking.prepare(number_of(stage.dsn))
    assert stage.names() == BEFORE
    assert booking.finish(commit=True) == 1
    assert stage.names() == [*BEFORE, "Ada"]


def prepared_and_rolled_back_elsewhere(stage: Stage) -> None:
    """Prepared, closed, and rolled back by the coordinator over another connection."""
    booking = Booking(stage.dsn)
    booking.prepare(number_of(stage.dsn))
    assert booking.finish(commit=False) == 1
    assert stage.names() == BEFORE


def prepared_by_text(stage: Stage) -> None:
    """The same by statements: prepared, closed, and committed over another connection."""
    booking, number = Booking(stage.dsn), number_of(stage.dsn)
    booking.prepare_by_text(number)
    booking.finish_by_text(number)
    assert stage.names() == [*BEFORE, "Ada"]


def prepared_and_committed(stage: Stage) -> None:
    """Prepared and committed over the same connection."""
    Booking(stage.dsn).book(number_of(stage.dsn))
    assert stage.names() == [*BEFORE, "Ada"]


def committed_in_one_phase(stage: Stage) -> None:
    """Committed without having been prepared."""
    Booking(stage.dsn).book_alone(number_of(stage.dsn))
    assert stage.names() == [*BEFORE, "Ada"]


def prepared_and_rolled_back(stage: Stage) -> None:
    """Prepared, and rolled back over the same connection."""
    Booking(stage.dsn).book_and_think_better(number_of(stage.dsn))
    assert stage.names() == BEFORE


def never_prepared(stage: Stage) -> None:
    """Begun, and closed before it was prepared: the row is not there."""
    stage.fact()
    Booking(stage.dsn).book_and_forget(number_of(stage.dsn))
    assert stage.names() == BEFORE


def never_prepared_and_given_back(stage: Stage) -> None:
    """Begun, and given back to the pool before it was prepared: the row is not there."""
    pool = stage.pool()
    stage.fact()
    Booking(stage.dsn).book_from_pool(pool, number_of(stage.dsn))
    assert stage.names() == BEFORE


def refused_by_the_other_side(stage: Stage) -> None:
    """An exception comes before it is prepared; ``finally`` closes."""
    with contextlib.suppress(PaymentRefused):
        Booking(stage.dsn).book_refused(number_of(stage.dsn))
    assert stage.names() == BEFORE
