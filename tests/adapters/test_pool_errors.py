"""What psycopg_pool refuses passes through as it is, and opens or keeps the right holds."""

import asyncio
import threading
from typing import Any

import psycopg
import pytest
from psycopg_pool import AsyncConnectionPool, PoolTimeout, TooManyRequests

from otel_connleak import function_stats
from tests.adapters.conftest import Instrument, MakePool
from tests.support.reports import Reports, acquired, held
from tests.support.waiting import wait_until


def terminate(dsn: str, connection: psycopg.Connection[Any]) -> None:
    """End the server's side of a connection."""
    with psycopg.connect(dsn, autocommit=True) as other:
        other.execute("SELECT pg_terminate_backend(%s)", [connection.info.backend_pid])


def test_timeout(make_pool: MakePool, reports: Reports) -> None:
    """A wait that ends in a timeout is heard as it is, and holds nothing."""
    pool = make_pool()
    with pool.connection():
        with pytest.raises(PoolTimeout, match=r"couldn't get a connection after 0\.05 sec"):
            pool.getconn(timeout=0.05)
        assert held() == 1

    assert acquired() == 1


def test_too_many_requests(make_pool: MakePool, reports: Reports) -> None:
    """A full waiting queue is heard as it is, and who waits in it gets the connection in the end."""
    pool = make_pool(max_waiting=1)
    connection = pool.getconn()
    waiting = threading.Thread(target=lambda: pool.putconn(pool.getconn()))
    waiting.start()
    wait_until(lambda: pool.get_stats().get("requests_waiting"), "a request that waits")
    with pytest.raises(TooManyRequests):
        pool.getconn()
    assert held() == 1
    pool.putconn(connection)
    waiting.join()

    assert (acquired(), held()) == (2, 0)


def test_wrong_pool(make_pool: MakePool, instrument: Instrument) -> None:
    """A pool refuses another's connection: it is still held, and may become overdue."""
    reports = instrument(overdue_after=0.3)
    right, wrong = make_pool(name="right"), make_pool(name="wrong")
    connection = right.getconn()
    with pytest.raises(ValueError, match="it comes from pool 'right'"):
        wrong.putconn(connection)
    assert held() == 1
    leak = reports.leak()
    right.putconn(connection)

    assert leak.evidence == {"overdue"}
    assert reports.recovery().id == leak.id
    assert (acquired(), held()) == (1, 0)
    assert len(reports.hold_names()) == 1


def test_wrong_pool_and_released(make_pool: MakePool, reports: Reports) -> None:
    """A refusal leaves no trace when the right pool gets the connection."""
    right, wrong = make_pool(name="right"), make_pool(name="wrong")
    connection = right.getconn()
    for _ in range(2):
        with pytest.raises(ValueError, match="it comes from pool 'right'"):
            wrong.putconn(connection)
    right.putconn(connection)
    (stats,) = function_stats()

    assert (stats.acquired, stats.released, stats.open) == (1, 1, 0)
    assert len(reports.hold_names()) == 1
    reports.none()


def test_server_gone(make_pool: MakePool, dsn: str, reports: Reports) -> None:
    """A connection that the server has ended is held until it is put back; the error passes."""
    pool = make_pool()
    connection = pool.getconn()
    terminate(dsn, connection)
    with pytest.raises(psycopg.OperationalError):
        connection.execute("SELECT 1")
    assert held() == 1
    pool.putconn(connection)

    assert held() == 0
    with pool.connection() as other:
        assert other is not connection


def test_cancelled_acquire(dsn: str, runner: asyncio.Runner, reports: Reports) -> None:
    """An acquire that is cancelled while it waits holds nothing."""

    async def wait_in_vain() -> None:
        async with (
            AsyncConnectionPool(dsn, min_size=1, max_size=1, num_workers=1, open=False) as pool,
            pool.connection(),
        ):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(pool.getconn(), 0.05)
            assert held() == 1

    runner.run(wait_in_vain())

    assert (acquired(), held()) == (1, 0)
    reports.none()
