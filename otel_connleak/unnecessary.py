"""Holds that were released properly and had sat idle for long: held unnecessarily (L2).

No leak, and off unless the setting ``IDLE_AFTER`` is on. The usual reason is slow work between acquire and
release that needs no connection, such as an HTTP call inside of the transaction.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from otel_connleak.claim import Leak
from otel_connleak.connection import Kind, Transaction
from otel_connleak.describe import Describe
from otel_connleak.evidence.overdue import calls_are_seen
from otel_connleak.guard import failed
from otel_connleak.hold import Certainty, Hold, Outcome
from otel_connleak.listeners import Listener, Told
from otel_connleak.names import INSTRUMENTATION
from otel_connleak.native import RLock
from otel_connleak.report import closing, duration, short_path, surroundings, worth_a_line

_logger = logging.getLogger(INSTRUMENTATION)

_WHY: Final = "idle"
"""What stands in the fingerprint where a leak has its evidence."""
_WORTH_NAMING: Final = 0.1
"""Share of the idle time that a call must have taken to be named as what was done meanwhile."""
_SLOW_WORK: Final = "do slow work such as an HTTP call before"
_HINTS: Final = {
    Kind.CONNECTION: f"{_SLOW_WORK} the connection is acquired or after it is released",
    Kind.TRANSACTION: f"{_SLOW_WORK} the transaction begins or after it has ended",
}


class Call(NamedTuple):
    """A call to another service: its name, and how many seconds it took."""

    name: str
    seconds: float


class Released(NamedTuple):
    """A message for the watchdog: a hold has been released that sat idle for long."""

    hold: Hold
    span: Any
    call: Call | None


@dataclass(frozen=True, slots=True)
class Idle:
    """A hold that was released and had sat idle for long.

    Attributes:
        report: what a reader needs, without evidence; ``occurrence`` counts the repeats of its fingerprint.
        span: the hold's span, opaque here, or None. The hold itself no longer has it.
        call: the longest call to another service in its trace meanwhile, or None where none was seen.
        in_transaction: how long a transaction of it was open, in seconds, or None where none sat idle.
    """

    report: Leak
    span: Any
    call: Call | None
    in_transaction: float | None

    @property
    def title(self) -> str:
        """What is reported, in two or three words."""
        held = "held" if self.report.kind is Kind.CONNECTION else "transaction held open"
        return f"{held} unnecessarily"


type OnIdle = Callable[[Idle], None]


class Unnecessary:
    """Listener of the registry; reports in the watchdog's thread.

    Args:
        after: seconds, or None: then nothing is reported.
        clock: monotonic seconds.
        put: takes a message for the watchdog, whose handler must be `judge`.

    Attributes:
        listeners: who is to be told of holds.
        on_call: is to be told of calls to other services: trace id, seconds, what gives its name. Or None.
    """

    def __init__(
        self, after: float | None, clock: Callable[[], float], put: Callable[[object], None]
    ) -> None:
        self._after = after if after is not None else float("inf")
        self._clock = clock
        self._put = put
        self.listeners: tuple[Listener, ...] = () if after is None else (self,)
        self.on_call = None if after is None else self._call_ended
        self._on_idle: tuple[OnIdle, ...] = ()
        self.clear()

    def clear(self) -> None:
        """Begin anew; also after a fork, when the lock may have been held by a thread that is not here."""
        self._lock = RLock()
        self._open: dict[int, dict[int, Hold]] = {}
        self._calls: dict[int, Call] = {}
        self._in_transaction: weakref.WeakKeyDictionary[Hold, float] = weakref.WeakKeyDictionary()
        self._spared: weakref.WeakSet[Hold] = weakref.WeakSet()

    def report(self, describe: Describe, on_idle: Iterable[OnIdle]) -> None:
        """Set who describes a hold, and who is told of it."""
        self._describe = describe
        self._on_idle = tuple(on_idle)

    # --- in the application's threads ----------------------------------------------------------------------

    def acquired(self, hold: Hold) -> None:
        """A hold was opened: calls in its trace may be what it waits for."""
        if hold.trace:
            with self._lock:
                self._open.setdefault(hold.trace, {})[hold.number] = hold

    def released(self, hold: Hold) -> None:
        """A hold was released or lost."""
        call = self._forget(hold)
        within = hold.within
        if within is not None and hold.leak is not None:
            self._spare(within)
        if hold.outcome is not Outcome.RELEASED or hold.idle_time(hold.released) <= self._after:
            return
        with self._lock:
            if within is not None and hold.kind is Kind.TRANSACTION:
                # Its connection has sat idle for as long: that is where it is reported, as one fact.
                self._in_transaction[within] = hold.use_time(hold.released)
            is_news = hold.leak is None and hold not in self._spared and not hold.site.ignored
        if is_news and _is_missed(hold) and calls_are_seen(within or hold):
            self._put(Released(hold, hold.span, call))

    def sparing(self, idle_again: Told) -> Told:
        """What takes a hold that may lie idle, a connection that a module keeps, and tells ``idle_again``."""

        def may_lie_idle(hold: Hold) -> None:
            self._spare(hold)
            idle_again(hold)

        return may_lie_idle

    def _spare(self, hold: Hold) -> None:
        with self._lock:
            self._spared.add(hold)

    def _forget(self, hold: Hold) -> Call | None:
        if not hold.trace:
            return None
        with self._lock:
            others = self._open.get(hold.trace)
            if others is not None:
                others.pop(hold.number, None)
                if not others:
                    del self._open[hold.trace]
            return self._calls.pop(hold.number, None)

    def _call_ended(self, trace: int, seconds: float, name: Callable[[], str]) -> None:
        """A call to another service has just ended in this trace. Any thread."""
        if trace not in self._open:
            return
        began = self._clock() - seconds
        with self._lock:
            for number, hold in self._open.get(trace, {}).items():
                longest = self._calls.get(number)
                if hold.acquired <= began and (longest is None or seconds > longest.seconds):
                    self._calls[number] = Call(name(), seconds)

    # --- in the watchdog's thread --------------------------------------------------------------------------

    def judge(self, message: Released) -> None:
        """Report a hold."""
        hold, span, call = message
        report = self._describe(hold, Certainty.POSSIBLE, hold.released, _WHY)
        if call is not None and call.seconds < _WORTH_NAMING * report.idle_time:
            call = None
        with self._lock:
            idle = Idle(report, span, call, self._in_transaction.get(hold))
        for listener in self._on_idle:
            try:
                listener(idle)
            except Exception:
                failed(f"{getattr(listener, '__qualname__', listener)}")


def write(idle: Idle) -> None:
    """Log a hold that sat idle at WARNING, unless it is a repeat."""
    if worth_a_line(idle.report):
        _logger.warning("%s", idle_text(idle))


def idle_text(idle: Idle) -> str:
    """The report of a hold that sat idle, several lines without a line break at the end."""
    report = idle.report
    place = f"{report.function}  {short_path(report.file)}:{report.line}"
    lines = [f"{idle.title} [{report.fingerprint}]: {place}", "  " + " · ".join(_facts(idle))]
    if idle.call is not None:
        lines.append(f"  meanwhile: {idle.call.name}, {duration(idle.call.seconds)}")
    if report.statement is not None:
        # Without its age: the call after it was the commit, most likely, and that comes just before the end.
        lines.append(f"  last statement: {report.statement}")
    return "\n".join([*lines, *closing(report, _HINTS[report.kind])])


def _facts(idle: Idle) -> Iterable[str]:
    report = idle.report
    yield f"held {duration(report.use_time)}, idle {duration(report.idle_time)}"
    if idle.in_transaction is not None:
        yield f"in a transaction for {duration(idle.in_transaction)}"
    elif report.transaction in (Transaction.OPEN, Transaction.ABORTED) and report.kind is Kind.CONNECTION:
        yield "in a transaction"
    yield from surroundings(report)


def _is_missed(hold: Hold) -> bool:
    """Whether somebody could have used what sat idle. One stretch of time is reported for one hold only.

    A connection that lives long by design, or that has no server, is meant to lie idle; then it is its
    transactions that should be short.
    """
    if hold.kind is Kind.CONNECTION:
        return _is_wanted(hold)
    if hold.kind is not Kind.TRANSACTION or hold.within is None:
        return False
    return not hold.long_lived and not _is_wanted(hold.within)


def _is_wanted(hold: Hold) -> bool:
    return not (hold.by_design or hold.long_lived) and hold.tracked.facts.has_server
