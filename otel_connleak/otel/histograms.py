"""Histograms of all holds by function: what a release leaves behind is recorded when it is collected (L3).

To record into a histogram of the SDK takes two thirds of a span, each time; a release must not. So it appends
a few figures to a buffer, and whoever collects the metrics records them first, in the exporter's thread: they
are in that collection already. If nobody collects for long, the watchdog's thread empties the buffer.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Final, NamedTuple

from opentelemetry.metrics import CallbackOptions, Histogram, Meter, NoOpHistogram, Observation

from otel_connleak import names
from otel_connleak.guard import failed
from otel_connleak.hold import Hold
from otel_connleak.listeners import Told
from otel_connleak.totals import OTHER_FUNCTIONS, FunctionTotals

CAPACITY: Final = 10_000
"""Holds in the buffer with which the watchdog empties it."""
_MOST_FUNCTIONS: Final = 1_000
"""Functions with histograms of their own; the rest shares one: each costs the application's memory, too."""
_BOUNDARIES: Final = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 60.0, 300.0)
"""Seconds: those of the semantic conventions for ``use_time``, and two more for what was forgotten."""
_BEFORE_COLLECTION: Final = "connleak.histograms"
"""An instrument that never has a value, and so is never exported: the SDK calls it before it collects."""

type Ended = tuple[FunctionTotals, float]
"""What a hold leaves behind: where it counts, and its idle time in seconds."""


class Full(NamedTuple):
    """A message for the watchdog: the buffer is to be emptied, because nobody collects."""

    histograms: Histograms


class Histograms:
    """Is told of each hold that has ended, of every kind; records ``connleak.hold.idle_time``.

    Args:
        meter: the meter of the provider in use.
        put: takes a message for the watchdog, whose handler must be `full`.
    """

    def __init__(self, meter: Meter, put: Callable[[object], None]) -> None:
        self._put = put
        self._idle_time = meter.create_histogram(
            names.IDLE_TIME_METRIC,
            unit="s",
            description="Time that a hold was held and no driver call ran.",
            explicit_bucket_boundaries_advisory=_BOUNDARIES,
        )
        meter.create_observable_gauge(_BEFORE_COLLECTION, [_before_collection])
        self._proxy = _proxy_of(self._idle_time)
        self.active = not isinstance(self._idle_time, NoOpHistogram)
        # The watchdog empties it long before. Should it be stuck, the oldest are lost, and not the memory.
        self._buffer: deque[Ended] = deque(maxlen=10 * CAPACITY)
        self.ended = self._make_ended()
        self.clear()

    def clear(self) -> None:
        """Begin anew, also in a forked child: what the parent's holds left behind is the parent's to tell."""
        self._buffer.clear()
        self._asked = False
        self._attributes: dict[FunctionTotals, dict[str, str]] = {}
        self._functions: set[str] = set()

    def start(self) -> None:
        """From now on collections record what is here."""
        global _running
        _running = self

    def stop(self) -> None:
        """Record what is here, and no more."""
        global _running
        if _running is self:
            _running = None
        self.active = False
        self.record()

    def _make_ended(self) -> Told:
        """What is told of each hold that was released or lost.

        Hot, and so a function whose variables are at hand; also called in finalizers, and so without a lock.
        """
        buffer, proxy, capacity = self._buffer, self._proxy, CAPACITY
        append = buffer.append

        def ended(hold: Hold) -> None:
            if not self.active or (proxy is not None and proxy._real_instrument is None):
                return  # nobody has set up an SDK (yet): nobody would ever collect
            totals = hold.site.totals.get(hold.tracked.account)
            if totals is not None:
                append((totals, hold.released - hold.acquired - hold.busy))
                if len(buffer) > capacity and not self._asked:
                    self._asked = True
                    self._put(Full(self))

        return ended

    def full(self, _message: Full) -> None:
        """Empty the buffer; in the watchdog's thread."""
        self._asked = False
        self.record()

    def record(self) -> None:
        """Record what has come in so far. Any thread, but none that released something: it takes locks."""
        buffer, record = self._buffer, self._idle_time.record
        for _ in range(len(buffer)):  # what comes in meanwhile is for the next time
            try:
                totals, idle = buffer.popleft()
            except IndexError:
                return  # another thread records, too
            record(max(0.0, idle), self._attributes_of(totals))

    def _attributes_of(self, totals: FunctionTotals) -> dict[str, str]:
        attributes = self._attributes.get(totals)
        if attributes is None:
            function = totals.function
            if len(self._functions) >= _MOST_FUNCTIONS and function not in self._functions:
                function = OTHER_FUNCTIONS
            self._functions.add(function)
            attributes = {names.CODE_FUNCTION_NAME: function, names.RESOURCE: str(totals.kind)}
            if totals.pool is not None:
                attributes[names.POOL_NAME] = totals.pool
            self._attributes[totals] = attributes
        return attributes


_running: Histograms | None = None
"""The one that runs. An instrument keeps the callback with which it was made first, for ever."""


def _before_collection(_options: CallbackOptions) -> Iterable[Observation]:
    running = _running
    if running is not None:
        try:
            running.record()
        except Exception:
            failed("histograms")
    return ()


def _proxy_of(histogram: Histogram) -> Any:
    """The histogram, if it is one that stands for a provider that may be set later, else None.

    Its private name saves a buffer that nobody would ever read, in a process without an SDK. Without it the
    histogram is treated like any other.
    """
    return histogram if hasattr(histogram, "_real_instrument") else None
