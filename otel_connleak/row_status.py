"""The transaction status that MySQL sends after rows: PyMySQL and aiomysql read it and forget it (L1).

They keep the status that comes with an answer without rows. So after a ``SELECT`` it would not be known
whether this has opened a transaction, which it does where autocommit is off.
"""

from __future__ import annotations

import functools
import inspect
import sys
import weakref
from types import FrameType
from typing import Any, Final, Protocol

from otel_connleak.connection import Transaction
from otel_connleak.guard import failed
from otel_connleak.patching import Patches

_IN_TRANSACTION: Final = 1
_AUTOCOMMIT: Final = 2
"""Bits of the status, by MySQL's protocol."""
_STATUS: Final = slice(3, 5)
"""Where the status is in the packet that ends the rows (EOF): after its mark and the number of warnings."""

_after_rows: Final[weakref.WeakKeyDictionary[Any, int]] = weakref.WeakKeyDictionary()
"""The status that came with the last rows, by connection; none once there was an answer without rows."""


def transaction(connection: Any) -> Transaction:
    """The transaction status of an open connection of these drivers; may be read from any thread."""
    status = _after_rows.get(connection)
    known = status is not None
    if status is None:
        status = connection.server_status
    if status & _IN_TRANSACTION:
        return Transaction.OPEN
    result = connection._result
    # Rows that are still to come, and the status with them, or whose status nobody has kept: they may have
    # begun a transaction.
    unread = result is not None and (result.unbuffered_active or (result.field_count > 0 and not known))
    return Transaction.UNKNOWN if unread and not status & _AUTOCOMMIT else Transaction.NONE


class Cursors(Protocol):
    """What is told of results whose rows are still on the server: their connection is of no other use."""

    def opened(self, connection: Any, cursor: Any, frame: Any) -> None:
        """There are rows to be read one by one. Never raises."""

    def closed(self, cursor: Any) -> None:
        """There are no more. Never raises."""


def hook(patches: Patches, connections: Any, results: Any, cursors: Cursors) -> None:
    """Keep the status that comes with rows, and tell of rows that are read one by one.

    Args:
        patches: of the adapter.
        connections: the driver's class of connections.
        results: its class of results.
        cursors: is told of its results that have rows on the server.
    """
    replace = functools.partial(patches.replace, results)
    replace("init_unbuffered_query", functools.partial(_begins_rows, patches, cursors))
    replace("_check_packet_is_eof", functools.partial(_ends_rows, patches, cursors))
    replace("_read_ok_packet", functools.partial(_has_no_rows, patches))
    patches.replace(connections, "_read_ok_packet", functools.partial(_is_no_result, patches))


def _forget(connection: Any) -> None:
    """The status that the connection itself keeps is the newest."""
    try:
        if connection is not None:
            _after_rows.pop(connection, None)
    except Exception:
        failed("status without rows")


def _begins_rows(patches: Patches, cursors: Cursors, original: Any) -> Any:
    def begun(connection: Any, result: Any, frame: FrameType) -> None:
        if patches.active:
            if result.unbuffered_active:
                cursors.opened(connection, result, frame)
            else:
                _forget(connection)  # which the result does not know any more

    if inspect.iscoroutinefunction(original):

        @functools.wraps(original)
        async def init_async(result: Any) -> Any:
            connection = result.connection
            given = await original(result)
            begun(connection, result, sys._getframe(1))
            return given

        return init_async

    @functools.wraps(original)
    def init_unbuffered_query(result: Any) -> Any:
        connection = result.connection
        given = original(result)
        begun(connection, result, sys._getframe(1))
        return given

    return init_unbuffered_query


def _ends_rows(patches: Patches, cursors: Cursors, original: Any) -> Any:
    @functools.wraps(original)
    def _check_packet_is_eof(result: Any, packet: Any) -> Any:
        # Called for each row. That is what the original does first: so a row costs no more than before.
        if not packet.is_eof_packet():
            return False
        if patches.active:
            try:
                data = packet.get_all_data()
                _after_rows[result.connection] = int.from_bytes(data[_STATUS], "little")
            except Exception:
                failed("status after rows")
            if result.unbuffered_active:
                cursors.closed(result)
        return original(result, packet)

    return _check_packet_is_eof


def _has_no_rows(patches: Patches, original: Any) -> Any:
    @functools.wraps(original)
    def _read_ok_packet(result: Any, packet: Any) -> Any:
        if patches.active:
            _forget(result.connection)
        return original(result, packet)

    return _read_ok_packet


def _is_no_result(patches: Patches, original: Any) -> Any:
    @functools.wraps(original)
    def _read_ok_packet(connection: Any) -> Any:
        if patches.active:
            _forget(connection)
        return original(connection)  # with aiomysql this is a coroutine

    return _read_ok_packet
