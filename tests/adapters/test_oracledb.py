"""oracledb, as far as it can be tested without an Oracle database, of which there is none here.

Tested, in thin mode, against a port where nobody listens: that every way to connect fails as before and opens
no hold (sync and async, direct, through a pool, through SQLAlchemy, and cancelled); that the hooks pass
everything through on connections that are not connected; that no class is replaced; and that uninstrumenting
gives back the identical functions. NOT tested: a hold. That one opens when a connection has been made, what
is read from it, its release, its drop and its calls are written after the source of oracledb 26.1, and have
never been seen to work with a server. So this module keeps no contract.
"""

import asyncio
import re
import socket
from collections.abc import Callable
from typing import Any

import oracledb
import pytest
import sqlalchemy

from otel_connleak import function_stats, open_holds
from tests.adapters.conftest import Instrument
from tests.conftest import Replaced
from tests.support.reports import Reports
from tests.support.telemetry import Telemetry


def account(port: int) -> dict[str, Any]:
    """What is needed to connect, where it will not succeed."""
    return {"user": "shop", "password": "secret", "dsn": f"127.0.0.1:{port}/shop"}


NOBODY = account(1)
"""Nobody listens there."""
SIZES: dict[str, Any] = {"min": 0, "max": 2, "increment": 1}
"""Of pools that make no connection before they are asked for one."""


def outcome(function: Callable[[], Any]) -> tuple[type, str]:
    """The type and text of the exception that a function raises, without what is random in it."""
    try:
        result = function()
    except Exception as error:
        return type(error), re.sub(r"CONNECTION_ID=[^)]*|0x[0-9a-f]+", "", str(error))
    pytest.fail(f"it gave {result!r}")


def none_acquired() -> bool:
    """Whether there has been no hold."""
    return open_holds() == [] and function_stats() == []


def test_direct(instrument: Instrument) -> None:
    """A direct connection that cannot be made: the error is the driver's own, and there is no hold."""

    class OwnConnection(oracledb.Connection):
        pass

    ways: list[Callable[[], Any]] = [
        lambda: oracledb.connect(**NOBODY),
        lambda: oracledb.connect(**NOBODY, conn_class=OwnConnection),
        lambda: oracledb.Connection(**NOBODY),
        lambda: oracledb.connect(**NOBODY, pool="none"),
    ]
    without = [outcome(way) for way in ways]
    instrument()

    assert without[0][0] is oracledb.OperationalError
    assert [outcome(way) for way in ways] == without
    assert none_acquired()


def test_pool(instrument: Instrument) -> None:
    """A pool that cannot connect: the error is its own, nothing is taken from it, and there is no hold."""
    pool: Any = oracledb.create_pool(**NOBODY, **SIZES)

    def ask() -> tuple[Any, ...]:
        return (
            outcome(pool.acquire),
            outcome(lambda: pool.drop("none")),
            outcome(lambda: pool.release(connection="none")),
            (pool.busy, pool.opened, pool.max, pool.min),
        )

    without = ask()
    instrument()

    assert without[0][0] is oracledb.OperationalError
    assert without[1][0] is without[2][0] is TypeError
    assert ask() == without
    assert none_acquired()
    pool.close()


def test_async(runner: asyncio.Runner, instrument: Instrument) -> None:
    """The same for asyncio, with ``await`` and ``async with``; a second ``await`` fails as before, too."""

    async def make() -> Any:
        return oracledb.create_pool_async(**NOBODY, **SIZES)

    async def enter() -> None:
        async with oracledb.connect_async(**NOBODY):
            pass

    async def wait() -> None:
        await oracledb.connect_async(**NOBODY)

    async def acquire() -> None:
        await pool.acquire()

    async def wait_twice() -> None:
        connection = oracledb.connect_async(**NOBODY)
        with pytest.raises(oracledb.OperationalError):
            await connection
        await connection

    async def drop() -> None:
        await pool.drop("none")

    async def release() -> None:
        await pool.release(connection="none")

    def ask() -> list[tuple[type, str]]:
        ways = (enter, wait, acquire, wait_twice, drop, release)
        return [outcome(lambda: runner.run(way())) for way in ways]  # noqa: B023 -- called at once

    pool = runner.run(make())
    without = ask()
    instrument()

    refused = oracledb.OperationalError
    assert [kind for kind, _ in without] == [refused, refused, refused, AttributeError, TypeError, TypeError]
    assert ask() == without
    assert none_acquired()
    runner.run(pool.close())


def test_cancelled_while_it_connects(reports: Reports) -> None:
    """Who is cancelled while he waits for a connection hears just that, and has none."""

    async def connect(port: int) -> None:
        await oracledb.connect_async(**account(port))

    async def give_up() -> bool:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            task = asyncio.ensure_future(connect(silent.getsockname()[1]))
            await asyncio.sleep(0)  # it waits now
            task.cancel()
            await asyncio.wait([task])
        return task.cancelled()

    assert asyncio.run(give_up())
    assert none_acquired()


def test_not_connected(runner: asyncio.Runner, instrument: Instrument) -> None:
    """On a connection that is not connected each call fails as before."""
    connection = oracledb.Connection.__new__(oracledb.Connection)
    waiting = oracledb.AsyncConnection.__new__(oracledb.AsyncConnection)

    def ask() -> list[tuple[type, str]]:
        calls = ("commit", "rollback", "ping", "close", "cursor", "tpc_recover")
        return [
            *(outcome(getattr(connection, name)) for name in calls),
            *(outcome(lambda: runner.run(getattr(waiting, name)())) for name in calls[:4]),  # noqa: B023
            outcome(lambda: connection.fetch_df_all("SELECT 1 FROM dual")),
            outcome(connection.__enter__),
        ]

    without = ask()
    assert {kind for kind, _ in without} == {oracledb.InterfaceError}
    assert waiting.terminate() is None  # type: ignore[func-returns-value]
    instrument()

    assert ask() == without
    assert waiting.terminate() is None  # type: ignore[func-returns-value]
    assert none_acquired()


def test_engine(reports: Reports) -> None:
    """SQLAlchemy's engine hears the driver's error, and there is no hold."""
    creator = {"creator": lambda: oracledb.connect(**NOBODY)}
    engine = sqlalchemy.create_engine("oracle+oracledb://", **creator)
    with pytest.raises(sqlalchemy.exc.OperationalError):
        engine.connect()

    assert none_acquired()


def test_uninstrument(telemetry: Telemetry, replaced: list[Replaced]) -> None:
    """The classes are not replaced, and their methods are the identical ones afterwards."""
    classes = (oracledb.Connection, oracledb.AsyncConnection, oracledb.ConnectionPool, oracledb.Cursor)
    with telemetry.instrumented():
        hooked = [each for each in replaced if getattr(each.owner, "__module__", "").startswith("oracledb")]
        assert classes == (
            oracledb.Connection,
            oracledb.AsyncConnection,
            oracledb.ConnectionPool,
            oracledb.Cursor,
        )

    names = {f"{each.owner.__name__}.{each.name}" for each in hooked}
    assert {"Connection.__init__", "Connection.close", "AsyncConnection.__await__", "Cursor.execute"} <= names
    assert [each for each in hooked if each.now is not each.original] == []
