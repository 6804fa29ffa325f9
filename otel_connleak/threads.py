"""One record for each thread that has acquired something, and the news of its end (L1)."""

from __future__ import annotations

import sys
import threading
import weakref
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from otel_connleak.hold import ThreadRecord
from otel_connleak.native import get_ident, threads_are_greenlets


def process_ends() -> bool:
    """Whether the interpreter shuts down: it waits for its threads then, and these end because of that."""
    return bool(getattr(threading, "_SHUTTING_DOWN", False))


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
        self._greenlets: dict[int, tuple[weakref.ref[Any], ThreadRecord]] = {}

    def current(self) -> ThreadRecord:
        """The record of the calling thread, made at its first acquire."""
        record = self._local.record
        return record if record is not None else self._first()

    def _first(self) -> ThreadRecord:
        if threads_are_greenlets():
            return self._of_greenlet()
        record = ThreadRecord(threading.current_thread(), get_ident())
        self._local.record = record
        self._local.end = _EndOfThread(record, self._clock, self._put)
        return record

    def _of_greenlet(self) -> ThreadRecord:
        """The record of the current greenlet, where greenlets stand for threads; it ends with it."""
        current = sys.modules["greenlet"].getcurrent()
        known = self._greenlets.get(id(current))
        if known is not None and known[0]() is current:
            return known[1]
        name = getattr(current, "name", None) or threading.current_thread().name
        record = ThreadRecord(SimpleNamespace(name=name), get_ident())
        greenlets, clock, put, key = self._greenlets, self._clock, self._put, id(current)

        def ended(reference: weakref.ref[Any]) -> None:
            # Runs in the garbage collector: nothing but this.
            record.ended_at = clock()
            if record.holds:
                put(record)
            if key in greenlets and greenlets[key][0] is reference:
                del greenlets[key]

        greenlets[key] = weakref.ref(current, ended), record
        return record
