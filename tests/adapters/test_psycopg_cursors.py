"""Server-side cursors of psycopg 3: holds from ``execute`` until they are closed or read to the end."""

import asyncio
import contextlib
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
import sqlalchemy

from otel_connleak import open_holds
from tests.adapters.conftest import Instrument
from tests.adapters.shop.keeping import Cycle
from tests.support.reports import GRACE, NEVER, Reports
from tests.support.transactions import closed_cursors, open_cursors

ROWS = "SELECT generate_series(1, 5)"


@pytest.fixture
def connection(dsn: str, reports: Reports) -> Iterator[psycopg.Connection[Any]]:
    """A connection of the test's own."""
    with psycopg.connect(dsn) as connection:
        yield connection


def test_span(connection: psycopg.Connection[Any], reports: Reports) -> None:
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
    assert attributes["code.function.name"].endswith("test_span")
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


def iterates(connection: Any, cursor: Any) -> None:
    """Reads the rest in a loop."""
    for _ in cursor:
        pass


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
    iterates,
    commits,
    rolls_back,
    closes_connection,
]


@pytest.mark.parametrize("end", ENDS)
def test_way_to_end(
    end: Callable[[Any, Any], None], connection: psycopg.Connection[Any], reports: Reports
) -> None:
    """However it ends: it is no leak, and a close that comes later is no second end."""
    cursor = connection.cursor("rows")
    cursor.execute(ROWS)
    end(connection, cursor)

    assert open_cursors() == []
    assert closed_cursors(reports) == ["test_way_to_end"]
    cursor.close()
    reports.none()
    assert closed_cursors(reports) == ["test_way_to_end"]


def test_executed_again(connection: psycopg.Connection[Any], reports: Reports) -> None:
    """Who executes it again closes the one before; also where the server refuses the new one."""
    with connection.cursor("rows") as cursor:
        cursor.execute(ROWS)
        cursor.execute(ROWS)
        assert open_cursors() == ["test_executed_again"]
        with pytest.raises(psycopg.errors.UndefinedTable):
            cursor.execute("SELECT * FROM nowhere")
        assert open_cursors() == []
    reports.none()

    assert len(closed_cursors(reports)) == 2


def test_outlives(connection: psycopg.Connection[Any], reports: Reports) -> None:
    """A cursor that is held over its transaction ends when it is closed."""
    cursor = connection.cursor("rows", withhold=True)
    cursor.execute(ROWS)
    connection.commit()
    assert open_cursors() == ["test_outlives"]
    cursor.close()

    assert open_cursors() == []
    reports.none()


def test_outlives_nothing(connection: psycopg.Connection[Any], reports: Reports) -> None:
    """Not if that is rolled back in which it was opened; a later one does not matter."""
    cursor = connection.cursor("rows", withhold=True)
    cursor.execute(ROWS)
    connection.commit()
    connection.execute("SELECT 1")
    connection.rollback()
    assert open_cursors() == ["test_outlives_nothing"]
    cursor.close()
    again = connection.cursor("again", withhold=True)
    again.execute(ROWS)
    connection.rollback()
    assert open_cursors() == []
    with pytest.raises(psycopg.errors.InvalidCursorName):
        again.close()
    connection.rollback()
    with pytest.warns(ResourceWarning, match="was deleted while still open"):
        del again
    reports.none()


def test_no_cursor_of_the_server(connection: psycopg.Connection[Any], reports: Reports) -> None:
    """Cursors with all of their rows, and streams, are no holds."""
    cursor = connection.cursor()
    cursor.execute(ROWS)
    psycopg.RawCursor(connection).execute(ROWS)
    stream: Any = cursor.stream(ROWS)
    next(stream)

    assert open_cursors() == []
    stream.close()
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


def test_dropped(
    connection: psycopg.Connection[Any], reports: Reports, caplog: pytest.LogCaptureFixture
) -> None:
    """A cursor that was dropped is reported if it is still open after the grace; psycopg warns by itself."""
    with pytest.warns(ResourceWarning, match="was deleted while still open"):
        begins(connection)
    leak = reports.leak()

    assert (leak.function.rpartition(".")[2], leak.certainty) == ("begins", "confirmed")
    assert leak.evidence == {"dropped", "function_exited"}
    assert leak.attributes["connleak.resource"] == "cursor"
    assert leak.attributes["db.query.summary"] == "SELECT"
    assert "cursor leak (confirmed, dropped, function_exited)" in caplog.text
    assert "hint: use `with connection.cursor(name) as cursor:`" in caplog.text
    connection.commit()
    reports.no_more()


def test_dropped_and_closed(dsn: str, instrument: Instrument) -> None:
    """One whose transaction ends within the grace is none."""
    reports = instrument(grace=3 * GRACE)
    with psycopg.connect(dsn) as connection:
        with pytest.warns(ResourceWarning, match="was deleted while still open"):
            begins(connection)
        connection.commit()
        reports.none(after=4 * GRACE)


def test_kept(connection: psycopg.Connection[Any], reports: Reports) -> None:
    """One that is kept where nobody reaches it is reported; the end of its transaction takes that back."""
    keeps(connection)
    leak = reports.leak()
    connection.commit()

    assert (leak.function.rpartition(".")[2], leak.evidence) == ("keeps", {"function_exited"})
    assert reports.recovery().id == leak.id


def test_left_on_hold(connection: psycopg.Connection[Any], reports: Reports) -> None:
    """One that outlives its transaction is still there after that."""

    def leaves() -> None:
        cursor = connection.cursor("rows", withhold=True)
        cursor.execute(ROWS)
        Cycle(cursor)

    leaves()
    connection.commit()

    assert reports.leak().function.endswith("leaves")


def test_covered(dsn: str, reports: Reports) -> None:
    """Where the connection is reported, its transaction and its cursor are no reports of their own."""

    def leaves() -> None:
        connection = psycopg.connect(dsn)
        cursor = connection.cursor("rows")
        cursor.execute(ROWS)
        Cycle((connection, cursor))

    leaves()
    leak = reports.leak()

    assert leak.attributes["connleak.resource"] == "connection"


# --- what is no leak ---------------------------------------------------------------------------------------


def test_returned(connection: psycopg.Connection[Any], reports: Reports) -> None:
    """A cursor that is returned is the caller's."""

    def opens() -> Any:
        cursor = connection.cursor("rows")
        cursor.execute(ROWS)
        return cursor

    with opens():
        assert open_cursors() == ["test_returned"]
        reports.none()


def test_generator(connection: psycopg.Connection[Any], reports: Reports) -> None:
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
    reports.none()


def test_of_a_library(dsn: str, reports: Reports) -> None:
    """A cursor that a library has opened for itself is not the application's to close."""
    library: dict[str, Any] = {"__name__": "piccolo.engine"}
    exec("def first(cursor, query): cursor.execute(query); return cursor.fetchone()", library)
    with psycopg.connect(dsn) as connection, connection.cursor("rows") as cursor:
        library["first"](cursor, ROWS)
        assert open_cursors() == []


def test_of_sqlalchemy(dsn: str, instrument: Instrument) -> None:
    """SQLAlchemy's own cursors are not held on top of what its adapter holds."""
    reports = instrument(grace=NEVER)
    engine = sqlalchemy.create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(dsn))
    with engine.connect() as connection:
        result = connection.execution_options(stream_results=True).execute(sqlalchemy.text(ROWS))
        result.fetchone()
        assert len(open_cursors()) <= 1
        result.close()
    engine.dispose()

    assert open_holds() == []
    reports.none()


def test_restored(instrument: Instrument) -> None:
    """The methods are the library's own again."""
    looked_at = [
        (cls, name)
        for cls in (psycopg.ServerCursor, psycopg.AsyncServerCursor)
        for name in ("execute", "close")
    ]
    before = [inspect.getattr_static(cls, name) for cls, name in looked_at]
    assert all(inspect.isfunction(each) and not hasattr(each, "__wrapped__") for each in before)
    instrument()

    assert all(
        inspect.getattr_static(cls, name).__wrapped__ is original
        for (cls, name), original in zip(looked_at, before, strict=True)
    )


def test_cursor_from_before(dsn: str, instrument: Instrument) -> None:
    """A cursor that was open before the start is closed without a word."""
    with psycopg.connect(dsn) as connection, connection.cursor("rows") as cursor:
        cursor.execute(ROWS)
        reports = instrument()
        cursor.fetchall()
    reports.none()


# --- asyncio -----------------------------------------------------------------------------------------------


async def begins_async(connection: Any) -> None:
    """Reads one row."""
    cursor = connection.cursor("rows")
    await cursor.execute(ROWS)
    await cursor.fetchone()


async def reads_async(connection: Any) -> None:
    """Closes."""
    async with connection.cursor("rows") as cursor:
        await cursor.execute(ROWS)
        await cursor.fetchone()
        assert open_cursors() == ["reads_async"]


async def iterates_async(connection: Any) -> None:
    """Reads to the end."""
    cursor = connection.cursor("rows")
    await cursor.execute(ROWS)
    async for _ in cursor:
        pass
    assert open_cursors() == []
    await cursor.close()


async def is_refused_async(connection: Any) -> None:
    """Executes it again in vain."""
    async with connection.cursor("rows") as cursor:
        await cursor.execute(ROWS)
        with contextlib.suppress(psycopg.Error):
            await cursor.execute("SELECT * FROM nowhere")
        assert open_cursors() == []


@pytest.mark.parametrize("use", [begins_async, reads_async, iterates_async, is_refused_async])
def test_async(use: Callable[[Any], Any], dsn: str, runner: asyncio.Runner, reports: Reports) -> None:
    """The cursors of asyncio: only the one that is dropped and open is a leak."""

    async def use_it() -> None:
        async with await psycopg.AsyncConnection.connect(dsn) as connection:
            await use(connection)
            if use is begins_async:
                await asyncio.to_thread(reports.leak)
            else:
                await asyncio.to_thread(reports.none)

    dropping = pytest.warns(ResourceWarning, match="was deleted while still open")
    with dropping if use is begins_async else contextlib.nullcontext():
        runner.run(use_it())

    assert [leak.function.rpartition(".")[2] for leak in reports.leaks()] == (
        ["begins_async"] if use is begins_async else []
    )
    assert closed_cursors(reports) == [use.__name__]
