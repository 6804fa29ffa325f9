"""The connections that a module keeps for the life of the process, or a thread for its own: one each (L1)."""

from __future__ import annotations

from otel_connleak.hold import Hold
from otel_connleak.native import RLock

type _Key = tuple[str, int, str | None, int]


class Singletons:
    """Knows the one idle connection that each call site may keep. Thread-safe."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Begin anew; also after a fork, when the lock may have been held by a thread that is not here."""
        self._lock = RLock()
        self._kept: dict[_Key, Hold] = {}

    def is_one(self, hold: Hold, *, of_thread: bool) -> bool:
        """Whether a kept hold is the only one of its call site, or of its thread, that lies idle."""
        key = _key(hold, hold.thread.ident if of_thread else 0)
        with self._lock:
            kept = self._kept.setdefault(key, hold)
            if kept is not hold and (not kept.is_open or kept.busy_since is not None):
                self._kept[key] = kept = hold
        return kept is hold

    def ended(self, hold: Hold) -> None:
        """A hold ended: another one may be kept in its place."""
        with self._lock:
            for thread in (0, hold.thread.ident):
                key = _key(hold, thread)
                if self._kept.get(key) is hold:
                    del self._kept[key]


def _key(hold: Hold, thread: int) -> _Key:
    return hold.site.function, hold.site.line, hold.pool.name if hold.pool is not None else None, thread
