"""Claims that wait for their time: a hold against which something was observed, until it is judged (L1)."""

from __future__ import annotations

import heapq
from typing import NamedTuple

from otel_connleak.hold import Hold
from otel_connleak.native import RLock


class Claim(NamedTuple):
    """A hold to judge at ``when`` (monotonic seconds); ``tries``: how often somebody stood against it."""

    when: float
    number: int
    tries: int
    hold: Hold


class Claims:
    """At most one claim for each hold, the earliest. Thread-safe; nothing in it grows with what is open.

    The lock is re-entrant: the finalizer of an application's object may release a connection anywhere.
    """

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Begin anew; also after a fork, when the lock may have been held by a thread that is not here."""
        self._lock = RLock()
        self._claims: dict[int, Claim] = {}
        self._heap: list[Claim] = []

    def add(self, hold: Hold, when: float, tries: int = 0) -> None:
        """Judge a hold at ``when``, unless that is to happen earlier anyway."""
        with self._lock:
            waiting = self._claims.get(hold.number)
            if waiting is None or when < waiting.when:
                claim = self._claims[hold.number] = Claim(when, hold.number, tries, hold)
                heapq.heappush(self._heap, claim)

    def discard(self, hold: Hold) -> None:
        """The hold has ended: there is nothing to judge."""
        with self._lock:
            self._claims.pop(hold.number, None)

    def earliest(self) -> float | None:
        """When the next claim is due, in monotonic seconds."""
        with self._lock:
            self._drop_outdated()
            return self._heap[0].when if self._heap else None

    def due(self, now: float) -> list[Claim]:
        """Take out the claims that are due at ``now``."""
        found: list[Claim] = []
        with self._lock:
            self._drop_outdated()
            while self._heap and self._heap[0].when <= now:
                claim = heapq.heappop(self._heap)
                del self._claims[claim.number]
                found.append(claim)
                self._drop_outdated()
        return found

    def _drop_outdated(self) -> None:
        """What was discarded, or replaced by an earlier one, leaves the heap when it comes to its top."""
        while self._heap and self._claims.get(self._heap[0].number) is not self._heap[0]:
            heapq.heappop(self._heap)
