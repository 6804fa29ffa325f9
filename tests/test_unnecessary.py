"""Holds that were released properly and had sat idle for long: ``idle_after``, off by default."""

import asyncio
import contextlib
import logging
import re
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import psycopg
import pytest
from django.db import connection as django_connection
from django.db import transaction as django_transaction
from opentelemetry.sdk._logs import ReadableLogRecord
from opentelemetry.trace import SpanKind, Tracer
from psycopg.conninfo import conninfo_to_dict
from psycopg_pool import ConnectionPool

from otel_connleak import expect_long_hold, leaks, open_holds
from otel_connleak.hold import Hold
from otel_connleak.instrumentor import engine
from otel_connleak.otel.calls import is_call, name_of
from otel_connleak.unnecessary import Idle, Unnecessary
from tests.support.django_project import databases, postgresql
from tests.support.reports import Reports
from tests.support.telemetry import Telemetry
from tests.support.waiting import until, wait_until

IDLE = 0.1
"""The setting, in seconds."""
LONGER = 1.5 * IDLE
QUERY = "SELECT name FROM customers WHERE name = 'nobody'"

type During = Callable[[], object]
"""Called while something is held."""


def sit_idle() -> None:
    """Hold what is held without a driver call, for longer than the setting."""
    wait_until(lambda: all(hold.idle_time > LONGER for hold in open_holds()), "a hold that has sat idle")


class Customers:
    """A repository. All of it gives back what it has acquired."""

    def __init__(self, pool: ConnectionPool) -> None:
        self._pool = pool

    def find(self, during: During = sit_idle) -> None:
        """Does something else with a connection in its hands, within the transaction of a query."""
        with self._pool.connection() as connection:
            connection.execute(QUERY)
            during()

    def find_before(self, during: During = sit_idle) -> None:
        """Does something else after its transaction has ended."""
        with self._pool.connection() as connection:
            connection.execute(QUERY)
            connection.rollback()
            during()

    def drop(self) -> None:
        """Leaks: nobody gives it back."""
        connection = self._pool.getconn()
        sit_idle()
        del connection


@dataclass
class Shop:
    """An application with a pool, and what is reported of it."""

    telemetry: Telemetry
    customers: Customers
    caplog: pytest.LogCaptureFixture

    @property
    def tracer(self) -> Tracer:
        """The application's tracer."""
        return self.telemetry.tracer_provider.get_tracer("application")

    def events(self) -> list[ReadableLogRecord]:
        """What has been reported as held unnecessarily, after all that happened so far was judged."""
        Reports(self.telemetry).settle()
        return self.telemetry.events("connleak.idle")

    def texts(self) -> list[str]:
        """The log lines on that, each with all its lines."""
        Reports(self.telemetry).settle()
        ours = [record for record in self.caplog.records if record.name == "otel_connleak"]
        return [record.getMessage() for record in ours if "unnecessarily [" in record.getMessage()]

    def functions(self) -> list[tuple[str, str]]:
        """The functions that have been reported, with what they held."""
        found = [dict(event.log_record.attributes or {}) for event in self.events()]
        return [
            (str(each["code.function.name"]).rpartition(".")[2], str(each["connleak.resource"]))
            for each in found
        ]


@pytest.fixture
def open_shop(
    dsn: str, telemetry: Telemetry, caplog: pytest.LogCaptureFixture
) -> Iterator[Callable[..., Shop]]:
    """Instrument with settings, and open the pool."""
    with contextlib.ExitStack() as stack:

        def start(**settings: Any) -> Shop:
            stack.enter_context(telemetry.instrumented(**{"idle_after": IDLE} | settings))
            pool = ConnectionPool(dsn, min_size=1, max_size=1, name="orders", open=True)
            return Shop(telemetry, Customers(stack.enter_context(pool)), caplog)

        yield start


@pytest.fixture
def shop(open_shop: Callable[..., Shop]) -> Shop:
    """The application, with the setting on."""
    return open_shop()


def unnecessary() -> Unnecessary:
    """What does the work in the engine that runs."""
    running = engine()
    assert running is not None
    return running._unnecessary


class TestReported:
    """What a report says."""

    def test_text(self, shop: Shop) -> None:
        """One block, complete on its own, at WARNING."""
        with shop.tracer.start_as_current_span("request") as request:
            shop.customers.find()
        trace = f"{request.get_span_context().trace_id:032x}"
        (text,) = shop.texts()
        (record,) = [record for record in shop.caplog.records if record.getMessage() == text]
        frame = r"\S+test_unnecessary\.py:\d+"

        assert record.levelno == logging.WARNING
        assert re.fullmatch(
            rf"held unnecessarily \[(\w{{6}})\]: tests\.test_unnecessary\.Customers\.find  {frame}\n"
            r"  held \d+ ms, idle \d+ ms · in a transaction for \d+ ms · pool \"orders\" 0/1 used"
            rf" · server pid \d+ · trace {trace}\n"
            r"  last statement: SELECT … FROM customers\n"
            rf"  acquired at  {frame} find ← {frame} test_text\n"
            r"  hint: do slow work such as an HTTP call before the connection is acquired or after it is "
            r"released\n"
            r"  further repeats of \[\1\] are counted, not logged",
            text,
        )

    def test_event(self, shop: Shop) -> None:
        """The log event has what a leak's has, in the trace of the hold, but no evidence of a leak."""
        with shop.tracer.start_as_current_span("request") as request:
            shop.customers.find()
        (event,) = [each.log_record for each in shop.events()]
        attributes: dict[str, Any] = dict(event.attributes or {})
        hold = shop.telemetry.span("hold")

        assert event.severity_text == "WARN"
        assert event.body == "held unnecessarily: tests.test_unnecessary.Customers.find"
        assert event.trace_id == request.get_span_context().trace_id
        assert event.span_id == hold.get_span_context().span_id  # type: ignore[union-attr] # it has ended
        assert attributes["code.function.name"] == "tests.test_unnecessary.Customers.find"
        assert attributes["db.client.connection.pool.name"] == "orders"
        assert attributes["connleak.resource"] == "connection"
        assert attributes["thread.name"] == "MainThread"
        assert attributes["db.query.summary"] == "SELECT … FROM customers"
        assert attributes["connleak.use_time"] > attributes["connleak.idle_time"] > IDLE
        assert not {"connleak.evidence", "connleak.certainty"} & set(attributes)

    def test_is_no_leak(self, shop: Shop) -> None:
        """Nothing counts it as a leak: no list, no counter, no span, no event."""
        shop.customers.find()

        assert shop.functions() == [("find", "connection")]
        assert leaks() == []
        assert shop.telemetry.points("connleak.leaks") == []
        assert shop.telemetry.spans("leak") == []
        assert shop.telemetry.events("connleak.leak") == []

    def test_transaction_had_ended(self, shop: Shop) -> None:
        """Where the transaction was over, it was not in a transaction that the connection was held."""
        shop.customers.find_before()
        (text,) = shop.texts()

        assert "in a transaction" not in text

    def test_repeats(self, shop: Shop) -> None:
        """Each has its event; the log has the first and the tenth, with how many there were."""
        for _ in range(11):
            shop.customers.find()
        ids = {dict(event.log_record.attributes or {})["connleak.id"] for event in shop.events()}
        first, tenth = shop.texts()

        assert len(ids) == 11
        assert "times" not in first
        assert re.search(r"seen 10 times since \d\d:\d\d:\d\d; further repeats", tenth)

    def test_failing_listener(self, shop: Shop) -> None:
        """One that fails keeps nobody else from being told."""
        told: list[Idle] = []

        def fails(_idle: Idle) -> None:
            raise ValueError("no")

        unnecessary()._on_idle = (fails, told.append)
        shop.customers.find()
        shop.events()

        assert len(told) == 1

    def test_nothing_is_kept(self, shop: Shop) -> None:
        """What was remembered of a hold goes when it ends."""
        with shop.tracer.start_as_current_span("request"):
            shop.customers.find()
            shop.customers.find(during=int)
        shop.events()

        assert (unnecessary()._open, unnecessary()._calls) == ({}, {})


class TestNotReported:
    """Look-alikes."""

    def test_off_by_default(self, open_shop: Callable[..., Shop]) -> None:
        """Without the setting nobody is even told of holds."""
        shop = open_shop(idle_after=None)
        shop.customers.find()

        assert shop.functions() == []
        assert unnecessary().listeners == ()

    def test_off(self, open_shop: Callable[..., Shop], monkeypatch: pytest.MonkeyPatch) -> None:
        """The word goes before a time in the environment."""
        monkeypatch.setenv("OTEL_PYTHON_CONNLEAK_IDLE_AFTER", "100ms")
        shop = open_shop(idle_after="off")
        shop.customers.find()

        assert shop.functions() == []

    def test_by_variable(self, open_shop: Callable[..., Shop], monkeypatch: pytest.MonkeyPatch) -> None:
        """A time in the environment is enough: the test above is not blind."""
        monkeypatch.setenv("OTEL_PYTHON_CONNLEAK_IDLE_AFTER", "100ms")
        shop = open_shop(idle_after=None)
        shop.customers.find()

        assert shop.functions() == [("find", "connection")]

    def test_short(self, shop: Shop) -> None:
        """What was idle for less than the setting."""
        for _ in range(5):
            shop.customers.find(during=int)

        assert shop.functions() == []

    def test_busy(self, dsn: str, shop: Shop) -> None:
        """A slow query is work: the driver was called all the time."""
        with psycopg.connect(dsn) as connection:
            connection.execute("SELECT pg_sleep(%s)", [2 * LONGER])

        assert shop.functions() == []

    def test_dropped(self, shop: Shop) -> None:
        """What was never given back is a leak, and nothing else."""
        shop.customers.drop()
        Reports(shop.telemetry).leak()

        assert shop.functions() == []

    def test_recovered(self, open_shop: Callable[..., Shop]) -> None:
        """What was reported as a leak and released late has been spoken of."""
        shop = open_shop(overdue_after=LONGER)
        shop.customers.find(during=lambda: wait_until(leaks, "a leak"))
        Reports(shop.telemetry).recoveries()

        assert shop.functions() == []

    def test_ignored(self, open_shop: Callable[..., Shop]) -> None:
        """A function that the user does not want to hear of."""
        shop = open_shop(ignore="*.find")
        shop.customers.find()

        assert shop.functions() == []

    def test_long_by_intent(self, shop: Shop) -> None:
        """What the application says it holds for long."""
        with expect_long_hold():
            shop.customers.find_before()

        assert shop.functions() == []

    def test_listening(self, dsn: str, shop: Shop) -> None:
        """A connection that waits for notifications is idle by design."""

        async def listen() -> None:
            parts = conninfo_to_dict(dsn)
            connection = await asyncpg.connect(
                host=parts["host"], user=parts["user"], database=parts["dbname"]
            )
            await connection.add_listener("orders", print)
            await until(lambda: all(hold.idle_time > LONGER for hold in open_holds()))
            await connection.close()

        asyncio.run(listen())

        assert shop.functions() == []

    def test_no_server(self, tmp_path: Path, shop: Shop) -> None:
        """An idle connection of SQLite takes nothing from anybody."""
        with contextlib.closing(sqlite3.connect(tmp_path / "shop.db")) as connection:
            connection.execute("CREATE TABLE orders (id INTEGER)")
            sit_idle()

        assert shop.functions() == []

    def test_kept_by_a_module(self, dsn: str, open_shop: Callable[..., Shop]) -> None:
        """The one connection of a worker lies idle between jobs, and is closed when the process ends."""
        shop = open_shop(overdue_after=IDLE)
        kept.append(psycopg.connect(dsn, autocommit=True))
        (hold,) = running_holds()
        wait_until(lambda: hold in unnecessary()._spared, "the verdict that it is kept")
        kept.pop().close()

        assert shop.functions() == []
        assert leaks() == []


kept: list[psycopg.Connection[Any]] = []
"""Module state of the application."""


def running_holds() -> list[Hold]:
    """The holds that are open now."""
    running = engine()
    assert running is not None
    return running.registry.holds()


class TestLongLivedConnections:
    """Where the connection lives long by design, its transactions should be short."""

    def test_connection(self, dsn: str, shop: Shop) -> None:
        """Django's connection of a thread is idle between two requests."""
        with databases(default=postgresql(dsn)):
            with django_connection.cursor() as cursor:
                cursor.execute(QUERY)
            sit_idle()
            django_connection.close()

            assert shop.functions() == []

    def test_no_server(self, tmp_path: Path, shop: Shop) -> None:
        """A transaction of SQLite keeps everybody else from writing."""
        with contextlib.closing(sqlite3.connect(tmp_path / "shop.db")) as connection:
            connection.execute("CREATE TABLE orders (id INTEGER)")
            connection.execute("INSERT INTO orders VALUES (1)")
            sit_idle()
            connection.commit()

        assert shop.functions() == [("test_no_server", "transaction")]

    def test_transaction(self, dsn: str, shop: Shop) -> None:
        """A block that sits idle is reported, for the function that has opened it."""
        with databases(default=postgresql(dsn)):
            book()
            django_connection.close()

            assert shop.functions() == [("book", "transaction")]
            (text,) = shop.texts()
            assert text.startswith("transaction held open unnecessarily [")
            assert "before the transaction begins or after it has ended" in text


def book() -> None:
    """Does something else in a transaction."""
    with django_transaction.atomic():
        with django_connection.cursor() as cursor:
            cursor.execute(QUERY)
        sit_idle()


HTTP = {"http.request.method": "GET", "url.full": "https://me:secret@payments.example/charge?card=4711"}


class TestMeanwhile:
    """What was done while the connection sat idle, where the application has a span of it."""

    def call(
        self, shop: Shop, name: str = "GET", kind: SpanKind = SpanKind.CLIENT, **attributes: Any
    ) -> None:
        """Call another service for longer than the setting."""
        about = {key.replace("__", "."): value for key, value in attributes.items()} or HTTP
        with shop.tracer.start_as_current_span(name, kind=kind, attributes=about):
            sit_idle()

    def said(self, shop: Shop) -> str:
        """What the one report says was done meanwhile, without its time; empty if nothing."""
        (text,) = shop.texts()
        found = re.search(r"^  meanwhile: (.*), \d+ ms$", text, re.MULTILINE)
        return found[1] if found is not None else ""

    def test_http(self, shop: Shop) -> None:
        """An HTTP call is named with its host, and never with what may be a secret."""
        with shop.tracer.start_as_current_span("request"):
            shop.customers.find(lambda: self.call(shop))

        assert self.said(shop) == "GET payments.example"

    def test_longest(self, shop: Shop) -> None:
        """Of several the longest is named."""

        def during() -> None:
            with shop.tracer.start_as_current_span("GET /rates", kind=SpanKind.CLIENT, attributes=HTTP):
                pass
            self.call(shop, "POST /charge")
            with shop.tracer.start_as_current_span("GET /rates", kind=SpanKind.CLIENT, attributes=HTTP):
                pass

        with shop.tracer.start_as_current_span("request"):
            shop.customers.find(during)

        assert self.said(shop) == "POST payments.example/charge"

    @pytest.mark.parametrize(
        ("kind", "attributes"),
        [
            (SpanKind.CLIENT, {"db__system__name": "redis", "server__address": "cache.example"}),
            (SpanKind.CLIENT, {"db__system": "elasticsearch", "http__method": "POST"}),
            (SpanKind.INTERNAL, {"http__request__method": "GET"}),
            (SpanKind.SERVER, {"http__request__method": "GET"}),
            (SpanKind.CLIENT, {"peer__service": "payments"}),
        ],
    )
    def test_other_spans(self, shop: Shop, kind: SpanKind, attributes: dict[str, str]) -> None:
        """Other spans are no calls to other services, or none that can be told from a query."""
        with shop.tracer.start_as_current_span("request"):
            shop.customers.find(lambda: self.call(shop, "GET", kind, **attributes))

        assert self.said(shop) == ""

    def test_began_before(self, shop: Shop) -> None:
        """A call within which the connection was acquired is not what it waited for."""
        with shop.tracer.start_as_current_span("request"):
            outer = shop.tracer.start_span("GET", kind=SpanKind.CLIENT, attributes=HTTP)

            def during() -> None:
                sit_idle()
                outer.end()

            shop.customers.find(during)

        assert self.said(shop) == ""

    def test_short(self, shop: Shop) -> None:
        """A call that took a moment of a long time explains nothing."""

        def during() -> None:
            with shop.tracer.start_as_current_span("GET", kind=SpanKind.CLIENT, attributes=HTTP):
                pass
            sit_idle()

        with shop.tracer.start_as_current_span("request"):
            shop.customers.find(during)

        assert self.said(shop) == ""

    def test_other_trace(self, shop: Shop) -> None:
        """What happens in another trace has nothing to do with it."""

        def during() -> None:
            with shop.tracer.start_as_current_span("GET", kind=SpanKind.CLIENT, attributes=HTTP):
                sit_idle()

        shop.customers.find(during)  # without a trace: the call is one of its own

        assert self.said(shop) == ""

    @pytest.mark.parametrize(
        ("name", "attributes", "said"),
        [
            ("GET", {"server.address": "a.example"}, "GET a.example"),
            ("GET /x?card=1", {"server.address": "a.example"}, "GET a.example/x"),
            ("HTTP GET", {"http.url": "http://me:secret@a.example:80/x?card=1"}, "HTTP GET a.example"),
            (
                "Payments/Charge",
                {"rpc.system": "grpc", "net.peer.name": "a.example"},
                "Payments/Charge at a.example",
            ),
            ("orders send", {"messaging.system": "kafka"}, "orders send"),
            ("GET a.example", {"http.host": "a.example"}, "GET a.example"),
            ("GET", {"http.url": "http://[not an address"}, "GET"),
            ("send to queue", {"server.address": "a.example"}, "send to queue at a.example"),
        ],
    )
    def test_name(self, shop: Shop, name: str, attributes: dict[str, str], said: str) -> None:
        """The span's name with the host, whichever conventions its instrumentation follows."""
        shop.tracer.start_span(
            name, kind=SpanKind.CLIENT, attributes=attributes | {"http.method": "GET"}
        ).end()
        (span,) = [each for each in shop.telemetry.spans() if each.name == name]

        assert is_call(span)
        assert name_of(span) == said
