"""What is held within a connection's hold: its open transaction, and cursors that the server keeps (L0)."""

from __future__ import annotations

from typing import Any

from otel_connleak.hold import Hold
from otel_connleak.verbs import Verb

type _Figures = tuple[float, int, float, Any]


class NestedHold(Hold):
    """A hold of something that exists on a connection, and ends with it at the latest.

    What the connection calls meanwhile are its own driver calls: the figures are read from there, and kept
    from the moment on at which this has ended.

    Attributes:
        within: the hold of the connection. There the driver's hooks note the calls.
        covered: the report of the connection, or of its transaction, has spoken of this as well.
    """

    covered: bool = False
    _kept: _Figures | None = None

    busy: Any = property(lambda self: self._figures()[0])
    busy_since: Any = property(lambda self: self.within.busy_since)
    calls: Any = property(lambda self: self._figures()[1])
    last_call: Any = property(lambda self: self._figures()[2])
    statement: Any = property(lambda self: self._figures()[3])
    transaction: Any = property(lambda self: self.within.transaction)

    def __init__(self, within: Hold, begun_by_call: float | None, *about: Any) -> None:
        """Begin one.

        Args:
            within: the hold of the connection.
            begun_by_call: seconds that the driver call took with which this began, and which has just been
                counted; or None, where it began before any.
            about: the further arguments of `Hold`.
        """
        self.within: Hold = within
        self._calls_before = within.calls - (begun_by_call is not None)
        self._busy_before = within.busy - (begun_by_call or 0.0)
        super().__init__(*about)

    def keep_figures(self) -> None:
        """It has ended: what the connection calls from now on is not its own."""
        self._kept = self._figures()

    def _figures(self) -> _Figures:
        if self._kept is not None:
            return self._kept
        within = self.within
        calls = within.calls - self._calls_before
        last = (within.last_call, within.statement) if calls else (0.0, None)
        return (within.busy - self._busy_before, calls, *last)


class TransactionHold(NestedHold):
    """The hold of a transaction.

    It never becomes overdue while nothing was called in it: only with the first does the server begin one.

    Attributes:
        writes: statements that have written, and would be lost with it.
        aborted: the server refuses everything but its end.
        savepoints: the number of writes at each savepoint that was set, the last one last.
        written_in: identities of the frames in which it was written to.
        failed_at: how many writes there were when an exception left what had written; -1 if none has.
        prepared: it is prepared for two-phase commit, and the server keeps it without the connection.
        block: a block of a framework is its end, and not what the driver says.
        decided: how it ends, decided when the connection was about to be released.
        error_before: identity of the exception that was being handled when it began, or 0.
    """

    writes: int = 0
    aborted: bool = False
    savepoints: list[int] | None = None
    prepared: bool = False
    block: bool = False
    decided: Any = None
    error_before: int = 0
    failed_at: int = -1

    long_lived: Any = property(
        lambda self: self._long_lived or not self.calls,
        lambda self, value: setattr(self, "_long_lived", value),
    )

    def __init__(self, *about: Any) -> None:
        """Begin one, as `NestedHold`."""
        super().__init__(*about)
        self.written_in: list[int] = []

    def count(self, verb: Verb) -> None:
        """A call has gone well: what is rolled back to a savepoint is not written any more."""
        if verb is Verb.WRITE:
            self.writes += 1
        elif verb is Verb.SAVEPOINT:
            self.savepoints = [*(self.savepoints or ()), self.writes]
        elif self.savepoints and verb is Verb.RELEASE:
            self.savepoints.pop()
        elif self.savepoints and verb is Verb.ROLLBACK_TO:
            self.writes = self.savepoints[-1]


class CursorHold(NestedHold):
    """The hold of a cursor whose rows the server keeps, or of a result that is still being read.

    Attributes:
        outlives: it does not end with its transaction (``WITH HOLD``).
    """

    outlives: bool = False


def covered(hold: Hold) -> bool:
    """Whether the report of its connection, or of its transaction, has spoken of what is within, or will.

    A connection that was taken back in a finalizer has ended, and what is within ends when that is reported.
    """
    return isinstance(hold, NestedHold) and (hold.covered or hold.within.reclaimed)


def cover(hold: Hold) -> None:
    """A hold is reported: what is within it is no report of its own, as long as this is held."""
    connection = hold.within or hold
    if hold.within is None and connection.inner is not None:
        connection.inner.covered = True
    for cursor in connection.cursors or ():
        if isinstance(cursor, NestedHold) and cursor is not hold:
            cursor.covered = True


def has_begun(hold: Hold) -> bool:
    """Whether the server knows of it: not of a transaction in which nothing has been called yet."""
    return not isinstance(hold, TransactionHold) or hold.block or hold.calls > 0


def loses(hold: Hold) -> bool:
    """Whether something is lost if it is rolled back, or ends with the process: what it has written.

    Not in an SQLite database in memory, which goes with its connection; a pool's connection stays.
    """
    if not isinstance(hold, TransactionHold) or not hold.writes:
        return False
    facts = hold.tracked.facts
    return hold.pool is not None or facts.has_server or facts.namespace != ":memory:"
