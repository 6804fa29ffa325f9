"""Whole spans, with ids and times of the test's own."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.trace import SpanKind, StatusCode

from otel_connleak.instrumentor import engine
from tests.leaking import lose, release
from tests.support import toy
from tests.support.core import Clock
from tests.support.telemetry import Telemetry
from tests.support.toy import ToyPool

SECOND = 1_000_000_000


class Ids(IdGenerator):
    """Counts spans and traces from one."""

    def __init__(self) -> None:
        self._span = self._trace = 0

    def generate_span_id(self) -> int:
        """The next span id."""
        self._span += 1
        return self._span

    def generate_trace_id(self) -> int:
        """The next trace id."""
        self._trace += 1
        return self._trace


@contextmanager
def running(telemetry: Telemetry, **settings: object) -> Iterator[tuple[Clock, ToyPool]]:
    """The instrumentation with a clock and ids of our own, and a pool."""
    telemetry.tracer_provider.id_generator = Ids()  # type: ignore[assignment] # of the base class, too
    with telemetry.instrumented(**{"library_modules": "tests.support"} | settings):
        started = engine()
        assert started is not None
        clock = started.registry.clock = Clock()
        started.leaks._describe._new_id = lambda: "0000abcd"
        try:
            yield clock, ToyPool(started.registry)
        finally:
            toy.forget()


def whole(span: ReadableSpan) -> dict[str, Any]:
    """Everything of a span but its times, its resource and its events."""
    context = span.get_span_context()
    assert context is not None
    return {
        "name": span.name,
        "kind": span.kind,
        "trace": context.trace_id,
        "id": context.span_id,
        "parent": span.parent.span_id if span.parent is not None else None,
        "links": [link.context.span_id for link in span.links],
        "status": (span.status.status_code, span.status.description),
        "scope": span.instrumentation_scope.name if span.instrumentation_scope is not None else None,
        "attributes": dict(span.attributes or {}),
    }


CONNECTION = {
    "db.system.name": "toysql",
    "db.namespace": "shop",
    "server.address": "db.example",
    "server.port": 5432,
    "connleak.server.pid": 4242,
    "connleak.resource": "connection",
    "thread.name": "MainThread",
}


def site(function: Any, line: int) -> dict[str, object]:
    """The attributes of a call site, by the function and the line counted from its ``def``."""
    return {
        "code.function.name": f"{__name__}.{function.__qualname__}",
        "code.file.path": __file__,
        "code.line.number": function.__code__.co_firstlineno + line,
    }


def works(pool: ToyPool, clock: Clock) -> None:
    """Hold a connection for three seconds, of which the driver is busy for one."""
    connection = pool.getconn()
    hold = pool.hold_of(connection)
    clock.now += 2.0
    hold.busy, hold.calls = 1.0, 2
    clock.now += 1.0
    pool.putconn(connection)


def drops(pool: ToyPool) -> None:
    """Let a connection go without releasing it."""
    pool.getconn()


@pytest.mark.parametrize("pooled", [True, False])
def test_hold_span(telemetry: Telemetry, pooled: bool) -> None:
    """A hold is an internal span in the trace of its acquire, with everything that is known about it."""
    with running(telemetry) as (clock, pool):
        if not pooled:
            pool.record = None
        tracer = telemetry.tracer_provider.get_tracer("web")
        with tracer.start_as_current_span("request"):
            works(pool, clock)

    assert whole(telemetry.spans("hold")[0]) == {
        "name": "hold works",
        "kind": SpanKind.INTERNAL,
        "trace": 1,
        "id": 2,
        "parent": 1,
        "links": [],
        "status": (StatusCode.UNSET, None),
        "scope": "otel_connleak",
        "attributes": CONNECTION
        | site(works, 2)
        | {"connleak.use_time": 3.0, "connleak.idle_time": 2.0, "connleak.statements": 2}
        | {"connleak.transaction.outcome": "none"}
        | ({"db.client.connection.pool.name": "orders"} if pooled else {}),
    }


def test_leak_span(telemetry: Telemetry) -> None:
    """A leak is a span of its own: beside the hold, linked to it, an error."""
    with running(telemetry, evidence="dropped") as (_, pool):
        tracer = telemetry.tracer_provider.get_tracer("web")
        with tracer.start_as_current_span("request"):
            drops(pool)
            assert telemetry.tracer_provider.force_flush()
    leak, hold, _ = (whole(span) for span in telemetry.spans())
    fingerprint = leak["attributes"].pop("connleak.fingerprint")
    stack = leak["attributes"].pop("code.stacktrace")
    times = {leak["attributes"].pop(f"connleak.{name}_time") for name in ("use", "idle")}

    assert leak == {
        "name": "leak drops",
        "kind": SpanKind.INTERNAL,
        "trace": 1,
        "id": 3,
        "parent": 1,
        "links": [2],
        "status": (StatusCode.ERROR, "confirmed leak: dropped"),
        "scope": "otel_connleak",
        "attributes": CONNECTION
        | site(drops, 2)
        | {
            "db.client.connection.pool.name": "orders",
            "connleak.id": f"{fingerprint}-0000abcd",
            "connleak.evidence": ("dropped",),
            "connleak.certainty": "confirmed",
        },
    }
    assert stack.splitlines()[0] == (f'File "{__file__}", line {drops.__code__.co_firstlineno + 2}, in drops')
    assert len(times) == 1
    assert (hold["name"], hold["id"], hold["parent"]) == ("hold drops", 2, 1)
    assert hold["status"] == (StatusCode.ERROR, "never released: the connection object is gone")


def test_leak_without_a_request(telemetry: Telemetry) -> None:
    """Outside of any trace the hold is the root of its own, and the leak its child."""
    with running(telemetry, evidence="dropped") as (_, pool):
        drops(pool)
        assert telemetry.tracer_provider.force_flush()
    leak, hold = (whole(span) for span in telemetry.spans())

    assert (leak["trace"], leak["parent"], leak["links"]) == (hold["trace"], hold["id"], [hold["id"]])
    assert hold["parent"] is None


@pytest.mark.parametrize(
    ("statements", "attribute", "text"),
    [
        ("summary", "db.query.summary", "SELECT … FROM customers"),
        ("full", "db.query.text", "SELECT * FROM customers WHERE name = 'x'"),
        ("off", "", ""),
    ],
)
def test_last_statement(telemetry: Telemetry, statements: str, attribute: str, text: str) -> None:
    """The setting decides what a leak says of its last statement, and under which name."""

    def queries_and_drops(pool: ToyPool) -> None:
        connection = pool.getconn()
        pool.hold_of(connection).statement = "SELECT *\n FROM customers WHERE name = 'x'"

    with running(telemetry, evidence="dropped", statements=statements) as (_, pool):
        queries_and_drops(pool)
        assert telemetry.tracer_provider.force_flush()
    attributes = whole(telemetry.spans("leak")[0])["attributes"]

    said = {name: value for name, value in attributes.items() if name.startswith("db.query.")}
    assert said == ({attribute: text} if attribute else {})


def test_recovered_hold(telemetry: Telemetry) -> None:
    """A hold that had been reported and was released carries the leak's id, and is no error."""
    with running(telemetry, evidence="process_exited") as (_, pool):
        hold = lose(pool)
        started = engine()
        assert started is not None
        started.leaks.at_exit()
        release(pool, hold)
    (leak,) = telemetry.spans("leak")
    (span,) = telemetry.spans("hold")

    assert (span.attributes or {})["connleak.leak.id"] == (leak.attributes or {})["connleak.id"]
    assert span.status.status_code is StatusCode.UNSET


def test_no_hold_spans(telemetry: Telemetry) -> None:
    """With ``spans=none`` only leaks are spans, in the trace of their acquire."""
    with running(telemetry, spans="none", evidence="dropped") as (clock, pool):
        tracer = telemetry.tracer_provider.get_tracer("web")
        with tracer.start_as_current_span("request"):
            works(pool, clock)
            drops(pool)
            assert telemetry.tracer_provider.force_flush()
    leak, request = (whole(span) for span in telemetry.spans())

    assert (leak["name"], request["name"]) == ("leak drops", "request")
    assert (leak["trace"], leak["parent"], leak["links"]) == (request["trace"], request["id"], [])


@pytest.mark.parametrize(("slow_after", "names"), [(3.0, ["hold works", "request"]), (3.1, ["request"])])
def test_slow_hold_spans(telemetry: Telemetry, slow_after: float, names: list[str]) -> None:
    """With ``spans=slow`` a hold gets its span at its release, from its acquire, if it took so long."""
    with running(telemetry, spans="slow", slow_after=slow_after) as (clock, pool):
        tracer = telemetry.tracer_provider.get_tracer("web")
        with tracer.start_as_current_span("request"):
            works(pool, clock)
    spans = telemetry.spans()

    assert [span.name for span in spans] == names
    if len(spans) == 2:
        hold, request = spans
        assert hold.start_time is not None
        assert hold.end_time is not None
        assert 3 * SECOND <= hold.end_time - hold.start_time < 4 * SECOND
        assert whole(hold)["parent"] == whole(request)["id"]
        assert whole(hold)["attributes"]["connleak.use_time"] == 3.0


def test_span_is_not_current(telemetry: Telemetry) -> None:
    """What the application does while it holds something is no child of the hold."""
    with running(telemetry) as (_, pool):
        tracer = telemetry.tracer_provider.get_tracer("web")
        with tracer.start_as_current_span("request"), pool.connection():
            tracer.start_span("other").end()
    by_name = {span.name.split()[0]: whole(span) for span in telemetry.spans()}

    assert by_name["other"]["parent"] == by_name["request"]["id"]
