"""The core without its watchdog thread, with a clock and ids of the test's own."""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from otel_connleak.callsite import CallSites
from otel_connleak.claim import Leak
from otel_connleak.collector import Collector
from otel_connleak.config import load
from otel_connleak.connection import Tracked
from otel_connleak.describe import Describe
from otel_connleak.evidence.dropped import Dropped, OnlyInPool, Suspect
from otel_connleak.evidence.ended import EndedThreads
from otel_connleak.evidence.exits import Exits
from otel_connleak.evidence.overdue import Overdue
from otel_connleak.hold import Evidence, Hold, ThreadRecord
from otel_connleak.holding import Reclaimed
from otel_connleak.leak import Leaks
from otel_connleak.listeners import Listeners
from otel_connleak.reach import Reachability
from otel_connleak.registry import Registry
from otel_connleak.threads import Threads
from otel_connleak.transactions import Discarded
from otel_connleak.watchdog import Watchdog
from tests.support.toy import ToyPool

SETTLED = 6.0
"""Seconds in which a drop has been judged, however long its collection takes."""
EPOCH = 1_700_000_000.0
"""The wall clock's seconds when the other clock begins."""


class Clock:
    """Seconds that pass when they are added."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        """The time."""
        return self.now


class Core:
    """Registry, evidence and verdicts, wired as the instrumentor wires them.

    Args:
        settings: as for ``ConnLeakInstrumentor().instrument``; a grace of 5 s, overdue after 30 s.
    """

    def __init__(self, **settings: Any) -> None:
        self.settings, refused = load({"library_modules": "tests.support"} | settings, environ={})
        assert not refused
        self.clock = Clock()
        self.watchdog = Watchdog(self.clock)
        self.callsites = CallSites(self.settings)
        self.due: list[float] = []
        threads = Threads(self.clock, self.watchdog.put)
        self.registry = Registry(
            self.callsites.locate, threads.current, self.clock, self.watchdog.put, self.due.append
        )
        self.reports: list[Leak] = []
        self.recovered: list[Leak] = []
        self.leaks = self._verdicts()
        note = self.leaks.note
        self.exits = Exits(self.registry, self.callsites, note)
        self.overdue = Overdue(self.registry, note, self.settings.overdue_after)
        dropped = self.dropped = Dropped(
            self.registry, note, self.watchdog.after, Collector(), self.settings.grace
        )
        only_in_pool = OnlyInPool(self.registry, note, self.watchdog.after, self.watchdog.put)
        self.leaks.suspect, self.leaks.look = only_in_pool.suspect, only_in_pool.look
        self.watchdog.handle(
            {
                Tracked: dropped.died,
                Reclaimed: dropped.reclaimed,
                Discarded: self.leaks.discarded,
                ThreadRecord: EndedThreads(note).ended,
                Suspect: only_in_pool.suspected,
            }
        )
        self.leaks.watch, self.leaks.idle_again = self.exits.watch, self.overdue.again
        self.registry.listeners = Listeners(
            always=[self.exits], claimed=[self.leaks.released, self.exits.unwatch]
        )
        self.pool = ToyPool(self.registry)

    def _verdicts(self) -> Leaks:
        ids = itertools.count(1)
        describe = Describe(
            self.callsites,
            self.settings,
            new_id=lambda: f"{next(ids):08x}",
            wall=lambda: EPOCH + self.clock(),
        )
        reach = Reachability(self.callsites.is_application_module)
        leaks = Leaks(self.registry, describe, reach, self.settings, self.due.append, spent=lambda: 0.0)
        leaks.listen([self.reports.append], [self.recovered.append])
        return leaks

    @contextmanager
    def watching_exits(self) -> Iterator[None]:
        """Watch the activations that own holds, for the length of a ``with`` block."""
        assert self.exits.install() is None
        try:
            yield
        finally:
            self.exits.uninstall()

    def note(self, hold: Hold, *evidence: Evidence) -> None:
        """Observe something about a hold now."""
        for kind in evidence:
            self.leaks.note(hold, kind, self.clock())

    def after(self, seconds: float) -> None:
        """Let time pass, then do what the watchdog would do."""
        self.clock.now += seconds
        self.watchdog.drain(self.clock() + SETTLED)
        self.overdue.work(self.clock())
        self.leaks.work(self.clock())

    @property
    def reported(self) -> list[tuple[str, str]]:
        """The function and the first evidence of all reports so far."""
        return [(leak.short, str(leak.evidence[0])) for leak in self.reports]

    def pass_time(self, seconds: float) -> None:
        """Let time pass, and do at each deadline on the way what the watchdog would do.

        Raises:
            AssertionError: the watchdog would not sleep any more.
        """
        end = self.clock.now + seconds
        self.after(0.0)
        for _ in range(1_000):
            deadlines = [source.next_deadline() for source in (self.overdue, self.leaks)]
            next_one = min((when for when in deadlines if when is not None and when <= end), default=None)
            if next_one is None:
                break
            self.after(max(0.0, next_one - self.clock.now))
        else:
            raise AssertionError(f"there is always a deadline at {self.clock.now}")
        self.after(end - self.clock.now)

    def after_fork(self) -> None:
        """Do what the instrumentor does in a forked child; the threads of the parent are still here."""
        self.watchdog.after_fork()
        self.callsites.forget()
        threads = Threads(self.clock, self.watchdog.put)
        self.registry.after_fork(threads.current, self.watchdog.put)
        self.overdue.clear()
        self.exits.clear()
        self.leaks.clear()
