"""Named cursors of psycopg2: holds from ``execute`` until they are closed or read to the end."""

import contextlib
import gc
from collections.abc import Callable, Iterator
from typing import Any

import psycopg2
import pytest
import sqlalchemy
from psycopg2 import extensions, extras
from psycopg2.pool import ThreadedConnectionPool

from otel_connleak import open_holds
from tests.adapters.conftest import Instrument
from tests.adapters.shop.keeping import Cycle
from tests.adapters.test_psycopg2 import OldCursor, OwnConnection, OwnCursor
from tests.support.reports import GRACE, NEVER, Reports
from tests.support.transactions import closed_cursors, open_cursors

ROWS = "SELECT generate_series(1, 5)"


@pytest.fixture
def connection(dsn: str, reports: Reports) -> Iterator[Any]:
    """A connection of the test's own."""
    with contextlib.closing(psycopg2.connect(dsn)) as connection:
        yield connection


def test_span(connection: Any, reports: Reports) -> None:
    """A cursor's span is within that of its transaction, with the calls from its DECLARE on."""
    with connection.cursor("rows") as cursor:
        cursor.execute(ROWS)
        assert open_cursors() == ["test_span"]
        cursor.fetchmany(2)
        cursor.fetchone()
    connection.close()
    span, transaction, hold = (reports.telemetry.span(word) for word in ("cursor", "transaction", "hold"))
    attributes: dict[str, Any] = dict(span.attributes or {})

    assert span.name == "cursor test_span"
    assert (span.parent, transaction.parent) == (transaction.context, hold.context)
    assert attributes["connleak.resource"] == "cursor"
    assert attributes["connleak.statements"] == 4  # DECLARE, two fetches, CLOSE
    reports.none()


# --- ways to end one ---------------------------------------------------------------------------------------


def closes(connection: Any, cursor: Any) -> None:
    """Closes it."""
    cursor.close()


def fetches_all(connection: Any, cursor: Any) -> None:
    """Reads the rest at once."""
    cursor.fetchall()


def fetches_until_none(connection: Any, cursor: Any) -> None:
    """Reads the rest row by row."""
    while cursor.fetchone() is not None:
        pass


def fetches_too_many(connection: Any, cursor: Any) -> None:
    """Asks for more rows than there are."""
    cursor.fetchmany(100)


def fetches_too_many_by_keyword(connection: Any, cursor: Any) -> None:
    """The same, and says so."""
    cursor.fetchmany(size=100)


def iterates(connection: Any, cursor: Any) -> None:
    """Reads the rest in a loop, in batches."""
    cursor.itersize = 2
    for _ in cursor:
        assert len(open_cursors()) == 1


def commits(connection: Any, cursor: Any) -> None:
    """The end of its transaction is the end of a cursor."""
    connection.commit()


def rolls_back(connection: Any, cursor: Any) -> None:
    """The other end, too."""
    connection.rollback()


def closes_connection(connection: Any, cursor: Any) -> None:
    """So is that of its connection."""
    connection.close()


ENDS: list[Callable[[Any, Any], None]] = [
    closes,
    fetches_all,
    fetches_until_none,
    fetches_too_many,
    fetches_too_many_by_keyword,
    iterates,
    commits,
    rolls_back,
    closes_connection,
]
FACTORIES: list[Any] = [None, OwnCursor, OldCursor, extras.DictCursor, extras.NamedTupleCursor]


@pytest.mark.parametrize("factory", FACTORIES)
@pytest.mark.parametrize("end", ENDS)
def test_way_to_end(end: Callable[[Any, Any], None], factory: Any, connection: Any, reports: Reports) -> None:
    """However it ends, of whatever class it is: it is no leak."""
    cursor = connection.cursor("rows", cursor_factory=factory)
    cursor.execute(ROWS)
    assert open_cursors() == ["test_way_to_end"]
    end(connection, cursor)

    assert open_cursors() == []
    assert closed_cursors(reports) == ["test_way_to_end"]
    reports.none()


def test_outlives(connection: Any, reports: Reports) -> None:
    """A cursor that is held over its transaction ends when it is closed."""
    cursor = connection.cursor("rows", withhold=True)
    cursor.execute(ROWS)
    connection.commit()
    assert open_cursors() == ["test_outlives"]
    cursor.close()

    assert open_cursors() == []
    reports.none()


def test_refused(connection: Any, reports: Reports) -> None:
    """What the server refuses is no cursor."""
    cursor = connection.cursor("rows")
    with pytest.raises(psycopg2.errors.UndefinedTable):
        cursor.execute("SELECT * FROM nowhere")

    assert open_cursors() == []
    reports.none()


def test_no_cursor_of_the_server(connection: Any, reports: Reports) -> None:
    """A cursor with all of its rows is no hold."""
    cursor = connection.cursor()
    cursor.execute(ROWS)

    assert open_cursors() == []
    reports.none()


# --- leaks -------------------------------------------------------------------------------------------------


def begins(connection: Any) -> Any:
    """Reads one row."""
    cursor = connection.cursor("rows")
    cursor.execute(ROWS)
    return cursor.fetchone()


def keeps(connection: Any) -> None:
    """Reads one row, and keeps the cursor where nobody can reach it."""
    cursor = connection.cursor("rows")
    cursor.execute(ROWS)
    Cycle(cursor)


def test_dropped(connection: Any, reports: Reports, caplog: pytest.LogCaptureFixture) -> None:
    """A cursor that was dropped is reported if it is still open after the grace."""
    begins(connection)
    leak = reports.leak()
    connection.commit()
    reports.no_more()

    assert (leak.function.rpartition(".")[2], leak.certainty) == ("begins", "confirmed")
    assert "dropped" in leak.evidence
    assert leak.attributes["connleak.resource"] == "cursor"
    assert leak.attributes["db.query.summary"] == "SELECT"
    assert "hint: use `with connection.cursor(name) as cursor:`" in caplog.text


def test_dropped_and_closed(dsn: str, instrument: Instrument) -> None:
    """One whose transaction ends within the grace is none."""
    reports = instrument(grace=3 * GRACE)
    with contextlib.closing(psycopg2.connect(dsn)) as connection:
        begins(connection)
        connection.commit()
        reports.none(after=4 * GRACE)


def test_kept(connection: Any, reports: Reports) -> None:
    """One that is kept where nobody reaches it is reported; the end of its transaction takes that back."""
    keeps(connection)
    leak = reports.leak()
    connection.commit()

    assert (leak.function.rpartition(".")[2], leak.evidence) == ("keeps", {"function_exited"})
    assert reports.recovery().id == leak.id


def test_left_on_hold(connection: Any, reports: Reports) -> None:
    """One that outlives its transaction is still there after that."""

    def leaves() -> None:
        cursor = connection.cursor("rows", withhold=True)
        cursor.execute(ROWS)
        Cycle(cursor)

    leaves()
    connection.commit()

    assert reports.leak().function.endswith("leaves")


def test_pooled(dsn: str, reports: Reports) -> None:
    """The pool rolls back, and that is the end of a cursor of its connection."""
    pool = ThreadedConnectionPool(1, 2, dsn)
    connection = pool.getconn()
    keeps(connection)
    pool.putconn(connection)
    reports.none()
    pool.closeall()

    assert closed_cursors(reports) == ["keeps"]


def test_overdue(dsn: str, instrument: Instrument, caplog: pytest.LogCaptureFixture) -> None:
    """A cursor that lies idle with its connection is no report of its own."""
    reports = instrument(overdue_after=3 * GRACE)
    with contextlib.closing(psycopg2.connect(dsn)) as connection, connection.cursor("rows") as cursor:
        cursor.execute(ROWS)
        leak = reports.leak()

    assert leak.attributes["connleak.resource"] == "connection"
    assert "internal error" not in caplog.text


# --- what is no leak ---------------------------------------------------------------------------------------


def test_returned(connection: Any, reports: Reports) -> None:
    """A cursor that is returned is the caller's."""

    def opens() -> Any:
        cursor = connection.cursor("rows")
        cursor.execute(ROWS)
        return cursor

    with opens():
        assert open_cursors() == ["test_returned"]
        reports.none()


def test_generator(connection: Any, reports: Reports) -> None:
    """A generator that waits for its reader has the cursor."""

    def rows() -> Iterator[Any]:
        with connection.cursor("rows") as cursor:
            cursor.execute(ROWS)
            yield from cursor

    reader: Any = rows()
    next(reader)
    reports.none()
    reader.close()

    assert open_cursors() == []


class Exporting(extensions.cursor):
    """An application's own cursor, whose own method executes."""

    def export(self) -> None:
        """Opens it for whoever made it."""
        self.execute(ROWS)


def test_own_method(connection: Any, reports: Reports) -> None:
    """Who has the cursor can close it, whichever method has opened it."""
    cursor = connection.cursor("rows", cursor_factory=Exporting)
    cursor.export()
    reports.none()
    cursor.close()

    assert open_cursors() == []
    reports.none()


def test_of_sqlalchemy(dsn: str, instrument: Instrument) -> None:
    """SQLAlchemy's own cursors are not held on top of what its adapter holds."""
    reports = instrument(grace=NEVER)
    engine = sqlalchemy.create_engine("postgresql+psycopg2://", creator=lambda: psycopg2.connect(dsn))
    with engine.connect() as connection:
        result = connection.execution_options(stream_results=True).execute(sqlalchemy.text(ROWS))
        result.fetchone()
        assert len(open_cursors()) <= 1
        result.close()
    engine.dispose()

    assert open_holds() == []
    reports.none()


def test_own_connection(dsn: str, reports: Reports) -> None:
    """A class of connections that chooses the cursors."""
    with contextlib.closing(psycopg2.connect(dsn, connection_factory=OwnConnection)) as connection:
        cursor = connection.cursor("rows")
        cursor.execute(ROWS)
        assert open_cursors() == ["test_own_connection"]
        cursor.close()
    gc.collect(0)
    reports.none()
