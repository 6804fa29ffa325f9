"""Transactions of modules without an adapter: pg8000, and sqlite3 under another name."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pg8000.dbapi
import pytest

from otel_connleak import open_holds
from tests.support import litedb
from tests.support.reports import Reports
from tests.support.telemetry import Telemetry
from tests.support.traced import parameters, traced, untraced_at_the_end
from tests.support.transactions import ADD, ended

COUNT = "SELECT count(*) FROM customers"


@pytest.fixture(autouse=True)
def nothing_stays_traced() -> Iterator[None]:
    """What a test traces is not traced in the next one."""
    with untraced_at_the_end():
        yield


@pytest.fixture
def reports(telemetry: Telemetry) -> Iterator[Reports]:
    """Both modules are traced, this process is instrumented."""
    with traced(telemetry) as reports:
        yield reports


@pytest.fixture(params=["pg8000", "litedb"])
def connect(request: pytest.FixtureRequest, dsn: str, tmp_path: Path) -> Callable[[], Any]:
    """A function that connects."""
    if request.param == "pg8000":
        return lambda: pg8000.dbapi.connect(**parameters(dsn))
    path = tmp_path / "shop.db"
    with contextlib.closing(litedb.connect(path)) as connection:
        connection.execute("CREATE TABLE customers (id int PRIMARY KEY, name text)")
    return lambda: litedb.connect(path)


def run(connection: Any, statement: str = ADD) -> None:
    """Run a statement."""
    connection.cursor().execute(statement)


def commits(connection: Any) -> None:
    """Writes, and commits."""
    run(connection)
    connection.commit()


def commits_by_statement(connection: Any) -> None:
    """The same, in words."""
    run(connection)
    run(connection, "COMMIT")


def rolls_back(connection: Any) -> None:
    """Writes, and thinks better of it."""
    run(connection)
    connection.rollback()


def forgets(connection: Any) -> None:
    """Writes, and nobody commits."""
    run(connection)


@pytest.mark.parametrize(
    ("use", "outcome", "statements"),
    [
        (commits, "committed", 2),
        (commits_by_statement, "committed", 2),
        (rolls_back, "rolled_back", 2),
        (forgets, "discarded", 1),
    ],
    ids=lambda value: getattr(value, "__name__", None) if callable(value) else None,
)
def test_end(
    use: Callable[[Any], None], outcome: str, statements: int, connect: Callable[[], Any], reports: Reports
) -> None:
    """One transaction, of the function whose statement has begun it; only what was forgotten is reported."""
    with contextlib.closing(connect()) as connection:
        use(connection)

    assert ended(reports) == [("run", outcome, statements, 1)]
    assert open_holds() == []
    if outcome == "discarded":
        assert "discarded" in reports.leak().evidence
    else:
        reports.none()


def test_reads(connect: Callable[[], Any], reports: Reports) -> None:
    """What was only read is not lost."""
    with contextlib.closing(connect()) as connection:
        run(connection, COUNT)

    assert [writes for *_, writes in ended(reports)] in ([], [0])
    reports.none()


def test_exception(connect: Callable[[], Any], reports: Reports) -> None:
    """An exception that closes the connection is the reason for what is lost."""
    with contextlib.suppress(LookupError), contextlib.closing(connect()) as connection:
        run(connection)
        raise LookupError

    assert ended(reports) == [("run", "rolled_back", 1, 1)]
    reports.none()


@pytest.mark.parametrize(("error", "outcome"), [(None, "committed"), (LookupError, "rolled_back")])
def test_with_block(error: type[Exception] | None, outcome: str, tmp_path: Path, reports: Reports) -> None:
    """A ``with`` block that ends the transaction, as most modules have it."""
    with contextlib.closing(litedb.connect(tmp_path / "shop.db")) as connection:
        connection.execute("CREATE TABLE customers (id int PRIMARY KEY, name text)")
        with contextlib.suppress(LookupError), connection:
            run(connection)
            if error is not None:
                raise error

    assert ended(reports) == [("run", outcome, 2, 1)]
    reports.none()


def test_with_block_that_closes(dsn: str, reports: Reports) -> None:
    """pg8000's ``with`` closes the connection, and does not commit."""
    with pg8000.dbapi.connect(**parameters(dsn)) as connection:
        run(connection)

    assert ended(reports) == [("run", "discarded", 1, 1)]
    reports.leak()
