"""Transactions of SQLAlchemy's async engines: what nobody has committed, and whose it was."""

import asyncio
import contextvars
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, create_async_engine

from otel_connleak import open_holds
from tests.adapters.shop import alchemy
from tests.adapters.shop import async_alchemy as shop
from tests.adapters.test_sqlalchemy_async import close, engine_on_asyncpg, engine_on_psycopg
from tests.adapters.test_sqlalchemy_transactions import outcomes
from tests.support.reports import Reports
from tests.support.telemetry import Telemetry

DRIVERS = ["psycopg", "asyncpg", "aiosqlite"]
type Work = Callable[[AsyncEngine], Any]


@pytest.fixture(params=DRIVERS)
def engine(
    request: pytest.FixtureRequest, dsn: str, tmp_path: Path, runner: asyncio.Runner
) -> Iterator[AsyncEngine]:
    """An async engine on a database with a table of customers."""
    if request.param == "aiosqlite":
        made = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/shop.db")
        runner.run(prepare(made))
    else:
        made = {"psycopg": engine_on_psycopg, "asyncpg": engine_on_asyncpg}[request.param](dsn)
    yield made
    close(made, runner)


async def prepare(engine: AsyncEngine) -> None:
    """Make the tables."""
    async with engine.begin() as connection:
        await connection.run_sync(alchemy.Base.metadata.create_all)
    await engine.dispose()


@pytest.fixture
def run(runner: asyncio.Runner) -> Callable[..., Any]:
    """Run a function in a task."""
    return lambda method, *args: runner.run(method(*args), context=contextvars.copy_context())


async def added(engine: AsyncEngine) -> bool:
    """Whether the row is there."""
    async with engine.connect() as connection:
        return bool(await connection.scalar(text("SELECT count(*) FROM customers WHERE id = 4")))


FORGOTTEN = [
    shop.forget_commit,
    shop.forget_commit_and_close,
    shop.forget_in_session,
    shop.forget_in_block,
    shop.forget_and_aclose,
    shop.forget_scoped,
    shop.forget_after_failure,
    shop.forget_in_handler,
]
"""Functions that lose what they have written."""


@pytest.mark.parametrize("method", FORGOTTEN)
def test_forgotten(method: Work, engine: AsyncEngine, reports: Reports, run: Callable[..., Any]) -> None:
    """What was written and never committed is reported at once, and is not there."""
    run(method, engine)
    leak = reports.leak()

    assert leak.function == f"async_alchemy.{method.__name__}"
    assert leak.evidence == {"discarded"}
    assert leak.certainty == "confirmed"
    assert open_holds() == []
    assert not run(added, engine)


MEANT: dict[Work, list[str]] = {
    shop.read: ["rolled_back"],
    shop.commit: ["committed"],
    shop.roll_back: ["rolled_back"],
    shop.close_transaction: ["rolled_back"],
    shop.fail: ["rolled_back"],
    shop.fail_in_begin: ["rolled_back"],
    shop.fail_in_session: ["rolled_back"],
    shop.fail_in_maker: ["rolled_back"],
    shop.fail_finally: ["rolled_back"],
    shop.fail_scoped: ["rolled_back"],
    shop.fail_in_dependency: ["rolled_back"],
    shop.be_cancelled: ["rolled_back"],
    shop.time_out: ["rolled_back"],
    shop.invalidate: ["rolled_back"],
    shop.autocommit: [],
    shop.in_savepoints: ["committed"],
}
"""Functions that know what they do, and how their transactions end on PostgreSQL."""


@pytest.mark.parametrize("method", MEANT)
def test_meant(method: Work, engine: AsyncEngine, reports: Reports, run: Callable[..., Any]) -> None:
    """An exception that leaves a block is the reason, also when another task and a greenlet close it."""
    run(method, engine)

    assert open_holds() == []
    if engine.name == "postgresql":
        assert [end for _, end in outcomes(reports)] == MEANT[method]
    reports.none()


OWNERS: dict[Work, str] = {
    shop.begin: "begin",
    shop.begin_on_connection: "begin_on_connection",
    shop.begin_session: "begin_session",
    shop.begin_maker: "begin_maker",
    shop.begin_elsewhere: "add",
    shop.write: "add",
    shop.run_sync: "write_in_greenlet",
}
"""Functions, and whose their transactions are."""


@pytest.mark.parametrize("method", OWNERS)
def test_owner(method: Work, engine: AsyncEngine, reports: Reports, run: Callable[..., Any]) -> None:
    """A transaction is that of the function whose block it is, or else whose statement has begun it."""
    run(method, engine)

    assert outcomes(reports) == [(OWNERS[method], "committed")]
    reports.none()


def test_open(engine: AsyncEngine, reports: Reports, run: Callable[..., Any]) -> None:
    """While its block waits a transaction is open for longer than the grace, and no leak."""
    seen: list[tuple[str, str]] = []

    async def wait() -> None:
        seen.extend((hold.resource, hold.function.rpartition(".")[2]) for hold in open_holds())
        await asyncio.to_thread(reports.none)

    run(shop.handle, engine, wait)

    assert ("transaction", "handle") in seen
    reports.none()


def test_gives_back_the_functions(telemetry: Telemetry) -> None:
    """Also the methods of the asyncio classes are the identical ones again."""
    names = ("close", "invalidate", "__aexit__")
    before = [vars(cls)[name] for cls in (AsyncConnection, AsyncSession) for name in names]
    with telemetry.instrumented():
        during = [vars(cls)[name] for cls in (AsyncConnection, AsyncSession) for name in names]
    after = [vars(cls)[name] for cls in (AsyncConnection, AsyncSession) for name in names]

    assert not set(map(id, before)) & set(map(id, during))
    assert list(map(id, after)) == list(map(id, before))
