"""``dropped``: the connection object is gone and was never released, or nobody can give it back (L2)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from otel_connleak import references
from otel_connleak.collector import Collector
from otel_connleak.connection import Kind, Tracked
from otel_connleak.evidence import Note
from otel_connleak.guard import failed
from otel_connleak.hold import Evidence, Hold
from otel_connleak.holding import Reclaimed
from otel_connleak.registry import Registry
from otel_connleak.threads import process_ends

_SETTLE = 0.01
"""Seconds until a drop is judged: in a collected cycle the weak reference goes before the finalizers run, and
only these can say that the connection had been closed before, or give it back after all."""
_LONGEST_COLLECTION = 5.0
"""Seconds for which a collection is waited for: a finalizer may never return."""


class Dropped:
    """Handles the connections that the garbage collector reports as dead; in the watchdog's thread.

    Args:
        after: runs something at a time, in monotonic seconds.
        collector: says whether a collection is going on.
        grace: seconds for which a cursor that was dropped may stay open.
    """

    def __init__(
        self,
        registry: Registry,
        note: Note,
        after: Callable[[float, Callable[[], None]], None],
        collector: Collector,
        grace: float,
    ) -> None:
        self._registry = registry
        self._note = note
        self._after = after
        self._collector = collector
        self._grace = grace

    def died(self, tracked: Tracked) -> None:
        """A connection was collected. If it was held, its hold can never be released."""
        died = self._registry.clock()
        if tracked.hold is None:
            self._registry.forget(tracked)
        else:
            # The end of its transaction closes a cursor as well: it is left open only if that does not come.
            wait = _SETTLE if tracked.kind is not Kind.CURSOR else self._grace
            self._after(died + wait, lambda: self._judge(tracked, died))

    def reclaimed(self, message: Reclaimed) -> None:
        """A library has taken back what was dropped; in the watchdog's thread."""
        hold = message.hold
        self._note(hold, Evidence.DROPPED, hold.released)
        self._registry.released(hold)

    def _judge(self, tracked: Tracked, died: float) -> None:
        hold = tracked.hold
        if hold is not None and (hold.busy_since is not None or self._finalizers_run(died)):
            # A finalizer rolls back, over the network, and will then release it; or has yet to run.
            self._after(self._registry.clock() + _SETTLE, lambda: self._judge(tracked, died))
            return
        self._registry.forget(tracked)  # not before: its finalizers look for it
        if hold is None or not hold.is_open:
            return
        if (tracked.closed and tracked.pool is None) or (hold.by_design and process_ends()):
            # A direct connection that was broken or closed already holds nothing any more. One that is its
            # thread's by design goes with it, which is no leak if that ends only because the process does.
            self._registry.over(hold)
            return
        self._note(hold, Evidence.DROPPED, died)

    def _finalizers_run(self, died: float) -> bool:
        return self._collector.at_work and self._registry.clock() < died + _LONGEST_COLLECTION


class Suspect(NamedTuple):
    """A message for the watchdog: something was observed about a hold whose library itself refers to it."""

    hold: Hold


class OnlyInPool:
    """Finds what nobody but its library refers to any more: a pool, or it itself, keeps it alive.

    Nothing tells when the last other reference goes. So the references are counted when there is reason to,
    and against what the library says it keeps at that moment: the exit of a function, of a thread, of a task.

    Args:
        put: takes a message for the watchdog, whose handler must be `suspected`.
    """

    def __init__(
        self,
        registry: Registry,
        note: Note,
        after: Callable[[float, Callable[[], None]], None],
        put: Callable[[object], None],
    ) -> None:
        self._registry = registry
        self._note = note
        self._after = after
        self._put = put

    def suspect(self, hold: Hold) -> None:
        """Something was observed about a hold. Any thread: a function that exits still has its variables."""
        if _keepers(hold):
            self._put(Suspect(hold))

    def suspected(self, suspect: Suspect) -> None:
        """Look in a moment; in the watchdog's thread."""
        self._after(self._registry.clock() + _SETTLE, lambda: self.look(suspect.hold))

    def look(self, hold: Hold) -> None:
        """Count the references now; in the watchdog's thread."""
        keepers = _keepers(hold)
        connection = hold.tracked()
        if not keepers or connection is None or not hold.is_open:
            return
        try:
            kept = sum(keeps(connection) for keeps in keepers)
        except Exception:
            failed("references of the library")
            return
        del connection
        if references.count(hold.tracked) == kept:
            self._note(hold, Evidence.DROPPED, self._registry.clock())


def _keepers(hold: Hold) -> list[Callable[[Any], int]]:
    """What counts the references to a connection that are its library's: nobody releases it through them."""
    of_pool = hold.pool.keeps if hold.pool is not None and hold.kind is Kind.CONNECTION else None
    return [keeps for keeps in (of_pool, hold.tracked.keeps) if keeps is not None]
