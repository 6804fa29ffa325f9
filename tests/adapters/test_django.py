"""Django's connections: what speaks against them, what does not, and what is seen of them.

The contract does not fit: a connection is its thread's, and not that of the function which needed it first.
So its clauses on ``function_exited``, ``trace_ended``, ``overdue``, late releases and other threads are
turned round: none of that is a leak. The others are here, in Django's words.
"""

import asyncio
import functools
import gc
import inspect
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest
from asgiref.sync import ThreadSensitiveContext, async_to_sync, sync_to_async
from django.db import DatabaseError, OperationalError, close_old_connections, connection, connections, models
from django.db.backends.signals import connection_created

from otel_connleak import open_holds
from tests.adapters.conftest import Instrument
from tests.adapters.contract_fixtures import shape
from tests.adapters.shop.django_orders import Orders, in_thread, query
from tests.adapters.test_psycopg import end_session, facts
from tests.conftest import Replaced
from tests.support.django_project import databases, postgresql
from tests.support.reports import GRACE, NEVER, Reports

SOON = 0.2
"""The threshold for what is overdue, in seconds, in tests that wait for longer."""


SQLITE = "django.db.backends.sqlite3"


@functools.cache
def customers() -> Any:
    """A model: it can only be made when Django has its settings, and only once."""

    class Customer(models.Model):  # type: ignore[misc] # Django has no types
        name = models.TextField()

        class Meta:
            app_label = "shop"
            db_table = "customers"

    return Customer


@pytest.fixture
def orders(dsn: str) -> Iterator[Orders]:
    """The repository over one database without a pool."""
    with databases(default=postgresql(dsn)):
        yield Orders()


@pytest.fixture
def pooled_orders(dsn: str) -> Iterator[Orders]:
    """The repository over a database with the option ``pool``."""
    with databases(default=postgresql(dsn, {"min_size": 1, "max_size": 4, "num_workers": 1})):
        yield Orders()


@pytest.fixture
def worker() -> Iterator[ThreadPoolExecutor]:
    """A pool of one thread, which lives as long as the test."""
    with ThreadPoolExecutor(1, "seller") as worker:
        yield worker


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Callable[[], str]:
    """A function that gives our log lines so far."""
    return lambda: "\n".join(it.getMessage() for it in caplog.records if it.name == "otel_connleak")


def names() -> list[tuple[str, str | None]]:
    """The short names of the functions that hold something now, with the pool."""
    return [(hold.function.rpartition(".shop.")[2] or hold.function, hold.pool) for hold in open_holds()]


COUNTS = "django_orders.Orders.count"


class TestHolds:
    """What is seen of a connection."""

    def test_hold_span(self, orders: Orders, reports: Reports) -> None:
        """One hold from the first query to ``close``: it names the function, the server, and the calls."""
        for _ in range(3):
            orders.count()
        known = facts(connection.connection)
        connection.close()
        span = reports.telemetry.span("hold")
        attributes = dict(span.attributes or {})

        assert reports.hold_names() == ["Orders.count"]
        lines, first = inspect.getsourcelines(Orders.count)
        line = first + next(number for number, line in enumerate(lines) if "cursor()" in line)
        assert known.items() <= attributes.items()
        assert attributes["code.line.number"] == line
        assert attributes["connleak.statements"] == 3
        assert 0 < attributes["connleak.idle_time"] < attributes["connleak.use_time"]  # type: ignore[operator]
        assert "db.client.connection.pool.name" not in attributes
        assert open_holds() == []
        reports.none()

    def test_pool_is_one_hold(self, pooled_orders: Orders, reports: Reports) -> None:
        """With the option ``pool`` there is one hold, Django's, until it gives the connection back."""
        pooled_orders.count()
        assert names() == [(COUNTS, "default")]
        close_old_connections()  # as at the end of a request

        assert open_holds() == []
        assert reports.hold_names() == ["Orders.count"]
        reports.none()

    def test_name_of_pool(self, dsn: str, reports: Reports) -> None:
        """A name that the user gave the pool in the settings goes before that of the database."""
        with databases(default=postgresql(dsn, {"name": "orders"})):
            Orders().count()
            assert names() == [(COUNTS, "orders")]

    def test_several_databases(self, dsn: str, reports: Reports) -> None:
        """Each database has a hold of its own; ``close_all`` ends them."""
        with databases(default=postgresql(dsn), replica=postgresql(dsn, {"max_size": 4})):
            orders = Orders()
            orders.count()
            orders.count("replica")
            assert names() == [(COUNTS, None), (COUNTS, "replica")]
            connections.close_all()
            assert open_holds() == []
        reports.none()

    def test_opened_again(self, orders: Orders, reports: Reports) -> None:
        """After ``close`` the next query opens another connection: another hold."""
        orders.count_and_close()
        orders.count_and_close()
        connection.close()

        assert reports.hold_names() == ["Orders.count"] * 2
        assert open_holds() == []

    def test_unchanged(self, orders: Orders, instrument: Instrument) -> None:
        """The driver's connection is what it was, without a mark on it or a reference to it."""
        orders.count()
        without = shape(connection.connection)
        connection.close()
        instrument()
        orders.count()
        given = shape(connection.connection)

        assert given == without

    def test_exact_inverse(
        self, orders: Orders, instrument: Instrument, reports: Reports, replaced: list[Replaced]
    ) -> None:
        """Every function of Django that was replaced is given back, as the guard after each test sees."""
        hooked = {f"{getattr(each.owner, '__name__', '')}.{each.name}" for each in replaced}

        assert {
            "BaseDatabaseWrapper.connect",
            "BaseDatabaseWrapper.close",
            "Atomic.__enter__",
            "Atomic.__exit__",
            "CursorWrapper._execute_with_wrappers",
        } <= hooked

    def test_refused_by_server(self, dsn: str, reports: Reports) -> None:
        """An error of the driver passes through as Django's own, and opens no hold."""
        nobody = postgresql(dsn, HOST="127.0.0.1", PORT="1")
        with databases(default=nobody), pytest.raises(OperationalError, match="refused"):
            Orders().count()

        assert open_holds() == []

    def test_error_after_connect(self, orders: Orders, reports: Reports) -> None:
        """A receiver that raises when the connection is there leaves it there: it is held."""

        def receiver(**_: object) -> None:
            raise ValueError("not today")

        connection_created.connect(receiver)
        try:
            with pytest.raises(ValueError, match="not today"):
                orders.count()
        finally:
            connection_created.disconnect(receiver)
        assert names() == [(COUNTS, None)]
        orders.count()
        connection.close()

        assert reports.hold_names() == ["Orders.count"]

    def test_refused_close(self, orders: Orders, reports: Reports) -> None:
        """Another thread must not close it: Django's error passes, and the connection is still held."""
        refused: list[Exception] = []

        def close(wrapper: Any) -> None:
            try:
                wrapper.close()
            except DatabaseError as error:
                refused.append(error)

        orders.count()
        in_thread(close, connections["default"])

        assert len(refused) == 1
        assert names() == [(COUNTS, None)]

    def test_application_connects_itself(self, dsn: str, orders: Orders, reports: Reports) -> None:
        """What the application asks the driver for is its own hold, beside Django's."""
        orders.count()
        with psycopg.connect(dsn):
            assert [name.rpartition(".")[2] for name, _ in names()] == [
                "count",
                "test_application_connects_itself",
            ]


class TestNoLeaks:
    """What must not be mistaken for a leak."""

    def test_kept_by_the_thread(self, orders: Orders, instrument: Instrument) -> None:
        """The function that needed it first is never blamed: not for its exit, a request's end, idleness."""
        reports = instrument(overdue_after=SOON)
        tracer = reports.telemetry.tracer_provider.get_tracer("application")
        with tracer.start_as_current_span("request"):
            orders.count()
        reports.none(after=SOON + GRACE)

        assert names() == [(COUNTS, None)]

    def test_living_thread(self, orders: Orders, worker: ThreadPoolExecutor, reports: Reports) -> None:
        """A thread that lives on keeps its connection."""
        assert worker.submit(orders.count).result() == 3
        reports.none()
        worker.submit(lambda: connection.close()).result()  # noqa: PLW0108 -- that of the other thread

    def test_thread_that_closes(self, orders: Orders, reports: Reports) -> None:
        """A thread that closes its connection before it ends leaves nothing behind."""
        in_thread(orders.count_and_close)
        reports.none()

    def test_shared(self, orders: Orders, reports: Reports) -> None:
        """A thread may use, and open, the connection of another one that shares it; that one closes it."""
        wrapper = connections["default"]
        wrapper.inc_thread_sharing()

        def use() -> None:
            connections["default"] = wrapper
            orders.count()

        in_thread(use)
        assert names() == [(COUNTS, None)]
        reports.none()
        wrapper.dec_thread_sharing()
        wrapper.close()

        assert open_holds() == []
        reports.none()

    def test_broken(self, dsn: str, orders: Orders, reports: Reports) -> None:
        """A connection that the server has ended holds nothing: its thread may end."""

        def break_it() -> None:
            orders.count()
            end_session(dsn, connection.connection)

        in_thread(break_it)
        gc.collect()
        reports.none(after=2 * GRACE)

    def test_in_memory(self, reports: Reports) -> None:
        """A database in memory ends with its thread: Django never closes it, and nobody needs to."""
        with databases(default={"ENGINE": SQLITE, "NAME": ":memory:"}):
            in_thread(Orders().ship_later, functools.partial(query, "SELECT 1"))
            assert open_holds() == []
            reports.none()


class TestLeaks:
    """A thread that ends without closing its connection."""

    def test_thread_ended(self, orders: Orders, reports: Reports, log: Callable[[], str]) -> None:
        """It is reported with the function that opened it, and the thread, and what to do."""
        in_thread(orders.count)
        leak = reports.leak()

        assert (leak.function, leak.evidence) == (COUNTS, {"thread_ended"})
        assert leak.certainty == "possible"
        assert leak.attributes["thread.name"] == "seller"
        assert leak.attributes["connleak.resource"] == "connection"
        assert "hint: call `connection.close()` in a `finally`" in log()
        assert 'direct connection to database "postgres"' in log()
        assert "SELECT … FROM customers" in log()

    def test_collected(self, orders: Orders, instrument: Instrument) -> None:
        """When it is collected before that, it is reported at once and for certain; no slot is lost."""
        reports = instrument(grace=NEVER)
        in_thread(orders.count)
        with pytest.warns(ResourceWarning, match="was deleted while still open"):
            gc.collect()
        leak = reports.leak()

        assert leak.function == COUNTS
        assert "dropped" in leak.evidence
        assert leak.certainty == "confirmed"
        assert reports.telemetry.value("connleak.leaks.open") == 0

    def test_pool(self, pooled_orders: Orders, reports: Reports, log: Callable[[], str]) -> None:
        """With the option ``pool`` the slot is lost for ever, and the report says how full the pool is."""
        pooled_orders.count_and_close()  # the pool itself keeps what belongs to the thread that opened it
        in_thread(pooled_orders.count)
        leak = reports.leak()
        gc.collect()
        reports.no_more()

        assert (leak.function, leak.evidence) == (COUNTS, {"thread_ended"})
        assert leak.attributes["db.client.connection.pool.name"] == "default"
        assert 'pool "default" 1/4 used' in log()
        assert reports.telemetry.value("connleak.leaks.open") == 1
        assert reports.hold_names() == ["Orders.count"] * 2

    def test_pool_exhausted(self, dsn: str, reports: Reports, log: Callable[[], str]) -> None:
        """Whoever waits for a connection is counted."""
        with databases(default=postgresql(dsn, {"min_size": 1, "max_size": 1, "timeout": 1.0})):
            orders = Orders()
            in_thread(orders.count)
            with ThreadPoolExecutor(1) as executor:
                waiting = executor.submit(orders.count)
                reports.leak()
            assert isinstance(waiting.exception(), OperationalError)

        assert 'pool "default" 1/1 used, 1 waiting' in log()

    def test_sqlite(self, tmp_path: Path, reports: Reports) -> None:
        """A database in a file is no different."""
        with databases(default={"ENGINE": SQLITE, "NAME": str(tmp_path / "shop")}):
            in_thread(query, "SELECT 1")
            leak = reports.leak()

        assert (leak.function, leak.evidence) == ("django_orders.query", {"thread_ended"})
        assert leak.attributes["db.system.name"] == "sqlite"
        assert leak.attributes["db.namespace"] == str(tmp_path / "shop")

    def test_executor_of_one_call(self, orders: Orders, reports: Reports) -> None:
        """A thread pool that is made for one call, and shut down, is the usual case."""
        with ThreadPoolExecutor(2) as executor:
            executor.submit(orders.count).result()
        leak = reports.leak()

        assert (leak.function, leak.evidence) == (COUNTS, {"thread_ended"})

    @pytest.mark.parametrize("behind_middleware", [False, True])
    def test_async(self, orders: Orders, reports: Reports, *, behind_middleware: bool) -> None:
        """Where the query runs in a thread of asgiref's, the coroutine that awaits it is named.

        Middleware of ordinary functions makes a thread wait for the view, and run its queries meanwhile.
        """

        async def view() -> int:
            return int(await customers().objects.acount())

        async def serve() -> None:
            async with ThreadSensitiveContext():  # as for each request
                answer = sync_to_async(async_to_sync(view)) if behind_middleware else view
                assert await answer() == 3

        asyncio.run(serve())
        leak = reports.leak()

        assert leak.function.endswith("test_async.view")
        assert leak.evidence == {"thread_ended"}

    def test_connected_twice(self, orders: Orders, reports: Reports) -> None:
        """Who connects anew without closing drops the connection before."""
        orders.count()
        with pytest.warns(ResourceWarning, match="was deleted while still open"):
            connection.connect()
        leak = reports.leak()

        assert (leak.function, leak.certainty) == (COUNTS, "confirmed")
        assert [name.rpartition(".")[2] for name, _ in names()] == ["test_connected_twice"]
