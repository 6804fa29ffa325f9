"""The hooks around what calls the driver: its time, its statement, what it does to the transaction (L1)."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, Final

from otel_connleak.connection import Transaction
from otel_connleak.guard import failed
from otel_connleak.hold import Hold
from otel_connleak.patching import Patches
from otel_connleak.registry import Registry
from otel_connleak.verbs import Verb, verb_of

type Subject = Callable[[Any], Any]
"""Gives the connection that is tracked, of what the application has or of what a method is called on."""

METHODS: Final = {
    "commit": Verb.COMMIT,
    "rollback": Verb.ROLLBACK,
    "tpc_prepare": Verb.PREPARE,
    "tpc_commit": Verb.COMMIT_PREPARED,
    "tpc_rollback": Verb.ROLLBACK_PREPARED,
}
"""What methods do that have these names in every module of DB-API 2.0 (PEP 249)."""
_NO_STATEMENT: Final = object()
_READ, _WRITE = Verb.READ, Verb.WRITE


def itself(subject: Any) -> Any:
    """What the application has is the connection."""
    return subject


class CallHooks:
    """The hooks of one adapter around the driver's calls.

    Args:
        source: the adapter's name; only it ends the holds that it has opened.
        registry: is told.
        patches: of the adapter: while they are not active, the hooks do nothing but call the original.
    """

    def __init__(self, source: str, registry: Registry, patches: Patches) -> None:
        self._source = source
        self._registry = registry
        self._patches = patches

    def calls(
        self,
        original: Any,
        transaction: Callable[[Any], Transaction] | None = None,
        subject: Subject = itself,
        *,
        statement: bool = False,
        verb: Verb | None = None,
    ) -> Any:
        """For a method that calls the server: its time is not idle time.

        Args:
            original: the method.
            transaction: reads the transaction status of the connection, after the call.
            subject: of the object that the method is called on.
            statement: whether the method's first argument is a statement.
            verb: what the method does, if it takes no statement; None is what its name says.
        """
        does = verb or METHODS.get(original.__name__, Verb.NONE)

        @functools.wraps(original)
        def call(this: Any, *args: Any, **kwargs: Any) -> Any:
            hold, started = self._calling(this, subject, _statement(args, kwargs) if statement else does)
            if hold is None:
                return original(this, *args, **kwargs)
            try:
                result = original(this, *args, **kwargs)
            except BaseException as error:
                self._called(hold, started, transaction, error)
                raise
            if hold.verb is _WRITE and wrote_nothing(this, result):
                hold.verb = Verb.READ
            self._called(hold, started, transaction)
            return result

        return call

    def calls_async(
        self,
        original: Any,
        transaction: Callable[[Any], Transaction] | None = None,
        subject: Subject = itself,
        *,
        statement: bool = False,
        verb: Verb | None = None,
    ) -> Any:
        """The same for a coroutine function, or one that gives a coroutine."""
        does = verb or METHODS.get(original.__name__, Verb.NONE)

        async def timed(this: Any, coroutine: Any, given: Any) -> Any:
            hold, started = self._calling(this, subject, given)
            if hold is None:
                return await coroutine
            try:
                result = await coroutine
            except BaseException as error:
                self._called(hold, started, transaction, error)
                raise
            if hold.verb is _WRITE and wrote_nothing(this, result):
                hold.verb = Verb.READ
            self._called(hold, started, transaction)
            return result

        if inspect.iscoroutinefunction(original):

            @functools.wraps(original)
            async def call(this: Any, *args: Any, **kwargs: Any) -> Any:
                given = _statement(args, kwargs) if statement else does
                return await timed(this, original(this, *args, **kwargs), given)

            return call

        @functools.wraps(original)
        def call_at_once(this: Any, *args: Any, **kwargs: Any) -> Any:
            # An ordinary function that gives a coroutine: what it checks before raises at the call.
            given = _statement(args, kwargs) if statement else does
            return timed(this, original(this, *args, **kwargs), given)

        return call_at_once

    def _calling(self, this: Any, subject: Subject, given: Any) -> tuple[Hold | None, float]:
        """A driver call begins: the hold it belongs to, and when it began.

        Args:
            this: what the method is called on.
            subject: gives its connection.
            given: the statement, or the verb of a method that takes none.
        """
        if not self._patches.active:
            return None, 0.0
        try:
            connection = subject(this)
            hold = self._registry.hold_of(connection) if connection is not None else None
            if hold is None or hold.busy_since is not None:
                return None, 0.0  # within another call, which counts
            if type(given) is Verb:
                hold.verb = given
            elif given is not _NO_STATEMENT:
                verb = verb_of(given)
                if verb is not _READ:  # that is what it is taken for anyway
                    hold.verb = verb
                hold.statement = given
            started = hold.busy_since = self._registry.clock()
        except Exception:
            failed(f"{self._source} call")
            return None, 0.0
        return hold, started

    def _called(
        self,
        hold: Hold,
        started: float,
        transaction: Callable[[Any], Transaction] | None,
        error: BaseException | None = None,
    ) -> None:
        status = None
        if transaction is not None and (connection := hold.tracked()) is not None:
            try:
                status = transaction(connection)
            except Exception:  # it broke in the call, and says nothing any more
                status = Transaction.UNKNOWN
        try:
            self._registry.called(hold, started, status, error)
        except Exception:
            failed(f"{self._source} call")


def wrote_nothing(*about: Any) -> bool:
    """Whether a call that has gone well has changed no row, as far as it is known without asking the server.

    Args:
        about: a cursor that ran it, or what it has returned: PEP 249 has ``rowcount`` for that, which is -1
            or None where it is not known; asyncpg gives the server's command tag (``UPDATE 0``).
    """
    for each in about:
        if type(each) is str:
            return each.endswith(" 0")
        try:
            count = each.rowcount
        except Exception:  # it has none, or is for another thread only
            continue
        if type(count) is int:
            return count == 0
    return False


def _statement(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The first argument of a method that takes a statement there; some applications name it."""
    if args:
        return args[0]
    return next(iter(kwargs.values()), _NO_STATEMENT)
