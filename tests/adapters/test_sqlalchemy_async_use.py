"""Who owns what an async engine of SQLAlchemy gives out, and who could still release it."""

import asyncio
import contextvars
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import exc, pool
from sqlalchemy.ext.asyncio import (
    AsyncEngine,
    async_scoped_session,
    async_sessionmaker,
    create_async_engine,
)

from otel_connleak import open_holds
from tests.adapters.shop import async_engines as shop
from tests.adapters.test_sqlalchemy_async import close, engine_on_asyncpg, engine_on_psycopg
from tests.support.reports import Report, Reports

DRIVERS = ["psycopg", "asyncpg", "aiosqlite"]


@pytest.fixture(params=DRIVERS)
def engine(
    request: pytest.FixtureRequest, dsn: str, tmp_path: Path, runner: asyncio.Runner
) -> Iterator[AsyncEngine]:
    """An async engine."""
    options: dict[str, Any] = {"pool_size": 2, "max_overflow": 2, "pool_timeout": 5}
    if request.param == "aiosqlite":
        made = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/shop.db", **options)
    else:
        made = {"psycopg": engine_on_psycopg, "asyncpg": engine_on_asyncpg}[request.param](dsn, **options)
    yield made
    close(made, runner)


@pytest.fixture
def run(runner: asyncio.Runner) -> Callable[..., Any]:
    """Run a function in a task."""
    return lambda method, *args: runner.run(method(*args), context=contextvars.copy_context())


@pytest.fixture
def wait(reports: Reports) -> shop.Wait:
    """Wait for longer than the grace: nothing must be reported meanwhile."""
    return lambda: asyncio.to_thread(reports.none)


def who(leak: Report) -> tuple[str, str]:
    """The function to blame, and for how certain."""
    return leak.function, leak.certainty


CORRECT: dict[str, Callable[..., Any]] = {
    "begin": shop.begin,
    "handle": shop.handle,
    "depend": shop.depend,
    "close_opened": shop.close_opened,
    "count_in_greenlet": shop.count_in_greenlet,
}
OWNER = {"handle": "list_customers", "count_in_greenlet": "count", "depend": "depend"}
"""Whose hold it is, where it is not the function's own."""


@pytest.mark.parametrize("name", CORRECT)
def test_correct(name: str, engine: AsyncEngine, run: Any, wait: shop.Wait, reports: Reports) -> None:
    """A function that releases in the end is no leak, however long it waits, whoever acquired for it."""
    run(CORRECT[name], engine, wait)

    assert reports.hold_names() == [OWNER.get(name, name)]
    assert open_holds() == []
    reports.none()


@pytest.mark.parametrize("handle", [shop.handle_two, shop.serve_two])
def test_busy_in_a_greenlet(handle: Any, engine: AsyncEngine, run: Any, reports: Reports) -> None:
    """While a greenlet runs, the coroutine that waits for it can still release what it has."""
    run(handle, engine, reports.none)

    assert reports.hold_names() == ["list_customers"]
    reports.none()


CARELESS: dict[str, Callable[..., Any]] = {
    "keep": shop.keep,
    "forget_opened": shop.forget_opened,
    "_keep_here": shop.keep_in_greenlet,
    "list_customers": shop.forget,
}
"""Functions that do not release, by the function to blame."""


@pytest.mark.parametrize("name", CARELESS)
def test_careless(name: str, engine: AsyncEngine, run: Any, reports: Reports) -> None:
    """A function that does not release is named, also if it runs in a greenlet; not a helper of it."""
    run(CARELESS[name], engine)

    assert who(reports.leak()) == (f"async_engines.{name}", "possible")


def test_dropped(engine: AsyncEngine, run: Any, reports: Reports) -> None:
    """A dropped connection is reported at once; SQLAlchemy warns too, and no slot is lost."""
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        run(shop.drop, engine)

    assert exc.SAWarning in [warning.category for warning in warned]
    assert who(reports.leak()) == ("async_engines.drop", "confirmed")
    assert open_holds() == []
    assert reports.telemetry.value("connleak.leaks.open") == 0


def test_stream(dsn: str, runner: asyncio.Runner, run: Any, wait: shop.Wait, reports: Reports) -> None:
    """A stream that is read slowly is held by whoever reads it."""
    engine = engine_on_psycopg(dsn)
    assert run(shop.stream, engine, wait) == 10
    close(engine, runner)

    assert reports.hold_names() == ["stream"]


def test_many_tasks(engine: AsyncEngine, run: Any, wait: shop.Wait, reports: Reports) -> None:
    """Tasks that hold at the same time, and wait for each other's connections, are each their own."""
    run(shop.many, engine, 8, wait)

    assert reports.hold_names() == ["begin"] * 8
    assert open_holds() == []


@pytest.mark.parametrize("cls", [pool.NullPool, pool.StaticPool, pool.AsyncAdaptedQueuePool])
def test_pool_classes(
    cls: type[pool.Pool], dsn: str, runner: asyncio.Runner, run: Any, reports: Reports
) -> None:
    """Every pool for asyncio is seen."""
    engine = engine_on_psycopg(dsn, poolclass=cls)
    run(shop.use, engine)
    run(shop.use, engine)
    reports.none()
    run(shop.keep, engine)

    assert reports.hold_names() == ["use", "use"]
    assert who(reports.leak()) == ("async_engines.keep", "possible")
    close(engine, runner)


def test_cancelled_while_it_waits_for_a_connection(
    dsn: str, runner: asyncio.Runner, run: Any, reports: Reports
) -> None:
    """A task that is cancelled before it has got a connection holds none."""
    engine = engine_on_psycopg(dsn, pool_size=1, max_overflow=0)

    async def cancel() -> None:
        async with engine.connect():
            task = asyncio.create_task(shop.use(engine))
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])

    run(cancel)
    close(engine, runner)

    assert reports.hold_names() == [f"{cancel.__qualname__}".replace(".<locals>", "")]
    assert open_holds() == []
    reports.none()


@pytest.fixture
def scoped(engine: AsyncEngine) -> Iterator[None]:
    """The application has a session for each task."""
    sessions = async_sessionmaker(engine)
    shop.scoped["db"] = async_scoped_session(sessions, scopefunc=asyncio.current_task)
    yield
    shop.scoped.clear()


@pytest.mark.usefixtures("scoped")
def test_scoped_to_tasks(run: Any, wait: shop.Wait, reports: Reports) -> None:
    """A registry keeps the sessions of tasks that run; nobody else refers to them, and they are no leaks."""

    async def two() -> None:
        await asyncio.gather(*(shop.handle_scoped(wait) for _ in range(2)))

    run(two)

    assert reports.hold_names() == ["list_orders"] * 2
    reports.none()


@pytest.mark.usefixtures("scoped")
def test_scoped_and_forgotten(run: Any, reports: Reports) -> None:
    """A session that its task did not remove is a leak: the registry keeps it for ever."""

    async def in_a_task() -> None:
        await asyncio.create_task(shop.forget_scoped())
        await asyncio.to_thread(reports.leak)

    run(in_a_task)

    assert who(reports.leak()) == ("async_engines.list_orders", "possible")
