"""No exception of ours reaches the application, from any hook: it is logged once and counted."""

import gc
import logging
import time
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from psycopg_pool import AsyncConnectionPool, ConnectionPool

from otel_connleak import guard, kept, leaks, open_holds
from otel_connleak.adapters import psycopg as psycopg_adapter
from otel_connleak.adapters import psycopg_pool as pool_adapter
from otel_connleak.adapters.psycopg_pool import PsycopgPoolAdapter
from otel_connleak.callsite import CallSites
from otel_connleak.drivers import Driver
from otel_connleak.engine import Engine
from otel_connleak.evidence import ended
from otel_connleak.evidence.dropped import Dropped
from otel_connleak.evidence.ended import EndedTasks, EndedThreads, EndedTraces
from otel_connleak.evidence.exits import Exits
from otel_connleak.evidence.overdue import Overdue
from otel_connleak.leak import Leaks
from otel_connleak.listeners import Listeners
from otel_connleak.otel.events import LeakEvents
from otel_connleak.otel.metrics import LeakMetrics
from otel_connleak.otel.spans import HoldSpans, LeakSpans
from otel_connleak.reach import Reachability
from otel_connleak.registry import Registry
from otel_connleak.report import LeakLog
from otel_connleak.threads import Threads
from otel_connleak.totals import Totals
from otel_connleak.watchdog import Watchdog
from tests.adapters.shop.everything import application
from tests.support.telemetry import Telemetry
from tests.support.waiting import wait_until

HOOKS: list[tuple[Any, str]] = [
    # what the replaced functions of the libraries call
    *[(Registry, name) for name in ("acquire", "release", "released", "reinstate")],
    *[(Registry, name) for name in ("track", "hold_of", "called")],
    *[(Listeners, name) for name in ("acquired", "released", "moved")],
    *[(CallSites, name) for name in ("locate", "origin_at", "next_owner")],
    (Threads, "current"),
    (Totals, "of"),
    (Watchdog, "due"),
    # the listeners
    *[(HoldSpans, name) for name in ("acquired", "released", "moved")],
    *[(Exits, name) for name in ("acquired", "released")],
    *[(EndedTasks, name) for name in ("acquired", "released")],
    *[(EndedTraces, name) for name in ("acquired", "released")],
    (Leaks, "released"),
    # sys.monitoring, the span processor, asyncio's done callbacks
    *[(Exits, name) for name in ("_returned", "_yielded", "_raised", "_hand_on")],
    (kept, "carries"),
    *[(EndedTraces, name) for name in ("started", "ended")],
    (ended, "TaskEnd"),
    # the watchdog
    *[(Overdue, name) for name in ("next_deadline", "work")],
    *[(Leaks, name) for name in ("next_deadline", "work", "note")],
    (Dropped, "died"),
    (EndedThreads, "ended"),
    (EndedTasks, "ended"),
    (Reachability, "who"),
    (CallSites, "frames"),
    # the reports
    *[(LeakLog, name) for name in ("leak", "recovered")],
    (LeakSpans, "leak"),
    *[(LeakEvents, name) for name in ("leak", "recovered")],
    (LeakMetrics, "leak"),
]
"""Everything of ours that something outside calls, directly or through one more step."""


type FailureLog = Callable[[], list[logging.LogRecord]]
"""Gives the failures of ours that have been logged so far."""


class Injected(Exception):
    """A mistake of ours."""


@pytest.fixture(autouse=True)
def garbage_stays() -> Iterator[None]:
    """Let the reference cycles of a test live until it has ended."""
    gc.disable()
    yield
    gc.collect(0)
    gc.enable()


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> FailureLog:
    """A function that gives the failures logged so far."""

    def failures() -> list[logging.LogRecord]:
        assert [record for record in caplog.records if record.name == "asyncio"] == []
        return [record for record in caplog.records if "otel-connleak failed in" in record.getMessage()]

    return failures


def break_it(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str) -> list[None]:
    """Make a function of ours raise; returns a list that grows with each call."""
    calls: list[None] = []

    def broken(*_args: Any, **_kwargs: Any) -> Any:
        calls.append(None)
        raise Injected(name)

    # The guard names a hook by these.
    broken.__name__, broken.__qualname__ = name, f"{owner.__name__}.{name}"
    monkeypatch.setattr(owner, name, broken)
    return calls


def late_for(name: str) -> Callable[[], object]:
    """How long the application is late: for what withdraws a claim, until there is one."""
    before = len(claims())
    return (lambda: wait_until(lambda: len(claims()) > before, "a claim")) if name == "recovered" else int


def claims() -> list[str]:
    """The functions that are said to be late."""
    return [leak.function for leak in leaks() if leak.short == "think"]


# --- every hook --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("owner", "name"), HOOKS, ids=[f"{owner.__name__}.{name}" for owner, name in HOOKS])
def test_broken_hook(
    owner: Any,
    name: str,
    dsn: str,
    telemetry: Telemetry,
    monkeypatch: pytest.MonkeyPatch,
    log: FailureLog,
) -> None:
    """The application sees what it sees without us, twice; a hook that fails is logged once and counted."""
    tracer = telemetry.tracer_provider.get_tracer("application")
    without = application(dsn, tracer)
    calls = break_it(monkeypatch, owner, name)
    with telemetry.instrumented(grace=0.02, overdue_after=0.08):
        for _ in range(2):
            assert application(dsn, tracer, late_for(name)) == without
        wait_until(lambda: len(calls) >= 2, f"two calls of {name}")
    failures = guard.failures()

    assert max(failures.values()) >= 2, failures
    assert len(log()) == len(failures)
    assert all(record.exc_info and record.exc_info[0] is Injected for record in log())


@pytest.mark.parametrize("adapter", [psycopg_adapter, pool_adapter])
@pytest.mark.parametrize("part", ["facts", "transaction"])
def test_broken_driver(
    adapter: Any,
    part: str,
    dsn: str,
    telemetry: Telemetry,
    monkeypatch: pytest.MonkeyPatch,
    log: FailureLog,
) -> None:
    """The same where a driver's connection does not answer what we ask it."""
    tracer = telemetry.tracer_provider.get_tracer("application")
    without = application(dsn, tracer)

    def broken(_connection: Any) -> Any:
        raise Injected

    monkeypatch.setattr(adapter, "DRIVER", Driver(**(adapter.DRIVER._asdict() | {part: broken})))
    with telemetry.instrumented(grace=0.02, overdue_after=0.08):
        assert application(dsn, tracer) == without
        telemetry.tracer_provider.force_flush()

    assert all(record.exc_info and record.exc_info[0] is Injected for record in log())
    assert len(log()) == len(guard.failures())


# --- what we call ourselves --------------------------------------------------------------------------------


def test_failing_work_does_not_spin(dsn: str, telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work that is due and fails is tried again, but not at once: the watchdog must not take a processor."""
    calls = break_it(monkeypatch, Overdue, "work")
    with telemetry.instrumented(overdue_after=0.05), psycopg.connect(dsn):
        wait_until(lambda: calls, "the first try")
        time.sleep(0.5)

        assert len(calls) < 5


def test_broken_log_handler(dsn: str, telemetry: Telemetry) -> None:
    """A logging handler that raises costs the log line, and nothing else."""

    class Broken(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise Injected

    logger, handler = logging.getLogger("otel_connleak"), Broken()
    logger.addHandler(handler)
    try:
        with telemetry.instrumented(), ConnectionPool(dsn, min_size=1, max_size=1, open=True) as pool:
            pool.getconn()
            telemetry.event("connleak.leak")
            assert len(leaks()) == 1
            assert sum(guard.failures().values()) >= 1
    finally:
        logger.removeHandler(handler)


def test_broken_span_processor(dsn: str, telemetry: Telemetry, log: FailureLog) -> None:
    """Another span processor that raises at the end of our spans costs the spans, and no connection."""

    class Broken(SpanProcessor):
        def on_end(self, span: ReadableSpan) -> None:
            if span.instrumentation_scope is not None and span.instrumentation_scope.name == "otel_connleak":
                raise Injected

    telemetry.tracer_provider.add_span_processor(Broken())
    with ConnectionPool(dsn, min_size=1, max_size=1, open=True) as pool, telemetry.instrumented():
        for _ in range(3):
            with pool.connection() as connection:
                connection.execute("SELECT 1")
        with ConnectionPool(dsn, min_size=1, max_size=1, open=True) as other:
            other.getconn()
            telemetry.event("connleak.leak")
        held_at_the_end = open_holds()
        assert sum(guard.failures().values()) >= 4

    assert held_at_the_end == []
    assert len(log()) == len(guard.failures())


def test_broken_stop(dsn: str, telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mistake in stopping does not reach the application, and keeps nothing else from being stopped."""
    break_it(monkeypatch, HoldSpans, "end_at_exit")
    with ConnectionPool(dsn, min_size=1, max_size=1, open=True) as pool:
        with telemetry.instrumented():
            connection = pool.getconn()
        pool.putconn(connection)

    assert telemetry.spans() == []


@pytest.mark.parametrize("name", ["flush", "shutdown"])
def test_broken_flush(name: str, telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mistake in flush or shutdown does not reach who flushes or shuts the provider down."""
    calls = break_it(monkeypatch, Engine, name)
    with telemetry.instrumented():
        telemetry.tracer_provider.force_flush()
        telemetry.tracer_provider.shutdown()

        assert calls != []
        assert sum(guard.failures().values()) >= 1


def test_broken_start(
    dsn: str,
    telemetry: Telemetry,
    monkeypatch: pytest.MonkeyPatch,
    log: FailureLog,
) -> None:
    """A mistake in starting leaves the application without us, but starts it."""
    break_it(monkeypatch, Exits, "install")
    with telemetry.instrumented():
        with ConnectionPool(dsn, min_size=1, max_size=1, open=True) as pool, pool.connection() as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)
        assert guard.failures() == {"instrument": 1}

    assert len(log()) == 1


def test_library_has_changed(
    dsn: str, telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An adapter that does not fit its library is off, wholly, and says so; the others are on."""
    before = dict(vars(ConnectionPool))
    monkeypatch.delattr(AsyncConnectionPool, "_connect")
    with telemetry.instrumented():
        assert dict(vars(ConnectionPool)) == before
        with ConnectionPool(dsn, min_size=1, max_size=1, open=True) as pool, pool.connection():
            assert open_holds() == []
        with psycopg.connect(dsn):
            assert len(open_holds()) == 1
    (line,) = [record.getMessage() for record in caplog.records if record.name == "otel_connleak"]

    assert line.startswith("adapter psycopg_pool does not fit the installed library and is off: ")


def test_adapter_cannot_be_loaded(
    dsn: str, telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An adapter that raises when it is made is off, and says so; the others are on."""
    break_it(monkeypatch, PsycopgPoolAdapter, "__init__")
    with telemetry.instrumented(), psycopg.connect(dsn):
        assert len(open_holds()) == 1
    (line,) = [record.getMessage() for record in caplog.records if record.name == "otel_connleak"]

    assert line == "adapter psycopg_pool cannot be loaded: Injected: __init__"
