"""One file a library: tells the registry of acquires and releases, and of nothing else (L2).

An adapter is a class with the methods of `Adapter`, named in the entry-point group
``otel_connleak.adapters``. It imports no OpenTelemetry, imports its library only when the application does,
and passes every value through as it is. `install` and `uninstall` are exact inverses.
"""

from __future__ import annotations

from typing import Protocol

from otel_connleak.config import Settings
from otel_connleak.registry import Registry

ENTRY_POINTS = "otel_connleak.adapters"
"""The entry-point group in which adapters are found, the built-in ones too."""


class Adapter(Protocol):
    """What the instrumentor calls."""

    module: str
    """The module whose import means that the library is in use, for example ``psycopg_pool``."""

    def install(self, registry: Registry, settings: Settings) -> None:
        """Hook the library, which is imported by now.

        May raise if the library has changed: it is then left alone, and the reason is logged.
        """

    def uninstall(self) -> None:
        """Give back the identical functions. Must not raise, also if `install` has."""
