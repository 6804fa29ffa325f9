"""When a transaction begins and how it ends, from what the driver says after each call (L1).

Pools hide what was never committed: they roll back on release, and say nothing. So a transaction is a hold of
its own (DESIGN section 4). It begins when the driver's status leaves idle, and is owned by the activation
whose call did that. The registry calls `changed` only where a call may have begun or ended one.
"""

from __future__ import annotations

import asyncio
import functools
import sys
from collections.abc import Callable
from typing import Any, Final, NamedTuple, Protocol

from otel_connleak.blocks import is_running
from otel_connleak.connection import Kind, Tracked, Transaction, tracked_of
from otel_connleak.drivers import driver_of
from otel_connleak.failures import Failures, error_now, has_failed
from otel_connleak.guard import failed
from otel_connleak.hold import Ending, Hold, Origin
from otel_connleak.nested import CursorHold, NestedHold, TransactionHold, loses
from otel_connleak.verbs import Verb

_ENDS: Final = frozenset({Verb.COMMIT, Verb.ROLLBACK, Verb.COMMIT_PREPARED, Verb.ROLLBACK_PREPARED})
_COMMITS: Final = frozenset({Verb.COMMIT, Verb.COMMIT_PREPARED})
_BEGUN: Final = frozenset({Transaction.OPEN, Transaction.ABORTED})


class Discarded(NamedTuple):
    """A message for the watchdog: this transaction's writes were lost when its connection was released."""

    hold: TransactionHold


class Holds(Protocol):
    """What is needed of the registry."""

    clock: Callable[[], float]

    def open(
        self, source: str, tracked: Tracked, frame: Any, make: Callable[..., Hold], at: float | None = None,
        origin: Origin | None = None,
    ) -> Hold:  # fmt: skip
        """Open a hold of what is known already."""

    def over(self, hold: Hold, at: float | None = None) -> None:
        """End a hold as released, at a time in monotonic seconds, or now."""


class Transactions:
    """The transactions and cursors within the holds of connections.

    A connection is used by one thread at a time, and so are its hold's fields that are changed here.

    Args:
        holds: the registry.
        put: takes a message for the watchdog.

    Attributes:
        failures: is told of what is written; None if nobody would tell it of exceptions.
    """

    def __init__(self, holds: Holds, put: Callable[[], Callable[[object], None]]) -> None:
        self._holds = holds
        self._put = put
        self.failures: Failures | None = None

    # --- begin ---------------------------------------------------------------------------------------------

    def begin(self, hold: Hold, started: float, spent: float | None = None) -> TransactionHold:
        """A transaction begins on a connection.

        Args:
            hold: of the connection.
            started: monotonic seconds of its begin.
            spent: seconds that the call took which began it and has been counted; None before that call.
        """
        make = functools.partial(TransactionHold, hold, spent)
        holds, frame, origin = self._holds, sys._getframe(1), hold.begun_by
        if origin is not None and not is_running(origin, frame):
            origin = None  # it has left the block to somebody else
        inner: Any = holds.open(hold.source, _transactions_of(hold), frame, make, started, origin)
        inner.error_before = error_now()
        hold.inner = inner
        return inner  # type: ignore[no-any-return]  # what ``make`` makes

    def expect(self, hold: Hold, connection: Any, statement: Any) -> None:
        """A statement is to be run: begin now what it certainly begins, so that its span is within.

        Only where somebody makes a span of the statement; else the transaction begins after the call.
        """
        if hold.inner is not None or hold.untold or hold.tracked() is None:
            return
        if driver_of(connection).begins(connection, statement):
            self.begin(hold, self._holds.clock())

    # --- what a call has done ------------------------------------------------------------------------------

    def changed(
        self, hold: Hold, verb: Verb, status: Transaction, error: BaseException | None, started: float
    ) -> None:
        """A driver call has ended that may have begun, ended or changed a transaction.

        Args:
            hold: of the connection; the call has been counted.
            verb: what the call does, as far as it is known.
            status: the driver's status after it.
            error: what it has raised, or None.
            started: monotonic seconds of its start.
        """
        inner: TransactionHold | None = hold.inner
        if status is Transaction.ACTIVE:
            # Rows are streamed or copied: a further call tells whether a transaction is open.
            if error is None and inner is not None:
                self.count(inner, verb)
            elif error is None and verb is Verb.WRITE:
                hold.unsettled += 1
            return
        if inner is None:
            if status not in _BEGUN or verb in _ENDS or hold.untold or hold.tracked() is None:
                return  # the last: in a finalizer, of a connection that is being collected
            inner = self.begin(hold, started, hold.last_call - started)
        elif status is Transaction.UNKNOWN and error is None:
            return
        elif status not in _BEGUN or (verb in _ENDS and error is None):
            self._ended_by_call(hold, inner, verb, error)
            return
        inner.aborted = status is Transaction.ABORTED or (error is not None and _aborts(hold, error))
        if hold.unsettled:
            inner.writes, hold.unsettled = inner.writes + hold.unsettled, 0
        if error is None:
            self.count(inner, verb)

    def count(self, inner: TransactionHold, verb: Verb) -> None:
        """A call has gone well in an open transaction."""
        inner.count(verb)
        if verb is Verb.WRITE and self.failures is not None:
            try:
                self.failures.wrote(inner, sys._getframe(1))
            except Exception:
                failed("write")

    def _ended_by_call(
        self, hold: Hold, inner: TransactionHold, verb: Verb, error: BaseException | None
    ) -> None:
        if verb is Verb.PREPARE and error is None:
            inner.prepared = True
            return
        if inner.prepared and verb not in _ENDS:
            return  # something else is asked meanwhile, of a connection that is idle
        if verb is Verb.ROLLBACK and inner.decided is not None:
            ending = inner.decided
        elif error is not None or inner.aborted or verb in (Verb.ROLLBACK, Verb.ROLLBACK_PREPARED):
            ending = Ending.ROLLED_BACK
        elif inner.calls <= 1 and verb not in _COMMITS:
            ending = Ending.NONE  # it was expected, and the server has not begun one
        else:
            ending = Ending.COMMITTED  # also by a statement that commits before it: MySQL's and Oracle's DDL
        self.end(hold, ending)

    # --- end -----------------------------------------------------------------------------------------------

    def leaving(self, hold: Hold, connection: Any) -> None:
        """A connection is about to be released, or rolled back because of that: how does its transaction end?

        In the thread or task that releases it: an exception that is in flight there is the reason, then.

        Args:
            hold: of the connection.
            connection: what its status is read from.
        """
        inner: TransactionHold | None = hold.inner
        if inner is None or inner.decided is not None:
            return
        status = Transaction.UNKNOWN
        try:
            status = hold.tracked.transaction(connection)
        except Exception:
            failed("transaction status")
        if inner.prepared:
            inner.decided = Ending.OPEN
        elif status is Transaction.NONE:
            inner.decided = Ending.COMMITTED if inner.ending is Ending.COMMITTED else Ending.NONE
        elif status is Transaction.OPEN and loses(inner) and not inner.aborted and not has_failed(inner):
            inner.decided = Ending.DISCARDED
        else:
            inner.decided = Ending.ROLLED_BACK

    def staying(self, hold: Hold) -> None:
        """The release was refused: the connection is still held, and its transaction is open."""
        if hold.inner is not None:
            hold.inner.decided = None

    def left(self, hold: Hold) -> None:
        """A connection has been released or lost: what was within it is over."""
        inner: TransactionHold | None = hold.inner
        if inner is not None:
            self.end(hold, inner.decided or Ending.ROLLED_BACK)
        if hold.cursors:
            for cursor in hold.cursors:
                self._close(cursor)
            hold.cursors = None

    def end(self, hold: Hold, ending: Ending) -> None:
        """The transaction of a connection ends; one that is a framework's block ends with `end_block`."""
        inner: TransactionHold = hold.inner
        inner.ending = ending
        if not inner.block or not hold.is_open:
            self._end(hold, inner)

    def end_block(self, hold: Hold, inner: TransactionHold, ending: Ending) -> None:
        """A framework's block is left, which was the transaction.

        Args:
            hold: of the connection.
            inner: of the block; nothing happens if it has ended before.
            ending: how the framework says that it ended.
        """
        if inner.is_open:
            inner.ending = ending
            self._end(hold, inner)

    def _end(self, hold: Hold, inner: TransactionHold) -> None:
        inner.keep_figures()
        if self.failures is not None and inner.written_in:
            self.failures.ended(inner)
        if hold.inner is inner:
            hold.inner = None
        if hold.ending is not Ending.DISCARDED:  # the worst is what the connection's hold says
            hold.ending = inner.ending
        for cursor in tuple(hold.cursors or ()):
            survives = inner.ending is Ending.COMMITTED or cursor.acquired < inner.acquired
            if not (survives and cursor.outlives):
                self.close_cursor(cursor)
        span = inner.span
        self._holds.over(inner, None if hold.is_open else hold.released)
        if inner.ending is Ending.DISCARDED and inner.decided is Ending.DISCARDED:
            inner.span = span  # for the report, which comes from the watchdog
            self._put()(Discarded(inner))

    # --- cursors -------------------------------------------------------------------------------------------

    def open_cursor(self, hold: Hold, tracked: Tracked, frame: Any, *, outlives: bool = False) -> CursorHold:
        """A cursor is opened whose rows the server keeps.

        Args:
            hold: of its connection.
            tracked: stands for the cursor; of the kind `Kind.CURSOR`.
            frame: the frame that called the adapter's hook.
            outlives: it does not end with its transaction.
        """
        make = functools.partial(CursorHold, hold, 0.0)
        cursor: Any = self._holds.open(hold.source, tracked, frame, make)
        cursor.outlives = outlives
        if hold.cursors is None:
            hold.cursors = []
        hold.cursors.append(cursor)
        return cursor  # type: ignore[no-any-return]  # what ``make`` makes

    def close_cursor(self, cursor: Hold) -> None:
        """A cursor was closed, or read to its end. Idempotent."""
        within = cursor.within
        if within is not None and within.cursors is not None and cursor in within.cursors:
            within.cursors.remove(cursor)
        self._close(cursor)

    def _close(self, cursor: Hold) -> None:
        if isinstance(cursor, NestedHold) and cursor.is_open:
            cursor.keep_figures()
            self._holds.over(cursor)


def _transactions_of(hold: Hold) -> Tracked:
    """What stands for the transactions of a connection: it refers to what they are ended by."""
    tracked = hold.tracked
    transactions = tracked.transactions
    if transactions is None:
        connection = tracked()
        # Nobody is told of its death: the connection's own record is, and its hold ends this one.
        transactions = tracked_of(
            connection, None, tracked.facts, tracked.transaction, tracked.pool, Kind.TRANSACTION, False
        )
        transactions.library, transactions.hint = tracked.library, tracked.transaction_hint
        if not transactions.hint:
            transactions.hint = driver_of(connection).transaction_hint
        tracked.transactions = transactions
    return transactions


def _aborts(hold: Hold, error: BaseException) -> bool:
    """Whether PostgreSQL has aborted the transaction with this error, which asyncpg does not tell.

    It has where a call was interrupted, too: the driver lets the server cancel it.
    """
    interrupted = isinstance(error, TimeoutError | asyncio.CancelledError)
    told = interrupted or getattr(error, "sqlstate", None) is not None
    return told and hold.tracked.facts.system == "postgresql"
