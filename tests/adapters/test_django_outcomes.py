"""How Django's transactions end: by ``atomic`` blocks, by hand, and not at all."""

import contextlib
import sqlite3
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pymysql
import pytest
from django.core.handlers.base import BaseHandler
from django.db import DatabaseError, connection, transaction
from django.http import HttpRequest, HttpResponse
from opentelemetry.trace import Tracer

from otel_connleak import open_holds
from tests.adapters.conftest import Instrument
from tests.support.django_project import databases, postgresql
from tests.support.mariadb import Database, fresh_database
from tests.support.reports import GRACE, Reports, held
from tests.support.transactions import ADD, ended

COUNT = "SELECT count(*) FROM customers"
WRONG = "SELECT nothing FROM nowhere"
FOREIGN = "tests.support.foreign_backend"


class OutOfStock(Exception):
    """An error of the application."""


def sqlite(path: Path, engine: str = "django.db.backends.sqlite3") -> dict[str, Any]:
    """Django's settings of a database of SQLite, with a table ``customers``."""
    with contextlib.closing(sqlite3.connect(path)) as created:
        created.execute("CREATE TABLE customers (id int PRIMARY KEY, name text)")
    return {"ENGINE": engine, "NAME": str(path), "HOST": "", "PORT": ""}


def mysql(database: Database, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The same for MySQL, by the driver that passes for the one that Django asks for."""
    monkeypatch.setitem(sys.modules, "MySQLdb", None)
    monkeypatch.setitem(sys.modules, "_mysql", None)
    pymysql.install_as_MySQLdb()
    # Or Django would import them again under the other name, and leave the copies on the first's package.
    for name in [name for name in sys.modules if name.startswith("pymysql.")]:
        monkeypatch.setitem(sys.modules, f"MySQLdb.{name.removeprefix('pymysql.')}", sys.modules[name])
    engine = "django.db.backends.mysql"
    return {"ENGINE": engine, "NAME": database.name, "USER": "root", "HOST": database.server.socket}


@pytest.fixture(params=["psycopg", "sqlite3", "pymysql", "unknown driver"])
def database(
    request: pytest.FixtureRequest, dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    """A database whose driver is seen, two where Django sends statements of its own, and one unseen."""
    with contextlib.ExitStack() as stack:
        if request.param == "psycopg":
            about = postgresql(dsn)
        elif request.param == "pymysql":
            server = request.getfixturevalue("mariadb")
            about = mysql(stack.enter_context(fresh_database(server)), monkeypatch)
        elif request.param == "sqlite3":
            about = sqlite(tmp_path / "shop.db")
        else:
            about = sqlite(tmp_path / "shop.db", FOREIGN)
        stack.enter_context(databases(default=about))
        yield request.param


@pytest.fixture
def watched(database: str, instrument: Instrument) -> Reports:
    """The reports of this process; Django has connected since its start, and the table has no customer 4."""
    reports = instrument()
    with connection.cursor() as cursor:
        cursor.execute(COUNT)
    return reports


def run(statement: str = ADD) -> None:
    """Run a statement of a repository function."""
    with connection.cursor() as cursor:
        cursor.execute(statement)


def added() -> int:
    """How many customers have the number 4, for a connection of Django's that is not in a transaction."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM customers WHERE id = 4")
        return int(cursor.fetchone()[0])


# --- ways to end one ---------------------------------------------------------------------------------------


def commits() -> None:
    """Writes, and commits."""
    with transaction.atomic():
        run(COUNT)
        run()


@transaction.atomic  # type: ignore[untyped-decorator] # Django has no types
def commits_decorated() -> None:
    """The same, by the decorator."""
    run()


def commits_durably() -> None:
    """The same, and would be refused in another block."""
    with transaction.atomic(durable=True):
        run()


def fails() -> None:
    """Writes, and fails."""
    with contextlib.suppress(OutOfStock), transaction.atomic():
        run()
        raise OutOfStock


def rolls_back() -> None:
    """Writes, and thinks better of it."""
    with transaction.atomic():
        run()
        transaction.set_rollback(True)


def part_fails() -> None:
    """A block in the block is a savepoint, and it may fail."""
    with transaction.atomic():
        run()
        with contextlib.suppress(OutOfStock), transaction.atomic():
            run("UPDATE customers SET name = 'renamed' WHERE id = 4")
            raise OutOfStock


def part_without_savepoint_fails() -> None:
    """Without a savepoint the outer block rolls back, although no exception leaves it."""
    with transaction.atomic():
        run()
        with contextlib.suppress(OutOfStock), transaction.atomic(savepoint=False):
            raise OutOfStock


def notifies() -> None:
    """What waits for the commit writes in a transaction of its own."""
    with transaction.atomic():
        run()
        transaction.on_commit(lambda: run(COUNT))


def by_hand() -> None:
    """Without a block."""
    transaction.set_autocommit(False)
    run()
    transaction.commit()
    transaction.set_autocommit(True)


def rolled_back_by_hand() -> None:
    """Without a block, and thinks better of it."""
    transaction.set_autocommit(False)
    run()
    transaction.rollback()
    transaction.set_autocommit(True)


@pytest.mark.parametrize(
    ("use", "owner", "outcome", "writes", "rows"),
    [
        (commits, "commits", "committed", 1, 1),
        (commits_decorated, "commits_decorated", "committed", 1, 1),
        (commits_durably, "commits_durably", "committed", 1, 1),
        (fails, "fails", "rolled_back", 1, 0),
        (rolls_back, "rolls_back", "rolled_back", 1, 0),
        (part_fails, "part_fails", "committed", 1, 1),
        (part_without_savepoint_fails, "part_without_savepoint_fails", "rolled_back", 1, 0),
        (notifies, "notifies", "committed", 1, 1),
        (by_hand, "run", "committed", 1, 1),
        (rolled_back_by_hand, "run", "rolled_back", 1, 0),
    ],
    ids=lambda value: getattr(value, "__name__", None) if callable(value) else None,
)
def test_end(
    use: Callable[[], None], owner: str, outcome: str, writes: int, rows: int, watched: Reports
) -> None:
    """One transaction, with its writes; a block is that of its function, else that of the first statement."""
    use()
    ((function, how, statements, written),) = ended(watched)

    assert (function, how, written) == (owner, outcome, writes)
    assert statements > written, "its end is a call, too"
    assert added() == rows
    connection.close()
    (hold,) = watched.telemetry.spans("hold")
    assert (hold.attributes or {})["connleak.transaction.outcome"] == outcome
    assert open_holds() == []
    watched.none()


def test_on_commit_in_turn(watched: Reports) -> None:
    """What waits for the commit may have a block of its own; the one before it is over, and committed."""

    def read() -> None:
        with transaction.atomic():
            run(COUNT)
        raise OutOfStock

    with contextlib.suppress(OutOfStock), transaction.atomic():
        run()
        transaction.on_commit(read)

    assert [(function, outcome) for function, outcome, *_ in ended(watched)] == [
        ("test_on_commit_in_turn", "committed"),
        ("read", "committed"),
    ]
    assert added() == 1
    watched.none()


def test_closed_past_django(watched: Reports, database: str) -> None:
    """Who closes the driver's connection by itself has ended its hold, where the driver tells."""
    assert held() == 1
    connection.connection.close()
    assert held() == (1 if database == "unknown driver" else 0)
    if database == "pymysql":
        connection.connection = None  # Django closes it again at the end, which PyMySQL refuses

    watched.none()


def test_autocommit(watched: Reports) -> None:
    """Outside of a block each statement is committed at once."""
    run()
    run(COUNT)
    connection.close()

    assert ended(watched) == []
    watched.none()


# --- forgotten ---------------------------------------------------------------------------------------------


def forgets() -> None:
    """Turns autocommit off, writes, and never commits."""
    transaction.set_autocommit(False)
    run()


def test_forgotten_commit(watched: Reports) -> None:
    """What was written by hand and not committed is lost when Django closes the connection."""
    forgets()
    connection.close()
    leak = watched.leak()

    assert leak.function.endswith(".run")
    assert "discarded" in leak.evidence
    assert leak.attributes["connleak.resource"] == "transaction"
    assert leak.attributes["connleak.transaction.outcome"] == "discarded"
    assert [(outcome, writes) for _, outcome, _, writes in ended(watched)] == [("discarded", 1)]
    assert added() == 0


def closes_within() -> None:
    """Closes the connection in its block: what was written before is lost."""
    with transaction.atomic():
        run()
        connection.close()


def test_closed_within(watched: Reports) -> None:
    """A connection that is closed in a block takes the writes with it, and no exception says so."""
    closes_within()
    leak = watched.leak()

    assert leak.function.endswith("closes_within")
    assert "discarded" in leak.evidence
    assert [(function, outcome) for function, outcome, *_ in ended(watched)] == [
        ("closes_within", "discarded")
    ]
    assert added() == 0


def test_closed_because_of_an_exception(watched: Reports) -> None:
    """Where an exception is the reason, nothing was forgotten."""
    with contextlib.suppress(OutOfStock), transaction.atomic():
        run()
        try:
            raise OutOfStock
        finally:
            connection.close()

    assert [outcome for _, outcome, *_ in ended(watched)] == ["rolled_back"]
    watched.none()


# --- what the server says ----------------------------------------------------------------------------------


def test_failed_commit(dsn: str, reports: Reports) -> None:
    """A commit that the server refuses is none."""
    with databases(default=postgresql(dsn)):
        run("CREATE TABLE parts (id int UNIQUE DEFERRABLE INITIALLY DEFERRED)")
        with pytest.raises(DatabaseError), transaction.atomic():
            run("INSERT INTO parts VALUES (1), (1)")

    assert [(outcome, writes) for _, outcome, _, writes in ended(reports)] == [("rolled_back", 1)]
    reports.none()


def test_aborted(dsn: str, reports: Reports) -> None:
    """PostgreSQL rolls back, and does not complain, where an aborted transaction is committed."""
    with databases(default=postgresql(dsn)):
        with transaction.atomic():
            run()
            with contextlib.suppress(DatabaseError):
                run(WRONG)
        assert added() == 0

    assert [outcome for _, outcome, *_ in ended(reports)] == ["rolled_back"]
    reports.none()


def test_kept_connection(dsn: str, instrument: Instrument) -> None:
    """A connection that is kept for long is none of our business; a transaction in it must be short."""
    reports = instrument(overdue_after=GRACE)
    with databases(default=postgresql(dsn, CONN_MAX_AGE=None)):
        run(COUNT)
        reports.none()
        transaction.set_autocommit(False)
        run(COUNT)
        leak = reports.leak()
        transaction.rollback()

        assert "overdue" in leak.evidence
        assert leak.attributes["connleak.resource"] == "transaction"


def test_request_has_ended(dsn: str, reports: Reports, tracer: Tracer) -> None:
    """A transaction that is open when its request has ended is reported; its connection is Django's own."""
    with databases(default=postgresql(dsn, CONN_MAX_AGE=None)):
        run(COUNT)
        with tracer.start_as_current_span("GET /orders"):
            forgets()
        leak = reports.leak()
        connection.rollback()

        assert "trace_ended" in leak.evidence
        assert leak.attributes["connleak.resource"] == "transaction"


@pytest.fixture
def tracer(reports: Reports) -> Tracer:
    """The tracer of the application."""
    return reports.telemetry.tracer_provider.get_tracer("application")


class Handler(BaseHandler):  # type: ignore[misc] # Django has no types
    """What Django wraps around a view."""


def place_order(_request: HttpRequest) -> HttpResponse:
    """A view that writes."""
    run()
    return HttpResponse()


def fail_to_order(_request: HttpRequest) -> HttpResponse:
    """A view that fails."""
    run()
    raise OutOfStock


@pytest.mark.parametrize(("view", "outcome"), [(place_order, "committed"), (fail_to_order, "rolled_back")])
def test_atomic_requests(view: Callable[..., Any], outcome: str, dsn: str, reports: Reports) -> None:
    """With ``ATOMIC_REQUESTS`` the view is the block, which an exception leaves."""
    with databases(default=postgresql(dsn, ATOMIC_REQUESTS=True)):
        made: Any = Handler().make_view_atomic(view)
        with contextlib.suppress(OutOfStock):
            made(HttpRequest())

    assert [(function, how) for function, how, *_ in ended(reports)] == [(view.__name__, outcome)]
    reports.none()
