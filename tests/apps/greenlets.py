# ruff: noqa: INP001, E402 - a program of its own, that patches before it imports, as gevent asks for
"""A service on gevent, whose threads are greenlets. One request leaks, the others hold beyond the grace."""

from gevent import monkey  # type: ignore[import-untyped] # its stubs are one more package

monkey.patch_all()

import logging
import os
import time
from typing import Any

import gevent
from psycopg_pool import ConnectionPool

logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
logging.getLogger("psycopg").setLevel(logging.ERROR)

logger = logging.getLogger("shop")
recent_errors: list[Exception] = []
LONGER_THAN_THE_GRACE = 1.0


class Session:
    """Connects at the first query, like the session of an object-relational mapper."""

    def __init__(self, pool: ConnectionPool[Any]) -> None:
        self._pool = pool
        self._connection: Any = None

    def query(self) -> None:
        """A query of this session."""
        if self._connection is None:
            self._connection = self._pool.getconn()
        self._connection.execute("SELECT pg_sleep(0.05)")

    def close(self) -> None:
        """Give the connection back."""
        self._pool.putconn(self._connection)


def find_customer(pool: ConnectionPool[Any]) -> None:
    """Does not give its connection back when the query raises; the error is kept."""
    connection = pool.getconn()
    try:
        connection.execute("SELECT nonsense")
    except Exception as error:
        recent_errors.append(error)
        return
    pool.putconn(connection)


def request(pool: ConnectionPool[Any]) -> None:
    """A request with a session."""
    session = Session(pool)
    session.query()
    gevent.sleep(LONGER_THAN_THE_GRACE)
    session.close()


def give_back_later(pool: ConnectionPool[Any], connection: Any) -> None:
    """Has the connection of somebody who is over."""
    gevent.sleep(LONGER_THAN_THE_GRACE)
    pool.putconn(connection)


def hand_on(pool: ConnectionPool[Any]) -> None:
    """Leaves its connection to another greenlet, which nothing but gevent's loop knows of."""
    gevent.spawn(give_back_later, pool, pool.getconn())


def main() -> None:
    """Serve requests side by side, and count how often the loop turns meanwhile."""
    with ConnectionPool(os.environ["DSN"], min_size=2, max_size=6, name="orders", open=True) as pool:
        for serve in (request, request, find_customer, hand_on):
            greenlet = gevent.spawn(serve, pool)
            greenlet.name = f"{serve.__name__} of a seller"
        del greenlet
        turns = 0
        end = time.monotonic() + 2 * LONGER_THAN_THE_GRACE
        while time.monotonic() < end:
            gevent.sleep(0.01)
            turns += 1
    logger.info("the loop turned %d times", turns)


if __name__ == "__main__":
    main()
