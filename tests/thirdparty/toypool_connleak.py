# ruff: noqa: INP001 - a package of its own
"""What otel-connleak must know of toypool: what acquires, what releases, and what a pool can tell."""

import weakref
from typing import Any

from otel_connleak.config import Settings
from otel_connleak.connection import Facts, Pool, Tracked
from otel_connleak.drivers import driver_of
from otel_connleak.hooks import Hooks
from otel_connleak.patching import Patches
from otel_connleak.pools import Pools, name_of
from otel_connleak.registry import Registry


class ToyPoolAdapter:
    """Hooks ``get`` and ``put``; the driver's own adapter sees the queries of these connections."""

    module = "toypool"
    """The hooks are installed when the application imports it."""

    def __init__(self) -> None:
        self._patches = Patches()
        self._pools = Pools(_record)

    def install(self, registry: Registry, settings: Settings) -> None:
        """Hook the pool, which is imported by now."""
        import toypool  # type: ignore[import-not-found]  # beside it, where it is installed

        self._registry = registry
        hooks = Hooks("toypool", registry, self._patches)
        self._patches.replace(toypool.Pool, "get", lambda original: hooks.acquires(original, self._track))
        # The connection is the argument at position 1, after ``self``.
        self._patches.replace(toypool.Pool, "put", lambda original: hooks.releases(original, at=1))

    def uninstall(self) -> None:
        """Give back the identical functions."""
        self._patches.undo()
        self._pools.clear()

    def _track(self, connection: Any, pool: Any) -> Tracked:
        """A connection is seen for the first time."""
        driver = driver_of(connection)
        facts = driver.facts(connection)
        return self._registry.track(connection, facts, driver.transaction, self._pools.of(pool, facts))


def _record(pool: weakref.ref[Any], facts: Facts) -> Pool:
    """A pool is seen for the first time. It must not be kept alive: there is only a weak reference to it."""

    def figures() -> tuple[int | None, int | None]:
        known = pool()
        return (known.size, known.waiting) if known is not None else (None, None)

    hint = "use `with pool.connection() as connection:` so that it is put back on every path"
    return Pool(name_of(facts), figures, hint)
