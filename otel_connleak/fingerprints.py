"""Stable ids of leak sites, and how often each has leaked in this process (L0)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Final, NamedTuple

from otel_connleak.hold import Evidence, Hold
from otel_connleak.native import Lock

_MOST_SITES: Final = 10_000
"""Sites whose repeats are counted; code that is generated again and again must not grow the process."""


class Occurrence(NamedTuple):
    """One leak of a site: the site's fingerprint, which one it is, and the time of the first (epoch)."""

    fingerprint: str
    number: int
    since: float


class Fingerprints:
    """Counts the leaks of each site. Thread-safe.

    Args:
        wall: seconds since the epoch.
    """

    def __init__(self, wall: Callable[[], float]) -> None:
        self._wall = wall
        self.clear()

    def clear(self) -> None:
        """Begin anew; also after a fork, when the lock may have been held by a thread that is not here."""
        self._lock = Lock()
        self._sites: dict[str, tuple[int, float]] = {}

    def count(self, hold: Hold, evidence: Evidence | str) -> Occurrence:
        """Count a leak of this hold's site that was reported for this evidence, or another word for why."""
        fingerprint = fingerprint_of(hold, evidence)
        with self._lock:
            if len(self._sites) >= _MOST_SITES:
                self._sites.clear()
            count, since = self._sites.get(fingerprint, (0, self._wall()))
            self._sites[fingerprint] = (count + 1, since)
        return Occurrence(fingerprint, count + 1, since)


def fingerprint_of(hold: Hold, evidence: Evidence | str) -> str:
    """Six hexadecimal digits from pool, function, kind and evidence: equal over processes and restarts."""
    pool = hold.pool.name if hold.pool is not None else ""
    text = f"{pool}\0{hold.site.function}\0{hold.kind}\0{evidence}"
    return hashlib.sha256(text.encode()).hexdigest()[:6]
