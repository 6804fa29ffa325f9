"""Direct connections of psycopg 3."""

import functools
import gc
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import psycopg
import pytest

from otel_connleak import open_holds
from tests.adapters.contract import AsyncContract, SyncContract
from tests.adapters.library import Library
from tests.adapters.shop.keeping import Cycle
from tests.support.reports import Reports

connect_before = psycopg.connect
"""The function as an application has it that imported it before the instrumentation started."""

REFUSED = "host=127.0.0.1 port=1 connect_timeout=5"
"""Nobody listens there."""


def facts(connection: psycopg.BaseConnection[Any]) -> dict[str, Any]:
    """What a report says of a connection of psycopg over a Unix socket, which has no port."""
    return {
        "db.system.name": "postgresql",
        "db.namespace": connection.info.dbname,
        "server.address": connection.info.host,
        "connleak.server.pid": connection.info.backend_pid,
    }


class Direct(Library):
    """``psycopg.connect`` or ``AsyncConnection.connect``."""

    def __init__(self, dsn: str, connection_type: type) -> None:
        self.connection_type = connection_type
        self.dsn = dsn

    @property
    def connect(self) -> Callable[..., Any]:
        """The function that connects."""
        if self.connection_type is psycopg.Connection:
            return psycopg.connect
        connect: Callable[..., Any] = self.connection_type.connect  # type: ignore[attr-defined]
        return connect

    @property
    def acquire(self) -> Callable[[], Any]:
        """Connect."""
        return functools.partial(self.connect, self.dsn)

    @property
    def release(self) -> Callable[[Any], Any]:
        """Close."""
        close: Callable[[Any], Any] = self.connection_type.close  # type: ignore[attr-defined]
        return close

    @property
    def refuse(self) -> Callable[[], Any]:
        """Connect where nobody listens."""
        return functools.partial(self.connect, REFUSED)

    def execute(self, connection: Any, query: str) -> Any:
        """Run a query."""
        return connection.execute(query)

    def facts(self, connection: Any) -> dict[str, Any]:
        """What psycopg tells."""
        return facts(connection)

    def dropping(self) -> AbstractContextManager[Any]:
        """Psycopg warns of a connection that was dropped and is open."""
        return pytest.warns(ResourceWarning, match="was deleted while still open")


class TestConnection(SyncContract):
    """``psycopg.connect``."""

    @pytest.fixture
    def library(self, dsn: str) -> Library:
        """Direct connections."""
        return Direct(dsn, psycopg.Connection)


class TestAsyncConnection(AsyncContract):
    """``psycopg.AsyncConnection.connect``."""

    @pytest.fixture
    def library(self, dsn: str) -> Library:
        """Direct connections of asyncio."""
        return Direct(dsn, psycopg.AsyncConnection)


class OwnConnection(psycopg.Connection[Any]):
    """An application's own class of connections."""


def end_session(dsn: str, connection: psycopg.Connection[Any]) -> None:
    """End the server's side of a connection, and let the connection notice."""
    with psycopg.connect(dsn, autocommit=True) as other:
        other.execute("SELECT pg_terminate_backend(%s)", [connection.info.backend_pid])
    with pytest.raises(psycopg.OperationalError):
        connection.execute("SELECT 1")


@pytest.mark.parametrize("owner", [psycopg, psycopg.Connection, OwnConnection])
def test_way_to_connect(owner: Any, dsn: str, reports: Reports) -> None:
    """Each way to connect makes one hold, which ends with the ``with`` block that closes the connection."""
    with owner.connect(dsn) as connection:
        (hold,) = open_holds()

    assert type(connection) is (OwnConnection if owner is OwnConnection else psycopg.Connection)
    assert (hold.function.rpartition(".")[2], hold.pool) == ("test_way_to_connect", None)
    assert open_holds() == []
    assert reports.hold_names() == ["test_way_to_connect"]


def test_import_before_instrumentation(dsn: str, reports: Reports) -> None:
    """A function taken out before the start is the library's own, and is not seen: nothing breaks."""
    connect_before(dsn).close()

    assert open_holds() == []


def test_closed_twice(dsn: str, reports: Reports) -> None:
    """A second close is one too many, and harmless."""
    connection = psycopg.connect(dsn)
    connection.close()
    connection.close()

    assert reports.hold_names() == ["test_closed_twice"]


def test_broken_and_dropped(dsn: str, reports: Reports) -> None:
    """A direct connection that the server has ended holds nothing any more: dropping it is no leak."""
    connection = psycopg.connect(dsn)
    end_session(dsn, connection)
    reports.telemetry.clear()
    del connection
    reports.none()

    assert reports.hold_names() == ["test_broken_and_dropped"]
    assert open_holds() == []


def test_broken_and_collected(dsn: str, reports: Reports) -> None:
    """The same where the garbage collector finds it in a cycle, later than its owner has exited."""

    def leave_it() -> None:
        connection = psycopg.connect(dsn)
        end_session(dsn, connection)
        Cycle(connection)

    leave_it()
    gc.collect()
    reports.none()

    assert open_holds() == []


def test_process_of_a_broken_connection(dsn: str, reports: Reports) -> None:
    """A report of a broken connection still knows which process of the server it belonged to."""

    def leave_it() -> int:
        connection = psycopg.connect(dsn)
        pid = connection.info.backend_pid
        end_session(dsn, connection)
        Cycle(connection)
        return pid

    pid = leave_it()

    assert reports.leak().attributes["connleak.server.pid"] == pid
