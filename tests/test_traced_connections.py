"""``trace_dbapi``: what the application gets instead of its connection means what it meant before."""

import contextlib
import sqlite3
from collections.abc import Callable, Iterator
from typing import Any

import pg8000.dbapi
import pytest

from otel_connleak import open_holds
from tests.adapters.shop.keeping import Cycle
from tests.support import litedb
from tests.support.reports import Reports, held
from tests.support.telemetry import Telemetry
from tests.support.traced import parameters, traced, untraced_at_the_end


@pytest.fixture
def reports(telemetry: Telemetry, dsn: str) -> Iterator[Reports]:
    """Both modules are traced, this process is instrumented."""
    with untraced_at_the_end(), traced(telemetry) as reports:
        yield reports


@pytest.fixture
def connect(dsn: str) -> Callable[[], Any]:
    """Connects with pg8000, whose function is looked up each time."""
    return lambda: pg8000.dbapi.connect(**parameters(dsn))


class Closing(sqlite3.Connection):
    """A connection whose ``with`` block closes it, and lets no error out."""

    def __exit__(self, *_error: object) -> bool:  # type: ignore[override]  # wider than the base's
        self.close()
        return True


def test_the_proxy_passes_for_the_connection(reports: Reports) -> None:
    """Attributes are read and written through it, and are the very objects."""
    connection = litedb.connect(":memory:")
    connection.row_factory = litedb.Row

    assert isinstance(connection, litedb.Connection)
    assert connection.row_factory is litedb.Row
    assert connection.cursor().row_factory is litedb.Row
    assert isinstance(connection.execute("SELECT 1").fetchone(), litedb.Row)
    assert not hasattr(connection, "no_such_attribute")
    with pytest.raises(litedb.Error, match="syntax error"):
        connection.cursor().execute("SELEKT")
    connection.close()
    assert reports.hold_names() == ["test_the_proxy_passes_for_the_connection"]


def test_with_block_that_closes(reports: Reports, connect: Callable[[], Any]) -> None:
    """Where ``with`` closes the connection it is the release: the driver itself calls ``close`` then."""
    with connect() as connection, contextlib.closing(connection.cursor()) as cursor:
        cursor.execute("SELECT 1")
        assert held() == 1

    assert open_holds() == []
    assert len(reports.hold_names()) == 1


def test_with_block_that_closes_in_c(reports: Reports) -> None:
    """The same where ``close`` cannot be hooked; what ``with`` does to an error is the driver's to say."""
    with litedb.connect(":memory:", factory=Closing):
        raise KeyError

    assert open_holds() == []


def test_with_block_that_does_not_close(reports: Reports) -> None:
    """A classic leak: sqlite3's ``with`` ends the transaction and not the connection."""

    def leave_it() -> None:
        with litedb.connect(":memory:") as connection:
            connection.cursor().execute("SELECT 1")
        Cycle(connection)

    leave_it()

    assert reports.leak().function.endswith("leave_it")


def test_dropped(reports: Reports, connect: Callable[[], Any]) -> None:
    """A connection that is dropped is reported at once, although the driver's own lives on in a cycle."""

    def drop_it() -> None:
        connect().cursor().execute("SELECT 1")

    drop_it()
    leak = reports.leak()

    assert leak.function.endswith("drop_it")
    assert leak.certainty == "confirmed"


@pytest.mark.parametrize("of", [litedb, pg8000.dbapi])
def test_cursor_carries_the_connection(of: Any, reports: Reports, dsn: str) -> None:
    """Who has a cursor, also while it is iterated over, has the connection, and can close it."""

    def query() -> Any:
        connection = of.connect(":memory:") if of is litedb else of.connect(**parameters(dsn))
        cursor = connection.cursor()
        cursor.execute("SELECT 1")
        return iter(cursor)

    rows = query()
    reports.none()
    assert [tuple(row) for row in rows] == [(1,)]
    rows.connection.close()

    assert len(reports.hold_names()) == 1
    reports.none()
