"""Fixtures for the tests of adapters: start the instrumentation, make pools, keep garbage where it is."""

import asyncio
import gc
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from psycopg_pool import ConnectionPool

from tests.adapters.shop.orders import Orders
from tests.support.mariadb import MISSING, Database, MariaDB, embedded_mariadb, fresh_database, server_program
from tests.support.reports import GRACE, NEVER, Reports
from tests.support.telemetry import Telemetry

pytest.register_assert_rewrite(
    *(f"tests.adapters.{name}" for name in ("contract", "contract_holds", "contract_leaks"))
)

type Instrument = Callable[..., Reports]
"""Starts the instrumentation with settings given by keyword."""
type MakePool = Callable[..., Any]
"""Makes and opens a pool of a class with settings; it is closed when the test has ended."""


@pytest.fixture(autouse=True)
def garbage_stays() -> Iterator[None]:
    """Let reference cycles live until the test has ended: what is kept in one is kept by nobody else."""
    gc.disable()
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # psycopg warns of direct connections left open
        gc.collect(0)  # without automatic collections, what the test has made is still in the youngest
    gc.enable()


@pytest.fixture
def instrument(telemetry: Telemetry) -> Iterator[Instrument]:
    """A function that instruments this process until the test has ended."""
    with ExitStack() as stack:

        def start(**settings: object) -> Reports:
            stack.enter_context(telemetry.instrumented(**{"grace": GRACE, "overdue_after": NEVER} | settings))
            return Reports(telemetry)

        yield start


@pytest.fixture
def reports(instrument: Instrument) -> Reports:
    """The reports of this process, instrumented with a short grace; nothing becomes overdue."""
    return instrument()


@pytest.fixture
def runner() -> Iterator[asyncio.Runner]:
    """An event loop that runs only while it is given something to run."""
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture
def make_pool(dsn: str) -> Iterator[MakePool]:
    """A function that makes pools, of one connection if nothing else is said."""
    with ExitStack() as stack:

        def make(cls: type = ConnectionPool, **settings: Any) -> Any:
            settings = {"min_size": 0, "max_size": 1, "num_workers": 1, "open": True} | settings
            return stack.enter_context(cls(dsn, **settings))

        yield make


@pytest.fixture
def pool(make_pool: MakePool) -> ConnectionPool[Any]:
    """A pool of at most four connections."""
    pool: ConnectionPool[Any] = make_pool(min_size=1, max_size=4, name="orders")
    pool.wait()
    return pool


@pytest.fixture
def orders(pool: ConnectionPool[Any]) -> Orders:
    """The repository over that pool."""
    return Orders(pool)


@pytest.fixture(scope="session")
def mariadb() -> Iterator[MariaDB]:
    """A real MariaDB server, one for the test session.

    Without a server program its tests are skipped. They fail where ``CONNLEAK_MYSQL`` is ``required``.
    """
    program = server_program()
    if program is None:
        if os.environ.get("CONNLEAK_MYSQL") == "required":
            pytest.fail(MISSING, pytrace=False)
        pytest.skip(MISSING)
    with embedded_mariadb(program) as server:
        yield server


@pytest.fixture
def database(mariadb: MariaDB) -> Iterator[Database]:
    """A fresh database of MariaDB with a table ``customers`` of three rows."""
    with fresh_database(mariadb) as database:
        yield database
