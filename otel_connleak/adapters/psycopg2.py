"""psycopg2: direct connections, and the driver calls of all its connections, pooled ones too (L2).

Its connections and cursors are of classes written in C, whose methods cannot be replaced. But the application
may say which subclass it wants, and gets a subclass of that, or of psycopg2's own: it has the same name, adds
no attribute, and ``__class__`` gives the class that was asked for. Two classes of ours stand in its line of
inheritance, in front of the application's class and behind it: this may call what psycopg2's class has by
``super()``, or past whatever stands between, and only what arrives behind it says which cursor is wanted.

No hold where no ``close`` can be seen: asynchronous connections, which are left as they are, those that a
function makes which the application gave for a class, and ``psycopg2.extensions.connection()``.
"""

from __future__ import annotations

import functools
from typing import Any, Final

from otel_connleak.config import Settings
from otel_connleak.connection import Tracked
from otel_connleak.drivers.psycopg2 import DRIVER, HOOKED
from otel_connleak.guard import failed
from otel_connleak.hooks import Hooks
from otel_connleak.patching import Patches
from otel_connleak.psycopg2_classes import Connections
from otel_connleak.registry import Registry

_SOURCE: Final = "psycopg2"
_HINT: Final = "use `with contextlib.closing(connection):`; `with connection:` alone does not close it"


class Psycopg2Adapter:
    """Hooks what connects, behind ``psycopg2.connect``: also where that was imported before."""

    module = "psycopg2"

    def __init__(self) -> None:
        self._patches = Patches()

    def install(self, registry: Registry, settings: Settings) -> None:
        """Hook psycopg2. Raises `AttributeError` if it has changed."""
        import psycopg2
        from psycopg2 import extensions

        self._registry = registry
        hooks = Hooks(_SOURCE, registry, self._patches)
        self._connections = Connections(_SOURCE, extensions, registry, self._patches)
        self._patches.replace(
            psycopg2,
            "_connect",
            lambda original: hooks.acquires(
                self._connect(original), self._track, self._connections.seen, direct=True
            ),
        )

    def uninstall(self) -> None:
        """Give back the identical function. Connections that are there keep their class, without effect."""
        self._patches.undo()
        HOOKED.clear()

    def _track(self, connection: Any, *_dsn: Any) -> Tracked:
        tracked = self._registry.track(connection, DRIVER.facts(connection), DRIVER.transaction, None)
        # Not looked up: whoever looks keeps the class, and an application may make one for each connection.
        tracked.hint, tracked.transaction_hint = _HINT, DRIVER.transaction_hint
        return tracked

    def _connect(self, original: Any) -> Any:
        @functools.wraps(original)
        def _connect(*args: Any, **kwargs: Any) -> Any:
            if self._patches.active and not (kwargs.get("async") or kwargs.get("async_")):
                try:
                    kwargs["connection_factory"] = self._connections.of(kwargs.get("connection_factory"))
                except Exception:
                    failed("psycopg2 connection_factory")
            return original(*args, **kwargs)

        return _connect
