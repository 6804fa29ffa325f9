"""``trace_dbapi``: when a DB-API module is traced, and what is then seen of its connections."""

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pg8000.dbapi
import psycopg
import pytest
from dbutils.pooled_db import PooledDB
from opentelemetry.instrumentation.dbapi import trace_integration, unwrap_connect
from opentelemetry.sdk.trace import ReadableSpan
from sqlalchemy import create_engine, text

from otel_connleak import open_holds, trace_dbapi, untrace_dbapi
from otel_connleak.connection import Facts
from otel_connleak.pep249 import arguments_of, facts
from tests.adapters.shop.keeping import Cycle
from tests.support import litedb
from tests.support.reports import Reports
from tests.support.telemetry import Telemetry
from tests.support.traced import QUICK, parameters, query_spans, traced, untraced_at_the_end


@pytest.fixture(autouse=True)
def nothing_stays_traced() -> Iterator[None]:
    """What a test traces is not traced in the next one."""
    with untraced_at_the_end():
        yield


@pytest.fixture
def reports(telemetry: Telemetry, dsn: str) -> Iterator[Reports]:
    """Both modules are traced, this process is instrumented."""
    with traced(telemetry) as reports:
        yield reports


@pytest.fixture
def connect(dsn: str) -> Callable[[], Any]:
    """Connects with pg8000, whose function is looked up each time."""
    return lambda: pg8000.dbapi.connect(**parameters(dsn))


# --- tracing and untracing -----------------------------------------------------------------------------


def test_before_the_instrumentation(telemetry: Telemetry) -> None:
    """A module may be traced before the instrumentation starts: nothing happens until then."""
    original = litedb.connect
    trace_dbapi(litedb)
    assert litedb.connect is original
    with telemetry.instrumented(**QUICK):
        litedb.connect(":memory:").close()

    assert Reports(telemetry).hold_names() == ["test_before_the_instrumentation"]
    assert litedb.connect is original


def test_after_the_start(telemetry: Telemetry) -> None:
    """A module may be traced while the instrumentation runs, and again when it is started anew."""
    with telemetry.instrumented(**QUICK):
        trace_dbapi(litedb)
        litedb.connect(":memory:").close()
    litedb.connect(":memory:").close()
    with telemetry.instrumented(**QUICK):
        litedb.connect(":memory:").close()

    assert len(Reports(telemetry).hold_names()) == 2


def test_twice(telemetry: Telemetry) -> None:
    """Tracing a module twice is tracing it once, and so is its inverse."""
    with telemetry.instrumented(**QUICK):
        trace_dbapi(litedb)
        trace_dbapi(litedb, "sqlite")
        litedb.connect(":memory:").close()
        untrace_dbapi(litedb)
        untrace_dbapi(litedb)
        litedb.connect(":memory:").close()

    assert len(Reports(telemetry).hold_names()) == 1


@pytest.mark.parametrize("end", [untrace_dbapi, None])
def test_held_when_it_ends(end: Any, telemetry: Telemetry, connect: Callable[[], Any]) -> None:
    """A connection that is held when the tracing ends goes on working, unseen, and is no leak."""
    trace_dbapi(pg8000.dbapi)
    with telemetry.instrumented(**QUICK):
        connection = connect()
        cursor = connection.cursor()
        if end is not None:
            end(pg8000.dbapi)
            assert open_holds() == []
    telemetry.clear()
    with connection:
        for each in (cursor, connection.cursor()):
            each.execute("SELECT 1")
            assert each.fetchone() == [1]

    assert telemetry.spans() == []
    with pytest.raises(pg8000.dbapi.InterfaceError):
        connection.close()


def test_module_with_an_adapter(telemetry: Telemetry, caplog: pytest.LogCaptureFixture) -> None:
    """A module that has an adapter is left to it: a warning says so, and nothing is doubled."""
    with telemetry.instrumented(**QUICK):
        by_the_adapter = psycopg.connect
        trace_dbapi(psycopg)
        assert psycopg.connect is by_the_adapter
    untrace_dbapi(psycopg)

    (record,) = caplog.records
    assert record.getMessage().startswith(
        "trace_dbapi(psycopg) does nothing: there is an adapter for psycopg"
    )


def test_no_dbapi_module() -> None:
    """What has no ``connect`` is refused at once, by name."""
    with pytest.raises(TypeError, match=r"'contextlib' .* has no function connect"):
        trace_dbapi(contextlib)


def test_missing_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the package that makes the query spans the error says what to install."""
    monkeypatch.setitem(sys.modules, "opentelemetry.instrumentation.dbapi", None)
    with pytest.raises(ImportError, match="pip install opentelemetry-instrumentation-dbapi"):
        trace_dbapi(litedb)


# --- spans and times -----------------------------------------------------------------------------------


def test_query_spans(reports: Reports, connect: Callable[[], Any]) -> None:
    """Each query has a span, which is a child of its transaction, within the hold of its connection."""
    connection = connect()
    connection.cursor().execute("SELECT count(*) FROM customers")
    connection.cursor().executemany("UPDATE customers SET name = %s", [["a"], ["b"]])
    connection.close()
    hold = reports.telemetry.span("hold")
    spans = query_spans(reports.telemetry)

    transaction = reports.telemetry.span("transaction")

    assert [span.name for span in spans] == ["SELECT", "UPDATE"]
    assert hold.context is not None
    assert transaction.context is not None
    assert {span.parent and span.parent.span_id for span in spans} == {transaction.context.span_id}
    assert transaction.parent is not None
    assert transaction.parent.span_id == hold.context.span_id
    assert {(span.attributes or {})["db.system"] for span in spans} == {"other_sql"}


def test_statement_of_a_connection(reports: Reports) -> None:
    """Some drivers run statements on the connection itself: these are seen too, and so is their cursor."""
    connection = litedb.connect(":memory:")
    rows = connection.execute("SELECT 1 UNION SELECT 2")
    assert list(rows) == [(1,), (2,)]
    assert rows.connection is connection
    connection.close()
    hold = reports.telemetry.span("hold")

    assert [span.name for span in query_spans(reports.telemetry)] == ["SELECT"]
    assert dict(hold.attributes or {})["db.system.name"] == "sqlite"
    assert dict(hold.attributes or {})["connleak.statements"] == 4, "the query, two rows, and the end of them"


def test_query_is_no_idle_time(reports: Reports, connect: Callable[[], Any]) -> None:
    """A connection is busy while its query runs."""
    connection = connect()
    connection.cursor().execute("SELECT pg_sleep(0.3)")
    connection.close()
    attributes: Any = reports.telemetry.span("hold").attributes

    assert attributes["connleak.use_time"] - attributes["connleak.idle_time"] >= 0.3


def test_statements_off(telemetry: Telemetry, connect: Callable[[], Any]) -> None:
    """A user who wants no statements in reports gets none."""

    def leave_it() -> None:
        connection = connect()
        connection.cursor().execute("SELECT count(*) FROM customers")
        Cycle(connection)

    trace_dbapi(pg8000.dbapi)
    with telemetry.instrumented(**QUICK, statements="off"):
        leave_it()
        leak = Reports(telemetry).leak()

    assert leak.function.endswith("leave_it")
    assert "db.query.summary" not in leak.attributes


def test_other_instrumentation(telemetry: Telemetry) -> None:
    """A module that OpenTelemetry's own instrumentation traces has its query spans once, as before."""
    module: Any = litedb
    trace_integration(module, "connect", "lite", tracer_provider=telemetry.tracer_provider)
    trace_dbapi(litedb)
    with telemetry.instrumented(**QUICK):
        connection = litedb.connect(":memory:")
        connection.cursor().execute("SELECT 1")
        connection.close()
    unwrap_connect(module, "connect")
    (query,) = query_spans(telemetry)

    assert (query.attributes or {})["db.system"] == "lite"
    assert Reports(telemetry).hold_names() == ["test_other_instrumentation"]


def test_what_connect_was_given() -> None:
    """Server and database are the arguments of ``connect``, by name or by position; a path has no port."""

    def connect(dsn: str, user: str, password: str, host: str, database: str) -> None:
        """As PEP 249 recommends it."""

    by_position = arguments_of(connect)(("", "me", "secret", "db.example", "shop"), {})
    by_name = arguments_of(type)((), {"server": "/run/db", "port": 1234, "db": "shop"})

    assert facts(object(), None, by_position) == Facts("other_sql", "shop", "db.example")
    assert facts(object(), "mssql", by_name) == Facts("mssql", "shop", "/run/db")


# --- what keeps connections ----------------------------------------------------------------------------


def test_library_without_an_adapter(reports: Reports, dsn: str) -> None:
    """A library that keeps connections, and of which nothing else is known, makes no hold either."""
    library: dict[str, Any] = {"__name__": "tortoise.backends", "driver": pg8000.dbapi}
    exec("def check_out(parameters):\n    return driver.connect(**parameters)", library)
    connection = library["check_out"](parameters(dsn))
    connection.cursor().execute("SELECT 1")
    connection.close()

    assert reports.hold_names() == []
    assert [span.name for span in query_spans(reports.telemetry)] == ["SELECT"]


def of_a_pool(reports: Reports, dsn: str) -> None:
    """There is one hold, that of the pool, which knows the server, the transaction and the queries."""
    reports.settle()
    (hold,) = reports.telemetry.spans("hold")
    known = parameters(dsn)
    attributes = dict(hold.attributes or {})
    transaction = reports.telemetry.spans("transaction")[-1]
    assert in_hold(transaction, hold)
    query = next(span for span in query_spans(reports.telemetry) if in_hold(span, transaction))

    assert query.name == "SELECT"
    assert attributes["db.system.name"] == "postgresql"
    assert attributes["server.address"] == known["unix_sock"].rpartition("/")[0]
    assert attributes["db.client.connection.pool.name"]
    assert attributes["connleak.use_time"] - attributes["connleak.idle_time"] >= 0.2  # type: ignore[operator]
    reports.none()


def in_hold(span: ReadableSpan, hold: ReadableSpan) -> bool:
    """Whether a span is a child of a hold."""
    return (
        span.parent is not None and hold.context is not None and span.parent.span_id == hold.context.span_id
    )


def test_sqlalchemy(reports: Reports, dsn: str) -> None:
    """SQLAlchemy connects on its own account: the hold is that of its pool."""
    alchemy = create_engine("postgresql+pg8000://", connect_args=parameters(dsn), module=pg8000.dbapi)
    with alchemy.connect():
        pass  # the first time it asks the server for its version
    reports.telemetry.clear()
    with alchemy.connect() as connection:
        connection.execute(text("SELECT pg_sleep(0.2)"))
        held = open_holds()[0]
    alchemy.dispose()

    assert held.statements >= 1
    of_a_pool(reports, dsn)


def test_dbutils(reports: Reports, dsn: str) -> None:
    """The same with a pool that only knows DB-API modules."""
    pool = PooledDB(pg8000.dbapi, maxconnections=1, **parameters(dsn))
    connection = pool.connection()
    connection.cursor().execute("SELECT pg_sleep(0.2)")
    held = open_holds()[0]
    connection.close()
    pool.close()

    assert held.statements >= 1
    of_a_pool(reports, dsn)
