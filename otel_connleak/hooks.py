"""The hooks that most adapters need: around what acquires, what releases, and what calls the driver (L1).

Each takes the original function and gives its replacement. Values and exceptions pass through as they are,
and none of ours comes out (promise 1 of DESIGN section 6). An adapter that needs something else writes it.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable
from typing import Any

from otel_connleak.connection import Tracked, Transaction
from otel_connleak.guard import failed
from otel_connleak.hold import Hold
from otel_connleak.nesting import connects_for_a_pool, inside
from otel_connleak.patching import Patches
from otel_connleak.registry import Registry

type Subject = Callable[[Any], Any]
"""Gives the connection that is tracked, of what the application has or of what a method is called on."""


def itself(subject: Any) -> Any:
    """What the application has is the connection."""
    return subject


class Hooks:
    """The hooks of one adapter.

    Args:
        source: the adapter's name; only it ends the holds that it has opened.
        registry: is told.
        patches: of the adapter: while they are not active, the hooks do nothing but call the original.
    """

    def __init__(self, source: str, registry: Registry, patches: Patches) -> None:
        self._source = source
        self._registry = registry
        self._patches = patches

    def acquires(
        self,
        original: Any,
        track: Callable[..., Tracked],
        subject: Subject = itself,
        *,
        direct: bool = False,
    ) -> Any:
        """For a function that gives the application a connection.

        What it acquires of other libraries meanwhile is no hold of its own.

        Args:
            original: the function, or method of a pool.
            track: called with the connection when it is first seen, and with the function's first argument.
            subject: of what the function returns.
            direct: it connects to the server: not the application's, if another library's pool calls it.
        """

        @functools.wraps(original)
        def acquire(*args: Any, **kwargs: Any) -> Any:
            if not self._patches.active or inside.get():
                return original(*args, **kwargs)
            token = inside.set(True)
            try:
                given = original(*args, **kwargs)
            finally:
                inside.reset(token)
            self._acquired(given, sys._getframe(1), track, subject, direct, args)
            return given

        return acquire

    def acquires_async(
        self,
        original: Any,
        track: Callable[..., Tracked],
        subject: Subject = itself,
        *,
        direct: bool = False,
    ) -> Any:
        """The same for a coroutine function."""

        @functools.wraps(original)
        async def acquire(*args: Any, **kwargs: Any) -> Any:
            if not self._patches.active or inside.get():
                return await original(*args, **kwargs)
            token = inside.set(True)
            try:
                given = await original(*args, **kwargs)
            finally:
                inside.reset(token)
            self._acquired(given, sys._getframe(1), track, subject, direct, args)
            return given

        return acquire

    def releases(
        self, original: Any, subject: Subject = itself, *, at: int = 0, refuses: bool = False
    ) -> Any:
        """For a function that takes a connection back, or closes it.

        Args:
            original: the function or method.
            subject: of its argument ``at``.
            at: the position of the argument that is, or carries, the connection: 0 is ``self``.
            refuses: whether the connection is still held when the function raises. Else it is gone anyway.
        """

        @functools.wraps(original)
        def release(*args: Any, **kwargs: Any) -> Any:
            hold = self._releasing(subject, at, args, kwargs)
            if hold is None:
                return original(*args, **kwargs)
            try:
                result = original(*args, **kwargs)
            except BaseException:
                self._ended(hold, refused=refuses)
                raise
            self._ended(hold)
            return result

        return release

    def releases_async(
        self, original: Any, subject: Subject = itself, *, at: int = 0, refuses: bool = False
    ) -> Any:
        """The same for a coroutine function."""

        @functools.wraps(original)
        async def release(*args: Any, **kwargs: Any) -> Any:
            hold = self._releasing(subject, at, args, kwargs)
            if hold is None:
                return await original(*args, **kwargs)
            try:
                result = await original(*args, **kwargs)
            except BaseException:
                self._ended(hold, refused=refuses)
                raise
            self._ended(hold)
            return result

        return release

    def connects(self, original: Any) -> Any:
        """For a function of a pool that connects on the pool's own account: that is no hold."""

        @functools.wraps(original)
        def connect(*args: Any, **kwargs: Any) -> Any:
            token = inside.set(True)
            try:
                return original(*args, **kwargs)
            finally:
                inside.reset(token)

        return connect

    def connects_async(self, original: Any) -> Any:
        """The same for a coroutine function."""

        @functools.wraps(original)
        async def connect(*args: Any, **kwargs: Any) -> Any:
            token = inside.set(True)
            try:
                return await original(*args, **kwargs)
            finally:
                inside.reset(token)

        return connect

    def calls(
        self,
        original: Any,
        transaction: Callable[[Any], Transaction] | None = None,
        subject: Subject = itself,
        *,
        statement: bool = False,
    ) -> Any:
        """For a method that calls the server: its time is not idle time.

        Args:
            original: the method.
            transaction: reads the transaction status of the connection, after the call.
            subject: of the object that the method is called on.
            statement: whether the method's first argument is a statement.
        """

        @functools.wraps(original)
        def call(this: Any, *args: Any, **kwargs: Any) -> Any:
            hold, started = self._calling(this, subject, args[0] if statement and args else None)
            if hold is None:
                return original(this, *args, **kwargs)
            try:
                return original(this, *args, **kwargs)
            finally:
                self._called(hold, started, transaction)

        return call

    def calls_async(
        self,
        original: Any,
        transaction: Callable[[Any], Transaction] | None = None,
        subject: Subject = itself,
        *,
        statement: bool = False,
    ) -> Any:
        """The same for a coroutine function, or one that gives a coroutine."""

        @functools.wraps(original)
        async def call(this: Any, *args: Any, **kwargs: Any) -> Any:
            hold, started = self._calling(this, subject, args[0] if statement and args else None)
            if hold is None:
                return await original(this, *args, **kwargs)
            try:
                return await original(this, *args, **kwargs)
            finally:
                self._called(hold, started, transaction)

        if inspect.iscoroutinefunction(original):
            return call

        async def timed(this: Any, result: Any, given: Any) -> Any:
            hold, started = self._calling(this, subject, given)
            try:
                return await result
            finally:
                if hold is not None:
                    self._called(hold, started, transaction)

        @functools.wraps(original)
        def call_at_once(this: Any, *args: Any, **kwargs: Any) -> Any:
            # An ordinary function that gives a coroutine: what it checks before raises at the call.
            result = original(this, *args, **kwargs)
            return timed(this, result, args[0] if statement and args else None)

        return call_at_once

    def _acquired(
        self, given: Any, frame: Any, track: Callable[..., Tracked], subject: Subject, direct: bool, args: Any
    ) -> None:
        try:
            connection = subject(given)
            if connection is not None and not (direct and connects_for_a_pool(frame)):
                self._registry.acquire(self._source, connection, frame, track, *args[:1])
        except Exception:
            failed(f"{self._source} acquire")

    def _releasing(self, subject: Subject, at: int, args: Any, kwargs: Any) -> Hold | None:
        if not self._patches.active:
            return None
        try:
            # By keyword it is the only argument that is not one of the first ones.
            given = args[at] if len(args) > at else next(iter(kwargs.values()), None)
            connection = subject(given) if given is not None else None
            return self._registry.release(self._source, connection) if connection is not None else None
        except Exception:
            failed(f"{self._source} release")
            return None

    def _ended(self, hold: Hold, *, refused: bool = False) -> None:
        try:
            if refused:
                self._registry.reinstate(hold)
            else:
                self._registry.released(hold)
        except Exception:
            failed(f"{self._source} release")

    def _calling(self, this: Any, subject: Subject, statement: Any) -> tuple[Hold | None, float]:
        """A driver call begins: the hold it belongs to, and when it began."""
        if not self._patches.active:
            return None, 0.0
        try:
            connection = subject(this)
            hold = self._registry.hold_of(connection) if connection is not None else None
            if hold is None or hold.busy_since is not None:
                return None, 0.0  # within another call, which counts
            if statement is not None:
                hold.statement = statement
            started = hold.busy_since = self._registry.clock()
        except Exception:
            failed(f"{self._source} call")
            return None, 0.0
        return hold, started

    def _called(self, hold: Hold, started: float, transaction: Callable[[Any], Transaction] | None) -> None:
        try:
            self._registry.call_ended(hold, started)
            if transaction is not None:
                connection = hold.tracked()
                if connection is not None:
                    hold.transaction = transaction(connection)
        except Exception:
            failed(f"{self._source} call")
