"""One process of the benchmark: what acquire and release cost; prints its figures as JSON.

Its arguments are the configuration (``recorded``, ``unsampled`` or ``no_sdk``) and a connection string.
"""

import asyncio
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

from opentelemetry import _logs, metrics, trace
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, ParentBased, Sampler
from psycopg_pool import AsyncConnectionPool, ConnectionPool

from bench import application
from bench.timing import Work, added, added_undisturbed, repeat, repeat_async, time_in_turn
from otel_connleak import ConnLeakInstrumentor
from otel_connleak.instrumentor import engine

ATTRIBUTES: dict[str, str | int | float] = {
    "code.function.name": "bench.application.getconn_and_putconn",
    "db.namespace": "postgres",
    "server.address": "localhost",
    "server.port": 5432,
    "connleak.use_time": 0.25,
}
SAMPLERS: dict[str, Sampler] = {"recorded": ALWAYS_ON, "unsampled": ALWAYS_OFF}
"""The sampler of root spans in each configuration that has an SDK."""


class ThrowAway(SpanExporter):
    """An exporter that costs nothing."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Say that all was well."""
        return SpanExportResult.SUCCESS


def make_tracer_provider(sampler: Sampler) -> tuple[TracerProvider, BatchSpanProcessor]:
    """A provider with a batch processor that wakes only when it is flushed: its thread disturbs no round."""
    provider = TracerProvider(sampler=sampler, shutdown_on_exit=False)
    size = 1 << 16
    batch = BatchSpanProcessor(
        ThrowAway(), max_queue_size=size, max_export_batch_size=size, schedule_delay_millis=3_600_000
    )
    provider.add_span_processor(batch)
    return provider, batch


def configure(configuration: str) -> Callable[[], object]:
    """Set the global providers of a configuration; returns what empties their queue.

    Only the queue: the provider's own flush would also wake the watchdog's thread before each round, which a
    service does not do.
    """
    if configuration == "no_sdk":
        return lambda: None
    provider, batch = make_tracer_provider(ParentBased(SAMPLERS[configuration]))
    trace.set_tracer_provider(provider)
    metrics.set_meter_provider(MeterProvider([InMemoryMetricReader()], shutdown_on_exit=False))
    _logs.set_logger_provider(LoggerProvider(shutdown_on_exit=False))
    return batch.force_flush


@contextmanager
def instrumented() -> Iterator[None]:
    """Switch the instrumentation on, all of it, as the launcher does.

    Raises:
        RuntimeError: it could not start, which an application does not notice: its cost would be nothing.
    """
    ConnLeakInstrumentor().instrument()
    try:
        if engine() is None:
            raise RuntimeError("the instrumentation has not started")
        yield
    finally:
        ConnLeakInstrumentor().uninstrument()


def request() -> AbstractContextManager[object]:
    """The root span of a request that is going on: every acquire of a service happens in one."""
    return trace.get_tracer("bench").start_as_current_span("GET /customers")


def in_request(work: Work) -> Work:
    """Work that is done inside of one request."""

    def cycles(count: int) -> float:
        with request():
            return work(count)

    return cycles


def compare(
    configuration: str, cycles: dict[str, Work], *, undisturbed: bool = False
) -> dict[str, dict[str, float]]:
    """Time work without and with the instrumentation in one configuration, and a bare recorded span.

    Args:
        configuration: of OpenTelemetry.
        cycles: the work, by name.
        undisturbed: whether the figures are those of undisturbed rounds; else they are medians.

    Returns:
        ``ratios`` (what a cycle costs more than without the instrumentation, in bare recorded spans),
        ``added`` (the same in microseconds) and ``microseconds`` of each cycle, all by name.
    """
    flush = configure(configuration)
    bare, bare_batch = make_tracer_provider(
        ALWAYS_ON
    )  # One of its own: none of our processors slows the bare span down.
    tracer = bare.get_tracer("bench")

    def bare_span() -> None:
        tracer.start_span("hold", attributes=ATTRIBUTES).end()

    def between() -> None:
        flush()
        bare_batch.force_flush()

    try:
        series = time_in_turn(
            {name: in_request(work) for name, work in cycles.items()}
            | {"bare span": in_request(repeat(bare_span))},
            {f"{name} instrumented": in_request(work) for name, work in cycles.items()},
            instrumented,
            between,
        )
    finally:
        bare.shutdown()
    compared = {
        name: (added_undisturbed if undisturbed else added)(series, f"{name} instrumented", name, "bare span")
        for name in cycles
    }
    return {
        "ratios": {name: more.ratio for name, more in compared.items()},
        "added": {name: more.seconds * 1e6 for name, more in compared.items()},
        "microseconds": {
            name: (times.undisturbed if undisturbed else times.typical) * 1e6
            for name, times in series.items()
        },
    }


def measure(configuration: str, dsn: str) -> dict[str, dict[str, float]]:
    """Time the cycles of acquire and release in one configuration."""
    loop = asyncio.new_event_loop()
    pool = ConnectionPool(dsn, min_size=2, max_size=2, name="bench", open=True)
    async_pool = AsyncConnectionPool(dsn, min_size=2, max_size=2, name="bench-async", open=False)
    try:
        pool.wait()
        loop.run_until_complete(async_pool.open(wait=True))
        figures = compare(
            configuration,
            {
                "getconn/putconn": repeat(lambda: application.getconn_and_putconn(pool)),
                "connection()": repeat(lambda: application.with_connection(pool)),
                "async getconn/putconn": repeat_async(
                    loop, lambda: application.async_getconn_and_putconn(async_pool)
                ),
                "async connection()": repeat_async(
                    loop, lambda: application.async_with_connection(async_pool)
                ),
            },
        )
        loop.run_until_complete(async_pool.close())
    finally:
        pool.close()
        loop.close()
    return figures


if __name__ == "__main__":
    json.dump(measure(sys.argv[1], sys.argv[2]), sys.stdout)
