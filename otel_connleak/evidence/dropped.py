"""``dropped``: the connection object is gone and was never released (L2)."""

from __future__ import annotations

from collections.abc import Callable

from otel_connleak.evidence import Note
from otel_connleak.hold import Evidence, Tracked
from otel_connleak.registry import Registry

_SETTLE = 0.01
"""Seconds until a drop is judged: in a collected cycle the weak reference goes before the finalizer runs, and
only the finalizer can say that the connection had been closed before."""


class Dropped:
    """Handles the connections that the garbage collector reports as dead; in the watchdog's thread."""

    def __init__(
        self, registry: Registry, note: Note, after: Callable[[float, Callable[[], None]], None]
    ) -> None:
        self._registry = registry
        self._note = note
        self._after = after

    def died(self, tracked: Tracked) -> None:
        """A connection was collected. If it was held, its hold can never be released."""
        died = self._registry.clock()
        if tracked.pool is not None or tracked.hold is None:
            self._judge(tracked, died)
        else:
            self._after(died + _SETTLE, lambda: self._judge(tracked, died))

    def _judge(self, tracked: Tracked, died: float) -> None:
        self._registry.forget(tracked)  # not before: its finalizer looks for it
        hold = tracked.hold
        if hold is None or not hold.is_open:
            return
        if tracked.closed and tracked.pool is None:
            # A direct connection that was broken or closed already holds nothing any more.
            self._registry.over(hold)
            return
        self._note(hold, Evidence.DROPPED, died)
