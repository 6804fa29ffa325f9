"""Writes that nobody committed, on a real server: what leaves the process about them."""

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg_pool import ConnectionPool

from otel_connleak import function_stats
from tests.support.reports import Reports
from tests.support.telemetry import Telemetry

NAME = f"{__name__}.{{}}"


@pytest.fixture
def reports(telemetry: Telemetry) -> Reports:
    """Reads what is reported."""
    return Reports(telemetry)


@pytest.fixture
def pool(dsn: str, reports: Reports) -> Iterator[ConnectionPool[Any]]:
    """A pool under the instrumentation, and a table of its own."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("DROP TABLE IF EXISTS discarded")
        connection.execute("CREATE TABLE discarded (number int)")
    with (
        reports.telemetry.instrumented(grace=0.1),
        ConnectionPool(dsn, min_size=1, max_size=1, name="orders", open=True) as opened,
    ):
        yield opened


def insert(pool: ConnectionPool[Any], number: int, *, commit: bool) -> None:
    """Commits on one branch only."""
    connection = pool.getconn()
    try:
        connection.execute("INSERT INTO discarded VALUES (%s)", [number])
        if commit:
            connection.commit()
    finally:
        pool.putconn(connection)


def rows(dsn: str) -> list[int]:
    """What is there, for everybody."""
    with psycopg.connect(dsn) as connection:
        return [number for (number,) in connection.execute("SELECT number FROM discarded ORDER BY number")]


def test_everything_that_says_so(
    pool: ConnectionPool[Any], dsn: str, reports: Reports, caplog: pytest.LogCaptureFixture
) -> None:
    """The row is not there, and the log line, event, spans, metric and statistics name the function."""
    insert(pool, 1, commit=True)
    insert(pool, 2, commit=False)
    leak = reports.leak()

    assert rows(dsn) == [1]
    assert (leak.function, leak.evidence, leak.certainty) == (
        NAME.format("insert"),
        {"discarded"},
        "confirmed",
    )
    assert (
        leak.attributes.items()
        >= {
            "connleak.resource": "transaction",
            "connleak.transaction.outcome": "discarded",
            "connleak.transaction.writes": 1,
            "db.client.connection.pool.name": "orders",
            "db.query.summary": "INSERT INTO discarded",
        }.items()
    )
    (line,) = [record.getMessage() for record in caplog.records if record.name == "otel_connleak"]
    assert line.startswith("transaction leak (confirmed, discarded) [")
    assert "1 write lost: rolled back when the connection was released, never committed" in line
    assert "hint: use `with connection.transaction():`, or call `commit()` on every path" in line
    assert "2" not in line.partition("INSERT INTO discarded")[2].partition("\n")[0], "a literal"
    assert spans(reports.telemetry) == [
        ("transaction insert", "committed", 1),
        ("hold insert", "committed", None),
        ("transaction insert", "discarded", 1),
        ("hold insert", "discarded", None),
        ("leak insert", "discarded", 1),
    ]
    assert reports.telemetry.value("connleak.transactions.discarded") == 1
    assert reports.telemetry.value("connleak.leaks.open") == 0
    (stats,) = [stats for stats in function_stats() if stats.function == NAME.format("insert")]
    assert (stats.acquired, stats.released, stats.open, stats.leaked) == (2, 2, 0, 0)
    assert (stats.transactions, stats.transactions_open) == (2, 0)
    assert (stats.transactions_leaked, stats.discarded) == (1, 1)


def spans(telemetry: Telemetry) -> list[tuple[str, Any, Any]]:
    """Name, outcome and writes of the spans of one function, in the order of their end."""
    of_insert = (span for span in telemetry.spans() if span.name.endswith(" insert"))
    found = [(span.name, dict(span.attributes or {})) for span in of_insert]
    return [
        (name, about.get("connleak.transaction.outcome"), about.get("connleak.transaction.writes"))
        for name, about in found
    ]


def test_repeats_are_counted(pool: ConnectionPool[Any], dsn: str, reports: Reports) -> None:
    """Each one is an event of its own, with the fingerprint of its place."""
    for number in range(3):
        insert(pool, number, commit=False)
    reports.settle()

    assert len({leak.attributes["connleak.fingerprint"] for leak in reports.leaks()}) == 1
    assert len({leak.id for leak in reports.leaks()}) == 3
    assert reports.telemetry.value("connleak.transactions.discarded") == 3
    assert rows(dsn) == []


def test_instrumented_again(dsn: str, reports: Reports) -> None:
    """An instrument keeps the callback that it was made with: it tells of the instrumentation that runs."""
    for number in range(2):
        with (
            reports.telemetry.instrumented(grace=0.1),
            ConnectionPool(dsn, min_size=1, max_size=1, name="orders", open=True) as pool,
        ):
            with pool.connection() as connection:
                connection.execute("DROP TABLE IF EXISTS discarded")
                connection.execute("CREATE TABLE discarded (number int)")
            insert(pool, number, commit=False)
            reports.settle()
            assert reports.telemetry.value("connleak.transactions.discarded") == 1
    assert reports.telemetry.points("connleak.transactions.discarded") == []
