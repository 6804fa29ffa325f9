# ruff: noqa: INP001 - a package of its own
"""A pool of connections, as small as one can be."""

import queue
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


class Pool:
    """Keeps connections for whoever asks.

    Args:
        connect: makes a connection.
        size: how many there are at most.
    """

    def __init__(self, connect: Callable[[], Any], size: int) -> None:
        self.size = size
        self.waiting = 0
        self._connect = connect
        self._slots: queue.LifoQueue[Any] = queue.LifoQueue()
        for _ in range(size):
            self._slots.put(None)

    def get(self, timeout: float | None = None) -> Any:
        """Get a connection."""
        self.waiting += 1
        try:
            connection = self._slots.get(timeout=timeout)
        finally:
            self.waiting -= 1
        return self._connect() if connection is None else connection

    def put(self, connection: Any) -> None:
        """Put a connection back."""
        connection.rollback()
        self._slots.put(connection)

    @contextmanager
    def connection(self) -> Iterator[Any]:
        """Get a connection for the length of a ``with`` block."""
        connection = self.get()
        try:
            yield connection
        finally:
            self.put(connection)
