"""Direct connections of psycopg2."""

import functools
import gc
import importlib
import logging
import operator
import select
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import psycopg2
import pytest
from opentelemetry.instrumentation import dbapi
from psycopg2 import extensions, sql

from otel_connleak import open_holds
from otel_connleak.hold import Hold
from otel_connleak.instrumentor import engine
from tests.adapters.conftest import Instrument
from tests.adapters.contract import SyncContract
from tests.adapters.library import Library
from tests.adapters.shop.keeping import Cycle
from tests.support.reports import NEVER, Reports
from tests.support.telemetry import Telemetry

extras: Any = importlib.import_module("psycopg2.extras")
"""It is typed in part only."""
connect_before = psycopg2.connect
"""The function as an application has it that imported it before the instrumentation started."""

REFUSED = "host=127.0.0.1 port=1 connect_timeout=5"
"""Nobody listens there."""
IDLE = 0.25
"""What these tests call overdue, in seconds."""
LONG = 2 * IDLE
ROWS = "SELECT generate_series(1, 5)"


def facts(connection: Any) -> dict[str, Any]:
    """What a report says of a connection of psycopg2 over a Unix socket, which has no port."""
    return {
        "db.system.name": "postgresql",
        "db.namespace": connection.info.dbname,
        "server.address": connection.info.host,
        "connleak.server.pid": connection.info.backend_pid,
    }


class Direct(Library):
    """``psycopg2.connect``."""

    connection_type = extensions.connection
    subclasses = True

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn

    @property
    def acquire(self) -> Callable[[], Any]:
        """Connect."""
        return functools.partial(psycopg2.connect, self.dsn)

    @property
    def release(self) -> Callable[[Any], Any]:
        """Close."""
        return operator.methodcaller("close")

    @property
    def refuse(self) -> Callable[[], Any]:
        """Connect where nobody listens."""
        return functools.partial(psycopg2.connect, REFUSED)

    def execute(self, connection: Any, query: str) -> Any:
        """Run a query."""
        connection.cursor().execute(query)

    def facts(self, connection: Any) -> dict[str, Any]:
        """What psycopg2 tells."""
        return facts(connection)


class TestConnection(SyncContract):
    """``psycopg2.connect``."""

    @pytest.fixture
    def library(self, dsn: str) -> Library:
        """Direct connections."""
        return Direct(dsn)


def end_session(dsn: str, connection: Any) -> None:
    """End the server's side of a connection, and let the connection notice."""
    other = connect_before(dsn)
    other.cursor().execute("SELECT pg_terminate_backend(%s)", [connection.info.backend_pid])
    other.close()
    with pytest.raises(psycopg2.OperationalError):
        connection.cursor().execute("SELECT 1")


def held() -> Hold:
    """The one connection's hold that is open, while it is."""
    running = engine()
    assert running is not None
    (hold,) = [hold for hold in running.registry.holds() if hold.within is None]
    return hold


def calls() -> int:
    """The driver calls so far of the one hold that is open."""
    return held().calls


def statement(reports: Reports) -> object:
    """The last statement, as the one report shows it."""
    return reports.leak().attributes.get("db.query.summary")


# --- the way to connect ------------------------------------------------------------------------------------


class OwnCursor(extensions.cursor):
    """An application's own class of cursors, with a name for a query."""

    def count(self) -> None:
        """Run it."""
        super().execute("SELECT count(*) FROM customers")


class OldCursor(extensions.cursor):
    """Another one; calls psycopg2's own method, past whatever stands between."""

    def execute(self, *args: Any) -> None:
        """The same as ever."""
        extensions.cursor.execute(self, *args)


class OwnConnection(extensions.connection):
    """An application's own class of connections; counts its objects, and has a cursor of its own."""

    made = 0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.__class__.made += 1

    def cursor(self, *args: Any, **kwargs: Any) -> Any:
        """By the old way to call a method of the base."""
        kwargs.setdefault("cursor_factory", OwnCursor)
        return super(self.__class__, self).cursor(*args, **kwargs)

    def finish(self) -> None:
        """Closes it, under a name of the application's own."""
        super().close()


class OldConnection(extensions.connection):
    """Another one; calls psycopg2's own method, past whatever stands between."""

    def cursor(self, *args: Any, **kwargs: Any) -> Any:
        """The same cursor as ever."""
        return extensions.connection.cursor(self, *args, **kwargs)


CLASSES: list[tuple[Any, Any]] = [
    (None, extensions.cursor),
    (extensions.connection, extensions.cursor),
    (extras.DictConnection, extras.DictCursor),
    (extras.RealDictConnection, extras.RealDictCursor),
    (extras.NamedTupleConnection, extras.NamedTupleCursor),
    (OwnConnection, OwnCursor),
]
"""Classes of connections, and those of their cursors."""


@pytest.mark.parametrize(("connection_class", "cursor_class"), CLASSES)
def test_classes(connection_class: Any, cursor_class: Any, dsn: str, reports: Reports) -> None:
    """Whatever class the application asks for: it gets what looks like it, and works like it."""
    connection = psycopg2.connect(dsn, connection_class)
    cursor = connection.cursor()
    cursor.execute("SELECT id, name FROM customers ORDER BY id")
    row: Any = cursor.fetchone()
    asked = connection_class or extensions.connection

    assert connection.__class__ is asked
    assert isinstance(connection, asked)
    assert str(type(connection)) == str(asked)
    assert cursor.__class__ is cursor_class
    assert str(type(cursor)) == str(cursor_class)
    assert connection.cursor_factory is None
    assert cursor.connection is connection
    assert (row["name"] if hasattr(row, "keys") else row[1]) == "customer 1"
    assert calls() == 1
    connection.close()
    assert reports.hold_names() == ["test_classes"]


def test_class_attributes(dsn: str, reports: Reports) -> None:
    """What an application counts in its own class it finds there."""
    before = OwnConnection.made
    psycopg2.connect(dsn, connection_factory=OwnConnection).close()

    assert OwnConnection.made == before + 1


def test_class_of_ours(dsn: str, reports: Reports, caplog: pytest.LogCaptureFixture) -> None:
    """An application may ask for the class of what it has got."""
    first = psycopg2.connect(dsn)
    cursor = first.cursor()
    second = psycopg2.connect(dsn, connection_factory=type(first), cursor_factory=type(cursor))
    first.close()
    second.cursor().execute("SELECT 1")

    assert calls() == 1
    assert type(second) is type(first)
    second.close()
    assert caplog.messages == []


def test_no_attributes(dsn: str, reports: Reports) -> None:
    """What had no attributes of the application's has none."""
    connection = psycopg2.connect(dsn)

    assert not hasattr(connection, "__dict__")
    assert not hasattr(connection.cursor(), "__dict__")
    connection.close()


@pytest.mark.parametrize("factory", [OwnCursor, OldCursor, extras.RealDictCursor])
def test_cursor_factory(factory: Any, dsn: str, reports: Reports) -> None:
    """A class of cursors may be given with the connection, set later, or given with the cursor."""
    connection = psycopg2.connect(dsn, cursor_factory=factory)
    assert connection.cursor_factory is factory
    cursors = [connection.cursor(), connection.cursor("named")]
    connection.cursor_factory = None  # type: ignore[assignment]  # psycopg2 allows it
    cursors += [connection.cursor(None, factory), connection.cursor(cursor_factory=factory)]
    connection.cursor_factory = factory
    cursors.append(connection.cursor())

    assert [cursor.__class__ for cursor in cursors] == [factory] * 5
    for cursor in cursors:
        cursor.execute("SELECT 1")
    assert calls() == 5
    connection.close()


def test_own_methods(dsn: str, reports: Reports) -> None:
    """The application's own methods call those of psycopg2: once each."""
    connection = psycopg2.connect(dsn, connection_factory=OwnConnection)
    connection.cursor().count()

    assert calls() == 1
    connection.finish()
    assert reports.hold_names() == ["test_own_methods"]


def test_logging_connection(dsn: str, reports: Reports, caplog: pytest.LogCaptureFixture) -> None:
    """psycopg2's connection that logs its queries, and must be told where."""
    caplog.set_level(logging.DEBUG, "queries")
    connection = psycopg2.connect(dsn, connection_factory=extras.MinTimeLoggingConnection)
    with pytest.raises(psycopg2.ProgrammingError, match="not been initialize"):
        connection.cursor()
    connection.initialize(logging.getLogger("queries"))
    connection.cursor().execute("SELECT count(*) FROM customers")

    assert "SELECT count(*) FROM customers" in caplog.text
    assert calls() == 1
    connection.close()


def test_import_before_instrumentation(dsn: str, reports: Reports) -> None:
    """A function taken out before the start is seen too."""
    connect_before(dsn).close()

    assert reports.hold_names() == ["test_import_before_instrumentation"]


def test_made_for_a_library(dsn: str, reports: Reports) -> None:
    """What a library that keeps connections has made is not held by the application that calls it."""
    library = {"__name__": "piccolo.engine", "psycopg2": psycopg2}
    exec("def connect(dsn): return psycopg2.connect(dsn)", library)
    connect: Any = library["connect"]
    connection = connect(dsn)

    assert open_holds() == []
    connection.close()


def test_made_by_a_function(dsn: str, reports: Reports) -> None:
    """What a function makes is left as it is: nobody could see its close, and so nothing is held."""
    connection = psycopg2.connect(dsn, connection_factory=lambda dsn: extras.DictConnection(dsn))  # noqa: PLW0108

    assert type(connection) is extras.DictConnection
    assert open_holds() == []
    del connection
    reports.none()


def test_class_that_refuses(dsn: str, reports: Reports, caplog: pytest.LogCaptureFixture) -> None:
    """A class that wants no subclass gets none."""

    class Final(extensions.connection):
        def __init_subclass__(cls) -> None:
            raise TypeError("this class is final")

    connection = psycopg2.connect(dsn, connection_factory=Final)

    assert type(connection) is Final
    assert open_holds() == []
    assert "the application is not affected" in caplog.text
    connection.close()


def test_asynchronous(dsn: str, reports: Reports) -> None:
    """An asynchronous connection is left as it is."""
    connection = psycopg2.connect(dsn, async_=1)
    extras.wait_select(connection)
    cursor = connection.cursor()
    cursor.execute("SELECT 1")
    extras.wait_select(connection)

    assert cursor.fetchone() == (1,)
    assert type(connection) is extensions.connection
    assert open_holds() == []
    connection.close()


def test_checks_in_c(dsn: str, reports: Reports) -> None:
    """psycopg2's functions that look for a connection or a cursor take ours."""
    connection = psycopg2.connect(dsn)
    cursor = connection.cursor()
    cursor.execute("CREATE TYPE pair AS (a int, b text)")
    extras.register_composite("pair", cursor)
    extras.register_uuid(conn_or_curs=connection)
    extras.register_default_json(connection, loads=lambda text: f"read {text}")
    extensions.register_type(extensions.UNICODE, cursor)
    cursor.execute("SELECT (1, 'x')::pair, '{}'::json")

    assert cursor.fetchone() == ((1, "x"), "read {}")
    assert extensions.quote_ident('a"b', connection) == extensions.quote_ident('a"b', cursor) == '"a""b"'
    assert extras.execute_values(cursor, "VALUES %s", [(1,), (2,)], fetch=True) == [(1,), (2,)]
    connection.close()


def test_replication(dsn: str, reports: Reports) -> None:
    """A replication connection and its stream, the whole of which is one call."""
    connection = psycopg2.connect(dsn, connection_factory=extras.PhysicalReplicationConnection)
    cursor = connection.cursor()
    cursor.execute("IDENTIFY_SYSTEM")
    position = (cursor.fetchone() or [])[2]
    writer = connect_before(dsn)
    writer.cursor().execute("CREATE TABLE written AS SELECT 1")
    writer.commit()
    writer.close()

    def stop(_message: object) -> None:
        raise extras.StopReplication

    cursor.start_replication(slot_type=extras.REPLICATION_PHYSICAL, start_lsn=position)
    with pytest.raises(extras.StopReplication):
        cursor.consume_stream(stop)

    assert cursor.__class__ is extras.ReplicationCursor
    assert calls() == 3
    connection.close()


# --- calls -------------------------------------------------------------------------------------------------


def test_calls(dsn: str, reports: Reports) -> None:
    """Each call to the server is counted, once; fetching what is there already is none."""
    connection = psycopg2.connect(dsn)
    seen: list[int] = []

    def note() -> None:
        seen.append(calls() - sum(seen))

    with connection, connection.cursor() as cursor:
        cursor.execute(query="SELECT id, name FROM customers")
        note()
        assert len([cursor.fetchone(), *cursor.fetchmany(1), *cursor]) == 3
        note()
        cursor.executemany("INSERT INTO customers VALUES (%s, %s)", [(4, "x"), (5, "y")])
        note()
        cursor.callproc("version")
        note()
    note()
    connection.rollback()
    note()
    connection.reset()
    note()
    connection.cancel()
    note()

    assert seen == [1, 0, 1, 1, 1, 1, 1, 1]
    connection.close()


def test_copy(dsn: str, reports: Reports, tmp_path: Any) -> None:
    """Copying is calling too."""
    connection = psycopg2.connect(dsn)
    cursor = connection.cursor()
    with (tmp_path / "customers").open("w+") as file:
        cursor.copy_to(file, "customers")
        file.seek(0)
        cursor.copy_from(file, "customers")
        cursor.copy_expert("COPY customers TO STDOUT", file)

    assert calls() == 3
    connection.close()


def test_named_cursor(dsn: str, reports: Reports) -> None:
    """The rows of a named cursor stay with the server: fetching calls it, once for each batch."""
    connection = psycopg2.connect(dsn)
    cursor = connection.cursor("rows", scrollable=True)
    cursor.itersize = 2
    cursor.execute(ROWS)
    assert calls() == 1
    assert next(cursor) == (1,)
    assert next(cursor) == (2,)
    assert calls() == 2
    assert [row[0] for row in cursor] == [3, 4, 5]
    assert calls() == 5
    cursor.scroll(0, mode="absolute")
    assert (cursor.fetchone(), cursor.fetchmany(1), len(cursor.fetchall())) == ((1,), [(2,)], 3)
    assert calls() == 9
    cursor.close()
    assert calls() == 10
    with pytest.raises(psycopg2.InterfaceError, match="cursor already closed"):
        next(cursor)
    connection.close()


@pytest.mark.parametrize("factory", [extras.DictCursor, extras.NamedTupleCursor, extras.RealDictCursor])
def test_named_cursor_of_a_class(factory: Any, dsn: str, reports: Reports) -> None:
    """The same where the application's cursor iterates in a way of its own."""
    connection = psycopg2.connect(dsn)
    cursor = connection.cursor("rows", cursor_factory=factory)
    cursor.itersize = 2
    cursor.execute(ROWS)

    assert len(list(cursor)) == 5
    assert calls() == 5
    connection.close()


def test_transaction(dsn: str, reports: Reports) -> None:
    """The status is that after the last call, whoever ended the transaction."""
    connection = psycopg2.connect(dsn)
    seen: list[str] = []

    def note() -> None:
        seen.append(held().transaction)

    with connection:
        connection.cursor().execute("SELECT 1")
        note()
    note()
    with pytest.raises(psycopg2.Error), connection:
        connection.cursor().execute("SELECT nonsense")
    note()
    with pytest.raises(psycopg2.Error):
        connection.cursor().execute("SELECT nonsense")
    note()
    connection.rollback()
    note()

    assert seen == ["open", "none", "none", "aborted", "none"]
    connection.close()


@pytest.mark.parametrize(
    ("query", "shown"),
    [
        (sql.SQL("SELECT * FROM {}").format(sql.Identifier("customers")), "SELECT … FROM customers"),
        (b"DELETE FROM customers", "DELETE FROM customers"),
        ("SELECT 'secret' FROM customers", "SELECT … FROM customers"),
    ],
)
def test_statement(query: Any, shown: str, dsn: str, reports: Reports) -> None:
    """The last statement in a report, also of a connection that is gone."""

    def drops() -> None:
        connection = psycopg2.connect(dsn)
        connection.cursor().execute(query)

    drops()
    assert statement(reports) == shown


def test_statement_off(dsn: str, instrument: Instrument) -> None:
    """Where statements are off none is shown; the calls are counted."""
    reports = instrument(statements="off")

    def drops() -> None:
        connection = psycopg2.connect(dsn)
        connection.cursor().execute("SELECT 1")
        assert calls() == 1

    drops()
    assert statement(reports) is None


def test_statement_that_is_refused(dsn: str, reports: Reports) -> None:
    """What psycopg2 says to a statement that cannot be is what the application hears, and all it hears."""
    connection = psycopg2.connect(dsn)
    with pytest.raises(TypeError) as raised:
        connection.cursor().execute(sql.Identifier(1))  # type: ignore[arg-type]

    assert raised.value.__context__ is None
    connection.close()


# --- no leak -----------------------------------------------------------------------------------------------


@pytest.fixture
def impatient(instrument: Instrument) -> Reports:
    """The reports where a connection soon is overdue."""
    return instrument(overdue_after=IDLE)


def busy_in_a_query(connection: Any) -> None:
    """One long query."""
    connection.cursor().execute(f"SELECT pg_sleep({LONG})")


def busy_in_rows(connection: Any) -> None:
    """Many short ones, in the iteration over a named cursor."""
    cursor = connection.cursor("rows")
    cursor.itersize = 1
    cursor.execute(f"SELECT pg_sleep({LONG / 20}) FROM generate_series(1, 20)")
    assert len(list(cursor)) == 20


def waits_for_notifications(connection: Any) -> None:
    """As psycopg2's manual shows it."""
    connection.autocommit = True
    connection.cursor().execute("LISTEN orders")
    assert select.select([connection], [], [], LONG) == ([], [], [])
    connection.poll()


def has_a_cursor_by_a_function(connection: Any) -> None:
    """Whose calls nobody sees."""
    cursor = connection.cursor(cursor_factory=lambda *args: OwnCursor(*args))  # noqa: PLW0108
    cursor.execute(f"SELECT pg_sleep({LONG})")


@pytest.mark.parametrize(
    "use", [busy_in_a_query, busy_in_rows, waits_for_notifications, has_a_cursor_by_a_function]
)
def test_in_use(use: Callable[[Any], None], dsn: str, impatient: Reports) -> None:
    """A connection that is in use is not overdue, and neither is one of which nobody can say it."""
    connection = psycopg2.connect(dsn)
    use(connection)

    assert impatient.leaks() == []
    connection.close()


def test_large_object(dsn: str, impatient: Reports) -> None:
    """What is done with a large object is seen by nobody: its connection never is overdue from then on."""
    connection = psycopg2.connect(dsn)
    busy_in_a_query(connection)
    large: Any = connection.lobject(0, "wb")
    impatient.none(after=LONG)
    assert large.write(b"x") == 1
    connection.close()


def test_cursor_past_us(dsn: str, impatient: Reports) -> None:
    """A cursor that the application's class has got past us is seen by nobody either."""
    connection = psycopg2.connect(dsn, connection_factory=OldConnection)
    has_a_cursor = connection.cursor()
    assert type(has_a_cursor) is extensions.cursor
    impatient.none(after=LONG)
    connection.close()


@pytest.fixture
def as_under_gevent() -> Iterator[None]:
    """psycopg2 waits in a function that it calls, and that asks the connection what to wait for."""
    extensions.set_wait_callback(extras.wait_select)
    yield
    extensions.set_wait_callback(None)


@pytest.mark.usefixtures("as_under_gevent")
def test_idle_under_gevent(dsn: str, impatient: Reports) -> None:
    """What psycopg2 itself asks during a call is no wait for notifications: idle is overdue."""
    connection = psycopg2.connect(dsn)
    busy_in_a_query(connection)
    connection.commit()

    assert impatient.leak().evidence == {"overdue"}
    connection.close()


def test_idle(dsn: str, impatient: Reports) -> None:
    """One that is idle is overdue, even right after a long query."""
    connection = psycopg2.connect(dsn)
    busy_in_a_query(connection)
    leak = impatient.leak()

    assert leak.evidence == {"overdue"}
    connection.close()
    assert impatient.recovery().id == leak.id


def test_closed_twice(dsn: str, reports: Reports) -> None:
    """A second close is one too many, and harmless."""
    connection = psycopg2.connect(dsn)
    connection.close()
    connection.close()

    assert reports.hold_names() == ["test_closed_twice"]


@pytest.mark.parametrize(
    "end", [end_session, lambda _dsn, connection: extensions.connection.close(connection)]
)
def test_ended_and_dropped(end: Callable[[str, Any], None], dsn: str, reports: Reports) -> None:
    """A connection that was closed past us, by the server for example, holds nothing: it is no leak."""

    def drops() -> None:
        connection = psycopg2.connect(dsn)
        end(dsn, connection)
        reports.telemetry.clear()

    drops()
    reports.none()

    assert reports.hold_names()[-1].endswith("drops")
    assert open_holds() == []


def test_finalizer_that_closes(dsn: str, reports: Reports) -> None:
    """A class that closes its connections when they are dropped does not leak them."""
    finalized = []

    class Closing(extensions.connection):
        def __del__(self) -> None:
            finalized.append(self.info.dbname)
            self.close()

    def drops() -> None:
        psycopg2.connect(dsn, connection_factory=Closing).cursor()

    drops()
    reports.none()
    assert len(finalized) == 1


# --- leaks -------------------------------------------------------------------------------------------------


def test_with(dsn: str, instrument: Instrument) -> None:
    """``with connection:`` ends the transaction, and does not close: the function is named."""
    reports = instrument(grace=NEVER)

    def selects() -> None:
        with psycopg2.connect(dsn) as connection:
            connection.cursor().execute("SELECT 1")

    selects()
    leak = reports.leak()

    assert leak.function.endswith("test_with.selects")
    assert "dropped" in leak.evidence
    assert "connleak.transaction.outcome" not in leak.attributes


def test_kept_by_a_cursor(dsn: str, reports: Reports) -> None:
    """A cursor keeps its connection: not dropped, but nobody can use it after the function's exit."""

    def keeps() -> None:
        Cycle(psycopg2.connect(dsn).cursor())

    keeps()
    leak = reports.leak()

    assert leak.evidence == {"function_exited"}
    assert leak.certainty == "possible"


def test_class_for_each_connection(dsn: str, reports: Reports) -> None:
    """An application may make classes for each connection: they go with it."""

    def connects() -> list[weakref.ref[Any]]:
        class Connection(extensions.connection):
            pass

        class Cursor(extensions.cursor):
            pass

        connection = psycopg2.connect(dsn, connection_factory=Connection, cursor_factory=Cursor)
        connection.cursor().execute("SELECT 1")
        connection.close()
        return [weakref.ref(Connection), weakref.ref(Cursor)]

    classes = connects()
    gc.collect()  # what was made of them
    gc.collect()  # and then they
    assert [reference() for reference in classes] == [None, None]


# --- uninstrumented ----------------------------------------------------------------------------------------


def test_uninstrumented(dsn: str, telemetry: Telemetry) -> None:
    """A connection made before keeps its class, and works; its new cursors are psycopg2's own."""
    with telemetry.instrumented():
        connection = psycopg2.connect(dsn)
        cursor = connection.cursor()
    telemetry.clear()
    cursor.execute("SELECT 1")
    connection.poll()

    assert cursor.fetchone() == (1,)
    assert type(connection.cursor()) is extensions.cursor
    with connection, connection.cursor("rows") as named:
        named.execute(ROWS)
        assert len(list(named)) == 5
    connection.close()
    assert type(psycopg2.connect(dsn)) is extensions.connection
    assert telemetry.spans() == []


# --- OpenTelemetry's own instrumentation -------------------------------------------------------------------


def instrument_as_psycopg2_does(tracing: dbapi.DatabaseApiIntegration) -> Callable[[], None]:
    """Replace ``psycopg2.connect`` as ``opentelemetry-instrumentation-psycopg2`` does: by a class of cursors.

    Returns:
        What gives the function back.
    """
    original = psycopg2.connect

    def connect(*args: Any, **kwargs: Any) -> Any:
        class TracedCursor(kwargs.pop("cursor_factory", None) or extensions.cursor):  # type: ignore[misc]
            def execute(self, *args: Any, **kwargs: Any) -> Any:
                return dbapi.CursorTracer(tracing).traced_execution(self, super().execute, *args, **kwargs)

        return original(*args, **kwargs, cursor_factory=TracedCursor)

    psycopg2.connect = connect

    def undo() -> None:
        psycopg2.connect = original

    return undo


def instrument_by_proxies(tracing: dbapi.DatabaseApiIntegration) -> Callable[[], None]:
    """The same as others do: by a proxy around the connection."""
    original = psycopg2.connect

    def connect(*args: Any, **kwargs: Any) -> Any:
        return tracing.wrapped_connection(original, args, kwargs)

    psycopg2.connect = connect

    def undo() -> None:
        psycopg2.connect = original

    return undo


@pytest.fixture(params=[instrument_as_psycopg2_does, instrument_by_proxies])
def trace_queries(request: pytest.FixtureRequest, telemetry: Telemetry) -> Iterator[Callable[[], None]]:
    """A function that starts an instrumentation that makes spans of queries."""
    tracing = dbapi.DatabaseApiIntegration("test", "postgresql", tracer_provider=telemetry.tracer_provider)
    undo: list[Callable[[], None]] = []
    yield lambda: undo.append(request.param(tracing))
    undo.pop()()


@pytest.mark.parametrize("first", [True, False])
def test_query_spans(
    first: bool, trace_queries: Callable[[], None], dsn: str, instrument: Instrument, telemetry: Telemetry
) -> None:
    """In either order: queries are counted, their spans are in the transaction, a close is seen."""
    if first:
        trace_queries()
    reports = instrument()
    if not first:
        trace_queries()
    connection = psycopg2.connect(dsn)
    connection.cursor().execute("SELECT 1")
    assert calls() == 1
    connection.close()
    transaction, (query,) = telemetry.span("transaction"), telemetry.spans("SELECT")

    assert transaction.context is not None
    assert query.parent is not None
    assert query.parent.span_id == transaction.context.span_id
    assert reports.hold_names() == ["test_query_spans"]
