"""The source of truth: which holds are open, who owns them, and totals by function (L1).

Spans, metrics and reports are listeners; detection never depends on them or on sampling. The adapters call
`acquire`, `release`, `released` and the driver-call functions: all of it is hot unless it says otherwise.
The one lock is re-entrant: a finalizer that the garbage collector runs inside a locked region may itself
release a connection. Listeners run outside of it.
"""

from __future__ import annotations

import asyncio
import itertools
import weakref
from collections.abc import Callable
from typing import Any

from otel_connleak.connection import Facts, Pool, Tracked, Transaction, tracked_of
from otel_connleak.hold import Hold, Origin, Outcome, ThreadRecord
from otel_connleak.listeners import Listeners
from otel_connleak.native import RLock
from otel_connleak.totals import Totals

_running_loop = asyncio._get_running_loop
_current_task = asyncio.current_task

# Names of this module: reading a member of an enumeration costs a look-up more each time.
_HELD = Outcome.HELD
_RELEASED = Outcome.RELEASED


class Registry:
    """Open holds and totals of one process.

    Args:
        locate: finds the call site and owner from a frame.
        current_thread: gives the record of the calling thread.
        clock: monotonic seconds.
        put: the watchdog's inbox; called by the garbage collector with a `Tracked` whose connection has died.
        due: tells the watchdog of a deadline.
    """

    def __init__(
        self,
        locate: Callable[[Any], Origin],
        current_thread: Callable[[], ThreadRecord],
        clock: Callable[[], float],
        put: Callable[[object], None],
        due: Callable[[float], None],
    ) -> None:
        self._locate = locate
        self._current_thread = current_thread
        self.clock = clock
        self._put = put
        self._due = due
        self.overdue_after = float("inf")
        self.listeners = Listeners()
        self.totals = Totals()
        self._numbers = itertools.count(1)
        self.expect_long: Callable[[], bool] = bool
        self._pools: weakref.WeakSet[Pool] = weakref.WeakSet()
        self._clear()

    def _clear(self) -> None:
        self._lock = RLock()
        self._tracked: dict[int, Tracked] = {}
        self._fresh: dict[int, Hold] = {}
        self._aged: dict[int, Hold] = {}
        self._loops: weakref.WeakSet[asyncio.AbstractEventLoop] = weakref.WeakSet()

    # --- connections ---------------------------------------------------------------------------------------

    def track(
        self, connection: Any, facts: Facts, transaction: Callable[[Any], Transaction], pool: Pool | None
    ) -> Tracked:
        """Remember a connection for its whole life. Raises `TypeError` if it cannot be weakly referenced."""
        tracked = self._tracked[id(connection)] = tracked_of(connection, self._put, facts, transaction, pool)
        if pool is not None:
            self._pools.add(pool)
        return tracked

    def forget(self, tracked: Tracked) -> None:
        """Forget a connection that has died. Its ``id`` may belong to another one by now."""
        with self._lock:
            if self._tracked.get(tracked.key) is tracked:
                del self._tracked[tracked.key]

    def hold_of(self, connection: Any) -> Hold | None:
        """The open hold of a connection, or None."""
        tracked = self._tracked.get(id(connection))
        hold: Hold | None = tracked.hold if tracked is not None and tracked.may_be(connection) else None
        return hold

    # --- acquire and release -------------------------------------------------------------------------------

    def acquire(
        self, source: str, connection: Any, frame: Any, describe: Callable[..., Tracked], *about: Any
    ) -> Hold:
        """Open a hold.

        Args:
            source: the adapter; only it can end the hold.
            connection: what was acquired.
            frame: the frame that called the adapter's hook.
            describe: called with the connection and ``about`` when it is first seen; calls `track`.
            about: further arguments of ``describe``.
        """
        tracked = self._tracked.get(id(connection))
        if tracked is None or tracked() is not connection:
            tracked = describe(connection, *about)
        origin = self._locate(frame)
        site = origin[0]
        thread = self._current_thread()
        loop = _running_loop()
        task = None
        if loop is not None:
            task = _current_task(loop)
            if thread.loop is None or thread.loop() is not loop:
                thread.loop = weakref.ref(loop)
                with self._lock:
                    self._loops.add(loop)
        pool = tracked.pool
        name = None if pool is None else pool.name
        totals = site.totals.get(name) or self.totals.of(site, name)
        if tracked.hold is not None:
            # The library hands it out again: it was returned in a way that nobody told us.
            self.over(tracked.hold)
        now = self.clock()
        number = next(self._numbers)
        in_task = None if task is None else weakref.ref(task)
        long_lived = site.long_lived or self.expect_long()
        hold = Hold(number, source, tracked, origin, thread, in_task, now, long_lived)
        # Written out: a ``with`` costs two and a half times as much as these two calls, on every acquire.
        lock = self._lock
        lock.acquire()
        try:
            totals.acquired += 1
            if pool is not None:
                pool.open += 1
            tracked.hold = hold
            thread.holds[number] = self._fresh[number] = hold
        finally:
            lock.release()
        self._due(now + self.overdue_after)
        self.listeners.acquired(hold)
        return hold

    def release(self, source: str, connection: Any) -> Hold | None:
        """First half of a release, before the library gives the connection to somebody else.

        Returns:
            The hold, which is no longer open, or None where this adapter holds nothing of it. The caller then
            calls `released`, or `reinstate` if the library refused.
        """
        tracked = self._tracked.get(id(connection))
        if tracked is None or (tracked() is not connection and not tracked.may_be(connection)):
            return None
        hold: Hold | None = tracked.hold
        if hold is None or hold.source != source:
            return None
        return hold if self._close(hold, _RELEASED, self.clock()) else None

    def released(self, hold: Hold) -> None:
        """Second half of a release, after the library has the connection: listeners."""
        self.listeners.released(hold)
        hold.span = None

    def reinstate(self, hold: Hold) -> None:
        """Take back the first half of a release: the library raised, the connection is still held."""
        with self._lock:
            tracked = hold.tracked
            given_out_again = tracked.hold is not None
            if not given_out_again:
                hold.outcome = _HELD
                tracked.hold = hold
                hold.thread.holds[hold.number] = hold
                # Fresh again, in its old place: that is where the overdue evidence looks for it.
                self._fresh = dict(sorted({**self._fresh, hold.number: hold}.items()))
                self.totals.of_hold(hold).ended(hold, sign=-1)
                if hold.pool is not None:
                    hold.pool.open += 1
        if given_out_again:
            self.released(hold)
        else:
            self._due(hold.acquired + self.overdue_after)

    def lose(self, hold: Hold, at: float) -> bool:
        """End a hold that nobody can release any more since ``at``; returns whether it was open."""
        if not self._close(hold, Outcome.LOST, at):
            return False
        self.released(hold)
        return True

    def over(self, hold: Hold) -> None:
        """End a hold as released although no release was seen: there is nothing left to release."""
        if self._close(hold, _RELEASED, self.clock()):
            self.released(hold)

    def _close(self, hold: Hold, outcome: Outcome, at: float) -> bool:
        pool = hold.pool
        totals = hold.site.totals.get(None if pool is None else pool.name) or self.totals.of_hold(hold)
        number = hold.number
        lock = self._lock
        lock.acquire()
        try:
            if hold.outcome is not _HELD:
                return False
            hold.outcome = outcome
            hold.released = at
            tracked = hold.tracked
            if tracked.hold is hold:
                tracked.hold = None
            if self._fresh.pop(number, None) is None:
                self._aged.pop(number, None)
            hold.thread.holds.pop(number, None)
            totals.ended(hold)
            if pool is not None:
                pool.open -= 1
                if outcome is Outcome.LOST:
                    pool.lost += 1
        finally:
            lock.release()
        return True

    # --- driver calls --------------------------------------------------------------------------------------

    def call_ended(self, hold: Hold, started: float) -> None:
        """A driver call that began at ``started`` (monotonic seconds) has ended."""
        now = self.clock()
        hold.busy += now - started
        hold.busy_since = None
        hold.calls += 1
        hold.last_call = now

    # --- ownership -----------------------------------------------------------------------------------------

    def move(self, hold: Hold, origin: Origin, *, blame: bool) -> None:
        """Hand a hold on to another activation; with ``blame`` it is then that one's to answer for."""
        previous = hold.site
        site, owner, code, stack = origin
        with self._lock:
            hold.owner, hold.code = owner, code
            if blame and site.function != previous.function:
                pool = None if hold.pool is None else hold.pool.name
                self.totals.of(previous, pool).acquired -= 1
                self.totals.of(site, pool).acquired += 1
                hold.site, hold.stack = site, hold.stack or stack
            else:
                blame = False
        if blame:
            self.listeners.moved(hold)

    # --- reading; none of it on the hot path ---------------------------------------------------------------

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
        """The open holds, oldest first."""
        with self._lock:
            both = [*self._aged.values(), *self._fresh.values()]
        return sorted(both, key=lambda hold: hold.number)

    def loops(self) -> list[asyncio.AbstractEventLoop]:
        """The event loops in which something was acquired, as far as they still exist."""
        with self._lock:
            return list(self._loops)

    def closing(self, connection: Any) -> Tracked | None:
        """What is known about a connection in its finalizer."""
        tracked = self._tracked.get(id(connection))
        return tracked if tracked is not None and tracked.may_be(connection) else None

    def after_fork(self, current_thread: Callable[[], ThreadRecord], put: Callable[[object], None]) -> None:
        """Begin anew in a forked child: the parent ends its holds and spans, locks may be held by nobody."""
        for hold in (*self._fresh.values(), *self._aged.values()):
            # Whatever still knows it finds it ended. Without the lock: it may have been inherited locked.
            hold.outcome = Outcome.LOST
            hold.thread.holds.clear()
        for pool in self._pools:
            pool.open = pool.lost = 0
        self._current_thread = current_thread
        self._put = put
        self._clear()
        self.totals.clear()
