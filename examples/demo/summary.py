"""What the service exported, added up by function, and whether it says what it should."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from examples.otlp_records import LogRecord, Span

SCOPE: Final = "otel_connleak"

LEAKS: Final = {
    "shop.repositories.CustomerRepository.list_customers": "connection",
    "shop.repositories.OrderRepository.find_order": "connection",
    "shop.repositories.OrderRepository.place_order": "transaction",
    "shop.repositories.ProductRepository.search_products": "connection",
}
"""The functions of the shop that have a bug, and what they do not always give back, or commit."""


@dataclass(slots=True)
class FunctionTotals:
    """What one function did with connections and transactions; the longest hold in seconds."""

    function: str
    acquired: int = 0
    open: int = 0
    longest: float = 0.0
    transactions: int = 0
    discarded: int = 0
    leaks: int = 0

    @property
    def released(self) -> int:
        """How many connections were given back."""
        return self.acquired - self.open

    def add(self, span: Span) -> None:
        """Counts one span of ours."""
        if is_leak(span):
            self.leaks += 1
        elif resource_of(span) == "transaction":
            self.transactions += 1
            self.discarded += span.attributes.get("connleak.transaction.outcome") == "discarded"
        elif resource_of(span) == "connection":
            self.acquired += 1
            self.open += span.status == "ERROR"  # it was never released
            self.longest = max(self.longest, span.seconds)


def function_of(record: Span | LogRecord) -> str:
    """The fully qualified function that a span or an event is about."""
    return str(record.attributes.get("code.function.name", ""))


def resource_of(record: Span | LogRecord) -> str:
    """What a span or an event is about: "connection", "transaction" or "cursor"."""
    return str(record.attributes.get("connleak.resource", ""))


def is_leak(span: Span) -> bool:
    """True for the span that reports a leak; other spans of ours are those of what was held."""
    return span.scope == SCOPE and span.name.startswith("leak ")


def totals(spans: Iterable[Span]) -> list[FunctionTotals]:
    """The totals by function, in order of name."""
    found: dict[str, FunctionTotals] = {}
    for span in spans:
        if span.scope == SCOPE:
            found.setdefault(function_of(span), FunctionTotals(function_of(span))).add(span)
    return sorted(found.values(), key=lambda each: each.function)


def problems(spans: Iterable[Span], events: Iterable[LogRecord], log_lines: Iterable[str]) -> list[str]:
    """What the reports lack, and what they say too much: one sentence each, none when all is well."""
    leak_spans = {(function_of(span), resource_of(span)) for span in spans if is_leak(span)}
    leak_events = {
        (function_of(event), resource_of(event)) for event in events if event.event_name == "connleak.leak"
    }
    logged = [line.partition("\n")[0] for line in log_lines if " leak (" in line]
    found = []
    for function, resource in LEAKS.items():
        if not any(_accuses(line, function, resource) for line in logged):
            found.append(f"no log line names {function}")
        if (function, resource) not in leak_spans:
            found.append(f"no leak span names {function}")
        if (function, resource) not in leak_events:
            found.append(f"no connleak.leak event names {function}")
    found += [
        f"{function} was reported although its {resource} is in order"
        for function, resource in sorted((leak_spans | leak_events) - LEAKS.items())
    ]
    found += [
        f"this log line accuses a function that is in order: {line}"
        for line in logged
        if not any(_accuses(line, *leak) for leak in LEAKS.items())
    ]
    return found


def _accuses(line: str, function: str, resource: str) -> bool:
    return f"{resource} leak (" in line and f": {function} " in line


def leaking_trace(spans: Iterable[Span], resource: str) -> list[Span]:
    """All spans of one request that leaked a resource: the first whose leak is "possible", else the first."""
    everything = list(spans)
    leaks = [span for span in everything if is_leak(span) and resource_of(span) == resource]
    leaks.sort(key=lambda span: (span.attributes.get("connleak.certainty") != "possible", span.start_ns))
    return [span for span in everything if leaks and span.trace_id == leaks[0].trace_id]
