"""Who is answerable, with psycopg_pool: the function that used the helper, wherever the helper acquired."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from psycopg_pool import AsyncConnectionPool, ConnectionPool

from tests.adapters.conftest import Instrument
from tests.adapters.shop import helpers
from tests.adapters.shop.orders import AsyncOrders, Orders, suppressing
from tests.support.reports import GRACE, NEVER, Report, Reports
from tests.support.waiting import wait_until

CORRECT = [ConnectionPool.connection, helpers.checkout, helpers.careless_checkout, helpers.Checkout]
CARELESS = [helpers.careless_checkout, helpers.CarelessCheckout]
CARRIERS: dict[str, Callable[[Any], Any]] = {
    "tuple": lambda connection: (1, connection),
    "dict": lambda connection: {"connection": connection},
    "object": helpers.Checkout,
}


@pytest.fixture
def async_orders(dsn: str, runner: asyncio.Runner) -> Iterator[AsyncOrders]:
    """The repository for asyncio."""
    pool = AsyncConnectionPool(dsn, min_size=1, max_size=4, num_workers=1, name="orders", open=False)
    runner.run(pool.open(wait=True))
    yield AsyncOrders(pool)
    runner.run(pool.close())


def who(leak: Report) -> tuple[str, str]:
    """The function to blame, and for how certain."""
    return leak.function, leak.certainty


@pytest.mark.parametrize("checkout", CORRECT)
def test_with_block(checkout: Any, orders: Orders, reports: Reports) -> None:
    """A ``with`` block longer than the grace is no leak; the hold is that of the function that wrote it."""
    orders.use(checkout, reports.none)

    assert reports.hold_names() == ["Orders.use"]
    reports.none()


@pytest.mark.parametrize("checkout", CARELESS)
def test_with_block_drops(checkout: Any, orders: Orders, reports: Reports) -> None:
    """Where a helper drops the connection, the function that used the helper is named."""
    suppressing(orders.use_and_drop, checkout)

    assert who(reports.leak()) == ("orders.Orders.use_and_drop", "confirmed")


@pytest.mark.parametrize("checkout", CARELESS)
def test_with_block_keeps(checkout: Any, orders: Orders, reports: Reports) -> None:
    """The same where something keeps the connection: after the grace."""
    suppressing(orders.use_and_keep, checkout)
    leak = reports.leak()

    assert who(leak) == ("orders.Orders.use_and_keep", "possible")
    assert leak.evidence == {"function_exited"}


@pytest.mark.parametrize("checkout", [helpers.async_checkout, AsyncConnectionPool.connection])
def test_async_with_block(
    checkout: Any, async_orders: AsyncOrders, runner: asyncio.Runner, reports: Reports
) -> None:
    """An ``async with`` block that is longer than the grace is no leak."""
    runner.run(async_orders.use(checkout, lambda: asyncio.to_thread(reports.none)))

    assert reports.hold_names() == ["AsyncOrders.use"]
    reports.none()


@pytest.mark.parametrize("checkout", [helpers.careless_async_checkout, helpers.AsyncCheckout])
def test_async_with_block_drops(
    checkout: Any, async_orders: AsyncOrders, runner: asyncio.Runner, reports: Reports
) -> None:
    """Where an asynchronous helper drops the connection, the function that used the helper is named."""
    runner.run(async_orders.answer(async_orders.use_and_drop, checkout))

    assert who(reports.leak()) == ("orders.AsyncOrders.use_and_drop", "confirmed")


@pytest.mark.parametrize("checkout", [helpers.careless_async_checkout, helpers.AsyncCheckout])
def test_async_with_block_keeps(
    checkout: Any, async_orders: AsyncOrders, runner: asyncio.Runner, reports: Reports
) -> None:
    """The same where something keeps the connection: after the grace."""
    runner.run(async_orders.answer(async_orders.use_and_keep, checkout))

    assert who(reports.leak()) == ("orders.AsyncOrders.use_and_keep", "possible")


@pytest.mark.parametrize("checkout", CORRECT)
def test_exit_stack(checkout: Any, orders: Orders, reports: Reports) -> None:
    """An exit stack is as good as a ``with`` block."""
    orders.use_stack(checkout, reports.none)

    assert reports.hold_names() == ["Orders.use_stack"]
    reports.none()


def test_exit_stack_dropped(orders: Orders, reports: Reports) -> None:
    """A stack that is forgotten leaks what no finalizer gives back; the function that filled it is named."""
    orders.drop_stack(helpers.Checkout)

    assert who(reports.leak()) == ("orders.Orders.drop_stack", "confirmed")


def test_exit_stack_dropped_with_generator(orders: Orders, reports: Reports) -> None:
    """The pool's own context manager gives back when it is dropped: no leak."""
    orders.drop_stack(ConnectionPool.connection)

    assert reports.hold_names() == ["Orders.drop_stack"]
    reports.none()


@pytest.mark.parametrize("checkout", CORRECT)
def test_exit_stack_kept(checkout: Any, orders: Orders, reports: Reports) -> None:
    """A stack that nobody can close any more is a leak of the function that filled it."""
    orders.keep_stack(checkout)

    assert who(reports.leak()) == ("orders.Orders.keep_stack", "possible")


def test_unit_of_work(orders: Orders, reports: Reports) -> None:
    """A unit of work acquires for the function that made it, which closes it after more than the grace."""
    orders.use_unit(reports.none)

    assert reports.hold_names() == ["Orders.use_unit"]
    reports.none()


def test_unit_of_work_dropped(orders: Orders, reports: Reports) -> None:
    """The function that made a unit of work and dropped it is named."""
    orders.drop_unit()

    assert who(reports.leak()) == ("orders.Orders.drop_unit", "confirmed")


def test_unit_of_work_kept(orders: Orders, reports: Reports) -> None:
    """The function that made a unit of work and left it where nobody can close it is named."""
    orders.keep_unit()

    assert who(reports.leak()) == ("orders.Orders.keep_unit", "possible")


def test_unit_of_work_finished_later(orders: Orders, reports: Reports) -> None:
    """A unit of work on an object that lives on is no leak: another method closes it in the end."""
    orders.start()
    reports.none(3 * GRACE)
    orders.finish()

    assert reports.hold_names() == ["Orders.start"]
    reports.none()


def test_caller_releases(orders: Orders, reports: Reports) -> None:
    """What a helper has returned is its caller's, who may take longer than the grace."""
    orders.release_for_helper(reports.none)

    assert reports.hold_names() == ["Orders.release_for_helper"]
    reports.none()


def test_caller_drops(orders: Orders, reports: Reports) -> None:
    """The caller who drops what a helper has returned is named, not the helper."""
    orders.drop_for_helper()

    assert who(reports.leak()) == ("orders.Orders.drop_for_helper", "confirmed")


def test_caller_keeps(orders: Orders, reports: Reports) -> None:
    """The caller who does not release what a helper has returned is named, not the helper."""
    orders.keep_for_helper()

    assert who(reports.leak()) == ("orders.Orders.keep_for_helper", "possible")


def test_cursor_carries_its_connection(orders: Orders, reports: Reports) -> None:
    """A helper that returns a cursor has handed the connection on."""
    orders.keep_cursor()

    assert who(reports.leak()) == ("orders.Orders.keep_cursor", "possible")


@pytest.mark.parametrize("carrier", CARRIERS)
def test_carrier(carrier: str, orders: Orders, reports: Reports) -> None:
    """A helper that returns something that carries the connection has handed it on."""
    orders.keep_carried(CARRIERS[carrier])

    assert who(reports.leak()) == ("orders.Orders.keep_carried", "possible")


def test_carrier_released_in_time(orders: Orders, reports: Reports) -> None:
    """What was handed over through a function that has returned is no leak while somebody has it."""
    held: list[Any] = []
    helpers.give_to(held.append, orders.pool)
    reports.none(3 * GRACE)
    orders.pool.putconn(held.pop())

    assert reports.hold_names() == ["give_to"]
    reports.none()


def test_suspended_generator(orders: Orders, reports: Reports) -> None:
    """A generator that is suspended has not exited; it owns what it acquires, and releases it at its end."""
    rows = orders.rows()
    next(rows)
    reports.none()
    assert len(list(rows)) == 2

    assert reports.hold_names() == ["Orders.rows"]
    reports.none()


def test_dependency_dropped(orders: Orders, reports: Reports) -> None:
    """``next(get_db())`` loses the generator: whoever took the connection from it is named."""
    orders.drop_dependency(helpers.get_db, reports.none)

    assert who(reports.leak()) == ("orders.Orders.drop_dependency", "confirmed")


def test_safe_dependency_dropped(orders: Orders, reports: Reports) -> None:
    """A dependency with ``finally`` has given the connection back when it was dropped."""
    orders.drop_dependency(helpers.get_db_safely, reports.none)

    assert reports.hold_names() == ["Orders.drop_dependency"]
    reports.none()


def test_dependency_kept(orders: Orders, reports: Reports) -> None:
    """A dependency that nobody can resume any more is a leak of the function that iterated over it."""
    orders.keep_dependency()

    assert who(reports.leak()) == ("orders.Orders.keep_dependency", "possible")


def test_recovered_elsewhere(orders: Orders, instrument: Instrument) -> None:
    """A claim is withdrawn whoever releases in the end."""
    reports = instrument(grace=NEVER, overdue_after=0.2)
    held: list[Any] = []
    helpers.give_to(held.append, orders.pool)
    leak = reports.leak()
    thread = threading.Thread(target=lambda: orders.pool.putconn(held.pop()))
    thread.start()
    thread.join()

    assert reports.recovery().id == leak.id
    wait_until(lambda: reports.telemetry.value("connleak.leaks.open") == 0, "no leak open")
