"""Orders over psycopg_pool: its classes, its callbacks, its closing, and what it refuses."""

from __future__ import annotations

import contextlib
import logging
import threading
from typing import Any

import psycopg
from psycopg_pool import ConnectionPool, NullConnectionPool, PoolTimeout

from tests.corpus.stage import Stage

type Pool = ConnectionPool[Any]

logger = logging.getLogger(__name__)


class OrderRepository:
    """Takes connections from any pool."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool

    def count(self) -> Any:
        """Gives back."""
        with self.pool.connection() as connection:
            return connection.execute("SELECT count(*) FROM customers").fetchone()

    def count_slowly(self, stage: Stage) -> Any:
        """Gives back, after a while."""
        with self.pool.connection() as connection:
            stage.wait()
            return connection.execute("SELECT count(*) FROM customers").fetchone()

    def first_after(self, number: int) -> Any:
        """Skips ``putconn`` when there is none."""
        connection = self.pool.getconn()
        row = connection.execute("SELECT name FROM customers WHERE id > %s", (number,)).fetchone()
        if row is None:
            return None
        self.pool.putconn(connection)
        return row[0]

    def close_after_use(self) -> Any:
        """Closes its connection; whether that gives it back is up to the pool."""
        connection = self.pool.getconn()
        row = connection.execute("SELECT count(*) FROM customers").fetchone()
        connection.close()
        return row

    def closed_after(self, stage: Stage) -> None:
        """The same, after a while."""
        connection = self.pool.getconn()
        connection.execute("SELECT count(*) FROM customers").fetchone()
        stage.wait()
        connection.close()

    def count_if_free(self) -> Any:
        """None rather than a long wait for a connection."""
        try:
            connection = self.pool.getconn(timeout=0.2)
        except PoolTimeout:
            return None
        try:
            return connection.execute("SELECT count(*) FROM customers").fetchone()
        finally:
            self.pool.putconn(connection)

    def give_to(self, other: Pool) -> None:
        """Gives back to a pool, which may be the wrong one, and takes an error for a trifle."""
        connection = self.pool.getconn()
        connection.execute("SELECT name FROM customers").fetchall()
        try:
            other.putconn(connection)
        except ValueError as error:
            logger.info("not given back: %s", error)


def end_session(dsn: str, server_pid: int) -> None:
    """What an administrator does, or a restart of the server."""
    with psycopg.connect(dsn) as connection:
        connection.execute("SELECT pg_terminate_backend(%s, 5000)", (server_pid,))


def warm_up(stage: Stage) -> None:
    """A pool fills itself, and keeps its connections idle."""
    pool = stage.pool(min_size=4)
    pool.wait()
    OrderRepository(pool).count()
    stage.wait()


def null_pool(stage: Stage) -> None:
    """A pool that keeps nothing: each connection is made for its user and closed after it."""
    with NullConnectionPool(stage.dsn, open=True, max_size=2) as pool:
        OrderRepository(pool).count_slowly(stage)
        OrderRepository(pool).count()


def null_pool_is_forgotten(stage: Stage) -> None:
    """A connection of a pool that keeps nothing is not given back."""
    with NullConnectionPool(stage.dsn, open=True, max_size=2) as pool:
        repository = OrderRepository(pool)
        repository.count()
        stage.fact()
        repository.first_after(3)


def close_returns(stage: Stage) -> None:
    """A pool whose connections come back when they are closed."""
    repository = OrderRepository(stage.pool(close_returns=True, max_size=1))
    repository.closed_after(stage)
    repository.count()


def close_does_not_return(stage: Stage) -> None:
    """A pool whose connections do not come back when they are closed: its slot is lost."""
    repository = OrderRepository(stage.pool())
    repository.pool.wait()
    stage.fact()
    repository.close_after_use()


def closed_before_it_comes_back(stage: Stage) -> None:
    """The pool is closed while a connection is out, which is given back much later."""
    pool = stage.pool()
    with pool.connection() as connection:
        pool.close()
        stage.wait()
        connection.execute("SELECT count(*) FROM customers").fetchone()


def drained_before_it_comes_back(stage: Stage) -> None:
    """The pool is drained while a connection is out, which is given back much later, and closed."""
    pool = stage.pool()
    connection = pool.getconn()
    pool.drain()
    stage.wait()
    connection.execute("SELECT count(*) FROM customers").fetchone()
    pool.putconn(connection)
    OrderRepository(pool).count()


def given_back_twice(stage: Stage) -> None:
    """The second ``putconn`` is refused, and does no harm to whoever comes next."""
    pool = stage.pool(max_size=1)
    connection = pool.getconn()
    pool.putconn(connection)
    with contextlib.suppress(ValueError):
        pool.putconn(connection)
    OrderRepository(pool).count_slowly(stage)


def given_back_twice_while_in_use(stage: Stage) -> None:
    """The second ``putconn`` gives back what somebody else has by now, and who is then refused."""
    pool = stage.pool(max_size=1)
    in_use = threading.Event()

    def use() -> None:
        with contextlib.suppress(ValueError), pool.connection() as mine:
            in_use.set()
            stage.wait()
            mine.execute("SELECT count(*) FROM customers").fetchone()

    connection = pool.getconn()
    pool.putconn(connection)
    user = threading.Thread(target=use)
    user.start()
    in_use.wait()
    pool.putconn(connection)
    user.join()


def given_to_the_wrong_pool(stage: Stage) -> None:
    """Another pool refuses the connection, and nobody minds."""
    orders, reports = stage.pool(), stage.pool(name="reports")
    orders.wait()
    stage.fact()
    OrderRepository(orders).give_to(reports)


def given_to_the_right_pool_at_last(stage: Stage) -> None:
    """Another pool refuses the connection; its own gets it much later."""
    orders, reports = stage.pool(), stage.pool(name="reports")
    connection = orders.getconn()
    try:
        reports.putconn(connection)
    except ValueError:
        stage.wait()
        orders.putconn(connection)


def timeout_while_acquiring(stage: Stage) -> None:
    """The only connection is in use for long; others give up waiting."""
    repository = OrderRepository(stage.pool(max_size=1))
    with repository.pool.connection():
        assert repository.count_if_free() is None
        stage.wait()
        assert repository.count_if_free() is None


def callbacks(stage: Stage) -> None:
    """The pool's callbacks use its connections before they are given out and when they have come back."""

    def configure(connection: psycopg.Connection[Any]) -> None:
        connection.execute("SET statement_timeout = '10s'")
        connection.commit()

    def reset(connection: psycopg.Connection[Any]) -> None:
        connection.execute("DISCARD TEMP")
        connection.commit()

    pool = stage.pool(configure=configure, check=ConnectionPool.check_connection, reset=reset)
    repository = OrderRepository(pool)
    repository.count_slowly(stage)
    repository.count()


def check_replaces(stage: Stage) -> None:
    """The server has ended an idle session; the pool's check finds out and gives out another one."""
    pool = stage.pool(check=ConnectionPool.check_connection)
    with pool.connection() as connection:
        server_pid = connection.info.backend_pid
    end_session(stage.dsn, server_pid)
    OrderRepository(pool).count_slowly(stage)


def reset_fails(stage: Stage) -> None:
    """The reset of a connection that has come back fails: the pool replaces it."""

    def reset(connection: psycopg.Connection[Any]) -> None:
        connection.execute("RESET no_such_setting")

    pool = stage.pool(reset=reset)
    OrderRepository(pool).count()
    stage.wait()
    OrderRepository(pool).count()


def broken_and_given_back(stage: Stage) -> None:
    """The server ends the session of a connection in use; it is given back all the same, much later."""
    pool = stage.pool()
    connection = pool.getconn()
    try:
        end_session(stage.dsn, connection.info.backend_pid)
        connection.execute("SELECT count(*) FROM customers")
    except psycopg.OperationalError:
        stage.wait()
    finally:
        pool.putconn(connection)


def broken_and_forgotten(stage: Stage) -> None:
    """The server ends the session of a connection in use; the pool never hears of it."""
    pool = stage.pool()

    def count_unlucky() -> Any:
        connection = pool.getconn()
        end_session(stage.dsn, connection.info.backend_pid)
        stage.fact()
        try:
            row = connection.execute("SELECT count(*) FROM customers").fetchone()
        except psycopg.OperationalError:
            return None
        pool.putconn(connection)
        return row

    count_unlucky()
