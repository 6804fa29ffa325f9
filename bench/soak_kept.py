"""What the leaking functions of the soak have lost, so that the soak can give it back.

The soak names this module as a library: what is kept here is nobody's, as what a traceback keeps alive is. It
must not be reached from a variable of a function that runs, so it is asked for by the server's process id.
"""

import asyncio
import threading
import time
from typing import Any

_MOST = 2
"""Connections of one function that are lost at a time: a pool must not run dry."""
_PATIENCE = 60.0
"""Seconds within which a connection must have been reported."""

_lock = threading.Lock()
_lost: dict[int, Any] = {}
_by_function: dict[str, set[int]] = {}
_not_reported: set[int] = set()


def has_room(function: str) -> bool:
    """Whether a function may lose one more."""
    return len(_by_function.get(function, ())) < _MOST


def lose(function: str, connection: Any) -> None:
    """Keep a connection that a function has lost."""
    pid = connection.info.backend_pid
    with _lock:
        _lost[pid] = connection
        _by_function.setdefault(function, set()).add(pid)


def find(pid: int) -> Any:
    """A lost connection, for whoever gives it back: it is not kept any more. None if there is no such."""
    with _lock:
        _not_reported.discard(pid)
        for pids in _by_function.values():
            pids.discard(pid)
        return _lost.pop(pid, None)


async def reported(pid: int) -> None:
    """Wait until somebody has asked for a connection because of its report; it need not be lost."""
    _not_reported.add(pid)
    deadline = time.monotonic() + _PATIENCE
    while pid in _not_reported and time.monotonic() < deadline:  # noqa: ASYNC110 -- a thread discards it
        await asyncio.sleep(0.1)
    _not_reported.discard(pid)


def count() -> int:
    """How many are lost now."""
    return len(_lost)
