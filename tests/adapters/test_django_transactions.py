"""Django's ``atomic`` blocks: a transaction is a hold of its own, which whoever has entered must leave."""

import asyncio
import inspect
import threading
import unittest
from collections.abc import Iterator
from pathlib import Path

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.db import IntegrityError, connection, transaction
from django.test import TestCase

from otel_connleak import open_holds
from tests.adapters.conftest import Instrument
from tests.adapters.shop.django_orders import Orders, OutOfStock, Unit, in_thread, query
from tests.support.django_project import databases, postgresql
from tests.support.reports import GRACE, NEVER, Reports
from tests.support.waiting import wait_until

SOON = 0.3
"""The threshold for what is overdue, in seconds."""
CLASS = "django_orders.Orders"
FOREIGN = "tests.support.foreign_backend"


@pytest.fixture
def orders(dsn: str) -> Iterator[Orders]:
    """The repository over one database."""
    with databases(default=postgresql(dsn)):
        yield Orders()


@pytest.fixture
def soon(instrument: Instrument) -> Reports:
    """The reports of this process, where what is idle for a moment is overdue."""
    return instrument(overdue_after=SOON)


def transactions(reports: Reports) -> list[str]:
    """The functions whose transactions have ended, by their spans."""
    return [span.name.removeprefix("transaction ") for span in reports.telemetry.spans("transaction")]


def held() -> list[str]:
    """The functions that hold a connection or transaction now."""
    return [hold.function.rpartition(".")[2] for hold in open_holds()]


def resources(reports: Reports) -> list[tuple[str, object]]:
    """The functions that have been reported, with what has leaked."""
    return [(leak.function, leak.attributes["connleak.resource"]) for leak in reports.leaks()]


class TestHolds:
    """What is seen of a transaction."""

    def test_span(self, orders: Orders, reports: Reports) -> None:
        """A block is one span within the trace, beside that of the connection, with its own statements."""
        tracer = reports.telemetry.tracer_provider.get_tracer("application")
        orders.count()
        with tracer.start_as_current_span("request") as request:
            orders.ship(query)
        span = reports.telemetry.span("transaction")
        attributes = dict(span.attributes or {})
        lines, first = inspect.getsourcelines(Orders.ship)
        line = first + next(number for number, line in enumerate(lines) if "atomic()" in line)

        assert span.name == "transaction Orders.ship"
        assert span.parent is not None
        assert span.parent.span_id == request.get_span_context().span_id
        assert attributes["connleak.resource"] == "transaction"
        assert attributes["connleak.statements"] == 4  # begin, two queries, commit
        assert attributes["code.line.number"] == line
        assert attributes["db.system.name"] == "postgresql"
        assert attributes["connleak.server.pid"] == connection.connection.info.backend_pid
        assert held() == ["count"]
        reports.none()

    @pytest.mark.parametrize(
        ("method", "during", "named"),
        [
            ("ship_in_parts", True, "Orders.ship_in_parts"),
            ("ship_with_stack", True, "Orders.ship_with_stack"),
            ("ship_in_unit", True, "Orders.ship_in_unit"),
            ("pack", True, "Orders.pack"),
            ("ship_and_notify", True, "Orders.ship_and_notify"),
            ("close_within", False, "Orders.close_within"),
        ],
    )
    def test_one_transaction(
        self, orders: Orders, reports: Reports, method: str, during: bool, named: str
    ) -> None:
        """However it is entered: one transaction, of the function that uses the block, and it ends."""
        getattr(orders, method)(*([int] if during else []))

        assert transactions(reports) == [named]
        connection.close()
        assert open_holds() == []
        reports.none()

    @pytest.mark.parametrize("method", ["fail", "reconnect_and_fail"])
    def test_exception(self, orders: Orders, reports: Reports, method: str) -> None:
        """An exception leaves the block, and passes."""
        with pytest.raises(OutOfStock):
            getattr(orders, method)()

        assert transactions(reports) == [f"Orders.{method}"]
        reports.none()

    def test_refused_block(self, orders: Orders, reports: Reports) -> None:
        """What Django refuses is no transaction, and its error passes."""
        with pytest.raises(RuntimeError, match="durable atomic block"):
            orders.ship(orders.ship_durably)

        assert transactions(reports) == ["Orders.ship"]
        reports.none()

    def test_failed_commit(self, orders: Orders, reports: Reports) -> None:
        """A commit that fails ends the transaction too."""
        with connection.cursor() as cursor:
            cursor.execute("CREATE TABLE parts (id int UNIQUE DEFERRABLE INITIALLY DEFERRED)")
        with pytest.raises(IntegrityError):
            orders.ship(lambda: query("INSERT INTO parts VALUES (1), (1) RETURNING id"))

        assert transactions(reports) == ["Orders.ship"]
        assert held() == ["test_failed_commit"]
        reports.none()

    def test_rolled_back_by_hand(self, orders: Orders, reports: Reports) -> None:
        """``set_rollback`` changes how it ends, and nothing else."""
        orders.ship(lambda: transaction.set_rollback(True))

        assert transactions(reports) == ["Orders.ship"]
        reports.none()

    def test_several_databases(self, dsn: str, reports: Reports) -> None:
        """Each database has its own transaction."""
        with databases(default=postgresql(dsn), replica=postgresql(dsn)):
            with transaction.atomic(), transaction.atomic(using="replica"):
                query()
                query(using="replica")
                assert held() == ["test_several_databases"] * 4
            assert len(transactions(reports)) == 2

    def test_transaction_of_the_application(self, dsn: str, reports: Reports) -> None:
        """Where the application manages transactions itself, a block is a savepoint in one of them."""
        with databases(default=postgresql(dsn, AUTOCOMMIT=False)):
            Orders().ship()
            assert transactions(reports) == []
            transaction.commit()
            assert transactions(reports) == ["Orders.ship"]
        reports.none()


class TestNoLeaks:
    """What must not be mistaken for a leak."""

    @pytest.mark.parametrize("method", ["ship", "ship_with_stack", "ship_in_unit", "pack", "pack_later"])
    def test_long_request(self, orders: Orders, reports: Reports, method: str) -> None:
        """The function that has entered the block lives: whatever else ends meanwhile proves nothing."""
        tracer = reports.telemetry.tracer_provider.get_tracer("application")

        def during() -> None:
            with tracer.start_as_current_span("a root of its own"):
                orders.count()
            reports.none(after=2 * GRACE)

        getattr(orders, method)(during)
        reports.none()

    def test_busy(self, orders: Orders, soon: Reports) -> None:
        """A transaction with many queries is not idle."""
        orders.ship(lambda: [query("SELECT 1 FROM pg_sleep(0.1)") for _ in range(5)])
        soon.none()

    def test_slow_query(self, orders: Orders, soon: Reports) -> None:
        """Nor is one with a single long one."""
        orders.ship(lambda: query("SELECT 1 FROM pg_sleep(0.5)"))
        soon.none()

    def test_server_side_cursor(self, orders: Orders, soon: Reports) -> None:
        """Nor is one that fetches from the server little by little."""

        def fetch() -> None:
            with connection.chunked_cursor() as cursor:
                cursor.execute("SELECT pg_sleep(0.1) FROM generate_series(1, 5)")
                while cursor.fetchmany(1):
                    pass

        orders.ship(fetch)
        soon.none()

    def test_before_the_first_query(self, orders: Orders, soon: Reports) -> None:
        """Before the first query the server knows of no transaction: none is idle."""
        orders.ship_later(lambda: soon.none(after=SOON + GRACE))

    def test_unit_of_work(self, orders: Orders, reports: Reports) -> None:
        """A block that is kept on an object, for a later call, is no leak."""
        unit = Unit()
        unit.begin()
        reports.none()
        unit.end()

        assert transactions(reports) == ["Unit.begin"]

    def test_entered_for_a_coroutine(self, orders: Orders, reports: Reports) -> None:
        """A block that a coroutine enters and leaves in threads of asgiref's is that coroutine's."""

        async def view() -> None:
            block = transaction.atomic()
            await sync_to_async(block.__enter__)()
            await sync_to_async(query)()
            await asyncio.to_thread(reports.none, 2 * GRACE)
            await sync_to_async(block.__exit__)(None, None, None)

        async_to_sync(view)()

        assert [name.rpartition(".")[2] for name in transactions(reports)] == ["view"]

    def test_on_commit(self, orders: Orders, soon: Reports) -> None:
        """What is called on commit runs within the block, but the transaction is over."""
        orders.ship_and_notify(lambda: soon.none(after=SOON + GRACE))

    def test_test_case(self, orders: Orders, soon: Reports) -> None:
        """Django's `TestCase` enters blocks by hand, and holds them for all tests of a class."""

        class ShopTest(TestCase):  # type: ignore[misc] # Django has no types
            @classmethod
            def setUpTestData(cls) -> None:
                query()

            def test_ship(self) -> None:
                orders.ship(lambda: soon.none(after=SOON + GRACE))

        result = unittest.TestResult()
        unittest.TestSuite([ShopTest("test_ship")]).run(result)

        assert (result.testsRun, result.errors, result.failures) == (1, [], [])
        assert transactions(soon) == []
        soon.none()

    def test_one_block_for_several_threads(self, orders: Orders, reports: Reports) -> None:
        """A block that is made once may be entered by all threads; each has its own transaction."""
        block = transaction.atomic()
        inside, go_on = threading.Event(), threading.Event()

        def wait() -> None:
            inside.set()
            go_on.wait()

        def first() -> None:
            orders.ship_shared(block, wait)
            connection.close()

        thread = threading.Thread(target=first)
        thread.start()
        inside.wait()
        held_together: list[str] = []

        def leave() -> None:
            held_together.extend(held())
            go_on.set()

        orders.ship_shared(block, leave)
        thread.join()
        reports.none()

        assert held_together == ["ship_shared"] * 4  # two connections, two transactions
        assert transactions(reports) == ["Orders.ship_shared"] * 2
        assert held() == ["ship_shared"]  # the connection of this thread

    def test_decorated_in_several_threads(self, orders: Orders, soon: Reports) -> None:
        """A decorated function has one block for all of its calls; each has its own transaction."""
        meeting = threading.Barrier(2, timeout=10)

        def pack() -> None:
            orders.pack(lambda: meeting.wait())  # noqa: PLW0108 -- what it returns is nothing
            connection.close()

        threads = [threading.Thread(target=pack) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        soon.none(after=SOON)

        assert transactions(soon) == ["Orders.pack"] * 2
        assert open_holds() == []

    def test_foreign_driver(self, tmp_path: Path, soon: Reports) -> None:
        """The calls of a driver that nothing here knows are seen where Django calls it."""
        database = {"ENGINE": FOREIGN, "NAME": str(tmp_path / "shop"), "HOST": "shop.example", "PORT": "3306"}

        def slow(_seconds: object) -> int:
            return threading.Event().wait(0.1)

        with databases(default=database):
            with connection.cursor() as cursor:
                cursor.execute("SELECT 1")
            connection.connection.create_function("slow", 1, slow)
            with transaction.atomic():
                for _ in range(5):
                    query("SELECT slow(1)")
        soon.none()
        span = soon.telemetry.span("transaction")
        attributes = dict(span.attributes or {})

        assert attributes["connleak.statements"] == 6  # the queries and the commit
        assert attributes["db.system.name"] == "mysql"
        assert (attributes["server.address"], attributes["server.port"]) == ("shop.example", 3306)


class TestLeaks:
    """Transactions that lie idle, and blocks that nobody leaves."""

    @pytest.mark.parametrize("method", ["ship", "pack", "ship_in_parts", "ship_in_unit"])
    def test_overdue(
        self, orders: Orders, soon: Reports, method: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A transaction that lies idle is reported, and withdrawn when it ends after all."""
        getattr(orders, method)(soon.leak)
        leak, recovery = soon.leak(), soon.recovery()

        assert (leak.function, leak.evidence) == (f"{CLASS}.{method}", {"overdue"})
        assert leak.attributes["connleak.resource"] == "transaction"
        assert leak.attributes["connleak.transaction.outcome"] == "open"
        assert leak.attributes["db.query.summary"] == "SELECT … FROM customers"
        assert "use `with transaction.atomic():`" in caplog.text
        assert recovery.id == leak.id

    def test_dropped(self, orders: Orders, instrument: Instrument) -> None:
        """A block that was entered by hand and that nobody has any more is reported at once."""
        reports = instrument(grace=NEVER)
        orders.drop()
        leak = reports.leak()

        assert (leak.function, leak.certainty) == (f"{CLASS}.drop", "confirmed")
        assert leak.evidence == {"dropped", "function_exited"}
        assert leak.attributes["connleak.resource"] == "transaction"
        assert leak.attributes["connleak.transaction.outcome"] == "open"

    def test_kept(self, orders: Orders, reports: Reports) -> None:
        """One that is kept where nobody reaches it is reported after the grace."""
        orders.keep()
        leak = reports.leak()

        assert (leak.function, leak.certainty) == (f"{CLASS}.keep", "possible")
        assert leak.evidence == {"function_exited"}

    def test_closed_within(self, orders: Orders, reports: Reports) -> None:
        """At the end of a request Django closes the connection; the block stays, and breaks its thread."""
        orders.keep()
        connection.close()
        leak = reports.leak()

        assert (leak.function, leak.attributes["connleak.resource"]) == (f"{CLASS}.keep", "transaction")
        assert "connleak.transaction.outcome" not in leak.attributes, "the server has rolled back"

    def test_thread(self, orders: Orders, reports: Reports) -> None:
        """A thread that ends in a block leaves a transaction, and a connection."""
        in_thread(orders.drop)
        wait_until(lambda: len(reports.leaks()) == 2, "two leaks")
        reports.no_more()

        assert sorted(resources(reports)) == [
            (f"{CLASS}.drop", "connection"),
            (f"{CLASS}.drop", "transaction"),
        ]

    def test_async_view(self, orders: Orders, soon: Reports) -> None:
        """A transaction in a thread of asgiref's is that of the function that runs there."""

        async def view() -> None:
            await sync_to_async(orders.ship)(soon.leak)

        async_to_sync(view)()
        leak = soon.leak()

        assert (leak.function, leak.evidence) == (f"{CLASS}.ship", {"overdue"})
