"""Django's wrapper of a connection: what the driver below it says, and else Django's own settings (L1)."""

from __future__ import annotations

import weakref
from typing import Any, Final

from otel_connleak.connection import Facts, Transaction
from otel_connleak.drivers import UNKNOWN, Driver, driver_of, unwrapped

_SYSTEMS: Final = {"oracle": "oracle.db", "microsoft": "microsoft.sql_server"}
"""OpenTelemetry's name of a database system, where it is not the one that Django has for it."""


def trackable(wrapper: Any) -> Any:
    """The driver's connection of a wrapper; where that cannot be weakly referenced, the wrapper."""
    connection = unwrapped(wrapper.connection)
    try:
        weakref.ref(connection)
    except TypeError:
        return wrapper
    return connection


def has_connected(wrapper: Any, before: Any) -> bool:
    """Whether a wrapper has another connection than before, which it will close.

    It does not close one to a database in memory: that would destroy the database.
    """
    in_memory = getattr(wrapper, "is_in_memory_db", bool)
    return wrapper.connection is not None and wrapper.connection is not before and not in_memory()


def sees_calls(wrapper: Any) -> bool:
    """Whether the driver's calls are seen by hooks of its own."""
    connection = unwrapped(wrapper.connection)
    driver = driver_of(connection)
    return driver is not UNKNOWN and trackable(wrapper) is not wrapper and driver.sees_calls(connection)


def facts(wrapper: Any) -> Facts:
    """Server, database and connection, as far as they are known. Never raises for a broken connection."""
    connection = unwrapped(wrapper.connection)
    driver = driver_of(connection)
    if driver is not UNKNOWN:
        try:
            return driver.facts(connection)
        except Exception:  # it broke while Django set it up
            pass
    settings = wrapper.settings_dict
    return Facts(
        _SYSTEMS.get(wrapper.vendor, wrapper.vendor),
        str(settings["NAME"] or "") or None,
        settings["HOST"] or None,
        int(settings["PORT"]) if settings["PORT"] else None,
    )


def transaction(wrapper: Any) -> Transaction:
    """The transaction status of the connection that the wrapper has now.

    Of a driver that is not known here, Django's own: it is told of each begin and end, or does it itself.
    """
    connection = unwrapped(wrapper.connection)
    if connection is None:
        return Transaction.NONE
    driver = driver_of(connection)
    if driver is not UNKNOWN:
        return driver.transaction(connection)
    return Transaction.OPEN if wrapper.in_atomic_block or not wrapper.autocommit else Transaction.NONE


def pool_name(wrapper: Any) -> str:
    """The name that the user gave the pool in the settings, or else to the database."""
    options = wrapper.settings_dict["OPTIONS"]["pool"]
    name = options.get("name") if isinstance(options, dict) else None
    return str(name or wrapper.alias)


def pool_figures(pool: Any) -> tuple[int | None, int | None]:
    """Maximum and waiting requests of a pool of psycopg, or the maximum of one of oracledb."""
    if not hasattr(pool, "max_size"):
        return getattr(pool, "max", None), None
    waiting = sum(1 for client in list(pool._waiting) if client.conn is None and client.error is None)
    return pool.max_size, waiting


DRIVER: Final = Driver(facts, transaction)
