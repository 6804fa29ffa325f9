"""What PEP 249, and custom beyond it, tell of a connection of any DB-API module (L1)."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

from otel_connleak.connection import Facts, Transaction
from otel_connleak.drivers import UNKNOWN, driver_of

SYSTEM: Final = "other_sql"
"""The value of ``db.system.name`` for a database that OpenTelemetry has no name for."""

HINT: Final = "call `commit()` or `rollback()` on every path, the latter in an `except`"
"""How a transaction is ended on every path, with any module."""

# What parameters of ``connect`` are called, in the order of preference; PEP 249 recommends the first ones.
_ADDRESS: Final = ("host", "server", "hostname")
_DATABASE: Final = ("database", "dbname", "db")


def arguments_of(connect: Callable[..., Any]) -> Callable[[Any, dict[str, Any]], dict[str, Any]]:
    """A function that gives the arguments of a call of ``connect`` by name; positional ones if it can."""
    try:
        bind = inspect.signature(connect).bind_partial
    except (TypeError, ValueError):
        return lambda _args, kwargs: kwargs  # it is written in C

    def arguments(args: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
        try:
            return bind(*args, **kwargs).arguments | kwargs
        except TypeError:  # a signature that is not the whole truth: the call itself went well
            return kwargs

    return arguments


def facts(connection: Any, system: str | None, arguments: dict[str, Any]) -> Facts:
    """What the driver tells, if it is known here, and what ``connect`` was given.

    Args:
        connection: a new connection.
        system: the value of ``db.system.name`` if the user has said it.
        arguments: of ``connect``.
    """
    try:
        known = driver_of(connection).facts(connection)
    except Exception:  # a driver may be another one than it is known here
        known = Facts()
    address = _first(_ADDRESS, arguments) or known.address
    return replace(
        known,
        system=system or known.system,
        namespace=known.namespace or _first(_DATABASE, arguments),
        address=address,
        # A Unix socket is a path, and has no port (OpenTelemetry semantic conventions, "server").
        port=None if (address or "").startswith("/") else arguments.get("port") or known.port,
    )


def transaction(connection: Any) -> Transaction:
    """The transaction status: from a driver that is known here, or from an attribute that several have."""
    connection = getattr(connection, "__wrapped__", connection)
    driver = driver_of(connection)
    if driver is not UNKNOWN:
        return driver.transaction(connection)
    inside = getattr(connection, "in_transaction", None)
    if not isinstance(inside, bool):
        return Transaction.UNKNOWN
    return Transaction.OPEN if inside else Transaction.NONE


def begins(connection: Any, statement: Any) -> bool:
    """Whether a statement that is to be run certainly begins a transaction, with a driver that is known."""
    connection = getattr(connection, "__wrapped__", connection)
    return driver_of(connection).begins(connection, statement)


def is_closed(connection: Any) -> bool:
    """Whether it is closed. PEP 249 has no attribute for it, but says that a closed one gives no cursor."""
    closed = getattr(connection, "closed", None)
    if closed is not None and not callable(closed):
        return bool(closed)
    try:
        connection.cursor().close()
    except Exception:
        return True
    return False


def _first(names: tuple[str, ...], arguments: dict[str, Any]) -> str | None:
    return next((str(arguments[name]) for name in names if arguments.get(name) is not None), None)
