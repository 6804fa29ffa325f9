"""The holds that are open, fresh ones apart from those that were looked at (L1). None of it is hot."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable
from typing import NamedTuple

from otel_connleak.hold import Hold
from otel_connleak.tracking import Connections


class Reclaimed(NamedTuple):
    """A message for the watchdog: a library has taken back what the application dropped."""

    hold: Hold


class OpenHolds(Connections):
    """What is read of the open holds; the registry fills it, under the lock of the connections.

    Args:
        put: that of `Connections`.
    """

    def __init__(self, put: Callable[[object], None]) -> None:
        super().__init__(put)
        self._clear()

    def _clear(self) -> None:
        self.clear_connections()
        self._fresh: dict[int, Hold] = {}
        self._aged: dict[int, Hold] = {}
        self._loops: weakref.WeakSet[asyncio.AbstractEventLoop] = weakref.WeakSet()

    def oldest_fresh(self) -> Hold | None:
        """The oldest hold that has not been looked at since its acquire."""
        with self._lock:
            return next(iter(self._fresh.values()), None)

    def age(self, hold: Hold) -> bool:
        """Take a hold out of the fresh ones; returns whether it is still open."""
        with self._lock:
            if self._fresh.pop(hold.number, None) is None:
                return hold.is_open
            self._aged[hold.number] = hold
            return True

    def holds(self) -> list[Hold]:
        """The open holds, oldest first: so a connection comes before its transaction."""
        with self._lock:
            both = [*self._aged.values(), *self._fresh.values()]
        return sorted(both, key=lambda hold: hold.number)

    def loops(self) -> list[asyncio.AbstractEventLoop]:
        """The event loops in which something was acquired, as far as they still exist."""
        with self._lock:
            return list(self._loops)
