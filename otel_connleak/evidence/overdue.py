"""``overdue``: held and idle for longer than the threshold (L2).

The work grows with the number of holds that have come of age, not with the open ones: a new hold is only
looked at when the threshold has passed since its acquire, and is put on a heap if it has been in use since.
"""

from __future__ import annotations

import heapq

from otel_connleak.connection import Transaction
from otel_connleak.drivers import driver_of
from otel_connleak.evidence import Note
from otel_connleak.guard import failed
from otel_connleak.hold import Evidence, Hold
from otel_connleak.registry import Registry


class Overdue:
    """Deadlines of the open holds, kept by the watchdog."""

    def __init__(self, registry: Registry, note: Note, after: float) -> None:
        self._registry = registry
        self._note = note
        self._after = after
        self._heap: list[tuple[float, int, Hold]] = []
        registry.overdue_after = after

    def next_deadline(self) -> float | None:
        """When the next hold may be overdue, in monotonic seconds."""
        oldest = self._registry.oldest_fresh()
        deadlines = [oldest.acquired + self._after] if oldest is not None else []
        while self._heap and not self._heap[0][2].is_open:
            heapq.heappop(self._heap)
        if self._heap:
            deadlines.append(self._heap[0][0])
        return min(deadlines, default=None)

    def work(self, now: float) -> None:
        """Note the holds that are overdue at ``now``."""
        while (oldest := self._registry.oldest_fresh()) is not None:
            if oldest.acquired + self._after > now:
                break
            if self._registry.age(oldest) and not oldest.long_lived and calls_are_seen(oldest):
                self._push(oldest, now)
        while self._heap and self._heap[0][0] <= now:
            hold = heapq.heappop(self._heap)[2]
            if not hold.is_open or hold.long_lived:  # it may have become so
                continue
            if self._due(hold, now) > now:
                self._push(hold, now)
            elif _takes_nothing(hold):
                self.again(hold)
            else:
                self._note(hold, Evidence.OVERDUE, now)

    def again(self, hold: Hold) -> None:
        """A hold that was overdue may be so: look again a threshold from now. In the watchdog's thread."""
        now = self._registry.clock()
        heapq.heappush(self._heap, (max(self._due(hold, now), now + self._after), hold.number, hold))

    def clear(self) -> None:
        """Forget all deadlines, in a forked child."""
        self._heap.clear()

    def _push(self, hold: Hold, now: float) -> None:
        heapq.heappush(self._heap, (self._due(hold, now), hold.number, hold))

    def _due(self, hold: Hold, now: float) -> float:
        # A query that runs is busy: whenever it ends, the hold is overdue no earlier than the threshold from
        # now.
        since = now if hold.busy_since is not None else hold.idle_since()
        return since + self._after


def _takes_nothing(hold: Hold) -> bool:
    """Whether it is an idle connection without a server: nobody misses it, unless a transaction is open."""
    return not hold.tracked.facts.has_server and hold.transaction is not Transaction.OPEN


def calls_are_seen(hold: Hold) -> bool:
    """Whether the calls of its connection are seen: else it may be in use, and no one can call it idle."""
    connection = (hold.within or hold).tracked()
    try:
        return connection is None or driver_of(connection).sees_calls(connection)
    except Exception:
        failed("driver")
        return True
