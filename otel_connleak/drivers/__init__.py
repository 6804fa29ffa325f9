"""What can be read from each driver's connections without a round trip, one file a driver (L1).

Adapters of pools use these too: a pool does not know its driver, but its connections do.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Callable
from typing import Any, NamedTuple

from otel_connleak.connection import Facts, Transaction


class Driver(NamedTuple):
    """How to read one driver's connections; both functions may raise on a broken connection."""

    facts: Callable[[Any], Facts]
    transaction: Callable[[Any], Transaction]


UNKNOWN = Driver(lambda _connection: Facts(), lambda _connection: Transaction.UNKNOWN)
"""Reads nothing from the connections of a driver that is not known here."""

_NAMES = frozenset(module.name for module in pkgutil.iter_modules(__path__))


def driver_of(connection: Any) -> Driver:
    """The driver of a connection, by the package of its class or of one that this derives from.

    The file here that has the package's name is loaded with the first such connection.
    """
    cls: Any = type(connection)
    return _driver_of_class(cls)


@functools.lru_cache(maxsize=256)
def _driver_of_class(cls: Any) -> Driver:
    for base in cls.__mro__:
        name = base.__module__.partition(".")[0]
        if name in _NAMES:
            driver: Driver = importlib.import_module(f"{__name__}.{name}").DRIVER
            return driver
    return UNKNOWN
