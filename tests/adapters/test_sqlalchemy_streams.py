"""Results of SQLAlchemy that are read bit by bit: cursors, which somebody must close."""

import asyncio
import contextvars
import gc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from sqlalchemy.ext.asyncio import AsyncEngine

from otel_connleak import open_holds
from tests.adapters.shop import streams as shop
from tests.adapters.test_sqlalchemy_async import close, engine_on_asyncpg, engine_on_psycopg
from tests.adapters.test_sqlalchemy_transactions import engine_for
from tests.support.reports import Report, Reports
from tests.support.waiting import wait_until

pytestmark = pytest.mark.filterwarnings("ignore:.*was deleted while still open:ResourceWarning")
"""psycopg itself warns of a server's cursor that is dropped."""


@pytest.fixture(params=["psycopg", "psycopg2"])
def engine(request: pytest.FixtureRequest, dsn: str, tmp_path: Path) -> Iterator[sqlalchemy.Engine]:
    """An engine on a database with a table of customers."""
    engine = engine_for(request.param, dsn, tmp_path)
    yield engine
    gc.collect()
    engine.dispose()


@pytest.fixture(params=[engine_on_psycopg, engine_on_asyncpg])
def async_engine(request: pytest.FixtureRequest, dsn: str, runner: asyncio.Runner) -> Iterator[AsyncEngine]:
    """An async engine on a database with a table of customers."""
    made = request.param(dsn)
    yield made
    close(made, runner)


@pytest.fixture
def run(runner: asyncio.Runner) -> Callable[..., Any]:
    """Run a function in a task."""
    return lambda method, *args: runner.run(method(*args), context=contextvars.copy_context())


def cursors() -> list[str]:
    """Whose cursors are open."""
    return [hold.function.rpartition(".")[2] for hold in open_holds() if hold.resource == "cursor"]


def cursor_spans(reports: Reports) -> list[str]:
    """Whose cursors have been closed."""
    return [
        span.name.rpartition(" ")[2]
        for span in reports.telemetry.spans()
        if dict(span.attributes or {}).get("connleak.resource") == "cursor"
    ]


def about(leaks: list[Report]) -> list[tuple[str, object]]:
    """Who is to blame, for what."""
    return [(leak.function, leak.attributes["connleak.resource"]) for leak in leaks]


@pytest.mark.parametrize("method", shop.LEFT)
def test_left_open(method: Callable[..., Any], engine: sqlalchemy.Engine, reports: Reports) -> None:
    """A result that nobody reads to its end, nor closes, is reported while the connection is still used."""
    shop.hold(engine, method, lambda: wait_until(reports.leaks, "a leak"))
    reports.settle()

    assert about(reports.leaks()) == [(f"streams.{method.__name__}", "cursor")]
    assert open_holds() == []


@pytest.mark.parametrize("method", shop.CLOSED)
def test_closed(method: Callable[..., Any], engine: sqlalchemy.Engine, reports: Reports) -> None:
    """What was read to its end, or was closed, is no leak; nor is what the client has."""
    shop.hold(engine, method, reports.none)

    assert open_holds() == []
    expected = {"read_at_once": 2, "close_early": 2, "leave_buffered": 0}
    assert len(cursor_spans(reports)) == expected.get(method.__name__, 1)


@pytest.mark.parametrize("method", [shop.read_found, shop.consume])
def test_handed_on(method: Callable[..., Any], engine: sqlalchemy.Engine, reports: Reports) -> None:
    """A result that was returned is its caller's, and that of a generator lives as long as it is consumed."""
    method(engine, reports.none)

    assert open_holds() == []
    reports.none()


def test_caller_is_answerable(engine: sqlalchemy.Engine, reports: Reports) -> None:
    """Who was given a result, and does not close it, is to blame."""
    shop.hold(engine, shop.leave_found, lambda: wait_until(reports.leaks, "a leak"))
    reports.settle()

    assert about(reports.leaks()) == [("streams.leave_found", "cursor")]


def test_one_hold(engine: sqlalchemy.Engine, reports: Reports) -> None:
    """A result is one hold, whatever the driver makes of it; it ends with its connection at the latest."""
    with engine.connect() as connection:
        result = shop.find(connection)
        result.fetchone()
        assert cursors() == ["test_one_hold"]
        assert len(open_holds()) == 3
    assert open_holds() == []
    reports.none()


def test_sqlite(tmp_path: Path, reports: Reports) -> None:
    """Nothing is left open of a result of SQLite that is dropped: it is no hold."""
    engine = engine_for("sqlite", "", tmp_path)
    shop.hold(engine, shop.take_first, reports.none)

    assert cursor_spans(reports) == []
    engine.dispose()


@pytest.mark.parametrize("method", shop.ASYNC_LEFT)
def test_left_open_async(
    method: Callable[..., Any], async_engine: AsyncEngine, reports: Reports, run: Callable[..., Any]
) -> None:
    """The same for what an async engine streams."""

    async def wait() -> None:
        await asyncio.to_thread(wait_until, reports.leaks, "a leak")

    run(shop.async_hold, async_engine, method, wait)
    reports.settle()

    assert about(reports.leaks()) == [(f"streams.{method.__name__}", "cursor")]
    assert open_holds() == []


@pytest.mark.parametrize("method", shop.ASYNC_CLOSED)
def test_closed_async(
    method: Callable[..., Any], async_engine: AsyncEngine, reports: Reports, run: Callable[..., Any]
) -> None:
    """The same for what an async engine streams, if it is closed."""
    run(shop.async_hold, async_engine, method, lambda: asyncio.to_thread(reports.none))

    assert open_holds() == []
    assert len(cursor_spans(reports)) == 1 + (method is shop.async_close_early)


@pytest.mark.parametrize("method", [shop.async_read_found, shop.async_consume])
def test_handed_on_async(
    method: Callable[..., Any], async_engine: AsyncEngine, reports: Reports, run: Callable[..., Any]
) -> None:
    """The same for what an async engine streams to somebody else."""
    run(method, async_engine, lambda: asyncio.to_thread(reports.none))

    assert open_holds() == []
    reports.none()
