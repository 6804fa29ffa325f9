"""Whether the garbage collector is at work: what it has found is half gone meanwhile (L0)."""

from __future__ import annotations

import gc
from typing import Any


class Collector:
    """Knows whether a collection runs. `install` and `uninstall` are exact inverses.

    In a collection the weak references go first, for all that was found, and the finalizers run afterwards,
    one by one; other threads may run in between (PEP 442).

    Attributes:
        at_work: between the start and the end of a collection, in whatever thread it runs.
    """

    def __init__(self) -> None:
        self.at_work = False

    def install(self) -> None:
        """Have the collector tell: a call of a tenth of a microsecond before and after each collection."""
        gc.callbacks.append(self._tell)

    def uninstall(self) -> None:
        """Tell it that nobody listens any more. Idempotent."""
        if self._tell in gc.callbacks:
            gc.callbacks.remove(self._tell)
        self.at_work = False

    def after_fork(self) -> None:
        """The collection that another thread has begun in the parent is not here."""
        self.at_work = False

    def _tell(self, phase: str, _info: dict[str, Any]) -> None:
        self.at_work = phase == "start"
