"""The hook around the finalizer of a connection: dropped, but is anything lost by that? (L1)."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from otel_connleak.guard import failed
from otel_connleak.hold import Hold
from otel_connleak.patching import Patches
from otel_connleak.registry import Registry


def finalizes(
    original: Any,
    registry: Registry,
    patches: Patches,
    sources: tuple[str, ...],
    *,
    is_closed: Callable[[Any], bool] = lambda _connection: False,
    takes_back: bool = True,
) -> Any:
    """The replacement of a ``__del__``.

    Args:
        original: the finalizer.
        registry: has the holds.
        patches: of the adapter.
        sources: whose holds these are.
        is_closed: whether the connection was broken or closed before: then nothing was left to release.
        takes_back: whether the finalizer closes the connection, or gives it back to its pool. That is no
            release by the application, and no slot is lost by the drop.
    """

    @functools.wraps(original)
    def finalize(connection: Any) -> None:
        if patches.active:
            try:
                tracked = registry.closing(connection)
                if tracked is not None:
                    tracked.closed = is_closed(connection)
                    hold: Hold | None = tracked.hold
                    if takes_back and not tracked.closed and hold is not None and hold.source in sources:
                        registry.reclaim(hold)
            except Exception:
                failed(f"{sources[0]} __del__")
        original(connection)

    return finalize
