"""What of asyncpg calls the server, and the cursors that it opens there (L1).

A cursor cannot be weakly referenced. Its arguments are not used any more once the server has them: what takes
their place stands for the cursor. It is open until it is read to its end, or until its transaction ends.
"""

from __future__ import annotations

import functools
import sys
from types import FrameType
from typing import Any, Final

from otel_connleak.call_hooks import Subject
from otel_connleak.drivers.asyncpg import DRIVER
from otel_connleak.guard import failed
from otel_connleak.hold import Hold
from otel_connleak.hooks import Hooks
from otel_connleak.patching import Patches
from otel_connleak.registry import Registry
from otel_connleak.server_cursors import ServerCursors
from otel_connleak.verbs import Verb

_CURSOR_HINT: Final = (
    "read it to its end, or leave `async with connection.transaction():` soon: nothing else closes it"
)
_CALLS: Final = "execute _execute _executemany _copy_in _copy_out".split()
"""What of `Connection` calls the server, with a statement; other methods go through these, but for two."""
_CURSOR_CALLS: Final = "_bind_exec _bind _exec".split()
"""What of a cursor calls the server, but for one."""


class AsyncpgCalls:
    """The hooks around the driver calls of all connections.

    Args:
        source: the adapter's name.
        registry: has the holds.
        patches: of the adapter.
    """

    def __init__(self, source: str, registry: Registry, patches: Patches) -> None:
        self._shared = source, registry, patches
        self._patches = patches
        self._cursors = ServerCursors(*self._shared, _CURSOR_HINT)

    def hook(self) -> None:
        """Hook all of them. Raises `AttributeError` if asyncpg has changed."""
        from asyncpg.connection import Connection
        from asyncpg.cursor import BaseCursor, Cursor
        from asyncpg.prepared_stmt import PreparedStatement

        hooks = Hooks(*self._shared)
        replace, status = self._patches.replace, DRIVER.transaction
        for name in _CALLS:
            replace(Connection, name, lambda it: hooks.calls_async(it, status, statement=True))
        replace(
            Connection, "copy_records_to_table", lambda it: hooks.calls_async(it, status, verb=Verb.WRITE)
        )
        preparing, prepared = _Preparing(*self._shared), _Prepared(*self._shared)
        replace(Connection, "_get_statement", lambda it: preparing.calls_async(it, status, statement=True))

        def asks(original: Any) -> Any:
            return prepared.calls_async(original, status, _connection_of)

        replace(PreparedStatement, "_PreparedStatement__do_execute", asks)
        for cls, name in [(BaseCursor, name) for name in _CURSOR_CALLS] + [(Cursor, "forward")]:
            replace(cls, name, lambda it: self._opens_or_ends(asks(it)))

    def _opens_or_ends(self, original: Any) -> Any:
        """For what opens a cursor, or reads from it, perhaps its last row."""

        async def look(cursor: Any, coroutine: Any) -> Any:
            result = await coroutine
            if self._patches.active:
                try:
                    self._look_at(cursor, sys._getframe(1))
                except Exception:
                    failed("asyncpg cursor")
            return result

        @functools.wraps(original)
        def call(cursor: Any, *args: Any, **kwargs: Any) -> Any:
            # What asyncpg refuses at the call is refused at the call.
            return look(cursor, original(cursor, *args, **kwargs))

        return call

    def _look_at(self, cursor: Any, frame: FrameType) -> None:
        known = type(cursor._args) is _Arguments
        if cursor._exhausted or not cursor._portal_name:
            if known:
                self._cursors.closed(cursor._args)
        elif not known:
            cursor._args = _Arguments(cursor._args)
            self._cursors.opened(cursor._connection, cursor._args, frame)


class _Prepared(Hooks):
    """For prepared statements and cursors, which know their statement."""

    def _calling(self, this: Any, subject: Subject, _given: Any) -> tuple[Hold | None, float]:
        return super()._calling(this, subject, this._query)


class _Preparing(Hooks):
    """For what only prepares a statement: nothing is written yet."""

    def _calling(self, this: Any, subject: Subject, given: Any) -> tuple[Hold | None, float]:
        hold, started = super()._calling(this, subject, given)
        if hold is not None:
            hold.verb = Verb.READ
        return hold, started


class _Arguments(list[Any]):
    """The arguments of a cursor, in place of a tuple: this can be weakly referenced. It looks like one."""

    def __repr__(self) -> str:
        return repr(tuple(self))

    __str__ = __repr__


def _connection_of(resource: Any) -> Any:
    return resource._connection
