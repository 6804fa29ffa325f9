"""What the service exported, added up by function, and whether it says what it should."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from examples.otlp_records import LogRecord, Span

SCOPE: Final = "otel_connleak"

LEAKING_FUNCTIONS: Final = (
    "shop.repositories.CustomerRepository.list_customers",
    "shop.repositories.OrderRepository.find_order",
    "shop.repositories.ProductRepository.search_products",
)
"""The functions of the shop that do not always give their connection back."""


@dataclass(slots=True)
class FunctionTotals:
    """The connections of one function: acquired, still open, the longest hold in seconds."""

    function: str
    acquired: int = 0
    open: int = 0
    longest: float = 0.0
    leaks: int = 0

    @property
    def released(self) -> int:
        """How many were given back."""
        return self.acquired - self.open


def function_of(record: Span | LogRecord) -> str:
    """The fully qualified function that a span or an event is about."""
    return str(record.attributes.get("code.function.name", ""))


def is_hold(span: Span) -> bool:
    """True for the span of one held connection, from acquire to release."""
    return (
        span.scope == SCOPE
        and span.name.startswith("hold ")
        and span.attributes.get("connleak.resource") == "connection"
    )


def is_leak(span: Span) -> bool:
    """True for the span that reports a connection that was not released."""
    return (
        span.scope == SCOPE
        and span.name.startswith("leak ")
        and span.attributes.get("connleak.resource") == "connection"
    )


def totals(spans: Iterable[Span]) -> list[FunctionTotals]:
    """The totals by function, in order of name. A hold that ended in error was never released."""
    found: dict[str, FunctionTotals] = {}
    for span in spans:
        if not is_hold(span) and not is_leak(span):
            continue
        of_function = found.setdefault(function_of(span), FunctionTotals(function_of(span)))
        if is_leak(span):
            of_function.leaks += 1
        else:
            of_function.acquired += 1
            of_function.open += span.status == "ERROR"
            of_function.longest = max(of_function.longest, span.seconds)
    return sorted(found.values(), key=lambda each: each.function)


def problems(spans: Iterable[Span], events: Iterable[LogRecord], log_lines: Iterable[str]) -> list[str]:
    """What the reports lack, and what they say too much: one sentence each, none when all is well."""
    leak_spans = {function_of(span) for span in spans if is_leak(span)}
    leak_events = {function_of(event) for event in events if event.event_name == "connleak.leak"}
    logged = [line.partition("\n")[0] for line in log_lines if "connection leak" in line]
    found = []
    for function in LEAKING_FUNCTIONS:
        if not any(f": {function} " in line for line in logged):
            found.append(f"no log line names {function}")
        if function not in leak_spans:
            found.append(f"no leak span names {function}")
        if function not in leak_events:
            found.append(f"no connleak.leak event names {function}")
    found += [
        f"{function} was reported although it gives its connection back"
        for function in sorted((leak_spans | leak_events) - set(LEAKING_FUNCTIONS))
    ]
    found += [
        f"this log line accuses a function that gives its connection back: {line}"
        for line in logged
        if not any(f": {function} " in line for function in LEAKING_FUNCTIONS)
    ]
    return found


def leaking_trace(spans: Iterable[Span]) -> list[Span]:
    """All spans of one request that leaked: the first whose leak is "possible", else the first."""
    everything = list(spans)
    leaks = sorted(filter(is_leak, everything), key=lambda span: span.start_ns)
    leaks.sort(key=lambda span: span.attributes.get("connleak.certainty") != "possible")
    if not leaks:
        return []
    return [span for span in everything if span.trace_id == leaks[0].trace_id]
