"""SQLAlchemy's calls of drivers that have no hooks of their own here (L1)."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Final

from otel_connleak.call_hooks import CallHooks, Subject
from otel_connleak.hold import Hold
from otel_connleak.patching import Patches
from otel_connleak.registry import Registry
from otel_connleak.verbs import Verb

_STATEMENTS: Final = ("do_execute", "do_executemany", "do_execute_no_params")
"""The dialect's methods that call the driver with a statement; their last argument tells whose."""
_ENDS: Final = {
    "_commit_impl": Verb.COMMIT,
    "_rollback_impl": Verb.ROLLBACK,
    "_prepare_twophase_impl": Verb.PREPARE,
    "_commit_twophase_impl": Verb.COMMIT_PREPARED,
    "_rollback_twophase_impl": Verb.ROLLBACK_PREPARED,
}
"""The methods of SQLAlchemy's connection that end a transaction, whatever the dialect does then."""


class DriverCalls(CallHooks):
    """Hooks what calls the driver, but not before there is a connection that needs it: `start`.

    The statements of all engines pass through there. Events would not do: those of the engine do not come in
    pairs when something raises, and leave a mark on the class `Engine` that slows down every statement.

    Args:
        source: that of the adapter.
        registry: is told.
        patches: of the adapter: while they are not active, the hooks do nothing but call the original.
        held_of: gives what the hold of a `sqlalchemy.Connection` is of, or None.

    Attributes:
        counts: whether there is a connection whose driver does not tell of its calls.
    """

    def __init__(self, source: str, registry: Registry, patches: Patches, held_of: Subject) -> None:
        super().__init__(source, registry, patches)
        self._held_of = held_of
        self.counts = False

    def start(self) -> None:
        """There is such a connection. Idempotent; raises `AttributeError` if SQLAlchemy has changed."""
        from sqlalchemy.engine import Connection
        from sqlalchemy.engine.default import DefaultDialect

        if self.counts or not self._patches.active:
            return
        self.counts = True
        for name in _STATEMENTS:
            self._patches.replace(DefaultDialect, name, self._executes)
        for name, verb in _ENDS.items():
            self._patches.replace(Connection, name, functools.partial(self._ends, verb))

    def _executes(self, original: Any) -> Any:
        patches = self._patches

        @functools.wraps(original)
        def execute(dialect: Any, cursor: Any, statement: Any, *args: Any, **kwargs: Any) -> Any:
            if not patches.active:
                return original(dialect, cursor, statement, *args, **kwargs)
            context = kwargs.get("context", args[-1] if args else None)
            # Without a context somebody calls the dialect by himself.
            connection = getattr(context, "root_connection", None)
            return self._timed(
                connection, statement, lambda: original(dialect, cursor, statement, *args, **kwargs)
            )

        return execute

    def _ends(self, verb: Verb, original: Any) -> Any:
        @functools.wraps(original)
        def end(connection: Any, *args: Any, **kwargs: Any) -> Any:
            if not self._patches.active:
                return original(connection, *args, **kwargs)
            return self._timed(connection, verb, lambda: original(connection, *args, **kwargs))

        return end

    def _timed(self, connection: Any, given: Any, call: Callable[[], Any]) -> Any:
        """Call the driver with a statement, or to do what a verb says."""
        hold, started = self._calling(connection, self._held_or_none, given)
        if hold is None:
            return call()
        try:
            result = call()
        except BaseException as error:
            self._over(hold, started, error)
            raise
        self._over(hold, started)
        return result

    def _over(self, hold: Hold, started: float, error: BaseException | None = None) -> None:
        # Else the driver's own hooks have seen the call, and counted it.
        if hold.busy_since is started:
            self._called(hold, started, hold.tracked.transaction, error)

    def _held_or_none(self, connection: Any) -> Any:
        return self._held_of(connection) if connection is not None else None
