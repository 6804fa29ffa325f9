"""Who is told of holds: spans, evidence, metrics (L0)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

from otel_connleak.guard import failed
from otel_connleak.hold import Hold


class Listener(Protocol):
    """Is told of holds, in the thread of the acquire or release, outside of all locks."""

    def acquired(self, hold: Hold) -> None:
        """A hold was opened."""

    def released(self, hold: Hold) -> None:
        """A hold was released or lost: see its outcome."""


type Told = Callable[[Hold], None]
"""Is told of a hold, like the methods of `Listener`."""


class Listeners:
    """Tells each listener in its turn; one that raises is noted, and the others are told all the same.

    Args:
        always: are told of each hold, when it is acquired and when it has ended.
        in_task: the same, only for what was acquired in an asyncio task.
        in_trace: the same, only for what was acquired in a trace.
        claimed: are told of each hold that has ended and against which evidence had been noted.
        moved: are told of each hold whose ownership moved to a caller.
        ended: are told of each hold that has ended, after those that are always told.
    """

    def __init__(
        self,
        always: Iterable[Listener] = (),
        in_task: Iterable[Listener] = (),
        in_trace: Iterable[Listener] = (),
        claimed: Iterable[Told] = (),
        moved: Iterable[Told] = (),
        ended: Iterable[Told] = (),
    ) -> None:
        always, in_task, in_trace = tuple(always), tuple(in_task), tuple(in_trace)
        self._acquired = tuple(listener.acquired for listener in always)
        self._acquired_in_task = tuple(listener.acquired for listener in in_task)
        self._acquired_in_trace = tuple(listener.acquired for listener in in_trace)
        self._released = (*(listener.released for listener in always), *ended)
        self._released_in_task = tuple(listener.released for listener in in_task)
        self._released_in_trace = tuple(listener.released for listener in in_trace)
        self._claimed = tuple(claimed)
        self._moved = tuple(moved)

    def acquired(self, hold: Hold) -> None:
        """Tell of a new hold."""
        # The loop is written out here and below: a call more would be paid on every acquire.
        for listener in self._acquired:
            try:
                listener(hold)
            except Exception:
                failed(_name(listener))
        if hold.task is not None:
            _tell(self._acquired_in_task, hold)
        if hold.trace:
            _tell(self._acquired_in_trace, hold)

    def released(self, hold: Hold) -> None:
        """Tell of a hold that was released or lost."""
        for listener in self._released:
            try:
                listener(hold)
            except Exception:
                failed(_name(listener))
        if hold.task is not None:
            _tell(self._released_in_task, hold)
        if hold.root is not None:
            _tell(self._released_in_trace, hold)
        if hold.seen is not None:
            _tell(self._claimed, hold)

    def moved(self, hold: Hold) -> None:
        """Tell of a hold whose ownership moved."""
        _tell(self._moved, hold)


def _tell(listeners: tuple[Told, ...], hold: Hold) -> None:
    for listener in listeners:
        try:
            listener(hold)
        except Exception:
            failed(_name(listener))


def _name(listener: Told) -> str:
    return str(getattr(listener, "__qualname__", listener))
