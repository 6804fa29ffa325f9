"""Whether an exception is why nothing was committed, also where it was handled before the release (L1).

`sys.exception` knows only of one that is being handled. But a framework may handle the exception of a view
and release the session later (Flask does: ``teardown_appcontext``), and so does a function that catches what
another one has raised. What was written is not lost by mistake then. So it is remembered which activations
were on the stack at a write, and where: an exception that leaves one of them, or is caught by a ``try``
around the write, is the reason, as long as nothing is written after it. One that is caught elsewhere, such as
the `KeyError` of a cache, is not.

Of `sys.monitoring` this takes ``PY_UNWIND``, which `otel_connleak.evidence.exits` has anyway, and ``LINE`` as
a local event of code that has written: it is switched off line by line, but for those where a handler begins.
``EXCEPTION_HANDLED`` would be simpler. CPython has it as a global event only before 3.15, and that makes
every ``except`` of the process half a microsecond dearer, three times as much as it is.
"""

from __future__ import annotations

import functools
import inspect
import sys
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from types import CodeType, FrameType
from typing import Any, Final, NamedTuple

from otel_connleak.frames import upwards
from otel_connleak.nested import TransactionHold

exception_in_flight: Final[ContextVar[int]] = ContextVar("otel_connleak_exception_in_flight", default=0)
"""Identity of an exception that leaves a block whose connection is released in another task, or another
greenlet: there `sys.exception` knows nothing of it. True is one that nobody has handled before; 0 is none."""

_GENERATOR: Final = inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR
_MOST_FRAMES: Final = 50
"""Activations of one stack that are remembered: endless recursion is no reason to grow."""


def error_now() -> int:
    """Identity of the exception that is being handled here, or that leaves a block; 0 if there is none."""
    error = sys.exception()
    return 0 if error is None else id(error)


def has_failed(inner: TransactionHold) -> bool:
    """Whether an exception is the reason for the release: none that was being handled before the begin."""
    if inner.failed_at == inner.writes:
        return True
    if isinstance(sys.exception(), GeneratorExit):
        # A generator is not run on to its end: a reason if it has written itself. If it has only given
        # the session to somebody else (``next(get_db())``), who has written, then it is that one's mistake.
        frames = (frame for frame in upwards(sys._getframe(1)) if frame.f_code.co_flags & _GENERATOR)
        return any(id(frame) in inner.written_in for frame in frames)
    found = error_now() or exception_in_flight.get()
    return bool(found) and found != inner.error_before


class _Write(NamedTuple):
    """An activation in which something was written, and the offset of the instruction that it was at."""

    inner: TransactionHold
    code: CodeType
    offset: int


class Failures:
    """Knows the activations in which open transactions were written to.

    Any thread, without a lock: an activation belongs to one, and a transaction is used by one at a time.

    Args:
        frames: gives the application's frames from a frame upwards.

    Attributes:
        watched: what was written in an activation, by the identity of its frame and the transaction's number.
        watch: called with code that has written within a ``try``: to be told of the lines it comes to.
    """

    def __init__(self, frames: Callable[[Any], Iterable[FrameType]]) -> None:
        self._frames = frames
        self.watched: dict[int, dict[int, _Write]] = {}
        self.watch: Callable[[CodeType], None] = lambda _code: None
        self._known: dict[int, tuple[weakref.ref[CodeType], dict[int, int]]] = {}

    def wrote(self, inner: TransactionHold, frame: Any) -> None:
        """Something has been written.

        Args:
            inner: the transaction.
            frame: from where the application's frames are looked for.
        """
        known, number = inner.written_in, inner.number
        for count, each in enumerate(self._frames(frame)):
            key, offset = id(each), each.f_lasti
            writes = self.watched.get(key)
            write = writes.get(number) if writes is not None else None
            if write is not None and write.code is each.f_code and write.offset == offset:
                return  # what is above it has not moved since
            if count == _MOST_FRAMES:
                return
            self.watched.setdefault(key, {})[number] = _Write(inner, each.f_code, offset)
            if write is None:
                known.append(key)
            self._handlers(each.f_code)

    def _handlers(self, code: CodeType) -> dict[int, int]:
        """The handlers of a function; whoever is the first to ask has its lines watched, if it has some.

        By its identity: to compute the hash of a code object takes longer than everything else here.
        """
        known = self._known.get(id(code))
        if known is not None and known[0]() is code:
            return known[1]
        handlers = _handlers(code)
        self._known[id(code)] = weakref.ref(code), handlers
        if handlers:
            self.watch(code)
        return handlers

    def ended(self, inner: TransactionHold) -> None:
        """A transaction is over."""
        for key in inner.written_in:
            writes = self.watched.get(key)
            if writes is not None:
                writes.pop(inner.number, None)
                if not writes:
                    self.watched.pop(key, None)

    def left(self, frame: FrameType) -> None:
        """An exception leaves an activation."""
        for write in self._writes(frame):
            write.inner.failed_at = write.inner.writes

    def reached(self, frame: FrameType) -> bool:
        """An activation has come to a line. Returns whether a handler of exceptions begins there."""
        handler = self._handlers(frame.f_code).get(frame.f_lasti)
        if handler is None:
            return False
        for write in self._writes(frame):
            if handler in _handlers_around(write.code, write.offset):
                write.inner.failed_at = write.inner.writes
        return True

    def clear(self) -> None:
        """Forget everything, in a forked child."""
        self.watched.clear()
        self._known.clear()

    def _writes(self, frame: FrameType) -> list[_Write]:
        watched = self.watched.get(id(frame))
        if watched is None:
            return []
        # The frame's identity may have been that of an activation that has returned.
        return [write for write in list(watched.values()) if write.code is frame.f_code]


def _handler_of(code: CodeType, offset: int) -> int | None:
    """Where an exception of an instruction goes to; None if it leaves the function."""
    targets = (target for start, end, target in _exception_table(code) if start <= offset < end)
    return next(targets, None)


def _handlers(code: CodeType) -> dict[int, int]:
    """The handlers of a function, by the offset of their first instruction that belongs to a line.

    Those that only the interpreter needs have none: what comes after them is the beginning of another one.
    """
    lines = [(start, end) for start, end, line in code.co_lines() if line is not None]
    targets = sorted({target for _, _, target in _exception_table(code)})
    found: dict[int, int] = {}
    for target, following in zip(targets, [*targets, len(code.co_code)][1:], strict=True):
        first = next((max(start, target) for start, end in lines if end > target), following)
        if first < following:
            found[first] = target
    return found


@functools.lru_cache(maxsize=1_000)
def _handlers_around(code: CodeType, offset: int) -> frozenset[int]:
    """The handlers of all ``try`` and ``with`` blocks around an instruction."""
    found: set[int] = set()
    handler = _handler_of(code, offset)
    while handler is not None and handler not in found:
        found.add(handler)
        handler = _handler_of(code, handler)  # what is around the block is around its handler
    return frozenset(found)


def _exception_table(code: CodeType) -> Iterator[tuple[int, int, int]]:
    """Start, end and target of each entry; `dis` reads them as well, but has no public function for it.

    The format: CPython, ``InternalDocs/exception_handling.md``.
    """
    values = _numbers(code.co_exceptiontable)
    for start in values:
        length, target, _depth = next(values), next(values), next(values)
        yield start * 2, (start + length) * 2, target * 2


def _numbers(table: bytes) -> Iterator[int]:
    number = 0
    for byte in table:
        number = (number << 6) | (byte & 63)
        if not byte & 64:
            yield number
            number = 0
