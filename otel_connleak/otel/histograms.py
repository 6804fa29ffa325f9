"""Histograms of all holds by function: what a release leaves behind is recorded when it is collected (L3).

To record into a histogram of the SDK costs two thirds of a span, each time; a release must not. So it appends
two figures to a buffer, for a fiftieth of a span. Whoever collects the metrics records them first, in the
exporter's thread: they are in that collection already. When there are many, the watchdog's thread does so.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Final, NamedTuple

from opentelemetry.metrics import CallbackOptions, Histogram, Meter, NoOpHistogram, Observation

from otel_connleak import names
from otel_connleak.guard import failed
from otel_connleak.hold import Hold
from otel_connleak.native import Lock
from otel_connleak.totals import OTHER_FUNCTIONS, FunctionTotals

CAPACITY: Final = 1_000
"""Holds with which the watchdog empties the buffer: few enough to take other threads no more than 7 ms."""
MOST: Final = 100_000
"""Holds that are buffered at the most. The watchdog empties it long before; should it be stuck, the oldest
are lost, and not the memory."""
_LONGEST_WAIT: Final = 1.0
"""Seconds for which a fork, or another collection, waits until what is being recorded has been."""
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
        self.clear()

    def clear(self) -> None:
        """Begin anew, also in a forked child: what the parent's holds left behind is the parent's to tell."""
        self._buffer: deque[Ended] = deque(maxlen=MOST)
        self._append = self._buffer.append
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

    def ended(self, hold: Hold) -> None:
        """A hold was released or lost. Hot, and also in finalizers: it takes no lock."""
        if not self.active or (self._proxy is not None and self._proxy._real_instrument is None):
            return  # nobody has set up an SDK (yet): nobody would ever collect
        self._append((hold.totals, hold.released - hold.acquired - hold.busy))
        if len(self._buffer) > CAPACITY and not self._asked:
            self._asked = True
            self._put(Full(self))

    def full(self, _message: Full) -> None:
        """Empty the buffer; in the watchdog's thread."""
        self._asked = False
        self.record()

    def record(self) -> None:
        """Record what has come in so far. Any thread, but none that released something: it takes locks."""
        lock = _recording
        if not lock.acquire(timeout=_LONGEST_WAIT):
            return  # another thread records, and is stuck
        try:
            buffer, record = self._buffer, self._idle_time.record
            for _ in range(len(buffer)):  # what comes in meanwhile is for the next time
                totals, idle = buffer.popleft()
                record(max(0.0, idle), self._attributes_of(totals))
        finally:
            lock.release()

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


_recording: Any = Lock()
"""Held while something is recorded. A fork waits for it: else the child may inherit a lock of the SDK that is
locked, and wait for it for ever when it collects."""


def _before_fork() -> None:
    global _fork_waited
    # Not for ever: whoever records may itself wait for a lock that the thread has which forks.
    _fork_waited = _recording.acquire(timeout=_LONGEST_WAIT)


def _after_fork() -> None:
    if _fork_waited:
        _recording.release()


def _after_fork_in_child() -> None:
    global _recording
    _recording = Lock()


_fork_waited = False
os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork_in_child)

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
