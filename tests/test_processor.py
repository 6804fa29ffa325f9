"""The span processor: which spans are requests, what it reports at flush and at shutdown, and only once."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, TraceFlags

from otel_connleak import ConnLeakSpanProcessor
from otel_connleak.engine import Engine
from otel_connleak.instrumentor import engine
from tests.support import toy
from tests.support.telemetry import Telemetry
from tests.support.toy import ToyPool
from tests.support.waiting import wait_until

REMOTE = SpanContext(0xABC, 0xDEF, is_remote=True, trace_flags=TraceFlags(TraceFlags.SAMPLED))


@contextmanager
def running(telemetry: Telemetry, **settings: object) -> Iterator[tuple[Engine, ToyPool]]:
    """The instrumentation with a short grace, and a pool."""
    with telemetry.instrumented(**{"library_modules": "tests.support", "grace": 0.05} | settings):
        started = engine()
        assert started is not None
        try:
            yield started, ToyPool(started.registry)
        finally:
            toy.forget()


def lose(pool: ToyPool) -> None:
    """Acquire where nobody can release it."""
    toy.park(pool.getconn())


def wait_for(event: threading.Event) -> None:
    """Block until the event."""
    event.wait()


def evidence(telemetry: Telemetry) -> list[object]:
    """What speaks for each leak that was reported, in order."""
    events = telemetry.events("connleak.leak")
    return [(event.log_record.attributes or {})["connleak.evidence"] for event in events]


@pytest.mark.parametrize("parent", [None, REMOTE])
def test_end_of_a_request(telemetry: Telemetry, parent: SpanContext | None) -> None:
    """A span without a parent in this process is a request: at its end, what it still holds is a claim."""
    context = trace.set_span_in_context(NonRecordingSpan(parent), Context()) if parent else Context()
    tracer = telemetry.tracer_provider.get_tracer("web")
    with running(telemetry, evidence="trace_ended") as (_, pool):
        with tracer.start_as_current_span("request", context=context) as request:
            lose(pool)
        event = telemetry.event("connleak.leak")

    assert event.log_record.trace_id == request.get_span_context().trace_id
    assert evidence(telemetry) == [("trace_ended",)]


def test_end_of_a_part_of_a_request(telemetry: Telemetry) -> None:
    """A span inside of a request may end: who holds on is the request."""
    tracer = telemetry.tracer_provider.get_tracer("web")
    with running(telemetry, evidence="trace_ended") as (started, pool):
        with tracer.start_as_current_span("request"):
            with tracer.start_as_current_span("part"):
                connection = pool.getconn()
            assert started.leaks.next_deadline() is None
            pool.putconn(connection)
        assert started.leaks.next_deadline() is None


def test_single_call_is_no_request(telemetry: Telemetry) -> None:
    """The end of a single call to a server, outside of any request, proves nothing."""
    tracer = telemetry.tracer_provider.get_tracer("sqlalchemy")
    with running(telemetry, evidence="trace_ended") as (started, pool):
        with tracer.start_as_current_span("connect", kind=SpanKind.CLIENT):
            connection = pool.getconn()
        assert started.leaks.next_deadline() is None
        pool.putconn(connection)


def test_released_in_time(telemetry: Telemetry) -> None:
    """A claim at the end of a request is withdrawn by a release within the grace."""
    tracer = telemetry.tracer_provider.get_tracer("web")
    with running(telemetry, evidence="trace_ended", grace=60) as (started, pool):
        with tracer.start_as_current_span("request"):
            connection = pool.getconn()
        assert started.leaks.next_deadline() is not None
        pool.putconn(connection)
        assert started.leaks.next_deadline() is None
    assert evidence(telemetry) == []


def test_background_task_outlives_its_request(telemetry: Telemetry) -> None:
    """A task that a request has started goes on in its trace: what it holds is its own."""
    tracer = telemetry.tracer_provider.get_tracer("web")

    async def background(pool: ToyPool, acquired: asyncio.Event, leave: asyncio.Event) -> None:
        connection = await pool.getconn_async()
        acquired.set()
        await leave.wait()
        pool.putconn(connection)

    async def main(started: Engine, pool: ToyPool) -> None:
        acquired, leave = asyncio.Event(), asyncio.Event()
        with tracer.start_as_current_span("request"):
            task = asyncio.create_task(background(pool, acquired, leave))
            await acquired.wait()
        assert [hold.trace != 0 for hold in started.registry.holds()] == [True]
        assert started.leaks.next_deadline() is None
        leave.set()
        await task

    with running(telemetry, evidence="trace_ended") as (started, pool):
        asyncio.run(main(started, pool))


def test_requests_in_two_threads(telemetry: Telemetry) -> None:
    """Two requests of one trace in two threads: each answers for what was acquired in its thread."""
    tracer = telemetry.tracer_provider.get_tracer("web")
    context = trace.set_span_in_context(NonRecordingSpan(REMOTE), Context())
    with running(telemetry, evidence="trace_ended") as (started, pool):

        def other() -> None:
            with tracer.start_as_current_span("other", context=context):
                pass

        with tracer.start_as_current_span("request", context=context):
            connection = pool.getconn()
            thread = threading.Thread(target=other)
            thread.start()
            thread.join()
            assert started.leaks.next_deadline() is None
            pool.putconn(connection)


def test_two_processors_report_once(telemetry: Telemetry) -> None:
    """The instrumentor's and one that a user has added see the same spans, and one leak is one report."""
    telemetry.tracer_provider.add_span_processor(ConnLeakSpanProcessor())
    tracer = telemetry.tracer_provider.get_tracer("web")
    with running(telemetry, evidence="trace_ended,process_exited") as (_, pool):
        with tracer.start_as_current_span("request"):
            lose(pool)
        telemetry.event("connleak.leak")
        lose(pool)
        telemetry.tracer_provider.shutdown()

    assert evidence(telemetry) == [("trace_ended",), ("process_exited",)]
    assert [span.name for span in telemetry.spans("leak")] == ["leak lose"] * 2


def test_shutdown_reports_while_exporters_run(telemetry: Telemetry) -> None:
    """What is still held is reported, and its span is ended, before the exporter stops; once."""
    with running(telemetry, evidence="process_exited") as (_, pool):
        lose(pool)
        telemetry.tracer_provider.shutdown()
        assert [span.name for span in telemetry.spans()] == ["leak lose", "hold lose"]
        toy.forget()
        telemetry.tracer_provider.shutdown()

    assert len(telemetry.spans()) == 2
    assert telemetry.spans("hold")[0].status.description == "never released: the process has ended"


def test_shutdown_spares_whoever_could_release(telemetry: Telemetry) -> None:
    """A function that shuts the SDK down while it holds something can still release it."""
    with running(telemetry) as (_, pool):
        connection = pool.getconn()
        telemetry.tracer_provider.shutdown()
        pool.putconn(connection)

    assert evidence(telemetry) == []
    assert [span.status.description for span in telemetry.spans("hold")] == [None]


def test_flush(telemetry: Telemetry) -> None:
    """After a flush everything that was observed before has been reported."""
    with running(telemetry) as (_, pool):
        for number in range(1, 4):
            pool.getconn()  # dropped at once
            assert telemetry.tracer_provider.force_flush()
            assert evidence(telemetry) == [("dropped",)] * number


def test_flush_that_takes_too_long(telemetry: Telemetry) -> None:
    """A flush says whether it was done in time."""
    processor = ConnLeakSpanProcessor()
    go_on = threading.Event()
    with running(telemetry) as (started, pool):
        assert processor.force_flush(10), "nothing has been held yet"
        connection = pool.getconn()
        started.watchdog.handle({str: lambda _: wait_for(go_on)})
        started.watchdog.put("busy")
        assert not processor.force_flush(10)
        go_on.set()
        assert processor.force_flush()
        pool.putconn(connection)


def test_without_instrumentation() -> None:
    """A processor in an SDK of a process that is not instrumented does nothing."""
    provider, exporter = TracerProvider(shutdown_on_exit=False), InMemorySpanExporter()
    provider.add_span_processor(ConnLeakSpanProcessor())
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    with provider.get_tracer("web").start_as_current_span("request"):
        pass
    assert provider.force_flush()
    provider.shutdown()
    assert [span.name for span in exporter.get_finished_spans()] == ["request"]


def test_added_by_hand(telemetry: Telemetry) -> None:
    """A user who builds the SDK adds it to a provider that the instrumentor does not know."""
    theirs = TracerProvider(shutdown_on_exit=False)
    theirs.add_span_processor(ConnLeakSpanProcessor())
    with running(telemetry, evidence="trace_ended") as (started, pool):
        with theirs.get_tracer("web").start_as_current_span("request") as request:
            lose(pool)
        wait_until(started.leaks.reported, "the report")
        (leak,) = started.leaks.reported()
        assert leak.trace == f"{request.get_span_context().trace_id:032x}"
    theirs.shutdown()


def test_many_requests_that_never_end(telemetry: Telemetry) -> None:
    """Spans that are started and forgotten do not grow the process."""
    tracer = telemetry.tracer_provider.get_tracer("web")
    with running(telemetry) as (started, _):
        for _ in range(10_100):
            tracer.start_span("request", context=Context())
        assert len(started._traces._spans) == 10_000
        assert len(started._traces._roots) <= 10_000
