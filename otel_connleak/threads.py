"""One record for each thread that has acquired something, and the news of its end (L1)."""

from __future__ import annotations

import threading
from collections.abc import Callable

from otel_connleak.hold import ThreadRecord
from otel_connleak.native import get_ident


class _EndOfThread:
    """Lives in the thread's local storage, so that it is finalized when the thread ends.

    A finalizer may run anywhere; it only puts the record into a queue, and only if something is still held.
    """

    __slots__ = ("_clock", "_put", "_record")

    def __init__(
        self, record: ThreadRecord, clock: Callable[[], float], put: Callable[[ThreadRecord], None]
    ) -> None:
        self._record = record
        self._clock = clock
        self._put = put

    def __del__(self) -> None:
        record = self._record
        record.ended_at = self._clock()
        if record.holds:
            self._put(record)


class _Local(threading.local):
    record: ThreadRecord | None = None
    end: _EndOfThread | None = None


class Threads:
    """Gives the record of the current thread. Safe from any thread.

    Args:
        clock: monotonic seconds.
        put: takes the record of a thread that ended while it held something; called in a finalizer.
    """

    def __init__(self, clock: Callable[[], float], put: Callable[[ThreadRecord], None]) -> None:
        self._clock = clock
        self._put = put
        self._local = _Local()

    def current(self) -> ThreadRecord:
        """The record of the calling thread, made at its first acquire."""
        record = self._local.record
        return record if record is not None else self._first()

    def _first(self) -> ThreadRecord:
        record = ThreadRecord(threading.current_thread(), get_ident())
        self._local.record = record
        self._local.end = _EndOfThread(record, self._clock, self._put)
        return record
