"""The one background thread: sleeps until the next deadline, or until something arrives (L1).

Nothing polls. While nothing is held and nothing arrives it sleeps without a deadline (DESIGN section 6,
promise 3). Garbage-collector callbacks and finalizers reach it through a `queue.SimpleQueue`, whose ``put``
is reentrant by contract (Python documentation of `queue.SimpleQueue`).
"""

from __future__ import annotations

import heapq
import itertools
import math
from _queue import Empty, SimpleQueue
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

from otel_connleak.guard import failed
from otel_connleak.native import Lock, Thread

_STOP: Final = object()
_WAKE: Final = object()
_AFTER_FAILURE: Final = 1.0
"""Seconds until a deadline is tried again whose work has failed, and which is still due."""
_MOST_AT_ONCE: Final = 1_000
"""Messages handled between two looks at the deadlines: where facts keep arriving, deadlines are kept too."""


class Deadlines(Protocol):
    """Something with deadlines of its own, for example the holds that may become overdue."""

    def next_deadline(self) -> float | None:
        """Monotonic seconds of the earliest deadline, or None."""

    def work(self, now: float) -> None:
        """Do what is due at ``now``; called in the watchdog's thread."""


class Watchdog:
    """Runs handlers and deadlines in one daemon thread, which starts with the first thing to watch.

    All methods may be called from any thread; `put` also from finalizers and garbage-collector callbacks.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._handlers: dict[type, Callable[[Any], None]] = {}
        self._sources: tuple[Deadlines, ...] = ()
        self._numbers = itertools.count()
        self._start_lock = Lock()
        self.wakes = 0
        self._clear()

    def _clear(self) -> None:
        self._inbox: SimpleQueue[Any] = SimpleQueue()
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._thread: Thread | None = None
        self._stopped = False
        self._wakes_at = math.inf

    @property
    def put(self) -> Callable[[object], None]:
        """Takes a message for the handler of its type. Reentrant and without locks of ours."""
        return self._inbox.put

    def handle(self, handlers: Mapping[type, Callable[[Any], None]]) -> None:
        """Set who handles the messages, by their exact type."""
        self._handlers.update(handlers)

    def watch(self, *sources: Deadlines) -> None:
        """Set whose deadlines are kept."""
        self._sources = sources

    def due(self, when: float) -> None:
        """Something became due at ``when``: wakes the thread only if it would sleep for longer.

        This is on the acquire path: in the usual case it is one comparison.
        """
        if when < self._wakes_at:
            # Set before the put: further calls until the thread has looked again need not wake it too.
            self._wakes_at = when
            if self._thread is None:
                self._start()
            self._inbox.put(_WAKE)

    def after(self, when: float, action: Callable[[], None]) -> None:
        """Run ``action`` at ``when``; for the watchdog's own thread only."""
        heapq.heappush(self._timers, (when, next(self._numbers), action))

    def stop(self, timeout: float = 10.0) -> None:
        """End the thread, after it has handled what arrived before; waits at most ``timeout`` seconds.

        It is not started again: an acquire still on its way in another thread must not leave one behind.
        """
        with self._start_lock:
            self._stopped = True
            thread = self._thread
        if thread is None:
            return
        self._inbox.put(_STOP)
        thread.join(timeout)
        self._thread = None
        self._wakes_at = math.inf

    def drain(self, until: float = math.inf) -> None:
        """Handle in the calling thread what has arrived and was not handled; the thread must have stopped.

        Args:
            until: what was to be run later than this, in monotonic seconds, is left.
        """
        while True:
            try:
                self._dispatch(self._inbox.get_nowait())
            except Empty:
                break
        self._run_timers(until)

    def after_fork(self) -> None:
        """Begin anew in a forked child: the thread and whatever it was doing exist in the parent only."""
        self._start_lock = Lock()
        self._clear()

    @property
    def has_timers(self) -> bool:
        """Whether something is to be run later; for the watchdog's own thread only."""
        return bool(self._timers)

    @property
    def running(self) -> bool:
        """Whether the thread has been started and not stopped."""
        return self._thread is not None

    def _start(self) -> None:
        # Whoever holds the lock starts it, or stops it: nobody needs to wait for that, and a finalizer that
        # comes in between in the same thread must not.
        if not self._start_lock.acquire(blocking=False):
            return
        try:
            if self._thread is None and not self._stopped:
                thread = Thread(self._run, "otel-connleak-watchdog")
                try:
                    thread.start()
                except RuntimeError:
                    # The interpreter is shutting down and starts no more threads; the exit report comes
                    # anyway.
                    return
                self._thread = thread
        finally:
            self._start_lock.release()

    def _run(self) -> None:
        inbox = self._inbox
        least = 0.0
        while True:
            asked = self._wakes_at
            # From here to the sleep every call of `due` must wake us again, because we may have looked
            # already.
            self._wakes_at = math.inf
            deadline = self._next_deadline()
            if self._clock() < asked < deadline:
                # What should have been due then is over. Without this each short hold that follows would wake
                # us, and find us without a deadline again.
                deadline = asked
            self._wakes_at = min(self._wakes_at, deadline)
            message = _WAKE
            try:
                timeout = None if deadline == math.inf else max(least, deadline - self._clock())
                message = inbox.get(timeout=timeout)
            except Empty:
                pass
            self.wakes += 1
            if not self._handle_arrived(message):
                return
            least = 0.0 if self._work() else _AFTER_FAILURE

    def _handle_arrived(self, message: Any) -> bool:
        """Handle a message and what lies in the inbox behind it; returns whether to go on.

        All of it before deadlines are looked at: a fact that has arrived belongs into a report that is due.
        """
        for _ in range(_MOST_AT_ONCE):
            if message is _STOP:
                return False
            self._dispatch(message)
            try:
                message = self._inbox.get_nowait()
            except Empty:
                return True
        self._inbox.put(message)
        return True

    def _next_deadline(self) -> float:
        earliest = self._timers[0][0] if self._timers else math.inf
        for source in self._sources:
            try:
                deadline = source.next_deadline()
            except Exception:
                failed(f"watchdog {type(source).__name__}")
                continue
            if deadline is not None and deadline < earliest:
                earliest = deadline
        return earliest

    def _work(self) -> bool:
        now = self._clock()
        well = True
        for source in self._sources:
            try:
                source.work(now)
            except Exception:
                failed(f"watchdog {type(source).__name__}")
                well = False
        self._run_timers(now)
        return well

    def _run_timers(self, now: float) -> None:
        while self._timers and self._timers[0][0] <= now:
            action = heapq.heappop(self._timers)[2]
            try:
                action()
            except Exception:
                failed("watchdog timer")

    def _dispatch(self, message: Any) -> None:
        handler = self._handlers.get(type(message))
        if handler is None:
            return
        try:
            handler(message)
        except Exception:
            failed(f"watchdog {type(message).__name__}")
