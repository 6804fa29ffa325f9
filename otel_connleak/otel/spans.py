"""A span for each hold, from acquire to release (L3).

The span is never left current in the application's context: a leaked one would swallow every later span.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

from opentelemetry import trace
from opentelemetry.attributes import BoundedAttributes
from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanContext, Status, StatusCode, Tracer

from otel_connleak import names
from otel_connleak.claim import Leak
from otel_connleak.config import Settings
from otel_connleak.connection import Kind
from otel_connleak.hold import Ending, Hold, Outcome
from otel_connleak.nested import TransactionHold
from otel_connleak.otel.attributes import of_connection, of_leak, of_site
from otel_connleak.otel.belonging import is_part_of

_ROOMY: Final = 64
"""Attributes that a span must have room for: far more than a hold has itself."""
_CONNECTION: Final = Kind.CONNECTION
_SAMPLED: Final = trace.TraceFlags.SAMPLED
_OPEN: Final = Ending.OPEN.value
_LOST: Final = Status(StatusCode.ERROR, "never released: the connection object is gone")


class HoldSpans:
    """Listener of the registry: a span opens on acquire and ends on release.

    Args:
        tracer: the tracer of the provider in use.
        settings: ``spans`` decides whether all holds, slow ones or none get a span.
        clock: that of the registry, in monotonic seconds.
    """

    def __init__(
        self, tracer: Tracer, settings: Settings, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._tracer = tracer
        self._clock = clock
        self._proxy = _proxy_of(tracer)
        self._mode = "none" if _never_samples(tracer) else settings.spans
        self._slow_after = settings.slow_after
        self._shortcut = self._mode != "all" or _follows_parent(tracer)

    def acquired(self, hold: Hold) -> None:
        """A hold was opened."""
        if self._proxy is not None and self._proxy._real_tracer is None and trace._TRACER_PROVIDER is None:
            return  # nobody has set up an SDK (yet): there are no spans and no traces
        if hold.within is not None:
            self._acquired_within(hold, hold.within.span)
            return
        if self._shortcut:
            context = trace.get_current_span().get_span_context()
            if self._mode != "all" or (context.trace_id and not context.trace_flags & _SAMPLED):
                # No span, or not yet: what is kept in its place is the context of the acquire.
                hold.trace = context.trace_id
                hold.span = context
                return
        # All attributes are set in one call at the end: at the start they would cost a second round through
        # the SDK's checks (a sixth of a span), and ownership may still move.
        span = hold.span = self._tracer.start_span(_name(hold))
        hold.trace = span.get_span_context().trace_id

    def _acquired_within(self, hold: Hold, outer: Any) -> None:
        """A transaction or a cursor was opened: its span is in the connection's, if it is a part of that."""
        within: Any = hold.within
        if hold.kind is Kind.CURSOR and within.inner is not None:
            outer = within.inner.span or outer
        parent = trace.get_current_span().get_span_context()
        links = None
        if outer is not None:
            context = outer if isinstance(outer, SpanContext) else outer.get_span_context()
            if is_part_of(within, parent.trace_id):
                parent = context
            elif context.is_valid:
                links = [trace.Link(context)]
        if self._shortcut and (
            self._mode != "all" or (parent.trace_id and not parent.trace_flags & _SAMPLED)
        ):
            hold.trace, hold.span = parent.trace_id, parent
            return
        span = hold.span = self._tracer.start_span(
            _name(hold),
            context=trace.set_span_in_context(trace.NonRecordingSpan(parent)),
            links=links,
            start_time=time.time_ns() - _nanoseconds(self._clock() - hold.acquired),
        )
        hold.trace = span.get_span_context().trace_id

    def released(self, hold: Hold) -> None:
        """A hold was released, or lost: then its span ends too, so that its children have a parent."""
        span = hold.span
        if isinstance(span, SpanContext):
            if self._mode == "slow" and hold.released - hold.acquired >= self._slow_after:
                self._end(self._start_late(hold, span), hold)
        elif span is not None and span.is_recording():
            # Else it has nothing to end: it was not sampled, or ended at a shutdown, and must not end twice.
            self._end(span, hold)

    def moved(self, hold: Hold) -> None:
        """Ownership moved to a caller: the span carries its name from now on."""
        span = hold.span
        if isinstance(span, Span) and span.is_recording():
            span.update_name(_name(hold))

    def end_at_exit(self, holds: list[Hold], now: float) -> None:
        """The process ends: end the spans of what is still held, so that no trace lacks its parents."""
        for hold in holds:
            span = hold.span
            if isinstance(span, Span) and span.is_recording():
                if hold.leak is not None:
                    span.set_status(Status(StatusCode.ERROR, "never released: the process has ended"))
                _describe(span, hold, now)
                span.end()

    def _end(self, span: Span, hold: Hold) -> None:
        if hold.outcome is Outcome.LOST:
            span.set_status(_LOST)
        elif hold.leak is not None:
            span.set_attribute(names.HOLD_LEAK_ID, hold.leak.id)
        _describe(span, hold, hold.released)
        span.end()

    def _start_late(self, hold: Hold, parent: SpanContext) -> Span:
        context = trace.set_span_in_context(trace.NonRecordingSpan(parent))
        return self._tracer.start_span(
            _name(hold),
            context=context,
            start_time=time.time_ns() - _nanoseconds(hold.released - hold.acquired),
        )


class LeakSpans:
    """Reports each leak as a finished span, from acquire to detection, in its trace, linked to the hold.

    It has a new span id, never the hold's own: Jaeger and Tempo mishandle duplicates.
    """

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer

    def leak(self, leak: Leak) -> None:
        """Export a leak; nothing happens where its trace is not sampled."""
        span = leak.hold.span
        end = time.time_ns()
        # The hold span knows when it began; counted back from now it would be off by the time of the report.
        start = getattr(span, "start_time", None) or end - _nanoseconds(leak.use_time)
        links = []
        parent = None
        if isinstance(span, SpanContext):
            parent = span
        elif span is not None:
            hold_context = span.get_span_context()
            links = [trace.Link(hold_context)]
            # A hold without a parent is the root of its trace: only as its child can the leak be in that
            # trace.
            parent = getattr(span, "parent", None) or hold_context
        context = trace.set_span_in_context(trace.NonRecordingSpan(parent or trace.INVALID_SPAN_CONTEXT))
        report = self._tracer.start_span(
            f"{names.LEAK_SPAN} {leak.short}",
            context=context,
            attributes=of_leak(leak),
            links=links,
            start_time=start,
        )
        report.set_status(Status(StatusCode.ERROR, f"{leak.certainty} leak: {', '.join(leak.evidence)}"))
        report.end(end)


def _name(hold: Hold) -> str:
    site = hold.site
    if hold.tracked.kind is not _CONNECTION:
        return f"{hold.kind} {site.short}"
    name = site.span_name
    if not name:
        name = site.span_name = f"{names.HOLD_SPAN} {site.short}"
    return name


def _describe(span: Span, hold: Hold, now: float) -> None:
    """Set what is known of a hold when it ends."""
    store = getattr(span, "_attributes", None)
    if (
        type(store) is BoundedAttributes
        and store.max_value_len is None
        and (store.maxlen is None or store.maxlen >= _ROOMY)
        and type(getattr(store, "_dict", None)) is dict
    ):
        # Straight into the SDK's own dictionary. `set_attributes` would check and copy each of the fourteen,
        # which costs 0.4 of a bare span on every hold; all are plain strings and numbers; no limit is set.
        _fill(store._dict, hold, now)
    else:
        attributes: dict[str, Any] = {}
        _fill(attributes, hold, now)
        span.set_attributes(attributes)


def _fill(attributes: dict[str, Any], hold: Hold, now: float) -> None:
    site, tracked = hold.site, hold.tracked
    if site.attributes is None:
        site.attributes = of_site(site)
    if tracked.attributes is None:
        pool = hold.pool
        tracked.attributes = of_connection(tracked.facts, None if pool is None else pool.name)
        tracked.attributes[names.RESOURCE] = hold.kind.value
    attributes |= site.attributes
    attributes |= tracked.attributes
    attributes[names.THREAD_NAME] = hold.thread.name
    attributes[names.USE_TIME] = use = now - hold.acquired
    # `Hold.idle_time` without the calls: this is on every release, after which no driver call runs.
    attributes[names.IDLE_TIME] = max(0.0, use - hold.busy) if hold.released else hold.idle_time(now)
    attributes[names.STATEMENTS] = hold.calls
    if hold.within is not None:
        _fill_within(attributes, hold)
    else:
        # Read from the member's dictionary: its property costs a call more.
        attributes[names.TRANSACTION_OUTCOME] = hold.ending._value_ if hold.inner is None else _OPEN
    if hold.task is not None and (task := hold.task_name) is not None:
        attributes[names.TASK_NAME] = task


def _fill_within(attributes: dict[str, Any], hold: Hold) -> None:
    if isinstance(hold, TransactionHold):
        attributes[names.TRANSACTION_OUTCOME] = _OPEN if hold.is_open else hold.ending.value
        attributes[names.TRANSACTION_WRITES] = hold.writes


def _never_samples(tracer: Tracer) -> bool:
    """Whether the provider was told ``always_off``: then no span needs to be started."""
    sampler = getattr(tracer, "sampler", None)
    if sampler is None:
        return False
    from opentelemetry.sdk.trace.sampling import ALWAYS_OFF  # a tracer with a sampler is the SDK's

    return sampler is ALWAYS_OFF


def _follows_parent(tracer: Tracer) -> bool:
    """Whether a child of an unsampled span is never sampled: then no such child needs to be started.

    Known only of the SDK's own `ParentBased` samplers, among them the default; these are asked.
    """
    sampler = getattr(tracer, "sampler", None)
    if sampler is None:
        return False
    from opentelemetry.sdk.trace.sampling import Decision, ParentBased  # a tracer with a sampler is the SDK's

    if not isinstance(sampler, ParentBased):
        return False
    for is_remote in (False, True):
        parent = trace.NonRecordingSpan(SpanContext(1, 1, is_remote))
        context = trace.set_span_in_context(parent, Context())
        if sampler.should_sample(context, 1, names.HOLD_SPAN).decision is not Decision.DROP:
            return False
    return True


def _proxy_of(tracer: Tracer) -> Any:
    """The tracer, if it is one that stands for a provider that may be set later, else None.

    Its two private names save the cost of a span that nobody will see, in a process without an SDK. Without
    them it is treated like any other tracer.
    """
    known = isinstance(tracer, trace.ProxyTracer) and hasattr(tracer, "_real_tracer")
    return tracer if known and hasattr(trace, "_TRACER_PROVIDER") else None


def _nanoseconds(seconds: float) -> int:
    return int(seconds * 1_000_000_000)
