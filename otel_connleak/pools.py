"""The records of a library's pools (L1)."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

from otel_connleak.connection import Facts, Pool


def name_of(facts: Facts) -> str:
    """The name of a pool to which the user has given none: its server and database, as they are known.

    As OpenTelemetry's semantic conventions for ``db.client.connection.pool.name`` say.
    """
    server = facts.address or ""
    if server and facts.port is not None:
        server = f"{server}:{facts.port}"
    return "/".join(part for part in (server, facts.namespace) if part) or facts.system


class Pools:
    """The records of a library's pools, each made when it is first seen.

    Args:
        make: makes the record of a pool of the library, from a weak reference to it and the facts about its
            first connection. The record must not keep the pool itself, only the reference.
        refer: makes such a reference; where a pool cannot be weakly referenced, one that does as well.
    """

    def __init__(
        self, make: Callable[[Any, Facts], Pool], refer: Callable[[Any], Callable[[], Any]] = weakref.ref
    ) -> None:
        self._make = make
        self._refer = refer
        self._known: dict[int, tuple[Callable[[], Any], Pool]] = {}

    def of(self, pool: Any, facts: Facts) -> Pool:
        """The record of a pool. Raises `TypeError` if it cannot be weakly referenced."""
        key = id(pool)
        known = self._known.get(key)
        if known is not None and known[0]() is pool:
            return known[1]
        # A pool that is gone leaves an entry behind until its identity is used again: a few bytes a pool.
        self._known.pop(key, None)
        reference = self._refer(pool)
        # Threads may come here at the same time: one record must count what all of them hold. No lock: a fork
        # could leave it locked for ever.
        return self._known.setdefault(key, (reference, self._make(reference, facts)))[1]

    def clear(self) -> None:
        """Forget them."""
        self._known.clear()
