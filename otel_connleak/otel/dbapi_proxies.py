"""The proxies that an application gets from a traced DB-API module: they tell, and change nothing else (L3).

They are those of ``opentelemetry-instrumentation-dbapi``, which make the query spans. Added is that each call
is timed, that what a call returns keeps the proxy alive, and that ``with`` means what it means in the module.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Final

from opentelemetry.instrumentation.dbapi import (
    CursorTracer,
    TracedConnectionProxy,
    TracedCursorProxy,
)

from otel_connleak import pep249
from otel_connleak.connection import Facts
from otel_connleak.drivers import Driver

_QUERIES: Final = ("execute", "callproc")
"""How the names of the methods begin that get a query span."""


@dataclass(frozen=True, slots=True)
class Told:
    """What the proxies of one module tell; each calls what it is given and returns its result.

    Attributes:
        active: whether anybody listens. If not, the proxies pass everything through.
        call: a connection's proxy calls the driver: the proxy, the driver's bound method, its arguments.
        query: the same with a statement in front of the method.
        ends: the same as ``call``, for the methods that end a transaction, by their names.
        close: the proxy's connection is closed: the proxy, the arguments.
        left: a ``with`` block of the proxy has been left.
    """

    active: Callable[[], bool]
    call: Callable[..., Any]
    query: Callable[..., Any]
    ends: Mapping[str, Callable[..., Any]]
    close: Callable[..., Any]
    left: Callable[[Any], None]


class TracedConnection(TracedConnectionProxy[Any]):
    """Stands for a connection of the module.

    Args:
        connection: the driver's own.
        integration: makes the query spans.
        told: is told.
        facts: of the connection.
    """

    _self_is_traced = True
    """The mark by which `otel_connleak.drivers` knows that this proxy is what is tracked, of any pool."""
    _self_driver = Driver(
        lambda proxy: proxy._self_facts, pep249.transaction, lambda _: True, pep249.begins, pep249.HINT
    )

    def __init__(self, connection: Any, integration: Any, told: Told, facts: Facts) -> None:
        super().__init__(connection, integration)
        self._self_tracer: CursorTracer[Any] = CursorTracer(integration)
        self._self_told = told
        self._self_facts = facts

    def cursor(self, *args: Any, **kwargs: Any) -> Any:
        """A cursor of the connection."""
        return TracedCursor(self.__wrapped__.cursor(*args, **kwargs), self)

    def close(self, *args: Any, **kwargs: Any) -> Any:
        """Close the connection."""
        return self._self_told.close(self, *args, **kwargs)

    def __enter__(self) -> Any:
        return _given(self, self.__wrapped__.__enter__())

    def __exit__(self, *error: object) -> Any:
        try:
            # Most modules end the transaction.
            end = self._self_told.ends["rollback" if error and error[0] is not None else "commit"]
            return end(self, self.__wrapped__.__exit__, error, {})
        finally:
            self._self_told.left(self)

    def __getattr__(self, name: str) -> Any:
        """Everything else is the connection's; its methods may well go to the server."""
        value = getattr(self.__wrapped__, name)
        if getattr(value, "__self__", None) is not self.__wrapped__:
            return value
        return functools.partial(_call, self, None, name, value)


class TracedCursor(TracedCursorProxy[Any]):
    """Stands for a cursor, and keeps the connection's proxy as a cursor keeps its connection."""

    def __init__(self, cursor: Any, connection: TracedConnection) -> None:
        super().__init__(cursor, connection._self_tracer._db_api_integration)
        self._self_connection = connection

    @property
    def connection(self) -> TracedConnection:
        """The connection's proxy: who closes that has released it."""
        return self._self_connection

    def execute(self, *args: Any, **kwargs: Any) -> Any:
        """Run a statement."""
        return _call(self._self_connection, self, "execute", self.__wrapped__.execute, *args, **kwargs)

    def executemany(self, *args: Any, **kwargs: Any) -> Any:
        """Run a statement for each of many parameters."""
        return _call(
            self._self_connection, self, "executemany", self.__wrapped__.executemany, *args, **kwargs
        )

    def callproc(self, *args: Any, **kwargs: Any) -> Any:
        """Call a stored procedure."""
        return _call(self._self_connection, self, "callproc", self.__wrapped__.callproc, *args, **kwargs)

    def __enter__(self) -> Any:
        entered = self.__wrapped__.__enter__()
        return self if entered is self.__wrapped__ else entered

    def __exit__(self, *error: object) -> Any:
        return self._self_connection._self_told.call(
            self._self_connection, self.__wrapped__.__exit__, error, {}
        )

    def __iter__(self) -> Any:
        iterator = iter(self.__wrapped__)
        return self if iterator is self.__wrapped__ else iterator

    def __next__(self) -> Any:
        return self._self_connection._self_told.call(self._self_connection, self.__wrapped__.__next__, (), {})

    def __getattr__(self, name: str) -> Any:
        """Everything else is the cursor's; fetching may wait for the server, so what we do not know may."""
        value = getattr(self.__wrapped__, name)
        if getattr(value, "__self__", None) is not self.__wrapped__:
            return value
        return functools.partial(_call, self._self_connection, self, name, value)


def _call(
    connection: TracedConnection, cursor: Any, name: str, method: Any, /, *args: Any, **kwargs: Any
) -> Any:
    """Call a method of the driver's connection or cursor, as a query if that is its name."""
    told = connection._self_told
    if not told.active():
        result = method(*args, **kwargs)
    elif name.startswith(_QUERIES):
        # Some drivers have ``connection.execute``; who makes the hold the parent of the span asks a cursor.
        asked = cursor if cursor is not None else SimpleNamespace(connection=connection)
        traced = functools.partial(connection._self_tracer.traced_execution, asked, method)
        result = told.query(connection, args[0] if args else None, traced, args, kwargs)
    else:
        result = told.ends.get(name, told.call)(connection, method, args, kwargs)
    return cursor if cursor is not None and result is cursor.__wrapped__ else _given(connection, result)


def _given(connection: TracedConnection, result: Any) -> Any:
    """What the driver has returned, with proxies in the place of its connection and cursors."""
    if result is connection.__wrapped__:
        return connection
    # Of the class: a row may have attributes of any name.
    if hasattr(type(result), "fetchone") and hasattr(type(result), "execute"):
        return TracedCursor(result, connection)
    return result
