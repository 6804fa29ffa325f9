"""``overdue`` with psycopg_pool: idle for too long is reported, busy and long by design is not."""

import threading
import time
from typing import Any

import pytest
from psycopg_pool import ConnectionPool

from otel_connleak import expect_long_hold
from tests.adapters.conftest import Instrument
from tests.adapters.shop import helpers
from tests.adapters.shop.orders import Orders

SOON = 0.3
"""A threshold that is soon over, in seconds."""


def test_overdue(orders: Orders, instrument: Instrument) -> None:
    """What is held and idle for longer than the threshold is reported, though its owner could release."""
    reports = instrument(overdue_after=SOON)
    orders.hold(reports.leak, leak=False)
    leak = reports.leak()

    assert leak.function == "orders.Orders.hold"
    assert (leak.evidence, leak.certainty) == ({"overdue"}, "possible")
    assert leak.attributes["connleak.use_time"] >= leak.attributes["connleak.idle_time"] >= SOON


def test_long_query_is_busy(pool: ConnectionPool[Any], instrument: Instrument) -> None:
    """A query that runs for longer than the threshold is no idle hold."""
    reports = instrument(overdue_after=SOON)
    with pool.connection() as connection:
        connection.execute("SELECT pg_sleep(%s)", [3 * SOON])

    reports.none(0)


def test_idle_after_long_query(pool: ConnectionPool[Any], instrument: Instrument) -> None:
    """After a long query the threshold begins anew."""
    reports = instrument(overdue_after=SOON)
    with pool.connection() as connection:
        connection.execute("SELECT pg_sleep(%s)", [2 * SOON])
        leak = reports.leak()
    attributes = leak.attributes

    assert leak.evidence == {"overdue"}
    assert attributes["connleak.use_time"] >= 3 * SOON
    assert SOON <= attributes["connleak.idle_time"] <= attributes["connleak.use_time"] - 2 * SOON


def test_short_queries_keep_it_in_use(pool: ConnectionPool[Any], instrument: Instrument) -> None:
    """A hold that is used again and again is not overdue, although it is older than the threshold."""
    reports = instrument(overdue_after=3 * SOON)
    end = time.monotonic() + 5 * SOON
    with pool.connection() as connection:
        while time.monotonic() < end:
            connection.execute("SELECT pg_sleep(0.01)")
            time.sleep(0.01)

    reports.none(0)


def test_long_lived(orders: Orders, instrument: Instrument) -> None:
    """What is named in LONG_LIVED never becomes overdue; what it calls does."""
    reports = instrument(overdue_after=SOON, long_lived="*.Orders.hold")
    orders.hold(lambda: orders.use(helpers.checkout, reports.leak), leak=False)

    assert reports.leak().function == "orders.Orders.use"


def test_ignored(orders: Orders, instrument: Instrument) -> None:
    """What is named in IGNORE is never reported, with whatever evidence; other functions are."""
    reports = instrument(overdue_after=SOON, ignore="*.Orders.hold, *.drop_*")
    orders.drop_unit()
    orders.hold(lambda: orders.use(helpers.checkout, reports.leak), leak=True)

    assert reports.leak().function == "orders.Orders.use"
    reports.no_more()


def test_expect_long_hold(orders: Orders, instrument: Instrument) -> None:
    """What is acquired in a block of `expect_long_hold` never becomes overdue, what comes after it does."""
    reports = instrument(overdue_after=SOON)
    with expect_long_hold():
        connection = orders.pool.getconn()
    orders.use(helpers.checkout, reports.leak)
    reports.no_more(SOON)
    orders.pool.putconn(connection)

    assert reports.leak().function == "orders.Orders.use"


def test_expect_long_hold_as_decorator(orders: Orders, instrument: Instrument) -> None:
    """The same for a function that is decorated with it; all other evidence still counts."""
    reports = instrument(overdue_after=SOON)
    expect_long_hold()(orders.use)(helpers.checkout, lambda: reports.none(SOON))
    expect_long_hold()(orders.drop_unit)()

    assert reports.leak().function == "orders.Orders.drop_unit"


def test_waiting_requests(dsn: str, instrument: Instrument, caplog: pytest.LogCaptureFixture) -> None:
    """A report says how many requests wait for a connection of the pool."""
    reports = instrument(overdue_after=SOON)
    with ConnectionPool(dsn, min_size=1, max_size=1, num_workers=1, name="small", open=True) as pool:
        waiting = threading.Thread(target=Orders(pool).use, args=(helpers.checkout, int))
        with pool.connection():
            waiting.start()
            reports.leak()
        waiting.join()

    assert 'pool "small" 1/1 used, 1 waiting' in caplog.text
