"""What an OTLP request says, as small frozen dataclasses: spans, log records and metric points.

Only the parts that a person or a test looks at. Identifiers are lowercase hex, empty when absent; times are
nanoseconds since the epoch, 0 when absent.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.metrics.v1.metrics_pb2 import (
    ExponentialHistogramDataPoint,
    HistogramDataPoint,
    Metric,
    NumberDataPoint,
)
from opentelemetry.proto.trace.v1 import trace_pb2

type Value = str | bool | int | float | bytes | tuple["Value", ...] | dict[str, "Value"] | None
type Attributes = Mapping[str, Value]


@dataclass(frozen=True, slots=True)
class Link:
    """A span that another span points to."""

    trace_id: str
    span_id: str
    attributes: Attributes


@dataclass(frozen=True, slots=True)
class SpanEvent:
    """Something that happened during a span, such as an exception."""

    name: str
    time_ns: int
    attributes: Attributes


@dataclass(frozen=True, slots=True)
class Span:
    """A finished span. `kind` is "INTERNAL", "SERVER", ...; `status` is "UNSET", "OK" or "ERROR"."""

    name: str
    trace_id: str
    span_id: str
    parent_span_id: str
    kind: str
    start_ns: int
    end_ns: int
    status: str
    status_message: str
    attributes: Attributes
    links: tuple[Link, ...]
    events: tuple[SpanEvent, ...]
    resource: Attributes
    scope: str

    @property
    def seconds(self) -> float:
        """From start to end, in seconds."""
        return (self.end_ns - self.start_ns) / 1e9


@dataclass(frozen=True, slots=True)
class LogRecord:
    """A log record; with an `event_name` it is an event. `severity` is the text, or the number as text."""

    event_name: str
    body: Value
    severity: str
    time_ns: int
    trace_id: str
    span_id: str
    attributes: Attributes
    resource: Attributes
    scope: str


@dataclass(frozen=True, slots=True)
class MetricPoint:
    """One value of one time series. `type` is "gauge", "sum", "histogram" or "exponential_histogram".

    For a histogram `value` is the sum and `count` the number of measurements; for others `count` is 0.
    """

    name: str
    unit: str
    type: str
    monotonic: bool
    value: float
    count: int
    time_ns: int
    attributes: Attributes
    resource: Attributes
    scope: str


def decode_spans(body: bytes) -> list[Span]:
    """The spans of a request to /v1/traces. Raises DecodeError when it is not one."""
    request = ExportTraceServiceRequest.FromString(body)
    return [
        _span(span, _attributes(group.resource.attributes), scoped.scope.name)
        for group in request.resource_spans
        for scoped in group.scope_spans
        for span in scoped.spans
    ]


def _span(span: trace_pb2.Span, resource: Attributes, scope: str) -> Span:
    return Span(
        name=span.name,
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_span_id=span.parent_span_id.hex(),
        kind=trace_pb2.Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
        start_ns=span.start_time_unix_nano,
        end_ns=span.end_time_unix_nano,
        status=trace_pb2.Status.StatusCode.Name(span.status.code).removeprefix("STATUS_CODE_"),
        status_message=span.status.message,
        attributes=_attributes(span.attributes),
        links=tuple(
            Link(link.trace_id.hex(), link.span_id.hex(), _attributes(link.attributes)) for link in span.links
        ),
        events=tuple(
            SpanEvent(event.name, event.time_unix_nano, _attributes(event.attributes))
            for event in span.events
        ),
        resource=resource,
        scope=scope,
    )


def decode_logs(body: bytes) -> list[LogRecord]:
    """The records of a request to /v1/logs. Raises DecodeError when it is not one."""
    request = ExportLogsServiceRequest.FromString(body)
    return [
        LogRecord(
            event_name=record.event_name,
            body=_value(record.body),
            severity=record.severity_text or str(record.severity_number),
            time_ns=record.time_unix_nano or record.observed_time_unix_nano,
            trace_id=record.trace_id.hex(),
            span_id=record.span_id.hex(),
            attributes=_attributes(record.attributes),
            resource=_attributes(group.resource.attributes),
            scope=scoped.scope.name,
        )
        for group in request.resource_logs
        for scoped in group.scope_logs
        for record in scoped.log_records
    ]


def decode_metrics(body: bytes) -> list[MetricPoint]:
    """The points of a request to /v1/metrics. Raises DecodeError when it is not one."""
    request = ExportMetricsServiceRequest.FromString(body)
    return [
        point
        for group in request.resource_metrics
        for scoped in group.scope_metrics
        for metric in scoped.metrics
        for point in _points(metric, _attributes(group.resource.attributes), scoped.scope.name)
    ]


def _points(metric: Metric, resource: Attributes, scope: str) -> Iterator[MetricPoint]:
    points: Iterable[NumberDataPoint | HistogramDataPoint | ExponentialHistogramDataPoint]
    monotonic = False
    match metric.WhichOneof("data"):
        case "gauge":
            type_, points = "gauge", metric.gauge.data_points
        case "sum":
            type_, points, monotonic = "sum", metric.sum.data_points, metric.sum.is_monotonic
        case "histogram":
            type_, points = "histogram", metric.histogram.data_points
        case "exponential_histogram":
            type_, points = "exponential_histogram", metric.exponential_histogram.data_points
        case _:
            return
    for point in points:
        value, count = _figures(point)
        yield MetricPoint(
            name=metric.name,
            unit=metric.unit,
            type=type_,
            monotonic=monotonic,
            value=value,
            count=count,
            time_ns=point.time_unix_nano,
            attributes=_attributes(point.attributes),
            resource=resource,
            scope=scope,
        )


def _figures(
    point: NumberDataPoint | HistogramDataPoint | ExponentialHistogramDataPoint,
) -> tuple[float, int]:
    """Value and count of a point."""
    if isinstance(point, NumberDataPoint):
        return (point.as_int if point.WhichOneof("value") == "as_int" else point.as_double), 0
    return point.sum, point.count


def _attributes(pairs: Iterable[KeyValue]) -> dict[str, Value]:
    return {pair.key: _value(pair.value) for pair in pairs}


def _value(value: AnyValue) -> Value:
    match value.WhichOneof("value"):
        case None:
            return None
        case "array_value":
            return tuple(_value(item) for item in value.array_value.values)
        case "kvlist_value":
            return _attributes(value.kvlist_value.values)
        case field:
            plain: Value = getattr(value, field)
            return plain
