"""Each kind of evidence with psycopg_pool, and what looks like it and is none."""

import contextvars
import threading
import time
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, Tracer
from psycopg_pool import ConnectionPool

from tests.adapters.conftest import Instrument
from tests.adapters.shop import state
from tests.adapters.shop.keeping import Cycle
from tests.adapters.shop.orders import Orders
from tests.support.launcher import APPS, environment, run
from tests.support.reports import GRACE, NEVER, Reports
from tests.support.telemetry import Telemetry
from tests.support.waiting import wait_until

SOON = 0.3
"""A threshold that is soon over, in seconds."""
REMOTE = NonRecordingSpan(SpanContext(0xABC, 0xDEF, is_remote=True, trace_flags=TraceFlags(1)))
"""The span of another service that has sent a request."""


@pytest.fixture
def module_state(pool: ConnectionPool[Any]) -> Iterator[None]:
    """Release at the end what a test keeps in module state."""
    yield
    while state.connections:
        pool.putconn(state.connections.pop())


@pytest.fixture
def tracer(telemetry: Telemetry) -> Tracer:
    """The application's own tracer."""
    return telemetry.tracer_provider.get_tracer("application")


def blamed(reports: Reports, count: int) -> list[str]:
    """Wait until so many leaks have been reported, and not more: the functions to blame."""
    wait_until(lambda: len(reports.leaks()) >= count, f"{count} leaks")
    reports.settle()
    return sorted(leak.function for leak in reports.leaks())


# --- the end of a function, a thread or a trace ------------------------------------------------------------


def test_released_within_grace(pool: ConnectionPool[Any], instrument: Instrument) -> None:
    """What is released within the grace after its function has returned was no leak."""
    reports = instrument(grace=1.0)
    references: list[Any] = []
    keep_in_cycle(pool, references)
    pool.putconn(references.pop()())
    reports.none(1.0)

    assert reports.hold_names() == ["keep_in_cycle"]


def keep_in_cycle(pool: ConnectionPool[Any], references: list[Any]) -> None:
    """Leave a connection where only a weak reference finds it."""
    connection = pool.getconn()
    references.append(weakref.ref(connection))
    Cycle(connection)


@pytest.mark.parametrize("kind", ["function_exited", "thread_ended", "trace_ended"])
def test_each_kind_alone(kind: str, orders: Orders, instrument: Instrument, tracer: Tracer) -> None:
    """One kind of evidence is enough, where the user has switched off the others."""
    reports = instrument(evidence=kind)

    def answer() -> None:
        with tracer.start_as_current_span("request"):
            orders.keep_unit()

    thread = threading.Thread(target=answer)
    thread.start()
    thread.join()
    leak = reports.leak()

    assert leak.function == "orders.Orders.keep_unit"
    assert leak.evidence == {kind}


def test_all_kinds_at_once(orders: Orders, instrument: Instrument, tracer: Tracer) -> None:
    """A hold against which several facts speak is reported once, with all of them."""
    reports = instrument(grace=0.5)

    def answer() -> None:
        with tracer.start_as_current_span("request"):
            orders.keep_unit()

    thread = threading.Thread(target=answer)
    thread.start()
    thread.join()
    leak = reports.leak()
    reports.no_more(1.0)

    assert leak.evidence == {"function_exited", "thread_ended", "trace_ended"}
    assert leak.attributes["code.function.name"].endswith("Orders.keep_unit")


@pytest.mark.parametrize("parent", [None, REMOTE])
def test_trace_ended(parent: Any, pool: ConnectionPool[Any], reports: Reports, tracer: Tracer) -> None:
    """What a framework was given, and has not released when the request is over, is reported."""
    context = trace.set_span_in_context(parent) if parent is not None else None

    def answer() -> Any:
        with tracer.start_as_current_span("request", context):
            return pool.getconn()

    with ThreadPoolExecutor(1) as executor:
        Cycle(executor.submit(answer).result())
        leak = reports.leak()

    assert leak.function.endswith("test_trace_ended.answer")
    assert (leak.evidence, leak.certainty) == ({"function_exited", "trace_ended"}, "possible")


def test_trace_ended_after_a_call_to_itself(orders: Orders, instrument: Instrument, tracer: Tracer) -> None:
    """What comes after an inner request in its trace belongs to the request around it."""
    reports = instrument(evidence="trace_ended")
    context = trace.set_span_in_context(REMOTE)
    with tracer.start_as_current_span("outer", context):
        with tracer.start_as_current_span("inner", context):
            pass
        orders.keep_unit()

    assert reports.leak().evidence == {"trace_ended"}


def test_trace_ended_but_kept(orders: Orders, reports: Reports, tracer: Tracer) -> None:
    """A connection on an object that a live function still has can be released after its request."""
    with tracer.start_as_current_span("request"):
        orders.start()
    reports.none(3 * GRACE)
    orders.finish()

    assert reports.hold_names() == ["Orders.start"]


def test_trace_ended_and_then_forgotten(orders: Orders, reports: Reports, tracer: Tracer) -> None:
    """When the last function that could release it has ended too, it is reported after all."""

    def serve() -> None:
        own = Orders(orders.pool)
        with tracer.start_as_current_span("request"):
            own.start()
        Cycle(own)
        reports.none(3 * GRACE)

    serve()

    assert reports.leak().function == "orders.Orders.start"


def test_trace_ended_while_at_work(orders: Orders, reports: Reports, tracer: Tracer) -> None:
    """A function that outlives its request still holds its connection with good reason."""
    request = tracer.start_span("request")

    def answer_and_go_on() -> None:
        request.end()
        reports.none(3 * GRACE)

    with trace.use_span(request):
        orders.hold(answer_and_go_on, leak=False)

    reports.none()


def test_trace_ended_in_another_thread(orders: Orders, instrument: Instrument, tracer: Tracer) -> None:
    """What a background thread acquires in the trace of a request does not end with the request."""
    reports = instrument(evidence="trace_ended")
    with tracer.start_as_current_span("request"):
        context = contextvars.copy_context()
        thread = threading.Thread(target=context.run, args=(orders.keep_unit,))
        thread.start()
        thread.join()
    reports.none()


def test_pool_thread_goes_on(orders: Orders, reports: Reports) -> None:
    """A thread pool's worker lives on: the function that left its connection there is named all the same."""
    with ThreadPoolExecutor(1) as executor:
        executor.submit(orders.keep_unit).result()
        leak = reports.leak()

    assert leak.function == "orders.Orders.keep_unit"
    assert leak.evidence == {"function_exited"}


# --- dropped -----------------------------------------------------------------------------------------------


def test_dropped_is_reported_at_once(orders: Orders, instrument: Instrument) -> None:
    """From the drop of a connection to its report it takes less than 100 ms (the median of three)."""
    reports = instrument(grace=NEVER)
    delays = []
    for count in range(1, 4):
        dropped = time.time()
        orders.drop_for_helper()
        assert len(blamed(reports, count)) == count
        delays.append(reports.leaks()[-1].seconds - dropped)

    assert sorted(delays)[1] < 0.1, delays


def test_lost_slots(orders: Orders, instrument: Instrument, caplog: pytest.LogCaptureFixture) -> None:
    """Each drop takes a slot of the pool for good; repeats of one leak are counted, not logged."""
    reports = instrument(grace=NEVER)
    for count, leave in enumerate((orders.drop_unit, orders.drop_unit, orders.drop_for_helper), start=1):
        leave()
        blamed(reports, count)
    lines = [record.getMessage() for record in caplog.records if record.name == "otel_connleak"]

    assert ['pool "orders" 1/4 used' in lines[0], 'pool "orders" 3/4 used' in lines[1]] == [True, True]
    assert len(lines) == 2
    assert reports.telemetry.value("connleak.leaks.open") == 3
    assert reports.telemetry.value("connleak.leaks") == 3


def test_fingerprint(orders: Orders, instrument: Instrument) -> None:
    """Leaks of one function have one fingerprint, and each an id of its own."""
    reports = instrument(grace=NEVER)
    orders.drop_unit()
    orders.drop_unit()
    orders.drop_for_helper()
    blamed(reports, 3)
    leaks = reports.leaks()

    assert len({leak.id for leak in leaks}) == 3
    assert len({leak.attributes["connleak.fingerprint"] for leak in leaks}) == 2


# --- module state and the end of the process ---------------------------------------------------------------


@pytest.mark.usefixtures("module_state")
def test_singleton(pool: ConnectionPool[Any], reports: Reports) -> None:
    """One connection that is kept in module state for the life of the process is no leak."""
    state.warm_up(pool)

    reports.none(3 * GRACE)


@pytest.mark.usefixtures("module_state")
def test_more_than_one_singleton(pool: ConnectionPool[Any], reports: Reports) -> None:
    """A second and a third from the same call site are leaks, while the first lies idle."""
    for _ in range(3):
        state.warm_up(pool)

    assert blamed(reports, 2) == ["state.warm_up"] * 2
    reports.telemetry.clear()
    reports.none(3 * GRACE)


def test_process_exit(dsn: str) -> None:
    """At exit what nobody can release is reported; what somebody could release is listed in one line."""
    finished = run(
        APPS / "leaving.py", env=environment(DSN=dsn) | {"OTEL_PYTHON_CONNLEAK_GRACE": "60"}, instrument=False
    )
    leaks = sorted(
        line.partition(" [")[0] + line.partition("]")[2].partition("  ")[0] for line in finished.leaks
    )
    (spared,) = [line for line in finished.stderr.splitlines() if "at exit" in line]

    assert finished.returncode == 0
    assert leaks == [
        "WARNING connection leak (confirmed, dropped, function_exited): __main__.drop",
        "WARNING connection leak (possible, function_exited, process_exited): __main__.keep",
    ]
    assert spared.startswith("INFO at exit 2 still held by code that could release them, no leaks: ")
    assert "__main__.keep_for_ever (1)" in spared
    assert "__main__.serve (1)" in spared
    assert "Traceback" not in finished.stderr
