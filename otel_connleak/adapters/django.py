"""Django: the connection that it keeps for each thread, and its ``atomic`` blocks (L2).

A connection belongs to its thread. Whatever needs it first opens it, and Django closes it at the end of a
request, or much later (``CONN_MAX_AGE``): so only a thread that ends with it speaks against it. The outermost
``atomic`` block is the transaction (`otel_connleak.django_blocks`); without one, what the driver says.
"""

from __future__ import annotations

import functools
import sys
import weakref
from types import FrameType
from typing import Any, Final

from otel_connleak.config import Settings
from otel_connleak.connection import Pool, Tracked, Transaction
from otel_connleak.django_blocks import AtomicBlocks, asking, status_of
from otel_connleak.drivers import driver_of
from otel_connleak.drivers.django import DRIVER, has_connected, pool_figures, pool_name, sees_calls, trackable
from otel_connleak.guard import failed
from otel_connleak.hooks import Hooks
from otel_connleak.nesting import inside
from otel_connleak.patching import Patches
from otel_connleak.registry import Registry
from otel_connleak.verbs import Verb

_SOURCE: Final = "django"
_HINT: Final = (
    "call `connection.close()` in a `finally` before the thread ends: Django does so after requests only"
)
_KEPT_HINT: Final = (
    f"{_HINT}; where each request has a thread (ASGI, gevent, runserver), set CONN_MAX_AGE to 0"
)
_TRANSACTION_HINT: Final = (
    "use `with transaction.atomic():`, or call `commit()` on every path while autocommit is off"
)


class DjangoAdapter:
    """Hooks connect and close of all backends, ``Atomic``, and what runs a statement."""

    module = "django.db"  # and not the one of the backends: the first ``atomic`` block loads that

    def __init__(self) -> None:
        self._patches = Patches()

    def install(self, registry: Registry, settings: Settings) -> None:
        """Hook Django. Raises `AttributeError` if it has changed."""
        from django.db import transaction
        from django.db.backends.base.base import BaseDatabaseWrapper
        from django.db.backends.utils import CursorWrapper

        self._registry = registry
        self._blocks = AtomicBlocks(_SOURCE, registry, self._patches, transaction.get_connection)
        self._pools: weakref.WeakKeyDictionary[Any, Pool] = weakref.WeakKeyDictionary()
        hooks = Hooks(_SOURCE, registry, self._patches)
        closes = functools.partial(hooks.releases, subject=self._to_close)
        calls = functools.partial(hooks.calls, transaction=self._status)
        runs = functools.partial(calls, subject=self._before_statement, statement=True)
        replace = self._patches.replace
        replace(BaseDatabaseWrapper, "connect", self._connect)
        replace(BaseDatabaseWrapper, "close", closes)
        replace(BaseDatabaseWrapper, "run_and_clear_commit_hooks", self._blocks.commits)
        replace(BaseDatabaseWrapper, "_commit", functools.partial(calls, subject=_unseen, verb=Verb.COMMIT))
        ends = functools.partial(calls, subject=_unseen, verb=Verb.ROLLBACK)
        replace(BaseDatabaseWrapper, "_rollback", ends)
        replace(transaction.Atomic, "__enter__", self._blocks.enters)
        replace(transaction.Atomic, "__exit__", self._blocks.exits)
        replace(CursorWrapper, "_execute_with_wrappers", runs)
        replace(CursorWrapper, "callproc", runs)

    def uninstall(self) -> None:
        """Give back the identical functions."""
        self._patches.undo()

    # --- connections ---------------------------------------------------------------------------------------

    def _connect(self, original: Any) -> Any:
        @functools.wraps(original)
        def connect(wrapper: Any, *args: Any, **kwargs: Any) -> Any:
            if not self._patches.active:
                return original(wrapper, *args, **kwargs)
            before = wrapper.connection
            token = inside.set(True)
            try:
                return original(wrapper, *args, **kwargs)
            finally:
                inside.reset(token)
                # Also when it has raised: the connection may be there, and is used by the next query.
                self._connected(wrapper, before, sys._getframe(1))

        return connect

    def _connected(self, wrapper: Any, before: Any, frame: FrameType) -> None:
        try:
            if has_connected(wrapper, before):
                self._registry.acquire(_SOURCE, trackable(wrapper), asking(frame), self._track, wrapper)
        except Exception:
            failed("django connect")

    def _track(self, connection: Any, wrapper: Any) -> Tracked:
        status: Any = driver_of(connection).transaction
        if not sees_calls(wrapper):
            status = functools.partial(status_of, weakref.ref(wrapper))
        pool = self._pool_of(wrapper)
        tracked = self._registry.track(connection, DRIVER.facts(wrapper), status, pool, by_design=True)
        tracked.hint = _HINT if wrapper.settings_dict["CONN_MAX_AGE"] == 0 else _KEPT_HINT
        tracked.transaction_hint = _TRANSACTION_HINT
        return tracked

    def _pool_of(self, wrapper: Any) -> Pool | None:
        """The pool that a database has by its option ``pool``."""
        library = getattr(wrapper, "pool", None)
        if not library:
            return None
        known = self._pools.get(library)
        if known is None:
            reference = weakref.ref(library)
            known = Pool(pool_name(wrapper), lambda: pool_figures(reference()), _HINT, library=reference)
        # Threads may come here at the same time: one record counts what all of them hold.
        return self._pools.setdefault(library, known)

    def _to_close(self, wrapper: Any) -> Any:
        """What ``close()`` releases; nothing if it has no connection, or refuses because of the thread."""
        if wrapper.connection is None or wrapper.closed_in_transaction:
            return None
        try:
            wrapper.validate_thread_sharing()
        except Exception:
            return None
        self._blocks.closing(wrapper)
        return trackable(wrapper)

    # --- statements ----------------------------------------------------------------------------------------

    def _before_statement(self, cursor: Any) -> Any:
        """A statement is to be run; gives the connection if its driver does not tell us of that itself."""
        self._blocks.before_statement(cursor.db)
        return _unseen(cursor.db)

    def _status(self, connection: Any) -> Transaction:
        """The status where the driver's calls are not seen: what Django knows."""
        hold = self._registry.hold_of(connection)
        return Transaction.UNKNOWN if hold is None else hold.tracked.transaction(connection)


def _unseen(wrapper: Any) -> Any:
    """What is tracked of a connection whose driver does not tell us of its calls; else None."""
    return None if wrapper.connection is None or sees_calls(wrapper) else trackable(wrapper)
