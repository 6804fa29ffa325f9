"""What the contract must know of a library to use it: a few lines for each."""

import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any


class Library(ABC):
    """One way to get connections. For an asyncio library the functions are coroutine functions.

    ``acquire`` and ``release`` are properties that look the library's own function up, so that it is called
    straight from the application's frame.

    Attributes:
        connection_type: the exact type of what the application gets.
        pool: the pool's name, or None for direct connections.
        maximum: the size of the pool.
        reuses: whether a released connection is given out again.
        subclasses: whether what the application gets is of a subclass of ``connection_type``, ours: the
            library's own type can neither be weakly referenced nor be told of its release.
        reclaims: whether the library itself takes a dropped connection back: no slot of its pool is lost.
        sees_calls: whether the driver's calls are seen, and the last statement.
    """

    connection_type: type
    pool: str | None = None
    maximum: int | None = None
    reuses: bool = False
    subclasses: bool = False
    reclaims: bool = False
    sees_calls: bool = True

    @property
    @abstractmethod
    def acquire(self) -> Callable[[], Any]:
        """The library's function that acquires; no arguments are needed."""

    @property
    @abstractmethod
    def release(self) -> Callable[[Any], Any]:
        """The library's function that releases; takes the connection."""

    @property
    @abstractmethod
    def refuse(self) -> Callable[[], Any]:
        """The library's function that acquires, with arguments with which it must raise."""

    @abstractmethod
    def execute(self, connection: Any, query: str) -> Any:
        """Run a query; it opens a transaction, as every query does by default."""

    @abstractmethod
    def facts(self, connection: Any) -> dict[str, Any]:
        """The attributes that server, database and connection give to spans and events."""

    def reference(self, connection: Any) -> Callable[[], Any]:
        """Called to see whether a dropped connection is gone; ``lambda: None`` where it stays."""
        return weakref.ref(connection)

    def dropping(self) -> AbstractContextManager[Any]:
        """Wrapped around the drop of a connection: expects the library's own warning, if it has one."""
        return nullcontext()
