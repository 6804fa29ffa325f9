"""Connection objects that can be connected more than once (L1).

The drivers of MySQL connect such an object anew where its session with the server has ended: in ``reconnect``
or in a ``ping`` that is asked to. Its hold goes on then, and what the driver closes meanwhile is no release.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any

from otel_connleak.connection import Facts, Tracked
from otel_connleak.guard import failed
from otel_connleak.nesting import connects_for_a_pool, inside
from otel_connleak.patching import Patches
from otel_connleak.registry import Registry


class Reconnecting:
    """The hooks around what connects such objects; they are direct connections where no pool asks.

    Args:
        source: the name under which the holds of direct connections are opened and ended.
        registry: is told.
        patches: of the adapter: while they are not active, the hooks do nothing but call the original.
        session: gives the object by which a connection speaks to the server, another one after it has been
            connected anew, or None.
        facts: reads what is constant for a session.
        track: called with a connection that is first seen.
    """

    def __init__(
        self,
        source: str,
        registry: Registry,
        patches: Patches,
        session: Callable[[Any], Any],
        facts: Callable[[Any], Facts],
        track: Callable[[Any], Tracked],
    ) -> None:
        self._source = source
        self._registry = registry
        self._patches = patches
        self._session = session
        self._facts = facts
        self._track = track

    def connects(self, original: Any, *, anew: bool = False) -> Any:
        """For a method that connects, or may connect.

        Args:
            original: the method.
            anew: it never is the first to connect an object: one that is not known is somebody else's.
        """

        @functools.wraps(original)
        def connect(connection: Any, *args: Any, **kwargs: Any) -> Any:
            if not self._patches.active:
                return original(connection, *args, **kwargs)
            before, for_outer = self._before(connection), inside.get()
            token = inside.set(True)
            succeeded = False
            try:
                result = original(connection, *args, **kwargs)
                succeeded = True
                return result
            finally:
                inside.reset(token)
                frame = None if for_outer else sys._getframe(1)
                self._after(connection, before, frame, succeeded=succeeded, anew=anew)

        return connect

    def connects_async(self, original: Any, *, anew: bool = False) -> Any:
        """The same for a coroutine function."""

        @functools.wraps(original)
        async def connect(connection: Any, *args: Any, **kwargs: Any) -> Any:
            if not self._patches.active:
                return await original(connection, *args, **kwargs)
            before, for_outer = self._before(connection), inside.get()
            token = inside.set(True)
            succeeded = False
            try:
                result = await original(connection, *args, **kwargs)
                succeeded = True
                return result
            finally:
                inside.reset(token)
                frame = None if for_outer else sys._getframe(1)
                self._after(connection, before, frame, succeeded=succeeded, anew=anew)

        return connect

    def closes(self, original: Any, hooked: Any) -> Any:
        """For a method that closes: ``hooked`` is called where the application, or an error, closes."""

        @functools.wraps(original)
        def close(connection: Any) -> Any:
            return original(connection) if inside.get() else hooked(connection)

        return close

    def closes_async(self, original: Any, hooked: Any) -> Any:
        """The same for a coroutine function."""

        @functools.wraps(original)
        async def close(connection: Any) -> Any:
            return await (original(connection) if inside.get() else hooked(connection))

        return close

    def lost(self, connection: Any) -> None:
        """The session of a connection has ended: a direct one holds nothing any more. Never raises.

        Nothing happens while it connects anew: that may begin with the news that the session has ended.
        """
        if inside.get() or not self._patches.active:
            return
        try:
            known = self._registry.closing(connection)
            # A connection that was dropped a moment ago may have had the identity of one that cannot connect.
            if known is None or known() is not connection:
                return
            hold = self._registry.release(self._source, connection)
            if hold is not None:
                self._registry.released(hold)
        except Exception:
            failed(f"{self._source} connection lost")

    def _before(self, connection: Any) -> Any:
        try:
            return self._session(connection)
        except Exception:
            failed(f"{self._source} connect")
            return None

    def _after(self, connection: Any, before: Any, frame: Any, *, succeeded: bool, anew: bool) -> None:
        try:
            session = self._session(connection)
            if session is before and before is not None:
                return
            if session is None or not succeeded:
                self.lost(connection)
                return
            registry = self._registry
            hold = registry.reconnected(connection, self._facts(connection))
            if hold is not None or frame is None or (anew and registry.closing(connection) is None):
                return
            if not connects_for_a_pool(frame):
                registry.acquire(self._source, connection, frame, self._track)
        except Exception:
            failed(f"{self._source} connect")
