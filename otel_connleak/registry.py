"""The source of truth: which holds are open, who owns them, and totals by function (L1).

Spans, metrics and reports are listeners; detection never depends on them or on sampling. The adapters call
`acquire`, `release`, `released` and the driver-call functions: all of it is hot unless it says otherwise.
The one lock is re-entrant: a finalizer in a locked region may itself release. Listeners run outside of it.
"""

from __future__ import annotations

import asyncio
import itertools
import weakref
from collections.abc import Callable
from typing import Any

from otel_connleak.connection import Tracked, Transaction
from otel_connleak.guard import failed
from otel_connleak.hold import Hold, Origin, Outcome, ThreadRecord
from otel_connleak.holding import OpenHolds, Reclaimed
from otel_connleak.listeners import Listeners
from otel_connleak.totals import Totals
from otel_connleak.transactions import Transactions
from otel_connleak.verbs import Verb

_running_loop = asyncio._get_running_loop
_current_task = asyncio.current_task

# Names of this module: reading a member of an enumeration costs a look-up more each time.
_HELD = Outcome.HELD
_RELEASED = Outcome.RELEASED
_IDLE, _OPEN = Transaction.NONE, Transaction.OPEN
_NO_VERB, _READ, _WRITE = Verb.NONE, Verb.READ, Verb.WRITE


class Registry(OpenHolds):
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
        self.locate = locate
        self._current_thread = current_thread
        super().__init__(put)
        self.clock = clock
        self._due = due
        self.overdue_after = float("inf")
        self.listeners = Listeners()
        self.totals = Totals()
        self._numbers = itertools.count(1)
        self.expect_long: Callable[[], bool] = bool
        self.transactions = Transactions(self, lambda: self._put)

    # --- acquire and release -------------------------------------------------------------------------------

    def acquire(
        self, source: str, connection: Any, frame: Any, describe: Callable[..., Tracked], *about: Any,
        make: Callable[..., Hold] = Hold,
    ) -> Hold:  # fmt: skip
        """Open a hold.

        Args:
            source: the adapter; only it can end the hold.
            connection: what was acquired.
            frame: the frame that called the adapter's hook.
            describe: called with the connection and ``about`` when it is first seen; calls `track`.
            about: further arguments of ``describe``.
            make: makes the hold.
        """
        tracked = self._tracked.get(id(connection))
        if tracked is None or tracked() is not connection:
            tracked = describe(connection, *about)
        return self.open(source, tracked, frame, make)

    def open(
        self, source: str, tracked: Tracked, frame: Any, make: Callable[..., Hold] = Hold,
        at: float | None = None, origin: Origin | None = None,
    ) -> Hold:  # fmt: skip
        """Open a hold of what is known already, acquired ``at`` that time in monotonic seconds, or now."""
        origin = origin or self.locate(frame)
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
        account = tracked.account
        totals = site.totals.get(account) or self.totals.of(site, account)
        if tracked.hold is not None:
            # The library hands it out again: it was returned in a way that nobody told us.
            self.over(tracked.hold)
        now = self.clock() if at is None else at
        number = next(self._numbers)
        in_task = None if task is None else weakref.ref(task)
        long_lived = site.long_lived or self.expect_long()
        hold = make(number, source, tracked, origin, thread, in_task, now, long_lived)
        hold.totals = totals
        # Written out: a ``with`` costs two and a half times as much as these two calls, on every acquire.
        lock = self._lock
        lock.acquire()
        try:
            totals.acquired += 1
            if pool is not None and hold.within is None:
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

        Returns the hold for `released`, or for `reinstate` if the library refuses; None if it is another's.
        """
        tracked = self._tracked.get(id(connection))
        if tracked is None or (tracked() is not connection and not tracked.may_be(connection)):
            return None
        if (hold := tracked.hold) is None:
            return None
        if hold.inner is not None:
            self.transactions.leaving(hold, connection)
        if hold.source != source and hold.pool is not None:
            self.transactions.left(hold)  # closed past its pool, to which it still has to be given back
            return None
        return hold if self._close(hold, _RELEASED, self.clock()) else None

    def released(self, hold: Hold) -> None:
        """Second half of a release, after the library has the connection: listeners."""
        if hold.inner is not None or hold.cursors:
            self.transactions.left(hold)
        self.listeners.released(hold)
        hold.span = None

    def reinstate(self, hold: Hold) -> None:
        """Take back the first half of a release: the library raised, it is still held."""
        with self._lock:
            tracked = hold.tracked
            given_out_again = tracked.hold is not None
            if not given_out_again:
                hold.outcome = _HELD
                tracked.hold = hold
                hold.thread.holds[hold.number] = hold
                # Fresh again, in its old place: that is where the overdue evidence looks for it.
                self._fresh = dict(sorted({**self._fresh, hold.number: hold}.items()))
                hold.totals.ended(hold, sign=-1)
                if hold.pool is not None and hold.within is None:
                    hold.pool.open += 1
        if given_out_again:
            self.released(hold)
        else:
            self.transactions.staying(hold)
            self._due(hold.acquired + self.overdue_after)

    def lose(self, hold: Hold, at: float) -> bool:
        """End a hold that nobody can release any more since ``at``; returns whether it was open."""
        if not self._close(hold, Outcome.LOST, at):
            return False
        self.released(hold)
        return True

    def reclaim(self, hold: Hold) -> None:
        """The library takes back what was dropped, also in a finalizer, and is about to give it to others."""
        hold.reclaimed = True
        connection = hold.tracked()
        if connection is not None:
            try:
                hold.transaction = hold.tracked.transaction(connection)
            except Exception:  # a broken one may refuse to tell, and is taken back all the same
                failed("transaction status")
        if self._close(hold, Outcome.LOST, self.clock()):
            self._put(Reclaimed(hold))

    def over(self, hold: Hold, at: float | None = None) -> None:
        """End a hold as released, since ``at`` or now: nobody has seen it, but nothing is left to release."""
        if self._close(hold, _RELEASED, self.clock() if at is None else at):
            self.released(hold)

    def replaced(self, hold: Hold, tracked: Tracked) -> None:
        """The library has replaced the connection below a hold by another one: the hold goes on with it."""
        with self._lock:
            if hold.outcome is _HELD:
                hold.tracked.hold = None
                hold.tracked = tracked
                tracked.hold = hold

    def _close(self, hold: Hold, outcome: Outcome, at: float) -> bool:
        pool = hold.pool
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
            hold.totals.ended(hold)
            if pool is not None and hold.within is None:
                pool.open -= 1
                if outcome is Outcome.LOST and not hold.reclaimed:
                    pool.lost += 1
        finally:
            lock.release()
        return True

    def called(
        self,
        hold: Hold,
        started: float,
        status: Transaction | None = None,
        error: BaseException | None = None,
    ) -> None:
        """A driver call has ended; what it does is in ``hold.verb``.

        Args:
            hold: of the connection.
            started: monotonic seconds of its start.
            status: the driver's transaction status after it, or None where it is not read.
            error: what it has raised, or None.
        """
        now = self.clock()
        hold.busy += now - started
        hold.busy_since = None
        hold.calls += 1
        hold.last_call = now
        verb = hold.verb
        if verb is not _NO_VERB:
            hold.verb = _NO_VERB
        if status is None:
            return
        inner = hold.inner
        # What most calls do changes nothing: it is sorted out here, for the price of a few comparisons.
        if inner is None:
            if status is not _IDLE:
                self.transactions.changed(hold, verb, status, error, started)
            elif hold.unsettled:
                hold.unsettled = 0
        elif status is not _OPEN or error is not None or inner.aborted:
            self.transactions.changed(hold, verb, status, error, started)
        elif verb is _WRITE:
            self.transactions.count(inner, verb)
        elif verb is not _READ and verb is not _NO_VERB:
            self.transactions.changed(hold, verb, status, error, started)
        hold.transaction = status

    # --- ownership -----------------------------------------------------------------------------------------

    def move(self, hold: Hold, origin: Origin, *, blame: bool) -> None:
        """Hand a hold on to another activation; with ``blame`` it is then that one's to answer for."""
        previous = hold.site
        site, owner, code, stack = origin
        with self._lock:
            hold.owner, hold.code = owner, code
            if blame and site.function != previous.function:
                hold.totals.acquired -= 1
                hold.totals = self.totals.of(site, hold.tracked.account)
                hold.totals.acquired += 1
                hold.site, hold.stack = site, hold.stack or stack
            else:
                blame = False
        if blame:
            self.listeners.moved(hold)

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
