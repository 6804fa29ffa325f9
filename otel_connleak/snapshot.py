"""Who holds what now, since when, doing what: the open holds as plain values (L1).

Only what we know is read, never a connection: whoever asks must not wait for the application, nor keep alive
what it has let go.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterable
from typing import Any

from otel_connleak.connection import Pool
from otel_connleak.hold import Hold
from otel_connleak.registry import Registry
from otel_connleak.statements import shown
from otel_connleak.version import __version__


def open_hold_dicts(holds: Iterable[Hold], now: float, statements: str) -> list[dict[str, Any]]:
    """What is held, an entry for each hold, oldest first, with the fields of `api.OpenHold`. Any thread.

    Args:
        holds: as the registry gives them.
        now: monotonic seconds.
        statements: the setting ``STATEMENTS``: ``off``, ``summary`` or ``full``.
    """
    texts: dict[Any, str | None] = {}
    return [_entry(hold, now, statements, texts) for hold in holds if hold.is_open]


def snapshot(registry: Registry, statements: str) -> dict[str, Any]:
    """All of it for another process, with the figures of the pools of which something is held. Any thread."""
    holds = registry.holds()
    pools: dict[int, Pool] = {id(hold.pool): hold.pool for hold in holds if hold.pool is not None}
    return {
        "pid": os.getpid(),
        "python": sys.version.partition(" ")[0],
        "version": __version__,
        "time": time.time(),
        "pools": [_pool(pool) for pool in pools.values()],
        "holds": open_hold_dicts(holds, registry.clock(), statements),
    }


def as_json(registry: Registry, statements: str) -> bytes:
    """The snapshot as one line of JSON, with the line's end."""
    return json.dumps(snapshot(registry, statements), default=str).encode() + b"\n"


def _entry(hold: Hold, now: float, statements: str, texts: dict[Any, str | None]) -> dict[str, Any]:
    since = hold.busy_since  # read once: another thread may end the call now
    inner = hold.inner
    leak = hold.leak
    return {
        "function": hold.site.function,
        "file": hold.site.file,
        "line": hold.site.line,
        "pool": hold.pool.name if hold.pool is not None else None,
        "server_pid": hold.tracked.facts.server_pid,
        "thread": hold.thread.name,
        "use_time": hold.use_time(now),
        "idle_time": hold.idle_time(now),
        "statements": hold.calls,
        "number": hold.number,
        "within": hold.within.number if hold.within is not None else None,
        "resource": str(hold.kind),
        "task": hold.task_name,
        "busy_for": max(0.0, now - since) if since is not None else None,
        "idle_for": max(0.0, now - hold.idle_since()) if since is None else None,
        "transaction": str(hold.transaction),
        "writes": getattr(hold if inner is None else inner, "writes", 0),
        "statement": _statement(hold.statement, statements, texts),
        "leak": leak.id if leak is not None else None,
    }


def _statement(statement: Any, form: str, texts: dict[Any, str | None]) -> str | None:
    """What may be shown of a statement. Many holds have the same one: it is parsed once."""
    if not isinstance(statement, str | bytes):
        return shown(statement, form)
    if statement not in texts:
        texts[statement] = shown(statement, form)
    return texts[statement]


def _pool(pool: Pool) -> dict[str, Any]:
    figures = pool.snapshot()
    return {
        "name": pool.name,
        "used": figures.used,
        "maximum": figures.maximum,
        "waiting": figures.waiting,
    }
