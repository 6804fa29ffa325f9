"""How transactions of peewee end: its blocks tell the driver, and what the driver is told is seen."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import peewee
import pytest
from playhouse import pool as peewee_pool

from otel_connleak import open_holds
from tests.adapters.test_peewee import parameters
from tests.support.reports import Reports
from tests.support.transactions import ADD, ended


class OutOfStock(Exception):
    """An error of the application."""


@pytest.fixture(params=["psycopg", "psycopg2", "pool", "sqlite3"])
def database(request: pytest.FixtureRequest, dsn: str, tmp_path: Path) -> Iterator[Any]:
    """A database of peewee."""
    made: Any
    if request.param == "sqlite3":
        made = peewee.SqliteDatabase(str(tmp_path / "shop.db"))
        made.execute_sql("CREATE TABLE customers (id int PRIMARY KEY, name text)")
        made.close()
    elif request.param == "pool":
        module: Any = peewee_pool
        made = module.PooledPostgresqlDatabase(**parameters(dsn), max_connections=1)
    else:
        made = peewee.PostgresqlDatabase(**parameters(dsn), prefer_psycopg3=request.param == "psycopg")
    yield made
    made.close()
    if request.param == "pool":
        made.close_all()


def commits(database: Any) -> None:
    """The block commits."""
    with database.atomic():
        database.execute_sql(ADD)


def fails(database: Any) -> None:
    """The block rolls back."""
    with contextlib.suppress(OutOfStock), database.atomic():
        database.execute_sql(ADD)
        raise OutOfStock


def thinks_better_of_it(database: Any) -> None:
    """The block is rolled back by hand; peewee begins another one at once, which has nothing to commit."""
    with database.atomic() as block:
        database.execute_sql(ADD)
        block.rollback()


def part_fails(database: Any) -> None:
    """A block in the block is a savepoint, and it may fail."""
    with database.atomic():
        database.execute_sql(ADD)
        with contextlib.suppress(OutOfStock), database.atomic():
            database.execute_sql("UPDATE customers SET name = 'renamed' WHERE id = 4")
            raise OutOfStock


@pytest.mark.parametrize(
    ("use", "expected"),
    [
        (commits, [("committed", 1)]),
        (fails, [("rolled_back", 1)]),
        (thinks_better_of_it, [("rolled_back", 1), ("committed", 0)]),
        (part_fails, [("committed", 1)]),
    ],
    ids=lambda value: getattr(value, "__name__", None) if callable(value) else None,
)
def test_end(
    use: Callable[[Any], None], expected: list[tuple[str, int]], database: Any, reports: Reports
) -> None:
    """A block is a transaction of its function; a block within it is none."""
    with database.connection_context():
        use(database)

    assert [(outcome, writes) for _, outcome, _, writes in ended(reports)] == expected
    assert {function for function, *_ in ended(reports)} == {use.__name__}
    assert open_holds() == []
    reports.none()


def test_forgotten(database: Any, reports: Reports) -> None:
    """Peewee closes nothing while a transaction is open that it knows of; of this one it does not know."""

    def forget() -> None:
        database.execute_sql("BEGIN")
        database.execute_sql(ADD)

    with database.connection_context():
        forget()
    leak = reports.leak()

    assert leak.function.endswith("forget")
    assert "discarded" in leak.evidence
