"""The query spans of OpenTelemetry's own instrumentations are children of the hold, and nothing else is."""

import asyncio
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
import sqlalchemy
from asyncpg.connection import Connection
from asyncpg.cursor import Cursor, CursorIterator
from asyncpg.prepared_stmt import PreparedStatement
from opentelemetry import context, trace
from opentelemetry.instrumentation import asyncpg as asyncpg_spans
from opentelemetry.instrumentation import dbapi as dbapi_spans
from opentelemetry.instrumentation.asyncpg import AsyncPGInstrumentor
from opentelemetry.instrumentation.sqlalchemy import SQLAlchemyInstrumentor
from opentelemetry.instrumentation.sqlalchemy import engine as sqlalchemy_spans
from opentelemetry.instrumentation.utils import unwrap
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, Decision, Sampler, SamplingResult
from psycopg.conninfo import conninfo_to_dict

from examples.otlp_receiver import OtlpReceiver
from otel_connleak.otel import queries
from tests.support.launcher import APPS, DISABLED, environment, exporting_to, run
from tests.support.queried import ASK, DRIVERS, WRONG, Driver, Instrumentor, instrumented
from tests.support.reports import NEVER
from tests.support.telemetry import Telemetry

QUIET: dict[str, Any] = {"grace": NEVER, "overdue_after": NEVER}
OURS = ("hold", "transaction", "leak", "cursor")
APPLICATIONS = ("request", "between", "other", "connect")
"""The application's own spans; and what SQLAlchemy's instrumentation makes of a connect: no query."""


@pytest.fixture(params=list(DRIVERS))
def driver(request: pytest.FixtureRequest) -> Driver:
    """Each way to ask the database."""
    return DRIVERS[request.param]


@contextmanager
def both(telemetry: Telemetry, driver: Driver, *, ours_first: bool = True) -> Iterator[None]:
    """Our instrumentation and that of the driver are on; the one that was started last is stopped first."""
    starts: list[Callable[[], Any]] = [
        lambda: telemetry.instrumented(**QUIET),
        lambda: instrumented(telemetry, *driver.instrumentors),
    ]
    with ExitStack() as stack:
        for start in starts if ours_first else reversed(starts):
            stack.enter_context(start())
        yield


def play(driver: Driver, dsn: str, scene: Callable[[], Awaitable[None]]) -> None:
    """Run a scene with a driver that is ready, in an event loop."""

    async def whole() -> None:
        driver.prepare(dsn)
        try:
            await scene()
        finally:
            await driver.stop()

    asyncio.run(whole())


class Trace:
    """The spans that have ended, as the tree that they are."""

    def __init__(self, telemetry: Telemetry) -> None:
        self.spans = telemetry.spans()
        self._by_id = {span.context.span_id: span for span in self.spans if span.context is not None}

    def named(self, first_word: str) -> ReadableSpan:
        """The one span whose name begins with a word."""
        (span,) = [span for span in self.spans if span.name.split(" ")[0] == first_word]
        return span

    def queries(self) -> list[ReadableSpan]:
        """The spans of what the application has asked; not of what a pool asks on its own account."""
        texts = [str((span.attributes or {}).get("db.statement")) for span in self.spans]
        return [span for span, text in zip(self.spans, texts, strict=True) if text in (ASK, WRONG)]

    def above(self, span: ReadableSpan) -> list[str]:
        """The first words of the names of the spans above one, from its parent to the root of its trace."""
        found = []
        while span.parent is not None:
            parent = self._by_id[span.parent.span_id]
            assert parent.context is not None
            assert span.context is not None
            assert parent.context.trace_id == span.context.trace_id
            span = parent
            found.append(span.name.split(" ")[0])
        return found


HELD = [["hold", "request"], ["transaction", "hold", "request"]]


def without_connect(above: list[str]) -> list[str]:
    """The spans above one without that of SQLAlchemy's connect, within which the hold begins."""
    return [name for name in above if name != "connect"]


@pytest.mark.parametrize("ours_first", [True, False])
def test_parent(driver: Driver, ours_first: bool, dsn: str, telemetry: Telemetry) -> None:
    """A query's span is a child of the hold or transaction; between two queries neither is current."""
    tracer = telemetry.tracer_provider.get_tracer("web")

    async def request() -> None:
        with tracer.start_as_current_span("request") as span:
            connection = await driver.connect()
            await driver.ask(connection)
            assert trace.get_current_span() is span
            tracer.start_span("between").end()
            await driver.ask(connection)
            assert trace.get_current_span() is span
            await driver.close(connection)

    with both(telemetry, driver, ours_first=ours_first):
        play(driver, dsn, request)
    tree = Trace(telemetry)

    found = tree.queries()
    assert len(found) >= 2
    for query in found:
        assert without_connect(tree.above(query)) in HELD
    assert tree.above(tree.named("between")) == ["request"]


@pytest.mark.parametrize("name", ["psycopg", "psycopg async", "sqlalchemy", "sqlalchemy, psycopg's"])
def test_first_statement(name: str, dsn: str, telemetry: Telemetry) -> None:
    """The statement with which a transaction begins is within it, as the next one is."""
    driver = DRIVERS[name]
    tracer = telemetry.tracer_provider.get_tracer("web")

    async def request() -> None:
        with tracer.start_as_current_span("request"):
            connection = await driver.connect()
            await driver.ask(connection)
            await driver.ask(connection)
            await driver.close(connection)

    with both(telemetry, driver):
        play(driver, dsn, request)
    tree = Trace(telemetry)

    assert len(tree.queries()) == 2
    for query in tree.queries():
        assert without_connect(tree.above(query)) == ["transaction", "hold", "request"]


def test_exception(driver: Driver, dsn: str, telemetry: Telemetry) -> None:
    """A query that fails is a child of the hold too, and leaves the context as it was."""
    tracer = telemetry.tracer_provider.get_tracer("web")

    async def request() -> None:
        with tracer.start_as_current_span("request"):
            connection = await driver.connect()
            before = context.get_current()
            with pytest.raises(Exception, match="nowhere"):
                await driver.ask(connection, WRONG)
            assert context.get_current() is before
            await driver.close(connection)

    with both(telemetry, driver):
        play(driver, dsn, request)
    tree = Trace(telemetry)

    for query in tree.queries():
        assert without_connect(tree.above(query)) in HELD


def test_leaked(driver: Driver, dsn: str, telemetry: Telemetry) -> None:
    """A leaked hold is the parent of nothing that comes later, not even of queries on its connection."""
    tracer = telemetry.tracer_provider.get_tracer("web")

    async def requests() -> None:
        with tracer.start_as_current_span("request"):
            connection = await driver.connect()
            await driver.ask(connection)
        first = len(telemetry.spans())
        with tracer.start_as_current_span("other"):
            await driver.ask(connection)
            tracer.start_span("between").end()
        with_trace = len(telemetry.spans())
        await driver.ask(connection)
        tracer.start_span("alone").end()
        without_trace = len(telemetry.spans())
        await driver.close(connection)
        later.extend([(first, with_trace), (with_trace, without_trace)])

    later: list[tuple[int, int]] = []
    with both(telemetry, driver):
        play(driver, dsn, requests)
    tree = Trace(telemetry)
    in_other, alone = (
        [tree.above(span) for span in tree.spans[start:end] if not span.name.startswith(OURS)]
        for start, end in later
    )

    assert len(in_other) >= 3
    assert [] in in_other
    assert len(alone) >= 2
    assert [above for above in in_other if above and above[-1] != "other"] == []
    assert [above for above in in_other + alone if "hold" in above] == []


@pytest.mark.parametrize(
    "driver",
    # SQLAlchemy's instrumentation makes a span of the connect: that is the trace's root, and ends with it.
    [driver for driver in DRIVERS.values() if SQLAlchemyInstrumentor not in driver.instrumentors],
    ids=[name for name, driver in DRIVERS.items() if SQLAlchemyInstrumentor not in driver.instrumentors],
)
def test_without_a_trace(driver: Driver, dsn: str, telemetry: Telemetry) -> None:
    """A program that makes no spans of its own has one trace for each hold, with its queries."""

    async def script() -> None:
        for _ in range(2):
            connection = await driver.connect()
            await driver.ask(connection)
            await driver.close(connection)
            await driver.stop()

    with both(telemetry, driver):
        play(driver, dsn, script)
    tree = Trace(telemetry)

    found = [without_connect(tree.above(query)) for query in tree.queries()]
    assert len(found) >= 2
    assert [above for above in found if above not in (["hold"], ["transaction", "hold"])] == []
    assert len([span for span in tree.spans if span.name.startswith("hold ")]) == 2


class NoHolds(Sampler):
    """A sampler of the application's that lets no span of ours through."""

    def should_sample(
        self, parent_context: Any, trace_id: int, name: str, *args: Any, **kwargs: Any
    ) -> SamplingResult:
        """Decide by the name."""
        if name.startswith(OURS):
            return SamplingResult(Decision.DROP)
        return ALWAYS_ON.should_sample(parent_context, trace_id, name, *args, **kwargs)

    def get_description(self) -> str:
        """Its name."""
        return "no holds"


def test_unrecorded_hold(dsn: str) -> None:
    """A hold whose span is not recorded does not take the spans of its queries with it."""
    driver = DRIVERS["psycopg"]
    telemetry = Telemetry(NoHolds())
    tracer = telemetry.tracer_provider.get_tracer("web")

    async def request() -> None:
        with tracer.start_as_current_span("request"):
            connection = await driver.connect()
            await driver.ask(connection)
            await driver.close(connection)

    with both(telemetry, driver):
        play(driver, dsn, request)
    tree = Trace(telemetry)
    telemetry.shutdown()

    assert [tree.above(query) for query in tree.queries()] == [["request"]]


@pytest.mark.parametrize("name", ["sqlalchemy", "sqlalchemy async", "sqlalchemy and driver"])
def test_engine_from_before(name: str, dsn: str, telemetry: Telemetry) -> None:
    """Also the queries of an engine that was made, and is listened to, before we are started."""
    driver = DRIVERS[name]
    tracer = telemetry.tracer_provider.get_tracer("web")

    async def request() -> None:
        with telemetry.instrumented(**QUIET), tracer.start_as_current_span("request") as span:
            connection = await driver.connect()
            await driver.ask(connection)
            assert trace.get_current_span() is span
            await driver.close(connection)

    with instrumented(telemetry, *driver.instrumentors):
        play(driver, dsn, request)
    tree = Trace(telemetry)

    assert len(tree.queries()) >= 1
    for query in tree.queries():
        assert without_connect(tree.above(query)) in HELD


def test_launcher(postgres: str, receiver: OtlpReceiver) -> None:
    """Under the launcher too, in whatever order it starts the instrumentations."""
    host = str(conninfo_to_dict(postgres)["host"])
    env = environment(**{DISABLED: "celery,django,fastapi"}, HOST=host) | exporting_to(receiver)
    finished = run(APPS / "querying.py", env=env)
    assert finished.returncode == 0, finished.stderr
    by_id = {span.span_id: span for span in receiver.spans}
    above = {}
    for span in receiver.spans:
        statement = str(span.attributes.get("db.statement"))
        if statement.startswith("SELECT '"):
            parent = by_id[span.parent_span_id]
            above[statement.split("'")[1]] = parent.name.split(" ")[0]

    assert set(above) == {"psycopg", "psycopg2", "sqlite3", "asyncpg"}
    assert set(above.values()) <= {"hold", "transaction"}


# --- what is hooked ----------------------------------------------------------------------------------------


def functions() -> dict[str, object]:
    """Everything that may be replaced, by a readable name."""
    classes = (
        dbapi_spans.CursorTracer,
        asyncpg_spans.AsyncPGInstrumentor,
        sqlalchemy_spans.EngineTracer,
        sqlalchemy.Connection,
        Connection,
        Cursor,
        CursorIterator,
        PreparedStatement,
    )
    return {
        f"{cls.__qualname__}.{name}": value
        for cls in classes
        for name, value in vars(cls).items()
        if callable(value)
    }


def changed(before: dict[str, object]) -> list[str]:
    """The names of those that are other ones now."""
    now = functions()
    return [name for name in before if before[name] is not now[name]]


@pytest.mark.parametrize("ours_first", [True, False])
def test_gives_back_the_functions(ours_first: bool, telemetry: Telemetry) -> None:
    """What has been hooked are the identical functions again, whoever started first."""
    before = functions()
    wanted = {
        "CursorTracer.traced_execution",
        "CursorTracer.traced_execution_async",
        "AsyncPGInstrumentor._do_execute",
        "EngineTracer._before_cur_exec",
        "Connection.fetch",
        "CursorIterator.__anext__",
    }
    with both(telemetry, DRIVERS["asyncpg"], ours_first=ours_first):
        assert wanted <= set(changed(before))

    assert changed(before) == []


def test_gives_back_what_was_instrumented(telemetry: Telemetry) -> None:
    """What asyncpg's instrumentation has wrapped before us is what it wrapped again."""
    with instrumented(telemetry, AsyncPGInstrumentor):
        before = functions()
        with telemetry.instrumented(**QUIET):
            assert "PreparedStatement.fetch" in changed(before)
        assert changed(before) == []


def test_theirs_ends_first(telemetry: Telemetry) -> None:
    """What asyncpg's instrumentation has wrapped before us it takes out while we are running."""
    before = functions()
    make: Instrumentor = AsyncPGInstrumentor
    instrumentor = make()
    instrumentor.instrument(tracer_provider=telemetry.tracer_provider)
    with telemetry.instrumented(**QUIET):
        instrumentor.uninstrument()
        assert not {"Connection.fetch", "Cursor.fetch", "PreparedStatement.fetch"} & set(changed(before))
    # These two our adapter has wrapped once more, and there it could not find its own.
    unwrap(Connection, "execute")
    unwrap(Cursor, "forward")
    assert changed(before) == []


def test_changed_instrumentation(telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch) -> None:
    """An instrumentation that has other methods than those that we know is left alone, as a whole."""
    monkeypatch.delattr(dbapi_spans.CursorTracer, "traced_execution_async")
    before = functions()
    with telemetry.instrumented(**QUIET):
        assert not [name for name in changed(before) if name.startswith("CursorTracer")]


UNUSED = f"""
import sys
from otel_connleak import ConnLeakInstrumentor
ConnLeakInstrumentor().instrument()
import asyncpg, psycopg, psycopg2, sqlalchemy.ext.asyncio, sqlite3
assert not set({queries.MODULES!r}) & set(sys.modules), sys.modules
ConnLeakInstrumentor().uninstrument()
"""


def test_costs_nothing_unused() -> None:
    """Where none of these instrumentations is in use, none is even imported."""
    subprocess.run([sys.executable, "-c", UNUSED], check=True, timeout=60)
