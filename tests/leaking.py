"""Functions of an application that acquire from a toy pool, and do not release as they should."""

from collections.abc import Callable

from otel_connleak.hold import Hold
from tests.support import toy
from tests.support.core import Core
from tests.support.toy import Connection, ToyPool

kept: list[object] = []
"""Module state of the application."""


def lose(pool: ToyPool) -> Hold:
    """Acquire where nobody can release it, although it is alive."""
    connection = pool.getconn()
    toy.park(connection)
    return pool.hold_of(connection)


def keep(pool: ToyPool) -> Hold:
    """Acquire for module state."""
    connection = pool.getconn()
    kept.append(connection)
    return pool.hold_of(connection)


def drop(pool: ToyPool) -> Hold:
    """Acquire, and let the connection be collected."""
    return pool.hold_of(pool.getconn())


def release(pool: ToyPool, hold: Hold) -> None:
    """Give back what a hold holds."""
    connection = hold.tracked()
    assert isinstance(connection, Connection)
    pool.putconn(connection)


def hold_while(core: Core, wait: Callable[[], None]) -> None:
    """Hold a connection while somebody waits."""
    connection = core.pool.getconn()
    wait()
    core.pool.putconn(connection)
