"""What is particular to psycopg_pool: its ways to give back, its own connects, its callbacks."""

import threading
from typing import Any

import psycopg
import pytest
from psycopg_pool import NullConnectionPool

from tests.adapters.conftest import MakePool
from tests.support.reports import Reports, acquired, held


class OwnConnection(psycopg.Connection[Any]):
    """An application's own class of connections."""


def test_connection_is_one_hold(make_pool: MakePool, reports: Reports) -> None:
    """``connection()`` makes one hold, which lasts as long as its block."""
    with make_pool().connection() as connection:
        connection.execute("SELECT 1")
        assert held() == 1

    assert held() == 0
    assert reports.hold_names() == ["test_connection_is_one_hold"]


def test_close_returns(make_pool: MakePool, reports: Reports) -> None:
    """With ``close_returns`` a close is a release."""
    pool = make_pool(close_returns=True)
    connection = pool.getconn()
    connection.close()

    assert held() == 0
    assert pool.getconn() is connection
    pool.putconn(connection)
    assert len(reports.hold_names()) == 2


def test_close_is_no_release(make_pool: MakePool, reports: Reports) -> None:
    """Without ``close_returns`` a closed connection still takes its slot, until it is put back."""
    pool = make_pool()
    connection = pool.getconn()
    connection.close()
    assert held() == 1
    pool.putconn(connection)

    assert held() == 0
    assert len(reports.hold_names()) == 1
    with pool.connection():
        pass


def test_closed_and_dropped(make_pool: MakePool, reports: Reports) -> None:
    """A connection that was closed and dropped has lost its slot for good: that is a leak."""
    make_pool().getconn().close()
    leak = reports.leak()

    assert leak.function.endswith(".test_closed_and_dropped")
    assert leak.certainty == "confirmed"
    assert isinstance(leak.attributes["connleak.server.pid"], int)


def test_with_getconn(make_pool: MakePool, reports: Reports) -> None:
    """``with pool.getconn()`` looks right and neither closes nor returns: it is a leak."""

    def list_customers() -> None:
        with pool.getconn() as connection:
            connection.execute("SELECT 1")

    pool = make_pool()
    list_customers()
    leak = reports.leak()

    assert leak.function.endswith("test_with_getconn.list_customers")
    assert leak.certainty == "confirmed"


def test_reset_callback(make_pool: MakePool, reports: Reports) -> None:
    """The reset callback runs in the pool's worker, on nobody's account."""
    pool = make_pool(reset=lambda connection: connection.execute("SELECT 1") and connection.rollback())
    for _ in range(3):
        pool.putconn(pool.getconn())

    assert (acquired(), held()) == (3, 0)
    reports.none()


def test_reset_callback_fails(make_pool: MakePool, reports: Reports) -> None:
    """A connection that cannot be reset is replaced by the pool: the application's release was a release."""

    def reset(_connection: Any) -> None:
        raise psycopg.OperationalError("broken")

    pool = make_pool(reset=reset)
    for _ in range(2):
        pool.putconn(pool.getconn())

    assert (acquired(), held()) == (2, 0)
    reports.none()


def test_second_putconn_before_reset(make_pool: MakePool, reports: Reports) -> None:
    """With a reset callback the pool accepts a connection twice, and gives it out twice: that is no leak."""
    go_on = threading.Event()
    pool = make_pool(reset=lambda _connection: go_on.wait(10) and None)
    connection = pool.getconn()
    pool.putconn(connection)
    pool.putconn(connection)
    go_on.set()
    assert pool.getconn() is connection
    assert pool.getconn() is connection
    pool.putconn(connection)

    assert (acquired(), held()) == (3, 0)
    reports.none()


def test_stale_putconn(make_pool: MakePool, reports: Reports) -> None:
    """A second ``putconn`` after the connection was given out again takes it from its holder."""
    pool = make_pool()
    connection = pool.getconn()
    pool.putconn(connection)
    assert pool.getconn() is connection
    pool.putconn(connection)
    with pytest.raises(ValueError, match="doesn't come from any pool"):
        pool.putconn(connection)

    assert (acquired(), held()) == (2, 0)
    reports.none()


def test_check_callback(make_pool: MakePool, reports: Reports) -> None:
    """A connection that fails its check was never the application's."""
    failures = iter([True, True, False])

    def check(_connection: Any) -> None:
        if next(failures, False):
            raise psycopg.OperationalError("stale")

    with make_pool(check=check).connection():
        assert held() == 1

    assert (acquired(), held()) == (1, 0)


def test_drain_while_held(make_pool: MakePool, reports: Reports) -> None:
    """``drain()`` waits for what is held: its release is a release, its replacement another connection."""
    pool = make_pool(min_size=1)
    connection = pool.getconn()
    pool.drain()
    assert held() == 1
    pool.putconn(connection)
    assert held() == 0
    other = pool.getconn()
    assert other is not connection
    pool.putconn(other)

    assert (acquired(), held()) == (2, 0)
    reports.none()


def test_pool_closed_while_held(make_pool: MakePool, reports: Reports) -> None:
    """What is held when its pool is closed is still held, and can be given back."""
    pool = make_pool()
    connection = pool.getconn()
    pool.close()
    assert held() == 1
    pool.putconn(connection)

    assert held() == 0
    assert connection.closed
    reports.none()


def test_dropped_after_pool_closed(make_pool: MakePool, reports: Reports) -> None:
    """What is dropped when its pool has been closed is a leak all the same."""
    pool = make_pool()
    connection = pool.getconn()
    pool.close()
    del connection

    assert reports.leak().certainty == "confirmed"


def test_null_pool_makes_one_hold(make_pool: MakePool, reports: Reports) -> None:
    """The connect of a null pool, in the application's own thread, is part of its acquire."""
    pool = make_pool(NullConnectionPool)
    with pool.connection():
        assert held() == 1

    assert acquired() == 1
    assert len(reports.hold_names()) == 1


def test_workers_make_no_hold(make_pool: MakePool, reports: Reports) -> None:
    """What the pool's workers connect is nobody's."""
    make_pool(min_size=3, max_size=3).wait()

    assert (acquired(), held()) == (0, 0)
    assert reports.hold_names() == []


def test_own_connection_class(make_pool: MakePool, reports: Reports) -> None:
    """A pool of an application's own connection class is watched like any other."""
    with make_pool(connection_class=OwnConnection).connection() as connection:
        assert type(connection) is OwnConnection
        assert held() == 1

    assert held() == 0
