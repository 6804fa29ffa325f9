"""``open_holds()``: who holds what now, since when, doing what."""

import contextlib
import threading
from dataclasses import asdict

import psycopg
import pytest
from psycopg import sql
from psycopg_pool import ConnectionPool

from otel_connleak import leaks, open_holds
from tests.support.telemetry import Telemetry
from tests.support.waiting import wait_until

NAME = f"{__name__}.test_connection_and_transaction"


def test_connection_and_transaction(dsn: str, telemetry: Telemetry) -> None:
    """A transaction refers to its connection's hold; both know the server process and the statement."""
    with telemetry.instrumented(), ConnectionPool(dsn, min_size=1, name="orders", open=True) as pool:
        with pool.connection() as connection:
            connection.execute("UPDATE customers SET name = 'secret' WHERE id = 1")
            outer, inner = open_holds()
            connection.rollback()
            (after,) = open_holds()
            pid = connection.info.backend_pid
        nothing = open_holds()

    assert nothing == []
    assert (outer.function, outer.file, outer.thread, outer.task) == (NAME, __file__, "MainThread", None)
    assert (outer.resource, outer.within, outer.pool, outer.server_pid) == ("connection", None, "orders", pid)
    assert (inner.resource, inner.within, inner.pool) == ("transaction", outer.number, "orders")
    assert (outer.transaction, outer.writes, outer.statements) == ("open", 1, 1)
    assert (inner.transaction, inner.writes, inner.server_pid) == ("open", 1, pid)
    assert (after.transaction, after.writes, after.statements) == ("none", 0, 2)
    assert outer.statement == inner.statement == "UPDATE customers"
    assert outer.busy_for is None
    assert outer.idle_for is not None
    assert 0 <= outer.idle_for <= outer.use_time


def test_busy(dsn: str, telemetry: Telemetry) -> None:
    """While a driver call runs it says for how long, and what it runs."""
    with telemetry.instrumented():
        connection = psycopg.connect(dsn, autocommit=True)

        def run() -> None:
            with contextlib.suppress(psycopg.errors.QueryCanceled):
                connection.execute("SELECT pg_sleep(600)")

        thread = threading.Thread(target=run)
        thread.start()
        busy = wait_until(lambda: [hold for hold in open_holds() if hold.busy_for], "a running call")[0]

        def cancelled() -> bool:
            connection.cancel_safe()  # again and again: the server may not have begun when it comes
            return not thread.is_alive()

        wait_until(cancelled, "the end of the call")
        connection.close()

    assert busy.idle_for is None
    assert busy.statement == "SELECT"
    assert busy.statements == 0


@pytest.mark.parametrize(
    ("form", "shown"),
    [
        ("off", [None, None]),
        ("summary", ["SELECT … FROM customers"] * 2),
        ("full", ["SELECT name FROM customers WHERE id = %s", 'SELECT name FROM "customers"']),
    ],
)
def test_statement(form: str, shown: list[str | None], dsn: str, telemetry: Telemetry) -> None:
    """The last statement is shown as the setting allows."""
    composed = sql.SQL("SELECT name FROM {}").format(sql.Identifier("customers"))
    with telemetry.instrumented(statements=form), psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("SELECT name FROM customers WHERE id = %s", [1])
        said = [open_holds()[0].statement]
        connection.execute(composed)
        said.append(open_holds()[0].statement)

    assert said == shown


def test_leak(dsn: str, telemetry: Telemetry) -> None:
    """A hold that was reported has the id of its report."""
    with telemetry.instrumented(overdue_after=0.05), psycopg.connect(dsn, autocommit=True):
        wait_until(leaks, "a report")
        wait_until(lambda: open_holds()[0].leak, "its id")
        assert open_holds()[0].leak == leaks()[0].id


def test_plain_values(dsn: str, telemetry: Telemetry) -> None:
    """Every value is plain, as JSON knows it; nothing refers to a connection."""
    with telemetry.instrumented(), psycopg.connect(dsn) as connection:
        connection.execute("SELECT 1")
        values = [value for hold in open_holds() for value in asdict(hold).values()]

    assert {type(value) for value in values} <= {str, int, float, type(None)}
