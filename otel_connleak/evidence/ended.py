"""``thread_ended``, ``task_ended``, ``trace_ended``: whoever acquired it is over (L2)."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

from otel_connleak.evidence import Note
from otel_connleak.guard import failed
from otel_connleak.hold import Evidence, Hold, ThreadRecord
from otel_connleak.native import Lock, get_ident
from otel_connleak.threads import process_ends

_MOST_ROOTS = 10_000
"""Local root spans remembered; spans that are never ended must not grow the process."""


class TaskEnd(NamedTuple):
    """A message for the watchdog: the task of a hold has ended, at this monotonic time."""

    hold: Hold
    at: float


class Root:
    """A local root span that is open, with the open holds that were acquired in its thread or task."""

    __slots__ = ("holds", "key")

    def __init__(self, key: tuple[int, int, int]) -> None:
        self.key = key
        self.holds: dict[int, Hold] = {}


class EndedThreads:
    """Handles the records of threads that have ended while holding something; in the watchdog's thread."""

    def __init__(self, note: Note) -> None:
        self._note = note

    def ended(self, record: ThreadRecord) -> None:
        """A thread has ended."""
        for hold in list(record.holds.values()):
            # A connection that is its thread's by design may last as long as the process does.
            if not (hold.by_design and process_ends()):
                self._note(hold, Evidence.THREAD_ENDED, record.ended_at or 0.0)


class EndedTasks:
    """Learns of the end of asyncio tasks through their done callbacks.

    Args:
        put: the watchdog's inbox.
    """

    def __init__(
        self, note: Note, clock: Callable[[], float], put: Callable[[], Callable[[object], None]]
    ) -> None:
        self._note = note
        self._clock = clock
        self._put = put

    def acquired(self, hold: Hold) -> None:
        """A hold was opened: in a task, ask to be told of its end."""
        if hold.task is not None and (task := hold.task()) is not None:
            # One callback object for each hold, so that removing it leaves those of other holds in place.
            callback = hold.task_callback = functools.partial(self._done, hold)
            task.add_done_callback(callback)

    def released(self, hold: Hold) -> None:
        """A hold ended. Tasks are not thread-safe: in another thread the callback stays, without effect."""
        callback = hold.task_callback
        if callback is None:
            return
        hold.task_callback = None
        if hold.task is not None and get_ident() == hold.thread.ident:
            task = hold.task()
            if task is not None:
                task.remove_done_callback(callback)

    def ended(self, message: TaskEnd) -> None:
        """A task has ended; in the watchdog's thread."""
        self._note(message.hold, Evidence.TASK_ENDED, message.at)

    def _done(self, hold: Hold, _task: Any) -> None:
        if hold.is_open:
            try:
                hold.ended_task = hold.task_name
                self._put()(TaskEnd(hold, self._clock()))
            except Exception:
                failed("EndedTasks._done")


class EndedTraces:
    """Knows the local root spans that are open; told by the span processor, in any thread."""

    def __init__(self, note: Note, clock: Callable[[], float]) -> None:
        self._note = note
        self._clock = clock
        self._clear()

    def _clear(self) -> None:
        self._lock = Lock()
        self._spans: dict[int, Root] = {}
        self._roots: dict[tuple[int, int, int], list[Root]] = {}

    def started(self, trace: int, span: int, task: int) -> None:
        """A local root span was started in this thread and task (``id()``, or 0)."""
        key = (trace, get_ident(), task)
        with self._lock:
            if span in self._spans:
                return  # a second processor tells the same
            root = self._spans[span] = Root(key)
            self._roots.setdefault(key, []).append(root)
            oldest = next(iter(self._spans)) if len(self._spans) > _MOST_ROOTS else None
        if oldest is not None:
            self._remove(oldest)

    def ended(self, span: int) -> None:
        """A local root span was ended: what it still holds was acquired for it."""
        root = self._remove(span)
        if root is not None and root.holds:
            now = self._clock()
            for hold in list(root.holds.values()):
                self._note(hold, Evidence.TRACE_ENDED, now)

    def acquired(self, hold: Hold) -> None:
        """A hold was opened: it belongs to the innermost root of its trace, thread and task."""
        if not self._roots:
            return
        task = hold.task() if hold.task is not None else None
        roots = self._roots.get((hold.trace, hold.thread.ident, id(task) if task is not None else 0))
        if roots:
            root = hold.root = roots[-1]
            root.holds[hold.number] = hold

    def released(self, hold: Hold) -> None:
        """A hold ended."""
        if hold.root is not None:
            hold.root.holds.pop(hold.number, None)
            hold.root = None

    def clear(self) -> None:
        """Forget all spans, in a forked child; the lock may have been held by a thread that is not here."""
        self._clear()

    def _remove(self, span: int) -> Root | None:
        with self._lock:
            root = self._spans.pop(span, None)
            if root is not None:
                roots = self._roots.get(root.key)
                if roots is not None and root in roots:
                    roots.remove(root)
                    if not roots:
                        del self._roots[root.key]
        return root
