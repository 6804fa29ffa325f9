"""SQLAlchemy's transactions: whose block one is, and who closes it without a word (L1).

The driver's hooks see each commit and rollback. What they cannot see is known here:

- ``begin()`` of a connection, an engine or a session comes long before the driver begins, perhaps in another
  function: whose block it is, is noted then. Without ``begin()`` SQLAlchemy begins just before the statement.
- ``close()`` of a connection or session rolls back before the pool gets the connection: no driver can tell
  this from a rollback that somebody wanted.
- The asyncio classes close in another task and in a greenlet, in which `sys.exception` knows of no exception.
"""

from __future__ import annotations

import functools
import sys
import weakref
from collections.abc import Callable
from types import FrameType
from typing import Any, Final

from otel_connleak.blocks import is_running
from otel_connleak.failures import error_now, exception_in_flight
from otel_connleak.frames import local_values
from otel_connleak.guard import failed
from otel_connleak.hold import Ending, Hold, Origin
from otel_connleak.patching import Patches
from otel_connleak.registry import Registry

_CLOSES: Final = frozenset({"sqlalchemy.engine.base", "sqlalchemy.orm.session"})
"""The modules that close a transaction because its connection or session is closed. From anywhere else that
is as good as a rollback, which ``Transaction.close`` is by its description."""
_FIRST_USE: Final = "_connection_for_bind"
"""The method in which a session's transaction begins one of the connection that it gets."""
_BY_ITSELF: Final = frozenset({_FIRST_USE, "_autobegin"})
"""The methods in which SQLAlchemy begins without ``begin()``."""
_ASYNC_CLOSES: Final = {
    "AsyncConnection": ("close", "invalidate"),
    "AsyncSession": ("close", "reset", "invalidate"),
}
"""The methods by which all others release, such as ``aclose`` and ``remove``."""


class TransactionHooks:
    """What replaces the functions of SQLAlchemy.

    Args:
        registry: is told.
        patches: of the adapter: while they are not active, the hooks do nothing but call the original.
        hold_of: gives the hold of a `sqlalchemy.Connection`, or None.
    """

    def __init__(self, registry: Registry, patches: Patches, hold_of: Callable[[Any], Hold | None]) -> None:
        self._registry = registry
        self._patches = patches
        self._hold_of = hold_of
        self._blocks: weakref.WeakKeyDictionary[Any, Origin] = weakref.WeakKeyDictionary()

    def install(self) -> None:
        """Hook connections and transactions. Raises `AttributeError` if they have changed."""
        from sqlalchemy.engine import Connection, Transaction

        for name in ("begin", "begin_twophase"):
            self._patches.replace(Connection, name, self._begins)
        self._patches.replace(Transaction, "close", self._closes)

    def install_sessions(self, module: Any) -> None:
        """Hook the imported ``sqlalchemy.orm.session``. Raises `AttributeError` if it has changed."""
        self._patches.replace(module.Session, "begin", self._begins_session)

    def install_async(self, module: Any) -> None:
        """Hook the imported ``sqlalchemy.ext.asyncio``. Raises `AttributeError` if it has changed."""
        for name, methods in _ASYNC_CLOSES.items():
            cls = getattr(module, name)
            for method in methods:
                if method != "reset" or method in vars(cls):  # which came with 2.0.22
                    self._patches.replace(cls, method, self._closes_async)
            self._patches.replace(cls, "__aexit__", self._exits_async)

    def thrown_away(self, hold: Hold | None) -> None:
        """A connection is invalidated, which ends its transaction: somebody wanted that."""
        if hold is not None and hold.inner is not None and hold.inner.decided is None:
            hold.inner.decided = Ending.ROLLED_BACK

    # --- begin ---------------------------------------------------------------------------------------------

    def _begins(self, original: Any) -> Any:
        @functools.wraps(original)
        def begin(connection: Any, *args: Any, **kwargs: Any) -> Any:
            if self._patches.active:
                self._note(connection, sys._getframe())
            return original(connection, *args, **kwargs)

        return begin

    def _note(self, connection: Any, frame: FrameType) -> None:
        """Note whose block it is. ``frame`` is our own: in a greenlet there may be no other above it."""
        try:
            hold = self._hold_of(connection)
            if hold is not None and connection.get_transaction() is None:
                hold.begun_by = self._whose(connection, frame)
        except Exception:
            failed("sqlalchemy begin")

    def _whose(self, connection: Any, frame: FrameType) -> Origin | None:
        """Whose the transaction is. None: that is found when the driver begins it, with the statement."""
        caller = frame.f_back
        asked = caller.f_code.co_name if caller is not None else ""
        if asked == _FIRST_USE and self._blocks:
            origin = self._block_of_session(caller)
            if origin is not None:
                return origin
        # An async driver begins in a coroutine that the code in the greenlet does not call, but waits for.
        found_later = asked in _BY_ITSELF and not connection.dialect.is_async
        return None if found_later else self._registry.locate(frame)

    def _block_of_session(self, caller: Any) -> Origin | None:
        """The ``begin()`` of the session that needs a connection now, while its block is there."""
        for transaction in local_values(caller, ("self",)):
            origin = self._blocks.get(transaction)
            if origin is not None and is_running(origin, caller):
                return origin
        return None

    def _begins_session(self, original: Any) -> Any:
        @functools.wraps(original)
        def begin(session: Any, *args: Any, **kwargs: Any) -> Any:
            transaction = original(session, *args, **kwargs)
            if self._patches.active:
                try:
                    if not transaction.nested:
                        self._blocks[transaction] = self._registry.locate(sys._getframe())
                except Exception:
                    failed("sqlalchemy begin")
            return transaction

        return begin

    # --- close ---------------------------------------------------------------------------------------------

    def _closes(self, original: Any) -> Any:
        @functools.wraps(original)
        def close(transaction: Any) -> Any:
            if self._patches.active and transaction._is_root:
                self._closing(transaction, sys._getframe().f_back)
            return original(transaction)

        return close

    def _closing(self, transaction: Any, caller: FrameType | None) -> None:
        try:
            if caller is None or caller.f_globals.get("__name__") not in _CLOSES:
                return
            hold = self._hold_of(transaction.connection)
            if hold is not None and hold.inner is not None:
                connection = hold.tracked()
                if connection is not None:
                    self._registry.transactions.leaving(hold, connection)
        except Exception:
            failed("sqlalchemy close")

    def _closes_async(self, original: Any) -> Any:
        @functools.wraps(original)
        async def close(this: Any, *args: Any, **kwargs: Any) -> Any:
            error = error_now()
            if not error or not self._patches.active:
                return await original(this, *args, **kwargs)
            token = exception_in_flight.set(error)
            try:
                return await original(this, *args, **kwargs)
            finally:
                exception_in_flight.reset(token)

        return close

    def _exits_async(self, original: Any) -> Any:
        @functools.wraps(original)
        async def leave(this: Any, kind: Any, error: Any, traceback: Any) -> Any:
            # Not `sys.exception`: a block may well be left as it should be while an exception is handled.
            token = exception_in_flight.set(0 if kind is None else id(error))
            try:
                return await original(this, kind, error, traceback)
            finally:
                exception_in_flight.reset(token)

        return leave
