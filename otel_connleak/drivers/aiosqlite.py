"""aiosqlite (L1): its connections drive one of sqlite3 each, in a thread of their own."""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator
from types import FrameType
from typing import Any, Final

from otel_connleak.connection import Facts, Transaction
from otel_connleak.drivers import Driver, driver_of
from otel_connleak.frames import local_values


def facts(connection: Any) -> Facts:
    """What is known of the connection that it drives."""
    driven = connection._connection
    return driver_of(driven).facts(driven)


def transaction(connection: Any) -> Transaction:
    """The transaction status of the connection that it drives; may be read from any thread."""
    driven = connection._connection
    return Transaction.UNKNOWN if driven is None else driver_of(driven).transaction(driven)


def references_of_its_thread(connection: Any) -> int:
    """How many references a connection has from its thread, which waits with what it has run last.

    Of the functions that it runs some are methods of the connection: ``execute_fetchall`` leaves one behind.
    """
    frame = sys._current_frames().get(connection._thread.ident)
    last = [value for each in _upwards(frame) for value in local_values(each, ("function",))]
    return sum(getattr(each.func, "__self__", None) is connection for each in last if _is_partial(each))


def _upwards(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


def _is_partial(value: Any) -> bool:
    return type(value) is functools.partial


DRIVER: Final = Driver(
    facts,
    transaction,
    transaction_hint="call `await connection.commit()` or `rollback()` on every path",
)
