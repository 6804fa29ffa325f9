"""The hooks that most adapters need: around what acquires, and what releases; and those of `calls` (L1).

Each takes the original function and gives its replacement. Values and exceptions pass through as they are,
and none of ours comes out (promise 1 of DESIGN section 6). An adapter that needs something else writes it.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable
from typing import Any

from otel_connleak.call_hooks import CallHooks, Subject, itself
from otel_connleak.connection import Tracked
from otel_connleak.failures import error_now, exception_in_flight
from otel_connleak.guard import failed
from otel_connleak.hold import Hold
from otel_connleak.nesting import connects_for_a_pool, inside


class Hooks(CallHooks):
    """The hooks of one adapter.

    Args:
        source: the adapter's name; only it ends the holds that it has opened.
        registry: is told.
        patches: of the adapter: while they are not active, the hooks do nothing but call the original.
    """

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

        async def release(args: Any, kwargs: Any, error: int) -> Any:
            token = exception_in_flight.set(error) if error else None
            hold = self._releasing(subject, at, args, kwargs)
            if token is not None:
                exception_in_flight.reset(token)
            if hold is None:
                return await original(*args, **kwargs)
            try:
                result = await original(*args, **kwargs)
            except BaseException:
                self._ended(hold, refused=refuses)
                raise
            self._ended(hold)
            return result

        @functools.wraps(original)
        def released(*args: Any, **kwargs: Any) -> Any:
            # It may run in a task of its own (`asyncio.shield`), which an exception in flight does not reach.
            return release(args, kwargs, error_now())

        return inspect.markcoroutinefunction(released)

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
