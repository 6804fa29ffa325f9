"""An OpenTelemetry SDK of a test's own, in this process: handed to the instrumentor, and read back."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from opentelemetry.sdk._logs import LoggerProvider, ReadableLogRecord
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, NumberDataPoint
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, Sampler

from otel_connleak import ConnLeakInstrumentor
from tests.support.waiting import wait_until


class Telemetry:
    """Private providers whose exporters keep everything in memory; no global provider is touched."""

    def __init__(self, sampler: Sampler = ALWAYS_ON) -> None:
        self._spans = InMemorySpanExporter()
        self._logs = InMemoryLogRecordExporter()  # type: ignore[no-untyped-call]
        self._reader = InMemoryMetricReader()
        self.tracer_provider = TracerProvider(sampler=sampler, shutdown_on_exit=False)
        self.tracer_provider.add_span_processor(SimpleSpanProcessor(self._spans))
        self.logger_provider = LoggerProvider(shutdown_on_exit=False)
        self.logger_provider.add_log_record_processor(SimpleLogRecordProcessor(self._logs))
        self.meter_provider = MeterProvider([self._reader], shutdown_on_exit=False)

    @contextmanager
    def instrumented(self, **settings: Any) -> Iterator[ConnLeakInstrumentor]:
        """Instrument this process with these providers for the length of a ``with`` block."""
        instrumentor = ConnLeakInstrumentor()
        instrumentor.instrument(
            tracer_provider=self.tracer_provider,
            logger_provider=self.logger_provider,
            meter_provider=self.meter_provider,
            **settings,
        )
        try:
            yield instrumentor
        finally:
            instrumentor.uninstrument()

    def spans(self, first_word: str = "") -> list[ReadableSpan]:
        """All spans that have ended, in the order of their end, or those whose name begins with a word."""
        spans = self._spans.get_finished_spans()
        return [span for span in spans if not first_word or span.name.split(" ")[0] == first_word]

    def span(self, first_word: str) -> ReadableSpan:
        """Wait for the first span whose name begins with a word.

        Raises:
            AssertionError: there was none in time.
        """
        return wait_until(lambda: self.spans(first_word), f"a {first_word!r} span")[0]

    def events(self, name: str) -> list[ReadableLogRecord]:
        """All log events of a name, in the order of their emission."""
        return [log for log in self._logs.get_finished_logs() if log.log_record.event_name == name]

    def event(self, name: str) -> ReadableLogRecord:
        """Wait for the first log event of a name.

        Raises:
            AssertionError: there was none in time.
        """
        return wait_until(lambda: self.events(name), f"an event {name}")[0]

    def points(self, metric: str) -> list[Any]:
        """All data points of a metric now; each has ``attributes`` and a value, count or sum."""
        data = self._reader.get_metrics_data()
        return [
            point
            for resource in (data.resource_metrics if data is not None else ())
            for scope in resource.scope_metrics
            for found in scope.metrics
            if found.name == metric
            for point in found.data.data_points
        ]

    def value(self, metric: str, **attributes: Any) -> float:
        """The sum of a metric's number points, of those with these attributes (``__`` stands for a dot)."""
        wanted = {name.replace("__", "."): value for name, value in attributes.items()}
        return sum(
            point.value
            for point in self.points(metric)
            if isinstance(point, NumberDataPoint) and wanted.items() <= dict(point.attributes or {}).items()
        )

    def clear(self) -> None:
        """Forget the spans and log events so far."""
        self._spans.clear()
        self._logs.clear()

    def shutdown(self) -> None:
        """Shut the providers down, as an application does at its end."""
        self.tracer_provider.shutdown()
        self.logger_provider.shutdown()
        self.meter_provider.shutdown()
