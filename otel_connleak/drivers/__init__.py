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
    """How to read one driver's connections; each function may raise on a broken connection.

    Attributes:
        facts: what is constant for a connection.
        transaction: its transaction status.
        sees_calls: whether its calls to the server are seen. Where they are not, nobody can say that it has
            been idle.
        begins: whether a statement that is to be run now certainly begins a transaction.
        transaction_hint: one sentence that says how a transaction is ended on every path.
    """

    facts: Callable[[Any], Facts]
    transaction: Callable[[Any], Transaction]
    sees_calls: Callable[[Any], bool] = lambda _connection: True
    begins: Callable[[Any, Any], bool] = lambda _connection, _statement: False
    transaction_hint: str = ""


UNKNOWN = Driver(lambda _connection: Facts(), lambda _connection: Transaction.UNKNOWN)
"""Reads nothing from the connections of a driver that is not known here."""

_NAMES = frozenset(module.name for module in pkgutil.iter_modules(__path__))


def unwrapped(connection: Any) -> Any:
    """The driver's own connection, by which its hooks look holds up, of what a pool has got by ``connect``.

    OpenTelemetry's instrumentations of some drivers wrap a proxy around it, which only makes query spans.
    """
    if hasattr(type(connection), "_self_is_traced"):
        return connection  # a proxy of ours (`trace_dbapi`) is looked up itself
    return getattr(connection, "__wrapped__", connection)


def driver_of(connection: Any) -> Driver:
    """The driver of a connection, by the package of its class or of one that this derives from.

    The file here that has the package's name is loaded with the first such connection. A proxy of ours knows
    its own.
    """
    cls: Any = type(connection)
    return _driver_of_class(cls)


@functools.lru_cache(maxsize=256)
def _driver_of_class(cls: Any) -> Driver:
    own: Driver | None = getattr(cls, "_self_driver", None)
    if own is not None:
        return own
    for base in cls.__mro__:
        name = base.__module__.partition(".")[0]
        if name in _NAMES:
            driver: Driver = importlib.import_module(f"{__name__}.{name}").DRIVER
            return driver
    return UNKNOWN
